//! Owns the tunnel's notion of time: ticks since it opened, and the names of its timers.

use std::num::NonZeroU64;
use std::ops::Add;
use std::time::Duration;

/// A moment, in microseconds since the tunnel opened. Half the size of an `Instant`, as one that may
/// be missing too, and good for half a million years.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick(
    /// One more than the microseconds.
    NonZeroU64,
);

impl Tick {
    /// The opening.
    pub const ZERO: Self = Self(NonZeroU64::MIN);

    /// The moment `elapsed` after the opening.
    #[must_use]
    pub fn after(elapsed: Duration) -> Self {
        Self::from_micros(elapsed.as_micros() as u64)
    }

    /// Time from `earlier` to this; zero if that is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.micros().saturating_sub(earlier.micros()))
    }

    /// Time since the opening.
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

impl Default for Tick {
    fn default() -> Self {
        Self::ZERO
    }
}

impl Add<Duration> for Tick {
    type Output = Self;
    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span.as_micros() as u64))
    }
}

/// Everything a tunnel waits for by the clock. There is one wake-up for all of them: the earliest
/// is computed from what was last seen, so traffic never touches a timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// From the last byte of a side, or the last Ping to it, to the next Ping.
    PingDue(crate::outcome::Side),
    /// From a Ping to the end of waiting for any byte.
    PongDue(crate::outcome::Side),
    /// From the last byte of either side, or the last that one took of what waited for it, to
    /// giving both up.
    Read,
    /// From the last byte a side took, while more are waiting for it, to giving it up.
    Send(crate::outcome::Side),
    /// From the opening to the longest permitted life.
    Lifetime,
    /// From an order to close to its moment.
    Order,
    /// From the decision to end to cutting whatever has not closed by itself.
    CloseGrace,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_add_and_subtract() {
        let tick = Tick::after(Duration::from_secs(3)) + Duration::from_millis(250);
        assert_eq!(tick.elapsed(), Duration::from_millis(3250));
        assert_eq!(tick.since(Tick::ZERO + Duration::from_secs(1)), Duration::from_millis(2250));
        assert_eq!(Tick::ZERO.since(tick), Duration::ZERO);
    }
}
