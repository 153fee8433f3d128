//! Owns the progress of each response on an HTTP/2 connection. It reads the outgoing frames, because `h2`
//! does not report what it has written.

use super::{MAX_STREAMS, STREAM_WINDOW};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::Instant;

/// RFC 9113 4.1.
const HEAD: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const END_STREAM: u8 = 1;

/// Maximum bytes that a connection writes between two frames of one response whose window is open: `h2` gives
/// each stream its turn.
const TURN: u64 = (MAX_STREAMS * STREAM_WINDOW) as u64;

/// The active responses of one connection, by stream.
#[derive(Debug)]
pub(super) struct SendTracker {
    /// Read for each frame, so that tunnels take no lock.
    count: AtomicUsize,
    answers: Mutex<HashMap<u32, Arc<SendProgress>>>,
    begun: Instant,
    /// Bytes written, of any stream.
    written: AtomicU64,
    /// When they were written, in milliseconds since `begun`. Updated while responses are tracked.
    moved: AtomicU64,
    /// The connection has ended.
    is_gone: AtomicBool,
}

impl SendTracker {
    pub(super) fn new() -> Self {
        Self {
            count: AtomicUsize::new(0),
            answers: Mutex::default(),
            begun: Instant::now(),
            written: AtomicU64::new(0),
            moved: AtomicU64::new(0),
            is_gone: AtomicBool::new(false),
        }
    }

    /// Tracks the response of a stream until the returned value is dropped.
    pub(super) fn track(self: &Arc<Self>, stream: u32) -> TrackedResponse {
        let progress = Arc::<SendProgress>::default();
        self.lock().insert(stream, Arc::clone(&progress));
        self.count.fetch_add(1, Ordering::Release);
        TrackedResponse { tracker: Arc::clone(self), stream, progress }
    }

    fn find(&self, stream: u32) -> Option<Arc<SendProgress>> {
        self.has_answers().then(|| self.lock().get(&stream).cloned()).flatten()
    }

    fn has_answers(&self) -> bool {
        self.count.load(Ordering::Acquire) > 0
    }

    fn now(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    /// Records written bytes.
    fn wrote(&self, bytes: usize) {
        self.written.fetch_add(bytes as u64, Ordering::Relaxed);
        if self.has_answers() {
            self.moved.store(self.now(), Ordering::Relaxed);
        }
    }

    /// Records that nothing more will be written. `h2` does not tell the tasks whose end it has queued.
    fn end(&self) {
        self.is_gone.store(true, Ordering::SeqCst);
        self.lock().values().for_each(|answer| answer.changed.notify_one());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Arc<SendProgress>>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A tracked response.
#[derive(Debug)]
pub(super) struct TrackedResponse {
    tracker: Arc<SendTracker>,
    stream: u32,
    progress: Arc<SendProgress>,
}

impl TrackedResponse {
    /// Records that more body is given to `h2`, which has had `given` bytes before.
    pub(super) fn gives(&self, given: u64) {
        if self.has_bytes(given) {
            self.progress.at.store(self.tracker.written.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    /// Returns when the client last accepted something, if `h2` has had `given` bytes of the body. While some
    /// of them wait for their turn, progress of any stream counts.
    pub(super) fn last(&self, given: u64) -> Instant {
        let own = self.progress.last.load(Ordering::Relaxed);
        let since = self
            .tracker
            .written
            .load(Ordering::Relaxed)
            .saturating_sub(self.progress.at.load(Ordering::Relaxed));
        let waits_for_turn = !self.has_bytes(given) && since <= TURN;
        let last = if waits_for_turn { own.max(self.tracker.moved.load(Ordering::Relaxed)) } else { own };
        self.tracker.begun + Duration::from_millis(last)
    }

    /// Whether the client has accepted this many body bytes.
    pub(super) fn has_bytes(&self, bytes: u64) -> bool {
        self.progress.bytes.load(Ordering::Relaxed) >= bytes
    }

    /// Whether the client has accepted this many heads.
    pub(super) fn has_heads(&self, heads: u32) -> bool {
        self.progress.heads.load(Ordering::Relaxed) >= heads
    }

    /// Whether the client has accepted the end.
    pub(super) fn has_ended(&self) -> bool {
        self.progress.has_ended.load(Ordering::Relaxed)
    }

    /// Whether the connection has ended.
    pub(super) fn is_gone(&self) -> bool {
        self.tracker.is_gone.load(Ordering::SeqCst)
    }

    /// Waits until the progress may have changed.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.progress.changed.notified()
    }
}

impl Drop for TrackedResponse {
    fn drop(&mut self) {
        self.tracker.lock().remove(&self.stream);
        self.tracker.count.fetch_sub(1, Ordering::Release);
    }
}

/// How much of one response the client has accepted.
#[derive(Debug, Default)]
struct SendProgress {
    /// When the client last accepted body bytes, in milliseconds since `begun`.
    last: AtomicU64,
    /// How much the connection had written then, or when the next bytes were given.
    at: AtomicU64,
    /// How many body bytes it has accepted.
    bytes: AtomicU64,
    /// How many heads it has accepted. The last one is final, the others are interim.
    heads: AtomicU32,
    has_ended: AtomicBool,
    changed: Notify,
}

/// Reads the outgoing frames of a connection.
#[derive(Debug)]
pub(super) struct FrameReader {
    tracker: Arc<SendTracker>,
    /// The written part of the current frame header.
    head: [u8; HEAD],
    read: usize,
    /// Missing bytes of its payload.
    left: usize,
    /// The response that the frame belongs to.
    answer: Option<Arc<SendProgress>>,
    /// Body bytes of all responses.
    bytes: usize,
}

impl FrameReader {
    pub(super) fn new(tracker: Arc<SendTracker>) -> Self {
        Self { tracker, head: [0; HEAD], read: 0, left: 0, answer: None, bytes: 0 }
    }

    /// Returns how many body bytes were written.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Processes written bytes.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        self.tracker.wrote(bytes.len());
        while !bytes.is_empty() {
            let taken;
            if self.read < HEAD {
                taken = (HEAD - self.read).min(bytes.len());
                self.head[self.read..self.read + taken].copy_from_slice(&bytes[..taken]);
                self.read += taken;
                if self.read == HEAD {
                    self.begin();
                }
            } else {
                taken = self.left.min(bytes.len());
                self.left -= taken;
                if let Some(answer) = self.answer.as_ref().filter(|_| self.head[3] == DATA) {
                    answer.last.store(self.tracker.now(), Ordering::Relaxed);
                    answer.at.store(self.tracker.written.load(Ordering::Relaxed), Ordering::Relaxed);
                    answer.bytes.fetch_add(taken as u64, Ordering::Relaxed);
                    self.bytes = self.bytes.saturating_add(taken);
                }
            }
            if self.read == HEAD && self.left == 0 {
                self.end();
            }
            bytes = &bytes[taken..];
        }
    }

    fn begin(&mut self) {
        let [high, middle, low, kind, _, stream @ ..] = self.head;
        self.left = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        self.answer = match kind {
            DATA | HEADERS => self.tracker.find(u32::from_be_bytes(stream)),
            _ => None,
        };
    }

    fn end(&mut self) {
        self.read = 0;
        let Some(answer) = self.answer.take() else { return };
        if self.head[3] == HEADERS {
            answer.heads.fetch_add(1, Ordering::Relaxed);
        }
        if self.head[4] & END_STREAM != 0 {
            answer.has_ended.store(true, Ordering::Relaxed);
        }
        answer.changed.notify_one();
    }
}

impl Drop for FrameReader {
    fn drop(&mut self) {
        self.tracker.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
    }

    #[tokio::test(start_paused = true)]
    async fn each_answer_is_followed_however_bytes_are_cut() {
        let written = [
            frame(4, 0, 0, b"123456"),
            frame(HEADERS, 4, 1, b"head"),
            frame(DATA, 0, 1, b"of one"),
            frame(DATA, END_STREAM, 3, b"not followed"),
            frame(HEADERS, 4, 5, b"interim"),
            frame(HEADERS, 4, 5, b"head"),
            frame(DATA, END_STREAM, 5, b""),
            frame(DATA, 0, 1, b"more"),
        ]
        .concat();
        for step in [1, 2, 7, written.len()] {
            let tracker = Arc::new(SendTracker::new());
            let mut reader = FrameReader::new(Arc::clone(&tracker));
            let (one, five) = (tracker.track(1), tracker.track(5));
            let begun = Instant::now();
            advance(Duration::from_secs(3)).await;
            for bytes in written.chunks(step) {
                assert!(!one.has_bytes(10));
                reader.pass(bytes);
            }
            assert!(one.has_bytes(10) && !one.has_bytes(11) && !one.has_ended(), "by {step}");
            assert!(five.has_bytes(0) && !five.has_bytes(1) && five.has_ended(), "by {step}");
            assert!(one.has_heads(1) && !one.has_heads(2) && five.has_heads(2), "by {step}");
            assert_eq!(
                (one.last(10) - begun, five.last(0) - begun),
                (Duration::from_secs(3), Duration::ZERO)
            );
            assert!(!one.is_gone());
            drop(reader);
            assert!(one.is_gone() && tracker.track(7).is_gone());
            drop((one, five));
            assert_eq!(tracker.lock().len(), 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_for_its_turn_lives_by_what_others_take() {
        let tracker = Arc::new(SendTracker::new());
        let mut reader = FrameReader::new(Arc::clone(&tracker));
        let answer = tracker.track(1);
        let begun = Instant::now();
        answer.gives(0);
        let other = frame(DATA, 0, 3, &[0; 16_000]);
        let mut elapsed = Duration::ZERO;
        for count in 1..=600_u64 {
            advance(Duration::from_secs(1)).await;
            reader.pass(&other);
            if count * other.len() as u64 <= TURN {
                elapsed = Duration::from_secs(count);
                assert_eq!(answer.last(10) - begun, elapsed);
            }
            // Without bytes that wait, only its own count.
            assert_eq!(answer.last(0), begun);
        }
        // Its turn was due: it is not what others take that keeps it waiting.
        assert_eq!(answer.last(10), begun);
        assert!(elapsed > Duration::from_secs(500));
    }
}
