//! Open tunnels: how they end and what each side is told.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use holdline::testing::outcome::{Cause, EndedBy, Side};
use holdline::testing::ws::frame::OpCode;
use holdline::testing::ws::mask::MaskKey;
use socket2::SockRef;
use std::time::Duration;
use support::{Proxy, Puppet, Raw, accepted, echo, frame, route, upstream, ws_request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// A client and an upstream with an open tunnel between them.
async fn pair(settings: &str) -> (Proxy, Raw, Raw) {
    let puppet = Puppet::new().await;
    let proxy = Proxy::start(&format!("{}\n{}", route(settings), upstream(&[puppet.address()], ""))).await;
    let mut client = proxy.connect().await;
    client.write(ws_request("/", "")).await;
    let (server, _) = puppet.open().await;
    client.head().await;
    (proxy, client, server)
}

fn reset(raw: Raw) {
    SockRef::from(&raw.stream).set_linger(Some(Duration::ZERO)).unwrap();
}

#[tokio::test]
async fn an_upstream_that_dies_is_told_as_1014() {
    let (mut proxy, mut client, server) = pair("").await;
    reset(server);
    let close = client.close().await;
    assert_eq!((close.code.0, &*close.text), (1014, "upstream reset the connection"));
    assert!(client.rest().await.is_empty());
    drop(client);
    let ended = proxy.ended().await;
    assert_eq!(
        (ended.outcome.ending.ended_by, ended.outcome.ending.cause),
        (EndedBy::Upstream, Cause::Reset)
    );
}

#[tokio::test]
async fn an_upstream_that_leaves_without_a_close_is_told_as_1014() {
    let (mut proxy, mut client, server) = pair("").await;
    drop(server);
    assert_eq!(client.close().await.code.0, 1014);
    drop(client);
    let ended = proxy.ended().await;
    assert_eq!((ended.outcome.ending.ended_by, ended.outcome.ending.cause), (EndedBy::Upstream, Cause::Eof));
}

#[tokio::test]
async fn a_client_that_dies_is_told_as_1001() {
    let (mut proxy, client, mut server) = pair("").await;
    reset(client);
    let close = server.close().await;
    assert_eq!((close.code.0, &*close.text), (1001, "client reset the connection"));
    drop(server);
    let ended = proxy.ended().await;
    assert_eq!((ended.outcome.ending.ended_by, ended.outcome.ending.cause), (EndedBy::Client, Cause::Reset));
}

#[tokio::test]
async fn in_the_middle_of_a_frame_the_connection_is_cut() {
    let (mut proxy, mut client, mut server) = pair("").await;
    let message = frame(OpCode::Binary, &[7; 100], None);
    server.write(&message[..50]).await;
    assert_eq!(client.bytes(50).await, message[..50]);
    reset(server);
    assert!(client.rest().await.is_empty(), "nothing could be said");
    let ended = proxy.ended().await;
    assert_eq!((ended.outcome.ending.cause, ended.outcome.ending.code), (Cause::Reset, None));
}

#[tokio::test]
async fn pings_go_both_ways_and_their_pongs_no_further() {
    let (mut proxy, mut client, mut server) =
        pair("ping = { client = \"20ms\", upstream = \"20ms\", timeout = \"10s\" }").await;
    for _ in 0..3 {
        let (opcode, payload) = client.frame().await;
        assert_eq!(opcode, OpCode::Ping);
        client.send(OpCode::Pong, &payload).await;
        let (opcode, payload) = server.frame().await;
        assert_eq!(opcode, OpCode::Ping, "and no pong of the client's");
        server.write(frame(OpCode::Pong, &payload, None)).await;
    }
    server.write(frame(OpCode::Close, &1000_u16.to_be_bytes(), None)).await;
    while client.frame().await.0 != OpCode::Close {}
    client.send(OpCode::Close, &1000_u16.to_be_bytes()).await;
    drop((client, server));
    let ended = proxy.ended().await;
    let traffic = &ended.outcome.traffic;
    assert!(traffic[Side::Client].pongs >= 3 && traffic[Side::Upstream].pongs >= 3, "{traffic:?}");
    assert!(traffic[Side::Client].last_rtt.is_some());
    assert_eq!(
        (ended.outcome.ending.ended_by, ended.outcome.ending.code.unwrap().0),
        (EndedBy::Upstream, 1000)
    );
}

#[tokio::test]
async fn a_client_that_answers_no_ping_is_unresponsive() {
    let (mut proxy, mut client, mut server) =
        pair("ping = { client = \"20ms\", upstream = \"off\", timeout = \"30ms\" }").await;
    assert_eq!(client.frame().await.0, OpCode::Ping);
    let close = server.close().await;
    assert_eq!((close.code.0, &*close.text), (1001, "client did not answer a ping"));
    assert_eq!(client.close().await.code.0, 1001);
    drop(server);
    let ended = proxy.ended().await;
    assert_eq!(
        (ended.outcome.ending.ended_by, ended.outcome.ending.cause),
        (EndedBy::Client, Cause::Unresponsive)
    );
    assert!(ended.outcome.idle[Side::Client] >= Duration::from_millis(48), "{:?}", ended.outcome.idle);
}

#[tokio::test]
async fn timeouts_and_limits_close_with_words() {
    for (settings, cause, code) in [
        ("read_timeout = \"30ms\"", Cause::ReadTimeout, 1001),
        ("max_lifetime = \"30ms\"", Cause::Lifetime, 1001),
    ] {
        let (mut proxy, mut client, mut server) = pair(settings).await;
        assert_eq!(client.close().await.code.0, code);
        assert_eq!(server.close().await.code.0, code);
        drop((client, server));
        let ended = proxy.ended().await;
        assert_eq!((ended.outcome.ending.ended_by, ended.outcome.ending.cause), (EndedBy::Proxy, cause));
    }
    let (mut proxy, mut client, mut server) = pair("max_message_size = \"1k\"").await;
    client.send(OpCode::Text, &[b'x'; 1025]).await;
    assert_eq!(client.close().await.code.0, 1009);
    assert_eq!(server.close().await.code.0, 1001);
    drop((client, server));
    assert_eq!(proxy.ended().await.outcome.ending.cause, Cause::TooBig);
}

#[tokio::test]
async fn violations_pass_or_close_as_the_route_says() {
    let bad = [0x83, 0x80, 0, 0, 0, 0];
    let (mut proxy, mut client, mut server) = pair("").await;
    client.write(bad).await;
    assert_eq!(server.bytes(6).await, bad, "the endpoints judge it themselves");
    drop((client, server));
    assert_eq!(proxy.ended().await.outcome.blind, Some("reserved opcode"));

    let (_proxy, mut client, mut server) = pair("on_violation = \"close\"").await;
    client.write(bad).await;
    assert_eq!((client.close().await.code.0, server.close().await.code.0), (1002, 1002));
}

#[tokio::test]
async fn an_unknown_extension_makes_the_tunnel_blind() {
    let puppet = Puppet::new().await;
    let mut proxy = Proxy::start(&format!("{}\n{}", route(""), upstream(&[puppet.address()], ""))).await;
    let mut client = proxy.connect().await;
    client.write(ws_request("/", "Sec-WebSocket-Extensions: x-own\r\n")).await;
    let mut server = puppet.accept().await;
    server.head().await;
    server.write(accepted("Sec-WebSocket-Extensions: x-own\r\n")).await;
    client.head().await;
    server.write([0xf2, 0x01, 7]).await;
    assert_eq!(client.bytes(3).await, [0xf2, 0x01, 7]);
    drop((client, server));
    let ended = proxy.ended().await;
    assert_eq!(ended.outcome.blind, Some("unknown extension"));
    assert_eq!(ended.report.extensions(), Some("x-own"));
}

#[tokio::test]
async fn a_client_that_does_not_mask_its_pongs_stays_connected() {
    for on_violation in ["blind", "close"] {
        let settings = format!(
            "on_violation = \"{on_violation}\"\nping = {{ client = \"20ms\", upstream = \"off\", timeout = \"10s\" }}"
        );
        let (mut proxy, mut client, mut server) = pair(&settings).await;
        for _ in 0..3 {
            let (opcode, payload) = client.frame().await;
            assert_eq!(opcode, OpCode::Ping);
            client.write(frame(OpCode::Pong, &payload, None)).await;
        }
        client.send(OpCode::Text, b"still here").await;
        assert_eq!(server.frame().await, (OpCode::Text, b"still here".to_vec()), "and no pong before it");
        client.send(OpCode::Close, &1000_u16.to_be_bytes()).await;
        assert_eq!(server.frame().await.0, OpCode::Close);
        drop((client, server));
        let ended = proxy.ended().await;
        assert_eq!((ended.outcome.blind, ended.outcome.ending.cause), (None, Cause::Close));
        assert!(ended.outcome.traffic[Side::Client].pongs >= 3);
    }
}

#[tokio::test]
async fn an_upstream_that_answers_in_fragments_does_not_reach_the_client() {
    for mask in [None, Some(MaskKey([1, 2, 3, 4]))] {
        let (_proxy, mut client, mut server) =
            pair("ping = { client = \"off\", upstream = \"20ms\", timeout = \"10s\" }").await;
        for _ in 0..3 {
            let (opcode, payload) = server.frame().await;
            assert_eq!(opcode, OpCode::Ping);
            let mut pong = frame(OpCode::Pong, &payload, mask);
            pong[0] &= 0x7f;
            server.write(pong).await;
            server.write(frame(OpCode::Text, b"tick", None)).await;
            assert_eq!(client.frame().await, (OpCode::Text, b"tick".to_vec()));
        }
    }
}

/// A client and an upstream with an open tunnel between them that is no WebSocket.
async fn other_pair(settings: &str) -> (Proxy, Raw, Raw) {
    let puppet = Puppet::new().await;
    let proxy = Proxy::start(&format!("{}\n{}", route(settings), upstream(&[puppet.address()], ""))).await;
    let mut client = proxy.connect().await;
    client.write("GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n").await;
    let mut server = puppet.accept().await;
    server.head().await;
    server.write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n").await;
    client.head().await;
    (proxy, client, server)
}

#[tokio::test]
async fn the_answer_to_an_end_of_stream_comes_behind_it() {
    let (mut proxy, mut client, mut server) = other_pair("").await;
    client.write("input").await;
    client.stream.shutdown().await.unwrap();
    assert_eq!(server.rest().await, b"input");
    server.write("result").await;
    drop(server);
    assert_eq!(client.rest().await, b"result");
    let ended = proxy.ended().await;
    assert_eq!((ended.outcome.ending.ended_by, ended.outcome.ending.cause), (EndedBy::Client, Cause::Eof));
}

#[tokio::test]
async fn what_is_cut_is_reset_so_that_nobody_takes_it_for_whole() {
    for half_closed in [true, false] {
        let (mut proxy, mut client, mut server) = other_pair("read_timeout = \"100ms\"").await;
        if half_closed {
            client.stream.shutdown().await.unwrap();
            assert_eq!(server.rest().await, b"");
        }
        server.write("half").await;
        assert_eq!(client.bytes(4).await, b"half");
        let cut = client.stream.read(&mut [0]).await.map_err(|error| error.kind());
        assert_eq!(cut, Err(std::io::ErrorKind::ConnectionReset), "half-closed: {half_closed}");
        assert_eq!(proxy.ended().await.outcome.ending.cause, Cause::ReadTimeout);
    }
}

#[tokio::test]
async fn a_client_that_goes_behind_its_end_of_stream_ends_the_tunnel() {
    let (mut proxy, mut client, mut server) = other_pair("").await;
    client.stream.shutdown().await.unwrap();
    assert_eq!(server.rest().await, b"");
    reset(client);
    // The runtime does not tell of it: there, bytes for it find that it is gone.
    if std::env::var("HOLDLINE_TEST_ENGINE").is_ok() {
        server.write("more").await;
    }
    let ended = proxy.ended().await;
    assert_eq!((ended.outcome.ending.ended_by, ended.outcome.ending.cause), (EndedBy::Client, Cause::Reset));
}

#[tokio::test]
async fn a_slow_reader_holds_up_only_its_own_writer() {
    let (_proxy, mut client, mut server) = pair("").await;
    let big = frame(OpCode::Binary, &vec![7; 32 << 20], None);
    let length = big.len();
    let writer = tokio::spawn(async move {
        server.write(&big).await;
        server
    });
    // The other direction goes on while this one is full.
    client.send(OpCode::Text, b"still heard").await;
    let received = client.bytes(length).await;
    assert!(received[10..].iter().all(|&byte| byte == 7));
    let mut server = writer.await.unwrap();
    assert_eq!(server.frame().await, (OpCode::Text, b"still heard".to_vec()));
}

#[tokio::test]
async fn ten_thousand_messages_arrive_in_order() {
    let proxy = Proxy::before(&[echo().await]).await;
    let mut client = proxy.open("/").await;
    for number in 0..10_000_u32 {
        client.send(OpCode::Binary, &number.to_be_bytes()).await;
        if number % 100 == 99 {
            for expected in number - 99..=number {
                assert_eq!(client.frame().await, (OpCode::Binary, expected.to_be_bytes().to_vec()));
            }
        }
    }
}
