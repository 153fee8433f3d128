//! Names and values of fields, in headers and trailers.

use crate::support::http2::Http2;
use crate::support::{Puppet, ws_request};
use crate::{has_line, head_bytes, value, with};
use holdline::testing::proxy_protocol::{Version, encode};
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use hyper::body::Bytes;
use tokio::net::TcpStream;

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
        // Handshakes pass the same way.
        let mut client = proxy.connect().await;
        client.write(ws_request("/", &lines)).await;
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
        client.write(ws_request("/", "")).await;
        let (_server, head) = puppet.open().await;
        assert_eq!(value(&head, "via").is_some(), on_request, "{word}");
        assert_eq!(value(&client.head().await, "via").is_some(), on_response, "{word}");
    }
}
