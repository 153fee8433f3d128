//! Owns interim answers (1xx) on their way to a client of HTTP/1.1 (RFC 9110 15.2). hyper's server cannot
//! send any. They are written around it: only where it has nothing half written, and only before the
//! answer that they announce.

use bytes::{Buf as _, BufMut as _, BytesMut};
use http::{HeaderMap, StatusCode};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, ready};

/// What may wait for a client that takes nothing, in bytes. More is left out: nobody needs an interim
/// answer.
const MOST: usize = 16 * 1024;

/// Those of one connection, whose exchanges come one behind the other.
#[derive(Debug, Default)]
pub(in crate::http::serve) struct Interim {
    /// Looked at for each write.
    is_waiting: AtomicBool,
    /// Bytes of hyper's own may be on their way.
    is_amid: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The exchange that is under way.
    exchange: u64,
    /// It has not been answered.
    is_open: bool,
    bytes: BytesMut,
    /// Some of them are written, so the others must be.
    is_begun: bool,
}

impl Interim {
    /// An exchange begins: its number.
    pub(in crate::http::serve) fn open(&self) -> u64 {
        let mut state = self.lock();
        (state.exchange, state.is_open) = (state.exchange + 1, true);
        state.exchange
    }

    /// It is answered: nothing may be written behind the beginning of that.
    pub(in crate::http::serve) fn seal(&self) {
        let mut state = self.lock();
        state.is_open = false;
        // What hyper has not written yet may be followed by the answer without a gap.
        if self.is_amid.load(Ordering::Relaxed) && !state.is_begun {
            state.bytes.clear();
        }
    }

    /// Adds an interim answer of an exchange. Whether there is something to write now.
    pub(in crate::http::serve) fn add(&self, exchange: u64, status: StatusCode, headers: &HeaderMap) -> bool {
        let head = encode(status, headers);
        let mut state = self.lock();
        let fits = state.bytes.len() + head.len() <= MOST;
        if !fits || !state.is_open || state.exchange != exchange {
            return false;
        }
        state.bytes.extend_from_slice(&head);
        self.is_waiting.store(true, Ordering::Release);
        true
    }

    /// Writes what waits, if this is a place for it. Nothing else may be written before it is ready.
    pub(in crate::http::serve) fn poll_write(
        &self,
        mut write: impl FnMut(&[u8]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<()>> {
        if !self.is_waiting.load(Ordering::Acquire) || self.is_amid.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        let mut state = self.lock();
        while !state.bytes.is_empty() {
            let length = ready!(write(&state.bytes))?;
            if length == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            state.bytes.advance(length);
            state.is_begun = true;
        }
        state.is_begun = false;
        self.is_waiting.store(false, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }

    /// hyper writes.
    pub(in crate::http::serve) fn begins(&self) {
        self.is_amid.store(true, Ordering::Relaxed);
    }

    /// hyper has written all it had.
    pub(in crate::http::serve) fn flushed(&self) {
        self.is_amid.store(false, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn encode(status: StatusCode, headers: &HeaderMap) -> BytesMut {
    let mut head = BytesMut::new();
    let reason = status.canonical_reason().unwrap_or_default();
    head.put_slice(format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).as_bytes());
    for (name, value) in headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            head.put_slice(part);
        }
    }
    head.put_slice(b"\r\n");
    head
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n";

    fn hint(interim: &Interim, exchange: u64) -> bool {
        let link = ("link".parse().unwrap(), HeaderValue::from_static("</a.css>"));
        interim.add(exchange, StatusCode::EARLY_HINTS, &HeaderMap::from_iter([link]))
    }

    /// What is written where the stream takes so many bytes, `None` as many as there are.
    fn written(interim: &Interim, most: Option<usize>) -> String {
        let (mut out, mut left) = (Vec::new(), most);
        let _ = interim.poll_write(|bytes| {
            let length = left.unwrap_or(bytes.len()).min(bytes.len());
            if length == 0 {
                return Poll::Pending;
            }
            left = left.map(|left| left - length);
            out.extend_from_slice(&bytes[..length]);
            Poll::Ready(Ok(length))
        });
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn one_is_written_between_messages_only() {
        let interim = Interim::default();
        let exchange = interim.open();
        interim.begins();
        assert!(hint(&interim, exchange));
        assert_eq!(written(&interim, None), "");
        interim.flushed();
        assert_eq!(written(&interim, None), HINTS);
        assert_eq!(written(&interim, None), "");
    }

    #[test]
    fn one_never_follows_the_answer_that_it_announces() {
        let interim = Interim::default();
        let exchange = interim.open();
        // The end of the last answer is not written yet.
        interim.begins();
        assert!(hint(&interim, exchange));
        interim.seal();
        interim.flushed();
        assert_eq!(written(&interim, None), "");
        assert!(!hint(&interim, exchange), "too late");
        let next = interim.open();
        assert!(!hint(&interim, exchange), "another exchange's");
        // What waits when the answer is there goes before it.
        assert!(hint(&interim, next));
        interim.seal();
        assert_eq!(written(&interim, None), HINTS);
    }

    #[test]
    fn one_that_is_begun_is_written_to_its_end() {
        let interim = Interim::default();
        let exchange = interim.open();
        assert!(hint(&interim, exchange));
        let begun = written(&interim, Some(9));
        interim.seal();
        assert_eq!(begun + &written(&interim, None), HINTS);
    }

    #[test]
    fn no_more_waits_than_the_limit() {
        let interim = Interim::default();
        let exchange = interim.open();
        let added = (0..10_000).filter(|_| hint(&interim, exchange)).count();
        assert_eq!(added, MOST / HINTS.len());
    }
}
