//! Owns one connection of a client as HTTP: its version, its timeouts, its requests, its graceful
//! end.

mod activity;
mod hints;
mod http1;
mod http2;
#[cfg(test)]
mod tests;
mod upgrade;

use super::incoming::Incoming;
use super::names::remove_invalid;
use super::respond::{self, Body};
use super::{Protocols, Settings};
use crate::drain::{Phase, Watch};
use crate::io::Stream;
use crate::slots::{PATIENCE, Slot, Wanted};
use crate::stall::{is_late, timeout};
pub use activity::Fate;
use activity::{Activity, Exchange, Verdict};
pub use hints::Hints;
use http::header::CONTENT_LENGTH;
pub use http1::Told;
use http1::{Along, Counted, Shared, Watched};
use hyper::server::conn::http1::UpgradeableConnection;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};
pub use upgrade::Upgrade;
use upgrade::Ways;

/// What a client of HTTP/2 begins with (RFC 9113 3.4), as far as no request can.
const PREFACE: &[u8] = b"PRI * HTTP/2.0";
/// From so many bytes on, what the kernel holds of answers is limited.
const LONG: usize = 16 * 1024;
/// What the kernel may hold unsent of a long answer, in bytes. It takes more when there is less than that, and what
/// it takes shows that the client does: without a limit it holds megabytes, and a slow client shows nothing for
/// minutes.
const UNSENT: u32 = 16 * 1024;

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
    let ways = Ways { body_timeout: settings.body_timeout, underscores: settings.underscores_in_headers };
    let answer = |mut request: Request<Incoming>, exchange: Arc<Exchange>| {
        remove_invalid(request.headers_mut(), ways.underscores);
        request.extensions_mut().insert(Arc::clone(&exchange));
        request.extensions_mut().insert(ways);
        let answer = answer(request);
        async move {
            let mut response = answer.await;
            exchange.answered();
            respond::date(&mut response);
            (response, exchange)
        }
    };
    if version == Version::Http2 {
        let connection = http2::Connection::new(stream, settings, Arc::clone(&activity), answer);
        let shut_down = |connection: Pin<&mut http2::Connection<_>>| connection.get_mut().shut_down();
        // In a box: what it takes, every connection of HTTP/1.1 would have room for too.
        let ended = drive(connection, shut_down, &activity, slot, settings, watch, version);
        if let Some(refusal) = Box::pin(ended).await {
            refused(refusal, None);
        }
        return;
    }
    let shared = Arc::new(Shared::default());
    let service = service_fn(|request: Request<hyper::body::Incoming>| {
        let mut request = request.map(Incoming::Http1);
        if shared.is_request() {
            // hyper keeps the coding and takes the length away: with both, the request is to be refused.
            request.headers_mut().insert(CONTENT_LENGTH, 0.into());
        }
        let answer = answer(request, Arc::new(Exchange::over_http1(&activity)));
        async move {
            let (response, exchange) = answer.await;
            Ok::<_, Infallible>(response.map(|body| Counted::new(body, exchange)))
        }
    });
    // What was accepted while the proxy ends has its one request served.
    let keep_alive = watch.phase() == Phase::Serving;
    let io = TokioIo::new(Watched::new(stream, Arc::clone(&activity), Along::new(Arc::clone(&shared))));
    let connection = http1::builder(settings, keep_alive).serve_connection(io, service).with_upgrades();
    let shut_down = UpgradeableConnection::graceful_shutdown;
    if let Some(refusal) = drive(connection, shut_down, &activity, slot, settings, watch, version).await {
        refused(refusal, Some(shared.told(refusal.status())));
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

/// Often enough for whichever timeout runs, and for those who wait for a place; rarely enough to cost nothing.
fn check_every(settings: &Settings) -> Duration {
    let shortest = settings.header_timeout.min(settings.keepalive_timeout);
    let shortest = settings.body_timeout.map_or(shortest, |body| body.min(shortest));
    (shortest / 4).clamp(Duration::from_millis(10), 2 * PATIENCE)
}

/// Carries a connection to its end; what it was refused for, if it was.
async fn drive<C, E>(
    connection: C,
    shut_down: impl Fn(Pin<&mut C>),
    activity: &Activity,
    slot: &Slot,
    settings: &Settings,
    mut watch: Watch,
    version: Version,
) -> Option<Refusal>
where
    C: Future<Output = Result<(), E>>,
    E: Error + 'static,
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
fn refusal(error: &(dyn Error + 'static)) -> Option<Refusal> {
    let error: &hyper::Error = error.downcast_ref()?;
    if error.is_parse_too_large() {
        Some(Refusal::TooLarge)
    } else {
        error.is_parse().then_some(Refusal::Malformed)
    }
}
