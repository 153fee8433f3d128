//! Owns the request path: from a request to its route, to an endpoint, to an answer or a tunnel.

mod attempt;
mod failure;
mod forward;
mod guard;
mod observe;
pub mod order;
mod reject;
mod request;
pub mod session;
pub mod snapshot;
mod upgrade;

pub use failure::Failure;

use crate::addr::ClientAddr;
use crate::drain::Watch;
use crate::http::incoming::Incoming;
use crate::http::respond::{Body, full};
use crate::http::serve::{Refusal, Told, Upgrade};
use crate::http::upload::Upload;
use crate::limit::connections::Permit;
use crate::limit::{Door, Limit, Refused};
use crate::listener::connection::{Connection, NotReady};
use crate::outcome::{Ending, PerSide, Who, Why};
use crate::real_ip::Origin;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::report::{Asked, redact, redact_bytes};
use crate::tunnel::engine::Engine;
use crate::upstream::{NoEndpoint, Private};
use crate::ws::handshake::{OpeningError, Wish, wish};
use arc_swap::ArcSwap;
use attempt::make_room;
use guard::{Books, Guard};
use http::header::{ALLOW, CONTENT_TYPE, HOST};
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Body as _;
use request::Inbound;
use session::Sessions;
use snapshot::{Route, Snapshot, Target};
use std::sync::Arc;
use tokio::time::Instant;

/// What serves requests.
#[derive(Debug)]
pub struct Proxy {
    /// What requests see; swapped on reload.
    pub snapshot: ArcSwap<Snapshot>,
    /// The live tunnels.
    pub sessions: Arc<Sessions>,
    /// Where reports go.
    pub log: Arc<AccessLog>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Both of these, for whatever comes to an end.
    books: Arc<Books>,
    /// What relays tunnels; `None`: tasks of the runtime do.
    engine: Option<Arc<Engine>>,
    /// What all routes together have admitted.
    door: Door,
    started: Instant,
}

impl Proxy {
    /// A proxy without tunnels.
    #[must_use]
    pub fn new(snapshot: Arc<Snapshot>, log: Arc<AccessLog>, engine: Option<Arc<Engine>>) -> Self {
        let (sessions, metrics, door) = (Arc::default(), Arc::default(), Door::default());
        let books = Arc::new(Books::new(Arc::clone(&log), Arc::clone(&metrics)));
        observe::expect(&metrics, &snapshot);
        let (snapshot, started) = (ArcSwap::new(snapshot), Instant::now());
        Self { snapshot, sessions, log, metrics, books, engine, door, started }
    }

    /// Ends what relays tunnels, and with it those that are still open.
    pub fn stop_relaying(&self) {
        if let Some(engine) = &self.engine {
            engine.stop();
        }
    }

    /// Answers one request. `private` belongs to the client's connection, and ends with it.
    pub async fn answer(
        &self,
        mut request: Request<Incoming>,
        connection: &Arc<Connection>,
        private: &Arc<Private>,
        watch: Watch,
    ) -> Response<Body> {
        let upgrade = Upgrade::of(&mut request);
        let (parts, body) = request.into_parts();
        let body = upgrade.upload(body);
        // Of an absolute form and of HTTP/2 it is in the target (RFC 9112 3.2.2, RFC 9113 8.3.1),
        // perhaps with a name and a password, which are nobody's.
        let asked = parts.uri.authority().map(|authority| authority.as_str().as_bytes());
        let host = asked.or(parts.headers.get(HOST).map(HeaderValue::as_bytes)).unwrap_or_default();
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
        let asked = Asked { client, proxied_by, method, host, target: target.as_bytes(), tls };
        let mut guard = Guard::new(self, &asked, watch.clone(), upgrade.fate());
        guard.report().version = parts.version;
        let mut inbound = match Inbound::read(parts, origin, Arc::clone(connection), Arc::clone(private)) {
            Ok(inbound) => inbound,
            Err(failure) => return reject::with_status(&failure, guard),
        };
        if inbound.ends_here() {
            return answer_options(guard);
        }
        match snapshot.route(&inbound.host, &inbound.path) {
            Some(route) => self.serve(&snapshot, route, inbound, body, upgrade, guard, watch).await,
            None => {
                if asked_for(&inbound) != Ok(Wish::Http) {
                    guard.is_opening();
                }
                reject::with_status(&Failure::NoRoute, guard)
            }
        }
    }

    /// Reports a connection that was closed before its first request.
    pub fn not_ready(&self, error: &NotReady, client: ClientAddr, watch: Watch) {
        let status = match error {
            // Ports are looked at all the time, and there is nothing to explain.
            NotReady::Silent => return,
            NotReady::Untrusted => StatusCode::FORBIDDEN,
            NotReady::TooSlow | NotReady::HandshakeTooSlow | NotReady::GaveWay => StatusCode::REQUEST_TIMEOUT,
            NotReady::ProxyHeader(_) | NotReady::Handshake(_) | NotReady::Io(_) => StatusCode::BAD_REQUEST,
        };
        self.unasked(status, &error.to_string(), client, watch);
    }

    /// Reports what a client sent instead of a request, and what could be read of it.
    pub fn refused(&self, refusal: Refusal, told: Option<Told>, client: ClientAddr, watch: Watch) {
        let (status, reason) = match refusal {
            Refusal::Malformed => (StatusCode::BAD_REQUEST, "no valid HTTP request"),
            Refusal::TooLarge => {
                (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "request head over max_header_size")
            }
            Refusal::TooSlow => {
                (StatusCode::REQUEST_TIMEOUT, "request head not complete within header_timeout")
            }
            Refusal::GaveWay => {
                (StatusCode::REQUEST_TIMEOUT, "nothing came of it, and others wanted its place")
            }
        };
        let Some(told) = told else { return self.unasked(status, reason, client, watch) };
        let is_answered = matches!(refusal, Refusal::Malformed | Refusal::TooLarge);
        let (status, reason) = match StatusCode::from_u16(told.status) {
            Ok(status) if is_answered => (status, &*told.reason),
            _ => (status, reason),
        };
        let target = told.target.as_deref().map(redact_bytes).unwrap_or_default();
        let method = told.method.as_deref().unwrap_or_default();
        self.never_asked(status, reason, Asked { target: &target, method, ..unknown(client) }, watch);
    }

    /// Reports a connection of which nothing could be read.
    fn unasked(&self, status: StatusCode, reason: &str, client: ClientAddr, watch: Watch) {
        self.never_asked(status, reason, unknown(client), watch);
    }

    /// Reports what never became a request.
    fn never_asked(&self, status: StatusCode, reason: &str, asked: Asked<'_>, watch: Watch) {
        let mut guard = Guard::new(self, &asked, watch, None);
        guard.is_unasked();
        guard.report().status = status.as_u16();
        let ending = Ending { reason: reason.into(), ..Ending::new(Who::Proxy, Why::Refused) };
        guard.finish_http(ending, PerSide::default());
    }

    /// Lets an opening in, unless a limit is reached.
    fn admit(&self, snapshot: &Snapshot, route: &Route, inbound: &Inbound) -> Result<Permit, Refused> {
        let (client, now) = (inbound.origin.client.into(), self.started.elapsed());
        let permit = self.door.admit(client, &snapshot.limits, now);
        let mut permit = permit.map_err(|refused| Refused { limit: Limit::MaxConnections, ..refused })?;
        if let Some(door) = snapshot.door(route) {
            door.admit_too(&mut permit, &route.limits, now)?;
        }
        Ok(permit)
    }

    #[expect(clippy::too_many_arguments, reason = "one request's parts, taken apart once")]
    async fn serve(
        &self,
        snapshot: &Arc<Snapshot>,
        route: &Arc<Route>,
        inbound: Inbound,
        body: Upload,
        client: Upgrade,
        mut guard: Guard,
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
        let (inbound, wish) = match examine(inbound, route, &mut guard) {
            Ok(examined) => examined,
            Err(failure) => return reject::with_status(&failure, guard),
        };
        let body = if body.is_end_stream() { body } else { body.barring(inbound.barred(route)) };
        if wish == Wish::Http {
            let hints = client.hints();
            let answered = match make_room(&client, route, &inbound).await {
                Ok(()) => forward::forward(route, upstream, &inbound, body, hints, guard, watch).await,
                Err(failure) => Err((failure, guard)),
            };
            return match answered {
                Ok(response) => response,
                Err((failure, guard)) => reject::with_status(&failure, guard),
            };
        }
        let (inbound, wish) = (&inbound, &wish);
        let spare = client.clone();
        let opened = match self.admit(snapshot, route, inbound) {
            Err(refused) => {
                self.metrics.refused(route.name(), refused.limit.as_str());
                Err((refused.into(), guard))
            }
            Ok(permit) => {
                let opening = upgrade::Opening {
                    route,
                    upstream,
                    inbound,
                    wish,
                    client,
                    proxy: self,
                    snapshot,
                    watch,
                    permit,
                };
                upgrade::open(opening, body, guard).await
            }
        };
        let (failure, guard) = match opened {
            Ok(response) => return response,
            Err(failed) => failed,
        };
        match reject::close_code(&failure, route).filter(|_| *wish == Wish::WebSocket) {
            Some(code) => {
                let slot = Arc::clone(&inbound.connection.slot);
                reject::with_close(&failure, code, &inbound.parts.headers, spare, slot, guard)
            }
            None => reject::with_status(&failure, guard),
        }
    }
}

/// What is known of a client that asked for nothing. Logs in text have a dash for what is empty.
fn unknown<'a>(client: ClientAddr) -> Asked<'a> {
    Asked { client, proxied_by: None, method: "", host: b"", target: b"", tls: None }
}

/// The request as its endpoint is to see it, and what it wants to become of its connection.
fn examine(inbound: Inbound, route: &Route, guard: &mut Guard) -> Result<(Inbound, Wish), Failure> {
    let asked = asked_for(&inbound);
    if asked != Ok(Wish::Http) {
        guard.is_opening();
    }
    let wish = asked?;
    if let (Wish::WebSocket, Some(allowed)) = (&wish, &route.allowed_origins) {
        inbound.check_origin(route, allowed)?;
    }
    Ok((inbound.aimed(route)?, wish))
}

/// A host without the name and password before it (RFC 3986 3.2.1), which no log is to show.
fn without_userinfo(host: &[u8]) -> &[u8] {
    host.rsplit(|&byte| byte == b'@').next().unwrap_or_default()
}

/// What a request wants to become of its connection.
fn asked_for(inbound: &Inbound) -> Result<Wish, OpeningError> {
    wish(&inbound.parts.method, inbound.parts.version, &inbound.parts.headers)
}

/// The answer to an OPTIONS that may go no further (RFC 9110 7.6.2).
fn answer_options(mut guard: Guard) -> Response<Body> {
    let mut response = Response::new(full(""));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(reject::ALLOWED));
    guard.report().status = response.status().as_u16();
    guard.finish_http(Ending::new(Who::Proxy, Why::Done), PerSide::default());
    response
}

/// The answer of a route that has one.
fn respond(status: StatusCode, body: &str, route: &Route, mut guard: Guard) -> Response<Body> {
    let mut response = Response::new(full(body.to_owned()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    route.set_response_headers(response.headers_mut());
    guard.report().status = status.as_u16();
    guard.finish_http(Ending::new(Who::Proxy, Why::Done), PerSide::default());
    response
}
