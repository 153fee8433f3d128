//! Owns the tests of how often the session writes: once for each read, however many frames it holds.

use super::*;
use crate::ws::frame::{OpCode, encode};
use crate::ws::mask::MaskKey;
use std::sync::Mutex;

/// A stream that returns its reads one by one, and records each write.
#[derive(Clone, Default)]
struct Script {
    reads: Arc<Mutex<Vec<Vec<u8>>>>,
    writes: Arc<Mutex<Vec<Vec<u8>>>>,
    read: Arc<AtomicUsize>,
}

impl Script {
    fn reading(reads: &[&[u8]]) -> Self {
        let reads = reads.iter().rev().map(|read| read.to_vec()).collect();
        Self { reads: Arc::new(Mutex::new(reads)), ..Self::default() }
    }

    fn writes(&self) -> Vec<Vec<u8>> {
        self.writes.lock().unwrap().clone()
    }
}

impl Readiness for Script {
    fn has_pending(&self) -> Option<bool> {
        Some(false)
    }
}

impl AsyncRead for Script {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some(read) = self.reads.lock().unwrap().pop() else { return Poll::Pending };
        self.read.fetch_add(1, Ordering::Relaxed);
        into.put_slice(&read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Script {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.writes.lock().unwrap().push(bytes.to_vec());
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn pump(client: &Script, upstream: &Script, settings: Settings) -> Pump<Script> {
    let opened = |stream: &Script| PrefixedStream { stream: stream.clone(), ahead: vec![] };
    let streams = PerSide { client: opened(client), upstream: opened(upstream) };
    let framing = Framing::WebSocket { deflate: false };
    run(streams, Arc::new(settings), framing, Arc::default())
}

fn from_client(opcode: OpCode, payload: &[u8]) -> Vec<u8> {
    encode(opcode, payload, Some(MaskKey([1, 2, 3, 4])))
}

#[tokio::test(start_paused = true)]
async fn control_frames_pass_with_what_is_around_them() {
    for opcode in [OpCode::Ping, OpCode::Pong, OpCode::Binary] {
        let control = from_client(opcode, b"");
        let flood = control.repeat(10_000);
        let mixed =
            [from_client(OpCode::Text, b"a"), control.clone(), from_client(OpCode::Text, b"b"), control]
                .concat();
        let (client, upstream) = (Script::reading(&[&flood, &mixed]), Script::default());
        let mut pump = pump(&client, &upstream, settings());
        while client.read.load(Ordering::Relaxed) < 2 {
            assert!(stays_pending(&mut pump).await);
        }
        assert_eq!(upstream.writes(), [flood, mixed], "{opcode:?}: one write for each read");
    }
}

#[tokio::test(start_paused = true)]
async fn a_header_in_two_reads_and_its_rest_take_one_write_each() {
    let message = from_client(OpCode::Text, b"hello");
    let wire = message.repeat(3);
    let (client, upstream) = (Script::reading(&[&wire[..13], &wire[13..]]), Script::default());
    assert!(stays_pending(&mut pump(&client, &upstream, settings())).await);
    assert_eq!(upstream.writes(), [wire[..11].to_vec(), wire[11..].to_vec()]);
}

#[tokio::test(start_paused = true)]
async fn what_is_taken_out_and_put_in_costs_no_write_more() {
    let (client, upstream) = (Script::default(), Script::default());
    let mut pump = pump(&client, &upstream, settings());
    assert!(stays_pending(&mut pump).await);
    tokio::time::advance(Duration::from_secs(25)).await;
    assert!(stays_pending(&mut pump).await);
    let ping = client.writes().pop().unwrap();
    let text = from_client(OpCode::Text, b"text");
    let pong = from_client(OpCode::Pong, &ping[2..]);
    // The Pong to our Ping, many times between messages. Only the first one is an answer.
    client.reads.lock().unwrap().push([&text[..], &pong].concat().repeat(100));
    assert!(stays_pending(&mut pump).await);
    assert_eq!(upstream.writes(), [text.repeat(100)]);
}

#[tokio::test(start_paused = true)]
async fn a_turn_of_small_frames_ends_by_their_number() {
    let flood = from_client(OpCode::Pong, b"").repeat(FRAMES_PER_TURN);
    let (client, upstream) = (Script::reading(&[&flood[..]; 5]), Script::default());
    let mut pump = pump(&client, &upstream, settings());
    for turn in 1..=5 {
        assert!(stays_pending(&mut pump).await);
        assert_eq!(client.read.load(Ordering::Relaxed), turn, "one read a turn");
    }
}

#[tokio::test(start_paused = true)]
async fn the_observer_is_told_once_of_a_side_that_answers_badly() {
    let (client, upstream) = (Script::default(), Script::default());
    let mut pump = pump(&client, &upstream, settings());
    let mut told = Vec::new();
    for _ in 0..3 {
        assert!(stays_pending(&mut pump).await);
        tokio::time::advance(Duration::from_secs(25)).await;
        assert!(stays_pending(&mut pump).await);
        let mut pong = client.writes().pop().unwrap();
        pong[0] = 0x8a;
        client.reads.lock().unwrap().push(pong);
        assert!(stays_pending(&mut pump).await);
        told.extend(std::iter::from_fn(|| pump.take_bad_pong()));
    }
    assert_eq!(told.len(), 1);
    assert_eq!(
        (told[0].side, told[0].fault.to_string()),
        (Side::Client, "client frame not masked".to_owned())
    );
    assert!(upstream.writes().is_empty());
}
