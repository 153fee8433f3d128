//! Owns moments of the wall clock as they are kept: half the size of a `SystemTime`.

use std::time::{Duration, SystemTime};

/// A moment, in microseconds since 1970; good for half a million years.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp(u64);

impl From<SystemTime> for Stamp {
    /// What is before 1970 becomes 1970.
    fn from(time: SystemTime) -> Self {
        Self(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros() as u64)
    }
}

impl From<Stamp> for SystemTime {
    fn from(Stamp(micros): Stamp) -> Self {
        Self::UNIX_EPOCH + Duration::from_micros(micros)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_kept_to_the_microsecond() {
        let kept = |time| SystemTime::from(Stamp::from(time));
        let at = |nanos| SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos);
        assert_eq!(kept(at(1_500_000_000_123_456_789)), at(1_500_000_000_123_456_000));
        assert_eq!(kept(SystemTime::UNIX_EPOCH - Duration::from_secs(1)), SystemTime::UNIX_EPOCH);
    }
}
