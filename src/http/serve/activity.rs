//! Owns what a connection is doing, as far as its timeouts are concerned: which requests are under
//! way, since when a head is coming, since when nothing is asked.
//!
//! The clock of a connection that asks nothing runs from the end of its last request, whatever comes
//! over it: only a request stops it.

use super::super::Settings;
use super::super::respond::Body;
use super::along::Along;
use super::flush::Flush;
use super::frames::Frames;
use super::interim::Interim;
use crate::io::Stream;
use crate::slots::{More, Slot};
use http::{HeaderMap, StatusCode};
use hyper::body::{Bytes, Frame, SizeHint};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// What a connection is doing, as far as timeouts are concerned: shared by its stream, which sees
/// bytes come, and its exchanges. Moments are milliseconds since it was accepted.
#[derive(Debug)]
pub(super) struct Activity {
    /// Heads come one behind the other, and the first byte of one ends the idle time, once. Of HTTP/2 no
    /// byte does that, for not every byte is of a request.
    is_http1: bool,
    accepted: Instant,
    exchanges: AtomicU32,
    /// How many of them wait for the client to take what is there of an answer.
    stalled: AtomicU32,
    /// When one of them last went on.
    moved: AtomicU64,
    /// When a head began to come, or a frame of HTTP/2 that takes no time; 0: none is coming. A client of
    /// HTTP/2 can make it begin again, frame by frame.
    begun: AtomicU64,
    /// 0: nothing was ever asked.
    idle_since: AtomicU64,
    /// It ended as the client took nothing.
    cut: Fate,
    pub(super) flush: Flush,
    pub(super) interim: Interim,
    /// The room for an upstream connection that its place brings along.
    own: Arc<Semaphore>,
}

/// What became of the connection that a request came over.
#[derive(Clone, Debug, Default)]
pub struct Fate(Arc<AtomicBool>);

impl Fate {
    /// It was cut, as the client took nothing of what there was for `body_timeout`.
    #[must_use]
    pub fn is_stalled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

pub(super) enum Verdict {
    Fine,
    /// Nothing was asked for `keepalive_timeout`, or for `header_timeout` since the beginning.
    Idle,
    /// A head did not come to its end within `header_timeout`.
    TooSlow,
    /// Answers were not taken for `body_timeout`, and there is nothing else.
    Stalled,
}

impl Activity {
    pub(super) fn new(is_http1: bool) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            is_http1,
            accepted: Instant::now(),
            exchanges: AtomicU32::new(0),
            stalled: AtomicU32::new(0),
            moved: zero(),
            begun: zero(),
            idle_since: zero(),
            cut: Fate::default(),
            flush: Flush::default(),
            interim: Interim::default(),
            own: Arc::new(Semaphore::new(1)),
        }
    }

    /// Never 0, which stands for "none".
    fn now(&self) -> u64 {
        self.accepted.elapsed().as_millis() as u64 + 1
    }

    fn bytes_came(&self, bytes: &mut [u8], frames: &mut Option<Frames>) {
        let is_coming = || self.begun.load(Ordering::Relaxed) > 0;
        if let Some(frames) = frames {
            let was_whole = frames.pass(bytes);
            match frames.is_half() {
                false => self.begun.store(0, Ordering::Relaxed),
                true if was_whole || !is_coming() => self.begun.store(self.now(), Ordering::Relaxed),
                true => {}
            }
        } else if !self.is_busy() && !is_coming() {
            self.begun.store(self.now(), Ordering::Relaxed);
        }
    }

    fn is_busy(&self) -> bool {
        self.exchanges.load(Ordering::Relaxed) > 0
    }

    pub(super) fn verdict(&self, settings: &Settings) -> Verdict {
        let read = |moment: &AtomicU64| moment.load(Ordering::Relaxed);
        let over = |since: u64, limit: Duration| self.now().saturating_sub(since) >= limit.as_millis() as u64;
        let exchanges = self.exchanges.load(Ordering::Relaxed);
        let begun = read(&self.begun);
        if begun > 0 && over(begun, settings.header_timeout) {
            return Verdict::TooSlow;
        }
        if exchanges == 0 {
            let idle_since = read(&self.idle_since);
            let patience = if idle_since == 0 { settings.header_timeout } else { settings.keepalive_timeout };
            let is_asking = self.is_http1 && begun > 0;
            return if !is_asking && over(idle_since, patience) { Verdict::Idle } else { Verdict::Fine };
        }
        if self.stalled.load(Ordering::Relaxed) >= exchanges {
            let limit = settings.body_timeout;
            let is_over = limit.is_some_and(|limit| over(read(&self.moved), limit));
            self.cut.0.store(is_over, Ordering::Relaxed);
            return if is_over { Verdict::Stalled } else { Verdict::Fine };
        }
        Verdict::Fine
    }

    /// Whether nothing but a request has been waited for, for so long.
    pub(super) fn waits_for(&self, patience: Duration) -> bool {
        let since = match self.begun.load(Ordering::Relaxed) {
            begun if begun > 0 && self.is_http1 => begun,
            _ => self.idle_since.load(Ordering::Relaxed),
        };
        !self.is_busy() && self.now().saturating_sub(since) >= patience.as_millis() as u64
    }
}

/// A request under way, until its answer is written, or its tunnel over HTTP/2 ends.
#[derive(Debug)]
pub(super) struct Exchange {
    activity: Weak<Activity>,
    /// Its number, for interim answers.
    number: u64,
    room: OnceLock<Room>,
}

/// Room for a connection to an upstream.
#[derive(Debug)]
enum Room {
    /// What the connection's place brings along.
    Own { _own: OwnedSemaphorePermit },
    /// More than that.
    More { _more: More },
}

impl Exchange {
    pub(super) fn fate(&self) -> Option<Fate> {
        self.activity.upgrade().map(|activity| activity.cut.clone())
    }

    /// What passes interim answers to its client.
    pub(super) fn hints(&self) -> Hints {
        Hints { activity: Weak::clone(&self.activity), exchange: self.number }
    }

    /// It is answered.
    pub(super) fn answered(&self) {
        if let Some(activity) = self.activity.upgrade() {
            activity.interim.seal();
        }
    }

    pub(super) fn begin(activity: &Arc<Activity>) -> Self {
        activity.exchanges.fetch_add(1, Ordering::Relaxed);
        if activity.is_http1 {
            activity.begun.store(0, Ordering::Relaxed);
        }
        let number = activity.interim.open();
        Self { activity: Arc::downgrade(activity), number, room: OnceLock::new() }
    }

    /// Waits until there is room for a connection to an upstream, which is kept until the end.
    pub(super) async fn make_room(&self, slot: &Slot) {
        let Some(own) = self.activity.upgrade().map(|activity| Arc::clone(&activity.own)) else { return };
        let room = tokio::select! {
            biased;
            Ok(own) = own.acquire_owned() => Room::Own { _own: own },
            more = slot.more() => Room::More { _more: more },
        };
        // It is asked once.
        let _ = self.room.set(room);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(activity) = self.activity.upgrade() {
            activity.idle_since.store(activity.now(), Ordering::Relaxed);
            activity.exchanges.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Passes interim answers to the client of one exchange.
#[derive(Clone, Debug)]
pub struct Hints {
    activity: Weak<Activity>,
    exchange: u64,
}

impl Hints {
    /// Passes one on. It is left out where the answer is there already, or the client takes nothing.
    pub fn send(&self, status: StatusCode, headers: &HeaderMap) {
        if let Some(activity) = self.activity.upgrade()
            && activity.interim.add(self.exchange, status, headers)
        {
            activity.flush.ask();
        }
    }
}

/// An answer's body; when it is written or given up, the exchange is over. It is asked for more when
/// the client has taken what there was, so that between a piece and the next question it is the
/// client who is waited for.
pub(super) struct Counted {
    body: Body,
    exchange: Arc<Exchange>,
    stalled: bool,
    /// It has failed. The client gets what came before, and then learns of it.
    failed: Option<Failed>,
}

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Why an answer's body failed, and the flush before it.
struct Failed {
    error: Error,
    flush: u64,
}

impl Counted {
    pub(super) fn new(body: Body, exchange: Arc<Exchange>) -> Self {
        let mut counted = Self { body, exchange, stalled: false, failed: None };
        counted.waits_for_client(true);
        counted
    }

    /// Gives the error back once all that came before it is written. The client is waited for meanwhile.
    fn poll_failed(&mut self, cx: &Context<'_>) -> Poll<Option<Error>> {
        if let (Some(failed), Some(activity)) = (&self.failed, self.exchange.activity.upgrade()) {
            ready!(activity.flush.poll_done(failed.flush, cx));
        }
        Poll::Ready(self.failed.take().map(|failed| failed.error))
    }

    fn waits_for_client(&mut self, waits: bool) {
        let Some(activity) = self.exchange.activity.upgrade().filter(|_| waits != self.stalled) else {
            return;
        };
        self.stalled = waits;
        activity.moved.store(activity.now(), Ordering::Relaxed);
        match waits {
            true => activity.stalled.fetch_add(1, Ordering::Relaxed),
            false => activity.stalled.fetch_sub(1, Ordering::Relaxed),
        };
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.waits_for_client(false);
    }
}

impl hyper::body::Body for Counted {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.failed.is_some() {
            return self.poll_failed(cx).map(|error| error.map(Err));
        }
        self.waits_for_client(false);
        let next = Pin::new(&mut self.body).poll_frame(cx);
        self.waits_for_client(matches!(next, Poll::Ready(Some(_))));
        match (next, self.exchange.activity.upgrade()) {
            (Poll::Ready(Some(Err(error))), Some(activity)) => {
                self.failed = Some(Failed { error, flush: activity.flush.ask() });
                self.poll_failed(cx).map(|error| error.map(Err))
            }
            (next, _) => next,
        }
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
    /// Of HTTP/2.
    pub(super) frames: Option<Frames>,
    /// Of HTTP/1.
    pub(super) along: Option<Along>,
}

impl Watched {
    /// Writes the answer that stands for hyper's own, if that is what hyper writes.
    fn poll_answer(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Option<Poll<io::Result<usize>>> {
        loop {
            let along = self.along.as_mut()?;
            let answer = along.answer(bytes)?;
            match Pin::new(&mut self.stream).poll_write(cx, answer) {
                Poll::Ready(Ok(0)) => return Some(Poll::Ready(Err(io::ErrorKind::WriteZero.into()))),
                Poll::Ready(Ok(count)) if along.wrote(count) => return Some(Poll::Ready(Ok(bytes.len()))),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Some(Poll::Ready(Err(error))),
                Poll::Pending => return Some(Poll::Pending),
            }
        }
    }
}

impl Watched {
    /// What must be done before hyper writes.
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.write_interim(cx))?;
        self.activity.interim.begins();
        Poll::Ready(Ok(()))
    }

    fn write_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, activity, .. } = self;
        activity.interim.poll_write(|bytes| Pin::new(&mut *stream).poll_write(cx, bytes))
    }
}

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let watched = self.get_mut();
        if watched.along.as_mut().is_some_and(|along| along.give(into)) {
            return Poll::Ready(Ok(()));
        }
        let before = into.filled().len();
        let read = Pin::new(&mut watched.stream).poll_read(cx, into);
        if let came @ [_, ..] = &mut into.filled_mut()[before..] {
            watched.activity.bytes_came(came, &mut watched.frames);
            if let Some(along) = &mut watched.along {
                along.came(into, before);
            }
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_interim(cx))?;
        if let Some(written) = self.poll_answer(cx, bytes) {
            return written;
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_interim(cx))?;
        if let Some(written) = bytes.first().and_then(|first| self.poll_answer(cx, first)) {
            return written;
        }
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper flushes when all that it had to write is written.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(along) = self.along.as_ref().filter(|_| !self.activity.is_busy()) {
            along.shared.is_idle();
        }
        // hyper flushes when it has given all it had.
        self.activity.interim.flushed();
        ready!(self.write_interim(cx))?;
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.activity.flush.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
