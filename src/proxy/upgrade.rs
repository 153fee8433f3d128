//! Owns opening a tunnel. Holdline finishes the upstream's handshake before it answers the client, so that
//! every failure still has a status.

use super::Proxy;
use super::failure::Failure;
use super::forward::{self, PoolReturn};
use super::registry::{LiveTunnel, Registration};
use super::reporting::{ReportGuard, ReportSink};
use super::request::InboundRequest;
use super::retry::{ResponseAction, Retry, wait_for_room};
use super::snapshot::{Route, Snapshot};
use crate::capacity::Slot;
use crate::drain::Watch;
use crate::health::Witness;
use crate::http::body::{Body, full};
use crate::http::conn::ClientStream;
use crate::http::headers::{add_via, remove_hop_by_hop};
use crate::http::upload::Upload;
use crate::io::{PrefixedStream, Stream};
use crate::limit::ClientKey;
use crate::limit::connections::Permit;
use crate::outcome::{Cause, EndedBy, Ending, Outcome, PerSide};
use crate::telemetry::report::{Kind, Report};
use crate::tunnel::control::Control;
use crate::tunnel::counters::Counters;
use crate::tunnel::engine::{DetachedStream, Engine};
use crate::tunnel::pump::{Pump, run};
use crate::tunnel::relay::BadPong;
use crate::tunnel::{Blind, Framing, Observer, Settings};
use crate::upstream::exchange::{Answer, EndpointStream};
use crate::upstream::{ConnectionResources, Lease, Upstream};
use crate::ws::handshake::{self, AnswerError, Extensions, UpgradeKind};
use http::header::{CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::response::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body::Body as _;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;
use tokio::task::yield_now;
use tokio::time::Instant;
use tracing::Instrument as _;

/// A request that asks for a tunnel.
pub(super) struct UpgradeRequest<'a> {
    pub(super) route: &'a Arc<Route>,
    pub(super) upstream: &'a Arc<Upstream>,
    pub(super) inbound: &'a InboundRequest,
    /// The protocol that it asks for.
    pub(super) kind: &'a UpgradeKind,
    /// Becomes the client's stream after the response.
    pub(super) client: ClientStream,
    /// Registers the tunnel.
    pub(super) proxy: &'a Proxy,
    /// The snapshot that the request saw.
    pub(super) snapshot: &'a Arc<Snapshot>,
    /// Makes a shutdown wait for the tunnel.
    pub(super) watch: Watch,
    /// Counts the tunnel against the limits.
    pub(super) permit: Permit,
}

/// Opens a tunnel, or forwards what the upstream answers instead.
///
/// # Errors
/// Returns the failure if there is no response to forward, and the guard for the report.
pub(super) async fn open(
    upgrade: UpgradeRequest<'_>,
    mut body: Upload,
    mut guard: ReportGuard,
) -> Result<Response<Body>, (Failure, ReportGuard)> {
    let &UpgradeRequest { route, upstream, inbound, kind, .. } = &upgrade;
    let websocket = HeaderValue::from_static("websocket");
    let protocol = match kind {
        UpgradeKind::Other(tokens) => tokens,
        _ => &websocket,
    };
    if let Err(error) = body.limit(route.max_body_size) {
        return Err((error.into(), guard));
    }
    guard.watch_upload(&body);
    let mut retry = Retry::new(route, upstream, inbound, !body.is_end_stream());
    let mut body = Some(body);
    if let Err(failure) = wait_for_room(&upgrade.client, route, inbound).await {
        return Err((failure, guard));
    }
    loop {
        // Never a pooled connection, because the tunnel keeps it.
        let connected = retry.connect(&mut guard, false, &upgrade.watch).await;
        let (lease, mut connection) = match connected {
            Ok(connected) => connected,
            Err(failure) => return Err((failure, guard)),
        };
        let body = body.take().map_or_else(|| full(""), Upload::boxed);
        let request = inbound.for_upstream(route, Some(protocol), body);
        let sent = request.headers().clone();
        let used = connection.used;
        let response = retry.exchange(&mut connection, request).await;
        let failure = match response {
            Ok(Answer::Tunnel(head, stream)) => match check(kind, &sent, &head.headers) {
                Ok(()) => {
                    let ResponseAction::Forward(lease) = retry.answered(lease, head.status) else {
                        continue;
                    };
                    drop(retry);
                    return Ok(open_tunnel(upgrade, head, stream, lease, connection.into_resources(), guard));
                }
                Err(error) => error.into(),
            },
            Ok(Answer::Response(response)) => match retry.answered(lease, response.status()) {
                ResponseAction::Retry => continue,
                ResponseAction::Forward(_)
                    if inbound.opens_by_success() && response.status().is_success() =>
                {
                    return Err((Failure::NotOpened(response.status()), guard));
                }
                ResponseAction::Forward(lease) => {
                    let pool_return =
                        PoolReturn::new(connection, upstream, inbound, response.status(), &upgrade.watch);
                    guard.hold_permit(upgrade.permit);
                    return Ok(forward::relay(response, route, lease, guard, pool_return));
                }
            },
            Err(failure) => failure,
        };
        if !retry.failed(lease, &failure, used) {
            return Err((failure, guard));
        }
    }
}

fn check(kind: &UpgradeKind, sent: &HeaderMap, answer: &HeaderMap) -> Result<(), AnswerError> {
    match kind {
        UpgradeKind::Other(tokens) => handshake::check_other_answer(tokens, answer),
        _ => handshake::check_answer(sent, answer),
    }
}

/// Registers the tunnel and returns the 101 for the client. Spawns [`switch`], which takes both sockets over as
/// soon as hyper gives them up: after the request's body is sent and the 101 is written.
fn open_tunnel(
    upgrade: UpgradeRequest<'_>,
    mut parts: Parts,
    upstream: EndpointStream,
    lease: Lease,
    resources: ConnectionResources,
    mut guard: ReportGuard,
) -> Response<Body> {
    let framing = framing(upgrade.kind, &parts.headers);
    let report = guard.report();
    report.status = StatusCode::SWITCHING_PROTOCOLS.as_u16();
    report.agree(
        text_of(&parts.headers, &SEC_WEBSOCKET_PROTOCOL),
        handshake::tokens(&upgrade.inbound.parts.headers, &SEC_WEBSOCKET_PROTOCOL),
        text_of(&parts.headers, &SEC_WEBSOCKET_EXTENSIONS),
    );
    let round_trips = Arc::clone(guard.metrics().round_trips());
    let tunnel = LiveTunnel {
        report: guard.open(),
        endpoint: Arc::clone(lease.endpoint()),
        opened: SystemTime::now().into(),
        control: Arc::new(Control::new(Counters::counting_into(round_trips))),
    };
    let registration = upgrade.proxy.tunnels.add(tunnel);
    // A reload during the handshake did not reach this tunnel. Apply it now.
    let current = upgrade.proxy.snapshot.load();
    if !Arc::ptr_eq(&current, upgrade.snapshot) {
        registration.tunnel.apply_snapshot(&current, upgrade.snapshot);
    }
    // Nor did a drain of its endpoint during the handshake.
    if let Some(until) = upgrade.upstream.close_deadline(registration.tunnel.endpoint.address()) {
        registration.tunnel.close_by(until);
    }
    let protocol = parts.headers.get(UPGRADE).cloned();
    remove_hop_by_hop(&mut parts.headers);
    // Some servers send a length, which RFC 9110 8.6 forbids. HTTP/2 would check the tunnel's bytes against
    // it.
    parts.headers.remove(CONTENT_LENGTH);
    if upgrade.route.via.is_on_responses() {
        add_via(&mut parts.headers, parts.version);
    }
    upgrade.route.set_response_headers(&mut parts.headers);
    parts.headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    parts.headers.extend(protocol.map(|protocol| (UPGRADE, protocol)));
    forward::set_own_version(&mut parts);
    let settings = Arc::clone(&upgrade.route.tunnel);
    let slot = Arc::clone(&upgrade.inbound.connection.slot);
    let held = TunnelResources { lease, resources, registration, permit: upgrade.permit, slot };
    let engine = upgrade.proxy.engine.clone();
    let switch = switch(upgrade.client, upstream, settings, framing, engine, held, guard);
    tokio::spawn(switch.in_current_span());
    Response::from_parts(parts, full(""))
}

fn framing(kind: &UpgradeKind, answer: &HeaderMap) -> Framing {
    match (kind, handshake::extensions(answer)) {
        (UpgradeKind::Other(_), _) => Framing::Blind(Blind::Protocol),
        (_, Extensions::None) => Framing::WebSocket { deflate: false },
        (_, Extensions::Deflate) => Framing::WebSocket { deflate: true },
        (_, Extensions::Unknown) => Framing::Blind(Blind::Extension),
    }
}

fn text_of<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Takes both connections out of HTTP, with the bytes already read, and starts the tunnel on a thread of the
/// engine. Over a shared socket (HTTP/2), or with `engine = "tokio"`, the tunnel is a task.
async fn switch(
    client: ClientStream,
    upstream: EndpointStream,
    settings: Arc<Settings>,
    framing: Framing,
    engine: Option<Arc<Engine>>,
    held: TunnelResources,
    guard: ReportGuard,
) {
    let answered = Instant::now();
    let unopened = |held, guard: ReportGuard, ended_by, reason: &str| {
        let ending = Ending { reason: reason.into(), ..Ending::new(ended_by, Cause::Eof) };
        let ending = guard.failed_upload().unwrap_or(ending);
        let (traffic, idle) = (PerSide::default(), PerSide::default());
        let outcome =
            Outcome { ending, traffic, duration: answered.elapsed(), idle, blind: None, ended: None };
        TunnelEnd::new(held, guard).finish(outcome);
    };
    let Some(client) = client.into_stream().await else {
        return unopened(held, guard, EndedBy::Client, "client left before the tunnel opened");
    };
    let Some(upstream) = upstream.into_stream().await else {
        return unopened(held, guard, EndedBy::Upstream, "upstream left before the tunnel opened");
    };
    let control = Arc::clone(&held.registration.tunnel.control);
    let mut streams = PerSide { client, upstream };
    let can_detach = streams.client.stream.can_detach() && streams.upstream.stream.can_detach();
    tracing::debug!(id = %held.registration.tunnel.report.id, "tunnel opened");
    let Some(engine) = engine.filter(|_| can_detach) else {
        let pump = run(streams, settings, framing, control);
        tokio::spawn(PumpTask { pump, end: Some(Box::new(TunnelEnd::new(held, guard))) });
        return;
    };
    match detach(streams) {
        Ok(streams) => {
            let end = TunnelEnd::new(held, guard);
            let wake = engine.open(streams, settings, framing, control, end);
            // All tunnels that open in this turn of the runtime wake the thread once. On a shared processor,
            // each wake-up costs two context switches.
            yield_now().await;
            drop(wake);
        }
        Err(error) => {
            tracing::error!(%error, "cannot take over a tunnel's sockets; the tunnel ends");
            unopened(held, guard, EndedBy::Proxy, "sockets could not be taken over");
        }
    }
}

fn detach(streams: PerSide<PrefixedStream<Stream>>) -> io::Result<PerSide<PrefixedStream<DetachedStream>>> {
    let detach = |PrefixedStream::<Stream> { stream, ahead }| {
        stream.try_into().map(|stream| PrefixedStream { stream, ahead })
    };
    Ok(PerSide { client: detach(streams.client)?, upstream: detach(streams.upstream)? })
}

/// What a tunnel holds until it ends.
struct TunnelResources {
    lease: Lease,
    resources: ConnectionResources,
    registration: Registration,
    permit: Permit,
    /// The slot of the client's connection.
    slot: Arc<Slot>,
}

impl TunnelResources {
    /// Frees everything but the client's slot, which stays until the report is written.
    fn release(self, outcome: &Outcome) -> (Report, Arc<Slot>) {
        let Self { mut lease, resources, registration, permit, slot } = self;
        let report = registration.tunnel.report.clone();
        lease.ended(outcome, || witness(&report));
        drop((lease, resources, registration, permit));
        (report, slot)
    }
}

/// Ends a tunnel: frees its resources and writes its report. The owner calls [`TunnelEnd::finish`].
struct TunnelEnd {
    held: TunnelResources,
    sink: Arc<ReportSink>,
    /// Makes a shutdown wait for the tunnel.
    watch: Watch,
}

impl TunnelEnd {
    fn new(held: TunnelResources, guard: ReportGuard) -> Self {
        let (sink, watch) = guard.into_sink();
        Self { held, sink, watch }
    }

    fn finish(self, outcome: Outcome) {
        let Self { held, sink, watch } = self;
        // Free the resources before the report is written.
        let (report, slot) = held.release(&outcome);
        sink.write(Kind::Tunnel, report, outcome);
        drop((watch, slot));
    }
}

impl Observer for TunnelEnd {
    fn report_bad_pong(&self, bad_pong: BadPong) {
        let (report, key) = (&self.held.registration.tunnel.report, bad_pong.side.as_str());
        tracing::warn!(
            id = %report.id,
            route = self.held.registration.tunnel.route(),
            client = %report.client(),
            endpoint = %self.held.registration.tunnel.endpoint.address(),
            "the {key} answers pings of the proxy badly ({}); its answers are not passed on. To send it none, set ping = {{ {key} = \"off\" }}",
            bad_pong.fault
        );
    }

    fn ended(self: Box<Self>, outcome: Outcome) {
        self.finish(outcome);
    }
}

/// Returns the client and path that met the end of a tunnel.
fn witness(report: &Report) -> Witness {
    Witness::new(ClientKey::from(report.client()), report.path_text())
}

/// The task that runs a tunnel and ends it.
struct PumpTask {
    pump: Pump<Stream>,
    end: Option<Box<TunnelEnd>>,
}

impl Future for PumpTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let polled = Pin::new(&mut self.pump).poll(cx);
        while let Some(bad_pong) = self.pump.take_bad_pong() {
            if let Some(end) = &self.end {
                end.report_bad_pong(bad_pong);
            }
        }
        let Poll::Ready(outcome) = polled else { return Poll::Pending };
        if let Some(end) = self.end.take() {
            end.finish(outcome);
        }
        Poll::Ready(())
    }
}

impl Drop for PumpTask {
    /// Reports the tunnel if the task is dropped before its end, which is a defect.
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            end.finish(self.pump.outcome());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::registry::Registry;
    use super::*;
    use crate::addr::ClientAddr;
    use crate::capacity::Slots;
    use crate::drain;
    use crate::limit::Limits;
    use crate::limit::connections::Connections;
    use crate::telemetry::access_log::AccessLog;
    use crate::telemetry::metrics::Metrics;
    use crate::telemetry::report::RequestInfo;
    use crate::telemetry::{AccessTarget, Facility, Format, Settings as LogSettings};
    use crate::upstream::tests::{server, upstream};
    use std::thread;
    use std::time::Duration;
    use tracing::level_filters::LevelFilter;

    #[test]
    fn the_end_of_a_tunnel_is_small() {
        // Each idle tunnel keeps one.
        assert!(size_of::<TunnelEnd>() <= 120, "{}", size_of::<TunnelEnd>());
    }

    fn sink(metrics: &Arc<Metrics>) -> Arc<ReportSink> {
        let (level, format, access) = (LevelFilter::INFO, Format::Text, AccessTarget::Off);
        let settings = LogSettings { level, format, access, facility: Facility(23), sample_above: None };
        Arc::new(ReportSink::new(Arc::new(AccessLog::open(&settings).unwrap()), Arc::clone(metrics)))
    }

    /// Whoever reads of an end may count on the limits, the endpoint and the table of tunnels having room. The
    /// client's connection is still open then: its descriptor is taken until the end is written.
    #[tokio::test]
    async fn an_end_is_written_between_what_it_frees_and_the_place_of_the_connection() {
        let (upstream, slots) = (upstream(vec![server(1)]), Slots::new(1, ""));
        let (tunnels, connections) = (Arc::new(Registry::default()), Arc::new(Connections::default()));
        let metrics = Arc::new(Metrics::default());
        let client = ClientAddr::Tcp("192.0.2.1:5000".parse().unwrap());
        let (method, host, target) = ("GET", &b"x"[..], &b"/"[..]);
        let info = RequestInfo { client, proxied_by: None, method, host, target, tls: None };
        let lease = upstream.pick(None, &[]).unwrap();
        let endpoint = Arc::clone(lease.endpoint());
        let tunnel = LiveTunnel {
            report: Report::new(tunnels.next_id(), SystemTime::now(), &info),
            endpoint: Arc::clone(&endpoint),
            opened: SystemTime::now().into(),
            control: Arc::new(Control::new(Counters::default())),
        };
        let held = TunnelResources {
            lease,
            resources: ConnectionResources::default(),
            registration: tunnels.add(tunnel),
            permit: connections.admit(client.into(), &Limits::default()).unwrap(),
            slot: Arc::new(slots.take().await),
        };
        let (_trigger, watch) = drain::channel();
        let end = TunnelEnd { held, sink: sink(&metrics), watch };
        let (traffic, idle) = (PerSide::default(), PerSide::default());
        let ending = Ending::new(EndedBy::Client, Cause::Eof);
        let duration = Duration::from_secs(1);
        let outcome = Outcome { ending, traffic, duration, idle, blind: None, ended: None };
        let left = || (endpoint.active(), tunnels.count(), connections.total());
        assert_eq!((left(), slots.taken()), ((1, 1, 1), 1));
        thread::scope(|scope| {
            // It cannot be written meanwhile.
            let unwritten = metrics.hold();
            let finished = scope.spawn(|| end.finish(outcome));
            let began = std::time::Instant::now();
            while left() != (0, 0, 0) && began.elapsed() < Duration::from_secs(5) {
                thread::yield_now();
            }
            let (left, taken) = (left(), slots.taken());
            thread::sleep(Duration::from_millis(10));
            let still_taken = slots.taken();
            drop(unwritten);
            finished.join().unwrap();
            assert_eq!((left, taken, still_taken, slots.taken()), ((0, 0, 0), 1, 1, 0));
        });
    }
}
