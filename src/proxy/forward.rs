//! Owns a plain HTTP request and its response, streamed both ways.

use super::failure::Failure;
use super::reporting::ReportGuard;
use super::request::InboundRequest;
use super::retry::{ResponseAction, Retry};
use super::snapshot::Route;
use crate::addr::ClientAddr;
use crate::drain::Watch;
use crate::http::body::{Body, full};
use crate::http::conn::InterimSender;
use crate::http::headers::{add_via, remove_hop_by_hop};
use crate::http::malformed::Malformed;
use crate::http::upload::Upload;
use crate::outcome::{Cause, EndedBy, Ending, PerSide};
use crate::upstream::exchange::{Answer, BodyError, EndpointConnection, ResponseBody, on_interim};
use crate::upstream::pool::Limits;
use crate::upstream::{Endpoint, Lease, PrivatePool, Upstream};
use bytes::Bytes;
use http::header::CONNECTION;
use http::{HeaderMap, HeaderValue, Response, StatusCode, Version};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// Forwards a request, and its response back.
///
/// # Errors
/// Returns the failure if there is no response to forward, and the guard for the report.
pub(super) async fn forward(
    route: &Arc<Route>,
    upstream: &Arc<Upstream>,
    inbound: &InboundRequest,
    mut body: Upload,
    interim: Option<InterimSender>,
    mut guard: ReportGuard,
    watch: Watch,
) -> Result<Response<Body>, (Failure, ReportGuard)> {
    let mut retry = Retry::new(route, upstream, inbound, !body.is_end_stream());
    let reuse = retry.is_repeatable() && upstream.settings().kept().connections > 0;
    if let Err(error) = body.limit(route.max_body_size) {
        return Err((error.into(), guard));
    }
    guard.watch_upload(&body);
    let mut body = Some(body);
    loop {
        let (lease, mut connection) = match retry.connect(&mut guard, reuse, &watch).await {
            Ok(connected) => connected,
            Err(failure) => return Err((failure, guard)),
        };
        let used = connection.used;
        let body = body.take().map_or_else(|| full(""), Upload::boxed);
        let mut request = inbound.for_upstream(route, None, body);
        if let Some(interim) = interim.clone() {
            let has_via = route.via.is_on_responses();
            on_interim(&mut request, move |status, headers| send_interim(&interim, status, headers, has_via));
        }
        let failure = match retry.exchange(&mut connection, request).await {
            Ok(Answer::Tunnel(..)) => Failure::UnexpectedUpgrade,
            Ok(Answer::Response(response)) => match retry.answered(lease, response.status()) {
                ResponseAction::Retry => continue,
                ResponseAction::Forward(lease) => {
                    let pool_return =
                        PoolReturn::new(connection, upstream, inbound, response.status(), &watch);
                    return Ok(relay(response, route, lease, guard, pool_return));
                }
            },
            Err(failure) => failure,
        };
        if !retry.failed(lease, &failure, used) {
            return Err((failure, guard));
        }
    }
}

/// Forwards an interim response.
fn send_interim(interim: &InterimSender, status: StatusCode, headers: &HeaderMap, has_via: bool) {
    let mut headers = headers.clone();
    remove_hop_by_hop(&mut headers);
    if has_via {
        add_via(&mut headers, Version::HTTP_11);
    }
    interim.send(status, &headers);
}

/// Forwards a response. Its report is written when its body has passed.
pub(super) fn relay(
    response: Response<ResponseBody>,
    route: &Route,
    lease: Lease,
    mut guard: ReportGuard,
    pool_return: PoolReturn,
) -> Response<Body> {
    guard.report().status = response.status().as_u16();
    let (mut parts, body) = response.into_parts();
    remove_hop_by_hop(&mut parts.headers);
    if route.via.is_on_responses() {
        add_via(&mut parts.headers, parts.version);
    }
    route.set_response_headers(&mut parts.headers);
    set_own_version(&mut parts);
    if guard.ends_connection() {
        parts.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let pool_return = Some(pool_return);
    let body = RelayedBody { body, bytes: 0, has_ended: false, guard: Some(guard), lease, pool_return };
    Response::from_parts(parts, body.boxed_unsync())
}

/// A message has the version of its sender, not that of the message it forwards (RFC 9110 2.5, 7.6).
pub(super) fn set_own_version(parts: &mut http::response::Parts) {
    parts.version = Version::HTTP_11;
}

/// A response's body on its way to the client.
struct RelayedBody {
    body: ResponseBody,
    bytes: u64,
    /// Whether all of it has come. The client may not have accepted all of it.
    has_ended: bool,
    guard: Option<ReportGuard>,
    /// Counts the connection to the endpoint until the body has passed.
    lease: Lease,
    pool_return: Option<PoolReturn>,
}

/// Returns a connection to its pool after an exchange.
pub(super) struct PoolReturn {
    connection: EndpointConnection,
    limits: Limits,
    watch: Watch,
    /// The client that owns it, if a login is bound to it. `None` means that it goes to the shared pool, if
    /// that takes it.
    owner: Option<(ClientAddr, Arc<PrivatePool>)>,
}

impl PoolReturn {
    pub(super) fn new(
        connection: EndpointConnection,
        upstream: &Upstream,
        inbound: &InboundRequest,
        status: StatusCode,
        watch: &Watch,
    ) -> Self {
        let under_way =
            [StatusCode::UNAUTHORIZED, StatusCode::PROXY_AUTHENTICATION_REQUIRED].contains(&status);
        // See `InboundRequest::may_use_private`. A trusted proxy's connection serves several people, so
        // Holdline keeps it only while a login is in progress.
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

impl RelayedBody {
    /// Records that all of it has come. The connection is free for the next request.
    fn ended(&mut self) {
        self.has_ended = true;
        if let Some(pool_return) = self.pool_return.take() {
            pool_return.give(self.lease.endpoint());
        }
    }

    /// Records that the response broke off. The client may be at fault, if its request body failed.
    fn broken(&mut self, error: &BodyError) {
        let upload = self.guard.as_ref().and_then(ReportGuard::failed_upload);
        let ending = match (upload, Malformed::of(error)) {
            (Some(ending), _) => ending,
            (None, Some(Malformed::Framing(text) | Malformed::Trailers(text))) => {
                let reason = format!("upstream's response is malformed: {text}").into();
                Ending { reason, ..Ending::new(EndedBy::Upstream, Cause::BadAnswer) }
            }
            (None, None) => {
                let reason = "upstream broke off its response".into();
                Ending { reason, ..Ending::new(EndedBy::Upstream, Cause::Reset) }
            }
        };
        self.finish(ending);
    }

    fn finish(&mut self, ending: Ending) {
        if let Some(guard) = self.guard.take() {
            guard.finish(ending, PerSide { client: 0, upstream: self.bytes });
        }
    }
}

impl http_body::Body for RelayedBody {
    type Data = Bytes;
    type Error = <Body as http_body::Body>::Error;

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
                    // Trailers are the end. hyper does not poll again after them.
                    self.ended();
                }
                Some(Ok(frame))
            }
            // The body is whole, so the client gets it, without trailers (RFC 9110 6.5.1).
            Some(Err(error)) if matches!(Malformed::of(&error), Some(Malformed::Trailers(_))) => {
                self.pool_return = None;
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

impl Drop for RelayedBody {
    fn drop(&mut self) {
        if self.body.is_end_stream() {
            self.ended();
        }
        let Some(guard) = &self.guard else { return };
        let ending = match self.has_ended && !guard.lost_its_client() {
            true => Ending::new(EndedBy::Upstream, Cause::Done),
            false => guard.aborted_ending("client left before the end of the response"),
        };
        self.finish(ending);
    }
}
