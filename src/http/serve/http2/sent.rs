//! Owns what the client of a connection has taken of each answer: bytes out, as frames of HTTP/2. `h2` does not
//! tell when it has written what it was given.

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

/// Bytes that a connection writes at most between two frames of one answer, if its window lets it: `h2` gives each
/// stream its turn.
const TURN: u64 = (MAX_STREAMS * STREAM_WINDOW) as u64;

/// The answers under way of one connection, by stream.
#[derive(Debug)]
pub(super) struct Sent {
    /// Looked at for each frame, so that tunnels pay for no lock.
    count: AtomicUsize,
    answers: Mutex<HashMap<u32, Arc<Taken>>>,
    begun: Instant,
    /// Bytes that were written, of whatever stream.
    written: AtomicU64,
    /// When, in milliseconds since it begun. Kept while answers are followed.
    moved: AtomicU64,
    /// The connection has ended.
    is_gone: AtomicBool,
}

impl Sent {
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

    /// Follows the answer of a stream until what is returned is dropped.
    pub(super) fn follow(self: &Arc<Self>, stream: u32) -> Followed {
        let taken = Arc::<Taken>::default();
        self.lock().insert(stream, Arc::clone(&taken));
        self.count.fetch_add(1, Ordering::Release);
        Followed { sent: Arc::clone(self), stream, taken }
    }

    fn find(&self, stream: u32) -> Option<Arc<Taken>> {
        self.has_answers().then(|| self.lock().get(&stream).cloned()).flatten()
    }

    fn has_answers(&self) -> bool {
        self.count.load(Ordering::Acquire) > 0
    }

    fn now(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    /// Bytes were written.
    fn wrote(&self, bytes: usize) {
        self.written.fetch_add(bytes as u64, Ordering::Relaxed);
        if self.has_answers() {
            self.moved.store(self.now(), Ordering::Relaxed);
        }
    }

    /// Nothing is written any more: `h2` does not tell those whose end it has queued.
    fn end(&self) {
        self.is_gone.store(true, Ordering::SeqCst);
        self.lock().values().for_each(|answer| answer.changed.notify_one());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Arc<Taken>>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An answer that is followed.
#[derive(Debug)]
pub(super) struct Followed {
    sent: Arc<Sent>,
    stream: u32,
    taken: Arc<Taken>,
}

impl Followed {
    /// More of the body is given to `h2`, which has had `given` bytes.
    pub(super) fn gives(&self, given: u64) {
        if self.has_bytes(given) {
            self.taken.at.store(self.sent.written.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    /// When its client last took something, if `h2` has had `given` bytes of the body. While some of them wait for
    /// their turn, that is whatever the connection carries.
    pub(super) fn last(&self, given: u64) -> Instant {
        let own = self.taken.last.load(Ordering::Relaxed);
        let since =
            self.sent.written.load(Ordering::Relaxed).saturating_sub(self.taken.at.load(Ordering::Relaxed));
        let waits_for_turn = !self.has_bytes(given) && since <= TURN;
        let last = if waits_for_turn { own.max(self.sent.moved.load(Ordering::Relaxed)) } else { own };
        self.sent.begun + Duration::from_millis(last)
    }

    /// Whether so many bytes of the body were taken.
    pub(super) fn has_bytes(&self, bytes: u64) -> bool {
        self.taken.bytes.load(Ordering::Relaxed) >= bytes
    }

    /// Whether so many heads were taken.
    pub(super) fn has_heads(&self, heads: u32) -> bool {
        self.taken.heads.load(Ordering::Relaxed) >= heads
    }

    /// Whether the end was taken.
    pub(super) fn has_ended(&self) -> bool {
        self.taken.has_ended.load(Ordering::Relaxed)
    }

    /// Whether the connection has ended.
    pub(super) fn is_gone(&self) -> bool {
        self.sent.is_gone.load(Ordering::SeqCst)
    }

    /// Waits until one of these may have changed.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.taken.changed.notified()
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.sent.lock().remove(&self.stream);
        self.sent.count.fetch_sub(1, Ordering::Release);
    }
}

/// What was taken of one answer.
#[derive(Debug, Default)]
struct Taken {
    /// When bytes of its body were last taken, in milliseconds since the connection's beginning.
    last: AtomicU64,
    /// What the connection had written then, or when the next bytes were given.
    at: AtomicU64,
    /// How many bytes of its body.
    bytes: AtomicU64,
    /// How many heads: the last one is its own, those before it are interim answers.
    heads: AtomicU32,
    has_ended: AtomicBool,
    changed: Notify,
}

/// Reads the frames of a connection on their way out.
#[derive(Debug)]
pub(super) struct Reader {
    sent: Arc<Sent>,
    /// The head of the frame, as far as it was written.
    head: [u8; HEAD],
    read: usize,
    /// Bytes that are missing of its payload.
    left: usize,
    /// The answer that it is of.
    answer: Option<Arc<Taken>>,
    /// Bytes of all answers.
    bytes: usize,
}

impl Reader {
    pub(super) fn new(sent: Arc<Sent>) -> Self {
        Self { sent, head: [0; HEAD], read: 0, left: 0, answer: None, bytes: 0 }
    }

    /// How many bytes of answers were written.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes note of what was written.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        self.sent.wrote(bytes.len());
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
                    answer.last.store(self.sent.now(), Ordering::Relaxed);
                    answer.at.store(self.sent.written.load(Ordering::Relaxed), Ordering::Relaxed);
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
            DATA | HEADERS => self.sent.find(u32::from_be_bytes(stream)),
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

impl Drop for Reader {
    fn drop(&mut self) {
        self.sent.end();
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
            let sent = Arc::new(Sent::new());
            let mut reader = Reader::new(Arc::clone(&sent));
            let (one, five) = (sent.follow(1), sent.follow(5));
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
            assert!(one.is_gone() && sent.follow(7).is_gone());
            drop((one, five));
            assert_eq!(sent.lock().len(), 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_for_its_turn_lives_by_what_others_take() {
        let sent = Arc::new(Sent::new());
        let mut reader = Reader::new(Arc::clone(&sent));
        let answer = sent.follow(1);
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
