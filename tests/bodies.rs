//! Bodies and answers: what belongs to them reaches the other side, and their ends are told apart.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use h2::Reason;
use holdline::testing::outcome::{Cause, EndedBy};
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
async fn end(proxy: &mut Proxy) -> (u16, EndedBy, Cause, String) {
    let ended = proxy.ended().await;
    let ending = &ended.outcome.ending;
    (ended.report.status, ending.ended_by, ending.cause, ending.reason.to_string())
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
    assert_eq!(end(&mut proxy).await.2, Cause::TooBig);
}

/// Bodies of chunks that break RFC 9112 7.1, each followed by what a chunk may not swallow.
const MALFORMED: [&str; 24] = [
    "ZZ\r\nhello\r\n0\r\n\r\n",
    "0x5\r\nhello\r\n0\r\n\r\n",
    "+5\r\nhello\r\n0\r\n\r\n",
    "-5\r\nhello\r\n0\r\n\r\n",
    " 5\r\nhello\r\n0\r\n\r\n",
    "5 5\r\nhello\r\n0\r\n\r\n",
    "5,\r\nhello\r\n0\r\n\r\n",
    "_5\r\nhello\r\n0\r\n\r\n",
    "\r\nhello\r\n0\r\n\r\n",
    ";a=b\r\nhello\r\n0\r\n\r\n",
    "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "10000000000000000\r\nhello\r\n0\r\n\r\n",
    "5\nhello\r\n0\r\n\r\n",
    "5\rhello\r\n0\r\n\r\n",
    "5;a\nb\r\nhello\r\n0\r\n\r\n",
    "5\r\nhelloX\r\n0\r\n\r\n",
    "5\r\nhello\n0\r\n\r\n",
    "5\r\nhello\rX0\r\n\r\n",
    "5\r\nhello0\r\n\r\n",
    "6\r\nhello\r\n0\r\n\r\n",
    "5\r\nhello\r\n0\r\nno colon\r\n\r\n",
    "5\r\nhello\r\n0\r\nX : 1\r\n\r\n",
    "5\r\nhello\r\n0\r\n: 1\r\n\r\n",
    "5\r\nhello\r\n0\r\nX: 1\rY\r\n\r\n",
];

#[tokio::test]
async fn a_malformed_chunk_is_refused() {
    let puppet = Puppet::new().await;
    let mut proxy = before(&puppet, "").await;
    for (body, method) in MALFORMED.iter().flat_map(|body| [(body, "POST"), (body, "GET")]) {
        let mut client = proxy.connect().await;
        client.write(request(method, CHUNKED, body)).await;
        let answer = String::from_utf8(client.rest().await).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{body:?}: {answer}");
        let (status, ended_by, cause, reason) = end(&mut proxy).await;
        assert_eq!((status, ended_by, cause), (400, EndedBy::Proxy, Cause::Refused), "{body:?}: {reason}");
        let is_told = |text: &str| text.contains("chunk") || text.contains("trailer");
        assert!(is_told(&reason.to_lowercase()) && is_told(&answer.to_lowercase()), "{body:?}: {reason}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_is_told_from_one_that_sends_what_is_wrong() {
    let puppet = Puppet::new().await;
    let mut proxy = before(&puppet, "").await;
    let cases = [
        ("Content-Length: 10\r\n", "hello"),
        (CHUNKED, ""),
        (CHUNKED, "5"),
        (CHUNKED, "5\r\nhel"),
        (CHUNKED, "5\r\nhello\r\n"),
        (CHUNKED, "5\r\nhello\r\n0\r\n"),
        (CHUNKED, "5\r\nhello\r\n0\r\nX: "),
    ];
    for (lines, body) in cases {
        let mut client = proxy.connect().await;
        client.write(request("POST", lines, body)).await;
        let mut server = puppet.accept().await;
        server.head().await;
        // It still reads: 499 is for the log alone.
        client.stream.shutdown().await.unwrap();
        let answer = String::from_utf8(client.rest().await).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{body:?}: {answer}");
        let (status, ended_by, cause, reason) = end(&mut proxy).await;
        assert_eq!((status, ended_by, cause), (499, EndedBy::Client, Cause::Eof), "{body:?}: {reason}");
    }
}

#[tokio::test]
async fn an_upload_that_fails_beside_its_answer_is_not_the_upstreams_fault() {
    let puppet = Puppet::new().await;
    let mut proxy = before(&puppet, "max_body_size = \"8\"").await;
    for (more, by, expected) in [
        (Some("ZZ\r\n"), EndedBy::Proxy, Cause::Refused),
        (Some("9\r\n123456789\r\n"), EndedBy::Proxy, Cause::TooBig),
        (None, EndedBy::Client, Cause::Eof),
    ] {
        let mut client = proxy.connect().await;
        client.write(request("POST", CHUNKED, "2\r\nhi\r\n")).await;
        let mut server = puppet.accept().await;
        server.head().await;
        server.write("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nbegun").await;
        client.head().await;
        assert_eq!(client.bytes(5).await, b"begun");
        match more {
            Some(more) => client.write(more).await,
            None => client.stream.shutdown().await.unwrap(),
        }
        assert_eq!(client.rest().await, b"");
        let (status, ended_by, cause, reason) = end(&mut proxy).await;
        assert_eq!((status, ended_by, cause), (200, by, expected), "{reason}");
        assert!(reason.contains("request's body"), "{reason}");
    }
}

/// What a client of HTTP/2 may do to its upload, and how that ends.
#[tokio::test]
async fn uploads_over_http_2_end_by_their_flag_only() {
    let puppet = Puppet::new().await;
    let mut proxy = before(&puppet, "").await;
    for (announced, sent, reset, expected) in [
        // The library resets the stream, and hyper drops the request with it.
        (Some("5"), "hello!", None, (400, EndedBy::Proxy, Cause::Refused)),
        (Some("5"), "hell", None, (400, EndedBy::Proxy, Cause::Refused)),
        (None, "hello", Some(Reason::CANCEL), (499, EndedBy::Client, Cause::Eof)),
        // hyper takes this one for the end of the body.
        (None, "hello", Some(Reason::NO_ERROR), (499, EndedBy::Client, Cause::Eof)),
    ] {
        let mut client = http2(&proxy).await;
        let mut request = Request::post("http://x/a");
        if let Some(length) = announced {
            request = request.header("content-length", length);
        }
        let (response, mut body) = client.requests.send_request(request.body(()).unwrap(), false).unwrap();
        let mut server = puppet.accept().await;
        server.head().await;
        body.send_data(sent.into(), reset.is_none()).unwrap();
        if let Some(reason) = reset {
            server.bytes(10).await;
            body.send_reset(reason);
        }
        // What the upstream got is not taken for a whole body.
        let rest = server.rest().await;
        assert!(!String::from_utf8_lossy(&rest).contains("0\r\n\r\n"), "{rest:?}");
        let (status, ended_by, cause, reason) = end(&mut proxy).await;
        assert_eq!((status, ended_by, cause), expected, "{sent}: {reason}");
        assert!(reason.contains("request's body"), "{reason}");
        drop(response);
    }
}

/// Answers with a trailer section, of any size.
fn with_trailers(announced: &str, trailers: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{CHUNKED}{announced}\r\n2\r\nok\r\n0\r\n{trailers}\r\n")
}

#[tokio::test]
async fn an_answer_with_trailers_is_whole_and_its_connection_is_kept() {
    let puppet = Puppet::new().await;
    let mut proxy = before(&puppet, "").await;
    let mut client = proxy.connect().await;
    client.write(request("GET", "TE: trailers\r\n", "")).await;
    let mut server = puppet.accept().await;
    for (announced, trailers, passed) in [
        ("Trailer: X-Sum\r\n", "X-Sum: 7\r\n", "0\r\nx-sum: 7\r\n\r\n"),
        ("", "X-Sum: 7\r\n", "0\r\n\r\n"),
        ("Trailer: Connection\r\n", "Connection: close\r\n", "0\r\n\r\n"),
    ] {
        server.head().await;
        server.write(with_trailers(announced, trailers)).await;
        client.head().await;
        assert_eq!(client.bytes(7).await, b"2\r\nok\r\n");
        let end_of_it = client.until_or_end(b"\r\n\r\n").await.unwrap();
        assert_eq!(String::from_utf8(end_of_it).unwrap().to_lowercase(), passed);
        let (status, ended_by, cause, reason) = end(&mut proxy).await;
        assert_eq!((status, ended_by, cause), (200, EndedBy::Upstream, Cause::Done), "{reason}");
        // Over the same connections.
        client.write(request("GET", "TE: trailers\r\n", "")).await;
    }
    server.head().await;
}

#[tokio::test]
async fn an_answer_with_trailers_is_whole_over_http_2() {
    let puppet = Puppet::new().await;
    let mut proxy = before(&puppet, "").await;
    let mut client = http2(&proxy).await;
    let ask = || Request::get("http://x/a").body(()).unwrap();
    let (mut response, _) = client.requests.send_request(ask(), true).unwrap();
    let mut server = puppet.accept().await;
    for _ in 0..3 {
        server.head().await;
        server.write(with_trailers("Trailer: X-Sum\r\n", "X-Sum: 7\r\nConnection: close\r\n")).await;
        let mut body = timeout(PATIENCE, response).await.unwrap().unwrap().into_body();
        assert_eq!(&body.data().await.unwrap().unwrap()[..], b"ok");
        assert!(body.data().await.is_none());
        let trailers = body.trailers().await.unwrap().unwrap();
        assert_eq!((trailers.len(), &trailers["x-sum"]), (1, &"7".parse().unwrap()));
        let (status, ended_by, cause, reason) = end(&mut proxy).await;
        assert_eq!((status, ended_by, cause), (200, EndedBy::Upstream, Cause::Done), "{reason}");
        response = client.requests.send_request(ask(), true).unwrap().0;
    }
    server.head().await;
}

#[tokio::test]
async fn large_trailers_cut_no_answer() {
    let puppet = Puppet::new().await;
    let mut proxy = before(&puppet, "").await;
    for (length, count) in [(20_000, 1), (200_000, 1), (10, 200)] {
        let field = format!("X-Sum: {}\r\n", "7".repeat(length));
        let answer = with_trailers("Trailer: X-Sum\r\n", &field.repeat(count));
        let mut client = proxy.connect().await;
        client.write(request("GET", "TE: trailers\r\nConnection: close\r\n", "")).await;
        let mut server = puppet.accept().await;
        server.head().await;
        let _ = server.stream.write_all(answer.as_bytes()).await;
        client.head().await;
        let body = client.rest().await;
        assert!(body.starts_with(b"2\r\nok\r\n0\r\n") && body.ends_with(b"\r\n\r\n"), "{length}");
        assert_eq!(body.len() > 20_000, length == 20_000, "up to 64 KiB pass");
        let (status, ended_by, cause, reason) = end(&mut proxy).await;
        assert_eq!((status, ended_by, cause), (200, EndedBy::Upstream, Cause::Done), "{reason}");
    }
}

/// Answers that break off or break the rules, with what is known of them before; each end.
const BROKEN: [(&str, &str, Cause); 7] = [
    ("Transfer-Encoding: chunked\r\n\r\n", "Z\r\nhello", Cause::BadAnswer),
    ("Transfer-Encoding: chunked\r\n\r\n", "\r\n", Cause::BadAnswer),
    ("Transfer-Encoding: chunked\r\n\r\n", "0\r\nno colon\r\n\r\n", Cause::BadAnswer),
    ("Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", "+2\r\n", Cause::BadAnswer),
    ("Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", "", Cause::Reset),
    ("Content-Length: 10\r\n\r\n", "", Cause::Reset),
    ("Content-Length: 10\r\n\r\nok", "", Cause::Reset),
];

#[tokio::test]
async fn what_came_before_a_break_reaches_the_client() {
    let puppet = Puppet::new().await;
    let mut proxy = before(&puppet, "").await;
    // Often, for it must not depend on who is faster.
    for (good, bad, broken_by) in BROKEN.iter().cycle().take(140) {
        let mut client = proxy.connect().await;
        client.write(request("GET", "", "")).await;
        let mut server = puppet.accept().await;
        server.head().await;
        server.write(format!("HTTP/1.1 200 OK\r\n{good}{bad}")).await;
        drop(server);
        let head = client.head().await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        let expected = good.split_once("\r\n\r\n").unwrap().1;
        assert_eq!(String::from_utf8(client.rest().await).unwrap(), expected, "{good}{bad}");
        let (status, ended_by, cause, reason) = end(&mut proxy).await;
        assert_eq!((status, ended_by, cause), (200, EndedBy::Upstream, *broken_by), "{reason}");
    }
}

#[tokio::test]
async fn what_came_before_a_break_reaches_the_client_over_http_2() {
    let puppet = Puppet::new().await;
    let mut proxy = before(&puppet, "").await;
    let mut client = http2(&proxy).await;
    for (good, bad, broken_by) in BROKEN.iter().cycle().take(140) {
        let request = Request::get("http://x/a").body(()).unwrap();
        let (response, _) = client.requests.send_request(request, true).unwrap();
        let mut server = puppet.accept().await;
        server.head().await;
        server.write(format!("HTTP/1.1 200 OK\r\n{good}{bad}")).await;
        drop(server);
        let response: Response<_> = timeout(PATIENCE, response).await.unwrap().expect("a head");
        assert_eq!(response.status(), 200);
        let (mut body, mut got) = (response.into_body(), Vec::<Bytes>::new());
        let broken = loop {
            match timeout(PATIENCE, body.data()).await.unwrap() {
                Some(Ok(data)) => got.push(data),
                Some(Err(error)) => break error,
                None => panic!("no end that is none"),
            }
        };
        assert_eq!(broken.reason(), Some(Reason::INTERNAL_ERROR));
        let expected = if good.contains("ok") { "ok" } else { "" };
        assert_eq!(String::from_utf8(got.concat()).unwrap(), expected, "{good}{bad}");
        let (status, ended_by, cause, reason) = end(&mut proxy).await;
        assert_eq!((status, ended_by, cause), (200, EndedBy::Upstream, *broken_by), "{reason}");
    }
}

#[tokio::test]
async fn an_answer_of_http_1_0_becomes_our_own() {
    let puppet = Puppet::new().await;
    let proxy = before(&puppet, "").await;
    let mut client = proxy.connect().await;
    for (lines, framing, body) in [
        ("Content-Length: 2\r\n", "content-length: 2\r\n", "ok"),
        ("", "transfer-encoding: chunked\r\n", "2\r\nok\r\n0\r\n\r\n"),
    ] {
        client.write(request("GET", "", "")).await;
        let mut server = puppet.accept().await;
        server.head().await;
        server.write(format!("HTTP/1.0 200 OK\r\n{lines}\r\nok")).await;
        drop(server);
        let head = client.head().await.to_lowercase();
        assert!(head.starts_with("http/1.1 200 ok\r\n") && head.contains(framing), "{head}");
        assert!(head.contains("via: 1.0 holdline\r\n") && !head.contains("close"), "{head}");
        // The client's connection is framed here, so it goes on.
        assert_eq!(client.bytes(body.len()).await, body.as_bytes());
    }
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_no_chunks() {
    let puppet = Puppet::new().await;
    let proxy = before(&puppet, "").await;
    for version in ["1.0", "1.1"] {
        let mut client = proxy.connect().await;
        client.write("GET / HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n").await;
        let mut server = puppet.accept().await;
        server.head().await;
        server.write(format!("HTTP/{version} 200 OK\r\nConnection: close\r\n\r\nok")).await;
        drop(server);
        let head = client.head().await.to_lowercase();
        assert!(!head.contains("transfer-encoding"), "{head}");
        assert_eq!(client.rest().await, b"ok", "the end of the connection is that of the answer");
    }
}

#[tokio::test]
async fn the_end_of_an_upload_waits_for_nothing() {
    let puppet = Puppet::new().await;
    let proxy = before(&puppet, "").await;
    for (announced, trailers) in [("", ""), ("", "X-T: 1\r\n"), ("Trailer: X-T\r\n", "X-T: 1\r\n")] {
        let mut client = proxy.connect().await;
        client.write(request("POST", &format!("{announced}{CHUNKED}"), "2\r\nhi\r\n")).await;
        let mut server = puppet.accept().await;
        server.head().await;
        assert_eq!(server.bytes(7).await, b"2\r\nhi\r\n");
        server.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        client.head().await;
        assert_eq!(client.bytes(2).await, b"ok");
        client.write(format!("0\r\n{trailers}\r\n")).await;
        assert_eq!(server.bytes(3).await, b"0\r\n", "{announced}{trailers}");
        server.until_or_end(b"\r\n").await.unwrap();
    }
}

#[tokio::test]
async fn answers_without_a_body_are_whole() {
    let puppet = Puppet::new().await;
    let mut proxy = before(&puppet, "").await;
    let mut client = proxy.connect().await;
    let mut over_http2 = http2(&proxy).await;
    let mut kept = None;
    for (method, answer) in [
        ("HEAD", "200 OK\r\nTransfer-Encoding: chunked"),
        ("HEAD", "200 OK\r\nContent-Length: 5"),
        ("HEAD", "200 OK"),
        ("GET", "204 No Content"),
        ("GET", "304 Not Modified\r\nContent-Length: 5"),
        ("GET", "200 OK\r\nContent-Length: 0"),
    ] {
        client.write(request(method, "", "")).await;
        // The same connection serves all.
        let server: &mut Raw = match &mut kept {
            Some(server) => server,
            kept => kept.insert(puppet.accept().await),
        };
        server.head().await;
        server.write(format!("HTTP/1.1 {answer}\r\n\r\n")).await;
        client.head().await;
        let (_, ended_by, cause, reason) = end(&mut proxy).await;
        assert_eq!((ended_by, cause), (EndedBy::Upstream, Cause::Done), "{method} {answer}: {reason}");
        let ask = Request::builder().method(method).uri("http://x/a").body(()).unwrap();
        let (response, _) = over_http2.requests.send_request(ask, true).unwrap();
        server.head().await;
        server.write(format!("HTTP/1.1 {answer}\r\n\r\n")).await;
        assert!(timeout(PATIENCE, response).await.unwrap().is_ok());
        let (_, ended_by, cause, reason) = end(&mut proxy).await;
        assert_eq!((ended_by, cause), (EndedBy::Upstream, Cause::Done), "{method} {answer}: {reason}");
    }
}
