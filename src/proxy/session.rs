//! Owns the table of live tunnels, and the guard that makes one report of every request, whichever
//! way it goes.

use super::failure::CLIENT_LEFT;
use super::snapshot::Snapshot;
use crate::addr::ClientAddr;
use crate::drain::{Phase, Watch};
use crate::http::serve::Fate;
use crate::outcome::{Ending, Outcome, PerSide, Side, Traffic, Who, Why};
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::report::{ConnectionId, Report, redact};
use crate::tunnel::control::Control;
use crate::tunnel::counters::Counters;
use crate::upstream::Endpoint;
use http::{Method, Uri};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// One live tunnel, as the rest of the process sees it.
#[derive(Debug)]
pub struct Session {
    /// What is known of it; its end will be reported with the same.
    pub report: Arc<Report>,
    /// The endpoint it goes to.
    pub endpoint: Arc<Endpoint>,
    /// When it opened, by the wall clock.
    pub opened: SystemTime,
    /// The line to its task, with what it counts.
    pub control: Arc<Control>,
}

impl Session {
    /// The name of its route.
    #[must_use]
    pub fn route(&self) -> &str {
        self.report.route.as_deref().unwrap_or_default()
    }

    /// Takes the tunnel over into a new snapshot: it gets its route's settings, and if its
    /// endpoint is no longer wanted it closes, where that is wished.
    pub fn follow(&self, next: &Snapshot, previous: &Snapshot) {
        let name = self.route();
        let tunnel = |snapshot: &Snapshot| snapshot.route_named(name).map(|route| Arc::clone(&route.tunnel));
        match (tunnel(next), tunnel(previous)) {
            (Some(next), Some(previous)) if Arc::ptr_eq(&next, &previous) => {}
            (Some(next), _) => self.control.set_settings(next),
            (None, _) => {}
        }
        if let Some((window, why)) = farewell(&self.endpoint, next, previous) {
            self.control.close(random_moment(Instant::now() + window), why);
        }
    }
}

/// What the tunnels of a route have counted, and how many there are and were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Those that are open.
    pub live: u64,
    /// Those that ever opened.
    pub opened: u64,
    /// What each side of them sent, and how it answered Pings; without times.
    pub traffic: PerSide<Sums>,
}

/// What one side of many tunnels sent, and how it answered Pings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Bytes received.
    pub bytes: u64,
    /// Messages received whole.
    pub messages: u64,
    /// Pings that the proxy sent.
    pub pings: u64,
    /// How many of them were answered.
    pub pongs: u64,
}

impl Totals {
    fn add(&mut self, counters: &Counters) {
        for side in Side::BOTH {
            let Traffic { bytes, messages, pings, pongs, .. } = counters.traffic(side);
            let sums = &mut self.traffic[side];
            sums.bytes += bytes;
            sums.messages += messages;
            sums.pings += u64::from(pings);
            sums.pongs += u64::from(pongs);
        }
    }
}

/// All live tunnels.
#[derive(Debug)]
pub struct Sessions {
    next: AtomicU64,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    live: HashMap<ConnectionId, Arc<Session>>,
    /// What was counted of each route's tunnels that are not live any more, and how many are.
    totals: HashMap<Arc<str>, Totals>,
    /// Set when the proxy shuts down: tunnels that open yet are closed by then as well.
    closing_until: Option<Instant>,
}

impl Default for Sessions {
    fn default() -> Self {
        // Ids of this run begin where those of the last are not likely to have been.
        let start = u64::from(rand::random::<u32>()) << 32;
        Self { next: AtomicU64::new(start), table: Mutex::default() }
    }
}

impl Sessions {
    /// An id that was not given before.
    #[must_use]
    pub fn next_id(&self) -> ConnectionId {
        ConnectionId(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Adds a tunnel; it stays in the table as long as the place lives.
    #[must_use]
    pub fn add(self: &Arc<Self>, session: Session) -> Place {
        let session = Arc::new(session);
        let mut table = self.lock();
        if let Some(until) = table.closing_until {
            session.control.close(random_moment(until), Why::Shutdown);
        }
        let totals = table.totals_of(&session);
        totals.live += 1;
        totals.opened += 1;
        table.live.insert(session.report.id, Arc::clone(&session));
        Place { sessions: Arc::clone(self), session }
    }

    /// Those there are.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Session>> {
        self.lock().live.values().cloned().collect()
    }

    /// The one of this id.
    #[must_use]
    pub fn find(&self, id: ConnectionId) -> Option<Arc<Session>> {
        self.lock().live.get(&id).cloned()
    }

    /// What the tunnels of each route have counted, live ones and ended ones: no count ever goes down,
    /// as an end moves what it counted from the one to the other within the same lock.
    #[must_use]
    pub fn totals(&self) -> HashMap<Arc<str>, Totals> {
        let table = self.lock();
        let mut totals = table.totals.clone();
        for session in table.live.values() {
            if let Some(totals) = totals.get_mut(session.route()) {
                totals.add(session.control.counters());
            }
        }
        totals
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().live.len()
    }

    /// Closes all, evenly spread at random over `window`, and those that open yet.
    pub fn shut_down(&self, window: Duration) {
        let until = Instant::now() + window;
        self.lock().closing_until = Some(until);
        for session in self.all() {
            session.control.close(random_moment(until), Why::Shutdown);
        }
    }

    /// Ends at once what is left.
    pub fn cut(&self) {
        for session in self.all() {
            session.control.cut(Why::Shutdown);
        }
    }

    /// Takes open tunnels over into a new snapshot.
    pub fn follow(&self, next: &Snapshot, previous: &Snapshot) {
        // Names that are gone are forgotten, or reloads could fill the memory with them.
        self.lock().totals.retain(|name, totals| totals.live > 0 || next.route_named(name).is_some());
        for session in self.all() {
            session.follow(next, previous);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn totals_of(&mut self, session: &Session) -> &mut Totals {
        let route = session.report.route.clone().unwrap_or_default();
        self.totals.entry(route).or_default()
    }
}

/// Over how long, and why, the tunnels of an endpoint are closed; `None`: they stay.
fn farewell(endpoint: &Endpoint, next: &Snapshot, previous: &Snapshot) -> Option<(Duration, Why)> {
    let name = endpoint.upstream();
    let upstream = next.upstream(name);
    if upstream.is_some_and(|upstream| upstream.serves(endpoint.address())) {
        return None;
    }
    let drained = upstream.is_some_and(|upstream| upstream.knows(endpoint.address()));
    let why = if drained { Why::Drain } else { Why::EndpointRemoved };
    let settings = upstream.or(previous.upstream(name))?.settings();
    settings.drain_timeout.map(|window| (window, why))
}

/// A moment from now to `until`, each as likely: clients that come back do not come all at once.
fn random_moment(until: Instant) -> Instant {
    let now = Instant::now();
    now + until.saturating_duration_since(now).mul_f64(rand::random::<f64>())
}

/// A tunnel's place in the table.
#[derive(Debug)]
pub struct Place {
    sessions: Arc<Sessions>,
    /// The tunnel.
    pub session: Arc<Session>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.sessions.lock();
        table.live.remove(&self.session.report.id);
        let totals = table.totals_of(&self.session);
        totals.live -= 1;
        totals.add(self.session.control.counters());
    }
}

/// Makes one report of a request, exactly: by [`Guard::finish`], or, when the request is dropped
/// before, as left by its client.
#[derive(Debug)]
pub struct Guard {
    /// What is known so far; taken when it is written.
    report: Option<Arc<Report>>,
    started: Instant,
    log: Arc<AccessLog>,
    watch: Watch,
    /// Of an exchange that is to be no tunnel.
    fate: Option<Fate>,
}

impl Guard {
    /// For a request that has just arrived.
    #[must_use]
    pub fn new(
        id: ConnectionId,
        client: ClientAddr,
        method: Method,
        host: &str,
        uri: &Uri,
        log: Arc<AccessLog>,
        watch: Watch,
    ) -> Self {
        let target = uri.path_and_query().map_or("", |target| target.as_str());
        let report = Report {
            id,
            time: SystemTime::now(),
            client,
            peer: client,
            method,
            protocol: "h1",
            tls: None,
            host: host.into(),
            target: redact(target).into(),
            route: None,
            upstream: None,
            endpoint: None,
            tries: 0,
            status: 0,
            subprotocol: None,
            extensions: None,
            unlogged: false,
        };
        Self { report: Some(Arc::new(report)), started: Instant::now(), log, watch, fate: None }
    }

    /// What is known, to be added to.
    ///
    /// # Panics
    /// Never: the report is there until the guard is consumed.
    pub fn report(&mut self) -> &mut Report {
        let report = self.report.as_mut().expect("a guard has its report until it is consumed");
        Arc::make_mut(report)
    }

    /// What is known, for others to keep: a tunnel's, to which nothing is added any more.
    ///
    /// # Panics
    /// Never: the report is there until the guard is consumed.
    #[must_use]
    pub fn share(&self) -> Arc<Report> {
        Arc::clone(self.report.as_ref().expect("a guard has its report until it is consumed"))
    }

    /// The end of an exchange that is dropped before its end: unless the proxy itself has run out of
    /// grace, its client has left.
    #[must_use]
    pub fn broken_off(&self, by_client: &str) -> Ending {
        let (who, why, reason) = match self.watch.phase() {
            Phase::Expired => (Who::Proxy, Why::Shutdown, "cut at the end of shutdown_grace"),
            _ if self.fate.as_ref().is_some_and(Fate::is_stalled) => {
                (Who::Client, Why::SendTimeout, "client took nothing of the response for body_timeout")
            }
            _ => (Who::Client, Why::Eof, by_client),
        };
        Ending { reason: reason.into(), ..Ending::new(who, why) }
    }

    /// The exchange is to be no tunnel, and comes over this connection.
    pub fn follow(&mut self, fate: Option<Fate>) {
        self.fate = fate;
    }

    /// Writes the report of a tunnel.
    pub fn finish(mut self, outcome: Outcome) {
        self.write(outcome);
    }

    /// Writes the report of an exchange that was no tunnel.
    pub fn finish_http(mut self, ending: Ending, sent: PerSide<u64>) {
        self.write_http(ending, sent);
    }

    fn write_http(&mut self, ending: Ending, sent: PerSide<u64>) {
        let mut traffic = PerSide::default();
        for side in Side::BOTH {
            traffic[side] = Traffic { bytes: sent[side], ..Traffic::default() };
        }
        let duration = self.started.elapsed();
        self.write(Outcome { ending, traffic, duration, idle: PerSide::default(), blind: None });
    }

    fn write(&mut self, outcome: Outcome) {
        if let Some(report) = self.report.take() {
            self.log.write(report, outcome);
        }
    }
}

impl Drop for Guard {
    /// nginx's 499: the client left before there was an answer.
    fn drop(&mut self) {
        if let Some(report) = &mut self.report {
            if report.status == 0 {
                Arc::make_mut(report).status = CLIENT_LEFT.as_u16();
            }
            let ending = self.broken_off("client left before the answer");
            self.write_http(ending, PerSide::default());
        }
    }
}
