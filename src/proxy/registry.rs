//! Owns the registry of live tunnels. It must not know how their reports are written.

use super::snapshot::Snapshot;
use crate::addr::EndpointAddr;
use crate::outcome::{Cause, Side};
use crate::telemetry::report::{ConnectionId, Report};
use crate::telemetry::tally::Totals;
use crate::telemetry::unix_micros::UnixMicros;
use crate::tunnel::control::Control;
use crate::tunnel::counters::Counters;
use crate::upstream::Endpoint;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// One live tunnel, as other rooms see it.
#[derive(Debug)]
pub struct Tunnel {
    /// Its report. The report of its end is built from this one.
    pub report: Report,
    /// The endpoint it goes to.
    pub endpoint: Arc<Endpoint>,
    /// When it opened (wall clock).
    pub opened: UnixMicros,
    /// Controls its driver and holds its counters.
    pub control: Arc<Control>,
}

impl Tunnel {
    /// Returns the name of its route.
    #[must_use]
    pub fn route(&self) -> &str {
        self.report.route().map_or("", |name| name)
    }

    /// Closes it at a random moment before `until`, because its endpoint is drained.
    pub fn close_by(&self, until: Instant) {
        self.control.close(random_moment(until), Cause::Drain);
    }

    /// Applies a new snapshot. The tunnel gets the new settings of its route. If its endpoint was removed or
    /// drained, Holdline closes it within `drain_timeout`, if that is set.
    pub fn apply_snapshot(&self, next: &Snapshot, previous: &Snapshot) {
        let name = self.route();
        let tunnel = |snapshot: &Snapshot| snapshot.route_named(name).map(|route| Arc::clone(&route.tunnel));
        match (tunnel(next), tunnel(previous)) {
            (Some(next), Some(previous)) if Arc::ptr_eq(&next, &previous) => {}
            (Some(next), _) => self.control.set_settings(next),
            (None, _) => {}
        }
        if let Some((window, cause)) = drain_window(&self.endpoint, next, previous) {
            self.control.close(random_moment(Instant::now() + window), cause);
        }
    }
}

/// All live tunnels.
#[derive(Debug)]
pub struct Registry {
    next: AtomicU64,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    live: HashMap<ConnectionId, Arc<Tunnel>>,
    /// Counts of each route's ended tunnels, and how many of its tunnels are live.
    totals: BTreeMap<Arc<str>, Totals>,
    /// Set at shutdown. Tunnels that open later also close by this moment.
    closing_until: Option<Instant>,
}

impl Default for Registry {
    fn default() -> Self {
        // A random start makes it unlikely that this run repeats ids of the last.
        let start = u64::from(rand::random::<u32>()) << 32;
        Self { next: AtomicU64::new(start), table: Mutex::default() }
    }
}

impl Registry {
    /// Returns an id that this registry has not returned before.
    #[must_use]
    pub fn next_id(&self) -> ConnectionId {
        ConnectionId(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Adds a tunnel. It stays registered as long as the registration lives.
    #[must_use]
    pub fn add(self: &Arc<Self>, tunnel: Tunnel) -> Registration {
        let tunnel = Arc::new(tunnel);
        let mut table = self.lock();
        if let Some(until) = table.closing_until {
            tunnel.control.close(random_moment(until), Cause::Shutdown);
        }
        let totals = table.totals_of(&tunnel);
        totals.live += 1;
        totals.opened += 1;
        table.live.insert(tunnel.report.id, Arc::clone(&tunnel));
        Registration { tunnels: Arc::clone(self), tunnel }
    }

    /// Returns all live tunnels.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Tunnel>> {
        self.lock().live.values().cloned().collect()
    }

    /// Returns the live tunnel with this id.
    #[must_use]
    pub fn find(&self, id: ConnectionId) -> Option<Arc<Tunnel>> {
        self.lock().live.get(&id).cloned()
    }

    /// Returns the counts of each route, live and ended tunnels together. No count ever goes down: an ending
    /// tunnel moves its counts to the totals under the same lock.
    #[must_use]
    pub fn totals(&self) -> BTreeMap<Arc<str>, Totals> {
        let table = self.lock();
        let mut totals = table.totals.clone();
        for tunnel in table.live.values() {
            if let Some(totals) = totals.get_mut(tunnel.route()) {
                add(totals, tunnel.control.counters());
            }
        }
        totals
    }

    /// Returns the number of live tunnels.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().live.len()
    }

    /// Closes all tunnels at random moments within `window`, and also those that open later.
    pub fn shut_down(&self, window: Duration) {
        let until = Instant::now() + window;
        self.lock().closing_until = Some(until);
        for tunnel in self.all() {
            tunnel.control.close(random_moment(until), Cause::Shutdown);
        }
    }

    /// Closes the tunnels of an endpoint at random moments before `until`. Returns how many there are.
    pub fn close_by(&self, upstream: &str, address: &EndpointAddr, until: Instant) -> usize {
        let mut tunnels = self.all();
        tunnels.retain(|tunnel| {
            **tunnel.endpoint.upstream() == *upstream && tunnel.endpoint.address() == address
        });
        tunnels.iter().for_each(|tunnel| tunnel.close_by(until));
        tunnels.len()
    }

    /// Ends all remaining tunnels at once.
    pub fn cut(&self) {
        for tunnel in self.all() {
            tunnel.control.cut(Cause::Shutdown);
        }
    }

    /// Applies a new snapshot to all live tunnels.
    pub fn apply_snapshot(&self, next: &Snapshot, previous: &Snapshot) {
        // Forget routes that are gone. Otherwise reloads could fill the memory with their names.
        self.lock().totals.retain(|name, totals| totals.live > 0 || next.route_named(name).is_some());
        for tunnel in self.all() {
            tunnel.apply_snapshot(next, previous);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn totals_of(&mut self, tunnel: &Tunnel) -> &mut Totals {
        let route = tunnel.report.route().cloned().unwrap_or_default();
        self.totals.entry(route).or_default()
    }
}

fn add(totals: &mut Totals, counters: &Counters) {
    for side in Side::BOTH {
        totals.traffic[side].add(&counters.traffic(side));
    }
}

/// Returns over how long, and why, the tunnels of an endpoint close. `None` means that they stay open.
fn drain_window(endpoint: &Endpoint, next: &Snapshot, previous: &Snapshot) -> Option<(Duration, Cause)> {
    let name = endpoint.upstream();
    let upstream = next.upstream(name);
    if upstream.is_some_and(|upstream| upstream.serves(endpoint.address())) {
        return None;
    }
    let drained = upstream.is_some_and(|upstream| upstream.has_endpoint(endpoint.address()));
    let cause = if drained { Cause::Drain } else { Cause::EndpointRemoved };
    let settings = upstream.or(previous.upstream(name))?.settings();
    settings.drain_timeout.map(|window| (window, cause))
}

/// Returns a random moment before `until`, so that clients do not all reconnect at once.
fn random_moment(until: Instant) -> Instant {
    let now = Instant::now();
    now + until.saturating_duration_since(now).mul_f64(rand::random::<f64>())
}

/// Keeps a tunnel in the registry.
#[derive(Debug)]
pub struct Registration {
    tunnels: Arc<Registry>,
    /// The tunnel.
    pub tunnel: Arc<Tunnel>,
}

/// Capacity that the table keeps however few tunnels there are.
const KEPT: usize = 1024;

impl Drop for Registration {
    fn drop(&mut self) {
        let mut table = self.tunnels.lock();
        table.live.remove(&self.tunnel.report.id);
        // Release the memory that a burst of new tunnels took.
        if table.live.len() < table.live.capacity() / 8 && table.live.capacity() > KEPT {
            let twice = 2 * table.live.len();
            table.live.shrink_to(twice);
        }
        let totals = table.totals_of(&self.tunnel);
        totals.live -= 1;
        add(totals, self.tunnel.control.counters());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_small() {
        // Each idle tunnel has one. With the reference counts of its `Arc` it takes 96 bytes.
        assert!(size_of::<Tunnel>() <= 80, "{}", size_of::<Tunnel>());
    }
}
