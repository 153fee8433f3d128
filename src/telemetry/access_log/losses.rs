//! Owns the count of lines that are missing in the access log, by cause, and the warning of them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What is missing is said once in this time at most.
const SAID_EVERY: Duration = Duration::from_secs(60);
/// The first time it is said so long after the first line, so that there is a count to say.
const SAID_AFTER: Duration = Duration::from_secs(1);

/// Why a line is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// It was left out under a flood.
    Sampled,
    /// The thread that writes had no room for it.
    Queue,
    /// The target did not take it.
    Target,
}

/// Lines that are missing, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// Left out under a flood.
    pub sampled: u64,
    /// Lost, as the target was too slow.
    pub queue: u64,
    /// Lost, as the target failed.
    pub target: u64,
}

impl Missing {
    fn since(&self, before: &Self) -> Self {
        Self {
            sampled: self.sampled - before.sampled,
            queue: self.queue - before.queue,
            target: self.target - before.target,
        }
    }

    fn say(&self) {
        let Self { sampled, queue, target } = self;
        tracing::warn!(sampled, queue, target, "lines are missing in the access log");
    }
}

/// What the process has lost.
#[derive(Debug, Default)]
pub(super) struct Losses {
    counts: [AtomicU64; 3],
    said: Mutex<Said>,
}

#[derive(Debug, Default)]
struct Said {
    what: Missing,
    /// When the first was seen that is not among them.
    first: Option<Duration>,
    last: Option<Duration>,
}

impl Losses {
    /// So many more are missing.
    pub(super) fn add(&self, cause: Cause, lines: u64) {
        self.counts[cause as usize].fetch_add(lines, Ordering::Relaxed);
    }

    /// How many ever were.
    pub(super) fn all(&self) -> Missing {
        let count = |cause: Cause| self.counts[cause as usize].load(Ordering::Relaxed);
        Missing { sampled: count(Cause::Sampled), queue: count(Cause::Queue), target: count(Cause::Target) }
    }

    /// Says what is new, if it is time. `now` is the time since a fixed moment.
    pub(super) fn tell(&self, now: Duration) {
        self.news(now).iter().for_each(Missing::say);
    }

    /// Says what is new in any case.
    pub(super) fn tell_rest(&self) {
        self.news(Duration::MAX).iter().for_each(Missing::say);
    }

    fn news(&self, now: Duration) -> Option<Missing> {
        // Whoever has it sees to it.
        let mut said = self.said.try_lock().ok()?;
        let all = self.all();
        let since = all.since(&said.what);
        if since == Missing::default() {
            return None;
        }
        let first = *said.first.get_or_insert(now);
        let is_due = now == Duration::MAX
            || now.saturating_sub(first) >= SAID_AFTER
                && said.last.is_none_or(|last| now.saturating_sub(last) >= SAID_EVERY);
        if !is_due {
            return None;
        }
        *said = Said { what: all, first: None, last: Some(now) };
        Some(since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_soon_and_then_once_a_minute() {
        let losses = Losses::default();
        let millis = Duration::from_millis;
        assert_eq!(losses.news(millis(0)), None);
        losses.add(Cause::Sampled, 3);
        assert_eq!(losses.news(millis(10)), None);
        losses.add(Cause::Target, 1);
        assert_eq!(losses.news(millis(1009)), None);
        assert_eq!(losses.news(millis(1010)), Some(Missing { sampled: 3, queue: 0, target: 1 }));
        losses.add(Cause::Queue, 5);
        assert_eq!(losses.news(millis(2000)), None);
        assert_eq!(losses.news(millis(61_009)), None);
        assert_eq!(losses.news(millis(61_010)), Some(Missing { sampled: 0, queue: 5, target: 0 }));
        losses.add(Cause::Queue, 2);
        assert_eq!(losses.news(Duration::MAX), Some(Missing { sampled: 0, queue: 2, target: 0 }));
        assert_eq!(losses.news(Duration::MAX), None);
        assert_eq!(losses.all(), Missing { sampled: 3, queue: 7, target: 1 });
    }
}
