//! Owns a compact wall-clock time: half the size of a `SystemTime`.

use std::time::{Duration, SystemTime};

/// A time in microseconds since 1970. It lasts half a million years.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnixMicros(u64);

impl From<SystemTime> for UnixMicros {
    /// A time before 1970 becomes 1970.
    fn from(time: SystemTime) -> Self {
        Self(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros() as u64)
    }
}

impl From<UnixMicros> for SystemTime {
    fn from(UnixMicros(micros): UnixMicros) -> Self {
        Self::UNIX_EPOCH + Duration::from_micros(micros)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_kept_to_the_microsecond() {
        let kept = |time| SystemTime::from(UnixMicros::from(time));
        let at = |nanos| SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos);
        assert_eq!(kept(at(1_500_000_000_123_456_789)), at(1_500_000_000_123_456_000));
        assert_eq!(kept(SystemTime::UNIX_EPOCH - Duration::from_secs(1)), SystemTime::UNIX_EPOCH);
    }
}
