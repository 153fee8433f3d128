//! Upgrades to other protocols than WebSocket by a request with a body, as `docker exec` asks for them
//! (RFC 9110 7.8): the body goes on first, and what follows it is the tunnel's.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use holdline::testing::outcome::{Cause, EndedBy};
use support::{Proxy, Puppet, Raw, route, upstream, with_listen};
use tokio::io::AsyncWriteExt as _;

const SWITCHED: &str = "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";

async fn before(puppet: &Puppet, settings: &str) -> Proxy {
    let rest = format!("{}\n{}", route(settings), upstream(&[puppet.address()], ""));
    let listen = "address = \"127.0.0.1:0\"\nbody_timeout = \"300ms\"";
    Proxy::with(&with_listen(&rest).replace("address = \"127.0.0.1:0\"", listen)).await
}

/// A request for an upgrade, with more header lines and what stands behind its head.
fn request(lines: &str, behind: &str) -> String {
    format!("POST /exec HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n{lines}\r\n{behind}")
}

/// Bytes go both ways.
async fn talk(client: &mut Raw, server: &mut Raw) {
    client.write("typed").await;
    assert_eq!(server.bytes(5).await, b"typed");
    server.write("shown").await;
    assert_eq!(client.bytes(5).await, b"shown");
}

#[tokio::test]
async fn the_body_goes_first_and_what_follows_is_the_tunnels() {
    let puppet = Puppet::new().await;
    let mut proxy = before(&puppet, "").await;
    let chunks = "5\r\nhello\r\n0\r\n\r\n";
    for (lines, body) in [
        ("Content-Length: 5\r\n", "hello"),
        (CHUNKED, chunks),
        ("Expect: 100-continue\r\nContent-Length: 5\r\n", "hello"),
    ] {
        let mut client = proxy.connect().await;
        client.write(request(lines, &format!("{body}ahead"))).await;
        let mut server = puppet.accept().await;
        let head = server.head().await.to_ascii_lowercase();
        assert!(head.contains("connection: upgrade\r\n") && head.contains("upgrade: tcp\r\n"), "{head}");
        assert_eq!(server.bytes(body.len()).await, body.as_bytes());
        server.write(format!("{SWITCHED}begun")).await;
        let mut head = client.head().await;
        if lines.starts_with("Expect") {
            assert_eq!(head, "HTTP/1.1 100 Continue\r\n\r\n");
            head = client.head().await;
        }
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert_eq!(client.bytes(5).await, b"begun");
        assert_eq!(server.bytes(5).await, b"ahead");
        talk(&mut client, &mut server).await;
        drop((client, server));
        assert_eq!(proxy.ended().await.report.status, 101);
    }
}

#[tokio::test]
async fn a_101_before_the_end_of_the_body_passes_at_once() {
    let puppet = Puppet::new().await;
    let proxy = before(&puppet, "").await;
    for (lines, first, second) in
        [("Content-Length: 10\r\n", "hello", "world"), (CHUNKED, "5\r\nhello\r\n", "5\r\nworld\r\n0\r\n\r\n")]
    {
        let mut client = proxy.connect().await;
        client.write(request(lines, first)).await;
        let mut server = puppet.accept().await;
        server.head().await;
        server.bytes(first.len()).await;
        server.write(format!("{SWITCHED}begun")).await;
        assert!(client.head().await.starts_with("HTTP/1.1 101 "));
        client.write(format!("{second}ahead")).await;
        assert_eq!(server.bytes(second.len()).await, second.as_bytes());
        assert_eq!(server.bytes(5).await, b"ahead");
        assert_eq!(client.bytes(5).await, b"begun");
        talk(&mut client, &mut server).await;
    }
}

#[tokio::test]
async fn another_answer_is_a_plain_one() {
    let puppet = Puppet::new().await;
    let mut proxy = before(&puppet, "").await;
    let mut client = proxy.connect().await;
    let next = "GET /next HTTP/1.1\r\nHost: x\r\n\r\n";
    client.write(request("Content-Length: 5\r\n", &format!("hello{next}"))).await;
    let mut server = puppet.accept().await;
    server.head().await;
    assert_eq!(server.bytes(5).await, b"hello");
    server.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 "));
    assert_eq!(client.bytes(2).await, b"ok");
    assert_eq!(server.rest().await, b"", "what follows is no tunnel's");
    assert_eq!(proxy.ended().await.outcome.ending.cause, Cause::Done);
    assert!(puppet.accept().await.head().await.starts_with("GET /next "));
}

/// What a client may do instead of sending its body, and how that ends.
#[tokio::test]
async fn a_body_that_fails_opens_no_tunnel() {
    let puppet = Puppet::new().await;
    let mut proxy = before(&puppet, "max_body_size = \"8\"").await;
    for (more, status, ended_by, cause) in [
        (Some("ZZ\r\n"), "400", EndedBy::Proxy, Cause::Refused),
        (Some("9\r\n123456789\r\n"), "413", EndedBy::Proxy, Cause::TooBig),
        (Some(""), "408", EndedBy::Proxy, Cause::Refused),
        (None, "400", EndedBy::Client, Cause::Eof),
    ] {
        for has_switched in [false, true] {
            let mut client = proxy.connect().await;
            client.write(request(CHUNKED, "2\r\nhi\r\n")).await;
            let mut server = puppet.accept().await;
            server.head().await;
            server.bytes(7).await;
            if has_switched {
                server.write(SWITCHED).await;
                assert!(client.head().await.starts_with("HTTP/1.1 101 "));
            }
            match more {
                Some(more) => client.write(more).await,
                None => client.stream.shutdown().await.unwrap(),
            }
            let answer = String::from_utf8(client.rest().await).unwrap();
            let expected = if has_switched { String::new() } else { format!("HTTP/1.1 {status} ") };
            assert!(answer.starts_with(&expected) && answer.is_empty() == has_switched, "{answer}");
            assert_eq!(server.rest().await, b"", "the upstream is left");
            let ending = proxy.ended().await.outcome.ending.clone();
            assert_eq!(
                (ending.ended_by, ending.cause),
                (ended_by, cause),
                "{more:?} {has_switched} {}",
                ending.reason
            );
        }
    }
    let mut client = proxy.connect().await;
    let head = client.ask(&request("Content-Length: 9\r\n", "")).await;
    assert!(head.starts_with("HTTP/1.1 413 "), "{head}");
}

#[tokio::test]
async fn an_upstream_that_leaves_is_not_the_clients_fault() {
    let puppet = Puppet::new().await;
    let mut proxy = before(&puppet, "").await;
    let mut client = proxy.connect().await;
    client.write(request(CHUNKED, "2\r\nhi\r\n")).await;
    let mut server = puppet.accept().await;
    server.head().await;
    server.write(SWITCHED).await;
    assert!(client.head().await.starts_with("HTTP/1.1 101 "));
    drop(server);
    assert_eq!(client.rest().await, b"");
    let ended = proxy.ended().await;
    assert_eq!((ended.outcome.ending.ended_by, ended.outcome.ending.cause), (EndedBy::Upstream, Cause::Eof));
}

#[tokio::test]
async fn what_was_sent_with_a_body_is_sent_once() {
    let (first, second) = (Puppet::new().await, Puppet::new().await);
    let servers = upstream(&[first.address(), second.address()], "balance = \"round_robin\"\n");
    let mut proxy = Proxy::start(&format!("{}\n{servers}", route(""))).await;
    let mut client = proxy.connect().await;
    client.write(request("Content-Length: 5\r\n", "hello")).await;
    let mut server = tokio::select! {
        server = first.accept() => server,
        server = second.accept() => server,
    };
    server.head().await;
    drop(server);
    assert!(client.head().await.starts_with("HTTP/1.1 502 "));
    assert_eq!(proxy.ended().await.report.tries, 1);
}
