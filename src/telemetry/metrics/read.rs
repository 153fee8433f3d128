//! Owns what can be asked of what was counted. It must not count.

use super::{Cause, Format, Live, Metrics, Reloads, Route, encode, families};
use crate::outcome::PerSide;
use crate::telemetry::bursts::Burst;
use crate::telemetry::history::Step;
use crate::telemetry::process::Process;
use crate::telemetry::recent::End;
use crate::telemetry::tally::{Histogram, RoundTrips};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

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
        // Unpacked where nobody waits for it.
        let recent = self.lock().recent.clone();
        (recent.newest(most), recent.count())
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

    /// When the next burst is over; `None`: none is under way.
    pub(super) fn next_burst(&self) -> Option<Instant> {
        self.lock().bursts.next().map(|at| self.since + at)
    }

    /// The bursts that are over.
    pub(super) fn bursts_over(&self) -> Vec<Burst> {
        self.lock().bursts.over(self.since.elapsed())
    }
}
