//! Owns what the client of a connection has taken of each answer: bytes out, as frames of HTTP/2. `h2` does not
//! tell when it has written what it was given.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// RFC 9113 4.1.
const HEAD: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const END_STREAM: u8 = 1;

/// The answers under way of one connection, by stream.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// Looked at for each frame, so that tunnels pay for no lock.
    count: AtomicUsize,
    answers: Mutex<HashMap<u32, Arc<Taken>>>,
}

impl Sent {
    /// Follows the answer of a stream until what is returned is dropped.
    pub(super) fn follow(self: &Arc<Self>, stream: u32) -> Followed {
        let taken = Arc::new(Taken::new());
        self.lock().insert(stream, Arc::clone(&taken));
        self.count.fetch_add(1, Ordering::Release);
        Followed { sent: Arc::clone(self), stream, taken }
    }

    fn find(&self, stream: u32) -> Option<Arc<Taken>> {
        (self.count.load(Ordering::Acquire) > 0).then(|| self.lock().get(&stream).cloned()).flatten()
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

impl std::ops::Deref for Followed {
    type Target = Taken;

    fn deref(&self) -> &Taken {
        &self.taken
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.sent.lock().remove(&self.stream);
        self.sent.count.fetch_sub(1, Ordering::Release);
    }
}

/// What was taken of one answer.
#[derive(Debug)]
pub(super) struct Taken {
    begun: Instant,
    /// When bytes of its body were last taken, in milliseconds since it begun.
    last: AtomicU64,
    /// How many bytes of its body.
    bytes: AtomicU64,
    has_head: AtomicBool,
    has_ended: AtomicBool,
    pub(super) changed: Notify,
}

impl Taken {
    fn new() -> Self {
        Self {
            begun: Instant::now(),
            last: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            has_head: AtomicBool::new(false),
            has_ended: AtomicBool::new(false),
            changed: Notify::new(),
        }
    }

    /// When bytes of the body were last taken.
    pub(super) fn last(&self) -> Instant {
        self.begun + Duration::from_millis(self.last.load(Ordering::Relaxed))
    }

    /// Whether its head was taken, and so many bytes of its body.
    pub(super) fn has(&self, bytes: u64) -> bool {
        self.has_head.load(Ordering::Relaxed) && self.bytes.load(Ordering::Relaxed) >= bytes
    }

    /// Whether its end was taken.
    pub(super) fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Relaxed)
    }

    fn took(&self, bytes: usize) {
        self.last.store(self.begun.elapsed().as_millis() as u64, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
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
                    answer.took(taken);
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
            answer.has_head.store(true, Ordering::Relaxed);
        }
        if self.head[4] & END_STREAM != 0 {
            answer.has_ended.store(true, Ordering::Relaxed);
        }
        answer.changed.notify_one();
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
            frame(HEADERS, 4, 5, b"head"),
            frame(DATA, END_STREAM, 5, b""),
            frame(DATA, 0, 1, b"more"),
        ]
        .concat();
        for step in [1, 2, 7, written.len()] {
            let sent = Arc::new(Sent::default());
            let mut reader = Reader::new(Arc::clone(&sent));
            let (one, five) = (sent.follow(1), sent.follow(5));
            let begun = Instant::now();
            advance(Duration::from_secs(3)).await;
            for bytes in written.chunks(step) {
                assert!(!one.has(10));
                reader.pass(bytes);
            }
            assert!(one.has(10) && !one.has(11) && !one.has_ended(), "by {step}");
            assert!(five.has(0) && !five.has(1) && five.has_ended(), "by {step}");
            assert_eq!((one.last() - begun, five.last() - begun), (Duration::from_secs(3), Duration::ZERO));
            drop((one, five));
            assert_eq!(sent.lock().len(), 0);
        }
    }
}
