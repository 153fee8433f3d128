//! Owns how many lines of the access log connections get that never became a request: a flood of them
//! must not push out, or drown, the lines of those that did.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Lines in a second; scanners take a few, and of a flood these show what it is made of.
const LINES: u32 = 100;
/// What was left out is said this long after the first, and so once in this time.
const SAY_AFTER: Duration = Duration::from_secs(60);

/// What was written and left out.
#[derive(Debug, Default)]
pub(super) struct Unasked(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    second: Option<Instant>,
    lines: u32,
    left_out: u64,
}

impl Unasked {
    /// Whether one more may have its line; if not, it is counted, and the count is told in time.
    pub(super) fn may_speak(self: &Arc<Self>) -> bool {
        let (may, first) = self.count(Instant::now());
        if first {
            let unasked = Arc::clone(self);
            tokio::spawn(async move {
                sleep(SAY_AFTER).await;
                let connections = unasked.take_left_out();
                tracing::warn!(
                    connections,
                    "so many connections without a request have no line in the access log, for there were too many at once"
                );
            });
        }
        may
    }

    /// Whether it may, and whether it is the first that may not.
    fn count(&self, now: Instant) -> (bool, bool) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.second.is_none_or(|second| now - second >= Duration::from_secs(1)) {
            (state.second, state.lines) = (Some(now), 0);
        }
        let may = state.lines < LINES;
        match may {
            true => state.lines += 1,
            false => state.left_out += 1,
        }
        (may, !may && state.left_out == 1)
    }

    fn take_left_out(&self) -> u64 {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_has_so_many_lines_a_second_and_what_is_left_out_is_counted() {
        let unasked = Arc::new(Unasked::default());
        let speaks = || (0..1_000).filter(|_| unasked.may_speak()).count();
        assert_eq!(speaks(), LINES as usize);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(speaks(), LINES as usize);
        assert_eq!(unasked.0.lock().unwrap().left_out, 1_800);
        sleep(SAY_AFTER).await;
        assert_eq!(unasked.0.lock().unwrap().left_out, 0, "it was said");
        assert!(unasked.may_speak());
    }
}
