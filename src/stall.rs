//! Owns what is known of stalls: time in which the process itself did not run, as it was stopped,
//! swapped out, or its machine paused. It must not be held against a peer, whose bytes may be
//! waiting to be read.

use std::time::Duration;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout as strict_timeout};

/// A timer that fires so late was not kept by load: a busy process reaches all its timers within
/// some tens of milliseconds.
const STALL: Duration = Duration::from_secs(1);
/// A timer that fires so late may be ahead of bytes that came before it: there is more to catch up
/// with than one question to the kernel answers.
const LATE: Duration = Duration::from_millis(20);

/// Whether a timer that fired late by so much tells of a stall.
#[must_use]
pub fn is_stall(late: Duration) -> bool {
    late >= STALL
}

/// Whether a timer that fired late by so much tells that the process has yet to catch up.
#[must_use]
pub fn is_late(late: Duration) -> bool {
    late >= LATE
}

/// Waits for something, for `limit` at most. If that is found to be over late, for as long again
/// as it was late, but for twice `limit` at most.
///
/// # Errors
/// It did not come.
pub async fn timeout<F: Future>(limit: Duration, awaited: F) -> Result<F::Output, Elapsed> {
    tokio::pin!(awaited);
    let (mut patience, mut left) = (limit, limit);
    loop {
        let began = Instant::now();
        let ended = strict_timeout(patience, &mut awaited).await;
        let late = began.elapsed().saturating_sub(patience).min(left);
        if ended.is_ok() || !is_late(late) {
            return ended;
        }
        (patience, left) = (late, left - late);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::{advance, sleep};

    const LIMIT: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn a_stall_does_not_count() {
        for (stall, further) in [(5_300, 200), (60_000, 4_900)] {
            let whole = Duration::from_millis(stall + further);
            let waiting = tokio::spawn(timeout(LIMIT, sleep(whole)));
            tokio::task::yield_now().await;
            advance(Duration::from_millis(stall)).await;
            assert!(waiting.await.unwrap().is_ok(), "{further} ms behind the stall");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn all_other_time_does() {
        for (stall, whole) in [(0, 5_000), (5_010, 5_010), (5_300, 5_600), (60_000, 65_000)] {
            let began = Instant::now();
            let waiting = tokio::spawn(timeout(LIMIT, std::future::pending::<()>()));
            tokio::task::yield_now().await;
            advance(Duration::from_millis(stall)).await;
            assert!(waiting.await.unwrap().is_err());
            assert!(began.elapsed().abs_diff(Duration::from_millis(whole)) < Duration::from_millis(5));
        }
    }
}
