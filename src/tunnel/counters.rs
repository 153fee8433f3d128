//! Owns what a tunnel counts: plain numbers beside the relay, read once at the end.

use super::timer::Tick;
use crate::outcome::Traffic;
use std::time::Duration;

/// What is counted of one side.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    bytes: u64,
    messages: u64,
    pings: u32,
    pongs: u32,
    last_rtt: Option<Micros>,
    worst_rtt: Option<Micros>,
}

/// A round-trip time; 32 bits of microseconds hold 71 minutes, more than any `ping.timeout`.
type Micros = std::num::NonZeroU32;

impl Counters {
    pub(super) fn received(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    pub(super) fn message(&mut self) {
        self.messages += 1;
    }

    pub(super) fn ping(&mut self) {
        self.pings += 1;
    }

    /// The latest Ping, sent at `sent`, was answered.
    pub(super) fn pong(&mut self, sent: Tick, now: Tick) {
        self.pongs += 1;
        let micros = u32::try_from(now.since(sent).as_micros()).unwrap_or(u32::MAX);
        self.last_rtt = Some(Micros::new(micros).unwrap_or(Micros::MIN));
        self.worst_rtt = self.worst_rtt.max(self.last_rtt);
    }

    /// The counts as a report wants them.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        let time = |micros: Micros| Duration::from_micros(u64::from(micros.get()));
        Traffic {
            bytes: self.bytes,
            messages: self.messages,
            pings: self.pings,
            pongs: self.pongs,
            last_rtt: self.last_rtt.map(time),
            worst_rtt: self.worst_rtt.map(time),
        }
    }
}
