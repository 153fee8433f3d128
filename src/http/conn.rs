//! Owns one client connection as HTTP: its version, timeouts, requests and graceful end.

mod client_stream;
mod http1;
mod http2;
mod shared;
mod state;
#[cfg(test)]
mod tests;

use super::body::Body;
use super::incoming::Incoming;
use super::names::remove_invalid;
use super::upload::Upload;
use super::{Protocols, Request, Settings, respond};
use crate::capacity::{EVICT_AFTER, Evicted, LOOK, Slot};
use crate::clock::{is_late, timeout};
use crate::drain::{Phase, Watch};
use crate::io::Stream;
pub(crate) use client_stream::ClientStream;
use client_stream::PendingStream;
use http::Response;
use http::header::CONTENT_LENGTH;
pub(crate) use http1::PartialRequest;
use http1::{HeadFilter, ObservedStream, ResponseBody, Shared};
use hyper::server::conn::http1::UpgradeableConnection;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use shared::{ConnState, RequestGuard};
pub(crate) use shared::{ConnectionEnd, InterimSender};
use state::Verdict;
use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::unconstrained;
use tokio::time::{Instant, sleep_until};

/// The start of the HTTP/2 preface (RFC 9113 3.4), as far as no HTTP/1 request can begin with it.
const PREFACE: &[u8] = b"PRI * HTTP/2.0";
/// Size of a response from which Holdline limits the kernel's send buffer.
const LARGE_RESPONSE: usize = 16 * 1024;
/// How many unsent bytes of a large response the kernel may hold. The kernel accepts more once less is
/// unsent, which shows that the client reads. Without a limit it holds megabytes, and a slow client shows no
/// progress for minutes.
const MAX_UNSENT: u32 = 16 * 1024;

/// Why the client's bytes did not become a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadRequestKind {
    /// It is not valid HTTP of an enabled version: 400.
    Malformed,
    /// Its head exceeds `max_header_size` or has too many headers: 431. Or its target exceeds 64 KiB: 414.
    TooLarge,
    /// Its head was not complete within `header_timeout`. Holdline sends no response.
    TooSlow,
    /// It was idle while another connection needed its slot. Holdline sends no response.
    Evicted,
}

/// Serves requests until the connection ends, becomes a tunnel, or the drain closes it. It calls
/// `on_bad_request` with bytes that did not become a request, and over HTTP/1 with what could be read of them.
/// It allocates some 10 KB. The first byte of a plain connection has come by then; a client over TLS may still
/// be silent. An idle connection gives up its `slot` if another one needs it.
pub(crate) async fn serve<F, A, R>(
    mut stream: Stream,
    settings: &Settings,
    watch: Watch,
    answer: F,
    on_bad_request: R,
    slot: &Slot,
) where
    F: Fn(Request) -> A,
    A: Future<Output = Response<Body>> + Send + 'static,
    R: Fn(BadRequestKind, Option<PartialRequest>),
{
    let mut waited = Duration::ZERO;
    let version = slot.wait_evictable(&mut waited, version(&mut stream, settings.protocols));
    let version = match timeout(settings.header_timeout, version).await {
        Ok(Ok(Ok(version))) => version,
        Ok(Err(Evicted)) => return on_bad_request(BadRequestKind::Evicted, None),
        Ok(Ok(Err(_))) | Err(_) => return,
    };
    let conn_state = Arc::new(ConnState::new(version == Version::Http1));
    let answer = |request: http::Request<Incoming>, pending, request_guard: Arc<RequestGuard>| {
        let answer = answer(prepare(request, pending, &request_guard, settings));
        async move {
            let mut response = answer.await;
            request_guard.answered();
            respond::date(&mut response);
            (response, request_guard)
        }
    };
    if version == Version::Http2 {
        let answer = |request, opened, guard| answer(request, PendingStream::over_http2(opened), guard);
        let connection = http2::Http2Connection::new(stream, settings, Arc::clone(&conn_state), answer);
        let shut_down = |connection: Pin<&mut http2::Http2Connection<_>>| connection.get_mut().shut_down();
        // Boxed: otherwise every HTTP/1.1 connection would reserve its size.
        let ended = drive(connection, shut_down, &conn_state, slot, settings, watch, version);
        if let Some(bad_request_kind) = Box::pin(ended).await {
            on_bad_request(bad_request_kind, None);
        }
        return;
    }
    let shared = Arc::new(Shared::default());
    let service = service_fn(|request: http::Request<hyper::body::Incoming>| {
        let mut request = request.map(Incoming::Http1);
        if shared.mark_request() {
            // hyper keeps Transfer-Encoding and removes Content-Length. Restore it, so that Holdline rejects
            // a request with both.
            request.headers_mut().insert(CONTENT_LENGTH, 0.into());
        }
        let pending = PendingStream::Http1(hyper::upgrade::on(&mut request));
        let answer = answer(request, pending, Arc::new(RequestGuard::over_http1(&conn_state)));
        async move {
            let (response, request_guard) = answer.await;
            Ok::<_, Infallible>(response.map(|body| ResponseBody::new(body, request_guard)))
        }
    });
    // A connection accepted during shutdown may send one request.
    let keep_alive = watch.phase() == Phase::Serving;
    let io = TokioIo::new(ObservedStream::new(
        stream,
        Arc::clone(&conn_state),
        HeadFilter::new(Arc::clone(&shared)),
    ));
    let connection = http1::builder(settings, keep_alive).serve_connection(io, service).with_upgrades();
    let shut_down = UpgradeableConnection::graceful_shutdown;
    if let Some(bad_request_kind) =
        drive(connection, shut_down, &conn_state, slot, settings, watch, version).await
    {
        on_bad_request(bad_request_kind, Some(shared.partial_request(bad_request_kind.status())));
    }
}

/// Removes the invalid headers of a request, and gives its body the timeout.
fn prepare(
    request: http::Request<Incoming>,
    pending: PendingStream,
    request_guard: &Arc<RequestGuard>,
    settings: &Settings,
) -> Request {
    let (mut head, body) = request.into_parts();
    remove_invalid(&mut head.headers, settings.underscores_in_headers);
    let is_flagged = head.version == http::Version::HTTP_2;
    let body = Upload::new(body, settings.body_timeout, is_flagged);
    let client = ClientStream::new(pending, head.version, Arc::clone(request_guard));
    Request { body: body.with_underscores(settings.underscores_in_headers), client, head }
}

impl BadRequestKind {
    /// Returns the status to report, unless hyper's own response had another.
    fn status(self) -> u16 {
        match self {
            Self::Malformed => 400,
            Self::TooLarge => 431,
            Self::TooSlow | Self::Evicted => 408,
        }
    }
}

/// Returns how long the connection has waited for a request, and may be evicted for that.
fn waited(conn_state: &ConnState, settings: &Settings) -> Option<Duration> {
    let is_evictable = matches!(conn_state.verdict(settings), Verdict::Fine | Verdict::Idle);
    conn_state.waited().filter(|_| is_evictable)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Http1,
    Http2,
}

/// Returns the HTTP version. If both are enabled, the first bytes tell it (RFC 9113 3.3). It does not consume
/// them.
async fn version(stream: &mut Stream, protocols: Protocols) -> io::Result<Version> {
    let begins = |seen: &[u8]| {
        let common = seen.iter().zip(PREFACE).take_while(|(a, b)| a == b).count();
        // An empty read is the end. Wait for more if the bytes do not tell yet.
        let is_clear = seen.is_empty() || common == PREFACE.len() || common < seen.len();
        is_clear.then_some(common == PREFACE.len())
    };
    let is_http2 = match (protocols.http1, protocols.http2) {
        (true, true) => stream.peek(PREFACE.len(), begins).await?,
        (_, http2) => http2,
    };
    Ok(if is_http2 { Version::Http2 } else { Version::Http1 })
}

/// Returns how often to check timeouts: often enough for the shortest one, rarely enough to cost nothing.
fn check_every(settings: &Settings) -> Duration {
    let shortest = settings.header_timeout.min(settings.keepalive_timeout);
    let shortest = settings.body_timeout.map_or(shortest, |body| body.min(shortest));
    (shortest / 4).clamp(Duration::from_millis(10), Duration::from_secs(4))
}

/// Drives a connection to its end. Returns why it was rejected, if it was.
async fn drive<C, E>(
    connection: C,
    shut_down: impl Fn(Pin<&mut C>),
    conn_state: &ConnState,
    slot: &Slot,
    settings: &Settings,
    mut watch: Watch,
    version: Version,
) -> Option<BadRequestKind>
where
    C: Future<Output = Result<(), E>>,
    E: Error + 'static,
{
    let mut draining = watch.phase() != Phase::Serving && version == Version::Http1;
    tokio::pin!(connection);
    let check = check_every(settings);
    let (mut due, mut excused) = (Instant::now() + check, false);
    // When Holdline told the client to close.
    let mut told_to_close: Option<Instant> = None;
    let mut end = watch.clone();
    // Unconstrained, so that a client that uses up the turns of this task is evicted all the same.
    let evicted = unconstrained(slot.evicted(EVICT_AFTER, LOOK, || waited(conn_state, settings)));
    tokio::pin!(evicted);
    loop {
        tokio::select! {
            // Read pending data before judging that it is late.
            biased;
            ended = &mut connection => return ended.err().and_then(|error| bad_request_kind(&error)),
            () = watch.draining(), if !draining => {
                draining = true;
                shut_down(connection.as_mut());
            }
            () = end.expired() => return None,
            // Poll the connection again: it then writes interim responses, or what a failing response gave before.
            () = conn_state.flush.requested() => {}
            Evicted = &mut evicted => return Some(BadRequestKind::Evicted),
            () = sleep_until(due) => {
                let late = due.elapsed();
                excused = !excused && is_late(late);
                due = Instant::now() + if excused { late.min(check) } else { check };
                if excused {
                    // The runtime may not have reported all pending data yet.
                    continue;
                }
                match conn_state.verdict(settings) {
                    Verdict::Fine => told_to_close = None,
                    // With HTTP/2, Holdline waits for the client to close, which not every client does.
                    Verdict::Idle
                        if told_to_close.is_some_and(|told| told.elapsed() >= settings.header_timeout) =>
                    {
                        return None;
                    }
                    Verdict::Idle => {
                        told_to_close.get_or_insert_with(Instant::now);
                        shut_down(connection.as_mut());
                    }
                    Verdict::TooSlow => return Some(BadRequestKind::TooSlow),
                    // Its requests write their own reports.
                    Verdict::Stalled => {
                        conn_state.mark_stalled();
                        return None;
                    }
                }
            }
        }
    }
}

/// Returns why bytes were no request. Other errors are broken connections, whose requests write their own
/// reports.
fn bad_request_kind(error: &(dyn Error + 'static)) -> Option<BadRequestKind> {
    let error: &hyper::Error = error.downcast_ref()?;
    if error.is_parse_too_large() {
        Some(BadRequestKind::TooLarge)
    } else {
        error.is_parse().then_some(BadRequestKind::Malformed)
    }
}
