//! Owns the filter between hyper and a client's socket. It parses the heads, and replaces the error responses
//! of hyper itself by ones that explain the reason.

use super::heads::{Heads, PartialRequest};
use crate::escape;
use crate::http::respond::{body_of, date, plain, title};
use http::{Response, StatusCode};
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::ReadBuf;

/// The state that an HTTP/1 connection shares with its requests.
#[derive(Debug, Default)]
pub(in crate::http::conn) struct Shared {
    heads: Mutex<Heads>,
    /// Whether hyper has made a request since it last had nothing to write. If so, hyper may be writing its
    /// response. Otherwise hyper writes an error response of its own.
    has_request: AtomicBool,
    /// The status of hyper's own response. 0 means that there was none.
    status: AtomicU16,
}

impl Shared {
    fn heads(&self) -> MutexGuard<'_, Heads> {
        // Nothing panics while it holds the lock, and a parser that lost its position changes nothing.
        self.heads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that hyper has made a request of a head. Returns whether the head had two lengths. hyper shows only
    /// one of them.
    pub(in crate::http::conn) fn mark_request(&self) -> bool {
        self.has_request.store(true, Ordering::Relaxed);
        self.heads().mark_request()
    }

    /// Records that hyper has written all its data and no request is active.
    pub(in crate::http::conn) fn mark_idle(&self) {
        self.has_request.store(false, Ordering::Relaxed);
    }

    /// Returns what could be read of a head that did not become a request. `status` applies if hyper sent no
    /// response.
    pub(in crate::http::conn) fn partial_request(&self, status: u16) -> PartialRequest {
        let answered = self.status.load(Ordering::Relaxed);
        self.heads().partial_request(if answered == 0 { status } else { answered })
    }
}

/// Filters the bytes between hyper and a socket.
#[derive(Debug)]
pub(in crate::http::conn) struct HeadFilter {
    pub(in crate::http::conn) shared: Arc<Shared>,
    /// Filtered input that did not fit hyper's buffer.
    held: Vec<u8>,
    /// The response in place of hyper's own, and how much of it is written.
    replacement: Option<(Vec<u8>, usize)>,
}

impl HeadFilter {
    pub(in crate::http::conn) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, held: Vec::new(), replacement: None }
    }

    /// Gives hyper the held input. Returns whether there was any.
    pub(in crate::http::conn) fn drain_held(&mut self, into: &mut ReadBuf<'_>) -> bool {
        let given = self.held.len().min(into.remaining());
        into.put_slice(&self.held[..given]);
        self.held.drain(..given);
        given > 0
    }

    /// Returns the held input that hyper never got.
    pub(in crate::http::conn) fn into_held(self) -> Vec<u8> {
        self.held
    }

    /// Filters what was read into a buffer that had `before` bytes.
    pub(in crate::http::conn) fn filter_read(&mut self, into: &mut ReadBuf<'_>, before: usize) {
        let Some(changed) = self.shared.heads().pass(&into.filled()[before..]) else { return };
        into.set_filled(before);
        let (fits, rest) = changed.split_at(changed.len().min(into.remaining()));
        into.put_slice(fits);
        self.held.extend_from_slice(rest);
    }

    /// Returns the unwritten rest of the response in place of hyper's own, if hyper is writing that.
    pub(in crate::http::conn) fn replacement(&mut self, bytes: &[u8]) -> Option<&[u8]> {
        if self.replacement.is_none() {
            let status =
                refused_status(bytes).filter(|_| !self.shared.has_request.load(Ordering::Relaxed))?;
            self.shared.status.store(status.as_u16(), Ordering::Relaxed);
            self.replacement = Some((written(&self.shared.partial_request(0), status).ok()?, 0));
        }
        self.replacement.as_ref().map(|(replacement, written)| &replacement[*written..])
    }

    /// Records written bytes of the replacement. Returns whether it is complete.
    pub(in crate::http::conn) fn advance(&mut self, count: usize) -> bool {
        let Some((replacement, written)) = &mut self.replacement else { return true };
        *written += count;
        let is_all = *written >= replacement.len();
        if is_all {
            // hyper closes the connection after it.
            self.shared.has_request.store(true, Ordering::Relaxed);
            self.replacement = None;
        }
        is_all
    }
}

/// Returns the status of hyper's own error response (400, 414, 431).
fn refused_status(bytes: &[u8]) -> Option<StatusCode> {
    let digits = bytes.strip_prefix(b"HTTP/1.1 4").or_else(|| bytes.strip_prefix(b"HTTP/1.0 4"))?;
    StatusCode::from_bytes(&[b'4', *digits.first()?, *digits.get(1)?]).ok()
}

fn written(partial_request: &PartialRequest, status: StatusCode) -> io::Result<Vec<u8>> {
    // It may quote what the client sent.
    let reason = escape::terminal(&partial_request.reason);
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
    if partial_request.method.as_deref() != Some("HEAD") {
        bytes.extend_from_slice(body.as_bytes());
    }
    Ok(bytes)
}
