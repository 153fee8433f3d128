use super::*;
use crate::capacity::Slots;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Mutex;
use std::task::Poll;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::{advance, sleep};

const HEADER_TIMEOUT: Duration = Duration::from_secs(60);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(75);
/// The preface, and empty SETTINGS.
const OPENED: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// The end of a frame and the beginning of the next: a WINDOW_UPDATE of the connection (RFC 9113 6.9).
const FIRST_HALF: &[u8] = b"\x00\x00\x04\x08\x00\x00";
const SECOND_HALF: &[u8] = b"\x00\x00\x00\x00\x00\x00\x01";

fn settings(http1: bool, http2: bool) -> Settings {
    Settings {
        protocols: Protocols { http1, http2 },
        header_timeout: HEADER_TIMEOUT,
        keepalive_timeout: KEEPALIVE_TIMEOUT,
        body_timeout: None,
        max_header_size: 32 * 1024,
        underscores_in_headers: false,
    }
}

/// A client of one that answers each request with 204.
struct Client {
    stream: UnixStream,
    refused: Arc<Mutex<Option<BadRequestKind>>>,
    served: tokio::task::JoinHandle<()>,
}

impl Client {
    /// Takes one of the places.
    async fn new(slots: &Slots, http2: bool) -> Self {
        let (stream, theirs) = UnixStream::pair().unwrap();
        let refused: Arc<Mutex<Option<BadRequestKind>>> = Arc::default();
        let slot = slots.take().await;
        let settings = settings(!http2, http2);
        let told = Arc::clone(&refused);
        let served = tokio::spawn(async move {
            let (_trigger, watch) = crate::drain::channel();
            let answer = |_| async {
                let mut response = Response::new(crate::http::body::full(""));
                *response.status_mut() = http::StatusCode::NO_CONTENT;
                response
            };
            let refused = |bad_request_kind, _| *told.lock().unwrap() = Some(bad_request_kind);
            serve(Stream::Unix(theirs), &settings, watch, answer, refused, &slot).await;
        });
        Self { stream, refused, served }
    }

    fn refused(&self) -> Option<BadRequestKind> {
        *self.refused.lock().unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_tick_forgets_nobody_who_waits() {
    for http2 in [false, true] {
        let slots = Slots::new(1, "");
        let client = Client::new(&slots, http2).await;
        let waiting = tokio::spawn({
            let slots = slots.clone();
            async move { slots.take().await }
        });
        for _ in 0..10 {
            tokio::task::yield_now().await;
            // Half a second late, as under load.
            advance(HEADER_TIMEOUT / 4 + Duration::from_millis(500)).await;
            if client.served.is_finished() {
                break;
            }
        }
        drop(waiting.await.unwrap());
        assert_eq!(client.refused(), Some(BadRequestKind::Evicted));
    }
}

/// Sends half frames of HTTP/2 until the connection ends; how long that took.
async fn straddle(client: &mut Client, every: Duration) -> Duration {
    let began = Instant::now();
    client.stream.write_all(OPENED).await.unwrap();
    let next = [SECOND_HALF, FIRST_HALF].concat();
    let mut bytes = FIRST_HALF;
    while client.stream.write_all(bytes).await.is_ok() {
        bytes = &next;
        sleep(every).await;
    }
    began.elapsed()
}

#[tokio::test(start_paused = true)]
async fn frames_that_straddle_do_not_hold_a_connection() {
    let slots = Slots::new(1, "");
    let mut client = Client::new(&slots, true).await;
    let lasted = straddle(&mut client, Duration::from_millis(900)).await;
    // It is told to go, and then has as long again.
    let checks = HEADER_TIMEOUT / 4 * 2;
    assert!((HEADER_TIMEOUT..=HEADER_TIMEOUT * 2 + checks).contains(&lasted), "{lasted:?}");
}

#[tokio::test(start_paused = true)]
async fn frames_that_straddle_do_not_hold_a_place_that_is_wanted() {
    let slots = Slots::new(1, "");
    let mut client = Client::new(&slots, true).await;
    let waiting = tokio::spawn({
        let slots = slots.clone();
        async move { slots.take().await }
    });
    let lasted = straddle(&mut client, Duration::from_millis(900)).await;
    assert!(lasted <= 4 * EVICT_AFTER, "{lasted:?}");
    assert_eq!(client.refused(), Some(BadRequestKind::Evicted));
    waiting.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn those_that_came_together_give_way_as_fast_as_others_come() {
    for http2 in [false, true] {
        let slots = Slots::new(8, "");
        let mut clients = Vec::new();
        for _ in 0..8 {
            let mut client = Client::new(&slots, http2).await;
            let first: &[u8] = if http2 { OPENED } else { b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" };
            client.stream.write_all(first).await.unwrap();
            clients.push(client);
        }
        let began = Instant::now();
        let mut others = Vec::new();
        for _ in 0..8 {
            others.push(slots.take().await);
        }
        assert!(began.elapsed() <= 4 * EVICT_AFTER, "{:?}", began.elapsed());
        drop(others);
        for client in clients {
            client.served.await.unwrap();
            assert_eq!(*client.refused.lock().unwrap(), Some(BadRequestKind::Evicted));
        }
    }
}

/// Of two clients, one asks again and again: first after `first`, then every `every`. After `other`, a third one comes.
/// Only the one that never asks is evicted.
async fn who_never_asks_is_evicted(first: Duration, every: Duration, other: Duration) {
    let slots = Slots::new(2, "");
    let mut busy = Client::new(&slots, false).await;
    sleep(Duration::from_millis(100)).await;
    let idle = Client::new(&slots, false).await;
    let keep_asking = async {
        let mut head = [0; 256];
        sleep(first).await;
        loop {
            busy.stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
            assert!(busy.stream.read(&mut head).await.unwrap() > 0);
            sleep(every).await;
        }
    };
    let other = async {
        sleep(other).await;
        slots.take().await
    };
    tokio::select! {
        () = keep_asking => {}
        _other = other => {}
    }
    assert_eq!((busy.refused(), idle.refused()), (None, Some(BadRequestKind::Evicted)));
}

#[tokio::test(start_paused = true)]
async fn who_asks_again_keeps_its_place() {
    // It was silent once, and is not any more.
    who_never_asks_is_evicted(EVICT_AFTER * 5 / 2, EVICT_AFTER / 2, EVICT_AFTER * 13 / 4).await;
    // It was silent each time for so long that it may be evicted, but not as long as the other.
    let every = EVICT_AFTER * 5 / 4;
    who_never_asks_is_evicted(every, every, every * 4 + EVICT_AFTER * 9 / 8).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_the_runtime_has_not_seen_yet_is_answered() {
    let slots = Slots::new(1, "");
    let mut client = Client::new(&slots, false).await;
    sleep(EVICT_AFTER * 2).await;
    client.stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut other = pin!(slots.take());
    assert!(poll_fn(|cx| Poll::Ready(other.as_mut().poll(cx))).await.is_pending());
    let mut head = [0; 256];
    let length = client.stream.read(&mut head).await.unwrap();
    assert!(head[..length].starts_with(b"HTTP/1.1 204"), "{length}");
    assert_eq!(client.refused(), None);
    other.await;
    assert_eq!(client.refused(), Some(BadRequestKind::Evicted), "once it was silent again");
}

#[tokio::test(start_paused = true)]
async fn half_a_preface_does_not_hold_a_place_that_is_wanted() {
    let slots = Slots::new(1, "");
    let (mut stream, theirs) = UnixStream::pair().unwrap();
    let (_trigger, watch) = crate::drain::channel();
    let slot = slots.take().await;
    stream.write_all(b"PRI").await.unwrap();
    let began = Instant::now();
    let served = tokio::spawn(async move {
        let settings = settings(true, true);
        let refused = |bad_request_kind, _| assert_eq!(bad_request_kind, BadRequestKind::Evicted);
        let answer = |_| async { Response::new(crate::http::body::full("")) };
        serve(Stream::Unix(theirs), &settings, watch, answer, refused, &slot).await;
    });
    slots.take().await;
    assert!(began.elapsed().abs_diff(EVICT_AFTER) < Duration::from_millis(10));
    served.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_request_in_drops_has_its_time_and_no_more() {
    let slots = Slots::new(1, "");
    let mut client = Client::new(&slots, false).await;
    let mut head = [0; 256];
    client.stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let length = client.stream.read(&mut head).await.unwrap();
    assert!(head[..length].starts_with(b"HTTP/1.1 204"));
    // At the last moment of the idle time.
    sleep(KEEPALIVE_TIMEOUT - HEADER_TIMEOUT / 4).await;
    let began = Instant::now();
    while client.stream.write_all(b"G").await.is_ok() {
        sleep(Duration::from_secs(1)).await;
    }
    assert!((HEADER_TIMEOUT..=HEADER_TIMEOUT * 5 / 4 + Duration::from_secs(2)).contains(&began.elapsed()));
    assert_eq!(client.refused(), Some(BadRequestKind::TooSlow));
}
