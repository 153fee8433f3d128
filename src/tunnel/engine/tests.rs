//! Tests of the epoll driver over real sockets, in real time.

use super::*;
use crate::io::Stream;
use crate::outcome::{Cause, EndedBy, Outcome, Side};
use crate::tunnel::Blind;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::oneshot;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

fn settings() -> Settings {
    Settings::of_tests()
}

/// Two peers and the tunnel between them.
struct Rig<S = TcpStream> {
    client: S,
    upstream: S,
    control: Arc<Control>,
    outcome: oneshot::Receiver<Outcome>,
}

impl<S> Rig<S> {
    fn new(engine: &Engine, settings: Settings, client: (S, Stream), upstream: (S, Stream)) -> Self {
        let (control, (told, outcome)) = (Arc::new(Control::default()), oneshot::channel());
        let opened = |stream: Stream| PrefixedStream { stream: stream.try_into().unwrap(), ahead: vec![] };
        let streams = PerSide { client: opened(client.1), upstream: opened(upstream.1) };
        let framing = Framing::WebSocket { deflate: false };
        let on_end = |outcome: Outcome| _ = told.send(outcome);
        engine.open(streams, Arc::new(settings), framing, Arc::clone(&control), on_end);
        Self { client: client.0, upstream: upstream.0, control, outcome }
    }

    async fn outcome(self) -> Outcome {
        drop((self.client, self.upstream));
        timeout(PATIENCE, self.outcome).await.expect("an end in time").unwrap()
    }
}

async fn over_tcp(engine: &Engine, settings: Settings) -> Rig {
    Rig::new(engine, settings, tcp().await, tcp().await)
}

async fn tcp() -> (TcpStream, Stream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (far, near) = tokio::join!(TcpStream::connect(address), listener.accept());
    (far.unwrap(), Stream::Tcp(near.unwrap().0))
}

fn unix() -> (UnixStream, Stream) {
    let (far, near) = UnixStream::pair().unwrap();
    (far, Stream::Unix(near))
}

async fn read<const N: usize>(from: &mut (impl tokio::io::AsyncRead + Unpin)) -> [u8; N] {
    let mut bytes = [0; N];
    timeout(PATIENCE, from.read_exact(&mut bytes)).await.expect("bytes in time").unwrap();
    bytes
}

/// A message of zeros that no socket can hold.
fn long_message() -> Vec<u8> {
    let length = 50_000_000_u64;
    let mut message = vec![0x82, 127];
    message.extend_from_slice(&length.to_be_bytes());
    message.resize(10 + length as usize, 0);
    message
}

#[tokio::test]
async fn bytes_pass_both_ways_over_either_kind_of_socket() {
    let engine = Engine::start(1).unwrap();
    let mut tcp = over_tcp(&engine, settings()).await;
    let mut unix = Rig::new(&engine, settings(), unix(), unix());
    for _ in 0..3 {
        tcp.upstream.write_all(&[0x81, 1, b'a']).await.unwrap();
        unix.upstream.write_all(&[0x81, 1, b'b']).await.unwrap();
        assert_eq!(read(&mut tcp.client).await, [0x81, 1, b'a']);
        assert_eq!(read(&mut unix.client).await, [0x81, 1, b'b']);
        tcp.client.write_all(&[0x81, 0x81, 0, 0, 0, 0, b'c']).await.unwrap();
        assert_eq!(read(&mut tcp.upstream).await, [0x81, 0x81, 0, 0, 0, 0, b'c']);
    }
    assert_eq!(tcp.control.counters().traffic(Side::Upstream).messages, 3);
    assert_eq!(tcp.outcome().await.traffic.client.messages, 3);
    assert_eq!(unix.outcome().await.traffic.upstream.bytes, 9);
}

#[tokio::test]
async fn what_one_side_sends_too_fast_waits_and_none_of_it_is_lost() {
    let engine = Engine::start(1).unwrap();
    let mut rig = over_tcp(&engine, settings()).await;
    let (message, mut received) = (long_message(), Vec::new());
    let (length, mut upstream) = (message.len(), rig.upstream);
    let sent = tokio::spawn(async move { upstream.write_all(&message).await.map(|()| upstream) });
    // Some bytes are relayed before the client reads the first one.
    while rig.control.counters().traffic(Side::Upstream).bytes == 0 {
        tokio::task::yield_now().await;
    }
    received.resize(length, 7);
    timeout(PATIENCE, rig.client.read_exact(&mut received)).await.expect("all in time").unwrap();
    assert!(received == long_message());
    rig.upstream = sent.await.unwrap().unwrap();
    assert_eq!(rig.outcome().await.traffic.upstream.messages, 1);
}

#[tokio::test]
async fn many_share_a_thread_and_each_gets_its_own() {
    let engine = Engine::start(2).unwrap();
    let mut rigs = Vec::new();
    for _ in 0..100 {
        rigs.push(over_tcp(&engine, settings()).await);
    }
    assert_eq!(engine.intakes.iter().map(|intake| intake.sessions()).collect::<Vec<_>>(), [50, 50]);
    for turn in 0..3 {
        for (index, rig) in rigs.iter_mut().enumerate() {
            rig.upstream.write_all(&[0x82, 2, turn, index as u8]).await.unwrap();
        }
        for (index, rig) in rigs.iter_mut().enumerate() {
            assert_eq!(read(&mut rig.client).await, [0x82, 2, turn, index as u8]);
        }
        // New tunnels use the cells of those that ended.
        for rig in rigs.split_off(50) {
            rig.outcome().await;
        }
        for _ in 0..50 {
            rigs.push(over_tcp(&engine, settings()).await);
        }
    }
}

#[tokio::test]
async fn a_ping_goes_out_by_the_clock_and_silence_behind_it_is_the_end() {
    let engine = Engine::start(1).unwrap();
    let quick = Duration::from_millis(50);
    let settings = Settings {
        ping: PerSide { client: Some(quick), upstream: None },
        ping_timeout: quick,
        close_timeout: quick,
        ..settings()
    };
    let mut rig = over_tcp(&engine, settings).await;
    let ping: [u8; 10] = read(&mut rig.client).await;
    assert_eq!(ping[..2], [0x89, 8]);
    let close: [u8; 2] = read(&mut rig.upstream).await;
    assert_eq!(close[0], 0x88);
    let outcome = timeout(PATIENCE, &mut rig.outcome).await.unwrap().unwrap();
    assert_eq!((outcome.ending.ended_by, outcome.ending.cause), (EndedBy::Client, Cause::Unresponsive));
}

#[tokio::test]
async fn orders_and_new_settings_reach_a_sleeping_tunnel() {
    let engine = Engine::start(1).unwrap();
    let mut rig = over_tcp(&engine, settings()).await;
    let pings = PerSide { client: Some(Duration::from_millis(20)), upstream: None };
    rig.control.set_settings(Arc::new(Settings { ping: pings, ..settings() }));
    assert_eq!(read::<10>(&mut rig.client).await[..2], [0x89, 8]);
    rig.control.close(tokio::time::Instant::now(), Cause::Drain);
    assert_eq!(read::<4>(&mut rig.upstream).await[0], 0x88);
    let outcome = rig.outcome().await;
    assert_eq!((outcome.ending.ended_by, outcome.ending.cause), (EndedBy::Proxy, Cause::Drain));
}

#[tokio::test]
async fn one_that_is_open_at_the_end_of_all_is_reported() {
    let engine = Engine::start(1).unwrap();
    let mut rig = over_tcp(&engine, settings()).await;
    engine.stop();
    let outcome = timeout(PATIENCE, &mut rig.outcome).await.unwrap().unwrap();
    assert_eq!(outcome.ending.cause, Cause::Aborted);
    assert_eq!(rig.client.read(&mut [0]).await.unwrap(), 0, "its sockets are closed");
    let late = over_tcp(&engine, settings()).await;
    assert_eq!(late.outcome().await.ending.cause, Cause::Aborted, "nobody is left to relay it");
}

#[tokio::test]
async fn a_defect_that_one_meets_is_its_own_end_only() {
    let engine = Engine::start(1).unwrap();
    let mut rig = over_tcp(&engine, settings()).await;
    let (client, upstream) = (tcp().await, tcp().await);
    let opened = |stream: Stream| PrefixedStream { stream: stream.try_into().unwrap(), ahead: vec![] };
    let streams = PerSide { client: opened(client.1), upstream: opened(upstream.1) };
    let control = Arc::new(Control::default());
    let on_end = |_: Outcome| panic!("a defect, as this test wants it");
    let (settings, framing) = (Arc::new(settings()), Framing::Blind(Blind::Protocol));
    engine.open(streams, settings, framing, Arc::clone(&control), on_end);
    drop((client.0, upstream.0));
    while Arc::strong_count(&control) > 1 {
        tokio::task::yield_now().await;
    }
    rig.upstream.write_all(&[0x81, 1, b'a']).await.unwrap();
    assert_eq!(read(&mut rig.client).await, [0x81, 1, b'a']);
}

#[test]
fn a_session_is_small() {
    let size = size_of::<Entry>();
    assert!(size <= 320, "{size} bytes: an idle tunnel's memory is a promise");
}
