//! Owns the last hour, in steps of ten seconds. It has no clock: an event or a reader fills in the steps that
//! are over.

use super::end_key::EndKey;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// The counts of one step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Tunnels open at its end.
    pub tunnels: u64,
    /// Tunnels that opened in it.
    pub opened: u64,
    /// Tunnels that ended in it.
    pub ended: u64,
    /// Tunnels of these that ended abnormally.
    pub abnormal: u64,
    /// Their causes. There are few, and most steps have none.
    pub causes: Vec<(EndKey, u64)>,
}

/// The last hour.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// Steps that are over, the oldest first.
    steps: VecDeque<Step>,
    /// Number of the current step, since the start.
    number: u64,
    current: Step,
}

impl History {
    /// Length of a step.
    pub(crate) const STEP: Duration = Duration::from_secs(10);
    /// Number of steps.
    pub(crate) const STEPS: usize = 360;

    /// Returns the number of the step at `at`, the time since the start.
    #[must_use]
    pub(crate) fn step(at: Duration) -> u64 {
        at.as_secs() / Self::STEP.as_secs()
    }

    /// Returns the number of the current step.
    #[must_use]
    pub(crate) fn current_step(&self) -> u64 {
        self.number
    }

    /// Records that tunnels opened in the current step.
    pub(crate) fn opened(&mut self, tunnels: u64) {
        self.current.opened += tunnels;
        self.current.tunnels += tunnels;
    }

    /// Records that a tunnel ended.
    pub(crate) fn ended(&mut self, at: Duration, key: EndKey) {
        self.advance(at);
        self.current.ended += 1;
        self.current.abnormal += u64::from(key.cause.is_abnormal());
        match self.current.causes.iter_mut().find(|(known, _)| *known == key) {
            Some((_, count)) => *count += 1,
            None => self.current.causes.push((key, 1)),
        }
        self.current.tunnels = self.current.tunnels.saturating_sub(1);
    }

    /// Returns the completed steps, the oldest first, and when the last of them ended. There are fewer than
    /// [`History::STEPS`] in the first hour.
    pub(crate) fn steps(&mut self, at: Duration) -> (Vec<Step>, Duration) {
        self.advance(at);
        (self.steps.iter().cloned().collect(), Self::STEP * u32::try_from(self.number).unwrap_or(u32::MAX))
    }

    /// Returns how tunnels ended within the last `span`, in whole steps and the current one.
    pub(crate) fn lately(&mut self, at: Duration, span: Duration) -> BTreeMap<EndKey, u64> {
        self.advance(at);
        let steps = usize::try_from(span.as_secs() / Self::STEP.as_secs()).unwrap_or(usize::MAX);
        let mut counts = BTreeMap::new();
        for (key, count) in
            self.steps.iter().rev().take(steps).chain([&self.current]).flat_map(|step| &step.causes)
        {
            *counts.entry(*key).or_default() += count;
        }
        counts
    }

    /// Returns the number of open tunnels.
    #[must_use]
    pub(crate) fn open(&self) -> u64 {
        self.current.tunnels
    }

    /// Fills in the steps that are over at `at`.
    pub(crate) fn advance(&mut self, at: Duration) {
        let number = Self::step(at);
        // After a long pause, only its last hour matters.
        let missing = number.saturating_sub(self.number).min(Self::STEPS as u64 + 1);
        for _ in 0..missing {
            let next = Step { tunnels: self.current.tunnels, ..Step::default() };
            self.steps.push_back(std::mem::replace(&mut self.current, next));
            if self.steps.len() > Self::STEPS {
                self.steps.pop_front();
            }
        }
        self.number = self.number.max(number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::{Cause, EndedBy};
    use crate::telemetry::end_key::Code;

    fn key(cause: Cause) -> EndKey {
        EndKey { ended_by: EndedBy::Upstream, cause, code: Code::None }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn steps_are_filled_in_afterwards() {
        let mut history = History::default();
        history.opened(2);
        history.ended(at(25), key(Cause::Eof));
        let (steps, until) = history.steps(at(31));
        let step = |tunnels, opened| Step { tunnels, opened, ..Step::default() };
        let last = Step { ended: 1, abnormal: 1, causes: vec![(key(Cause::Eof), 1)], ..step(1, 0) };
        assert_eq!(steps, [step(2, 2), step(2, 0), last]);
        assert_eq!(until, at(30));
    }

    #[test]
    fn an_hour_is_kept_however_long_nothing_happened() {
        let mut history = History::default();
        history.opened(1);
        let (steps, until) = history.steps(at(1_000_000));
        assert_eq!((steps.len(), until), (History::STEPS, at(1_000_000)));
        assert!(steps.iter().all(|step| (step.tunnels, step.opened) == (1, 0)));
        history.ended(at(1_000_009), key(Cause::Close));
        assert_eq!(history.steps(at(1_000_010)).0.last().unwrap().ended, 1);
    }

    #[test]
    fn recent_events_do_not_depend_on_earlier_reads() {
        let mut history = History::default();
        history.ended(at(5), key(Cause::Eof));
        history.ended(at(100), key(Cause::Eof));
        history.ended(at(301), key(Cause::Reset));
        let five_minutes = Duration::from_secs(300);
        let counts = |history: &mut History, now| -> Vec<_> {
            history.lately(at(now), five_minutes).into_iter().map(|(key, count)| (key.cause, count)).collect()
        };
        assert_eq!(counts(&mut history, 302), [(Cause::Eof, 2), (Cause::Reset, 1)]);
        assert_eq!(counts(&mut history, 311), [(Cause::Eof, 1), (Cause::Reset, 1)]);
        assert_eq!(counts(&mut history, 5000), []);
    }
}
