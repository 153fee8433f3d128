//! Names, values, targets and methods of requests: what reaches the upstream, and in which form.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use holdline::outcome::{Cause, EndedBy};
use holdline::proxy_protocol::{Version, encode};
use holdline::ws::frame::OpCode;
use holdline::ws::mask::MaskKey;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use hyper::body::Bytes;
use std::net::SocketAddr;
use support::http2::Http2;
use support::{PATIENCE, Proxy, Puppet, Raw, opening, route, upstream, with_listen};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A proxy with more settings of its listener and of its route.
async fn with(listen: &str, rest: &str, settings: &str, server: SocketAddr) -> Proxy {
    let rest = format!("{rest}\n{}\n{}", route(settings), upstream(&[server], ""));
    let listen = format!("address = \"127.0.0.1:0\"\n{listen}");
    Proxy::with(&with_listen(&rest).replace("address = \"127.0.0.1:0\"", &listen)).await
}

/// What a client sends under names that the proxy rules, spelled otherwise.
const FORGED: [&str; 12] = [
    "X_SSL_Client_S_DN",
    "X-SSL_Client-Serial",
    "X_Real_IP",
    "X_Forwarded_For",
    "X_Forwarded-Proto",
    "X-Forwarded_Host",
    "Transfer_Encoding",
    "Content_Length",
    "Keep_Alive",
    "Sec_WebSocket_Key",
    "Proxy",
    "X.Real.IP",
];

/// The names of a head, as CGI would have them.
fn names(head: &str) -> Vec<String> {
    let lines = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    lines.map(|(name, _)| name.to_ascii_uppercase().replace('-', "_")).collect()
}

fn value<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = head.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

fn assert_not_forged(head: &str) {
    assert!(!head.contains("forged"), "{head}");
    let names = names(head);
    for name in ["X_REAL_IP", "X_FORWARDED_FOR", "X_FORWARDED_PROTO", "X_FORWARDED_HOST"] {
        assert_eq!(names.iter().filter(|found| *found == name).count(), 1, "{name} in {head}");
    }
}

#[tokio::test]
async fn no_spelling_of_a_name_gets_past_the_proxy() {
    for allowed in [false, true] {
        let puppet = Puppet::new().await;
        let listen = format!("underscores_in_headers = {allowed}");
        let proxy = with(&listen, "", "", puppet.address()).await;
        let forged: String = FORGED.iter().map(|name| format!("{name}: forged\r\n")).collect();
        let lines = format!("{forged}X_Own: 1\r\nX-Plain: 1\r\n");
        let mut client = proxy.connect().await;
        client.write(format!("GET / HTTP/1.1\r\nHost: x\r\n{lines}\r\n")).await;
        let head = puppet.accept().await.head().await;
        assert_not_forged(&head);
        assert_eq!((value(&head, "X-Plain"), value(&head, "X_Own")), (Some("1"), allowed.then_some("1")));
        // Openings pass the same way.
        let mut client = proxy.connect().await;
        client.write(opening("/", &lines)).await;
        assert_not_forged(&puppet.accept().await.head().await);
    }
}

#[tokio::test]
async fn no_spelling_of_a_name_gets_past_the_proxy_over_http2() {
    for allowed in [false, true] {
        let puppet = Puppet::new().await;
        let listen = format!("protocols = [\"h2\"]\nunderscores_in_headers = {allowed}");
        let proxy = with(&listen, "", "", puppet.address()).await;
        let mut client = Http2::over(TcpStream::connect(proxy.address).await.unwrap()).await;
        let mut request = Request::get("http://x/");
        for name in FORGED {
            request = request.header(name, "forged");
        }
        let request = request.header("x_own", "1").body(()).unwrap();
        let asked = client.requests.send_request(request, true).unwrap();
        let head = puppet.accept().await.head().await;
        assert_not_forged(&head);
        assert_eq!(value(&head, "X_Own"), allowed.then_some("1"));
        drop(asked);
    }
}

#[tokio::test]
async fn a_route_and_connection_mean_a_name_in_every_spelling() {
    let puppet = Puppet::new().await;
    let settings = "headers = { set = { X-User = \"nobody\" }, remove = [\"X-Secret\"] }";
    let proxy = with("underscores_in_headers = true", "", settings, puppet.address()).await;
    let mut client = proxy.connect().await;
    let lines = "X_User: forged\r\nX_Secret: forged\r\nX_Hop: forged\r\nConnection: X-Hop, X_Forwarded_For, X_Real-IP";
    client.write(format!("GET / HTTP/1.1\r\nHost: x\r\n{lines}\r\n\r\n")).await;
    let head = puppet.accept().await.head().await;
    assert_not_forged(&head);
    assert_eq!(value(&head, "X-User"), Some("nobody"));
}

#[tokio::test]
async fn trailers_hold_nothing_that_headers_may_not() {
    let sent = "X-SSL-Client-S-DN: forged\r\nX_SSL_Client_S_DN: forged\r\nX-Real-IP: forged\r\n\
                X-Forwarded-For: forged\r\nForwarded: forged\r\nX-User: forged\r\nX_Secret: forged\r\n";
    let names: Vec<&str> = sent.lines().filter_map(|line| Some(line.split_once(':')?.0)).collect();
    for (more, expected) in [("", "0\r\n\r\n"), ("X-Sum: 7\r\n", "0\r\nX-Sum: 7\r\n\r\n")] {
        let puppet = Puppet::new().await;
        let settings = "headers = { set = { X-User = \"nobody\" }, remove = [\"X-Secret\"] }";
        let proxy = with("underscores_in_headers = true", "", settings, puppet.address()).await;
        let mut client = proxy.connect().await;
        let head = format!(
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, {}\r\n\r\n",
            names.join(", ")
        );
        client.write(format!("{head}2\r\nhi\r\n0\r\n{sent}{more}\r\n")).await;
        let mut server = puppet.accept().await;
        server.head().await;
        let body = server.until_or_end(b"\r\n\r\n").await.unwrap();
        let expected = format!("2\r\nhi\r\n{expected}").to_ascii_lowercase();
        assert_eq!(String::from_utf8(body).unwrap().to_ascii_lowercase(), expected);
    }
}

#[tokio::test]
async fn trailers_over_http2_hold_nothing_that_headers_may_not() {
    let puppet = Puppet::new().await;
    let proxy = with("protocols = [\"h2\"]", "", "", puppet.address()).await;
    let mut client = Http2::over(TcpStream::connect(proxy.address).await.unwrap()).await;
    let names = ["x-sum", "x-real-ip", "x_real_ip", "x-ssl-client-s-dn"];
    let request = Request::post("http://x/").header("trailer", names.join(", ")).body(()).unwrap();
    let (answer, mut body) = client.requests.send_request(request, false).unwrap();
    body.send_data(Bytes::from_static(b"hi"), false).unwrap();
    let value = HeaderValue::from_static("7");
    let trailers: HeaderMap =
        names.map(|name| (HeaderName::from_static(name), value.clone())).into_iter().collect();
    body.send_trailers(trailers).unwrap();
    let mut server = puppet.accept().await;
    server.head().await;
    let body = server.until_or_end(b"\r\n\r\n").await.unwrap();
    assert_eq!(String::from_utf8(body).unwrap(), "2\r\nhi\r\n0\r\nx-sum: 7\r\n\r\n");
    drop(answer);
}

/// Reads the head of the one request that reaches the upstream, as bytes.
async fn head_bytes(server: &mut Raw) -> Vec<u8> {
    server.until_or_end(b"\r\n\r\n").await.unwrap()
}

fn has_line(head: &[u8], line: &[u8]) -> bool {
    head.split(|&byte| byte == b'\n').any(|found| found.trim_ascii().eq_ignore_ascii_case(line))
}

#[tokio::test]
async fn lists_keep_what_is_not_ascii() {
    let puppet = Puppet::new().await;
    let real_ip = "[real_ip]\ntrusted = [\"127.0.0.1\"]";
    let proxy = with("", real_ip, "forwarded = \"both\"", puppet.address()).await;
    let mut client = proxy.connect().await;
    let head = [
        &b"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: \xff, 203.0.113.7\r\nX-Forwarded-Proto: https, \xfe\r\n"[..],
        b"Forwarded: for=\"\xfd\"\r\nVia: 1.1 \xfc\r\n\r\n",
    ];
    client.write(head.concat()).await;
    let head = head_bytes(&mut puppet.accept().await).await;
    let text = head.escape_ascii().to_string();
    assert!(has_line(&head, b"x-forwarded-for: \xff, 203.0.113.7, 127.0.0.1"), "{text}");
    assert!(has_line(&head, b"via: 1.1 \xfc, 1.1 holdline"), "{text}");
    let forwarded = b"forwarded: for=\"\xfd\", for=127.0.0.1;proto=http;host=\"x\"";
    assert!(has_line(&head, forwarded), "{text}");
    // The last hop's own word is no scheme; that of the hop before is not taken for it.
    assert!(has_line(&head, b"x-forwarded-proto: http"), "{text}");
}

#[tokio::test]
async fn a_rewritten_path_keeps_its_bytes() {
    let puppet = Puppet::new().await;
    let routes = "[[route]]\npath = \"/pub/\"\nstrip_prefix = true\nupstream = \"up\"\n\
                  [[route]]\npath_regex = \"^/d/(.*)/(.*)$\"\nrewrite = \"/$2/$1\"\nupstream = \"up\"\n";
    let proxy = Proxy::start(&format!("{routes}{}", upstream(&[puppet.address()], ""))).await;
    for (target, expected) in [
        ("/pub/%ff%fe?a=%ff", "/%FF%FE?a=%ff"),
        ("/pub/%C3%A4%2Fb", "/%C3%A4/b"),
        ("/d/%ff/x", "/x/%FF"),
        ("/d/%C3%A4/%80", "/%80/%C3%A4"),
    ] {
        let mut client = proxy.connect().await;
        client.write(format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        let head = puppet.accept().await.head().await;
        assert_eq!(head.split(' ').nth(1), Some(expected), "{target}");
    }
}

#[tokio::test]
async fn a_target_that_grows_too_long_is_refused() {
    let routes = "[[route]]\npath = \"/pub/\"\nstrip_prefix = true\nupstream = \"up\"\n\
                  [[route]]\npath_regex = \"^/d/(.*)$\"\nrewrite = \"/x/$1/$1/$1/$1/$1\"\nupstream = \"up\"\n";
    let puppet = Puppet::new().await;
    let rest = with_listen(&format!("{routes}{}", upstream(&[puppet.address()], "")));
    let listen = "address = \"127.0.0.1:0\"\nmax_header_size = \"128k\"";
    let mut proxy = Proxy::with(&rest.replace("address = \"127.0.0.1:0\"", listen)).await;
    for target in [format!("/pub/{}?a=1", "{".repeat(25_000)), format!("/d/{}", "a".repeat(15_000))] {
        let mut client = proxy.connect().await;
        let head =
            client.ask(&format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await;
        assert!(head.starts_with("HTTP/1.1 414"), "{head}");
        let body = String::from_utf8(client.rest().await).unwrap();
        assert!(body.contains("the target is over 65534 bytes once it is rewritten"), "{body}");
        let ended = proxy.ended().await;
        assert_eq!(
            (ended.report.status, ended.outcome.ending.cause, ended.report.tries),
            (414, Cause::Refused, 0)
        );
    }
}

#[tokio::test]
async fn headers_of_a_client_that_nobody_announced_are_not_believed() {
    let puppet = Puppet::new().await;
    let trusted = "[real_ip]\ntrusted = [\"127.0.0.1\", \"203.0.113.0/24\"]";
    let mut proxy = with("proxy_protocol = \"accept\"", trusted, "", puppet.address()).await;
    let claims = "GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n\r\n";
    let v2 = |command: u8, family: u8, addresses: &[u8]| {
        let signature = b"\r\n\r\n\0\r\nQUIT\n";
        [&signature[..], &[command, family, 0, addresses.len() as u8], addresses].concat()
    };
    let datagram = [192, 0, 2, 1, 192, 0, 2, 2, 0, 1, 0, 2];
    let headers = [
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN 203.0.113.1 203.0.113.2 1 2\r\n".to_vec(),
        encode(Version::V2, None),
        v2(0x21, 0x00, &[]),
        v2(0x21, 0x12, &datagram),
        v2(0x21, 0x31, &[0; 216]),
    ];
    for header in headers {
        let mut client = proxy.connect().await;
        let local = client.stream.local_addr().unwrap().to_string();
        client.write([&header, claims.as_bytes()].concat()).await;
        let head = puppet.accept().await.head().await;
        assert_eq!(value(&head, "x-real-ip"), Some("127.0.0.1"), "{header:?}");
        assert_eq!(value(&head, "x-forwarded-proto"), Some("http"), "{header:?}");
        drop(client);
        assert_eq!(proxy.ended().await.report.client().to_string(), local);
    }
    // One that is announced, and trusted itself, is believed.
    let addresses = ("203.0.113.1:1".parse().unwrap(), "192.0.2.1:443".parse().unwrap());
    let mut client = proxy.connect().await;
    client.write([&encode(Version::V2, Some(addresses)), claims.as_bytes()].concat()).await;
    let head = puppet.accept().await.head().await;
    assert_eq!(value(&head, "x-real-ip"), Some("6.6.6.6"));
}

#[tokio::test]
async fn a_trace_is_refused_and_connect_too() {
    let puppet = Puppet::new().await;
    let mut proxy = Proxy::before(&[puppet.address()]).await;
    for line in ["TRACE /", "trace /", "CONNECT x:80"] {
        let mut client = proxy.connect().await;
        let head = client.ask(&format!("{line} HTTP/1.1\r\nHost: x\r\nCookie: secret\r\n\r\n")).await;
        assert!(head.starts_with("HTTP/1.1 405"), "{line}: {head}");
        assert!(value(&head, "allow").unwrap().contains("OPTIONS"), "{head}");
        assert_eq!(proxy.ended().await.report.tries, 0);
    }
    let proxy = with("protocols = [\"h2\"]", "", "", puppet.address()).await;
    let mut client = Http2::over(TcpStream::connect(proxy.address).await.unwrap()).await;
    let request = Request::builder().method(Method::TRACE).uri("http://x/").body(()).unwrap();
    assert_eq!(client.ask(request).await.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn options_of_the_server_as_a_whole_pass() {
    let puppet = Puppet::new().await;
    let settings = "[[route]]\npath = \"/\"\nupstream = \"up\"\nrewrite = \"/below/\"";
    let proxy = Proxy::start(&format!("{settings}\n{}", upstream(&[puppet.address()], ""))).await;
    let mut client = proxy.connect().await;
    client.write("OPTIONS * HTTP/1.1\r\nHost: x\r\nMax-Forwards: 7\r\n\r\n").await;
    let mut server = puppet.accept().await;
    let head = server.head().await;
    assert!(head.starts_with("OPTIONS * HTTP/1.1\r\n"), "{head}");
    assert_eq!((value(&head, "host"), value(&head, "max-forwards")), (Some("x"), Some("6")));
    server.write("HTTP/1.1 204 No Content\r\nAllow: GET\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 204"));
    // Who may pass no further is answered here.
    let head = client.ask("OPTIONS /a HTTP/1.1\r\nHost: x\r\nMax-Forwards: 0\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200") && value(&head, "allow").is_some(), "{head}");
    // The form is for this method alone.
    let head = client.ask("GET * HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 400"), "{head}");
}

#[tokio::test]
async fn options_of_the_server_as_a_whole_pass_over_http2() {
    let puppet = Puppet::new().await;
    let proxy = with("protocols = [\"h2\"]", "", "", puppet.address()).await;
    let mut raw = proxy.connect().await;
    // The library that the other tests use cannot ask so.
    raw.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    let fields =
        [&b"\0\x07:method\x07OPTIONS"[..], b"\0\x05:path\x01*", b"\x86", b"\0\x0a:authority\x01x"].concat();
    raw.write([&[0, 0, fields.len() as u8, 1, 5, 0, 0, 0, 1], &fields[..]].concat()).await;
    let mut server = timeout(PATIENCE, puppet.accept()).await.unwrap();
    let head = server.head().await;
    assert!(head.starts_with("OPTIONS * HTTP/1.1\r\n"), "{head}");
    assert_eq!(value(&head, "host"), Some("x"));
}

#[tokio::test]
async fn pages_of_self_are_of_the_same_scheme() {
    let puppet = Puppet::new().await;
    let ask = async |proxy: &Proxy, origin: &str, lines: &str| {
        let mut client = proxy.connect().await;
        client.write(opening("/", &format!("Origin: {origin}\r\n{lines}"))).await;
        tokio::select! {
            head = client.head() => head,
            (server, _) = puppet.open() => {
                drop(server);
                "101".to_owned()
            }
        }
    };
    let own = "allowed_origins = [\"self\"]";
    let plain = with("", "", own, puppet.address()).await;
    assert_eq!(ask(&plain, "http://example.com", "").await, "101");
    // The claim of a client that nobody trusts.
    for origin in ["https://example.com", "ftp://example.com", "ws://example.com", "http://example.com:8080"]
    {
        let head = ask(&plain, origin, "X-Forwarded-Proto: https\r\n").await;
        assert!(head.starts_with("HTTP/1.1 403"), "{origin}: {head}");
    }
    let trusting = with("", "[real_ip]\ntrusted = [\"127.0.0.1\"]", own, puppet.address()).await;
    assert_eq!(ask(&trusting, "https://example.com", "X-Forwarded-Proto: https\r\n").await, "101");
    let head = ask(&trusting, "http://example.com", "X-Forwarded-Proto: https\r\n").await;
    assert!(head.starts_with("HTTP/1.1 403"), "{head}");
    let told = format!("{own}\nheaders = {{ set = {{ X-Forwarded-Proto = \"https\" }} }}");
    let told = with("", "", &told, puppet.address()).await;
    assert_eq!(ask(&told, "https://example.com", "").await, "101");
}

#[tokio::test]
async fn a_host_that_is_none_is_refused() {
    let puppet = Puppet::new().await;
    let mut proxy = Proxy::before(&[puppet.address()]).await;
    for host in ["user:secret@x", "x/ 200 route=evil", "x end=client/close", "x\ty", "\u{9b}31m", ""] {
        let mut client = proxy.connect().await;
        let head = client.ask(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert!(head.starts_with("HTTP/1.1 400"), "{host}: {head}");
        let ended = proxy.ended().await;
        assert_eq!(&*ended.outcome.ending.reason, "the Host header names no host");
        assert!(!ended.report.host().escape_ascii().to_string().contains("secret"));
    }
}

#[tokio::test]
async fn a_client_that_names_no_host_gets_that_of_the_route_or_the_address() {
    let puppet = Puppet::new().await;
    let proxy = Proxy::before(&[puppet.address()]).await;
    let mut client = proxy.connect().await;
    client.write("GET / HTTP/1.0\r\n\r\n").await;
    let head = puppet.accept().await.head().await;
    assert_eq!(value(&head, "host"), Some(&*proxy.address.to_string()), "{head}");
    assert_eq!(value(&head, "x-forwarded-host"), None, "{head}");
}

#[tokio::test]
async fn a_length_is_written_in_one_way() {
    let puppet = Puppet::new().await;
    let proxy = Proxy::before(&[puppet.address()]).await;
    let mut client = proxy.connect().await;
    client.write("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 005\r\n\r\nhello").await;
    let mut server = puppet.accept().await;
    let head = server.head().await;
    assert_eq!(value(&head, "content-length"), Some("5"), "{head}");
    assert_eq!(server.bytes(5).await, b"hello");
    server.write("HTTP/1.1 200 OK\r\nContent-Length: 0002\r\n\r\nok").await;
    let head = client.head().await;
    assert_eq!(value(&head, "content-length"), Some("2"), "{head}");
    assert_eq!(client.bytes(2).await, b"ok");
}

#[tokio::test]
async fn a_refusal_is_the_proxys_own_decision() {
    let puppet = Puppet::new().await;
    let mut proxy = Proxy::before(&[puppet.address()]).await;
    let head = proxy.connect().await.ask("TRACE / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 405"), "{head}");
    let ended = proxy.ended().await;
    assert_eq!((ended.outcome.ending.ended_by, ended.outcome.ending.cause), (EndedBy::Proxy, Cause::Refused));
    assert_eq!(&*ended.outcome.ending.reason, "TRACE is not served here");
}

#[tokio::test]
async fn a_target_goes_on_with_what_only_programs_send() {
    let puppet = Puppet::new().await;
    let proxy = Proxy::before(&[puppet.address()]).await;
    for (target, expected) in [
        (&b"/x/{\"a\":1}"[..], "/x/{\"a\":1}"),
        (b"/x?f={\"a\":1}", "/x?f={%22a%22:1}"),
        (b"/x?f=<a>", "/x?f=%3Ca%3E"),
        (b"/x/<a>`b", "/x/%3Ca%3E%60b"),
        (b"/x?f=a|b`[1]\\^", "/x?f=a|b`[1]\\^"),
    ] {
        let mut client = proxy.connect().await;
        // As the first request, as a later one, and as an opening.
        let ask = |lines: &str| {
            [b"GET ".as_slice(), target, b" HTTP/1.1\r\nHost: x\r\nX: <\"\r\n", lines.as_bytes(), b"\r\n"]
                .concat()
        };
        for lines in ["", "Content-Length: 3\r\n", "Transfer-Encoding: chunked\r\n", ""] {
            let body = match lines {
                "" => "",
                "Content-Length: 3\r\n" => "<\">",
                _ => "3\r\n<\">\r\n0\r\n\r\n",
            };
            client.write([ask(lines), body.into()].concat()).await;
            let mut server = puppet.accept().await;
            let head = server.head().await;
            assert_eq!(head.split(' ').nth(1), Some(expected), "{lines}");
            assert_eq!(value(&head, "x"), Some("<\""));
            server.write("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await;
            assert!(client.head().await.starts_with("HTTP/1.1 204"));
        }
        let upgrade = opening("/", "").replacen("GET / HTTP/1.1\r\nHost: example.com\r\n", "", 1);
        client.write(ask(upgrade.trim_end_matches("\r\n")).as_slice()).await;
        client.write("\r\n").await;
        let (mut server, head) = puppet.open().await;
        assert_eq!(head.split(' ').nth(1), Some(expected));
        assert!(client.head().await.starts_with("HTTP/1.1 101"));
        client.send(OpCode::Text, b"GET /<> HTTP/1.1\r\n").await;
        assert_eq!(server.frame().await, (OpCode::Text, b"GET /<> HTTP/1.1\r\n".to_vec()));
    }
}

#[tokio::test]
async fn frames_right_behind_an_opening_pass_as_they_are() {
    let puppet = Puppet::new().await;
    let proxy = Proxy::before(&[puppet.address()]).await;
    let mut client = proxy.connect().await;
    // Longer by what is encoded than the buffer that it is read into.
    let target = format!("/?{}", "<".repeat(2_500));
    let text = "<\"".repeat(1_000);
    let frame = support::frame(OpCode::Text, text.as_bytes(), Some(MaskKey([9, 8, 7, 6])));
    client.write([opening(&target, "").as_bytes(), &frame].concat()).await;
    let (mut server, head) = puppet.open().await;
    assert_eq!(head.split(' ').nth(1), Some(&*target.replace('<', "%3C")));
    assert_eq!(server.frame().await, (OpCode::Text, text.into_bytes()));
}

#[tokio::test]
async fn who_sends_no_request_is_told_why() {
    let puppet = Puppet::new().await;
    let mut proxy = with("max_header_size = \"128k\"", "", "", puppet.address()).await;
    let get = |lines: &str| format!("GET /a?b HTTP/1.1\r\nHost: x\r\n{lines}\r\n");
    let many: String = (0..101).map(|number| format!("X-{number}: 1\r\n")).collect();
    for (request, status, reason, asked) in [
        ("GET http://x/<a> HTTP/1.1\r\n\r\n".into(), 400, "the target has a \"<\"", ("GET", "http://x/<a>")),
        ("GET /a b HTTP/1.1\r\n\r\n".into(), 400, "the target has a blank", ("", "")),
        ("\x16\x03\x01\x02".to_owned(), 400, "TLS was spoken to a port of plain HTTP", ("", "")),
        (get("X : y\r\n"), 400, "the header name \"X \" has a \" \"", ("GET", "/a?b")),
        (get("Content-Length: +5\r\n"), 400, "Content-Length is not one number", ("GET", "/a?b")),
        (
            get(&format!("X: {}\r\n", "x".repeat(200_000))),
            431,
            "the request's head is over max_header_size",
            ("GET", "/a?b"),
        ),
        (get(&many), 431, "the request has over 100 headers", ("GET", "/a?b")),
        (
            get("").replace("/a?b", &format!("/{}", "a".repeat(66_000))),
            414,
            "the target is over 64 KiB",
            ("", ""),
        ),
    ] {
        // Alone, and behind another request.
        for before in [0, 1] {
            let mut client = proxy.connect().await;
            if before == 1 {
                client.write(get("")).await;
                let mut server = puppet.accept().await;
                server.head().await;
                server.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").await;
                client.head().await;
                assert_eq!(client.bytes(2).await, b"ok");
                proxy.ended().await;
            }
            // The proxy may refuse before it has read all.
            let _ = client.stream.write_all(request.as_bytes()).await;
            let answer = String::from_utf8(client.rest().await).unwrap();
            let ended = proxy.ended().await;
            assert_eq!((ended.report.status, &*ended.outcome.ending.reason), (status, reason));
            if status == 414 {
                assert!(ended.report.target().starts_with(b"/aaa"));
            } else {
                assert_eq!((ended.report.method(), &*ended.report.target_text()), asked, "{reason}");
            }
            // What was not read may have made a reset of the end.
            if request.len() < 4_096 {
                assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
                assert!(answer.ends_with(&format!("{reason}\n")), "{answer}");
                let length = answer.split_once("\r\n\r\n").unwrap().1.len().to_string();
                assert_eq!(value(&answer, "content-length"), Some(&*length));
            }
        }
    }
}

#[tokio::test]
async fn pipelined_requests_are_told_apart() {
    let puppet = Puppet::new().await;
    let proxy = Proxy::before(&[puppet.address()]).await;
    let mut client = proxy.connect().await;
    client.write("GET /<1> HTTP/1.1\r\nHost: x\r\n\r\nGET /<2> HTTP/1.1\r\nHost: x\r\n\r\nGET <3> HTTP/1.1\r\n\r\n").await;
    let mut server = puppet.accept().await;
    // An answer that looks like one of the proxy's own.
    let body = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
    for target in ["/%3C1%3E", "/%3C2%3E"] {
        assert_eq!(server.head().await.split(' ').nth(1), Some(target));
        server.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await;
        assert!(client.head().await.starts_with("HTTP/1.1 200"));
        assert_eq!(client.bytes(body.len()).await, body.as_bytes());
    }
    let answer = String::from_utf8(client.rest().await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400") && answer.ends_with("the target has a \"<\"\n"), "{answer}");
}

#[tokio::test]
async fn two_lengths_are_refused_wherever_they_come() {
    let puppet = Puppet::new().await;
    let mut proxy = Proxy::before(&[puppet.address()]).await;
    let chunked = "Transfer-Encoding: chunked";
    let before = ["", "Content-Length: 2\r\n", "Transfer-Encoding: chunked\r\n"];
    for (first, second) in [
        (chunked, "Content-Length: 5"),
        ("Content-Length: 0", chunked),
        ("transfer-encoding:CHUNKED", "CONTENT-length:31"),
        ("Content-Length: 5", "TRANSFER-ENCODING: \t chunked "),
    ] {
        for framing in before {
            let mut client = proxy.connect().await;
            let body = match framing {
                "" => "",
                "Content-Length: 2\r\n" => "hi",
                _ => "2\r\nhi\r\n0\r\n\r\n",
            };
            client.write(format!("POST /1 HTTP/1.1\r\nHost: x\r\n{framing}\r\n{body}")).await;
            let mut server = puppet.accept().await;
            server.head().await;
            server.write("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await;
            client.head().await;
            proxy.ended().await;
            let head = format!("POST /2 HTTP/1.1\r\nHost: x\r\n{first}\r\nX: y\r\n{second}\r\n\r\n");
            client.write(format!("{head}0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n")).await;
            let answer = String::from_utf8(client.rest().await).unwrap();
            assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
            assert!(!answer[1..].contains("HTTP/1.1 "), "one answer, and the end: {answer}");
            let ended = proxy.ended().await;
            let reason =
                "the length of the request's body is ambiguous: both Transfer-Encoding and Content-Length";
            assert_eq!((&*ended.outcome.ending.reason, ended.report.tries), (reason, 0));
        }
    }
}

#[tokio::test]
async fn via_can_be_left_out() {
    for (word, on_request, on_response) in
        [("on", true, true), ("request", true, false), ("response", false, true), ("off", false, false)]
    {
        let puppet = Puppet::new().await;
        let proxy = with("", "", &format!("via = \"{word}\""), puppet.address()).await;
        let mut client = proxy.connect().await;
        client.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let mut server = puppet.accept().await;
        assert_eq!(value(&server.head().await, "via").is_some(), on_request, "{word}");
        server.write("HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(value(&client.head().await, "via").is_some(), on_response, "{word}");
        client.write(opening("/", "")).await;
        let (_server, head) = puppet.open().await;
        assert_eq!(value(&head, "via").is_some(), on_request, "{word}");
        assert_eq!(value(&client.head().await, "via").is_some(), on_response, "{word}");
    }
}
