//! Owns what is known of stalls: time in which the process itself did not run, as it was stopped,
//! swapped out, or its machine paused. It must not be held against a peer, whose bytes may be
//! waiting to be read.

use std::time::Duration;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout as strict_timeout};

/// A timer that fires so late has not been kept by load alone: a busy process reaches all its
/// timers within some tens of milliseconds.
const STALL: Duration = Duration::from_secs(1);

/// Whether a timer that fired late by so much tells of a stall.
#[must_use]
pub fn is_stall(late: Duration) -> bool {
    late >= STALL
}

/// Waits for something, for `limit` at most; if that ran out in a stall, it begins anew.
///
/// # Errors
/// It did not come.
pub async fn timeout<F: Future>(limit: Duration, awaited: F) -> Result<F::Output, Elapsed> {
    tokio::pin!(awaited);
    loop {
        let began = Instant::now();
        match strict_timeout(limit, &mut awaited).await {
            Err(_) if is_stall(began.elapsed().saturating_sub(limit)) => {}
            ended => return ended,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::{advance, sleep};

    const LIMIT: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn a_stall_does_not_count() {
        let began = Instant::now();
        let waiting = tokio::spawn(timeout(LIMIT, sleep(Duration::from_secs(63))));
        tokio::task::yield_now().await;
        advance(Duration::from_secs(60)).await;
        assert!(waiting.await.unwrap().is_ok(), "3 s behind the stall");
        assert_eq!(began.elapsed().as_secs(), 63);
    }

    #[tokio::test(start_paused = true)]
    async fn all_other_time_does() {
        let began = Instant::now();
        assert!(timeout(LIMIT, std::future::pending::<()>()).await.is_err());
        assert_eq!(began.elapsed().as_secs(), 5);
        let waiting = tokio::spawn(timeout(LIMIT, std::future::pending::<()>()));
        tokio::task::yield_now().await;
        advance(LIMIT + STALL / 2).await;
        assert!(waiting.await.unwrap().is_err());
        assert_eq!(began.elapsed().as_secs(), 10);
    }
}
