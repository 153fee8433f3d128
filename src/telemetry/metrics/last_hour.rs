//! Owns the last hour and the bursts, as the metrics count them. Ends share a lock. New tunnels take it once in a
//! step only, so that no reader delays them.

use crate::outcome::Outcome;
use crate::telemetry::bursts::{Burst, Bursts};
use crate::telemetry::end_key::EndKey;
use crate::telemetry::history::{History, Step};
use crate::telemetry::report::Report;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The last hour. All times are those since the start.
#[derive(Debug, Default)]
pub(super) struct LastHour {
    /// The current step of `state`.
    step: AtomicU64,
    /// Tunnels that opened in that step and are not in `state` yet.
    opened: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    history: History,
    bursts: Bursts,
}

impl LastHour {
    /// Records that a tunnel opened.
    pub(super) fn opened(&self, at: Duration) {
        if self.step.load(Ordering::Relaxed) != History::step(at) {
            drop(self.advance(at));
        }
        self.opened.fetch_add(1, Ordering::Relaxed);
    }

    /// Records that a tunnel ended. Returns whether a burst begins with its end.
    pub(super) fn ended(&self, at: Duration, report: &Report, outcome: &Outcome) -> bool {
        let ending = &outcome.ending;
        let mut state = self.advance(at);
        let State { history, bursts } = &mut *state;
        history.ended(at, EndKey::from(ending));
        let endpoint = report.endpoint.as_ref().filter(|_| ending.cause.is_abnormal());
        endpoint
            .is_some_and(|endpoint| bursts.add(at, endpoint, ending.ended_by, ending.cause, history.open()))
    }

    pub(super) fn lately(&self, at: Duration, span: Duration) -> BTreeMap<EndKey, u64> {
        self.advance(at).history.lately(at, span)
    }

    pub(super) fn steps(&self, at: Duration) -> (Vec<Step>, Duration) {
        self.advance(at).history.steps(at)
    }

    pub(super) fn next_burst(&self) -> Option<Duration> {
        self.lock().bursts.next()
    }

    pub(super) fn bursts_over(&self, at: Duration) -> Vec<Burst> {
        self.lock().bursts.over(at)
    }

    /// Counts new tunnels in the step in which they opened, and begins the present step.
    fn advance(&self, at: Duration) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        state.history.opened(self.opened.swap(0, Ordering::Relaxed));
        state.history.advance(at);
        self.step.store(state.history.current_step(), Ordering::Relaxed);
        state
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tunnels_count_in_the_step_in_which_they_opened() {
        let hour = LastHour::default();
        let at = Duration::from_secs;
        for seconds in [1, 9, 25, 29, 31] {
            hour.opened(at(seconds));
        }
        let (steps, _) = hour.steps(at(40));
        let opened: Vec<_> = steps.iter().map(|step| (step.opened, step.tunnels)).collect();
        assert_eq!(opened, [(2, 2), (0, 2), (2, 4), (1, 5)]);
    }
}
