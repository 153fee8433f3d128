//! Owns what stands between hyper and a client's socket: it has the heads read along, and gives the
//! answers that hyper writes itself a body that tells why.

use super::heads::{Heads, Told};
use crate::escape;
use crate::http::respond::{body_of, date, plain, title};
use http::{Response, StatusCode};
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::ReadBuf;

/// What a connection of HTTP/1 shares with its requests.
#[derive(Debug, Default)]
pub(in crate::http::serve) struct Shared {
    heads: Mutex<Heads>,
    /// A request was made since all that was to be written had been written: what hyper writes may be its
    /// answer. If not, it is an answer of hyper's own.
    is_asked: AtomicBool,
    /// Of hyper's own answer; 0: there was none.
    status: AtomicU16,
}

impl Shared {
    fn heads(&self) -> MutexGuard<'_, Heads> {
        // Nothing panics with it, and a reader that is lost changes nothing.
        self.heads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// hyper has made a request of a head; whether it came with two lengths, of which hyper shows one.
    pub(in crate::http::serve) fn is_request(&self) -> bool {
        self.is_asked.store(true, Ordering::Relaxed);
        self.heads().is_request()
    }

    /// All that hyper had to write is written, and no request is under way.
    pub(in crate::http::serve) fn is_idle(&self) {
        self.is_asked.store(false, Ordering::Relaxed);
    }

    /// What can be told of a head that did not become a request; `status` where hyper gave no answer.
    pub(in crate::http::serve) fn told(&self, status: u16) -> Told {
        let answered = self.status.load(Ordering::Relaxed);
        self.heads().told(if answered == 0 { status } else { answered })
    }
}

/// The way of bytes between hyper and a socket.
#[derive(Debug)]
pub(in crate::http::serve) struct Along {
    pub(in crate::http::serve) shared: Arc<Shared>,
    /// What came, as hyper is to see it, and did not fit into its buffer.
    held: Vec<u8>,
    /// The answer in place of hyper's own, and how much of it is written.
    answer: Option<(Vec<u8>, usize)>,
}

impl Along {
    pub(in crate::http::serve) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, held: Vec::new(), answer: None }
    }

    /// Gives what is held; whether there was any.
    pub(in crate::http::serve) fn give(&mut self, into: &mut ReadBuf<'_>) -> bool {
        let given = self.held.len().min(into.remaining());
        into.put_slice(&self.held[..given]);
        self.held.drain(..given);
        given > 0
    }

    /// What was held and never given.
    pub(in crate::http::serve) fn into_held(self) -> Vec<u8> {
        self.held
    }

    /// Follows what was read into a buffer that had `before` bytes.
    pub(in crate::http::serve) fn came(&mut self, into: &mut ReadBuf<'_>, before: usize) {
        let Some(changed) = self.shared.heads().pass(&into.filled()[before..]) else { return };
        into.set_filled(before);
        let (fits, rest) = changed.split_at(changed.len().min(into.remaining()));
        into.put_slice(fits);
        self.held.extend_from_slice(rest);
    }

    /// What is still to be written in place of hyper's own answer, if that is what it writes.
    pub(in crate::http::serve) fn answer(&mut self, bytes: &[u8]) -> Option<&[u8]> {
        if self.answer.is_none() {
            let status = own_status(bytes).filter(|_| !self.shared.is_asked.load(Ordering::Relaxed))?;
            self.shared.status.store(status.as_u16(), Ordering::Relaxed);
            self.answer = Some((written(&self.shared.told(0), status).ok()?, 0));
        }
        self.answer.as_ref().map(|(answer, written)| &answer[*written..])
    }

    /// So much of the answer is written; whether that is all of it.
    pub(in crate::http::serve) fn wrote(&mut self, count: usize) -> bool {
        let Some((answer, written)) = &mut self.answer else { return true };
        *written += count;
        let is_all = *written >= answer.len();
        if is_all {
            // hyper closes behind it.
            self.shared.is_asked.store(true, Ordering::Relaxed);
            self.answer = None;
        }
        is_all
    }
}

/// The status of a head that hyper refused (400, 414, 431).
fn own_status(bytes: &[u8]) -> Option<StatusCode> {
    let digits = bytes.strip_prefix(b"HTTP/1.1 4").or_else(|| bytes.strip_prefix(b"HTTP/1.0 4"))?;
    StatusCode::from_bytes(&[b'4', *digits.first()?, *digits.get(1)?]).ok()
}

fn written(told: &Told, status: StatusCode) -> io::Result<Vec<u8>> {
    // It may quote what the client sent.
    let reason = escape::terminal(&told.reason);
    let mut response: Response<_> = plain(status, &reason);
    date(&mut response);
    let body = body_of(status, &reason);
    let mut bytes = Vec::new();
    write!(bytes, "HTTP/1.1 {} {}\r\n", status.as_u16(), title(status))?;
    for (name, value) in response.headers() {
        write!(bytes, "{name}: ")?;
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    write!(bytes, "connection: close\r\ncontent-length: {}\r\n\r\n", body.len())?;
    // RFC 9110 9.3.2.
    if told.method.as_deref() != Some("HEAD") {
        bytes.extend_from_slice(body.as_bytes());
    }
    Ok(bytes)
}
