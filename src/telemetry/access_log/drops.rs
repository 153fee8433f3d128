//! Owns the counts of lines that are missing in the access log, by reason, and the warning about them.

use crate::telemetry::tally::Missing;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Minimum time between two warnings.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// Delay of the first warning, so that it has a useful count.
const FIRST_LOG_DELAY: Duration = Duration::from_secs(1);

/// Why a line is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DropReason {
    /// Sampling left it out.
    Sampled,
    /// The writer's queue was full.
    Queue,
    /// The target did not accept it.
    Target,
}

/// Counts all missing lines of the process.
#[derive(Debug, Default)]
pub(super) struct Drops {
    counts: [AtomicU64; 3],
    logged: Mutex<Logged>,
}

#[derive(Debug, Default)]
struct Logged {
    what: Missing,
    /// When the first line after them was missed.
    first: Option<Duration>,
    last: Option<Duration>,
}

impl Drops {
    /// Counts missing lines.
    pub(super) fn add(&self, reason: DropReason, lines: u64) {
        self.counts[reason as usize].fetch_add(lines, Ordering::Relaxed);
    }

    /// Returns how many lines were ever missed.
    pub(super) fn all(&self) -> Missing {
        let count = |reason: DropReason| self.counts[reason as usize].load(Ordering::Relaxed);
        Missing {
            sampled: count(DropReason::Sampled),
            queue: count(DropReason::Queue),
            target: count(DropReason::Target),
        }
    }

    /// Logs new missing lines, if that is due. `now` is the time since a fixed moment.
    pub(super) fn log_due(&self, now: Duration) {
        self.take_due(now).iter().for_each(log);
    }

    /// Logs new missing lines now.
    pub(super) fn log_rest(&self) {
        self.take_due(Duration::MAX).iter().for_each(log);
    }

    fn take_due(&self, now: Duration) -> Option<Missing> {
        // Another thread holds the lock and logs them.
        let mut logged = self.logged.try_lock().ok()?;
        let all = self.all();
        let since = all.since(&logged.what);
        if since == Missing::default() {
            return None;
        }
        let first = *logged.first.get_or_insert(now);
        let is_due = now == Duration::MAX
            || now.saturating_sub(first) >= FIRST_LOG_DELAY
                && logged.last.is_none_or(|last| now.saturating_sub(last) >= LOG_INTERVAL);
        if !is_due {
            return None;
        }
        *logged = Logged { what: all, first: None, last: Some(now) };
        Some(since)
    }
}

fn log(missing: &Missing) {
    let Missing { sampled, queue, target } = missing;
    tracing::warn!(sampled, queue, target, "lines are missing in the access log");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_soon_and_then_once_a_minute() {
        let drops = Drops::default();
        let millis = Duration::from_millis;
        assert_eq!(drops.take_due(millis(0)), None);
        drops.add(DropReason::Sampled, 3);
        assert_eq!(drops.take_due(millis(10)), None);
        drops.add(DropReason::Target, 1);
        assert_eq!(drops.take_due(millis(1009)), None);
        assert_eq!(drops.take_due(millis(1010)), Some(Missing { sampled: 3, queue: 0, target: 1 }));
        drops.add(DropReason::Queue, 5);
        assert_eq!(drops.take_due(millis(2000)), None);
        assert_eq!(drops.take_due(millis(61_009)), None);
        assert_eq!(drops.take_due(millis(61_010)), Some(Missing { sampled: 0, queue: 5, target: 0 }));
        drops.add(DropReason::Queue, 2);
        assert_eq!(drops.take_due(Duration::MAX), Some(Missing { sampled: 0, queue: 2, target: 0 }));
        assert_eq!(drops.take_due(Duration::MAX), None);
        assert_eq!(drops.all(), Missing { sampled: 3, queue: 7, target: 1 });
    }
}
