//! Owns one HTTP/1.1 connection of a client: its timeouts, its requests in turn, its graceful end.

use super::Settings;
use super::respond::Body;
use crate::drain::{Phase, Watch};
use crate::io::Stream;
use hyper::body::{Bytes, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep, timeout};

/// Why what a client sent did not become a request. What answer it gets is hyper's doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is no HTTP/1.1: 400.
    Malformed,
    /// Its head is over `max_header_size`: 431.
    TooLarge,
    /// Its head did not come to its end within `header_timeout`; there is no answer.
    TooSlow,
}

/// Serves the requests of a connection until it ends, becomes a tunnel or drains. `refused` is told
/// of what did not become a request.
pub async fn serve<F, A, R>(stream: Stream, settings: &Settings, mut watch: Watch, answer: F, refused: R)
where
    F: Fn(Request<Incoming>) -> A,
    A: Future<Output = Response<Body>>,
    R: Fn(Refusal),
{
    // A connection costs some 10 KB once hyper has it: not before its first byte is there.
    if !matches!(timeout(settings.header_timeout, stream.readable()).await, Ok(Ok(()))) {
        return;
    }
    let activity = Arc::new(Activity::new());
    let io = TokioIo::new(Watched { stream, activity: Arc::clone(&activity) });
    let service = service_fn(|request| {
        let exchange = Exchange::begin(&activity);
        let answer = answer(request);
        async move { Ok::<_, Infallible>(answer.await.map(|body| Counted { body, _exchange: exchange })) }
    });
    // What was accepted while the proxy ends has its one request served.
    let mut draining = watch.phase() != Phase::Serving;
    let mut builder = http1::Builder::new();
    builder.keep_alive(!draining);
    builder.preserve_header_case(true).max_buf_size(settings.max_header_size);
    let connection = builder.serve_connection(io, service).with_upgrades();
    tokio::pin!(connection);
    // Often enough for whichever timeout runs, rarely enough to cost nothing.
    let check = settings.header_timeout.min(settings.keepalive_timeout) / 4;
    let mut end = watch.clone();
    loop {
        tokio::select! {
            ended = &mut connection => return ended.err().and_then(|e| refusal(&e)).into_iter().for_each(refused),
            () = watch.draining(), if !draining => {
                draining = true;
                connection.as_mut().graceful_shutdown();
            }
            () = end.expired() => return,
            () = sleep(check.max(Duration::from_millis(10))) => match activity.verdict(settings) {
                Verdict::Fine => {}
                Verdict::Idle => connection.as_mut().graceful_shutdown(),
                Verdict::TooSlow => return refused(Refusal::TooSlow),
            },
        }
    }
}

/// Other errors are of connections that broke: their requests have their own reports.
fn refusal(error: &hyper::Error) -> Option<Refusal> {
    if error.is_parse_too_large() {
        Some(Refusal::TooLarge)
    } else {
        error.is_parse().then_some(Refusal::Malformed)
    }
}

/// The stream of a tunnel, taken back from the layer that watched over its requests.
#[must_use]
pub fn into_stream(watched: Watched) -> Stream {
    watched.stream
}

/// What a connection is doing, as far as timeouts are concerned: shared by its stream, which sees
/// bytes come, and its exchanges. Moments are milliseconds since it was accepted.
#[derive(Debug)]
struct Activity {
    accepted: Instant,
    exchanges: AtomicU32,
    /// When a head began to come; 0: none is coming.
    head_since: AtomicU64,
    idle_since: AtomicU64,
}

enum Verdict {
    Fine,
    /// Nothing was asked for `keepalive_timeout`.
    Idle,
    /// A head did not come to its end within `header_timeout`.
    TooSlow,
}

impl Activity {
    fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
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
        if self.exchanges.load(Ordering::Relaxed) == 0 && self.head_since.load(Ordering::Relaxed) == 0 {
            self.head_since.store(self.now(), Ordering::Relaxed);
        }
    }

    fn verdict(&self, settings: &Settings) -> Verdict {
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

/// A request under way, until its answer is written.
struct Exchange(Weak<Activity>);

impl Exchange {
    fn begin(activity: &Arc<Activity>) -> Self {
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
struct Counted {
    body: Body,
    _exchange: Exchange,
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
pub struct Watched {
    stream: Stream,
    activity: Arc<Activity>,
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
