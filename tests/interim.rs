//! Interim answers (1xx) of an upstream: they reach a client, and never the wrong place
//! (RFC 9110 15.2).

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use h2::client::ResponseFuture;
use holdline::testing::outcome::Cause;
use http::{Request, Response, StatusCode};
use std::future::poll_fn;
use support::http2::Http2;
use support::{PATIENCE, Proxy, Puppet, route, upstream, with_listen};
use tokio::net::TcpStream;
use tokio::time::timeout;

const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nConnection: X-Own\r\nX-Own: 1\r\n\r\n";
const PASSED: &str = "http/1.1 103 early hints\r\nlink: </a.css>\r\nvia: 1.1 holdline\r\n\r\n";

async fn before(puppet: &Puppet) -> Proxy {
    before_with(puppet, "").await
}

async fn before_with(puppet: &Puppet, settings: &str) -> Proxy {
    let rest = format!("{}\n{}", route(""), upstream(&[puppet.address()], settings));
    let listen = "address = \"127.0.0.1:0\"\nprotocols = [\"h1\", \"h2\"]";
    Proxy::with(&with_listen(&rest).replace("address = \"127.0.0.1:0\"", listen)).await
}

#[tokio::test]
async fn hints_come_before_the_answer_at_once() {
    let puppet = Puppet::new().await;
    let mut proxy = before(&puppet).await;
    let mut client = proxy.connect().await;
    client.write("GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let mut server = puppet.accept().await;
    for number in 1..=2 {
        server.head().await;
        for _ in 0..2 {
            server.write(HINTS).await;
            assert_eq!(client.head().await.to_ascii_lowercase(), PASSED);
        }
        // A 100 answers an expectation, and there was none.
        server.write("HTTP/1.1 100 Continue\r\n\r\n").await;
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{number}");
        // Some come with the answer.
        server.write(format!("{HINTS}{answer}")).await;
        assert_eq!(client.head().await.to_ascii_lowercase(), PASSED);
        assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
        assert_eq!(client.bytes(1).await, number.to_string().as_bytes());
        let ended = proxy.ended().await;
        assert_eq!((ended.report.status, ended.outcome.ending.cause), (200, Cause::Done));
    }
}

#[tokio::test]
async fn hints_have_a_via_only_where_responses_have_one() {
    let puppet = Puppet::new().await;
    let rest = format!("{}\n{}", route("via = \"request\""), upstream(&[puppet.address()], ""));
    let proxy = Proxy::start(&rest).await;
    let mut client = proxy.connect().await;
    client.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let mut server = puppet.accept().await;
    server.head().await;
    server.write(HINTS).await;
    assert_eq!(client.head().await.to_ascii_lowercase(), PASSED.replace("via: 1.1 holdline\r\n", ""));
}

#[tokio::test]
async fn hints_beside_an_expectation() {
    let puppet = Puppet::new().await;
    let proxy = before(&puppet).await;
    let mut client = proxy.connect().await;
    let head = "POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    assert_eq!(client.ask(head).await, "HTTP/1.1 100 Continue\r\n\r\n");
    let mut server = puppet.accept().await;
    server.head().await;
    server.write(HINTS).await;
    assert_eq!(client.head().await.to_ascii_lowercase(), PASSED);
    client.write("hello").await;
    assert_eq!(server.bytes(5).await, b"hello");
    server.write("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 204"));
}

#[tokio::test]
async fn an_upload_that_was_answered_early_gets_no_hints_of_the_next_request_into_its_answer() {
    let puppet = Puppet::new().await;
    // Each request comes over a connection of its own, whether the upload ended in time or not.
    let proxy = before_with(&puppet, "keepalive = \"off\"").await;
    let mut client = proxy.connect().await;
    client.write("POST /1 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhe").await;
    let mut server = puppet.accept().await;
    server.head().await;
    let body = "x".repeat(3_000_000);
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let answered = tokio::spawn(async move {
        server.write(answer).await;
        server
    });
    client.head().await;
    // It takes nothing of the answer yet, and asks for more.
    client.write("lloGET /2 HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let hinted = tokio::spawn(async move {
        let mut server = puppet.accept().await;
        server.head().await;
        server.write(format!("{HINTS}HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")).await;
        server
    });
    assert!(client.bytes(body.len()).await.iter().all(|&byte| byte == b'x'), "a message in a message");
    let mut head = client.head().await;
    if head.starts_with("HTTP/1.1 103 ") {
        head = client.head().await;
    }
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(client.bytes(2).await, b"ok");
    drop((answered.await.unwrap(), hinted.await.unwrap()));
}

#[tokio::test]
async fn who_cannot_have_them_gets_the_answer_alone() {
    let puppet = Puppet::new().await;
    let proxy = before(&puppet).await;
    let mut client = proxy.connect().await;
    client.write("GET / HTTP/1.0\r\nHost: x\r\n\r\n").await;
    let mut server = puppet.accept().await;
    server.head().await;
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    server.write(format!("{HINTS}{answer}")).await;
    assert!(client.head().await.contains(" 200 OK\r\n"));
    assert_eq!(client.rest().await, b"ok");
}

/// The next interim answer, and those who wait for the answer itself.
async fn hint(response: &mut ResponseFuture) -> Response<()> {
    timeout(PATIENCE, poll_fn(|cx| response.poll_informational(cx))).await.unwrap().unwrap().unwrap()
}

#[tokio::test]
async fn hints_come_before_the_answer_over_http_2() {
    let puppet = Puppet::new().await;
    let proxy = before(&puppet).await;
    let mut client = Http2::over(TcpStream::connect(proxy.address).await.unwrap()).await;
    let request = Request::get("http://x/a").body(()).unwrap();
    let (mut response, _) = client.requests.send_request(request, true).unwrap();
    let mut server = puppet.accept().await;
    server.head().await;
    server.write(HINTS).await;
    let hint = hint(&mut response).await;
    assert_eq!(
        (hint.status(), &hint.headers()["link"]),
        (StatusCode::EARLY_HINTS, &"</a.css>".parse().unwrap())
    );
    assert_eq!(hint.headers().get("x-own"), None);
    // Nobody needs so many: they are not queued without a bound.
    server.write(HINTS.repeat(20)).await;
    server.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let mut more = 0;
    while let Some(hint) = timeout(PATIENCE, poll_fn(|cx| response.poll_informational(cx))).await.unwrap() {
        assert_eq!(hint.unwrap().status(), StatusCode::EARLY_HINTS);
        more += 1;
    }
    assert!((1..8).contains(&more), "{more}");
    assert_eq!(timeout(PATIENCE, response).await.unwrap().unwrap().status(), 200);
}

#[tokio::test]
async fn who_waits_for_100_gets_it_over_http_2() {
    let puppet = Puppet::new().await;
    let proxy = before(&puppet).await;
    let mut client = Http2::over(TcpStream::connect(proxy.address).await.unwrap()).await;
    let request = Request::post("http://x/a").header("expect", "100-continue").body(()).unwrap();
    let (mut response, mut body) = client.requests.send_request(request, false).unwrap();
    assert_eq!(hint(&mut response).await.status(), StatusCode::CONTINUE);
    body.send_data("hello".into(), true).unwrap();
    let mut server = puppet.accept().await;
    let head = server.head().await.to_ascii_lowercase();
    assert!(head.contains("transfer-encoding: chunked\r\n") && !head.contains("expect"), "{head}");
    assert_eq!(server.bytes(15).await, b"5\r\nhello\r\n0\r\n\r\n");
    server.write("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(timeout(PATIENCE, response).await.unwrap().unwrap().status(), 204);
}
