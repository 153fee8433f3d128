//! Owns the table of live tunnels. It must not know what becomes of their reports.

use super::snapshot::Snapshot;
use crate::addr::EndpointAddr;
use crate::outcome::{Side, Why};
use crate::telemetry::report::{ConnectionId, Report};
use crate::telemetry::stamp::Stamp;
use crate::telemetry::tally::Totals;
use crate::tunnel::control::Control;
use crate::tunnel::counters::Counters;
use crate::upstream::Endpoint;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// One live tunnel, as the rest of the process sees it.
#[derive(Debug)]
pub struct Session {
    /// What is known of it; its end will be reported with the same.
    pub report: Report,
    /// The endpoint it goes to.
    pub endpoint: Arc<Endpoint>,
    /// When it opened, by the wall clock.
    pub opened: Stamp,
    /// The line to its task, with what it counts.
    pub control: Arc<Control>,
}

impl Session {
    /// The name of its route.
    #[must_use]
    pub fn route(&self) -> &str {
        self.report.route().map_or("", |name| name)
    }

    /// Closes it by a moment, as its endpoint is drained.
    pub fn leave(&self, until: Instant) {
        self.control.close(random_moment(until), Why::Drain);
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
    totals: BTreeMap<Arc<str>, Totals>,
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
    pub fn totals(&self) -> BTreeMap<Arc<str>, Totals> {
        let table = self.lock();
        let mut totals = table.totals.clone();
        for session in table.live.values() {
            if let Some(totals) = totals.get_mut(session.route()) {
                add(totals, session.control.counters());
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

    /// Closes the tunnels of an endpoint, evenly spread at random until a moment; how many there are.
    pub fn leave(&self, upstream: &str, address: &EndpointAddr, until: Instant) -> usize {
        let mut sessions = self.all();
        sessions.retain(|session| {
            **session.endpoint.upstream() == *upstream && session.endpoint.address() == address
        });
        sessions.iter().for_each(|session| session.leave(until));
        sessions.len()
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
        let route = session.report.route().cloned().unwrap_or_default();
        self.totals.entry(route).or_default()
    }
}

fn add(totals: &mut Totals, counters: &Counters) {
    for side in Side::BOTH {
        totals.traffic[side].add(&counters.traffic(side));
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

/// Room in the table that is kept however few there are.
const KEPT: usize = 1024;

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.sessions.lock();
        table.live.remove(&self.session.report.id);
        // What a storm of openings took goes back.
        if table.live.len() < table.live.capacity() / 8 && table.live.capacity() > KEPT {
            let twice = 2 * table.live.len();
            table.live.shrink_to(twice);
        }
        let totals = table.totals_of(&self.session);
        totals.live -= 1;
        add(totals, self.session.control.counters());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_small() {
        // Each idle tunnel has one; with the counts of the Arc that shares it, it is 96 bytes.
        assert!(size_of::<Session>() <= 80, "{}", size_of::<Session>());
    }
}
