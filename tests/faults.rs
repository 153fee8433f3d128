//! What goes wrong at either end, in each phase: the right status and report, and nothing left behind.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use holdline::testing::outcome::{Cause, EndedBy};
use holdline::testing::ws::frame::OpCode;
use socket2::SockRef;
use std::time::Duration;
use support::{Proxy, Puppet, Raw, accepted, frame, route, upstream, ws_request};

/// A proxy before one puppet, with what it held when nothing was open.
struct Rig {
    proxy: Proxy,
    puppet: Puppet,
    permits: usize,
}

impl Rig {
    async fn new(settings: &str) -> Self {
        let puppet = Puppet::new().await;
        // One endpoint that is never taken out: each fault is seen by itself.
        let up = upstream(&[puppet.address()], "max_fails = 0\nretry = \"off\"");
        let proxy = Proxy::start(&format!("{}\n{up}", route(settings))).await;
        let permits = proxy.running.permits();
        Self { proxy, puppet, permits }
    }

    /// A client that has sent its handshake, and the upstream that has read it.
    async fn asked(&self) -> (Raw, Raw) {
        let mut client = self.proxy.connect().await;
        client.write(ws_request("/", "")).await;
        let mut server = self.puppet.accept().await;
        server.head().await;
        (client, server)
    }

    /// What is reported; afterwards no task, no tunnel and no lease may be left.
    async fn ends_as(&mut self, status: u16, ended_by: EndedBy, cause: Cause) {
        let ended = self.proxy.ended().await;
        assert_eq!(
            (ended.report.status, ended.outcome.ending.ended_by, ended.outcome.ending.cause),
            (status, ended_by, cause)
        );
        let is_clean = || {
            let proxy = &self.proxy.running.proxy;
            let active: u32 =
                proxy.snapshot.load().upstreams().flat_map(|up| up.endpoints()).map(|e| e.active()).sum();
            self.proxy.running.permits() == self.permits && proxy.tunnels.count() == 0 && active == 0
        };
        let clean = async {
            while !is_clean() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let left = tokio::time::timeout(support::PATIENCE, clean).await;
        assert!(left.is_ok(), "{} permits, {} before", self.proxy.running.permits(), self.permits);
    }
}

fn reset(raw: Raw) {
    SockRef::from(&raw.stream).set_linger(Some(Duration::ZERO)).unwrap();
}

#[tokio::test]
async fn an_upstream_that_resets_instead_of_answering() {
    let mut rig = Rig::new("").await;
    let (mut client, server) = rig.asked().await;
    reset(server);
    assert!(client.head().await.starts_with("HTTP/1.1 502"));
    drop(client);
    rig.ends_as(502, EndedBy::Upstream, Cause::Eof).await;
}

#[tokio::test]
async fn an_upstream_that_answers_half_a_head() {
    for half in ["HTTP/1.1 101 Switching Pro", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: webso"] {
        let mut rig = Rig::new("").await;
        let (mut client, mut server) = rig.asked().await;
        server.write(half).await;
        drop(server);
        assert!(client.head().await.starts_with("HTTP/1.1 502"));
        drop(client);
        rig.ends_as(502, EndedBy::Upstream, Cause::Eof).await;
    }
}

#[tokio::test]
async fn an_upstream_that_stops_in_the_middle_of_its_head() {
    let mut rig = Rig::new("response_timeout = \"50ms\"").await;
    let (mut client, mut server) = rig.asked().await;
    server.write("HTTP/1.1 101 Switch").await;
    assert!(client.head().await.starts_with("HTTP/1.1 504"));
    drop(client);
    rig.ends_as(504, EndedBy::Upstream, Cause::ResponseTimeout).await;
}

#[tokio::test]
async fn an_upstream_that_speaks_no_http() {
    for words in
        ["SSH-2.0-OpenSSH_9.2\r\n", "\x15\x03\x01\x00\x02\x02\x28", "HTTP/9.9 200 OK\r\n\r\n", "\r\n\r\n\r\n"]
    {
        let mut rig = Rig::new("").await;
        let (mut client, mut server) = rig.asked().await;
        server.write(words).await;
        drop(server);
        assert!(client.head().await.starts_with("HTTP/1.1 502"), "{words:?}");
        drop(client);
        let ended = rig.proxy.ended().await;
        assert_eq!(
            (ended.report.status, ended.outcome.ending.ended_by),
            (502, EndedBy::Upstream),
            "{words:?}"
        );
    }
}

#[tokio::test]
async fn an_upstream_that_is_gone_right_behind_its_101() {
    let mut rig = Rig::new("").await;
    let (mut client, mut server) = rig.asked().await;
    server.write(accepted("")).await;
    drop(server);
    assert!(client.head().await.starts_with("HTTP/1.1 101"));
    assert_eq!(client.close().await.code.0, 1014);
    drop(client);
    rig.ends_as(101, EndedBy::Upstream, Cause::Eof).await;
}

#[tokio::test]
async fn an_upstream_that_accepts_nothing() {
    // Its queue is full: connects are not answered.
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    listener.bind(&any.into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let _queued = std::net::TcpStream::connect(address).unwrap();
    let config = format!("{}\n{}", route("connect_timeout = \"100ms\""), upstream(&[address], ""));
    let mut proxy = Proxy::start(&config).await;
    let head = proxy.connect().await.ask(&ws_request("/", "")).await;
    assert!(head.starts_with("HTTP/1.1 504"), "{head}");
    let ended = proxy.ended().await;
    assert_eq!(
        (ended.outcome.ending.ended_by, ended.outcome.ending.cause),
        (EndedBy::Upstream, Cause::Unreachable)
    );
}

#[tokio::test]
async fn a_client_that_vanishes_before_the_answer() {
    for vanish in [drop::<Raw>, reset] {
        let mut rig = Rig::new("").await;
        let (client, mut server) = rig.asked().await;
        vanish(client);
        assert!(server.rest().await.is_empty(), "the upstream is let go");
        rig.ends_as(499, EndedBy::Client, Cause::Eof).await;
    }
}

#[tokio::test]
async fn a_client_that_vanishes_while_it_is_answered() {
    let mut rig = Rig::new("").await;
    let (client, mut server) = rig.asked().await;
    // Both at once: whichever the proxy sees first, the end is the client's.
    reset(client);
    let _ = tokio::io::AsyncWriteExt::write_all(&mut server.stream, accepted("").as_bytes()).await;
    server.rest().await;
    drop(server);
    let ended = rig.proxy.ended().await;
    assert_eq!(ended.outcome.ending.ended_by, EndedBy::Client);
    if ended.report.status == 101 {
        // It never opened, and its place is free when its end is written.
        let snapshot = rig.proxy.running.proxy.snapshot.load();
        assert_eq!(snapshot.upstream("up").unwrap().endpoints()[0].active(), 0);
        assert_eq!(rig.proxy.running.proxy.tunnels.count(), 0);
    }
}

#[tokio::test]
async fn a_client_that_vanishes_in_the_middle_of_a_frame() {
    let mut rig = Rig::new("").await;
    let (mut client, mut server) = rig.asked().await;
    server.write(accepted("")).await;
    client.head().await;
    let message = frame(OpCode::Binary, &[7; 1000], Some(holdline::testing::ws::mask::MaskKey([1; 4])));
    client.write(&message[..500]).await;
    assert_eq!(server.bytes(500).await, message[..500]);
    reset(client);
    assert!(server.rest().await.is_empty(), "no Close fits into a frame");
    drop(server);
    rig.ends_as(101, EndedBy::Client, Cause::Reset).await;
}

#[tokio::test]
async fn a_client_that_reads_nothing_more_ends_by_the_send_timeout() {
    let mut rig = Rig::new("send_timeout = \"200ms\"\nclose_timeout = \"100ms\"").await;
    let (mut client, mut server) = rig.asked().await;
    server.write(accepted("")).await;
    client.head().await;
    let flood = tokio::spawn(async move {
        let piece = frame(OpCode::Binary, &[7; 60_000], None);
        while tokio::io::AsyncWriteExt::write_all(&mut server.stream, &piece).await.is_ok() {}
        server
    });
    let server = flood.await.unwrap();
    drop(server);
    rig.ends_as(101, EndedBy::Client, Cause::SendTimeout).await;
    drop(client);
}

#[tokio::test]
async fn a_full_disk_under_the_log_stops_nothing() {
    let config = "[log]\naccess = \"/dev/full\"\n[[listen]]\naddress = \"127.0.0.1:0\"\n\
                  [[route]]\npath = \"/\"\nrespond = { status = 204 }";
    let mut proxy = Proxy::with(config).await;
    let mut client = proxy.connect().await;
    for _ in 0..2000 {
        assert!(client.ask("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.starts_with("HTTP/1.1 204"));
        assert_eq!(proxy.ended().await.report.status, 204);
    }
    drop(client);
    assert_eq!(proxy.running.shut_down(std::future::pending()).await, holdline::testing::app::Ended::InTime);
}
