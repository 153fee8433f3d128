//! Owns one endpoint's standing: what its failures and successes make of it. It must not know
//! sockets; the time is an argument.

use std::time::{Duration, Instant};

/// When an endpoint is taken out, and how it comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// So many failures within `fail_timeout` take it out (nginx `max_fails`); 0: never.
    pub max_fails: u32,
    /// The window of failures, and how long it stays out (nginx `fail_timeout`).
    pub fail_timeout: Duration,
    /// From its return to its full weight (nginx `slow_start`); zero: at once.
    pub slow_start: Duration,
    /// What happens after the 101 counts too; `None`: it does not.
    pub early_end: Option<EarlyEnd>,
}

/// When ends of young tunnels count as failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EarlyEnd {
    /// A tunnel that the endpoint breaks off sooner than this after its opening.
    pub within: Duration,
    /// So many in a row, with none that lasted between them, take the endpoint out. One alone
    /// proves nothing: many servers drop clients that they do not like without a Close.
    pub max: u32,
}

/// What an endpoint's past makes of it.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    fails: u32,
    first_fail: Option<Instant>,
    early_ends: u32,
    out_until: Option<Instant>,
    on_trial: bool,
    back_since: Option<Instant>,
}

/// Whether an endpoint may be given a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    /// Yes.
    Up,
    /// Yes, one: it was out, and that one decides.
    Trial,
    /// No.
    Out,
}

impl Standing {
    /// Of an endpoint that joins others under way: it starts slowly.
    #[must_use]
    pub fn newcomer(now: Instant) -> Self {
        Self { back_since: Some(now), ..Self::default() }
    }

    /// Whether it may be given a connection now.
    #[must_use]
    pub fn availability(&self, now: Instant) -> Availability {
        match self.out_until {
            None => Availability::Up,
            Some(until) if now >= until && !self.on_trial => Availability::Trial,
            Some(_) => Availability::Out,
        }
    }

    /// The one connection that decides has begun.
    pub fn begin_trial(&mut self) {
        self.on_trial = true;
    }

    /// It ended without a verdict: the client left first.
    pub fn cancel_trial(&mut self) {
        self.on_trial = false;
    }

    /// It answered.
    pub fn succeeded(&mut self, now: Instant) {
        if self.out_until.take().is_some() {
            *self = Self { back_since: Some(now), ..Self::default() };
        }
    }

    /// It refused, timed out or answered wrongly. Whether that took it out.
    pub fn failed(&mut self, rules: &Rules, now: Instant) -> bool {
        if self.first_fail.is_none_or(|first| now.saturating_duration_since(first) > rules.fail_timeout) {
            (self.fails, self.first_fail) = (0, Some(now));
        }
        self.fails += 1;
        let enough = rules.max_fails > 0 && self.fails >= rules.max_fails;
        (enough || self.on_trial) && self.take_out(rules, now)
    }

    /// It broke off a tunnel that had hardly begun. Whether that took it out.
    pub fn ended_early(&mut self, rules: &Rules, now: Instant) -> bool {
        self.early_ends += 1;
        let enough = rules.early_end.is_some_and(|early| self.early_ends >= early.max);
        enough && rules.max_fails > 0 && self.take_out(rules, now)
    }

    /// A tunnel to it lasted.
    pub fn lasted(&mut self) {
        self.early_ends = 0;
    }

    /// Failures that count towards `max_fails` now.
    #[must_use]
    pub fn fails(&self, rules: &Rules, now: Instant) -> u32 {
        let counts = |first: &Instant| now.saturating_duration_since(*first) <= rules.fail_timeout;
        self.first_fail.as_ref().filter(|first| counts(first)).map_or(0, |_| self.fails)
    }

    fn take_out(&mut self, rules: &Rules, now: Instant) -> bool {
        let news = self.out_until.is_none();
        self.out_until = Some(now + rules.fail_timeout);
        (self.on_trial, self.early_ends, self.back_since) = (false, 0, None);
        news
    }

    /// The part of its weight that it has now, in thousandths: it grows evenly over
    /// `slow_start`, and is never nothing.
    #[must_use]
    pub fn share(&self, rules: &Rules, now: Instant) -> u32 {
        let Some(since) = self.back_since.filter(|_| !rules.slow_start.is_zero()) else { return 1000 };
        let passed = now.saturating_duration_since(since).as_secs_f64() / rules.slow_start.as_secs_f64();
        (passed * 1000.0).clamp(1.0, 1000.0) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn rules() -> Rules {
        Rules {
            max_fails: 2,
            fail_timeout: 10 * SECOND,
            slow_start: 10 * SECOND,
            early_end: Some(EarlyEnd { within: 5 * SECOND, max: 3 }),
        }
    }

    #[test]
    fn failures_within_the_window_take_it_out_and_one_trial_decides() {
        let (rules, start) = (rules(), Instant::now());
        let mut standing = Standing::default();
        assert!(!standing.failed(&rules, start));
        assert!(!standing.failed(&rules, start + 11 * SECOND), "the window of the first is over");
        assert!(standing.failed(&rules, start + 12 * SECOND));
        assert_eq!(standing.availability(start + 21 * SECOND), Availability::Out);
        let trial = start + 22 * SECOND;
        assert_eq!(standing.availability(trial), Availability::Trial);
        standing.begin_trial();
        assert_eq!(standing.availability(trial), Availability::Out, "one at a time");
        assert!(!standing.failed(&rules, trial), "it was out before");
        assert_eq!(standing.availability(trial + 9 * SECOND), Availability::Out);
        standing.begin_trial();
        standing.succeeded(trial + 10 * SECOND);
        assert_eq!(standing.availability(trial + 10 * SECOND), Availability::Up);
    }

    #[test]
    fn a_cancelled_trial_leaves_room_for_the_next() {
        let (rules, start) = (rules(), Instant::now());
        let mut standing = Standing::default();
        standing.failed(&rules, start);
        standing.failed(&rules, start);
        standing.begin_trial();
        standing.cancel_trial();
        assert_eq!(standing.availability(start + 10 * SECOND), Availability::Trial);
    }

    #[test]
    fn it_comes_back_slowly() {
        let (rules, start) = (rules(), Instant::now());
        let mut standing = Standing::default();
        assert_eq!(standing.share(&rules, start), 1000);
        standing.failed(&rules, start);
        standing.failed(&rules, start);
        standing.succeeded(start + 10 * SECOND);
        assert_eq!(standing.share(&rules, start + 10 * SECOND), 1);
        assert_eq!(standing.share(&rules, start + 15 * SECOND), 500);
        assert_eq!(standing.share(&rules, start + 99 * SECOND), 1000);
    }

    #[test]
    fn early_ends_count_only_in_a_row() {
        let (rules, start) = (rules(), Instant::now());
        let mut standing = Standing::default();
        assert!(!standing.ended_early(&rules, start));
        assert!(!standing.ended_early(&rules, start));
        standing.lasted();
        assert!(!standing.ended_early(&rules, start));
        assert!(!standing.ended_early(&rules, start));
        assert!(standing.ended_early(&rules, start));
        assert_eq!(standing.availability(start), Availability::Out);
    }

    #[test]
    fn zero_fails_means_never_out() {
        let rules = Rules { max_fails: 0, ..rules() };
        let mut standing = Standing::default();
        for _ in 0..100 {
            assert!(!standing.failed(&rules, Instant::now()));
            assert!(!standing.ended_early(&rules, Instant::now()));
        }
    }
}
