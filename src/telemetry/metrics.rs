//! Owns the counts of rare events, such as the start and end of connections. Live tunnels keep their own
//! counts, which a scrape collects.

mod encode;
mod families;
mod read;

pub use super::end_key::{Code, EndKey};
pub use encode::Format;
pub use families::{EndpointState, Live, STANDINGS};

use super::bursts::{Burst, Bursts};
use super::history::History;
use super::recent::{Packed, Recent};
use super::report::{Ended, Kind, Report};
use super::tally::{
    DURATION_EDGES, HANDSHAKE_EDGES, Histogram, LIMITS, RoundTrips, SILENCE_EDGES, TRIES_EDGES, limit_of,
};
use crate::outcome::{Cause, Outcome, PerSide, Side};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// The metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    started: SystemTime,
    since: Instant,
    round_trips: Arc<RoundTrips>,
    draining: AtomicBool,
    connection_capacity: AtomicUsize,
    /// Notified when a burst of ends begins.
    burst: Arc<Notify>,
    tallies: Mutex<Tallies>,
}

#[derive(Debug)]
struct Tallies {
    routes: HashMap<Arc<str>, Route>,
    /// Ends of routes that no longer exist.
    past_ends: HashMap<EndKey, u64>,
    /// Durations of connects including TLS handshakes, by upstream.
    connects: HashMap<Arc<str>, Histogram>,
    silence: PerSide<Histogram>,
    /// Ends after a silence that a known idle limit explains, by that limit in seconds.
    at_limits: PerSide<BTreeMap<u32, u64>>,
    tls_handshakes: Histogram,
    tls_failures: u64,
    reloads: Reloads,
    certificates: Vec<Certificate>,
    history: History,
    bursts: Bursts,
    recent: Recent,
}

/// The counts of one route.
#[derive(Debug)]
struct Route {
    ends: HashMap<EndKey, u64>,
    durations: Histogram,
    openings: HashMap<u16, u64>,
    opening_times: Histogram,
    tries: Histogram,
    refusals: HashMap<&'static str, u64>,
    requests: HashMap<u16, u64>,
}

/// The series that a route may need. They start at 0, because Prometheus sees no rise if a series begins with
/// its first event.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// How its tunnels may end.
    pub ends: Vec<EndKey>,
    /// The statuses that may answer its WebSocket handshakes.
    pub openings: Vec<u16>,
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
        let silence = || Histogram::new(&SILENCE_EDGES);
        let at_limits = || LIMITS.iter().map(|(seconds, _)| (*seconds, 0)).collect();
        let tallies = Tallies {
            routes: HashMap::new(),
            past_ends: HashMap::new(),
            connects: HashMap::new(),
            silence: PerSide { client: silence(), upstream: silence() },
            at_limits: PerSide { client: at_limits(), upstream: at_limits() },
            tls_handshakes: Histogram::new(&HANDSHAKE_EDGES),
            tls_failures: 0,
            reloads,
            certificates: Vec::new(),
            history: History::default(),
            bursts: Bursts::default(),
            recent: Recent::default(),
        };
        Self {
            started,
            since: Instant::now(),
            round_trips: Arc::default(),
            draining: AtomicBool::default(),
            connection_capacity: AtomicUsize::default(),
            burst: Arc::default(),
            tallies: Mutex::new(tallies),
        }
    }
}

// Recording events.
impl Metrics {
    /// Records that a tunnel opened, `took` after its request arrived.
    pub fn opened(&self, report: &Report, took: Duration) {
        let at = self.since.elapsed();
        let mut tallies = self.lock();
        tallies.route(report.route()).count_opening(report, took);
        tallies.history.opened(at);
    }

    /// Records the end of a connection or request.
    pub fn ended(&self, kind: Kind, end: &Ended) {
        let at = self.since.elapsed();
        let Ended { report, outcome } = end;
        let is_kept = matches!(kind, Kind::Opening | Kind::Tunnel);
        let kept = is_kept.then(|| Packed::of(end));
        let mut tallies = self.lock();
        let route = tallies.route(report.route());
        match kind {
            Kind::Http | Kind::NoRequest => return *route.requests.entry(report.status).or_default() += 1,
            Kind::Opening => route.count_opening(report, outcome.duration),
            Kind::Tunnel => {
                route.count_end(outcome);
                tallies.count_silence(outcome);
                tallies.history.ended(at, EndKey::from(&outcome.ending));
                if tallies.is_burst(at, report, outcome) {
                    self.burst.notify_one();
                }
            }
        }
        kept.into_iter().for_each(|end| tallies.recent.add(end));
    }

    /// Records that a limit refused a WebSocket handshake on this route.
    pub fn refused(&self, route: &Arc<str>, limit: &'static str) {
        *self.lock().route(Some(route)).refusals.entry(limit).or_default() += 1;
    }

    /// Records a new connection to an endpoint of this upstream.
    pub fn connected(&self, upstream: &Arc<str>, took: Duration) {
        let mut tallies = self.lock();
        let connects = entry(&mut tallies.connects, upstream, || Histogram::new(&HANDSHAKE_EDGES));
        connects.add(took.as_secs_f64());
    }

    /// Records a completed TLS handshake with a client.
    pub fn tls_handshake(&self, took: Duration) {
        self.lock().tls_handshakes.add(took.as_secs_f64());
    }

    /// Records a failed TLS handshake with a client.
    pub fn tls_failed(&self) {
        self.lock().tls_failures += 1;
    }

    /// Records a reload, or why it failed.
    pub fn reloaded(&self, result: Result<(), String>) {
        let reloads = &mut self.lock().reloads;
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
        self.lock().certificates = certificates;
    }

    /// Sets the capacity for client connections.
    pub fn set_connection_capacity(&self, connections: usize) {
        self.connection_capacity.store(connections, Ordering::Relaxed);
    }

    /// Records that the proxy shuts down.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Starts the series of a route. The empty name stands for requests that no route serves.
    pub fn expect_route(&self, name: &Arc<str>, expected: &Expected) {
        let mut tallies = self.lock();
        let route = tallies.route(Some(name));
        expected.ends.iter().for_each(|cause| _ = route.ends.entry(*cause).or_default());
        expected.openings.iter().for_each(|status| _ = route.openings.entry(*status).or_default());
        expected.refusals.iter().for_each(|limit| _ = route.refusals.entry(limit).or_default());
        expected.requests.iter().for_each(|status| _ = route.requests.entry(*status).or_default());
    }

    /// Starts the series of an upstream.
    pub fn expect_upstream(&self, name: &Arc<str>) {
        entry(&mut self.lock().connects, name, || Histogram::new(&HANDSHAKE_EDGES));
    }

    /// Forgets routes and upstreams that are not known any more. Otherwise reloads could fill the memory with
    /// their names. Call it when the tunnels of such a route have ended.
    pub fn retain(&self, known_route: impl Fn(&str) -> bool, known_upstream: impl Fn(&str) -> bool) {
        let mut tallies = self.lock();
        let Tallies { routes, past_ends, .. } = &mut *tallies;
        routes.retain(|name, route| {
            let stays = name.is_empty() || known_route(name);
            if !stays {
                route.ends.iter().for_each(|(cause, count)| *past_ends.entry(*cause).or_default() += count);
            }
            stays
        });
        tallies.connects.retain(|name, _| known_upstream(name));
    }
}

impl Metrics {
    /// Nothing is counted as long as this is held.
    #[cfg(test)]
    pub(crate) fn hold(&self) -> impl Sized + '_ {
        self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Tallies> {
        self.tallies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tallies {
    /// Requests that no route serves have an empty name.
    fn route(&mut self, name: Option<&Arc<str>>) -> &mut Route {
        let nowhere = Arc::default();
        entry(&mut self.routes, name.unwrap_or(&nowhere), || Route {
            ends: HashMap::new(),
            durations: Histogram::new(&DURATION_EDGES),
            openings: HashMap::new(),
            opening_times: Histogram::new(&HANDSHAKE_EDGES),
            tries: Histogram::new(&TRIES_EDGES),
            refusals: HashMap::new(),
            requests: HashMap::new(),
        })
    }

    /// Whether a burst begins with this abnormal end.
    fn is_burst(&mut self, at: Duration, report: &Report, outcome: &Outcome) -> bool {
        let (ending, open) = (&outcome.ending, self.history.open());
        let endpoint = report.endpoint.as_ref().filter(|_| ending.cause.is_abnormal());
        endpoint.is_some_and(|endpoint| self.bursts.add(at, endpoint, ending.ended_by, ending.cause, open))
    }

    /// A closing handshake or an operator's action is no sign of an idle limit.
    fn count_silence(&mut self, outcome: &Outcome) {
        if outcome.ending.cause.is_abnormal() {
            for side in Side::BOTH {
                self.silence[side].add(outcome.idle[side].as_secs_f64());
            }
        }
        // Ends that the proxy detected itself come from its own limits.
        if matches!(outcome.ending.cause, Cause::Eof | Cause::Reset | Cause::TcpTimeout) {
            for side in Side::BOTH {
                if let Some(limit) = limit_of(outcome.idle[side]) {
                    *self.at_limits[side].entry(limit).or_default() += 1;
                }
            }
        }
    }
}

impl Route {
    fn count_opening(&mut self, report: &Report, took: Duration) {
        *self.openings.entry(report.status).or_default() += 1;
        self.opening_times.add(took.as_secs_f64());
        self.tries.add(f64::from(report.tries));
    }

    fn count_end(&mut self, outcome: &Outcome) {
        *self.ends.entry(EndKey::from(&outcome.ending)).or_default() += 1;
        self.durations.add(outcome.duration.as_secs_f64());
    }
}

impl Drop for Metrics {
    /// Wakes the task that waits for bursts, so that it ends.
    fn drop(&mut self) {
        self.burst.notify_one();
    }
}

/// Logs each burst of ends when it is over, as long as the metrics exist.
pub async fn log_bursts(metrics: Weak<Metrics>) {
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

/// Returns the value of a name. It clones the name only if it is new.
fn entry<'a, T>(map: &'a mut HashMap<Arc<str>, T>, name: &Arc<str>, new: impl FnOnce() -> T) -> &'a mut T {
    if !map.contains_key(name) {
        map.insert(Arc::clone(name), new());
    }
    map.get_mut(name).expect("it was just inserted where it was not")
}
