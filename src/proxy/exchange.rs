//! Owns the handling of one request, in five phases: read, route (where a fixed response ends it), authorise, admit
//! (upgrades only), and forward or upgrade. Each way out writes exactly one report.

use super::Proxy;
use super::failure::Failure;
use super::reporting::ReportGuard;
use super::request::InboundRequest;
use super::retry::wait_for_room;
use super::snapshot::{Route, Snapshot, Target};
use super::upgrade::UpgradeRequest;
use super::{forward, reject, upgrade};
use crate::drain::Watch;
use crate::http::Request;
use crate::http::body::{Body, full};
use crate::http::conn::ClientStream;
use crate::http::upload::Upload;
use crate::limit::connections::Permit;
use crate::limit::{Limit, LimitExceeded};
use crate::listener::establish::ClientConnection;
use crate::outcome::{Cause, EndedBy, Ending, PerSide};
use crate::real_ip::Origin;
use crate::telemetry::report::{RequestInfo, redact};
use crate::upstream::{NoEndpoint, PrivatePool, Upstream};
use crate::ws::handshake::{UpgradeError, UpgradeKind, classify};
use http::header::{ALLOW, CONTENT_TYPE, HOST};
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode};
use http_body::Body as _;
use std::sync::Arc;

/// What one request needs on its way.
struct Exchange<'a> {
    proxy: &'a Proxy,
    snapshot: Arc<Snapshot>,
    /// The stream that it came over.
    client: ClientStream,
    watch: Watch,
}

/// Where the route leads.
enum Destination<'a> {
    Upstream(&'a Arc<Upstream>),
    /// A fixed response.
    Response(StatusCode, &'a str),
}

/// Answers one request of `connection`. `private` belongs to that connection and ends with it. An upgraded
/// request goes on as a tunnel, in a task or thread of its own.
pub(super) async fn answer(
    proxy: &Proxy,
    request: Request,
    connection: &Arc<ClientConnection>,
    private: &Arc<PrivatePool>,
    watch: Watch,
) -> Response<Body> {
    let Request { head, body, client } = request;
    let exchange = Exchange { proxy, snapshot: proxy.snapshot.load_full(), client, watch };
    let origin = match connection.peer_is_unknown {
        true => Origin::direct(connection.peer),
        false => exchange.snapshot.real_ip.origin(connection.peer, &head.headers),
    };
    let guard = exchange.begin_report(&head, &origin, connection);
    match InboundRequest::read(guard.id(), head, origin, Arc::clone(connection), Arc::clone(private)) {
        Ok(mut inbound) => match inbound.count_hop() {
            true => exchange.answer(inbound, body, guard).await,
            false => answer_options(guard),
        },
        Err(failure) => reject::with_status(&failure, guard),
    }
}

impl Exchange<'_> {
    /// Leads a request that has been read through the other phases.
    async fn answer(self, inbound: InboundRequest, body: Upload, mut guard: ReportGuard) -> Response<Body> {
        let snapshot = Arc::clone(&self.snapshot);
        let (route, destination) = match route(&snapshot, &inbound, &mut guard) {
            Ok(found) => found,
            Err(failure) => return reject::with_status(&failure, guard),
        };
        let upstream = match destination {
            Destination::Upstream(upstream) => upstream,
            Destination::Response(status, body) => return respond(status, body, route, guard),
        };
        let authorised = authorise(&inbound, route, &mut guard);
        let (kind, inbound) = match authorised.and_then(|kind| Ok((kind, inbound.with_target(route)?))) {
            Ok(ready) => ready,
            Err(failure) => return reject::with_status(&failure, guard),
        };
        let body = if body.is_end_stream() { body } else { body.barring(inbound.barred_trailers(route)) };
        match kind {
            UpgradeKind::None => self.forward(route, upstream, &inbound, body, guard).await,
            kind => match self.admit(route, &inbound) {
                Ok(permit) => self.upgrade(route, upstream, &inbound, &kind, permit, body, guard).await,
                Err(failure) => reject_upgrade(&failure, &kind, route, &inbound, self.client, guard),
            },
        }
    }

    /// Starts the report. It must show neither a name and password nor a secret of the target.
    fn begin_report(&self, head: &Parts, origin: &Origin, connection: &ClientConnection) -> ReportGuard {
        // In the absolute form and in HTTP/2, the target names the host (RFC 9112 3.2.2, RFC 9113 8.3.1).
        let authority = head.uri.authority().map(|authority| authority.as_str().as_bytes());
        let host = authority.or(head.headers.get(HOST).map(HeaderValue::as_bytes)).unwrap_or_default();
        let target = redact(head.uri.path_and_query().map_or("", |target| target.as_str()));
        let info = RequestInfo {
            client: origin.client,
            proxied_by: (connection.peer != origin.client).then_some(connection.peer),
            method: head.method.as_str(),
            host: without_userinfo(host),
            target: target.as_bytes(),
            tls: connection.tls.as_ref().map(|tls| tls.session.version),
        };
        let end = Some(self.client.connection_end());
        let id = connection.next_request_id(|| self.proxy.tunnels.next_id());
        tracing::debug!(%id, method = %info.method, host = %info.host.escape_ascii(), target = %info.target.escape_ascii(), version = ?head.version, "request read");
        let mut guard = ReportGuard::new(self.proxy, id, &info, self.watch.clone(), end);
        guard.report().version = head.version;
        guard
    }

    /// Admits an upgrade, unless a limit is reached.
    fn admit(&self, route: &Route, inbound: &InboundRequest) -> Result<Permit, Failure> {
        let (client, now) = (inbound.origin.client.into(), self.proxy.started.elapsed());
        let admit = || {
            let permit = self.proxy.limiter.admit(client, &self.snapshot.limits, now);
            let mut permit =
                permit.map_err(|refused| LimitExceeded { limit: Limit::MaxConnections, ..refused })?;
            if let Some(limiter) = self.snapshot.limiter(route) {
                limiter.admit_also(&mut permit, &route.limits, now)?;
            }
            Ok(permit)
        };
        admit().map_err(|refused: LimitExceeded| {
            self.proxy.metrics.refused(&route.names, refused.limit.as_str());
            refused.into()
        })
    }

    /// Forwards a plain request.
    async fn forward(
        self,
        route: &Arc<Route>,
        upstream: &Arc<Upstream>,
        inbound: &InboundRequest,
        body: Upload,
        guard: ReportGuard,
    ) -> Response<Body> {
        let interim = self.client.interim_sender();
        let answered = match wait_for_room(&self.client, route, inbound).await {
            Ok(()) => forward::forward(route, upstream, inbound, body, interim, guard, self.watch).await,
            Err(failure) => Err((failure, guard)),
        };
        answered.unwrap_or_else(|(failure, guard)| reject::with_status(&failure, guard))
    }

    /// Opens a tunnel.
    #[expect(clippy::too_many_arguments, reason = "what the phases before have found, each of its own type")]
    async fn upgrade(
        self,
        route: &Arc<Route>,
        upstream: &Arc<Upstream>,
        inbound: &InboundRequest,
        kind: &UpgradeKind,
        permit: Permit,
        body: Upload,
        guard: ReportGuard,
    ) -> Response<Body> {
        let Self { proxy, snapshot, client, watch } = self;
        let snapshot = &snapshot;
        // A refusal needs the stream too.
        let for_refusal = client.clone();
        let request =
            UpgradeRequest { route, upstream, inbound, kind, client, proxy, snapshot, watch, permit };
        let opened = upgrade::open(request, body, guard).await;
        opened.unwrap_or_else(|(failure, guard)| {
            reject_upgrade(&failure, kind, route, inbound, for_refusal, guard)
        })
    }
}

/// Finds the route, and where it leads.
fn route<'a>(
    snapshot: &'a Snapshot,
    inbound: &InboundRequest,
    guard: &mut ReportGuard,
) -> Result<(&'a Arc<Route>, Destination<'a>), Failure> {
    let Some(route) = snapshot.route(&inbound.host, &inbound.path) else {
        if upgrade_kind(inbound) != Ok(UpgradeKind::None) {
            guard.mark_upgrade();
        }
        return Err(Failure::NoRoute);
    };
    guard.report().names = Some(Arc::clone(&route.names));
    guard.report().unlogged = !route.access_log;
    tracing::debug!(id = %inbound.id, route = &**route.name(), "route found");
    let destination = match &route.target {
        Target::Upstream(name) => Destination::Upstream(snapshot.upstream(name).ok_or(NoEndpoint::None)?),
        Target::Respond { status, .. } if status.is_success() && inbound.opens_by_success() => {
            return Err(Failure::NotOpened(*status));
        }
        Target::Respond { status, body } => Destination::Response(*status, body),
    };
    Ok((route, destination))
}

/// Checks what the client may do on this route. Returns the kind of upgrade that it asks for.
fn authorise(
    inbound: &InboundRequest,
    route: &Route,
    guard: &mut ReportGuard,
) -> Result<UpgradeKind, Failure> {
    let kind = upgrade_kind(inbound);
    if kind != Ok(UpgradeKind::None) {
        guard.mark_upgrade();
    }
    let kind = kind?;
    if let (UpgradeKind::WebSocket, Some(allowed)) = (&kind, &route.allowed_origins) {
        inbound.check_origin(route, allowed)?;
    }
    Ok(kind)
}

/// Refuses an upgrade as the route says: with a status, or with a close code that the client's page can see.
fn reject_upgrade(
    failure: &Failure,
    kind: &UpgradeKind,
    route: &Route,
    inbound: &InboundRequest,
    client: ClientStream,
    guard: ReportGuard,
) -> Response<Body> {
    match reject::close_code(failure, route).filter(|_| *kind == UpgradeKind::WebSocket) {
        Some(code) => {
            let slot = Arc::clone(&inbound.connection.slot);
            reject::with_close(failure, code, &inbound.parts.headers, client, slot, guard)
        }
        None => reject::with_status(failure, guard),
    }
}

/// Returns a host without the name and password before it (RFC 3986 3.2.1).
fn without_userinfo(host: &[u8]) -> &[u8] {
    host.rsplit(|&byte| byte == b'@').next().unwrap_or_default()
}

/// Returns the kind of upgrade that a request asks for.
fn upgrade_kind(inbound: &InboundRequest) -> Result<UpgradeKind, UpgradeError> {
    classify(&inbound.parts.method, inbound.parts.version, &inbound.parts.headers)
}

/// Answers an OPTIONS request that may not be forwarded any further (RFC 9110 7.6.2).
fn answer_options(guard: ReportGuard) -> Response<Body> {
    let mut response = Response::new(full(""));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(reject::ALLOWED));
    report_own(response, guard)
}

/// Answers a request whose route has a fixed response.
fn respond(status: StatusCode, body: &str, route: &Route, guard: ReportGuard) -> Response<Body> {
    let mut response = Response::new(full(body.to_owned()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    route.set_response_headers(response.headers_mut());
    report_own(response, guard)
}

/// Reports a response that Holdline gives itself.
fn report_own(response: Response<Body>, mut guard: ReportGuard) -> Response<Body> {
    guard.report().status = response.status().as_u16();
    guard.finish(Ending::new(EndedBy::Proxy, Cause::Done), PerSide::default());
    response
}
