//! Bodies and answers: what belongs to them reaches the other side, and their ends are told apart.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use h2::Reason;
use holdline::outcome::{Who, Why};
use http::{Request, Response};
use hyper::body::Bytes;
use support::http2::Http2;
use support::{PATIENCE, Proxy, Puppet, Raw, route, upstream, with_listen};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";

/// One that speaks both versions before an upstream.
async fn before(puppet: &Puppet, settings: &str) -> Proxy {
    let rest = format!("{}\n{}", route(settings), upstream(&[puppet.address()], ""));
    let listen = "address = \"127.0.0.1:0\"\nprotocols = [\"h1\", \"h2\"]";
    Proxy::with(&with_listen(&rest).replace("address = \"127.0.0.1:0\"", listen)).await
}

async fn http2(proxy: &Proxy) -> Http2 {
    Http2::over(TcpStream::connect(proxy.address).await.unwrap()).await
}

/// A request with more header lines and a body.
fn request(method: &str, lines: &str, body: &str) -> String {
    format!("{method} /a HTTP/1.1\r\nHost: x\r\n{lines}\r\n{body}")
}

/// The next request of an upstream's connection, its head in small letters.
async fn heard(server: &mut Raw) -> String {
    server.head().await.to_ascii_lowercase()
}

/// The end of a request as the log has it.
async fn end(proxy: &mut Proxy) -> (u16, Who, Why, String) {
    let report = proxy.report().await;
    let ending = &report.1.ending;
    (report.0.status, ending.who, ending.why, ending.reason.to_string())
}

const METHODS: [&str; 7] = ["GET", "HEAD", "OPTIONS", "DELETE", "POST", "PROPFIND", "QUERY"];

#[tokio::test]
async fn a_body_goes_on_whatever_the_method() {
    let puppet = Puppet::new().await;
    let proxy = before(&puppet, "").await;
    for method in METHODS {
        let mut client = proxy.connect().await;
        client.write(request(method, CHUNKED, "5\r\nhello\r\n0\r\n\r\n")).await;
        let mut server = puppet.accept().await;
        let head = heard(&mut server).await;
        assert!(head.contains("transfer-encoding: chunked\r\n"), "{head}");
        assert_eq!(server.bytes(15).await, b"5\r\nhello\r\n0\r\n\r\n", "{method}");
    }
}

#[tokio::test]
async fn a_body_goes_on_whatever_the_method_over_http_2() {
    let puppet = Puppet::new().await;
    let proxy = before(&puppet, "").await;
    let mut client = http2(&proxy).await;
    for method in METHODS {
        let request = Request::builder().method(method).uri("http://x/a").body(()).unwrap();
        let (_response, mut body) = client.requests.send_request(request, false).unwrap();
        body.send_data("hello".into(), true).unwrap();
        let mut server = puppet.accept().await;
        let head = heard(&mut server).await;
        assert!(head.contains("transfer-encoding: chunked\r\n"), "{head}");
        assert_eq!(server.bytes(15).await, b"5\r\nhello\r\n0\r\n\r\n", "{method}");
    }
}

#[tokio::test]
async fn no_body_is_invented() {
    let puppet = Puppet::new().await;
    let proxy = before(&puppet, "").await;
    let none = "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
    for (method, lines) in
        [("GET", ""), ("GET", "Content-Length: 0\r\n"), ("DELETE", ""), ("HEAD", ""), ("OPTIONS", "")]
    {
        let mut client = proxy.connect().await;
        client.write(request(method, lines, "")).await;
        let mut server = puppet.accept().await;
        let head = heard(&mut server).await;
        assert!(!head.contains("transfer-encoding"), "{head}");
        assert_eq!(head.contains("content-length: 0\r\n"), !lines.is_empty(), "{head}");
        server.write(none).await;
        assert_eq!(server.rest().await, b"", "{method}");
    }
    let mut client = http2(&proxy).await;
    for method in METHODS {
        let request = Request::builder().method(method).uri("http://x/a").body(()).unwrap();
        let _response = client.requests.send_request(request, true).unwrap();
        let mut server = puppet.accept().await;
        let head = heard(&mut server).await;
        assert!(!head.contains("transfer-encoding"), "{head}");
        server.write(none).await;
        assert_eq!(server.rest().await, b"", "{method}");
    }
}

#[tokio::test]
async fn the_body_of_a_get_is_held_to_the_limit() {
    let puppet = Puppet::new().await;
    let mut proxy = before(&puppet, "max_body_size = \"8\"").await;
    let mut client = proxy.connect().await;
    let head = client.ask(&request("GET", CHUNKED, "9\r\n123456789\r\n0\r\n\r\n")).await;
    assert!(head.starts_with("HTTP/1.1 413"), "{head}");
    assert_eq!(end(&mut proxy).await.2, Why::TooBig);
}

