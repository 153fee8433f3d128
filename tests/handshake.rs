//! WebSocket handshakes: what reaches the upstream, what the client is answered, what is tried again.

mod support;

use holdline::testing::outcome::{Cause, EndedBy};
use holdline::testing::telemetry::report::Ended;
use holdline::testing::ws::frame::OpCode;
use support::{Proxy, Puppet, accepted, echo, frame, nobody, route, upstream, ws_request};

#[tokio::test]
async fn a_websocket_opens_and_echoes() {
    let mut proxy = Proxy::before(&[echo().await]).await;
    let mut client = proxy.open("/ws").await;
    client.echo("hello").await;
    client.send(OpCode::Close, &1000_u16.to_be_bytes()).await;
    assert_eq!(client.close().await.code.0, 1000);
    drop(client);
    let ended = proxy.ended().await;
    let Ended { report, outcome } = &*ended;
    assert_eq!((report.status, report.tries), (101, 1));
    assert_eq!((outcome.ending.ended_by, outcome.ending.cause), (EndedBy::Client, Cause::Close));
    assert_eq!(outcome.ending.code.map(|code| code.0), Some(1000));
    assert_eq!((outcome.traffic.client.messages, outcome.traffic.upstream.messages), (1, 1));
}

#[tokio::test]
async fn the_upstream_sees_the_request_as_it_should() {
    let puppet = Puppet::new().await;
    let proxy = Proxy::before(&[puppet.address()]).await;
    let mut client = proxy.connect().await;
    let lines = "Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nX-Forwarded-For: 203.0.113.9\r\nOrigin: http://a\r\n\
                 Sec-WebSocket-Protocol: chat, mqtt\r\nSec-WebSocket-Extensions: permessage-deflate; x\r\nCookie: a=b\r\n";
    client.write(ws_request("/ws/room//1?token=secret&x=%20", lines)).await;
    let mut server = puppet.accept().await;
    let head = server.head().await;
    let has = |line: &str| assert!(head.lines().any(|own| own == line), "no {line:?} in\n{head}");
    has("GET /ws/room//1?token=secret&x=%20 HTTP/1.1");
    // Some servers look for just this case.
    has("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==");
    has("Sec-WebSocket-Version: 13");
    has("Sec-WebSocket-Protocol: chat, mqtt");
    has("Sec-WebSocket-Extensions: permessage-deflate; x");
    has("Host: example.com");
    has("Origin: http://a");
    has("Cookie: a=b");
    has("X-Forwarded-For: 203.0.113.9, 127.0.0.1");
    let lower = head.to_ascii_lowercase();
    assert!(lower.contains("\r\nx-real-ip: 127.0.0.1\r\n"), "{head}");
    assert!(lower.contains("\r\nx-forwarded-host: example.com\r\n"), "{head}");
    assert!(lower.contains("\r\nx-forwarded-proto: http\r\n"), "{head}");
    assert_eq!(lower.matches("\r\nconnection: upgrade\r\n").count(), 1, "{head}");
    assert_eq!(lower.matches("\r\nupgrade: websocket\r\n").count(), 1, "{head}");
    assert!(!lower.contains("x-hop"), "{head}");
    server.write(accepted("Sec-WebSocket-Protocol: mqtt\r\nSet-Cookie: c=d\r\n")).await;
    let answer = client.head().await;
    assert!(answer.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{answer}");
    assert!(answer.contains("Sec-WebSocket-Protocol: mqtt\r\n"), "{answer}");
    assert!(answer.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{answer}");
    assert!(answer.contains("Set-Cookie: c=d\r\n"), "{answer}");
}

#[tokio::test]
async fn bytes_behind_either_handshake_come_first() {
    let puppet = Puppet::new().await;
    let proxy = Proxy::before(&[puppet.address()]).await;
    let mut client = proxy.connect().await;
    let early = frame(OpCode::Text, b"early", Some(holdline::testing::ws::mask::MaskKey([0; 4])));
    client.write([ws_request("/", "").as_bytes(), &early].concat()).await;
    let mut server = puppet.accept().await;
    server.head().await;
    let greeting = frame(OpCode::Text, b"greeting", None);
    // The 101, and a frame behind it, in one packet.
    server.write([accepted("").as_bytes(), &greeting].concat()).await;
    client.head().await;
    assert_eq!(client.frame().await, (OpCode::Text, b"greeting".to_vec()));
    assert_eq!(server.frame().await, (OpCode::Text, b"early".to_vec()));
    client.send(OpCode::Text, b"later").await;
    assert_eq!(server.frame().await, (OpCode::Text, b"later".to_vec()));
}

#[tokio::test]
async fn other_answers_go_to_the_client_whole() {
    let puppet = Puppet::new().await;
    let mut proxy = Proxy::before(&[puppet.address()]).await;
    let mut client = proxy.connect().await;
    client.write(ws_request("/", "")).await;
    let mut server = puppet.accept().await;
    server.head().await;
    server
        .write("HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\nContent-Length: 4\r\n\r\nnope")
        .await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 401") && head.contains("WWW-Authenticate: Basic"), "{head}");
    assert_eq!(client.bytes(4).await, b"nope");
    assert_eq!(proxy.ended().await.report.status, 401);
}

#[tokio::test]
async fn invalid_handshakes_are_refused_and_no_upstream_hears_of_them() {
    let nobody = nobody().await;
    let mut proxy = Proxy::before(&[nobody]).await;
    let good = ws_request("/", "");
    let cases = [
        (good.replace("Connection: Upgrade\r\n", ""), "400"),
        (good.replace("GET", "POST"), "400"),
        (good.replace("Version: 13", "Version: 8"), "426"),
        (good.replace("Sec-WebSocket-Version: 13\r\n", ""), "400"),
        (good.replace("dGhlIHNhbXBsZSBub25jZQ==", "no base64"), "400"),
        (good.replace("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""), "400"),
        (good.replace("\r\n\r\n", "\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"), "400"),
        (good.replace("Host: example.com\r\n", ""), "400"),
        (good.replace("GET / ", "GET /../x "), "400"),
    ];
    for (request, status) in cases {
        let head = proxy.connect().await.ask(&request).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{request}\n{head}");
        if status == "426" {
            assert!(head.to_ascii_lowercase().contains("sec-websocket-version: 13"), "{head}");
        }
        let ended = proxy.ended().await;
        assert_eq!((ended.outcome.ending.cause, ended.report.tries), (Cause::Refused, 0));
    }
}

#[tokio::test]
async fn a_false_101_is_a_bad_gateway() {
    for answer in [
        accepted("").replace("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "AAAAAAAAAAAAAAAAAAAAAAAAAAA="),
        accepted("").replace("Upgrade: websocket\r\n", ""),
        accepted("Sec-WebSocket-Protocol: unasked\r\n"),
        accepted("Sec-WebSocket-Extensions: permessage-deflate\r\n"),
    ] {
        let puppet = Puppet::new().await;
        let mut proxy = Proxy::before(&[puppet.address()]).await;
        let mut client = proxy.connect().await;
        client.write(ws_request("/", "")).await;
        let mut server = puppet.accept().await;
        server.head().await;
        server.write(&answer).await;
        let head = client.head().await;
        assert!(head.starts_with("HTTP/1.1 502"), "{answer}\n{head}");
        assert_eq!(proxy.ended().await.outcome.ending.cause, Cause::BadAnswer);
    }
}

#[tokio::test]
async fn a_handshake_is_tried_on_the_next_endpoint() {
    let (refusing, echo) = (nobody().await, echo().await);
    let breaking = Puppet::new().await;
    let address = breaking.address();
    tokio::spawn(async move {
        loop {
            // It takes the request and dies over it.
            breaking.accept().await.head().await;
        }
    });
    let mut proxy = Proxy::start(&format!(
        "{}\n{}",
        route(""),
        upstream(&[refusing, address, echo], "balance = \"round_robin\"\nmax_fails = 0")
    ))
    .await;
    for _ in 0..3 {
        let mut client = proxy.open("/").await;
        client.echo("still here").await;
        drop(client);
        let ended = proxy.ended().await;
        assert_eq!(ended.report.endpoint.as_ref().unwrap().to_string(), echo.to_string());
    }
}

#[tokio::test]
async fn statuses_are_retried_only_where_that_is_wanted() {
    let (busy, echo) = (Puppet::new().await, echo().await);
    let address = busy.address();
    tokio::spawn(async move {
        loop {
            let mut raw = busy.accept().await;
            raw.head().await;
            raw.write("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n").await;
        }
    });
    let settings = "balance = \"round_robin\"\nmax_fails = 0\nretry = { on = [\"connect\", \"503\"] }";
    let proxy = Proxy::start(&format!("{}\n{}", route(""), upstream(&[address, echo], settings))).await;
    for _ in 0..4 {
        proxy.open("/").await.echo("never busy").await;
    }
    let plain = Proxy::before(&[address]).await;
    let head = plain.connect().await.ask(&ws_request("/", "")).await;
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
}

#[tokio::test]
async fn what_cannot_be_reached_has_a_status() {
    let mut proxy = Proxy::before(&[nobody().await]).await;
    let head = proxy.connect().await.ask(&ws_request("/", "")).await;
    assert!(head.starts_with("HTTP/1.1 502"), "{head}");
    assert_eq!(proxy.ended().await.outcome.ending.cause, Cause::Unreachable);

    let silent = Puppet::new().await;
    let mut proxy = Proxy::start(&format!(
        "{}\n{}",
        route("response_timeout = \"50ms\""),
        upstream(&[silent.address()], "")
    ))
    .await;
    let head = proxy.connect().await.ask(&ws_request("/", "")).await;
    assert!(head.starts_with("HTTP/1.1 504"), "{head}");
    assert_eq!(proxy.ended().await.outcome.ending.cause, Cause::ResponseTimeout);

    let down = format!("[upstream.up]\nservers = [{{ address = \"{}\", state = \"down\" }}]", nobody().await);
    let proxy = Proxy::start(&format!("{}\n{down}", route(""))).await;
    let head = proxy.connect().await.ask(&ws_request("/", "")).await;
    assert!(head.starts_with("HTTP/1.1 503") && head.to_ascii_lowercase().contains("retry-after:"), "{head}");
}

#[tokio::test]
async fn a_browser_is_told_by_close_where_that_is_wanted() {
    let mut proxy =
        Proxy::start(&format!("{}\n{}", route("reject_with = \"close\""), upstream(&[nobody().await], "")))
            .await;
    let mut client = proxy.connect().await;
    let head = client.ask(&ws_request("/", "Sec-WebSocket-Protocol: chat, mqtt\r\n")).await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert!(head.to_ascii_lowercase().contains("sec-websocket-protocol: chat\r\n"), "{head}");
    let close = client.close().await;
    assert_eq!((close.code.0, &*close.text), (1014, "the upstream cannot be reached"));
    client.send(OpCode::Close, &1014_u16.to_be_bytes()).await;
    assert!(client.rest().await.is_empty());
    drop(client);
    let ended = proxy.ended().await;
    assert_eq!(ended.outcome.ending.cause, Cause::Unreachable);
    assert_eq!(ended.outcome.ending.code.map(|code| code.0), Some(1014));
    // Only what could be a handshake is answered so.
    let head = proxy.connect().await.ask("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 502"), "{head}");
}

#[tokio::test]
async fn other_protocols_pass_as_they_are() {
    let puppet = Puppet::new().await;
    let mut proxy = Proxy::before(&[puppet.address()]).await;
    let mut client = proxy.connect().await;
    client.write("GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: h2c, tcp\r\n\r\n").await;
    let mut server = puppet.accept().await;
    let asked = server.head().await.to_ascii_lowercase();
    assert!(asked.contains("\r\nupgrade: tcp\r\n"), "{asked}");
    server
        .write("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: tcp\r\n\r\nhello")
        .await;
    let head = client.head().await;
    assert!(head.to_ascii_lowercase().contains("upgrade: tcp"), "{head}");
    assert_eq!(client.bytes(5).await, b"hello");
    client.write([0xff, 0x00]).await;
    assert_eq!(server.bytes(2).await, [0xff, 0x00]);
    // Half-close: the one direction ends, the other goes on.
    tokio::io::AsyncWriteExt::shutdown(&mut client.stream).await.unwrap();
    assert!(server.rest().await.is_empty());
    server.write("bye").await;
    drop(server);
    assert_eq!(client.rest().await, b"bye");
    drop(client);
    let ended = proxy.ended().await;
    assert_eq!(ended.outcome.blind, Some("another protocol"));
    assert_eq!((ended.outcome.ending.ended_by, ended.outcome.ending.cause), (EndedBy::Client, Cause::Eof));
}

#[tokio::test]
async fn a_client_that_leaves_during_the_handshake_is_reported() {
    let puppet = Puppet::new().await;
    let mut proxy = Proxy::before(&[puppet.address()]).await;
    let mut client = proxy.connect().await;
    client.write(ws_request("/", "")).await;
    let mut server = puppet.accept().await;
    server.head().await;
    drop(client);
    let ended = proxy.ended().await;
    assert_eq!((ended.report.status, ended.outcome.ending.ended_by), (499, EndedBy::Client));
    assert!(server.rest().await.is_empty(), "the upstream's connection is given up");
}

#[tokio::test]
async fn pages_of_other_sites_may_not_open() {
    let settings = "allowed_origins = [\"https://example.com\", \"https://*.example.org\"]";
    let mut proxy = Proxy::start(&format!("{}\n{}", route(settings), upstream(&[echo().await], ""))).await;
    let cases = [
        ("", 101),
        ("Origin: https://example.com\r\n", 101),
        ("Origin: https://a.example.org\r\n", 101),
        ("Origin: https://evil.test\r\n", 403),
        ("Origin: null\r\n", 403),
        ("Origin: https://example.com\r\nOrigin: https://evil.test\r\n", 403),
        ("Origin: https://\u{e9}.test\r\n", 403),
    ];
    for (lines, status) in cases {
        let mut client = proxy.connect().await;
        let head = client.ask(&ws_request("/", lines)).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{lines}: {head}");
        drop(client);
        let ended = proxy.ended().await;
        assert_eq!(ended.report.status, status);
        if lines.contains("evil") && !lines.contains("example.com") {
            assert_eq!(
                &*ended.outcome.ending.reason,
                "pages of https://evil.test may not open a WebSocket here"
            );
        }
    }
}
