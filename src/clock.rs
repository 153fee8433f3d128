//! Owns lateness and repetition: how late timers fire, and how often the log says the same.
//!
//! A late timer tells of a pause of the process itself: it was stopped, swapped out, or its machine was frozen. A
//! pause must not count against a peer, because the peer's bytes may already be waiting in the kernel.

mod log_limit;

pub(crate) use log_limit::LogLimit;
use std::time::Duration;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout as strict_timeout};

/// A timer this late means that the process was paused. Load alone delays a timer by some tens of
/// milliseconds.
const STALL: Duration = Duration::from_secs(1);
/// A timer this late may fire before bytes that arrived earlier were read. One look into the socket does not
/// show all of them.
const LATE: Duration = Duration::from_millis(20);

/// Whether a timer that fired this late shows that the process was paused.
#[must_use]
pub(crate) fn is_stall(late: Duration) -> bool {
    late >= STALL
}

/// Whether a timer that fired this late may have overtaken bytes that wait to be read.
#[must_use]
pub(crate) fn is_late(late: Duration) -> bool {
    late >= LATE
}

/// Awaits `awaited` for at most `limit`. If the timer fires late, it waits again for as long as the timer was
/// late. These extensions add up to at most another `limit`.
///
/// # Errors
/// [`Elapsed`] if `awaited` is still pending after the limit and all extensions.
pub(crate) async fn timeout<F: Future>(limit: Duration, awaited: F) -> Result<F::Output, Elapsed> {
    tokio::pin!(awaited);
    let (mut wait, mut extension_left) = (limit, limit);
    loop {
        let began = Instant::now();
        let ended = strict_timeout(wait, &mut awaited).await;
        let late = began.elapsed().saturating_sub(wait).min(extension_left);
        if ended.is_ok() || !is_late(late) {
            return ended;
        }
        (wait, extension_left) = (late, extension_left - late);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::{advance, sleep};

    const LIMIT: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn a_pause_of_the_process_does_not_count() {
        for (stall, further) in [(5_300, 200), (60_000, 4_900)] {
            let whole = Duration::from_millis(stall + further);
            let waiting = tokio::spawn(timeout(LIMIT, sleep(whole)));
            tokio::task::yield_now().await;
            advance(Duration::from_millis(stall)).await;
            assert!(waiting.await.unwrap().is_ok(), "{further} ms after the pause");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn all_other_time_counts() {
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
