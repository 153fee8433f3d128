//! Owns the counts of rare events, such as the start and end of connections. Live tunnels keep their own
//! counts, which a scrape collects.

mod encode;
mod families;
mod last_hour;
mod read;
mod tallies;

pub use super::end_key::Code;
pub(crate) use super::end_key::EndKey;
pub use encode::Format;
pub(crate) use families::{EndpointState, Live};

use super::bursts::Burst;
use super::idle_limits::{LIMITS, limit_of};
use super::recent::{Packed, Recent};
use super::report::{Ended, Kind, Report, RouteNames};
use super::tally::{
    Counts, HANDSHAKE_EDGES, RoundTrips, RouteCounters, RouteMetrics, SILENCE_EDGES, SharedHistogram,
};
use crate::outcome::{Cause, Outcome, PerSide, Side};
use last_hour::LastHour;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard, Weak};
use std::time::{Duration, SystemTime};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// The metrics of the process. Counting a handshake never waits for a reader.
#[derive(Debug)]
pub struct Metrics {
    started: SystemTime,
    since: Instant,
    round_trips: Arc<RoundTrips>,
    draining: AtomicBool,
    connection_capacity: AtomicUsize,
    /// Notified when a burst of ends begins.
    burst: Arc<Notify>,
    /// Requests look here only if their snapshot is not [expected](Self::expect_route) yet.
    routes: RwLock<Routes>,
    /// The counters of requests that no route serves.
    nowhere: RouteCounters,
    silence: PerSide<SharedHistogram>,
    /// Ends after a silence that a known idle limit explains, by that limit in seconds.
    at_limits: PerSide<Counts<u32>>,
    tls_handshakes: SharedHistogram,
    tls_failures: AtomicU64,
    last_hour: LastHour,
    recent: Mutex<Recent>,
    reloads: Mutex<Reloads>,
    certificates: Mutex<Vec<Certificate>>,
}

/// Counters by name.
#[derive(Debug, Default)]
struct Routes {
    known: HashMap<Arc<str>, Arc<RouteMetrics>>,
    /// Durations of connects including TLS handshakes, by upstream.
    connects: HashMap<Arc<str>, Arc<SharedHistogram>>,
    /// Routes that no longer exist, as long as a request or one of the recent ends names them. Requests of an
    /// earlier snapshot may still be counted there.
    past: Vec<Arc<RouteMetrics>>,
    /// Ends of past routes.
    past_ends: HashMap<EndKey, u64>,
}

/// The series that a route may need. They start at 0, because Prometheus sees no rise if a series begins with
/// its first event.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// How its tunnels may end.
    pub ends: Vec<EndKey>,
    /// The statuses that may answer its WebSocket handshakes.
    pub handshakes: Vec<u16>,
    /// The limits that may refuse its WebSocket handshakes.
    pub refusals: Vec<&'static str>,
    /// The statuses that may answer its plain requests.
    pub requests: Vec<u16>,
}

/// The results of reloads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloads {
    /// Successful reloads.
    pub succeeded: u64,
    /// Failed reloads.
    pub failed: u64,
    /// When the current configuration was loaded, at the start or by a reload.
    pub last_success: Option<SystemTime>,
    /// Why the last reload failed. `None` means that it did not fail.
    pub last_error: Option<String>,
}

/// A certificate that a listener presents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Its listener's address.
    pub listen: String,
    /// Its file.
    pub path: String,
    /// Valid until.
    pub not_after: SystemTime,
}

impl Default for Metrics {
    fn default() -> Self {
        let started = SystemTime::now();
        let reloads = Reloads { last_success: Some(started), ..Reloads::default() };
        let silence = || SharedHistogram::new(&SILENCE_EDGES);
        let at_limits = PerSide::<Counts<u32>>::default();
        for side in Side::BOTH {
            at_limits[side].expect(LIMITS.iter().map(|(seconds, _)| *seconds));
        }
        Self {
            started,
            since: Instant::now(),
            round_trips: Arc::default(),
            draining: AtomicBool::default(),
            connection_capacity: AtomicUsize::default(),
            burst: Arc::default(),
            routes: RwLock::default(),
            nowhere: RouteCounters { route: Arc::default(), connects: None },
            silence: PerSide { client: silence(), upstream: silence() },
            at_limits,
            tls_handshakes: SharedHistogram::new(&HANDSHAKE_EDGES),
            tls_failures: AtomicU64::default(),
            last_hour: LastHour::default(),
            recent: Mutex::default(),
            reloads: Mutex::new(reloads),
            certificates: Mutex::default(),
        }
    }
}

// Recording events.
impl Metrics {
    /// Records that a tunnel opened, `took` after its request arrived.
    pub fn opened(&self, report: &Report, took: Duration) {
        self.counters(report.names.as_deref()).route.count_handshake(report.status, report.tries, took);
        self.last_hour.opened(self.since.elapsed());
    }

    /// Records the end of a connection or request.
    pub fn ended(&self, kind: Kind, end: &Ended) {
        let Ended { report, outcome } = end;
        let route = &self.counters(report.names.as_deref()).route;
        match kind {
            Kind::Http | Kind::NoRequest => return route.requests.add(report.status),
            Kind::Upgrade => route.count_handshake(report.status, report.tries, outcome.duration),
            Kind::Tunnel => {
                route.count_end(outcome);
                self.count_silence(outcome);
                if self.last_hour.ended(self.since.elapsed(), report, outcome) {
                    self.burst.notify_one();
                }
            }
        }
        let packed = Packed::of(end);
        lock(&self.recent).add(packed);
    }

    /// Records that a limit refused a WebSocket handshake on this route.
    pub fn refused(&self, route: &RouteNames, limit: &'static str) {
        self.counters(Some(route)).route.refusals.add(limit);
    }

    /// Records a new connection to an endpoint of this route's upstream.
    pub fn connected(&self, route: &RouteNames, took: Duration) {
        if let Some(connects) = &self.counters(Some(route)).connects {
            connects.add(took.as_secs_f64());
        }
    }

    /// Records a completed TLS handshake with a client.
    pub fn tls_handshake(&self, took: Duration) {
        self.tls_handshakes.add(took.as_secs_f64());
    }

    /// Records a failed TLS handshake with a client.
    pub fn tls_failed(&self) {
        self.tls_failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Records a reload, or why it failed.
    pub fn reloaded(&self, result: Result<(), String>) {
        let mut reloads = lock(&self.reloads);
        match result {
            Ok(()) => {
                reloads.succeeded += 1;
                reloads.last_success = Some(SystemTime::now());
                reloads.last_error = None;
            }
            Err(reason) => {
                reloads.failed += 1;
                reloads.last_error = Some(reason);
            }
        }
    }

    /// Sets the certificates in use.
    pub fn set_certificates(&self, certificates: Vec<Certificate>) {
        *lock(&self.certificates) = certificates;
    }

    /// Sets the capacity for client connections.
    pub fn set_connection_capacity(&self, connections: usize) {
        self.connection_capacity.store(connections, Ordering::Relaxed);
    }

    /// Records that the proxy shuts down.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }
}

// Which series there are.
impl Metrics {
    /// Starts the series of a route. `None` stands for requests that no route serves.
    pub fn expect_route(&self, names: Option<&RouteNames>, expected: &Expected) {
        let route = &self.counters(names).route;
        route.ends.expect(expected.ends.iter().copied());
        route.handshakes.expect(expected.handshakes.iter().copied());
        route.refusals.expect(expected.refusals.iter().copied());
        route.requests.expect(expected.requests.iter().copied());
    }

    /// Starts the series of an upstream.
    pub fn expect_upstream(&self, name: &Arc<str>) {
        self.routes_mut().connects_to(name);
    }

    /// Forgets routes and upstreams that are not known any more. Otherwise reloads could fill the memory with
    /// their names. Call it when the tunnels of such a route have ended.
    pub fn retain(&self, known_route: impl Fn(&str) -> bool, known_upstream: impl Fn(&str) -> bool) {
        let mut routes = self.routes_mut();
        let gone = routes.known.extract_if(|name, _| !known_route(name));
        let gone: Vec<_> = gone.map(|(_, route)| route).collect();
        routes.past.extend(gone);
        routes.fold_past();
        routes.connects.retain(|name, _| known_upstream(name));
    }
}

impl Metrics {
    /// No end is counted whole as long as this is held.
    #[cfg(test)]
    pub(crate) fn hold(&self) -> impl Sized + '_ {
        lock(&self.recent)
    }

    /// Returns the counters of a route. It looks them up the first time only.
    fn counters<'a>(&'a self, names: Option<&'a RouteNames>) -> &'a RouteCounters {
        let find = |names: &RouteNames| {
            let mut routes = self.routes_mut();
            let connects = names.upstream.as_ref().map(|name| routes.connects_to(name));
            RouteCounters { route: routes.known(&names.route), connects }
        };
        names.map_or(&self.nowhere, |names| names.counters(|| find(names)))
    }

    fn routes_mut(&self) -> RwLockWriteGuard<'_, Routes> {
        self.routes.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// A closing handshake or an operator's action is no sign of an idle limit.
    fn count_silence(&self, outcome: &Outcome) {
        for side in Side::BOTH {
            if outcome.ending.cause.is_abnormal() {
                self.silence[side].add(outcome.idle[side].as_secs_f64());
            }
            // Ends that the proxy detected itself come from its own limits.
            if matches!(outcome.ending.cause, Cause::Eof | Cause::Reset | Cause::TcpTimeout)
                && let Some(limit) = limit_of(outcome.idle[side])
            {
                self.at_limits[side].add(limit);
            }
        }
    }
}

impl Routes {
    fn known(&mut self, name: &Arc<str>) -> Arc<RouteMetrics> {
        Arc::clone(self.known.entry(Arc::clone(name)).or_default())
    }

    fn connects_to(&mut self, upstream: &Arc<str>) -> Arc<SharedHistogram> {
        let new = || Arc::new(SharedHistogram::new(&HANDSHAKE_EDGES));
        Arc::clone(self.connects.entry(Arc::clone(upstream)).or_insert_with(new))
    }

    /// Keeps the ends of past routes, and forgets the routes where nobody can count any more.
    fn fold_past(&mut self) {
        self.past.retain(|route| {
            let stays = Arc::strong_count(route) > 1;
            for (key, count) in route.ends.take() {
                *self.past_ends.entry(key).or_default() += count;
            }
            stays
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Metrics {
    /// Wakes the task that waits for bursts, so that it ends.
    fn drop(&mut self) {
        self.burst.notify_one();
    }
}

/// Logs each burst of ends when it is over, as long as the metrics exist.
pub(crate) async fn log_bursts(metrics: Weak<Metrics>) {
    let Some(begun) = metrics.upgrade().map(|metrics| Arc::clone(&metrics.burst)) else { return };
    loop {
        begun.notified().await;
        loop {
            let Some(due) = metrics.upgrade().map(|metrics| metrics.next_burst()) else { return };
            let Some(due) = due else { break };
            sleep_until(due).await;
            let over = metrics.upgrade().map(|metrics| metrics.bursts_over()).unwrap_or_default();
            for burst in over {
                let Burst { tunnels, endpoint, ended_by, cause, .. } = &burst;
                tracing::warn!(tunnels, %endpoint, %ended_by, %cause, "{burst}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::ClientAddr;
    use crate::outcome::{EndedBy, Ending};
    use crate::telemetry::report::{ConnectionId, RequestInfo};
    use std::sync::mpsc;
    use std::thread;

    fn report(names: &Arc<RouteNames>) -> Report {
        let (client, target) = (ClientAddr::Unix, &b"/"[..]);
        let info = RequestInfo { client, proxied_by: None, method: "GET", host: b"x", target, tls: None };
        let mut report = Report::new(ConnectionId(1), SystemTime::now(), &info);
        report.names = Some(Arc::clone(names));
        report.status = 101;
        report
    }

    fn end(metrics: &Metrics, names: &Arc<RouteNames>) {
        let (traffic, idle) = (PerSide::default(), PerSide::default());
        let ending = Ending::new(EndedBy::Client, Cause::Eof);
        let outcome = Outcome { ending, traffic, duration: Duration::ZERO, idle, blind: None, ended: None };
        metrics.ended(Kind::Tunnel, &Ended { report: report(names), outcome });
    }

    fn names(route: &str) -> Arc<RouteNames> {
        Arc::new(RouteNames::new(route.into(), Some("up".into())))
    }

    #[test]
    fn counts_are_exact_while_threads_count_and_scrape() {
        const EACH: u64 = 2_000;
        let (metrics, routes) = (Metrics::default(), ["a", "b"].map(names));
        thread::scope(|scope| {
            let counting: Vec<_> = (0..4)
                .map(|thread| {
                    let (metrics, names) = (&metrics, &routes[thread % 2]);
                    scope.spawn(move || {
                        for _ in 0..EACH {
                            metrics.opened(&report(names), Duration::ZERO);
                            metrics.refused(names, "rate");
                            metrics.connected(names, Duration::ZERO);
                            end(metrics, names);
                        }
                    })
                })
                .collect();
            while counting.iter().any(|thread| !thread.is_finished()) {
                let _ = metrics.encode(&Live::default(), Format::Prometheus);
                metrics.retain(|_| true, |_| true);
                let _ = metrics.history();
            }
        });
        let text = metrics.encode(&Live::default(), Format::Prometheus);
        for series in [
            "websocket_openings_total{route=\"a\",status=\"101\"} 4000.0",
            "websocket_ends_total{cause=\"eof\",code=\"none\",ended_by=\"client\",route=\"b\"} 4000.0",
            "holdline_refusals_total{limit=\"rate\",route=\"a\"} 4000.0",
            "holdline_upstream_connect_duration_seconds_count{upstream=\"up\"} 8000",
            "websocket_connection_duration_seconds_count{route=\"b\"} 4000",
        ] {
            assert!(text.lines().any(|line| line == series), "{series}\n{text}");
        }
        assert_eq!(metrics.ends().iter().map(|(_, count)| count).sum::<u64>(), 4 * EACH);
        assert_eq!(metrics.recent(1).1, 4 * EACH);
    }

    #[test]
    fn counting_a_handshake_waits_for_no_reader() {
        let (metrics, names) = (Arc::new(Metrics::default()), names("a"));
        metrics.expect_route(Some(&names), &Expected { handshakes: vec![101], ..Expected::default() });
        let held = (metrics.routes_mut(), lock(&metrics.recent), lock(&metrics.reloads));
        let (sender, counted) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                metrics.connected(&names, Duration::ZERO);
                metrics.opened(&report(&names), Duration::ZERO);
                sender.send(()).unwrap();
            });
            let result = counted.recv_timeout(Duration::from_secs(20));
            drop(held);
            assert_eq!(result, Ok(()));
        });
    }

    #[test]
    fn ends_of_a_route_that_is_gone_stay_counted() {
        let (metrics, names) = (Metrics::default(), names("gone"));
        let ends = || metrics.ends().iter().map(|(_, count)| count).sum::<u64>();
        end(&metrics, &names);
        metrics.retain(|_| false, |_| false);
        assert!(!metrics.encode(&Live::default(), Format::Prometheus).contains("gone"));
        // A request of the snapshot before.
        end(&metrics, &names);
        assert_eq!(ends(), 2);
        metrics.retain(|_| false, |_| false);
        assert_eq!(ends(), 2);
        assert_eq!(metrics.routes_mut().past[0].ends.read(), [], "they are among the past ends now");
        drop(names);
        *lock(&metrics.recent) = Recent::default();
        metrics.retain(|_| false, |_| false);
        assert_eq!((ends(), metrics.routes_mut().past.len()), (2, 0));
    }
}
