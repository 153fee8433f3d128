//! Owns the request path. Holdline reads a request, finds its route and an endpoint, and returns an answer or
//! opens a tunnel.

pub mod connection;
pub mod endpoint_state;
mod failure;
mod forward;
pub mod registry;
mod reject;
mod reporting;
mod request;
mod retry;
pub mod snapshot;
mod status;
mod upgrade;

pub use failure::Failure;

use crate::addr::ClientAddr;
use crate::drain::Watch;
use crate::http::incoming::Incoming;
use crate::http::respond::{Body, full};
use crate::http::serve::{BadRequestKind, PartialRequest, Upgrade};
use crate::http::upload::Upload;
use crate::limit::connections::Permit;
use crate::limit::{Limit, LimitExceeded, Limiter};
use crate::listener::establish::{Connection, EstablishError};
use crate::outcome::{Cause, EndedBy, Ending, PerSide};
use crate::real_ip::Origin;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::report::{RequestInfo, redact, redact_bytes};
use crate::tunnel::engine::Engine;
use crate::upstream::{NoEndpoint, PrivatePool};
use crate::ws::handshake::{OpeningError, UpgradeKind, classify};
use arc_swap::ArcSwap;
use http::header::{ALLOW, CONTENT_TYPE, HOST};
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Body as _;
use registry::Registry;
use reporting::{ReportGuard, ReportSink};
use request::InboundRequest;
use retry::wait_for_capacity;
use snapshot::{Route, Snapshot, Target};
use std::sync::Arc;
use tokio::time::Instant;

/// Serves requests.
#[derive(Debug)]
pub struct Proxy {
    /// The configuration that requests see. A reload swaps it.
    pub snapshot: ArcSwap<Snapshot>,
    /// The live tunnels.
    pub tunnels: Arc<Registry>,
    /// Receives every report.
    pub log: Arc<AccessLog>,
    /// Counts what happened.
    pub metrics: Arc<Metrics>,
    /// Writes each report to `log` and `metrics`.
    sink: Arc<ReportSink>,
    /// Relays tunnels. `None` means that tasks of the runtime do it.
    engine: Option<Arc<Engine>>,
    /// Counts what all routes together have admitted.
    limiter: Limiter,
    started: Instant,
}

impl Proxy {
    /// A proxy without tunnels.
    #[must_use]
    pub fn new(snapshot: Arc<Snapshot>, log: Arc<AccessLog>, engine: Option<Arc<Engine>>) -> Self {
        let (tunnels, metrics, limiter) = (Arc::default(), Arc::default(), Limiter::default());
        let sink = Arc::new(ReportSink::new(Arc::clone(&log), Arc::clone(&metrics)));
        status::expect(&metrics, &snapshot);
        let (snapshot, started) = (ArcSwap::new(snapshot), Instant::now());
        Self { snapshot, tunnels, log, metrics, sink, engine, limiter, started }
    }

    /// Stops the engine, which ends the tunnels that are still open.
    pub fn stop_relaying(&self) {
        if let Some(engine) = &self.engine {
            engine.stop();
        }
    }

    /// Answers one request. `private` belongs to the client's connection and ends with it.
    pub async fn answer(
        &self,
        mut request: Request<Incoming>,
        connection: &Arc<Connection>,
        private: &Arc<PrivatePool>,
        watch: Watch,
    ) -> Response<Body> {
        let upgrade = Upgrade::of(&mut request);
        let (parts, body) = request.into_parts();
        let body = upgrade.upload(body);
        // In the absolute form and in HTTP/2, the target names the host (RFC 9112 3.2.2, RFC 9113 8.3.1). It
        // may hold a name and a password, which the log must not show.
        let authority = parts.uri.authority().map(|authority| authority.as_str().as_bytes());
        let host = authority.or(parts.headers.get(HOST).map(HeaderValue::as_bytes)).unwrap_or_default();
        let host = without_userinfo(host);
        let snapshot = self.snapshot.load_full();
        let origin = match connection.peer_is_unknown {
            true => Origin::direct(connection.peer),
            false => snapshot.real_ip.origin(connection.peer, &parts.headers),
        };
        let target = redact(parts.uri.path_and_query().map_or("", |target| target.as_str()));
        let tls = connection.tls.as_ref().map(|tls| tls.session.version);
        let (client, method) = (origin.client, parts.method.as_str());
        let proxied_by = (connection.peer != client).then_some(connection.peer);
        let info = RequestInfo { client, proxied_by, method, host, target: target.as_bytes(), tls };
        let mut guard = ReportGuard::new(self, &info, watch.clone(), upgrade.connection_end());
        guard.report().version = parts.version;
        let mut inbound =
            match InboundRequest::read(parts, origin, Arc::clone(connection), Arc::clone(private)) {
                Ok(inbound) => inbound,
                Err(failure) => return reject::with_status(&failure, guard),
            };
        if inbound.is_last_hop() {
            return answer_options(guard);
        }
        match snapshot.route(&inbound.host, &inbound.path) {
            Some(route) => self.serve(&snapshot, route, inbound, body, upgrade, guard, watch).await,
            None => {
                if upgrade_kind(&inbound) != Ok(UpgradeKind::Http) {
                    guard.mark_opening();
                }
                reject::with_status(&Failure::NoRoute, guard)
            }
        }
    }

    /// Reports a connection that was closed before its first request.
    pub fn report_unestablished(&self, error: &EstablishError, client: ClientAddr, watch: Watch) {
        let status = match error {
            // Scanners connect all the time and send nothing. There is nothing to report.
            EstablishError::Silent => return,
            EstablishError::Untrusted => StatusCode::FORBIDDEN,
            EstablishError::TooSlow | EstablishError::HandshakeTooSlow | EstablishError::Evicted => {
                StatusCode::REQUEST_TIMEOUT
            }
            EstablishError::ProxyHeader(_) | EstablishError::Handshake(_) | EstablishError::Io(_) => {
                StatusCode::BAD_REQUEST
            }
        };
        self.report_unreadable(status, &error.to_string(), client, watch);
    }

    /// Reports bytes that did not become a request, and what Holdline could read of them.
    pub fn report_bad_request(
        &self,
        kind: BadRequestKind,
        partial: Option<PartialRequest>,
        client: ClientAddr,
        watch: Watch,
    ) {
        let (status, reason) = match kind {
            BadRequestKind::Malformed => (StatusCode::BAD_REQUEST, "no valid HTTP request"),
            BadRequestKind::TooLarge => {
                (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "request head over max_header_size")
            }
            BadRequestKind::TooSlow => {
                (StatusCode::REQUEST_TIMEOUT, "request head not complete within header_timeout")
            }
            BadRequestKind::Evicted => {
                (StatusCode::REQUEST_TIMEOUT, "idle while another connection needed its slot")
            }
        };
        let Some(partial) = partial else { return self.report_unreadable(status, reason, client, watch) };
        let is_answered = matches!(kind, BadRequestKind::Malformed | BadRequestKind::TooLarge);
        let (status, reason) = match StatusCode::from_u16(partial.status) {
            Ok(status) if is_answered => (status, &*partial.reason),
            _ => (status, reason),
        };
        let target = partial.target.as_deref().map(redact_bytes).unwrap_or_default();
        let method = partial.method.as_deref().unwrap_or_default();
        self.report_no_request(
            status,
            reason,
            RequestInfo { target: &target, method, ..unknown_request(client) },
            watch,
        );
    }

    /// Reports a connection that sent nothing readable.
    fn report_unreadable(&self, status: StatusCode, reason: &str, client: ClientAddr, watch: Watch) {
        self.report_no_request(status, reason, unknown_request(client), watch);
    }

    /// Reports a connection or bytes that never became a request.
    fn report_no_request(&self, status: StatusCode, reason: &str, info: RequestInfo<'_>, watch: Watch) {
        let mut guard = ReportGuard::new(self, &info, watch, None);
        guard.mark_no_request();
        guard.report().status = status.as_u16();
        let ending = Ending { reason: reason.into(), ..Ending::new(EndedBy::Proxy, Cause::Refused) };
        guard.finish_http(ending, PerSide::default());
    }

    /// Admits a WebSocket handshake, unless a limit is reached.
    fn admit(
        &self,
        snapshot: &Snapshot,
        route: &Route,
        inbound: &InboundRequest,
    ) -> Result<Permit, LimitExceeded> {
        let (client, now) = (inbound.origin.client.into(), self.started.elapsed());
        let permit = self.limiter.admit(client, &snapshot.limits, now);
        let mut permit =
            permit.map_err(|refused| LimitExceeded { limit: Limit::MaxConnections, ..refused })?;
        if let Some(limiter) = snapshot.limiter(route) {
            limiter.admit_also(&mut permit, &route.limits, now)?;
        }
        Ok(permit)
    }

    #[expect(clippy::too_many_arguments, reason = "one request's parts, taken apart once")]
    async fn serve(
        &self,
        snapshot: &Arc<Snapshot>,
        route: &Arc<Route>,
        inbound: InboundRequest,
        body: Upload,
        client: Upgrade,
        mut guard: ReportGuard,
        watch: Watch,
    ) -> Response<Body> {
        guard.report().names = Some(Arc::clone(&route.names));
        guard.report().unlogged = !route.access_log;
        let name = match &route.target {
            Target::Upstream(name) => name,
            Target::Respond { status, .. } if status.is_success() && inbound.opens_by_success() => {
                return reject::with_status(&Failure::NotOpened(*status), guard);
            }
            Target::Respond { status, body } => return respond(*status, body, route, guard),
        };
        let Some(upstream) = snapshot.upstream(name) else {
            return reject::with_status(&NoEndpoint::None.into(), guard);
        };
        let (inbound, kind) = match examine(inbound, route, &mut guard) {
            Ok(examined) => examined,
            Err(failure) => return reject::with_status(&failure, guard),
        };
        let body = if body.is_end_stream() { body } else { body.barring(inbound.barred_trailers(route)) };
        if kind == UpgradeKind::Http {
            let interim = client.interim_sender();
            let answered = match wait_for_capacity(&client, route, &inbound).await {
                Ok(()) => forward::forward(route, upstream, &inbound, body, interim, guard, watch).await,
                Err(failure) => Err((failure, guard)),
            };
            return answered.unwrap_or_else(|(failure, guard)| reject::with_status(&failure, guard));
        }
        let (inbound, kind) = (&inbound, &kind);
        let spare = client.clone();
        let opened = match self.admit(snapshot, route, inbound) {
            Err(refused) => {
                self.metrics.refused(route.name(), refused.limit.as_str());
                Err((refused.into(), guard))
            }
            Ok(permit) => {
                let request = upgrade::UpgradeRequest {
                    route,
                    upstream,
                    inbound,
                    kind,
                    client,
                    proxy: self,
                    snapshot,
                    watch,
                    permit,
                };
                upgrade::open(request, body, guard).await
            }
        };
        let (failure, guard) = match opened {
            Ok(response) => return response,
            Err(failed) => failed,
        };
        match reject::close_code(&failure, route).filter(|_| *kind == UpgradeKind::WebSocket) {
            Some(code) => {
                let slot = Arc::clone(&inbound.connection.slot);
                reject::with_close(&failure, code, &inbound.parts.headers, spare, slot, guard)
            }
            None => reject::with_status(&failure, guard),
        }
    }
}

/// Describes a client that sent no request. Text logs print a dash for an empty field.
fn unknown_request<'a>(client: ClientAddr) -> RequestInfo<'a> {
    RequestInfo { client, proxied_by: None, method: "", host: b"", target: b"", tls: None }
}

/// Returns the request as its endpoint will see it, and the kind of upgrade that it asks for.
fn examine(
    inbound: InboundRequest,
    route: &Route,
    guard: &mut ReportGuard,
) -> Result<(InboundRequest, UpgradeKind), Failure> {
    let kind = upgrade_kind(&inbound);
    if kind != Ok(UpgradeKind::Http) {
        guard.mark_opening();
    }
    let kind = kind?;
    if let (UpgradeKind::WebSocket, Some(allowed)) = (&kind, &route.allowed_origins) {
        inbound.check_origin(route, allowed)?;
    }
    Ok((inbound.with_target(route)?, kind))
}

/// Returns a host without the name and password before it (RFC 3986 3.2.1). Logs must not show them.
fn without_userinfo(host: &[u8]) -> &[u8] {
    host.rsplit(|&byte| byte == b'@').next().unwrap_or_default()
}

/// Returns the kind of upgrade that a request asks for.
fn upgrade_kind(inbound: &InboundRequest) -> Result<UpgradeKind, OpeningError> {
    classify(&inbound.parts.method, inbound.parts.version, &inbound.parts.headers)
}

/// Answers an OPTIONS request that may not be forwarded any further (RFC 9110 7.6.2).
fn answer_options(mut guard: ReportGuard) -> Response<Body> {
    let mut response = Response::new(full(""));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(reject::ALLOWED));
    guard.report().status = response.status().as_u16();
    guard.finish_http(Ending::new(EndedBy::Proxy, Cause::Done), PerSide::default());
    response
}

/// Answers a request whose route has a fixed response.
fn respond(status: StatusCode, body: &str, route: &Route, mut guard: ReportGuard) -> Response<Body> {
    let mut response = Response::new(full(body.to_owned()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    route.set_response_headers(response.headers_mut());
    guard.report().status = status.as_u16();
    guard.finish_http(Ending::new(EndedBy::Proxy, Cause::Done), PerSide::default());
    response
}
