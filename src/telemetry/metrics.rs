//! Owns what is counted at the opening and the end of connections, and what else happens seldom. What
//! live tunnels count they count themselves; it comes in when somebody looks.

mod encode;
mod families;
mod read;

pub use super::cause::{Cause, Code};
pub use encode::Format;
pub use families::{EndpointState, Live, STANDINGS};

use super::bursts::{Burst, Bursts};
use super::history::History;
use super::recent::{End, Packed, Recent};
use super::report::Report;
use super::tally::{
    DURATION_EDGES, HANDSHAKE_EDGES, Histogram, LIMITS, RoundTrips, SILENCE_EDGES, TRIES_EDGES, limit_of,
};
use crate::outcome::{Outcome, PerSide, Side, Why};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// What the process has counted.
#[derive(Debug)]
pub struct Metrics {
    started: SystemTime,
    since: Instant,
    round_trips: Arc<RoundTrips>,
    draining: AtomicBool,
    room: AtomicUsize,
    /// A burst of ends began.
    burst: Arc<Notify>,
    tallies: Mutex<Tallies>,
}

#[derive(Debug)]
struct Tallies {
    routes: HashMap<Arc<str>, Route>,
    /// Ends on routes that are gone.
    past_ends: HashMap<Cause, u64>,
    /// From the beginning of a connect to the end of its handshake, by upstream.
    connects: HashMap<Arc<str>, Histogram>,
    silence: PerSide<Histogram>,
    /// Ends after a silence that a known idle limit would explain, by that limit in seconds.
    at_limits: PerSide<BTreeMap<u32, u64>>,
    tls_handshakes: Histogram,
    tls_failures: u64,
    reloads: Reloads,
    certificates: Vec<Certificate>,
    history: History,
    bursts: Bursts,
    recent: Recent,
}

/// What is counted of one route.
#[derive(Debug)]
struct Route {
    ends: HashMap<Cause, u64>,
    durations: Histogram,
    openings: HashMap<u16, u64>,
    opening_times: Histogram,
    tries: Histogram,
    refusals: HashMap<&'static str, u64>,
    requests: HashMap<u16, u64>,
}

/// What may happen on a route. It is counted from 0 on: Prometheus computes no rate, and sees no rise, where a
/// series begins with the first event.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// How its tunnels may end.
    pub ends: Vec<Cause>,
    /// The statuses that may answer its openings.
    pub openings: Vec<u16>,
    /// The limits that may refuse its openings.
    pub refusals: Vec<&'static str>,
    /// The statuses that may answer its plain requests.
    pub requests: Vec<u16>,
}

/// How reloads went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloads {
    /// Those that were taken over.
    pub succeeded: u64,
    /// Those that were not.
    pub failed: u64,
    /// When the configuration in force was loaded last, at the start or by a reload.
    pub last_success: Option<SystemTime>,
    /// Why the last one was not taken over; `None`: it was.
    pub last_error: Option<String>,
}

/// A certificate that a listener shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Its listener's address.
    pub listen: String,
    /// Its file.
    pub path: String,
    /// Valid until.
    pub not_after: SystemTime,
}

/// What a report is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A plain HTTP request.
    Http,
    /// What never became a request.
    Unasked,
    /// A request for a tunnel that came to nothing.
    Opening,
    /// A tunnel.
    Tunnel,
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
            room: AtomicUsize::default(),
            burst: Arc::default(),
            tallies: Mutex::new(tallies),
        }
    }
}

// What happens.
impl Metrics {
    /// A tunnel opened, `took` after its request had come.
    pub fn opened(&self, report: &Report, took: Duration) {
        let at = self.since.elapsed();
        let mut tallies = self.lock();
        tallies.route(report.route()).count_opening(report, took);
        tallies.history.opened(at);
    }

    /// Something ended, and is reported.
    pub fn ended(&self, kind: Kind, end: &End) {
        let at = self.since.elapsed();
        let (report, outcome) = &**end;
        let is_kept = matches!(kind, Kind::Opening | Kind::Tunnel);
        let kept = is_kept.then(|| Packed::of(end));
        let mut tallies = self.lock();
        let route = tallies.route(report.route());
        match kind {
            Kind::Http | Kind::Unasked => return *route.requests.entry(report.status).or_default() += 1,
            Kind::Opening => route.count_opening(report, outcome.duration),
            Kind::Tunnel => {
                route.count_end(outcome);
                tallies.count_silence(outcome);
                tallies.history.ended(at, Cause::from(&outcome.ending));
                if tallies.is_burst(at, report, outcome) {
                    self.burst.notify_one();
                }
            }
        }
        kept.into_iter().for_each(|end| tallies.recent.add(end));
    }

    /// An opening of this route was refused by the limit of that name.
    pub fn refused(&self, route: &Arc<str>, limit: &'static str) {
        *self.lock().route(Some(route)).refusals.entry(limit).or_default() += 1;
    }

    /// A connection to an endpoint of this upstream was made.
    pub fn connected(&self, upstream: &Arc<str>, took: Duration) {
        let mut tallies = self.lock();
        let connects = entry(&mut tallies.connects, upstream, || Histogram::new(&HANDSHAKE_EDGES));
        connects.add(took.as_secs_f64());
    }

    /// A client's TLS handshake came to its end.
    pub fn tls_handshake(&self, took: Duration) {
        self.lock().tls_handshakes.add(took.as_secs_f64());
    }

    /// A client's TLS handshake failed.
    pub fn tls_failed(&self) {
        self.lock().tls_failures += 1;
    }

    /// The configuration was loaded anew, or was not for the reason given.
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

    /// The certificates in use from now on.
    pub fn set_certificates(&self, certificates: Vec<Certificate>) {
        self.lock().certificates = certificates;
    }

    /// How many client connections there is room for.
    pub fn set_room(&self, connections: usize) {
        self.room.store(connections, Ordering::Relaxed);
    }

    /// The proxy stops.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// This route exists from now on; the empty name is that of requests which no route serves.
    pub fn expect_route(&self, name: &Arc<str>, expected: &Expected) {
        let mut tallies = self.lock();
        let route = tallies.route(Some(name));
        expected.ends.iter().for_each(|cause| _ = route.ends.entry(*cause).or_default());
        expected.openings.iter().for_each(|status| _ = route.openings.entry(*status).or_default());
        expected.refusals.iter().for_each(|limit| _ = route.refusals.entry(limit).or_default());
        expected.requests.iter().for_each(|status| _ = route.requests.entry(*status).or_default());
    }

    /// This upstream exists from now on.
    pub fn expect_upstream(&self, name: &Arc<str>) {
        entry(&mut self.lock().connects, name, || Histogram::new(&HANDSHAKE_EDGES));
    }

    /// Forgets routes and upstreams that are not `known` any more, or reloads could fill the memory
    /// with their names. Call it when the tunnels of such a route have ended.
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
    /// Of requests that no route serves, the name is empty.
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

    /// Whether a burst begins with this end, which nobody wanted.
    fn is_burst(&mut self, at: Duration, report: &Report, outcome: &Outcome) -> bool {
        let (ending, open) = (&outcome.ending, self.history.open());
        let endpoint = report.endpoint.as_ref().filter(|_| ending.why.is_abnormal());
        endpoint.is_some_and(|endpoint| self.bursts.add(at, endpoint, ending.who, ending.why, open))
    }

    /// What was closed with words or by an order says nothing of an idle limit.
    fn count_silence(&mut self, outcome: &Outcome) {
        if outcome.ending.why.is_abnormal() {
            for side in Side::BOTH {
                self.silence[side].add(outcome.idle[side].as_secs_f64());
            }
        }
        // Those that the proxy found out by itself are its own limits'.
        if matches!(outcome.ending.why, Why::Eof | Why::Reset | Why::TcpTimeout) {
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
        *self.ends.entry(Cause::from(&outcome.ending)).or_default() += 1;
        self.durations.add(outcome.duration.as_secs_f64());
    }
}

impl Drop for Metrics {
    /// Whoever waits for bursts waits no longer.
    fn drop(&mut self) {
        self.burst.notify_one();
    }
}

/// Writes each burst of ends to the log when it is over, for as long as there is something that counts.
pub async fn tell_bursts(metrics: Weak<Metrics>) {
    let Some(begun) = metrics.upgrade().map(|metrics| Arc::clone(&metrics.burst)) else { return };
    loop {
        begun.notified().await;
        loop {
            let Some(due) = metrics.upgrade().map(|metrics| metrics.next_burst()) else { return };
            let Some(due) = due else { break };
            sleep_until(due).await;
            let over = metrics.upgrade().map(|metrics| metrics.bursts_over()).unwrap_or_default();
            for burst in over {
                let Burst { tunnels, endpoint, who, why, .. } = &burst;
                tracing::warn!(tunnels, %endpoint, %who, %why, "{burst}");
            }
        }
    }
}

/// The value of a name, which is copied only where it is new.
fn entry<'a, T>(map: &'a mut HashMap<Arc<str>, T>, name: &Arc<str>, new: impl FnOnce() -> T) -> &'a mut T {
    if !map.contains_key(name) {
        map.insert(Arc::clone(name), new());
    }
    map.get_mut(name).expect("it was just inserted where it was not")
}
