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
    /// Its id.
    pub id: ConnectionId,
    /// Its route's name.
    pub route: Arc<str>,
    /// The endpoint it goes to.
    pub endpoint: Arc<Endpoint>,
    /// What its client asked for, secrets removed.
    pub target: Box<str>,
    /// When it opened.
    pub opened: Instant,
    /// The line to its task.
    pub control: Arc<Control>,
}

impl Session {
    /// Takes the tunnel over into a new snapshot: it gets its route's settings, and if its
    /// endpoint is no longer wanted it closes, where that is wished.
    pub fn follow(&self, next: &Snapshot, previous: &Snapshot) {
        let tunnel =
            |snapshot: &Snapshot| snapshot.route_named(&self.route).map(|route| Arc::clone(&route.tunnel));
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

/// All live tunnels.
#[derive(Debug)]
pub struct Sessions {
    next: AtomicU64,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    live: HashMap<ConnectionId, Arc<Session>>,
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
        table.live.insert(session.id, Arc::clone(&session));
        Place { sessions: Arc::clone(self), session }
    }

    /// Those there are.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Session>> {
        self.lock().live.values().cloned().collect()
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
        for session in self.all() {
            session.follow(next, previous);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
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
        self.sessions.lock().live.remove(&self.session.id);
    }
}

/// Makes one report of a request, exactly: by [`Guard::finish`], or, when the request is dropped
/// before, as left by its client.
#[derive(Debug)]
pub struct Guard {
    /// What is known so far; taken when it is written.
    report: Option<Box<Report>>,
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
        Self { report: Some(Box::new(report)), started: Instant::now(), log, watch, fate: None }
    }

    /// What is known, to be added to.
    ///
    /// # Panics
    /// Never: the report is there until the guard is consumed.
    pub fn report(&mut self) -> &mut Report {
        self.report.as_mut().expect("a guard has its report until it is consumed")
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
            self.log.write(*report, outcome);
        }
    }
}

impl Drop for Guard {
    /// nginx's 499: the client left before there was an answer.
    fn drop(&mut self) {
        if let Some(report) = &mut self.report {
            if report.status == 0 {
                report.status = CLIENT_LEFT.as_u16();
            }
            let ending = self.broken_off("client left before the answer");
            self.write_http(ending, PerSide::default());
        }
    }
}
