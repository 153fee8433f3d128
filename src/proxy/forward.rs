//! Owns a plain HTTP request and its response, streamed both ways.

use super::attempt::{Attempts, Verdict};
use super::failure::Failure;
use super::guard::Guard;
use super::request::Inbound;
use super::snapshot::Route;
use crate::addr::ClientAddr;
use crate::drain::Watch;
use crate::http::headers::{add_via, remove_hop_by_hop};
use crate::http::malformed::Malformed;
use crate::http::respond::{self, full};
use crate::http::serve::Hints;
use crate::http::upload::Upload;
use crate::outcome::{Ending, PerSide, Who, Why};
use crate::upstream::client::{Body, Connection, on_interim};
use crate::upstream::pool::Limits;
use crate::upstream::{Endpoint, Lease, Private, Upstream};
use http::header::CONNECTION;
use http::{HeaderMap, HeaderValue, Response, StatusCode, Version};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Bytes, Frame, Incoming, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// Passes a request on and its response back.
///
/// # Errors
/// There is no response to pass; the guard comes back for the report.
pub(super) async fn forward(
    route: &Arc<Route>,
    upstream: &Arc<Upstream>,
    inbound: &Inbound,
    mut body: Upload,
    hints: Option<Hints>,
    mut guard: Guard,
    watch: Watch,
) -> Result<Response<respond::Body>, (Failure, Guard)> {
    let mut attempts = Attempts::new(route, upstream, inbound, !body.is_end_stream());
    let reuse = attempts.is_repeatable() && upstream.settings().kept().connections > 0;
    if let Err(error) = body.limit(route.max_body_size) {
        return Err((error.into(), guard));
    }
    guard.follow_upload(&body);
    let mut body = Some(body);
    loop {
        let (lease, mut connection) = match attempts.connect(&mut guard, reuse, &watch).await {
            Ok(connected) => connected,
            Err(failure) => return Err((failure, guard)),
        };
        let used = connection.used;
        let body = body.take().map_or_else(|| full(Bytes::new()), Upload::boxed);
        let mut request = inbound.for_upstream(route, None, body);
        if let Some(hints) = hints.clone() {
            on_interim(&mut request, move |status, headers| hint(&hints, status, headers));
        }
        let failure = match attempts.exchange(&mut connection, request).await {
            Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => Failure::Unasked,
            Ok(response) => match attempts.answered(lease, response.status()) {
                Verdict::Retry => continue,
                Verdict::Pass(lease) => {
                    let give_back = GiveBack::new(connection, upstream, inbound, response.status(), &watch);
                    return Ok(relay(response, route, lease, guard, give_back));
                }
            },
            Err(failure) => failure,
        };
        if !attempts.failed(lease, &failure, used) {
            return Err((failure, guard));
        }
    }
}

/// Passes an interim answer on.
fn hint(hints: &Hints, status: StatusCode, headers: &HeaderMap) {
    let mut headers = headers.clone();
    remove_hop_by_hop(&mut headers);
    add_via(&mut headers, Version::HTTP_11);
    hints.send(status, &headers);
}

/// Passes a response back; its report is made when its body has passed.
pub(super) fn relay(
    response: Response<Incoming>,
    route: &Route,
    lease: Lease,
    mut guard: Guard,
    give_back: GiveBack,
) -> Response<respond::Body> {
    guard.report().status = response.status().as_u16();
    let (mut parts, body) = response.into_parts();
    remove_hop_by_hop(&mut parts.headers);
    if route.via.is_on_responses() {
        add_via(&mut parts.headers, parts.version);
    }
    route.set_response_headers(&mut parts.headers);
    own_version(&mut parts);
    if guard.ends_connection() {
        parts.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let give_back = Some(give_back);
    let body = Relayed { body, bytes: 0, has_ended: false, guard: Some(guard), lease, give_back };
    Response::from_parts(parts, body.boxed_unsync())
}

/// The version of a message is that of who sends it on, not that of who wrote it (RFC 9110 2.5, 7.6).
pub(super) fn own_version(parts: &mut http::response::Parts) {
    parts.version = Version::HTTP_11;
}

/// A response's body on its way to the client.
struct Relayed {
    body: Incoming,
    bytes: u64,
    /// All of it has come. The client may not have taken it.
    has_ended: bool,
    guard: Option<Guard>,
    /// The endpoint is busy with it until it has passed.
    lease: Lease,
    give_back: Option<GiveBack>,
}

/// A connection to an endpoint, for the next request.
pub(super) struct GiveBack {
    connection: Connection,
    limits: Limits,
    watch: Watch,
    /// Whose it is alone, if a login is bound to it; `None`: anybody's, or nobody's any more.
    owner: Option<(ClientAddr, Arc<Private>)>,
}

impl GiveBack {
    pub(super) fn new(
        connection: Connection,
        upstream: &Upstream,
        inbound: &Inbound,
        status: StatusCode,
        watch: &Watch,
    ) -> Self {
        let under_way =
            [StatusCode::UNAUTHORIZED, StatusCode::PROXY_AUTHENTICATION_REQUIRED].contains(&status);
        // See `Inbound::may_use_private`: once it is logged in, a proxy's connection is nobody's.
        let is_kept = connection.is_private() && (under_way || !inbound.origin.trusted);
        let owner = is_kept.then(|| (inbound.origin.client, Arc::clone(&inbound.private)));
        Self { connection, limits: upstream.settings().kept(), watch: watch.clone(), owner }
    }

    fn give(self, endpoint: &Arc<Endpoint>) {
        match self.owner {
            Some((client, private)) => private.keep(client, endpoint, self.connection),
            None => endpoint.pool().give(self.connection, self.limits, &self.watch),
        }
    }
}

impl Relayed {
    /// All of it has come: the connection is free for the next request.
    fn ended(&mut self) {
        self.has_ended = true;
        if let Some(give_back) = self.give_back.take() {
            give_back.give(self.lease.endpoint());
        }
    }

    /// It breaks off. Whoever broke it off is to blame, and that may be the client.
    fn broken(&mut self, error: &hyper::Error) {
        let upload = self.guard.as_ref().and_then(Guard::failed_upload);
        let ending = match (upload, Malformed::of(error)) {
            (Some(ending), _) => ending,
            (None, Some(Malformed::Framing(text) | Malformed::Trailers(text))) => {
                let reason = format!("upstream's response is malformed: {text}").into();
                Ending { reason, ..Ending::new(Who::Upstream, Why::BadAnswer) }
            }
            (None, None) => {
                let reason = "upstream broke off its response".into();
                Ending { reason, ..Ending::new(Who::Upstream, Why::Reset) }
            }
        };
        self.finish(ending);
    }

    fn finish(&mut self, ending: Ending) {
        if let Some(guard) = self.guard.take() {
            guard.finish_http(ending, PerSide { client: 0, upstream: self.bytes });
        }
    }
}

impl hyper::body::Body for Relayed {
    type Data = Bytes;
    type Error = <Body as hyper::body::Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            None => {
                self.ended();
                None
            }
            Some(Ok(mut frame)) => {
                self.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                if let Some(trailers) = frame.trailers_mut() {
                    remove_hop_by_hop(trailers);
                    // They are the end: nobody asks for what is behind them.
                    self.ended();
                }
                Some(Ok(frame))
            }
            // The body is whole, so the client gets it, without trailers (RFC 9110 6.5.1).
            Some(Err(error)) if matches!(Malformed::of(&error), Some(Malformed::Trailers(_))) => {
                self.give_back = None;
                self.ended();
                None
            }
            Some(Err(error)) => {
                self.broken(&error);
                Some(Err(error.into()))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Relayed {
    fn drop(&mut self) {
        if self.body.is_end_stream() {
            self.ended();
        }
        let Some(guard) = &self.guard else { return };
        let ending = match self.has_ended && !guard.lost_its_client() {
            true => Ending::new(Who::Upstream, Why::Done),
            false => guard.broken_off("client left before the end of the response"),
        };
        self.finish(ending);
    }
}
