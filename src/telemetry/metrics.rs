//! Owns what is counted at the opening and the end of connections, and what else happens seldom. What
//! live tunnels count they count themselves; it comes in when somebody looks.

mod encode;
mod families;

pub use super::cause::{Cause, Code};
pub use encode::Format;
pub use families::{EndpointState, Live, STANDINGS};

use super::history::{History, Step};
use super::process::Process;
use super::recent::{End, Recent};
use super::report::Report;
use super::tally::{
    DURATION_EDGES, HANDSHAKE_EDGES, Histogram, LIMITS, RoundTrips, SILENCE_EDGES, TRIES_EDGES, limit_of,
};
use crate::outcome::{Outcome, PerSide, Side, Why};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// What the process has counted.
#[derive(Debug)]
pub struct Metrics {
    started: SystemTime,
    since: Instant,
    round_trips: Arc<RoundTrips>,
    draining: AtomicBool,
    room: AtomicUsize,
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
            recent: Recent::default(),
        };
        Self {
            started,
            since: Instant::now(),
            round_trips: Arc::default(),
            draining: AtomicBool::default(),
            room: AtomicUsize::default(),
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
    pub fn ended(&self, kind: Kind, end: End) {
        let at = self.since.elapsed();
        let mut tallies = self.lock();
        let (report, outcome) = &*end;
        let route = tallies.route(report.route());
        match kind {
            Kind::Http | Kind::Unasked => return *route.requests.entry(report.status).or_default() += 1,
            Kind::Opening => route.count_opening(report, outcome.duration),
            Kind::Tunnel => {
                route.count_end(outcome);
                tallies.count_silence(outcome);
                tallies.history.ended(at, Cause::from(&outcome.ending));
            }
        }
        tallies.recent.add(end);
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

// What can be asked.
impl Metrics {
    /// When the counting began.
    #[must_use]
    pub fn started(&self) -> SystemTime {
        self.started
    }

    /// How long ago that was.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.since.elapsed()
    }

    /// Where tunnels count their round-trip times.
    #[must_use]
    pub fn round_trips(&self) -> &Arc<RoundTrips> {
        &self.round_trips
    }

    /// How tunnels ended since the start, the most frequent first.
    #[must_use]
    pub fn ends(&self) -> Vec<(Cause, u64)> {
        let tallies = self.lock();
        let mut sums = tallies.past_ends.clone();
        for (cause, count) in tallies.routes.values().flat_map(|route| &route.ends) {
            *sums.entry(*cause).or_default() += count;
        }
        let mut ends: Vec<_> = sums.into_iter().filter(|(_, count)| *count > 0).collect();
        ends.sort_by_key(|&(cause, count)| (std::cmp::Reverse(count), cause));
        ends
    }

    /// How tunnels ended within the last `span`.
    #[must_use]
    pub fn ends_lately(&self, span: Duration) -> BTreeMap<Cause, u64> {
        self.lock().history.lately(self.since.elapsed(), span)
    }

    /// How many tunnels of each route have ended.
    #[must_use]
    pub fn ended_by_route(&self) -> HashMap<Arc<str>, u64> {
        let tallies = self.lock();
        let sum = |(name, route): (&Arc<str>, &Route)| (Arc::clone(name), route.ends.values().sum());
        tallies.routes.iter().map(sum).collect()
    }

    /// How long each side had been silent when a tunnel ended without a Close and not by an order.
    #[must_use]
    pub fn silence(&self) -> PerSide<Histogram> {
        self.lock().silence.clone()
    }

    /// How reloads went.
    #[must_use]
    pub fn reloads(&self) -> Reloads {
        self.lock().reloads.clone()
    }

    /// The last hour, the oldest step first, and when the last step ended.
    #[must_use]
    pub fn history(&self) -> (Vec<Step>, SystemTime) {
        let (steps, until) = self.lock().history.steps(self.since.elapsed());
        (steps, self.started + until)
    }

    /// The last ends of tunnels and of openings that came to nothing, the newest first; and how many
    /// there ever were.
    #[must_use]
    pub fn recent(&self, most: usize) -> (Vec<End>, u64) {
        let tallies = self.lock();
        (tallies.recent.newest(most), tallies.recent.count())
    }

    /// How many client connections there is room for.
    #[must_use]
    pub fn room(&self) -> usize {
        self.room.load(Ordering::Relaxed)
    }

    /// All of it and what is live, as text.
    #[must_use]
    pub fn encode(&self, live: &Live, format: Format) -> String {
        encode::encode(families::families(self, live, &Process::now()), format)
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

/// The value of a name, which is copied only where it is new.
fn entry<'a, T>(map: &'a mut HashMap<Arc<str>, T>, name: &Arc<str>, new: impl FnOnce() -> T) -> &'a mut T {
    if !map.contains_key(name) {
        map.insert(Arc::clone(name), new());
    }
    map.get_mut(name).expect("it was just inserted where it was not")
}
