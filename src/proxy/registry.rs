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

/// One live tunnel, as other modules see it.
#[derive(Debug)]
pub struct LiveTunnel {
    /// Its report. The report of its end is built from this one.
    pub report: Report,
    /// The endpoint it goes to.
    pub endpoint: Arc<Endpoint>,
    /// When it opened (wall clock).
    pub opened: UnixMicros,
    /// Controls its driver and holds its counters.
    pub control: Arc<Control>,
}

impl LiveTunnel {
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

/// All live tunnels, spread over shards by their ids. A scrape or a reload walks all tunnels. It holds the
/// lock of one shard at a time, and only to copy its list. So a new tunnel waits for a few microseconds at
/// most.
#[derive(Debug)]
pub struct Registry {
    next: AtomicU64,
    shards: [Mutex<Shard>; SHARDS],
    /// Counts of each route's ended tunnels that are not in a shard any more. New tunnels and ends do not take
    /// this lock. Take it before the lock of a shard, never after.
    ended: Mutex<BTreeMap<Arc<str>, Totals>>,
}

/// A shard of 10,000 tunnels has some 150.
const SHARDS: usize = 64;

#[derive(Debug, Default)]
struct Shard {
    live: HashMap<ConnectionId, Arc<LiveTunnel>>,
    /// Counts of each route's tunnels that ended since somebody last read the totals.
    ended: HashMap<Arc<str>, Totals>,
    /// Set at shutdown. Tunnels that open later also close by this moment.
    closing_until: Option<Instant>,
}

impl Default for Registry {
    fn default() -> Self {
        // A random start makes it unlikely that this run repeats ids of the last.
        let start = u64::from(rand::random::<u32>()) << 32;
        let shards = std::array::from_fn(|_| Mutex::default());
        Self { next: AtomicU64::new(start), shards, ended: Mutex::default() }
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
    pub fn add(self: &Arc<Self>, tunnel: LiveTunnel) -> Registration {
        let tunnel = Arc::new(tunnel);
        let mut shard = self.shard(tunnel.report.id);
        if let Some(until) = shard.closing_until {
            tunnel.control.close(random_moment(until), Cause::Shutdown);
        }
        shard.live.insert(tunnel.report.id, Arc::clone(&tunnel));
        drop(shard);
        Registration { tunnels: Arc::clone(self), tunnel }
    }

    /// Returns all live tunnels.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<LiveTunnel>> {
        let mut all = Vec::with_capacity(self.count());
        for shard in &self.shards {
            all.extend(lock(shard).live.values().cloned());
        }
        all
    }

    /// Returns the live tunnel with this id.
    #[must_use]
    pub fn find(&self, id: ConnectionId) -> Option<Arc<LiveTunnel>> {
        self.shard(id).live.get(&id).cloned()
    }

    /// Returns the counts of each route, live and ended tunnels together. No count ever goes down: each tunnel
    /// is either in the list of its shard or among the ended ones, and both are taken at once.
    #[must_use]
    pub fn totals(&self) -> BTreeMap<Arc<str>, Totals> {
        let mut live = Vec::with_capacity(self.count());
        let mut ended = lock(&self.ended);
        for shard in &self.shards {
            let taken = {
                let mut shard = lock(shard);
                live.extend(shard.live.values().cloned());
                std::mem::take(&mut shard.ended)
            };
            for (route, counts) in taken {
                ended.entry(route).or_default().add(&counts);
            }
        }
        let mut totals = ended.clone();
        drop(ended);
        for tunnel in live {
            let route = tunnel.report.route();
            if route.is_none_or(|route| !totals.contains_key(route)) {
                totals.insert(route.cloned().unwrap_or_default(), Totals::default());
            }
            if let Some(totals) = totals.get_mut(tunnel.route()) {
                totals.live += 1;
                totals.opened += 1;
                add(totals, tunnel.control.counters());
            }
        }
        totals
    }

    /// Returns the number of live tunnels.
    #[must_use]
    pub fn count(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).live.len()).sum()
    }

    /// Closes all tunnels at random moments within `window`, and also those that open later.
    pub fn shut_down(&self, window: Duration) {
        let until = Instant::now() + window;
        for shard in &self.shards {
            lock(shard).closing_until = Some(until);
        }
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

    /// Applies a new snapshot to all live tunnels. Returns the counts of all routes that remain, which are
    /// those of the snapshot and those that still have tunnels.
    pub fn apply_snapshot(&self, next: &Snapshot, previous: &Snapshot) -> BTreeMap<Arc<str>, Totals> {
        for tunnel in self.all() {
            tunnel.apply_snapshot(next, previous);
        }
        // Forget routes that are gone. Otherwise reloads could fill the memory with their names.
        let mut totals = self.totals();
        totals.retain(|name, totals| totals.live > 0 || next.route_named(name).is_some());
        lock(&self.ended).retain(|name, _| totals.contains_key(name) || next.route_named(name).is_some());
        totals
    }

    fn shard(&self, id: ConnectionId) -> MutexGuard<'_, Shard> {
        lock(&self.shards[id.0 as usize % SHARDS])
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
    pub tunnel: Arc<LiveTunnel>,
}

/// Capacity that a shard keeps however few tunnels there are.
const KEPT: usize = 1024 / SHARDS;

impl Drop for Registration {
    fn drop(&mut self) {
        let id = self.tunnel.report.id;
        let route = self.tunnel.report.route().cloned().unwrap_or_default();
        let mut shard = self.tunnels.shard(id);
        shard.live.remove(&id);
        // Release the memory that a burst of new tunnels took.
        if shard.live.len() < shard.live.capacity() / 8 && shard.live.capacity() > KEPT {
            let twice = 2 * shard.live.len();
            shard.live.shrink_to(twice);
        }
        let totals = shard.ended.entry(route).or_default();
        totals.opened += 1;
        add(totals, self.tunnel.control.counters());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::ClientAddr;
    use crate::telemetry::report::{RequestInfo, RouteNames};
    use crate::upstream::tests::{server, upstream};
    use std::sync::atomic::AtomicUsize;
    use std::thread;
    use std::time::SystemTime;

    #[test]
    fn a_tunnel_is_small() {
        // Each idle tunnel has one. With the reference counts of its `Arc` it takes 96 bytes.
        assert!(size_of::<LiveTunnel>() <= 80, "{}", size_of::<LiveTunnel>());
    }

    fn tunnel(registry: &Registry, names: &Arc<RouteNames>, endpoint: &Arc<Endpoint>) -> LiveTunnel {
        let (client, target) = (ClientAddr::Unix, &b"/"[..]);
        let info = RequestInfo { client, proxied_by: None, method: "GET", host: b"x", target, tls: None };
        let mut report = Report::new(registry.next_id(), SystemTime::now(), &info);
        report.names = Some(Arc::clone(names));
        let opened = SystemTime::now().into();
        let control = Arc::new(Control::new(Counters::default()));
        LiveTunnel { report, endpoint: Arc::clone(endpoint), opened, control }
    }

    #[test]
    fn counts_are_exact_and_never_go_down_while_threads_open_end_and_read() {
        const THREADS: usize = 4;
        const EACH: usize = 2_000;
        let (registry, upstream) = (Arc::new(Registry::default()), upstream(vec![server(1)]));
        let endpoint = Arc::clone(upstream.pick(None, &[]).unwrap().endpoint());
        let names = ["a", "b"].map(|name| Arc::new(RouteNames::new(name.into(), None)));
        let (open, done) = (Mutex::new(Vec::new()), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    for number in 0..EACH {
                        let registration = registry.add(tunnel(&registry, &names[number % 2], &endpoint));
                        registration.tunnel.control.counters().received(Side::Client, 3);
                        // Every tenth one stays open.
                        if number % 10 == 0 {
                            lock(&open).push(registration);
                        }
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                });
            }
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut before = BTreeMap::<Arc<str>, Totals>::new();
                    while done.load(Ordering::Relaxed) < THREADS {
                        let now = registry.totals();
                        for (name, before) in before {
                            let bytes = |of: &Totals| of.traffic.client.bytes;
                            let now = &now[&name];
                            assert!(now.opened >= before.opened && bytes(now) >= bytes(&before));
                            assert!(now.live <= now.opened);
                        }
                        before = now;
                    }
                });
            }
        });
        let counts = |totals: &Totals| (totals.opened, totals.live, totals.traffic.client.bytes);
        let half = (THREADS * EACH / 2) as u64;
        // Even numbers are of the first route, and so are all tenths.
        let kept = (THREADS * EACH / 10) as u64;
        let totals = registry.totals();
        assert_eq!(
            [counts(&totals["a"]), counts(&totals["b"])],
            [(half, kept, 3 * half), (half, 0, 3 * half)]
        );
        assert_eq!((registry.count(), registry.all().len()), (kept as usize, kept as usize));
        drop(open);
        assert_eq!(counts(&registry.totals()["a"]), (half, 0, 3 * half));
        assert_eq!(registry.count(), 0);
    }

    /// A reader or a reload may hold any lock but those of the shards.
    #[test]
    fn new_tunnels_and_ends_wait_for_no_reader() {
        let (registry, upstream) = (Arc::new(Registry::default()), upstream(vec![server(1)]));
        let endpoint = Arc::clone(upstream.pick(None, &[]).unwrap().endpoint());
        let names = Arc::new(RouteNames::new("a".into(), None));
        let reading = lock(&registry.ended);
        drop(registry.add(tunnel(&registry, &names, &endpoint)));
        drop(reading);
        assert_eq!(registry.totals()["a"].opened, 1);
    }
}
