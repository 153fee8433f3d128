//! The end of the proxy: what is open closes with words, and nothing remains.

mod support;

use holdline::testing::app::Ended;
use holdline::testing::outcome::{Cause, EndedBy};
use holdline::testing::ws::frame::OpCode;
use std::future::{pending, ready};
use std::time::{Duration, Instant};
use support::{Proxy, Puppet, echo, route, upstream, ws_request};

fn config(server: std::net::SocketAddr, grace: &str, spread: &str) -> String {
    format!(
        "[process]\nshutdown_grace = \"{grace}\"\ndrain_spread = \"{spread}\"\n{}\n{}",
        route(""),
        upstream(&[server], "")
    )
}

#[tokio::test]
async fn tunnels_are_told_1001_and_no_task_remains() {
    let proxy = Proxy::start(&config(echo().await, "10s", "50ms")).await;
    let address = proxy.address;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(proxy.open("/").await);
    }
    let mut reports = proxy.running.proxy.log.subscribe();
    assert!(proxy.running.permits() >= 20);
    let sessions = proxy.running.proxy.tunnels.clone();
    let ending = tokio::spawn(proxy.running.shut_down(pending()));
    for client in &mut clients {
        let close = client.close().await;
        assert_eq!((close.code.0, &*close.text), (1001, "proxy is shutting down"));
        client.send(OpCode::Close, &1001_u16.to_be_bytes()).await;
    }
    let started = Instant::now();
    assert_eq!(ending.await.unwrap(), Ended::InTime, "nothing had to be cut: no task and no permit remains");
    assert!(started.elapsed() < Duration::from_secs(5), "it waits for nobody who has left");
    assert_eq!(sessions.count(), 0);
    for _ in 0..20 {
        let ended = reports.recv().await.unwrap();
        assert_eq!(
            (ended.outcome.ending.ended_by, ended.outcome.ending.cause),
            (EndedBy::Proxy, Cause::Shutdown)
        );
    }
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn requests_under_way_are_finished() {
    let puppet = Puppet::new().await;
    let proxy = Proxy::start(&config(puppet.address(), "10s", "0s")).await;
    let mut client = proxy.connect().await;
    client.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let mut server = puppet.accept().await;
    server.head().await;
    let mut late = proxy.connect().await;
    late.write(ws_request("/late", "")).await;
    let mut handshake_server = puppet.accept().await;
    handshake_server.head().await;
    let ending = tokio::spawn(proxy.running.shut_down(pending()));
    tokio::task::yield_now().await;
    server.write("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone").await;
    assert!(client.head().await.starts_with("HTTP/1.1 200"));
    assert_eq!(client.bytes(4).await, b"done");
    assert!(client.rest().await.is_empty(), "and the connection is closed");
    // A handshake under way opens, and is closed with words like the others.
    handshake_server.write(support::accepted("")).await;
    assert!(late.head().await.starts_with("HTTP/1.1 101"));
    assert_eq!(late.close().await.code.0, 1001);
    assert_eq!(handshake_server.close().await.code.0, 1001);
    drop((late, handshake_server));
    assert_eq!(ending.await.unwrap(), Ended::InTime);
}

#[tokio::test]
async fn what_does_not_end_is_cut_and_reported() {
    let puppet = Puppet::new().await;
    let proxy = Proxy::start(&config(puppet.address(), "100ms", "0s")).await;
    let mut client = proxy.connect().await;
    client.write(ws_request("/", "")).await;
    let (server, _) = puppet.open().await;
    client.head().await;
    let mut reports = proxy.running.proxy.log.subscribe();
    // Neither side answers the Close.
    assert_eq!(proxy.running.shut_down(pending()).await, Ended::Cut);
    assert_eq!(client.close().await.code.0, 1001);
    let ended = reports.recv().await.unwrap();
    assert_eq!(
        (ended.outcome.ending.ended_by, ended.outcome.ending.cause),
        (EndedBy::Proxy, Cause::Shutdown)
    );
    drop(server);
}

#[tokio::test]
async fn who_waits_to_be_accepted_is_served() {
    // One thread: the accept loop cannot run before the shutdown has begun.
    let proxy = Proxy::start(&config(echo().await, "10s", "0s")).await;
    let mut queued = std::net::TcpStream::connect(proxy.address).unwrap();
    std::io::Write::write_all(&mut queued, b"GET /x HTTP/1.1\r\n").unwrap();
    let ending = tokio::spawn(proxy.running.shut_down(pending()));
    queued.set_nonblocking(true).unwrap();
    let mut raw = support::Raw::new(tokio::net::TcpStream::from_std(queued).unwrap());
    let head = raw.ask("Connection: keep-alive\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 400"), "an answer, be it that the Host is missing: {head}");
    assert_eq!(ending.await.unwrap(), Ended::InTime);
}

#[tokio::test]
async fn a_second_signal_cuts_at_once_and_still_tells_everybody() {
    let puppet = Puppet::new().await;
    let proxy = Proxy::start(&config(puppet.address(), "1h", "1h")).await;
    let mut client = proxy.connect().await;
    client.write(ws_request("/", "")).await;
    let (mut server, _) = puppet.open().await;
    client.head().await;
    let mut reports = proxy.running.proxy.log.subscribe();
    assert_eq!(proxy.running.shut_down(ready(())).await, Ended::AtOnce);
    assert_eq!((client.close().await.code.0, server.close().await.code.0), (1001, 1001));
    assert_eq!(reports.recv().await.unwrap().outcome.ending.cause, Cause::Shutdown, "and not aborted");
}

#[tokio::test]
async fn a_request_that_is_cut_was_not_left_by_its_client() {
    let puppet = Puppet::new().await;
    let proxy = Proxy::start(&config(puppet.address(), "50ms", "0s")).await;
    let mut client = proxy.connect().await;
    client.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let mut server = puppet.accept().await;
    server.head().await;
    let mut reports = proxy.running.proxy.log.subscribe();
    assert_eq!(proxy.running.shut_down(pending()).await, Ended::Cut);
    let ended = reports.recv().await.unwrap();
    assert_eq!(
        (ended.outcome.ending.ended_by, ended.outcome.ending.cause),
        (EndedBy::Proxy, Cause::Shutdown)
    );
}
