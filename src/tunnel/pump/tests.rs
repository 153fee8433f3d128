//! Tests of the tokio driver over pipes in memory, with a paused clock.

mod sends;
mod stalls;

use super::*;
use crate::io::Stream;
use crate::outcome::{Cause, EndedBy, Side};
use crate::tunnel::Blind;
use crate::tunnel::session::{FRAMES_PER_TURN, READS_PER_TURN, SCRATCH};
use crate::ws::close::{CloseCode, CloseReason};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf, duplex};
use tokio::task::JoinHandle;
use tokio::time::Instant;

impl Readiness for DuplexStream {
    fn has_pending(&self) -> Option<bool> {
        Some(false)
    }
}

struct Rig {
    client: DuplexStream,
    upstream: DuplexStream,
    control: Arc<Control>,
    tunnel: JoinHandle<Outcome>,
}

fn settings() -> Settings {
    let ping = PerSide { client: Some(Duration::from_secs(25)), upstream: None };
    Settings { ping, ..Settings::of_tests() }
}

fn rig(ahead: &[u8], pipe: usize) -> Rig {
    rig_with(settings(), ahead, pipe)
}

fn rig_with(settings: Settings, ahead: &[u8], pipe: usize) -> Rig {
    let ((client, near), (upstream, far)) = (duplex(pipe), duplex(pipe));
    let control = Arc::new(Control::default());
    let client_side = PrefixedStream { stream: near, ahead: ahead.to_vec() };
    let upstream_side = PrefixedStream { stream: far, ahead: vec![] };
    let framing = Framing::WebSocket { deflate: false };
    let streams = PerSide { client: client_side, upstream: upstream_side };
    let tunnel = tokio::spawn(run(streams, Arc::new(settings), framing, control.clone()));
    Rig { client, upstream, control, tunnel }
}

async fn read<const N: usize>(from: &mut DuplexStream) -> [u8; N] {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes).await.unwrap();
    bytes
}

#[tokio::test(start_paused = true)]
async fn bytes_pass_both_ways_and_what_was_read_ahead_comes_first() {
    let mut rig = rig(&[0x81, 0x81, 0, 0, 0, 0, b'a'], 1024);
    rig.client.write_all(&[0x81, 0x81, 0, 0, 0, 0, b'b']).await.unwrap();
    let wire: [u8; 14] = read(&mut rig.upstream).await;
    assert_eq!((wire[6], wire[13]), (b'a', b'b'));
    rig.upstream.write_all(&[0x81, 0x01, b'c']).await.unwrap();
    assert_eq!(read(&mut rig.client).await, [0x81, 0x01, b'c']);
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_pinged_by_the_clock_and_given_up() {
    let mut rig = rig(&[], 1024);
    let started = Instant::now();
    let ping: [u8; 10] = read(&mut rig.client).await;
    assert_eq!(ping[..2], [0x89, 8]);
    let waited = started.elapsed();
    assert!(waited > Duration::from_secs(22) && waited <= Duration::from_secs(26), "{waited:?}");
    let close: [u8; 8] = read(&mut rig.upstream).await;
    let code = [close[6] ^ close[2], close[7] ^ close[3]];
    assert_eq!((close[0], u16::from_be_bytes(code)), (0x88, 1001), "masked, to the upstream");
    drop(rig.upstream);
    let outcome = rig.tunnel.await.unwrap();
    assert_eq!((outcome.ending.ended_by, outcome.ending.cause), (EndedBy::Client, Cause::Unresponsive));
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_that_is_not_read_is_sent_nothing() {
    for reason in [Blind::Extension, Blind::Protocol] {
        let ((mut client, near), (mut upstream, far)) = (duplex(1024), duplex(1024));
        let opened = |stream| PrefixedStream { stream, ahead: vec![] };
        let streams = PerSide { client: opened(near), upstream: opened(far) };
        tokio::spawn(run(streams, Arc::new(settings()), Framing::Blind(reason), Arc::default()));
        tokio::time::sleep(Duration::from_secs(3600)).await;
        upstream.write_all(&[0xf2, 0x01, 7]).await.unwrap();
        assert_eq!(read(&mut client).await, [0xf2, 0x01, 7], "and no ping of an hour before it");
    }
}

#[tokio::test(start_paused = true)]
async fn the_answer_to_an_end_of_stream_comes_however_long_it_takes() {
    let ((mut client, near), (mut upstream, far)) = (duplex(64), duplex(64));
    let opened = |stream| PrefixedStream { stream, ahead: vec![] };
    let streams = PerSide { client: opened(near), upstream: opened(far) };
    let tunnel =
        tokio::spawn(run(streams, Arc::new(settings()), Framing::Blind(Blind::Protocol), Arc::default()));
    client.shutdown().await.unwrap();
    assert_eq!(upstream.read(&mut [0]).await.unwrap(), 0);
    // Many times the close timeout.
    tokio::time::sleep(Duration::from_secs(3600)).await;
    upstream.write_all(b"result").await.unwrap();
    drop(upstream);
    assert_eq!(read(&mut client).await, *b"result");
    let outcome = tunnel.await.unwrap();
    assert_eq!((outcome.ending.ended_by, outcome.ending.cause), (EndedBy::Client, Cause::Eof));
}

#[tokio::test(start_paused = true)]
async fn a_fast_side_waits_for_a_slow_one_and_nothing_is_lost() {
    let mut rig = rig(&[], 1024);
    let mut message = vec![0x82, 127];
    message.extend_from_slice(&1_000_000_u64.to_be_bytes());
    message.resize(10 + 1_000_000, 7);
    let sent = message.clone();
    let mut upstream = rig.upstream;
    let writer = tokio::spawn(async move {
        upstream.write_all(&sent).await.unwrap();
        upstream
    });
    let mut received = vec![0; message.len()];
    rig.client.read_exact(&mut received).await.unwrap();
    assert!(received == message);
    drop((writer.await.unwrap(), rig.client));
    assert_eq!(rig.tunnel.await.unwrap().traffic.upstream.messages, 1);
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_slow_side_is_bounded() {
    let mut rig = rig(&[], 1024);
    let mut message = vec![0x82, 127];
    message.extend_from_slice(&(1_u64 << 30).to_be_bytes());
    rig.upstream.write_all(&message).await.unwrap();
    // The pipe fills up, and then takes no byte for a second.
    let (mut taken, piece) = (0, [7; 4096]);
    while let Ok(written) = tokio::time::timeout(Duration::from_secs(1), rig.upstream.write(&piece)).await {
        taken += written.unwrap();
    }
    assert!(taken <= 128 * 1024, "{taken} bytes are held for a client that reads none");
    // A client that reads slowly is not closed.
    let mut little = [0; 1024];
    for _ in 0..120 {
        rig.client.read_exact(&mut little).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let _ = tokio::time::timeout(Duration::from_millis(1), rig.upstream.write(&piece)).await;
    }
    assert!(!rig.tunnel.is_finished());
}

#[tokio::test(start_paused = true)]
async fn one_that_moves_much_lets_the_others_have_their_turn() {
    let mut rig = rig(&[], 1 << 24);
    let mut flood = vec![0x82, 127];
    flood.extend_from_slice(&(1_u64 << 23).to_be_bytes());
    flood.resize(1 << 23, 7);
    rig.upstream.write_all(&flood).await.unwrap();
    // On one thread, the tunnel has a turn between two turns of the reader.
    let reader = tokio::spawn(async move {
        let (mut turns, mut left, mut buffer) = (0, 1 << 23, vec![0; 1 << 23]);
        while left > 0 {
            let most = rig.client.read(&mut buffer).await.unwrap();
            assert!(most <= READS_PER_TURN * SCRATCH + 10, "{most} bytes in one turn");
            (left, turns) = (left.max(most) - most, turns + 1);
        }
        turns
    });
    assert!(reader.await.unwrap() >= (1 << 23) / (READS_PER_TURN * SCRATCH));
}

/// A stream that never ends and never fills up.
struct Endless {
    reads: Arc<AtomicUsize>,
}

impl Readiness for Endless {
    fn has_pending(&self) -> Option<bool> {
        Some(true)
    }
}

impl AsyncRead for Endless {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        into.put_slice(&vec![0; into.remaining()]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Endless {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn between_two_turns_of_one_that_moves_much_the_others_sockets_are_looked_at() {
    let reads = Arc::new(AtomicUsize::new(0));
    let side = || PrefixedStream { stream: Endless { reads: Arc::clone(&reads) }, ahead: vec![] };
    let streams = PerSide { client: side(), upstream: side() };
    let tunnel = run(streams, Arc::new(settings()), Framing::Blind(Blind::Protocol), Arc::default());
    let tunnel = tokio::spawn(tunnel);
    let (mut near, mut far) = tokio::net::UnixStream::pair().unwrap();
    for _ in 0..20 {
        near.write_all(&[1]).await.unwrap();
        let before = reads.load(Ordering::Relaxed);
        far.read_exact(&mut [0]).await.unwrap();
        let turns = (reads.load(Ordering::Relaxed) - before) / (2 * READS_PER_TURN);
        assert!(turns <= 2, "{turns} turns before a byte that was there was read");
    }
    tunnel.abort();
}

#[tokio::test(start_paused = true)]
async fn a_side_that_takes_nothing_ends_by_the_send_timeout() {
    let mut rig = rig(&[], 64);
    let started = Instant::now();
    rig.upstream.write_all(&[0x82, 126, 1, 0]).await.unwrap();
    rig.upstream.write_all(&[7; 100]).await.unwrap();
    let outcome = rig.tunnel.await.unwrap();
    assert_eq!((outcome.ending.ended_by, outcome.ending.cause), (EndedBy::Client, Cause::SendTimeout));
    assert!(started.elapsed() >= Duration::from_secs(60));
}

#[tokio::test(start_paused = true)]
async fn an_order_closes_with_words_and_waits_for_the_answer() {
    let mut rig = rig(&[], 1024);
    let at = Instant::now() + Duration::from_secs(3);
    rig.control.close(at, Cause::Drain);
    let head: [u8; 4] = read(&mut rig.client).await;
    assert_eq!((head[0], u16::from_be_bytes([head[2], head[3]])), (0x88, 1012));
    assert_eq!(Instant::now().duration_since(at).as_secs(), 0);
    rig.client.write_all(&[0x88, 0x80, 0, 0, 0, 0]).await.unwrap();
    rig.upstream.write_all(&[0x88, 0x00]).await.unwrap();
    let outcome = rig.tunnel.await.unwrap();
    assert_eq!((outcome.ending.ended_by, outcome.ending.cause), (EndedBy::Proxy, Cause::Drain));
    assert!(at.elapsed() < Duration::from_secs(1), "answered: nothing to wait for");
}

#[tokio::test(start_paused = true)]
async fn new_settings_move_the_wake_up_forward() {
    let rig = rig(&[], 1024);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let soon = Settings { read_timeout: Some(Duration::from_secs(5)), ..settings() };
    rig.control.set_settings(Arc::new(soon));
    let (_client, _upstream) = (rig.client, rig.upstream);
    let outcome = rig.tunnel.await.unwrap();
    assert_eq!(outcome.ending.cause, Cause::ReadTimeout);
    assert_eq!(outcome.idle.client.as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn its_counts_can_be_read_while_it_lives() {
    let mut rig = rig(&[], 1024);
    let ping: [u8; 10] = read(&mut rig.client).await;
    let counters = rig.control.counters();
    assert_eq!(counters.traffic(Side::Client).pings, 1);
    let pinged = rig.control.now();
    tokio::time::advance(Duration::from_millis(30)).await;
    rig.client.write_all(&pong(ping)).await.unwrap();
    rig.client.write_all(&[0x82, 0x81, 0, 0, 0, 0, b'a']).await.unwrap();
    let _: [u8; 7] = read(&mut rig.upstream).await;
    let client = counters.traffic(Side::Client);
    assert_eq!((client.bytes, client.messages, client.pongs), (14 + 7, 1, 1));
    assert_eq!(client.last_rtt, Some(Duration::from_millis(30)));
    assert_eq!(counters.last_read(Side::Client).since(pinged), Duration::from_millis(30));
}

/// The Pong of a client to a Ping.
fn pong(ping: [u8; 10]) -> Vec<u8> {
    let mut pong = vec![0x8a, 0x88, 0, 0, 0, 0];
    pong.extend_from_slice(&ping[2..]);
    pong
}

#[tokio::test(start_paused = true)]
async fn what_has_come_is_read_before_silence_is_judged() {
    // The session sees the bytes and the deadline in the same turn, also without a long pause.
    for overslept in [Duration::from_millis(1), Duration::from_secs(600)] {
        let mut rig = rig(&[], 1024);
        let ping = read(&mut rig.client).await;
        rig.client.write_all(&pong(ping)).await.unwrap();
        tokio::time::advance(Duration::from_secs(20) + overslept).await;
        rig.upstream.write_all(&[0x81, 0x01, b'a']).await.unwrap();
        assert_eq!(read(&mut rig.client).await, [0x81, 0x01, b'a'], "overslept by {overslept:?}");
        assert!(!rig.tunnel.is_finished());
    }
}

#[tokio::test(start_paused = true)]
async fn the_operator_closes_one_with_words_of_his_own() {
    let mut rig = rig(&[], 1024);
    // A frame to the client is incomplete, so the Close comes after it.
    rig.upstream.write_all(&[0x81, 0x02, b'a']).await.unwrap();
    let _: [u8; 3] = read(&mut rig.client).await;
    rig.control
        .close_with(Cause::Operator, CloseReason { code: CloseCode(4001), text: "maintenance".into() });
    let close: [u8; 6 + 13] = read(&mut rig.upstream).await;
    let payload: Vec<u8> =
        close[6..].iter().zip(close[2..6].iter().cycle()).map(|(b, key)| b ^ key).collect();
    assert_eq!((close[0], &payload[..]), (0x88, &b"\x0f\xa1maintenance"[..]));
    rig.upstream.write_all(b"b").await.unwrap();
    assert_eq!(&read::<{ 1 + 2 + 13 }>(&mut rig.client).await, b"b\x88\x0d\x0f\xa1maintenance");
    drop((rig.client, rig.upstream));
    let ending = rig.tunnel.await.unwrap().ending;
    assert_eq!(
        (ending.ended_by, ending.cause, &*ending.reason),
        (EndedBy::Proxy, Cause::Operator, "maintenance")
    );
    assert_eq!(ending.code, Some(CloseCode(4001)));
}

#[tokio::test(start_paused = true)]
async fn an_inspector_sees_frames_and_delays_nobody() {
    let mut rig = rig(&[], 1024);
    let letter = |text: u8| [0x81, 0x81, 0, 0, 0, 0, text];
    rig.client.write_all(&letter(b'a')).await.unwrap();
    let _: [u8; 7] = read(&mut rig.upstream).await;
    let (mut tail, mut other) = (rig.control.inspect(2), rig.control.inspect(9));
    tokio::time::advance(Duration::from_secs(3)).await;
    for text in *b"bcdef" {
        rig.client.write_all(&letter(text)).await.unwrap();
        let wire: [u8; 7] = read(&mut rig.upstream).await;
        assert_eq!(wire[6], text);
    }
    let first = tail.next().await.unwrap();
    assert_eq!((first.at.elapsed().as_secs(), first.event.side, first.event.length), (3, Side::Client, 1));
    assert!(tail.next().await.is_some());
    assert_eq!((tail.take_dropped(), tail.take_dropped()), (3, 0));
    drop(tail);
    drop((rig.client, rig.upstream));
    assert_eq!(rig.tunnel.await.unwrap().traffic.client.messages, 6);
    let mut seen = 0;
    while let Some(frame) = other.next().await {
        seen += usize::from(frame.event.opcode == crate::ws::frame::OpCode::Text);
    }
    assert_eq!(seen, 5, "its stream ends with the tunnel");
    assert!(rig.control.inspect(1).next().await.is_none(), "and so does one that begins later");
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_removes_inspectors_that_are_gone() {
    let ((mut client, near), (mut upstream, far)) = (duplex(64), duplex(64));
    let control = Arc::new(Control::default());
    let framing = Framing::WebSocket { deflate: false };
    let opened = |stream| PrefixedStream { stream, ahead: vec![] };
    let streams = PerSide { client: opened(near), upstream: opened(far) };
    let mut pump = run(streams, Arc::new(settings()), framing, control.clone());
    let tail = control.inspect(9);
    assert!(stays_pending(&mut pump).await);
    assert!(pump.session.inspectors.is_some());
    drop(tail);
    client.write_all(&[0x81, 0x81, 0, 0, 0, 0, b'a']).await.unwrap();
    assert!(stays_pending(&mut pump).await);
    let _: [u8; 7] = read(&mut upstream).await;
    assert!(pump.session.inspectors.is_none());
}

/// Polls once, and returns whether the pump is pending.
async fn stays_pending(future: &mut (impl Future + Unpin)) -> bool {
    std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut *future).poll(cx).is_pending())).await
}

#[test]
fn a_tunnel_is_small() {
    let size = size_of::<Pump<Stream>>();
    // With what a task adds, this is 512 bytes. Tasks grow in steps of 128.
    assert!(size <= 408, "{size} bytes: an idle tunnel's memory is a promise");
}
