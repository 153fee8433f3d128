//! Owns the counters of a tunnel. The relay writes them, and any thread may read them while the tunnel lives.
//!
//! The relay is the only writer, so it adds with a plain load and store instead of an atomic addition. Readers see
//! each number as it was a moment ago. Two numbers need not be of the same moment.

use super::Blind;
use super::timer::TunnelTime;
use crate::outcome::{PerSide, Side, Traffic};
use crate::telemetry::tally::RoundTrips;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64};
use std::time::Duration;

/// The counters of one tunnel.
#[derive(Debug, Default)]
pub struct Counters {
    sides: PerSide<Count>,
    /// The number of the [`Blind`] reason. 0 means that frames are read.
    blind: AtomicU8,
    /// Belongs to `Control`. It is here because this struct has a padding byte to spare.
    pub(super) has_changes: AtomicBool,
    /// Counts the round-trip times of all tunnels.
    round_trips: Option<Arc<RoundTrips>>,
}

/// The counters of one side.
#[derive(Debug, Default)]
struct Count {
    bytes: AtomicU64,
    messages: AtomicU64,
    /// When its last byte came, in microseconds since the tunnel opened.
    last_read: AtomicU64,
    pings: AtomicU32,
    pongs: AtomicU32,
    /// Round-trip times in microseconds. They hold 71 minutes, more than any `ping.timeout`. 0 means none.
    last_rtt: AtomicU32,
    worst_rtt: AtomicU32,
}

impl Counters {
    /// Counters at zero. Round-trip times are also added to `round_trips`.
    #[must_use]
    pub fn counting_into(round_trips: Arc<RoundTrips>) -> Self {
        Self { round_trips: Some(round_trips), ..Self::default() }
    }

    /// What a side has sent, and how it answered Pings.
    #[must_use]
    pub fn traffic(&self, side: Side) -> Traffic {
        let count = &self.sides[side];
        Traffic {
            bytes: count.bytes.load(Relaxed),
            messages: count.messages.load(Relaxed),
            pings: count.pings.load(Relaxed),
            pongs: count.pongs.load(Relaxed),
            last_rtt: time(&count.last_rtt),
            worst_rtt: time(&count.worst_rtt),
        }
    }

    /// When the last byte came from a side. Before the first, when the tunnel opened.
    #[must_use]
    pub fn last_read(&self, side: Side) -> TunnelTime {
        TunnelTime::from_micros(self.sides[side].last_read.load(Relaxed))
    }

    /// Why the relay reads no frames. `None` means that it reads them.
    #[must_use]
    pub fn blind(&self) -> Option<&'static str> {
        Blind::numbered(self.blind.load(Relaxed)).map(Blind::as_str)
    }
}

// What only the relay calls.
impl Counters {
    pub(super) fn arrived(&self, side: Side, now: TunnelTime) {
        self.sides[side].last_read.store(now.micros(), Relaxed);
    }

    pub(crate) fn received(&self, side: Side, bytes: usize) {
        add(&self.sides[side].bytes, bytes as u64);
    }

    pub(super) fn messages(&self, side: Side, more: u64) {
        add(&self.sides[side].messages, more);
    }

    pub(super) fn ping(&self, side: Side) {
        let pings = &self.sides[side].pings;
        pings.store(pings.load(Relaxed).wrapping_add(1), Relaxed);
    }

    /// Counts the answer to the latest Ping, which was sent at `sent`.
    pub(super) fn pong(&self, side: Side, sent: TunnelTime, now: TunnelTime) {
        let count = &self.sides[side];
        count.pongs.store(count.pongs.load(Relaxed).wrapping_add(1), Relaxed);
        let micros = u32::try_from(now.since(sent).as_micros()).unwrap_or(u32::MAX).max(1);
        if let Some(all) = &self.round_trips {
            all.add(side, now.since(sent));
        }
        count.last_rtt.store(micros, Relaxed);
        count.worst_rtt.store(count.worst_rtt.load(Relaxed).max(micros), Relaxed);
    }

    /// Records why the relay reads no frames. The first reason counts.
    pub(super) fn go_blind(&self, reason: Blind) {
        if !self.is_blind() {
            self.blind.store(reason.number(), Relaxed);
        }
    }

    /// Whether this is no WebSocket connection.
    pub(super) fn is_other_protocol(&self) -> bool {
        self.blind.load(Relaxed) == Blind::Protocol.number()
    }

    /// Whether the relay reads no frames.
    pub(super) fn is_blind(&self) -> bool {
        self.blind.load(Relaxed) != 0
    }
}

/// With a single writer this needs no atomic addition, whose locked bus cycle each read would pay for.
fn add(count: &AtomicU64, more: u64) {
    if COUNTS {
        count.store(count.load(Relaxed).wrapping_add(more), Relaxed);
    }
}

/// Whether bytes and messages are counted. Only the baseline build of `benches/counting` does without.
const COUNTS: bool = !cfg!(holdline_uncounted);

fn time(micros: &AtomicU32) -> Option<Duration> {
    let micros = micros.load(Relaxed);
    (micros > 0).then(|| Duration::from_micros(u64::from(micros)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_sees_what_was_written() {
        let at = |micros| TunnelTime::after(Duration::from_micros(micros));
        let counters = Counters::counting_into(Arc::default());
        counters.arrived(Side::Client, at(7));
        counters.received(Side::Client, 9);
        counters.messages(Side::Client, 1);
        counters.ping(Side::Upstream);
        counters.ping(Side::Upstream);
        counters.pong(Side::Upstream, at(10), at(40));
        counters.pong(Side::Upstream, at(50), at(50));
        counters.go_blind(Blind::Extension);
        counters.go_blind(Blind::Protocol);
        let client = Traffic { bytes: 9, messages: 1, ..Traffic::default() };
        assert_eq!((counters.traffic(Side::Client), counters.last_read(Side::Client)), (client, at(7)));
        let upstream = counters.traffic(Side::Upstream);
        assert_eq!((upstream.pings, upstream.pongs), (2, 2));
        let micros = |time: Option<Duration>| time.map(|time| time.as_micros());
        assert_eq!(micros(upstream.last_rtt), Some(1), "an answer within the microsecond is one");
        assert_eq!(micros(upstream.worst_rtt), Some(30));
        assert_eq!(counters.last_read(Side::Upstream), TunnelTime::ZERO);
        assert_eq!(counters.blind(), Some("unknown extension"));
        let all = counters.round_trips.as_ref().unwrap().of(Side::Upstream);
        assert_eq!(all.counts()[0], 2);
    }

    #[test]
    fn the_counts_of_a_tunnel_are_small() {
        // Each idle tunnel keeps them.
        assert!(size_of::<Counters>() <= 96, "{}", size_of::<Counters>());
    }
}
