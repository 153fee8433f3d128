//! Owns the opening of a tunnel: the upstream's handshake is finished before the client is answered,
//! so that every failure still has a status.

use super::Proxy;
use super::attempt::{Attempts, Verdict, make_room};
use super::failure::Failure;
use super::forward::{self, GiveBack};
use super::guard::{Books, Guard};
use super::request::Inbound;
use super::session::{Place, Session};
use super::snapshot::{Route, Snapshot};
use crate::drain::Watch;
use crate::health::Witness;
use crate::http::headers::{add_via, remove_hop_by_hop};
use crate::http::respond::{self, full};
use crate::http::serve::Upgrade;
use crate::http::upload::Upload;
use crate::io::Stream;
use crate::limit::ClientKey;
use crate::limit::connections::Permit;
use crate::outcome::{Ending, Outcome, PerSide, Side, Who, Why};
use crate::slots::Slot;
use crate::telemetry::metrics::Kind;
use crate::telemetry::report::Report;
use crate::tunnel::control::Control;
use crate::tunnel::counters::Counters;
use crate::tunnel::engine::{Engine, Wire};
use crate::tunnel::pump::{Opened, Pump, run};
use crate::tunnel::relay::BadAnswer;
use crate::tunnel::{Blind, Framing, Observer, Settings};
use crate::upstream::connect::Taken;
use crate::upstream::{Lease, Upstream};
use crate::ws::handshake::{self, AnswerError, Extensions, Wish};
use http::header::{CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;
use tokio::task::yield_now;
use tokio::time::Instant;

/// A request that wants to become a tunnel.
pub(super) struct Opening<'a> {
    /// Its route.
    pub(super) route: &'a Arc<Route>,
    /// Its route's upstream.
    pub(super) upstream: &'a Arc<Upstream>,
    /// The request.
    pub(super) inbound: &'a Inbound,
    /// The protocol it wants.
    pub(super) wish: &'a Wish,
    /// The client's connection, after the answer.
    pub(super) client: Upgrade,
    /// Where the tunnel is entered.
    pub(super) proxy: &'a Proxy,
    /// What the request saw.
    pub(super) snapshot: &'a Arc<Snapshot>,
    /// Its permit.
    pub(super) watch: Watch,
    /// Its place among the tunnels that are counted.
    pub(super) permit: Permit,
}

/// Opens a tunnel, or passes back what the upstream answers instead.
///
/// # Errors
/// There is no answer to pass; the guard comes back for the report.
pub(super) async fn open(
    opening: Opening<'_>,
    mut body: Upload,
    mut guard: Guard,
) -> Result<Response<respond::Body>, (Failure, Guard)> {
    let &Opening { route, upstream, inbound, wish, .. } = &opening;
    let websocket = HeaderValue::from_static("websocket");
    let protocol = match wish {
        Wish::Other(tokens) => tokens,
        _ => &websocket,
    };
    if let Err(error) = body.limit(route.max_body_size) {
        return Err((error.into(), guard));
    }
    guard.follow_upload(&body);
    let mut attempts = Attempts::new(route, upstream, inbound, !body.is_end_stream());
    let mut body = Some(body);
    if let Err(failure) = make_room(&opening.client, route, inbound).await {
        return Err((failure, guard));
    }
    loop {
        // Always a connection of its own, or of this client: the tunnel will keep it.
        let connected = attempts.connect(&mut guard, false, &opening.watch).await;
        let (lease, mut connection) = match connected {
            Ok(connected) => connected,
            Err(failure) => return Err((failure, guard)),
        };
        let body = body.take().map_or_else(|| full(Bytes::new()), Upload::boxed);
        let request = inbound.for_upstream(route, Some(protocol), body);
        let asked = request.headers().clone();
        let used = connection.used;
        let response = attempts.exchange(&mut connection, request).await;
        let failure = match response {
            Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                match check(wish, &asked, response.headers()) {
                    Ok(()) => {
                        let Verdict::Pass(lease) = attempts.answered(lease, response.status()) else {
                            continue;
                        };
                        drop(attempts);
                        return Ok(accept(opening, response, lease, connection.into_taken(), guard));
                    }
                    Err(error) => error.into(),
                }
            }
            Ok(response) => match attempts.answered(lease, response.status()) {
                Verdict::Retry => continue,
                Verdict::Pass(_) if inbound.opens_by_success() && response.status().is_success() => {
                    return Err((Failure::NotOpened(response.status()), guard));
                }
                Verdict::Pass(lease) => {
                    let give_back =
                        GiveBack::new(connection, upstream, inbound, response.status(), &opening.watch);
                    guard.keep(opening.permit);
                    return Ok(forward::relay(response, route, lease, guard, give_back));
                }
            },
            Err(failure) => failure,
        };
        if !attempts.failed(lease, &failure, used) {
            return Err((failure, guard));
        }
    }
}

fn check(wish: &Wish, asked: &HeaderMap, answer: &HeaderMap) -> Result<(), AnswerError> {
    match wish {
        Wish::Other(tokens) => handshake::check_other_answer(tokens, answer),
        _ => handshake::check_answer(asked, answer),
    }
}

/// Answers the client with the upstream's 101 and leaves the rest to a task. The 101 may come while the
/// request's body is still on its way: hyper gives neither connection away before that has passed.
fn accept(
    opening: Opening<'_>,
    mut response: Response<Incoming>,
    lease: Lease,
    taken: Taken,
    mut guard: Guard,
) -> Response<respond::Body> {
    let upstream = hyper::upgrade::on(&mut response);
    let (mut parts, _) = response.into_parts();
    let framing = framing(opening.wish, &parts.headers);
    let report = guard.report();
    report.status = StatusCode::SWITCHING_PROTOCOLS.as_u16();
    report.agree(
        text_of(&parts.headers, &SEC_WEBSOCKET_PROTOCOL),
        handshake::tokens(&opening.inbound.parts.headers, &SEC_WEBSOCKET_PROTOCOL),
        text_of(&parts.headers, &SEC_WEBSOCKET_EXTENSIONS),
    );
    let round_trips = Arc::clone(guard.metrics().round_trips());
    let session = Session {
        report: guard.open(),
        endpoint: Arc::clone(lease.endpoint()),
        opened: SystemTime::now().into(),
        control: Arc::new(Control::new(Counters::counting_into(round_trips))),
    };
    let place = opening.proxy.sessions.add(session);
    // A reload during the opening has told all tunnels of its time; this one was not among them.
    let current = opening.proxy.snapshot.load();
    if !Arc::ptr_eq(&current, opening.snapshot) {
        place.session.follow(&current, opening.snapshot);
    }
    // Nor was it among those of an endpoint that was drained meanwhile.
    if let Some(until) = opening.upstream.leaves_by(place.session.endpoint.address()) {
        place.session.leave(until);
    }
    let protocol = parts.headers.get(UPGRADE).cloned();
    remove_hop_by_hop(&mut parts.headers);
    // Some servers send one, which RFC 9110 8.6 forbids: HTTP/2 would hold the tunnel's bytes against it.
    parts.headers.remove(CONTENT_LENGTH);
    if opening.route.via.is_on_responses() {
        add_via(&mut parts.headers, parts.version);
    }
    opening.route.set_response_headers(&mut parts.headers);
    parts.headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    parts.headers.extend(protocol.map(|protocol| (UPGRADE, protocol)));
    forward::own_version(&mut parts);
    let settings = Arc::clone(&opening.route.tunnel);
    let slot = Arc::clone(&opening.inbound.connection.slot);
    let held = Held { lease, taken, place, permit: opening.permit, slot };
    let engine = opening.proxy.engine.clone();
    tokio::spawn(switch(opening.client, upstream, settings, framing, engine, held, guard));
    Response::from_parts(parts, full(Bytes::new()))
}

fn framing(wish: &Wish, answer: &HeaderMap) -> Framing {
    match (wish, handshake::extensions(answer)) {
        (Wish::Other(_), _) => Framing::Blind(Blind::Protocol),
        (_, Extensions::None) => Framing::WebSocket { deflate: false },
        (_, Extensions::Deflate) => Framing::WebSocket { deflate: true },
        (_, Extensions::Unknown) => Framing::Blind(Blind::Extension),
    }
}

fn text_of<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Takes both connections out of HTTP and starts the tunnel, which holds nothing of the opening any
/// more: on a thread of the engine, or where a socket is shared with others, as by HTTP/2, in a task of
/// its own.
async fn switch(
    client: Upgrade,
    upstream: OnUpgrade,
    settings: Arc<Settings>,
    framing: Framing,
    engine: Option<Arc<Engine>>,
    held: Held,
    guard: Guard,
) {
    let answered = Instant::now();
    let unopened = |held, guard: Guard, who, reason: &str| {
        let ending = Ending { reason: reason.into(), ..Ending::new(who, Why::Eof) };
        let ending = guard.failed_upload().unwrap_or(ending);
        let (traffic, idle) = (PerSide::default(), PerSide::default());
        let outcome =
            Outcome { ending, traffic, duration: answered.elapsed(), idle, blind: None, ended: None };
        End::new(held, guard).finish(outcome);
    };
    let Some((stream, ahead)) = client.into_stream().await else {
        return unopened(held, guard, Who::Client, "client left before the tunnel opened");
    };
    let client = Opened { stream, ahead };
    let Some(upstream) = upstream.await.ok().and_then(opened) else {
        return unopened(held, guard, Who::Upstream, "upstream left before the tunnel opened");
    };
    let control = Arc::clone(&held.place.session.control);
    let mut streams = PerSide { client, upstream };
    let can_leave = streams.client.stream.can_leave() && streams.upstream.stream.can_leave();
    let Some(engine) = engine.filter(|_| can_leave) else {
        let pump = run(streams, settings, framing, control);
        tokio::spawn(Tunnel { pump, end: Some(Box::new(End::new(held, guard))) });
        return;
    };
    match leave(streams) {
        Ok(streams) => {
            let end = End::new(held, guard);
            let knock = engine.run(streams, settings, framing, control, end);
            // All that open in this turn of the runtime wake the thread once: on the same processor, each
            // time is a change from the one to the other and back.
            yield_now().await;
            drop(knock);
        }
        Err(error) => {
            tracing::error!(%error, "cannot take a tunnel's sockets out of the runtime: it ends");
            unopened(held, guard, Who::Proxy, "sockets could not be taken over");
        }
    }
}

fn leave(streams: PerSide<Opened<Stream>>) -> io::Result<PerSide<Opened<Wire>>> {
    let leave = |Opened::<Stream> { stream, ahead }| stream.try_into().map(|stream| Opened { stream, ahead });
    Ok(PerSide { client: leave(streams.client)?, upstream: leave(streams.upstream)? })
}

/// The stream of an upstream's connection, and what was read from it ahead. The bytes are copied: to
/// keep hyper's would keep its whole buffer.
fn opened(upgraded: Upgraded) -> Option<Opened<Stream>> {
    let parts = upgraded.downcast::<TokioIo<Stream>>().ok()?;
    Some(Opened { stream: parts.io.into_inner(), ahead: parts.read_buf.to_vec() })
}

/// What is free again when a tunnel ends.
struct Held {
    lease: Lease,
    taken: Taken,
    place: Place,
    permit: Permit,
    /// The place of the client's connection.
    slot: Arc<Slot>,
}

impl Held {
    /// Frees all but the place of the client's connection, which is free when the end is written.
    fn release(self, outcome: &Outcome) -> (Report, Arc<Slot>) {
        let Self { mut lease, taken, place, permit, slot } = self;
        let report = place.session.report.clone();
        lease.ended(outcome, || witness(&report));
        drop((lease, taken, place, permit));
        (report, slot)
    }
}

/// What is to be done when a tunnel ends, and held until then: every tunnel keeps one. Whoever has it
/// calls [`End::finish`].
struct End {
    held: Held,
    books: Arc<Books>,
    /// A shutdown waits for it.
    watch: Watch,
}

impl End {
    fn new(held: Held, guard: Guard) -> Self {
        let (books, watch) = guard.hand_over();
        Self { held, books, watch }
    }

    fn finish(self, outcome: Outcome) {
        let Self { held, books, watch } = self;
        // When the end is written its place is free.
        let (report, slot) = held.release(&outcome);
        books.write(Kind::Tunnel, report, outcome);
        drop((watch, slot));
    }
}

impl Observer for End {
    fn answered_badly(&self, how: BadAnswer) {
        let (report, side) = (&self.held.place.session.report, how.side);
        let key = match side {
            Side::Client => "client",
            Side::Upstream => "upstream",
        };
        tracing::warn!(
            id = %report.id,
            route = self.held.place.session.route(),
            client = %report.client(),
            endpoint = %self.held.place.session.endpoint.address(),
            "the {key} answers pings of the proxy badly ({}); its answers are not passed on. To send it none, set ping = {{ {key} = \"off\" }}",
            how.fault
        );
    }

    fn ended(self: Box<Self>, outcome: Outcome) {
        self.finish(outcome);
    }
}

/// By whom the end of a tunnel was met.
fn witness(report: &Report) -> Witness {
    Witness::new(ClientKey::from(report.client()), report.path_text())
}

/// A tunnel and its end: one small task for each connection.
struct Tunnel {
    pump: Pump<Stream>,
    end: Option<Box<End>>,
}

impl Future for Tunnel {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let polled = Pin::new(&mut self.pump).poll(cx);
        while let Some(how) = self.pump.take_bad_answer() {
            if let Some(end) = &self.end {
                end.answered_badly(how);
            }
        }
        let Poll::Ready(outcome) = polled else { return Poll::Pending };
        if let Some(end) = self.end.take() {
            end.finish(outcome);
        }
        Poll::Ready(())
    }
}

impl Drop for Tunnel {
    /// A task that is dropped before its end is a defect; its report says so.
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            end.finish(self.pump.outcome());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::session::Sessions;
    use super::*;
    use crate::addr::ClientAddr;
    use crate::drain;
    use crate::limit::Limits;
    use crate::limit::connections::Connections;
    use crate::slots::Slots;
    use crate::telemetry::access_log::AccessLog;
    use crate::telemetry::metrics::Metrics;
    use crate::telemetry::report::Asked;
    use crate::telemetry::{AccessTarget, Facility, Format, Settings as LogSettings};
    use crate::upstream::tests::{server, upstream};
    use std::thread;
    use std::time::Duration;
    use tracing::level_filters::LevelFilter;

    #[test]
    fn the_end_of_a_tunnel_is_small() {
        // Each idle tunnel keeps one.
        assert!(size_of::<End>() <= 120, "{}", size_of::<End>());
    }

    fn books(metrics: &Arc<Metrics>) -> Arc<Books> {
        let (level, format, access) = (LevelFilter::INFO, Format::Text, AccessTarget::Off);
        let settings = LogSettings { level, format, access, facility: Facility(23), sample_above: None };
        Arc::new(Books::new(Arc::new(AccessLog::open(&settings).unwrap()), Arc::clone(metrics)))
    }

    /// Whoever reads of an end may count on the limits, the endpoint and the table of tunnels having room. The
    /// client's connection is still open then: its descriptor is taken until the end is written.
    #[tokio::test]
    async fn an_end_is_written_between_what_it_frees_and_the_place_of_the_connection() {
        let (upstream, slots) = (upstream(vec![server(1)]), Slots::new(1, ""));
        let (sessions, connections) = (Arc::new(Sessions::default()), Arc::new(Connections::default()));
        let metrics = Arc::new(Metrics::default());
        let client = ClientAddr::Tcp("192.0.2.1:5000".parse().unwrap());
        let (method, host, target) = ("GET", &b"x"[..], &b"/"[..]);
        let asked = Asked { client, proxied_by: None, method, host, target, tls: None };
        let lease = upstream.pick(None, &[]).unwrap();
        let endpoint = Arc::clone(lease.endpoint());
        let session = Session {
            report: Report::new(sessions.next_id(), SystemTime::now(), &asked),
            endpoint: Arc::clone(&endpoint),
            opened: SystemTime::now().into(),
            control: Arc::new(Control::new(Counters::default())),
        };
        let held = Held {
            lease,
            taken: Taken::default(),
            place: sessions.add(session),
            permit: connections.admit(client.into(), &Limits::default()).unwrap(),
            slot: Arc::new(slots.take().await),
        };
        let (_trigger, watch) = drain::channel();
        let end = End { held, books: books(&metrics), watch };
        let (traffic, idle) = (PerSide::default(), PerSide::default());
        let ending = Ending::new(Who::Client, Why::Eof);
        let duration = Duration::from_secs(1);
        let outcome = Outcome { ending, traffic, duration, idle, blind: None, ended: None };
        let left = || (endpoint.active(), sessions.count(), connections.total());
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
