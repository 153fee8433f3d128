//! Owns how often the log mentions a lasting shortage: once a minute, not for each connection that waits.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Allows one log line a minute.
#[derive(Debug, Default)]
pub(crate) struct LogLimit(Mutex<Option<Instant>>);

const INTERVAL: Duration = Duration::from_secs(60);

impl LogLimit {
    /// Returns whether the caller may write a line now. If so, no other line is allowed for a minute.
    #[must_use]
    pub(crate) fn take(&self) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = last.is_none_or(|last| last.elapsed() >= INTERVAL);
        if is_due {
            *last = Some(Instant::now());
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn a_line_a_minute() {
        let limit = LogLimit::default();
        for _ in 0..3 {
            assert!(limit.take() && !limit.take());
            advance(INTERVAL - Duration::from_millis(1)).await;
            assert!(!limit.take());
            advance(Duration::from_millis(1)).await;
        }
    }
}
