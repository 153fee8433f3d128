//! Owns what a tunnel counts: numbers beside the relay, which writes them, and which anybody may read
//! while the tunnel lives.
//!
//! The relay is the only writer, so a count goes up by a load and a store, which cost what they cost
//! on plain numbers. A reader sees each number as it was a moment ago; two of them need not be of the
//! same moment.

use super::Blind;
use super::timer::Tick;
use crate::outcome::{PerSide, Side, Traffic};
use crate::telemetry::tally::RoundTrips;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64};
use std::time::Duration;

/// What is counted of one tunnel.
#[derive(Debug, Default)]
pub struct Counters {
    sides: PerSide<Count>,
    /// The number of the reason why frames are not read; 0: they are.
    blind: AtomicU8,
    /// The control's, and no count. It is here because here is room for it: there, it would take eight bytes.
    pub(super) has_mail: AtomicBool,
    /// Where round-trip times of all tunnels are counted.
    round_trips: Option<Arc<RoundTrips>>,
}

/// What is counted of one side.
#[derive(Debug, Default)]
struct Count {
    bytes: AtomicU64,
    messages: AtomicU64,
    /// Microseconds from the opening to its last byte.
    heard: AtomicU64,
    pings: AtomicU32,
    pongs: AtomicU32,
    /// Round-trip times in microseconds, which hold 71 minutes, more than any `ping.timeout`; 0: none.
    last_rtt: AtomicU32,
    worst_rtt: AtomicU32,
}

impl Counters {
    /// Nothing yet; round-trip times are also counted there.
    #[must_use]
    pub fn counting_into(round_trips: Arc<RoundTrips>) -> Self {
        Self { round_trips: Some(round_trips), ..Self::default() }
    }

    /// What a side sent up to now, and how it answered Pings.
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

    /// When the last byte came from a side; the opening, before the first.
    #[must_use]
    pub fn heard(&self, side: Side) -> Tick {
        Tick::from_micros(self.sides[side].heard.load(Relaxed))
    }

    /// Why frames are not read, if they are not.
    #[must_use]
    pub fn blind(&self) -> Option<&'static str> {
        Blind::numbered(self.blind.load(Relaxed)).map(Blind::as_str)
    }
}

// What only the relay calls.
impl Counters {
    pub(super) fn arrived(&self, side: Side, now: Tick) {
        self.sides[side].heard.store(now.micros(), Relaxed);
    }

    pub(super) fn received(&self, side: Side, bytes: usize) {
        add(&self.sides[side].bytes, bytes as u64);
    }

    pub(super) fn messages(&self, side: Side, more: u64) {
        add(&self.sides[side].messages, more);
    }

    pub(super) fn ping(&self, side: Side) {
        let pings = &self.sides[side].pings;
        pings.store(pings.load(Relaxed).wrapping_add(1), Relaxed);
    }

    /// The latest Ping, sent at `sent`, was answered.
    pub(super) fn pong(&self, side: Side, sent: Tick, now: Tick) {
        let count = &self.sides[side];
        count.pongs.store(count.pongs.load(Relaxed).wrapping_add(1), Relaxed);
        let micros = u32::try_from(now.since(sent).as_micros()).unwrap_or(u32::MAX).max(1);
        if let Some(all) = &self.round_trips {
            all.add(side, now.since(sent));
        }
        count.last_rtt.store(micros, Relaxed);
        count.worst_rtt.store(count.worst_rtt.load(Relaxed).max(micros), Relaxed);
    }

    /// Frames are not read any more, or were not from the start; the first reason counts.
    pub(super) fn go_blind(&self, reason: Blind) {
        if !self.is_blind() {
            self.blind.store(reason.number(), Relaxed);
        }
    }

    /// There are no frames: it is no WebSocket.
    pub(super) fn is_foreign(&self) -> bool {
        self.blind.load(Relaxed) == Blind::Protocol.number()
    }

    /// Frames are not read.
    pub(super) fn is_blind(&self) -> bool {
        self.blind.load(Relaxed) != 0
    }
}

/// There is one writer: no exchange is needed, whose locked cycle would be paid by each read.
fn add(count: &AtomicU64, more: u64) {
    if COUNTS {
        count.store(count.load(Relaxed).wrapping_add(more), Relaxed);
    }
}

/// Whether bytes and messages are counted: always, but for the build that `benches/counting` holds
/// others against.
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
        let at = |micros| Tick::after(Duration::from_micros(micros));
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
        assert_eq!((counters.traffic(Side::Client), counters.heard(Side::Client)), (client, at(7)));
        let upstream = counters.traffic(Side::Upstream);
        assert_eq!((upstream.pings, upstream.pongs), (2, 2));
        let micros = |time: Option<Duration>| time.map(|time| time.as_micros());
        assert_eq!(micros(upstream.last_rtt), Some(1), "an answer within the microsecond is one");
        assert_eq!(micros(upstream.worst_rtt), Some(30));
        assert_eq!(counters.heard(Side::Upstream), Tick::ZERO);
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
