//! Owns reading the metrics. It must not count, and it holds no lock while it writes text.

use super::{EndKey, Format, Live, Metrics, Reloads, encode, families, lock};
use crate::outcome::PerSide;
use crate::telemetry::bursts::Burst;
use crate::telemetry::history::Step;
use crate::telemetry::process::Process;
use crate::telemetry::report::Ended;
use crate::telemetry::tally::{Histogram, RoundTrips, RouteMetrics};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

impl Metrics {
    /// Returns when counting began.
    #[must_use]
    pub fn started(&self) -> SystemTime {
        self.started
    }

    /// Returns how long ago counting began.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.since.elapsed()
    }

    /// Returns the histograms of round-trip times that tunnels count into.
    #[must_use]
    pub fn round_trips(&self) -> &Arc<RoundTrips> {
        &self.round_trips
    }

    /// Returns how tunnels ended since the start, the most frequent cause first.
    #[must_use]
    pub fn ends(&self) -> Vec<(EndKey, u64)> {
        let routes = self.routes();
        let mut sums = routes.past_ends.clone();
        for route in routes.known.values().chain(&routes.past) {
            for (key, count) in route.ends.read() {
                *sums.entry(key).or_default() += count;
            }
        }
        drop(routes);
        let mut ends: Vec<_> = sums.into_iter().filter(|(_, count)| *count > 0).collect();
        ends.sort_by_key(|&(key, count)| (std::cmp::Reverse(count), key));
        ends
    }

    /// Returns how tunnels ended within the last `span`.
    #[must_use]
    pub fn ends_lately(&self, span: Duration) -> BTreeMap<EndKey, u64> {
        self.last_hour.lately(self.since.elapsed(), span)
    }

    /// Returns how many tunnels of each route have ended.
    #[must_use]
    pub fn ended_by_route(&self) -> HashMap<Arc<str>, u64> {
        let sum = |route: &RouteMetrics| route.ends.read().iter().map(|(_, count)| count).sum();
        self.each_route().into_iter().map(|(name, route)| (name, sum(&route))).collect()
    }

    /// Returns how long each side had been silent when a tunnel ended abnormally.
    #[must_use]
    pub fn silence(&self) -> PerSide<Histogram> {
        PerSide { client: self.silence.client.read(), upstream: self.silence.upstream.read() }
    }

    /// Returns the results of reloads.
    #[must_use]
    pub fn reloads(&self) -> Reloads {
        lock(&self.reloads).clone()
    }

    /// Returns the last hour, the oldest step first, and when the last step ended.
    #[must_use]
    pub fn history(&self) -> (Vec<Step>, SystemTime) {
        let (steps, until) = self.last_hour.steps(self.since.elapsed());
        (steps, self.started + until)
    }

    /// Returns the last ends of tunnels and of failed WebSocket handshakes, the newest first, and how many
    /// there ever were.
    #[must_use]
    pub fn recent(&self, most: usize) -> (Vec<Arc<Ended>>, u64) {
        // Unpacked where nobody waits for it.
        let recent = lock(&self.recent).clone();
        (recent.newest(most), recent.count())
    }

    /// Returns the capacity for client connections.
    #[must_use]
    pub fn connection_capacity(&self) -> usize {
        self.connection_capacity.load(Ordering::Relaxed)
    }

    /// Returns all metrics and the live state as text.
    #[must_use]
    pub fn encode(&self, live: &Live, format: Format) -> String {
        encode::encode(families::families(self, live, &Process::now()), format)
    }

    /// Returns when the next burst is over. `None` means that there is none.
    pub(super) fn next_burst(&self) -> Option<Instant> {
        self.last_hour.next_burst().map(|at| self.since + at)
    }

    /// Returns the bursts that are over.
    pub(super) fn bursts_over(&self) -> Vec<Burst> {
        self.last_hour.bursts_over(self.since.elapsed())
    }
}
