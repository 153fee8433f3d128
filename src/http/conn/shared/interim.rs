//! Owns interim responses (1xx) to a client of HTTP/1.1 (RFC 9110 15.2). hyper's server cannot send any.
//! Holdline writes them past hyper, only between messages and only before the final response.

use bytes::{Buf as _, BufMut as _, BytesMut};
use http::{HeaderMap, StatusCode};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, ready};

/// Maximum bytes that wait for a slow client. Holdline drops further ones: interim responses are optional.
const MAX_PENDING: usize = 16 * 1024;

/// The interim responses of one connection, whose exchanges follow one another.
#[derive(Debug, Default)]
pub(in crate::http::conn) struct InterimQueue {
    /// Read for each write.
    is_waiting: AtomicBool,
    /// hyper may be in the middle of a message.
    is_mid_write: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The number of the current exchange.
    exchange: u64,
    /// Whether it still waits for its response.
    is_open: bool,
    bytes: BytesMut,
    /// Some of the bytes are written, so the rest must follow.
    is_partly_written: bool,
}

impl InterimQueue {
    /// Begins an exchange. Returns its number.
    pub(in crate::http::conn) fn begin_exchange(&self) -> u64 {
        let mut state = self.lock();
        (state.exchange, state.is_open) = (state.exchange + 1, true);
        state.exchange
    }

    /// Ends the interim phase: none may follow the start of the final response.
    pub(in crate::http::conn) fn close(&self) {
        let mut state = self.lock();
        state.is_open = false;
        // The final response may directly follow what hyper has not written yet.
        if self.is_mid_write.load(Ordering::Relaxed) && !state.is_partly_written {
            state.bytes.clear();
        }
    }

    /// Adds an interim response of an exchange. Returns whether there is something to write now.
    pub(in crate::http::conn) fn push(&self, exchange: u64, status: StatusCode, headers: &HeaderMap) -> bool {
        let head = encode(status, headers);
        let mut state = self.lock();
        let fits = state.bytes.len() + head.len() <= MAX_PENDING;
        if !fits || !state.is_open || state.exchange != exchange {
            return false;
        }
        state.bytes.extend_from_slice(&head);
        self.is_waiting.store(true, Ordering::Release);
        true
    }

    /// Writes the waiting bytes, if hyper is between messages. Nothing else may be written until it is ready.
    pub(in crate::http::conn) fn poll_write(
        &self,
        mut write: impl FnMut(&[u8]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<()>> {
        if !self.is_waiting.load(Ordering::Acquire) || self.is_mid_write.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        let mut state = self.lock();
        while !state.bytes.is_empty() {
            let length = ready!(write(&state.bytes))?;
            if length == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            state.bytes.advance(length);
            state.is_partly_written = true;
        }
        state.is_partly_written = false;
        self.is_waiting.store(false, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }

    /// Records that hyper writes.
    pub(in crate::http::conn) fn mark_writing(&self) {
        self.is_mid_write.store(true, Ordering::Relaxed);
    }

    /// Records that hyper has written all its data.
    pub(in crate::http::conn) fn flushed(&self) {
        self.is_mid_write.store(false, Ordering::Relaxed);
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

    fn hint(interim: &InterimQueue, exchange: u64) -> bool {
        let link = ("link".parse().unwrap(), HeaderValue::from_static("</a.css>"));
        interim.push(exchange, StatusCode::EARLY_HINTS, &HeaderMap::from_iter([link]))
    }

    /// What is written where the stream takes so many bytes, `None` as many as there are.
    fn written(interim: &InterimQueue, most: Option<usize>) -> String {
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
        let interim = InterimQueue::default();
        let exchange = interim.begin_exchange();
        interim.mark_writing();
        assert!(hint(&interim, exchange));
        assert_eq!(written(&interim, None), "");
        interim.flushed();
        assert_eq!(written(&interim, None), HINTS);
        assert_eq!(written(&interim, None), "");
    }

    #[test]
    fn one_never_follows_the_answer_that_it_announces() {
        let interim = InterimQueue::default();
        let exchange = interim.begin_exchange();
        // The end of the last answer is not written yet.
        interim.mark_writing();
        assert!(hint(&interim, exchange));
        interim.close();
        interim.flushed();
        assert_eq!(written(&interim, None), "");
        assert!(!hint(&interim, exchange), "too late");
        let next = interim.begin_exchange();
        assert!(!hint(&interim, exchange), "another exchange's");
        // What waits when the answer is there goes before it.
        assert!(hint(&interim, next));
        interim.close();
        assert_eq!(written(&interim, None), HINTS);
    }

    #[test]
    fn one_that_is_begun_is_written_to_its_end() {
        let interim = InterimQueue::default();
        let exchange = interim.begin_exchange();
        assert!(hint(&interim, exchange));
        let begun = written(&interim, Some(9));
        interim.close();
        assert_eq!(begun + &written(&interim, None), HINTS);
    }

    #[test]
    fn no_more_waits_than_the_limit() {
        let interim = InterimQueue::default();
        let exchange = interim.begin_exchange();
        let added = (0..10_000).filter(|_| hint(&interim, exchange)).count();
        assert_eq!(added, MAX_PENDING / HINTS.len());
    }
}
