//! Plain HTTP through the same routes.

mod support;

use holdline::testing::health::Availability;
use holdline::testing::outcome::{Cause, EndedBy};
use std::time::Duration;
use support::{PATIENCE, Proxy, Puppet, nobody, route, upstream, with_listen};
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

#[tokio::test]
async fn a_request_and_its_response_pass() {
    let puppet = Puppet::new().await;
    let mut proxy = Proxy::before(&[puppet.address()]).await;
    let mut client = proxy.connect().await;
    client
        .write("POST /a?b HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\r\nhello")
        .await;
    let mut server = puppet.accept().await;
    let head = server.head().await;
    assert!(head.starts_with("POST /a?b HTTP/1.1\r\n") && !head.contains("X-Hop"), "{head}");
    assert_eq!(server.bytes(5).await, b"hello");
    server
        .write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close, X-Own\r\nX-Own: 1\r\nX-Kept: 1\r\n\r\nok")
        .await;
    let head = client.head().await;
    assert!(head.contains("X-Kept: 1") && !head.contains("X-Own"), "{head}");
    assert_eq!(client.bytes(2).await, b"ok");
    let ended = proxy.ended().await;
    assert_eq!(
        (ended.report.status, ended.outcome.ending.cause, ended.outcome.traffic.upstream.bytes),
        (200, Cause::Done, 2)
    );
}

#[tokio::test]
async fn bodies_are_streamed_both_ways() {
    let puppet = Puppet::new().await;
    let proxy = Proxy::before(&[puppet.address()]).await;
    let mut client = proxy.connect().await;
    client.write("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n").await;
    let mut server = puppet.accept().await;
    let head = server.head().await.to_ascii_lowercase();
    assert!(head.contains("transfer-encoding: chunked") && !head.contains("content-length"), "{head}");
    // Each piece arrives before the next is sent.
    assert_eq!(server.bytes(8).await, b"3\r\nabc\r\n");
    client.write("0\r\n\r\n").await;
    assert_eq!(server.bytes(5).await, b"0\r\n\r\n");
    server.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n").await;
    client.head().await;
    assert_eq!(client.bytes(7).await, b"2\r\nhi\r\n");
    server.write("0\r\n\r\n").await;
    assert_eq!(client.bytes(5).await, b"0\r\n\r\n");
}

#[tokio::test]
async fn a_client_connection_is_kept_and_an_idle_one_closed() {
    let config = "[[route]]\npath = \"/\"\nrespond = { status = 200, body = \"here\" }";
    let text = with_listen(config).replace(
        "address = \"127.0.0.1:0\"",
        "address = \"127.0.0.1:0\"\nkeepalive_timeout = \"100ms\"\nheader_timeout = \"200ms\"",
    );
    let proxy = Proxy::with(&text).await;
    let mut client = proxy.connect().await;
    for _ in 0..3 {
        client.ask("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert_eq!(client.bytes(4).await, b"here");
    }
    assert!(client.rest().await.is_empty(), "closed when idle");
    let mut slow = proxy.connect().await;
    slow.write("GET / HTTP/1.1\r\nHost").await;
    assert!(slow.rest().await.is_empty(), "a head that does not come to its end is cut");
}

#[tokio::test]
async fn what_never_becomes_a_request_is_cut_and_reported() {
    let text = with_listen("[[route]]\npath = \"/\"\nrespond = { status = 204 }").replace(
        "address = \"127.0.0.1:0\"",
        // A client that sends nothing is not idle after a request: the header timeout is for it.
        "address = \"127.0.0.1:0\"\nkeepalive_timeout = \"1h\"\nheader_timeout = \"100ms\"",
    );
    let mut proxy = Proxy::with(&text).await;
    let mut silent = proxy.connect().await;
    assert!(silent.rest().await.is_empty());
    for (bytes, status, method) in [
        ("GET / HTTP/1.1\r\nHost", 408, "GET"),
        ("no HTTP at all\r\n\r\n", 400, ""),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, ""),
        (&format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(1 << 16)), 431, "GET"),
    ] {
        let mut client = proxy.connect().await;
        client.write(bytes).await;
        client.rest().await;
        let ended = proxy.ended().await;
        assert_eq!(
            (ended.report.status, ended.outcome.ending.cause),
            (status, Cause::Refused),
            "{:.30}",
            bytes
        );
        assert_eq!(ended.report.method(), method);
    }
}

#[tokio::test]
async fn routes_rewrite_set_and_answer() {
    let puppet = Puppet::new().await;
    let proxy = Proxy::start(&format!(
        "[[route]]\npath = \"/api/\"\nupstream = \"up\"\nstrip_prefix = true\nforwarded = \"off\"\n\
         headers = {{ set = {{ Host = \"inner\", X-Own = \"1\" }}, remove = [\"Cookie\"] }}\n\
         response_headers = {{ X-Served-By = \"holdline\" }}\n\
         [[route]]\nhosts = [\"*.example.org\"]\npath_exact = \"/teapot\"\nrespond = {{ status = 418, body = \"short\" }}\n{}",
        upstream(&[puppet.address()], "")
    ))
    .await;
    let mut client = proxy.connect().await;
    client.write("GET /api/room%2F1?q=1 HTTP/1.1\r\nHost: x\r\nCookie: a\r\n\r\n").await;
    let mut server = puppet.accept().await;
    let head = server.head().await;
    assert!(head.starts_with("GET /room/1?q=1 HTTP/1.1\r\n"), "{head}");
    let lower = head.to_ascii_lowercase();
    assert!(lower.contains("host: inner\r\n") && lower.contains("x-own: 1\r\n"), "{head}");
    assert!(!lower.contains("cookie") && !lower.contains("forwarded"), "{head}");
    server.write("HTTP/1.1 204 No Content\r\n\r\n").await;
    let head = client.head().await;
    assert!(head.to_ascii_lowercase().contains("x-served-by: holdline"), "{head}");
    let head = client.ask("GET /teapot HTTP/1.1\r\nHost: tea.example.org\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 418"), "{head}");
    let head = proxy.connect().await.ask("GET /teapot HTTP/1.1\r\nHost: elsewhere\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 404"), "{head}");
}

#[tokio::test]
async fn an_unasked_101_is_a_bad_gateway() {
    let puppet = Puppet::new().await;
    let mut proxy = Proxy::before(&[puppet.address()]).await;
    let mut client = proxy.connect().await;
    client.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let mut server = puppet.accept().await;
    server.head().await;
    server.write("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: tcp\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 502"));
    assert_eq!(proxy.ended().await.outcome.ending.cause, Cause::BadAnswer);
}

#[tokio::test]
async fn failures_have_statuses() {
    let mut proxy = Proxy::before(&[nobody().await]).await;
    let head = proxy.connect().await.ask("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 502"), "{head}");
    assert_eq!(proxy.ended().await.outcome.ending.cause, Cause::Unreachable);
    let head = proxy.connect().await.ask("CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 405"), "{head}");
    let huge = format!("GET / HTTP/1.1\r\nHost: x\r\nX-Big: {}\r\n\r\n", "x".repeat(64 * 1024));
    let head = proxy.connect().await.ask(&huge).await;
    assert!(head.starts_with("HTTP/1.1 431"), "{head}");
}

#[tokio::test]
async fn a_client_that_leaves_is_reported_and_the_upstream_let_go() {
    let puppet = Puppet::new().await;
    let mut proxy = Proxy::start(&format!(
        "{}\n{}",
        route("response_timeout = \"off\""),
        upstream(&[puppet.address()], "")
    ))
    .await;
    let mut client = proxy.connect().await;
    client.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let mut server = puppet.accept().await;
    server.head().await;
    drop(client);
    assert_eq!(proxy.ended().await.report.status, 499);
    let end = tokio::time::timeout(Duration::from_secs(5), server.rest()).await;
    assert!(end.unwrap().is_empty());
}

/// An upstream that answers every request of a connection, and counts connections.
async fn counting() -> (std::net::SocketAddr, std::sync::Arc<std::sync::atomic::AtomicUsize>) {
    let puppet = Puppet::new().await;
    let (address, count) = (puppet.address(), std::sync::Arc::<std::sync::atomic::AtomicUsize>::default());
    let counted = count.clone();
    tokio::spawn(async move {
        loop {
            let mut raw = puppet.accept().await;
            counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            tokio::spawn(async move {
                while !raw.head_or_end().await.is_empty() {
                    raw.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                }
            });
        }
    });
    (address, count)
}

#[tokio::test]
async fn connections_to_the_upstream_are_kept_for_what_can_be_sent_again() {
    let (address, count) = counting().await;
    let proxy = Proxy::before(&[address]).await;
    let mut client = proxy.connect().await;
    for _ in 0..5 {
        assert!(client.ask("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.starts_with("HTTP/1.1 200"));
        client.bytes(2).await;
    }
    assert_eq!(count.load(std::sync::atomic::Ordering::SeqCst), 1);
    for _ in 0..2 {
        client.ask("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").await;
        client.bytes(2).await;
    }
    assert_eq!(count.load(std::sync::atomic::Ordering::SeqCst), 3, "a POST is never sent twice");
}

#[tokio::test]
async fn a_stale_connection_costs_no_client_anything() {
    let puppet = Puppet::new().await;
    let mut proxy = Proxy::before(&[puppet.address()]).await;
    let mut client = proxy.connect().await;
    for _ in 0..3 {
        client.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        // Each connection answers once, and is closed when the next request is on its way.
        let mut server = puppet.accept().await;
        server.head().await;
        server.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        assert!(client.head().await.starts_with("HTTP/1.1 200"));
        client.bytes(2).await;
        let ended = proxy.ended().await;
        assert_eq!((ended.report.status, ended.report.tries), (200, 1));
        tokio::spawn(async move {
            server.head_or_end().await;
        });
    }
    let snapshot = proxy.running.proxy.snapshot.load();
    let endpoint = &snapshot.upstream("up").unwrap().endpoints()[0];
    assert_eq!(
        endpoint.availability(),
        holdline::testing::health::Availability::Up,
        "nor the endpoint its standing"
    );
}

#[tokio::test]
async fn idle_connections_end_by_their_timeout_and_hold_up_no_shutdown() {
    let puppet = Puppet::new().await;
    let settings = "keepalive_timeout = \"50ms\"";
    let proxy = Proxy::start(&format!("{}\n{}", route(""), upstream(&[puppet.address()], settings))).await;
    let mut client = proxy.connect().await;
    for round in 0..2 {
        client.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let mut server = puppet.accept().await;
        server.head().await;
        server.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        client.head().await;
        client.bytes(2).await;
        if round == 0 {
            assert!(server.rest().await.is_empty(), "closed by the proxy");
        } else {
            let ended = proxy.running.shut_down(std::future::pending()).await;
            assert_eq!(ended, holdline::testing::app::Ended::InTime);
            return;
        }
    }
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let puppet = Puppet::new().await;
    let proxy = Proxy::before(&[puppet.address()]).await;
    let mut client = proxy.connect().await;
    let head =
        "POST / HTTP/1.1\r\nHost: x\r\nTE: trailers\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.write(format!("{head}2\r\nhi\r\n0\r\nX-Sum: 7\r\n\r\n")).await;
    let mut server = puppet.accept().await;
    server.head().await;
    let body = server.until_or_end(b"\r\n\r\n").await.unwrap();
    assert!(String::from_utf8(body).unwrap().to_ascii_lowercase().contains("x-sum: 7"));
    server
        .write("HTTP/1.1 200 OK\r\nTrailer: X-Mark\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Mark: 9\r\n\r\n")
        .await;
    client.head().await;
    let body = client.until_or_end(b"\r\n\r\n").await.unwrap();
    assert!(String::from_utf8(body).unwrap().to_ascii_lowercase().contains("x-mark: 9"));
}

#[tokio::test]
async fn both_messages_say_which_way_they_came() {
    let puppet = Puppet::new().await;
    let proxy = Proxy::before(&[puppet.address()]).await;
    let mut client = proxy.connect().await;
    client.write("GET / HTTP/1.0\r\nHost: x\r\nVia: 1.1 before\r\n\r\n").await;
    let mut server = puppet.accept().await;
    let head = server.head().await;
    assert!(head.contains("Via: 1.1 before, 1.0 holdline\r\n"), "{head}");
    server.write("HTTP/1.1 200 OK\r\nDate: Sat, 21 Nov 2026 00:00:00 GMT\r\nContent-Length: 0\r\n\r\n").await;
    let head = client.head().await.to_ascii_lowercase();
    assert!(head.contains("via: 1.1 holdline\r\n"), "{head}");
    assert_eq!(head.matches("\r\ndate:").count(), 1, "the origin's own: {head}");
}

#[tokio::test]
async fn an_expectation_is_answered_here() {
    let puppet = Puppet::new().await;
    let proxy = Proxy::before(&[puppet.address()]).await;
    let mut client = proxy.connect().await;
    let head =
        client.ask("POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n").await;
    assert_eq!(head, "HTTP/1.1 100 Continue\r\n\r\n");
    client.write("hello").await;
    let mut server = puppet.accept().await;
    assert!(!server.head().await.to_ascii_lowercase().contains("expect"));
    assert_eq!(server.bytes(5).await, b"hello");
    server.write("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 204"));
}

#[tokio::test]
async fn a_head_has_the_length_and_no_body() {
    let puppet = Puppet::new().await;
    let proxy = Proxy::before(&[puppet.address()]).await;
    let mut client = proxy.connect().await;
    client.write("HEAD / HTTP/1.1\r\nHost: x\r\n\r\nGET /next HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let mut server = puppet.accept().await;
    assert!(server.head().await.starts_with("HEAD / "));
    server.write("HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n").await;
    let head = client.head().await.to_ascii_lowercase();
    assert!(head.contains("content-length: 1234"), "{head}");
    assert!(server.head().await.starts_with("GET /next "), "the next one, over the same connection");
    server.write("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 204"));
}

#[tokio::test]
async fn an_upload_may_be_answered_before_its_end() {
    let puppet = Puppet::new().await;
    let proxy = Proxy::before(&[puppet.address()]).await;
    let mut client = proxy.connect().await;
    client.write("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nonly the beginning").await;
    let mut server = puppet.accept().await;
    server.head().await;
    server.write("HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno!").await;
    assert!(client.head().await.starts_with("HTTP/1.1 413"));
    assert_eq!(client.bytes(3).await, b"no!");
}

#[tokio::test]
async fn events_arrive_one_by_one_and_a_client_that_goes_ends_the_stream() {
    let puppet = Puppet::new().await;
    let mut proxy = Proxy::before(&[puppet.address()]).await;
    let mut client = proxy.connect().await;
    client.write("GET /events HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let mut server = puppet.accept().await;
    server.head().await;
    server.write("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n").await;
    client.head().await;
    for number in 0..3 {
        server.write(format!("data: {number}\n\n")).await;
        let event = client.until_or_end(b"\n\n").await.unwrap();
        assert!(String::from_utf8(event).unwrap().contains(&format!("data: {number}")));
    }
    drop(client);
    assert!(server.rest().await.is_empty());
    assert_eq!(proxy.ended().await.outcome.ending.cause, Cause::Eof);
}

/// Opens a connection and has it refused, so often: each is several turns of the proxy.
async fn turns(proxy: &Proxy, count: usize) {
    for _ in 0..count {
        let head = proxy.connect().await.ask("GET / HTTP/1.1\r\nHost: x y\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 400"), "{head}");
    }
}

#[tokio::test]
async fn large_bodies_pass_in_small_memory() {
    const LENGTH: usize = 64 << 20;
    let puppet = Puppet::new().await;
    let proxy = Proxy::before(&[puppet.address()]).await;
    let mut client = proxy.connect().await;
    client.write(format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {LENGTH}\r\n\r\n")).await;
    let mut server = puppet.accept().await;
    server.head().await;
    // The upstream reads nothing yet: what is taken from the client beyond the kernel's buffers is
    // what is held here.
    let piece = vec![7; 64 << 10];
    let mut sent = 0;
    loop {
        tokio::select! {
            biased;
            length = client.write_some(&piece) => sent += length,
            // The proxy, on this thread, has had many turns in which it read nothing.
            () = turns(&proxy, 20) => break,
        }
        assert!(sent < 40 << 20, "it takes without end");
    }
    let rest = tokio::spawn(async move {
        client.write(vec![7; LENGTH - sent]).await;
        client
    });
    assert_eq!(server.bytes(LENGTH).await.len(), LENGTH);
    server.write("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert!(rest.await.unwrap().head().await.starts_with("HTTP/1.1 204"));
}

#[tokio::test]
async fn an_upload_that_breaks_off_is_not_the_upstreams_fault() {
    let puppet = Puppet::new().await;
    let servers = upstream(&[puppet.address()], "max_fails = 1\nfail_timeout = \"1h\"\n");
    let mut proxy = Proxy::start(&format!("{}\n{servers}", route(""))).await;
    for _ in 0..3 {
        let mut client = proxy.connect().await;
        client.write("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhello").await;
        let mut server = puppet.accept().await;
        server.head().await;
        assert_eq!(server.bytes(5).await, b"hello");
        drop(client);
        assert_eq!(server.rest().await, b"", "the upstream learns of it by the end");
        let ended = proxy.ended().await;
        assert_eq!(
            (ended.outcome.ending.ended_by, ended.report.status),
            (EndedBy::Client, 499),
            "{:?}",
            ended.outcome.ending
        );
    }
    let up = proxy.running.proxy.snapshot.load().upstream("up").unwrap().clone();
    assert_eq!(up.endpoints()[0].availability(), Availability::Up);
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_however_it_comes() {
    let puppet = Puppet::new().await;
    let servers = upstream(&[puppet.address()], "max_fails = 1\nfail_timeout = \"1h\"\n");
    let mut proxy = Proxy::start(&format!("{}\n{servers}", route("max_body_size = \"8\""))).await;
    let mut client = proxy.connect().await;
    let head = client.ask("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 413"), "{head}");
    let ended = proxy.ended().await;
    assert_eq!(
        (ended.outcome.ending.ended_by, ended.outcome.ending.cause, ended.report.tries),
        (EndedBy::Proxy, Cause::TooBig, 0)
    );

    let mut client = proxy.connect().await;
    client.write("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
    let mut server = puppet.accept().await;
    server.head().await;
    assert_eq!(server.bytes(10).await, b"5\r\nhello\r\n");
    client.write("4\r\nmore\r\n").await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 413"), "{head}");
    assert_eq!(server.rest().await, b"", "it never sees an end that is none");
    assert_eq!(proxy.ended().await.outcome.ending.cause, Cause::TooBig);
    let up = proxy.running.proxy.snapshot.load().upstream("up").unwrap().clone();
    assert_eq!(up.endpoints()[0].availability(), Availability::Up);

    let mut client = proxy.connect().await;
    client.write("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\nof eight").await;
    let mut server = puppet.accept().await;
    server.head().await;
    assert_eq!(server.bytes(8).await, b"of eight");
}

/// A proxy that does not wait long for bodies.
async fn impatient(server: std::net::SocketAddr) -> Proxy {
    let rest = format!("{}\n{}", route(""), upstream(&[server], ""));
    let listen = "address = \"127.0.0.1:0\"\nbody_timeout = \"300ms\"";
    Proxy::with(&with_listen(&rest).replace("address = \"127.0.0.1:0\"", listen)).await
}

#[tokio::test]
async fn a_body_that_stops_is_waited_for_no_longer_than_body_timeout() {
    let puppet = Puppet::new().await;
    let mut proxy = impatient(puppet.address()).await;
    let mut client = proxy.connect().await;
    client.write("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nbegun").await;
    let mut server = puppet.accept().await;
    server.head().await;
    assert!(client.head().await.starts_with("HTTP/1.1 408"));
    assert_eq!(server.rest().await, b"begun", "the upstream is left");
    let ended = proxy.ended().await;
    assert_eq!(
        (ended.report.status, &*ended.outcome.ending.reason),
        (408, "nothing of the request's body came within body_timeout")
    );
}

#[tokio::test]
async fn an_answer_that_is_not_taken_is_held_no_longer_than_body_timeout() {
    let page = "GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned();
    for request in [page, support::ws_request("/", "")] {
        let puppet = Puppet::new().await;
        let mut proxy = impatient(puppet.address()).await;
        let mut client = proxy.connect().await;
        client.write(request).await;
        let mut server = puppet.accept().await;
        server.head().await;
        server.write("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await;
        let flood = async { while server.stream.write_all(&[0; 65_536]).await.is_ok() {} };
        timeout(PATIENCE, flood).await.expect("an end in time");
        let ended = proxy.ended().await;
        assert_eq!(
            (ended.outcome.ending.ended_by, ended.outcome.ending.cause),
            (EndedBy::Client, Cause::SendTimeout)
        );
    }
}

/// Waits until another client's body, which stops only now, was waited for as long as bodies are.
async fn outlast_body_timeout(proxy: &Proxy, puppet: &Puppet) {
    // Whoever waited before is looked at once more, at the latest, before the second one is cut.
    for _ in 0..2 {
        let mut other = proxy.connect().await;
        other.write("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nbegun").await;
        let mut server = puppet.accept().await;
        server.head().await;
        assert!(other.head().await.starts_with("HTTP/1.1 408"));
    }
}

#[tokio::test]
async fn an_upstream_that_takes_its_time_is_not_the_clients_fault() {
    let puppet = Puppet::new().await;
    let proxy = impatient(puppet.address()).await;
    let mut client = proxy.connect().await;
    client.write("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi").await;
    let mut server = puppet.accept().await;
    server.head().await;
    outlast_body_timeout(&proxy, &puppet).await;
    server.write("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbe").await;
    assert!(client.head().await.starts_with("HTTP/1.1 200"));
    outlast_body_timeout(&proxy, &puppet).await;
    server.write("en").await;
    assert_eq!(client.bytes(4).await, b"been");
}
