//! Owns the data types of counts: sums, histograms, the counters of a route. It must not know who counts.

mod route;
mod shared;

pub(crate) use route::{RouteCounters, RouteMetrics};
pub(crate) use shared::{Counts, SharedHistogram};

use crate::outcome::{Cause, EndedBy, Ending, PerSide, Side, Traffic};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// The counts of a route's tunnels, and how many there are and were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Open tunnels.
    pub live: u64,
    /// Tunnels that ever opened.
    pub opened: u64,
    /// What each side sent, and how it answered Pings.
    pub traffic: PerSide<Sums>,
}

impl Totals {
    /// Adds other tunnels of the same route.
    pub fn add(&mut self, others: &Self) {
        self.live += others.live;
        self.opened += others.opened;
        for side in Side::BOTH {
            self.traffic[side].add_sums(&others.traffic[side]);
        }
    }
}

/// What one side of many tunnels sent, and how it answered Pings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Bytes received.
    pub bytes: u64,
    /// Messages received completely.
    pub messages: u64,
    /// Pings that the proxy sent.
    pub pings: u64,
    /// Pings that were answered.
    pub pongs: u64,
}

impl Sums {
    /// Adds the counts of one tunnel.
    pub fn add(&mut self, traffic: &Traffic) {
        self.bytes += traffic.bytes;
        self.messages += traffic.messages;
        self.pings += u64::from(traffic.pings);
        self.pongs += u64::from(traffic.pongs);
    }

    fn add_sums(&mut self, others: &Self) {
        self.bytes += others.bytes;
        self.messages += others.messages;
        self.pings += others.pings;
        self.pongs += others.pongs;
    }
}

/// Lines that are missing in the access log, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// Left out by sampling.
    pub sampled: u64,
    /// Lost because the target was too slow.
    pub queue: u64,
    /// Lost because the target failed.
    pub target: u64,
}

impl Missing {
    /// Returns the lines that are missing since `before`.
    pub(super) fn since(&self, before: &Self) -> Self {
        Self {
            sampled: self.sampled - before.sampled,
            queue: self.queue - before.queue,
            target: self.target - before.target,
        }
    }
}

/// A histogram of durations or sizes, as it was read. A bucket includes its upper edge, as in Prometheus.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    edges: &'static [f64],
    /// One more than there are edges. The last bucket lies above all edges.
    counts: Box<[u64]>,
    sum: f64,
}

impl Histogram {
    /// Returns the upper edges of all buckets but the last.
    #[must_use]
    pub fn edges(&self) -> &'static [f64] {
        self.edges
    }

    /// Returns the count of each bucket. The last one is above the last edge.
    #[must_use]
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Returns the sum of all values.
    #[must_use]
    pub fn sum(&self) -> f64 {
        self.sum
    }
}

/// The round-trip times of all answered Pings, by side. Tunnels count here directly, once for each Pong to
/// the proxy's own Pings.
#[derive(Debug, Default)]
pub struct RoundTrips(PerSide<Times>);

#[derive(Debug, Default)]
struct Times {
    counts: [AtomicU64; ROUND_TRIP_EDGES.len() + 1],
    micros: AtomicU64,
}

impl RoundTrips {
    /// Counts one value.
    pub fn add(&self, side: Side, time: Duration) {
        let times = &self.0[side];
        times.counts[bucket(&ROUND_TRIP_EDGES, time.as_secs_f64())].fetch_add(1, Relaxed);
        times.micros.fetch_add(time.as_micros() as u64, Relaxed);
    }

    /// Returns the histogram of a side.
    #[must_use]
    pub fn of(&self, side: Side) -> Histogram {
        let times = &self.0[side];
        let counts = times.counts.iter().map(|count| count.load(Relaxed)).collect();
        Histogram { edges: &ROUND_TRIP_EDGES, counts, sum: times.micros.load(Relaxed) as f64 / 1e6 }
    }
}

/// The number of ends of each kind.
#[derive(Debug)]
pub struct EndCounts([[AtomicU64; Cause::ALL.len()]; EndedBy::ALL.len()]);

impl Default for EndCounts {
    fn default() -> Self {
        Self(std::array::from_fn(|_| std::array::from_fn(|_| AtomicU64::default())))
    }
}

impl EndCounts {
    /// Counts one value.
    pub fn add(&self, ending: &Ending) {
        self.0[ending.ended_by as usize][ending.cause as usize].fetch_add(1, Relaxed);
    }

    /// Returns how many ends of one kind there were.
    #[must_use]
    pub fn of(&self, ended_by: EndedBy, cause: Cause) -> u64 {
        self.0[ended_by as usize][cause as usize].load(Relaxed)
    }
}

fn bucket(edges: &[f64], value: f64) -> usize {
    edges.iter().take_while(|&&edge| value > edge).count()
}

/// Edges of the histogram of round-trip times, in seconds.
pub(crate) const ROUND_TRIP_EDGES: [f64; 13] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Edges of the histogram of tunnels' durations, in seconds.
pub(crate) const DURATION_EDGES: [f64; 7] = [60.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 14400.0];

/// Edges of the histograms of silence before the end, in seconds: those of the known idle limits. A tunnel that a limit
/// ended was silent slightly longer than the limit, so it counts in the bucket above.
pub(crate) const SILENCE_EDGES: [f64; 10] =
    [30.0, 55.0, 60.0, 100.0, 230.0, 240.0, 300.0, 350.0, 600.0, 900.0];

/// Edges of the histograms of handshakes, in seconds.
pub(crate) const HANDSHAKE_EDGES: [f64; 12] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// Edges of the histogram of tries for one WebSocket handshake.
pub(crate) const TRIES_EDGES: [f64; 4] = [1.0, 2.0, 3.0, 5.0];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_ends_with_its_edge() {
        let shared = SharedHistogram::new(&DURATION_EDGES);
        [60.0, 60.001, 14400.0, 14401.0, 0.0].into_iter().for_each(|value| shared.add(value));
        let histogram = shared.read();
        assert_eq!(histogram.counts(), [2, 1, 0, 0, 0, 0, 1, 1]);
        assert_eq!(histogram.sum(), 60.0 + 60.001 + 14400.0 + 14401.0);
    }

    #[test]
    fn round_trips_are_counted_by_side() {
        let trips = RoundTrips::default();
        trips.add(Side::Client, Duration::from_millis(20));
        trips.add(Side::Client, Duration::from_secs(11));
        let client = trips.of(Side::Client);
        assert_eq!((client.counts()[4], client.counts()[13]), (1, 1));
        assert!((client.sum() - 11.02).abs() < 1e-9);
        assert_eq!(trips.of(Side::Upstream).counts().iter().sum::<u64>(), 0);
    }
}
