//! Owns what a connection is doing, as far as its timeouts are concerned: which requests are under
//! way, since when a head is coming, since when nothing is asked.

use super::super::Settings;
use super::super::respond::Body;
use crate::io::Stream;
use hyper::body::{Bytes, Frame, SizeHint};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// What a connection is doing, as far as timeouts are concerned: shared by its stream, which sees
/// bytes come, and its exchanges. Moments are milliseconds since it was accepted.
#[derive(Debug)]
pub(super) struct Activity {
    /// Heads come one behind the other, and their first bytes are seen. Those of HTTP/2 come in
    /// frames, of which other kinds come too.
    pub(super) has_heads: bool,
    accepted: Instant,
    exchanges: AtomicU32,
    /// When a head began to come; 0: none is coming.
    head_since: AtomicU64,
    idle_since: AtomicU64,
}

pub(super) enum Verdict {
    Fine,
    /// Nothing was asked for `keepalive_timeout`.
    Idle,
    /// A head did not come to its end within `header_timeout`.
    TooSlow,
}

impl Activity {
    pub(super) fn new(has_heads: bool) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            has_heads,
            accepted: Instant::now(),
            exchanges: AtomicU32::new(0),
            head_since: zero(),
            idle_since: zero(),
        }
    }

    /// Never 0, which stands for "none".
    fn now(&self) -> u64 {
        self.accepted.elapsed().as_millis() as u64 + 1
    }

    fn bytes_came(&self) {
        let is_idle = || self.exchanges.load(Ordering::Relaxed) == 0;
        if self.has_heads && is_idle() && self.head_since.load(Ordering::Relaxed) == 0 {
            self.head_since.store(self.now(), Ordering::Relaxed);
        }
    }

    pub(super) fn verdict(&self, settings: &Settings) -> Verdict {
        if self.exchanges.load(Ordering::Relaxed) > 0 {
            return Verdict::Fine;
        }
        let over = |since: u64, limit: Duration| self.now().saturating_sub(since) >= limit.as_millis() as u64;
        match self.head_since.load(Ordering::Relaxed) {
            0 if over(self.idle_since.load(Ordering::Relaxed), settings.keepalive_timeout) => Verdict::Idle,
            0 => Verdict::Fine,
            since if over(since, settings.header_timeout) => Verdict::TooSlow,
            _ => Verdict::Fine,
        }
    }
}

/// A request under way, until its answer is written, or its tunnel over HTTP/2 ends.
#[derive(Debug)]
pub(super) struct Exchange(Weak<Activity>);

impl Exchange {
    pub(super) fn begin(activity: &Arc<Activity>) -> Self {
        activity.exchanges.fetch_add(1, Ordering::Relaxed);
        activity.head_since.store(0, Ordering::Relaxed);
        Self(Arc::downgrade(activity))
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(activity) = self.0.upgrade() {
            activity.idle_since.store(activity.now(), Ordering::Relaxed);
            activity.exchanges.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// An answer's body; when it is written or given up, the exchange is over.
pub(super) struct Counted {
    pub(super) body: Body,
    pub(super) _exchange: Arc<Exchange>,
}

impl hyper::body::Body for Counted {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A client's stream that takes note of the first byte of each request.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) stream: Stream,
    pub(super) activity: Arc<Activity>,
}

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let watched = self.get_mut();
        let before = into.filled().len();
        let read = Pin::new(&mut watched.stream).poll_read(cx, into);
        if into.filled().len() > before {
            watched.activity.bytes_came();
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
