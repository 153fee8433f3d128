//! Owns the last hour, in steps of ten seconds. It keeps no clock: steps that are over are filled in
//! when something happens, or when somebody looks.

use std::collections::VecDeque;
use std::time::Duration;

/// What a step has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Tunnels open at its end.
    pub tunnels: u64,
    /// Tunnels that opened in it.
    pub opened: u64,
    /// Tunnels that ended in it.
    pub ended: u64,
    /// Those of them whose end was nobody's wish.
    pub abnormal: u64,
}

/// The last hour.
#[derive(Debug, Default)]
pub struct History {
    /// Steps that are over, the oldest first.
    steps: VecDeque<Step>,
    /// Number of the step under way, since the beginning.
    number: u64,
    current: Step,
}

impl History {
    /// How long a step is.
    pub const STEP: Duration = Duration::from_secs(10);
    /// How many there are.
    pub const STEPS: usize = 360;

    /// A tunnel opened; `at` is the time since the beginning.
    pub fn opened(&mut self, at: Duration) {
        self.advance(at);
        self.current.opened += 1;
        self.current.tunnels += 1;
    }

    /// A tunnel ended.
    pub fn ended(&mut self, at: Duration, abnormal: bool) {
        self.advance(at);
        self.current.ended += 1;
        self.current.abnormal += u64::from(abnormal);
        self.current.tunnels = self.current.tunnels.saturating_sub(1);
    }

    /// The steps that are over, the oldest first, and when the last of them ended. There are fewer than
    /// [`History::STEPS`] in the first hour.
    pub fn steps(&mut self, at: Duration) -> (Vec<Step>, Duration) {
        self.advance(at);
        (self.steps.iter().copied().collect(), Self::STEP * u32::try_from(self.number).unwrap_or(u32::MAX))
    }

    fn advance(&mut self, at: Duration) {
        let number = at.as_secs() / Self::STEP.as_secs();
        // After a long silence only the last hour of it matters.
        let missing = number.saturating_sub(self.number).min(Self::STEPS as u64 + 1);
        for _ in 0..missing {
            self.steps.push_back(self.current);
            if self.steps.len() > Self::STEPS {
                self.steps.pop_front();
            }
            self.current = Step { tunnels: self.current.tunnels, ..Step::default() };
        }
        self.number = self.number.max(number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn steps_are_filled_in_afterwards() {
        let mut history = History::default();
        history.opened(at(1));
        history.opened(at(2));
        history.ended(at(25), true);
        let (steps, until) = history.steps(at(31));
        let step = |tunnels, opened, ended, abnormal| Step { tunnels, opened, ended, abnormal };
        assert_eq!(steps, [step(2, 2, 0, 0), step(2, 0, 0, 0), step(1, 0, 1, 1)]);
        assert_eq!(until, at(30));
    }

    #[test]
    fn an_hour_is_kept_however_long_nothing_happened() {
        let mut history = History::default();
        history.opened(at(3));
        let (steps, until) = history.steps(at(1_000_000));
        assert_eq!((steps.len(), until), (History::STEPS, at(1_000_000)));
        assert!(steps.iter().all(|step| (step.tunnels, step.opened) == (1, 0)));
        history.ended(at(1_000_009), false);
        assert_eq!(history.steps(at(1_000_010)).0.last().unwrap().ended, 1);
    }
}
