//! Owns one connection of a client as HTTP: its version, its timeouts, its requests, its graceful
//! end.

mod activity;
mod along;
mod flush;
mod frames;
mod h2;
mod heads;
mod interim;
#[cfg(test)]
mod tests;

use super::names::remove_invalid;
use super::respond::{self, Body};
use super::upload::Upload;
use super::{Protocols, Settings};
use crate::drain::{Phase, Watch};
use crate::io::{Arrivals, Layered, Stream};
use crate::slots::{PATIENCE, Slot, Wanted};
use crate::stall::{is_late, timeout};
use activity::{Activity, Counted, Exchange, Verdict, Watched};
pub use activity::{Fate, Hints};
use along::{Along, Shared};
use frames::Frames;
pub use heads::Told;
use http::header::CONTENT_LENGTH;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep_until};

/// What a client of HTTP/2 begins with (RFC 9113 3.4), as far as no request can.
const PREFACE: &[u8] = b"PRI * HTTP/2.0";
/// What a stream of HTTP/2 may send before it was read, in bytes (RFC 9113 6.9.2).
const STREAM_WINDOW: u32 = 64 * 1024;
/// The same of all streams of a connection: that many bytes wait here for upstreams that do not
/// read, and 16 such streams leave the others alone.
const CONNECTION_WINDOW: u32 = 16 * STREAM_WINDOW;
/// Requests at once over one connection (nginx, `http2_max_concurrent_streams`).
const MAX_STREAMS: u32 = 128;

/// Why what a client sent did not become a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is no HTTP that is spoken here: 400.
    Malformed,
    /// Its head is over `max_header_size`, or holds too many headers: 431; or its target is over 64 KiB: 414.
    TooLarge,
    /// Its head did not come to its end within `header_timeout`; there is no answer.
    TooSlow,
    /// It kept the proxy waiting while others wanted its place; there is no answer.
    GaveWay,
}

/// Serves the requests of a connection until it ends, becomes a tunnel or drains. It costs some 10 KB
/// from here on: its first byte should be there. `refused` is told of what did not become a request, and
/// over HTTP/1 what could be read of it. One that keeps the proxy waiting gives its place, `slot`, to those who
/// wait for one.
pub async fn serve<F, A, R>(
    mut stream: Stream,
    settings: &Settings,
    watch: Watch,
    answer: F,
    refused: R,
    slot: &Slot,
) where
    F: Fn(Request<Incoming>) -> A,
    A: Future<Output = Response<Body>> + Send + 'static,
    R: Fn(Refusal, Option<Told>),
{
    let mut waited = Duration::ZERO;
    let version = slot.spare(&mut waited, version(&mut stream, settings.protocols));
    let version = match timeout(settings.header_timeout, version).await {
        Ok(Ok(Ok(version))) => version,
        Ok(Err(Wanted)) => return refused(Refusal::GaveWay, None),
        Ok(Ok(Err(_))) | Err(_) => return,
    };
    let activity = Arc::new(Activity::new(version == Version::Http1));
    let frames = (version == Version::Http2).then(Frames::default);
    let shared = (version == Version::Http1).then(|| Arc::new(Shared::default()));
    let along = shared.clone().map(Along::new);
    let io = TokioIo::new(Watched { stream, activity: Arc::clone(&activity), frames, along });
    let ways = Ways { body_timeout: settings.body_timeout, underscores: settings.underscores_in_headers };
    let service = service_fn(|mut request: Request<Incoming>| {
        let exchange = Arc::new(Exchange::begin(&activity));
        if shared.as_ref().is_some_and(|shared| shared.is_request()) {
            // hyper keeps the coding and takes the length away: with both, the request is to be refused.
            request.headers_mut().insert(CONTENT_LENGTH, 0.into());
        }
        remove_invalid(request.headers_mut(), ways.underscores);
        let opens = version == Version::Http2 && h2::from_http2(&mut request);
        request.extensions_mut().insert(Arc::clone(&exchange));
        request.extensions_mut().insert(ways);
        let answer = answer(request);
        async move {
            let mut response = answer.await;
            exchange.answered();
            respond::date(&mut response);
            if version == Version::Http2 {
                h2::to_http2(&mut response, opens);
            }
            Ok::<_, Infallible>(response.map(|body| Counted::new(body, exchange)))
        }
    });
    // What was accepted while the proxy ends has its one request served.
    let draining = watch.phase() != Phase::Serving;
    let ended = match version {
        Version::Http1 => {
            let connection = http1(settings, !draining).serve_connection(io, service).with_upgrades();
            let shut_down = http1::UpgradeableConnection::graceful_shutdown;
            drive(connection, shut_down, &activity, slot, settings, watch, version).await
        }
        Version::Http2 => {
            let connection = http2(settings).serve_connection(io, service);
            let shut_down = http2::Connection::graceful_shutdown;
            // In a box: what it takes, every connection of HTTP/1.1 would have room for too.
            Box::pin(drive(connection, shut_down, &activity, slot, settings, watch, version)).await
        }
    };
    if let Some(refusal) = ended {
        refused(refusal, shared.map(|shared| shared.told(refusal.status())));
    }
}

impl Refusal {
    /// What it is reported with, unless hyper's own answer had another.
    fn status(self) -> u16 {
        match self {
            Self::Malformed => 400,
            Self::TooLarge => 431,
            Self::TooSlow | Self::GaveWay => 408,
        }
    }
}

/// Whether the connection gives its place to somebody who wants one.
fn may_go(activity: &Activity, settings: &Settings) -> bool {
    matches!(activity.verdict(settings), Verdict::Fine | Verdict::Idle) && activity.waits_for(PATIENCE)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Http1,
    Http2,
}

/// Tells which version is spoken: where it may be either, by the first bytes (RFC 9113 3.3). They stay
/// where they are.
async fn version(stream: &mut Stream, protocols: Protocols) -> io::Result<Version> {
    let begins = |seen: &[u8]| {
        let common = seen.iter().zip(PREFACE).take_while(|(a, b)| a == b).count();
        // Nothing at all is the end; too little to tell is waited for.
        let is_clear = seen.is_empty() || common == PREFACE.len() || common < seen.len();
        is_clear.then_some(common == PREFACE.len())
    };
    let is_http2 = match (protocols.http1, protocols.http2) {
        (true, true) => stream.look(PREFACE.len(), begins).await?,
        (_, http2) => http2,
    };
    Ok(if is_http2 { Version::Http2 } else { Version::Http1 })
}

fn http1(settings: &Settings, keep_alive: bool) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.keep_alive(keep_alive);
    // The size of the buffer holds only for heads that come in pieces.
    builder.max_buf_size(settings.max_header_size).max_header_size(settings.max_header_size);
    builder.preserve_header_case(true);
    builder
}

fn http2(settings: &Settings) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .enable_connect_protocol()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(STREAM_WINDOW as usize)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(settings.max_header_size).unwrap_or(u32::MAX));
    builder
}

/// Often enough for whichever timeout runs, and for those who wait for a place; rarely enough to cost nothing.
fn check_every(settings: &Settings) -> Duration {
    let shortest = settings.header_timeout.min(settings.keepalive_timeout);
    let shortest = settings.body_timeout.map_or(shortest, |body| body.min(shortest));
    (shortest / 4).clamp(Duration::from_millis(10), 2 * PATIENCE)
}

/// Carries a connection to its end; what it was refused for, if it was.
async fn drive<C>(
    connection: C,
    shut_down: impl Fn(Pin<&mut C>),
    activity: &Activity,
    slot: &Slot,
    settings: &Settings,
    mut watch: Watch,
    version: Version,
) -> Option<Refusal>
where
    C: Future<Output = hyper::Result<()>>,
{
    let mut draining = watch.phase() != Phase::Serving && version == Version::Http1;
    tokio::pin!(connection);
    let check = check_every(settings);
    let (mut due, mut excused) = (Instant::now() + check, false);
    // When the client was told that it may go.
    let mut told: Option<Instant> = None;
    let mut end = watch.clone();
    // Then it gives its place as soon as somebody wants it. At the next check would be too late: those that came
    // together are checked together, and only one of them gives its place at a time.
    let mut may_be_asked = false;
    loop {
        tokio::select! {
            // What has come is read before it is judged to be late.
            biased;
            ended = &mut connection => return ended.err().and_then(|error| refusal(&error)),
            () = watch.draining(), if !draining => {
                draining = true;
                shut_down(connection.as_mut());
            }
            () = end.expired() => return None,
            // Polled again, the connection writes what the answer that fails has given before.
            () = activity.flush.asked() => {}
            claim = slot.wanted(Duration::ZERO), if may_be_asked => {
                if may_go(activity, settings) {
                    claim.give();
                    return Some(Refusal::GaveWay);
                }
                // Another one is asked.
                may_be_asked = false;
            }
            () = sleep_until(due) => {
                let late = due.elapsed();
                excused = !excused && is_late(late);
                due = Instant::now() + if excused { late.min(check) } else { check };
                if excused {
                    // Some of what came may not even have been heard of.
                    continue;
                }
                match activity.verdict(settings) {
                    Verdict::Fine => told = None,
                    // Of HTTP/2 the end is waited for, which not every client cares to answer.
                    Verdict::Idle if told.is_some_and(|told| told.elapsed() >= settings.header_timeout) => {
                        return None;
                    }
                    Verdict::Idle => {
                        told.get_or_insert_with(Instant::now);
                        shut_down(connection.as_mut());
                    }
                    Verdict::TooSlow => return Some(Refusal::TooSlow),
                    // Its requests have reports of their own.
                    Verdict::Stalled => return None,
                }
                may_be_asked = may_go(activity, settings);
            }
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

/// What a request is told of its listener.
#[derive(Clone, Copy, Debug)]
struct Ways {
    body_timeout: Option<Duration>,
    underscores: bool,
}

/// The connection, or the stream of HTTP/2, that a request came over: a tunnel once it is answered
/// so.
#[derive(Clone, Debug)]
pub struct Upgrade {
    on: OnUpgrade,
    ways: Option<Ways>,
    version: http::Version,
    exchange: Option<Arc<Exchange>>,
}

impl Upgrade {
    /// That of a request.
    #[must_use]
    pub fn of(request: &mut Request<Incoming>) -> Self {
        let ways = request.extensions_mut().remove();
        Self {
            on: hyper::upgrade::on(&mut *request),
            ways,
            version: request.version(),
            exchange: request.extensions_mut().remove(),
        }
    }

    /// What is going to become of the connection.
    #[must_use]
    pub fn fate(&self) -> Option<Fate> {
        self.exchange.as_ref().and_then(|exchange| exchange.fate())
    }

    /// What passes interim answers to the client. `None` means that it cannot be sent any: HTTP/1.0 knows none
    /// (RFC 9110 15.2), and hyper's server of HTTP/2 sends none.
    #[must_use]
    pub fn hints(&self) -> Option<Hints> {
        let exchange = self.exchange.as_ref().filter(|_| self.version == http::Version::HTTP_11);
        exchange.map(|exchange| exchange.hints())
    }

    /// Waits until there is room for a connection to an upstream. It is kept until the exchange is over, or its
    /// tunnel.
    pub async fn make_room(&self, slot: &Slot) {
        if let Some(exchange) = &self.exchange {
            exchange.make_room(slot).await;
        }
    }

    /// A request's body, with the patience that its listener has for it.
    #[must_use]
    pub fn upload(&self, body: Incoming) -> Upload {
        let is_flagged = self.version == http::Version::HTTP_2;
        let Some(Ways { body_timeout, underscores }) = self.ways else {
            return Upload::new(body, None, is_flagged);
        };
        Upload::new(body, body_timeout, is_flagged).with_underscores(underscores)
    }

    /// Waits until the answer is written; then the stream, and what was read from it ahead. The
    /// bytes are copied: to keep hyper's would keep its whole buffer.
    ///
    /// # Errors
    /// The client left before.
    pub async fn into_stream(self) -> Result<(Stream, Vec<u8>), hyper::Error> {
        Ok(match self.on.await?.downcast::<TokioIo<Watched>>() {
            Ok(parts) => {
                let Watched { stream, along, .. } = parts.io.into_inner();
                let held = along.map(Along::into_held).unwrap_or_default();
                (stream, [&parts.read_buf[..], &held].concat())
            }
            Err(upgraded) => {
                let io = TokioIo::new(upgraded);
                (Stream::Layered(Box::new(OverHttp2 { io, _exchange: self.exchange })), Vec::new())
            }
        })
    }
}

/// A tunnel in a stream of HTTP/2. Its exchange goes on, so that the connection is not idle.
#[derive(Debug)]
struct OverHttp2 {
    io: TokioIo<Upgraded>,
    _exchange: Option<Arc<Exchange>>,
}

impl Arrivals for OverHttp2 {
    /// Its frames come among those of others, and are told apart by a task of their own.
    fn has_arrived(&self) -> Option<bool> {
        None
    }
}

impl Layered for OverHttp2 {
    fn below(&mut self) -> Option<&mut Stream> {
        None
    }
}

impl AsyncRead for OverHttp2 {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, into)
    }
}

impl AsyncWrite for OverHttp2 {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
