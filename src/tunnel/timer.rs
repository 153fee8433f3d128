//! Owns the time of a tunnel, which begins when it opens, and the names of its timers.

use std::num::NonZeroU64;
use std::ops::Add;
use std::time::Duration;

/// A moment, in microseconds since the tunnel opened. It takes 8 bytes, also inside an `Option`: half of an `Instant`.
/// It reaches half a million years.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TunnelTime(
    /// The microseconds plus 1.
    NonZeroU64,
);

impl TunnelTime {
    /// When the tunnel opened.
    pub const ZERO: Self = Self(NonZeroU64::MIN);

    /// The moment `elapsed` after the tunnel opened.
    #[must_use]
    pub fn after(elapsed: Duration) -> Self {
        Self::from_micros(elapsed.as_micros() as u64)
    }

    /// The time from `earlier` to this moment. Zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.micros().saturating_sub(earlier.micros()))
    }

    /// The time since the tunnel opened.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        Duration::from_micros(self.micros())
    }

    pub(super) fn from_micros(micros: u64) -> Self {
        Self(NonZeroU64::MIN.saturating_add(micros))
    }

    pub(super) fn micros(self) -> u64 {
        self.0.get() - 1
    }
}

impl Default for TunnelTime {
    fn default() -> Self {
        Self::ZERO
    }
}

impl Add<Duration> for TunnelTime {
    type Output = Self;
    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span.as_micros() as u64))
    }
}

/// The timers of a tunnel. One wake-up serves all of them. The relay computes the earliest deadline from its state, so
/// traffic never touches a timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timer {
    /// The next Ping to a side is due, counted from its last byte or the last Ping to it.
    PingDue(crate::outcome::Side),
    /// A side sent no byte in time after a Ping.
    PongDue(crate::outcome::Side),
    /// The idle timeout, counted from the last byte that either side sent, or took of waiting bytes.
    Read,
    /// A side took no byte in time while some wait for it.
    Send(crate::outcome::Side),
    /// The tunnel has reached its longest permitted life.
    Lifetime,
    /// The moment of a [`CloseRequest`](super::relay::CloseRequest) has come.
    CloseRequest,
    /// The sides did not close in time after the end was decided.
    CloseGrace,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_add_and_subtract() {
        let time = TunnelTime::after(Duration::from_secs(3)) + Duration::from_millis(250);
        assert_eq!(time.elapsed(), Duration::from_millis(3250));
        assert_eq!(time.since(TunnelTime::ZERO + Duration::from_secs(1)), Duration::from_millis(2250));
        assert_eq!(TunnelTime::ZERO.since(time), Duration::ZERO);
    }
}
