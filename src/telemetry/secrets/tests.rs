use super::*;
use proptest::prelude::*;

/// Names whose values are secrets, in the spellings that are in use.
const SECRET: &[&str] = &[
    "token",
    "access_token",
    "accessToken",
    "ACCESS-TOKEN",
    "id_token",
    "refresh_token",
    "auth_token",
    "authtoken",
    "x-auth-token",
    "token2",
    "device_token",
    "secret",
    "client_secret",
    "clientSecret",
    "shared-secret",
    "password",
    "passwd",
    "user_password",
    "pass",
    "userpass",
    "db_pass",
    "passphrase",
    "passcode",
    "passkey",
    "pwd",
    "pw",
    "user_pw",
    "pin",
    "userPin",
    "user_pin",
    "pin_code",
    "key",
    "apikey",
    "api_key",
    "api-key",
    "apiKey",
    "APIKey",
    "API_KEY",
    "x-api-key",
    "x_api_key",
    "access_key",
    "accessKey",
    "private_key",
    "privatekey",
    "app_key",
    "appkey",
    "subscription-key",
    "Ocp-Apim-Subscription-Key",
    "streamkey",
    "auth",
    "authorization",
    "Authorization",
    "oauth_verifier",
    "x-auth",
    "sig",
    "signature",
    "sign",
    "X-Amz-Signature",
    "X-Amz-Credential",
    "X-Amz-Security-Token",
    "X-Goog-Signature",
    "hmac",
    "hmac_sha256",
    "HMACSHA256",
    "sid",
    "connect.sid",
    "sessid",
    "PHPSESSID",
    "JSESSIONID",
    "jsessionid",
    "ASP.NET_SessionId",
    "session",
    "session_id",
    "sessionId",
    "sess",
    "laravel_session",
    "SAMLResponse",
    "SAMLRequest",
    "samlresponse",
    "SAMLart",
    "assertion",
    "client_assertion",
    "otp",
    "otp_code",
    "totp",
    "mfa",
    "code",
    "auth_code",
    "code_verifier",
    "invite_code",
    "verificationCode",
    "jwt",
    "JWT",
    "jwt_assertion",
    "bearer",
    "credential",
    "credentials",
    "creds",
    "csrf",
    "csrf_token",
    "xsrf-token",
    "_csrf",
    "cookie",
    "cookies",
    "sas",
    "sas_url",
    "ticket",
    "sso_ticket",
    "ssoTicket",
    "%74oken",
    "%2574oken",
    "user[password]",
    "user%5Bpassword%5D",
    "a.b.token",
    "nonce",
];

/// Names that have no secret.
const HARMLESS: &[&str] = &[
    "page",
    "keyboard",
    "keyword",
    "keyframe",
    "room",
    "room_id",
    "id",
    "user",
    "user_id",
    "userId",
    "lang",
    "v",
    "EIO",
    "transport",
    "t",
    "b64",
    "q",
    "author",
    "author_id",
    "authors",
    "authority",
    "country_code",
    "countryCode",
    "error_code",
    "status_code",
    "zipcode",
    "codec",
    "encode",
    "sort_key",
    "cache-key",
    "publicKey",
    "monkey",
    "turkey",
    "compass",
    "bypass",
    "passenger",
    "passive",
    "ping",
    "pinned",
    "spinning",
    "opinion",
    "side",
    "inside",
    "residence",
    "assigned",
    "design",
    "signal",
    "sigma",
    "saskatoon",
    "message",
    "messages",
    "process",
    "essay",
    "state",
    "scope",
    "type",
    "name",
    "channel",
    "topic",
    "hash",
    "version",
    "protocol",
    "client",
    "device",
    "limit",
    "offset",
    "since",
    "w",
    "h",
];

#[test]
fn values_of_secret_names_are_hidden_and_others_are_not() {
    for name in SECRET {
        assert_eq!(redact(&format!("/ws?a=1&{name}=S&b=2")), format!("/ws?a=1&{name}=***&b=2"));
        assert_eq!(redact(&format!("/ws;{name}=S/x")), format!("/ws;{name}=***/x"));
    }
    for name in HARMLESS {
        let target = format!("/{name}/5/x;{name}=1?{name}=S&a=/x?{name}=3&b=%7B%22{name}%22%3A%221%22%7D");
        assert_eq!(redact(&target), target);
    }
}

#[test]
fn secrets_are_found_in_what_a_value_holds() {
    for name in SECRET.iter().filter(|name| !name.contains('%')) {
        for value in [
            format!("%2Fx%3F{name}%3DS"),
            format!("%252Fx%253F{name}%253DS"),
            format!("%7B%22{name}%22%3A%22S%22%7D"),
            format!("%7B%22a%22%3A1%2C%20%22{name}%22%20%3A%20%22S%22%7D"),
            format!("{{\"{name}\":\"S\"}}"),
            format!("https%3A%2F%2Fx%2F%23{name}%3DS"),
            format!("a%26{name}%3DS"),
        ] {
            assert_eq!(redact(&format!("/ws?next={value}&b=2")), "/ws?next=***&b=2", "{value}");
        }
        assert_eq!(redact(&format!("/r%3f{name}%3dS/x")), "/***/x");
    }
    assert_eq!(redact("/ws?next=/x?token=S"), "/ws?next=/x?token=***");
    for value in [
        "https://u:p@x/",
        "https%3A%2F%2Fu%3Ap%40x%2F",
        "Bearer%20abc",
        "Bearer+abc",
        "basic%20YTpi",
        "%2Fr%2Ftoken%2FS",
        "/r/token/S",
    ] {
        assert_eq!(redact(&format!("/?q={value}")), "/?q=***", "{value}");
    }
}

#[test]
fn web_tokens_are_hidden_wherever_they_stand() {
    let token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl";
    for (target, shown) in [
        ("/ws?a=T", "/ws?a=***"),
        ("/ws?T", "/ws?***"),
        ("/ws?T=", "/ws?***"),
        ("/T/x", "/***/x"),
        ("/ws/T?a=1", "/ws/***?a=1"),
        ("/ws;T/x", "/***/x"),
        ("/ws?a=x%20T", "/ws?a=***"),
        ("/ws?a=x.T", "/ws?a=***"),
        ("/ws?a=%65%79%4AhbGciOiJI", "/ws?a=***"),
    ] {
        assert_eq!(redact(&target.replace('T', token)), shown, "{target}");
    }
    assert_eq!(redact("/heyJude?a=keyJoin"), "/heyJude?a=keyJoin");
}

#[test]
fn segments_behind_a_name_are_hidden() {
    for (target, shown) in [
        ("/r/token/S", "/r/token/***"),
        ("/r/token/S/x?a=1", "/r/token/***/x?a=1"),
        ("/access_token/abc", "/access_token/***"),
        ("/%74oken/abc", "/%74oken/***"),
        ("/apikey/12345", "/apikey/***"),
        ("/jwt/abc/password/p", "/jwt/***/password/***"),
        ("/key/a1b2c3d4e5", "/key/***"),
        ("/session/3fa85f6457174562", "/session/***"),
        ("/r%2Ftoken%2FS", "/***"),
    ] {
        assert_eq!(redact(target), shown);
    }
    let plain = [
        "/auth/login",
        "/session/new",
        "/token/refresh",
        "/keys/list",
        "/code/main",
        "/auth/v1/ws",
        "/oauth2/authorize",
        "/rooms/3fa85f64-5717-4562-b3fc-2c963f66afa6",
        "/token",
        "/token/",
        "*",
        "",
        "/a=b/c;d?e;f=g",
        "/chat:room/1",
        "/?at=12:30",
        "/?q=a:b=c",
        "/?url=https%3A%2F%2Fexample.com%2Fx%3Fa%3D1",
        "/?mail=a%40b.example",
        "/?token=",
    ];
    for target in plain {
        assert_eq!(redact(target), target);
    }
}

#[test]
fn a_subprotocol_is_shown_if_it_is_a_name() {
    let names = [
        "chat",
        "graphql-ws",
        "graphql-transport-ws",
        "mqtt",
        "mqttv3.1",
        "v12.stomp",
        "v10.stomp",
        "wamp.2.json",
        "wamp.2.msgpack.batched",
        "ocpp1.6",
        "ocpp2.0.1",
        "soap",
        "xmpp",
        "sip",
        "binary",
        "base64",
        "v5.channel.k8s.io",
        "base64.binary.k8s.io",
        "actioncable-v1-json",
        "actioncable-unsupported",
        "json.webpubsub.azure.v1",
        "protobuf.reliable.webpubsub.azure.v1",
        "vite-hmr",
        "janus-protocol",
        "superchat.example.com",
        "tty",
        "rfb",
        "amqp",
        "livekit",
        "lws-mirror-protocol",
        "echo",
        "aab",
        "myProtocol",
        "net.example.chat.v2",
        "signalr",
        "bayeux",
    ];
    for name in names {
        assert_eq!(subprotocol(name, [name]), name);
    }
    let secrets = [
        "SECRETJWT",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln",
        "3fa85f64-5717-4562-b3fc-2c963f66afa6",
        "access_token",
        "0123456789abcdef0123456789abcdef",
        "Zm9vYmFyYmF6cXV4",
        "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
        "bearer.abc",
        "aQzRtYbNcMdK",
        "d41d8cd98f00",
        "averyveryverylongwordthatisnoname",
        "authorization.bearer.x",
        "token-abc",
    ];
    for secret in secrets {
        assert_eq!(subprotocol(secret, [secret]), HIDDEN, "{secret}");
    }
    assert_eq!(subprotocol("hunter", ["access_token", "hunter"]), HIDDEN);
    assert_eq!(subprotocol("chat", ["access_token", "hunter", "chat"]), "chat");
    assert_eq!(subprotocol("chat", ["chat", "access_token", "hunter"]), "chat");
    assert_eq!(
        extensions("permessage-deflate; client_max_window_bits=15"),
        "permessage-deflate; client_max_window_bits=15"
    );
    assert_eq!(extensions("x-auth; token=abc"), HIDDEN);
}

proptest! {
    #[test]
    fn what_stands_behind_a_secret_name_is_never_shown(
        name in prop::sample::select(SECRET),
        value in "[0-9]{12,20}",
        before in "[a-z/]{0,8}",
        double: bool,
    ) {
        let encode = |text: &str| text.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>();
        let pair = if double { encode(&format!("{name}={value}")) } else { format!("{name}={value}") };
        for target in [format!("/{before}?{pair}"), format!("/{before}?a={pair}&b"), format!("/{before};{pair}/x")] {
            prop_assert!(!redact(&target).contains(&value), "{}", target);
        }
    }

    #[test]
    fn redacting_twice_is_redacting_once(target in "/[a-z/?&=;%:{}\"._-]{0,60}") {
        let once = redact(&target);
        prop_assert_eq!(redact(&once), once);
    }

    #[test]
    fn any_text_can_be_redacted(target: String) {
        let shown = redact(&target);
        prop_assert!(shown.len() <= target.len() + 3 * target.len() + 3);
    }
}
