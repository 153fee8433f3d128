//! Owns that the log hears of a lasting shortage now and then, not of everybody who waits.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// One line of the log in a minute.
#[derive(Debug, Default)]
pub struct LogLimit(Mutex<Option<Instant>>);

const ONE_IN: Duration = Duration::from_secs(60);

impl LogLimit {
    /// Whether a line may be written now; then no other may for a minute.
    #[must_use]
    pub fn take(&self) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let may = last.is_none_or(|last| last.elapsed() >= ONE_IN);
        if may {
            *last = Some(Instant::now());
        }
        may
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
            advance(ONE_IN - Duration::from_millis(1)).await;
            assert!(!limit.take());
            advance(Duration::from_millis(1)).await;
        }
    }
}
