//! Owns the health of one endpoint, which follows from the evidence about it. It must not know sockets. The time is
//! an argument.

mod testimony;

pub(crate) use testimony::Witness;

use std::time::{Duration, Instant};
use testimony::{Agreement, Testimony};

/// When failures take an endpoint out, and how it comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    /// This many failures within `fail_timeout` take it out (nginx `max_fails`). 0 means never.
    pub max_fails: u32,
    /// The window of failures, and how long the endpoint stays out (nginx `fail_timeout`).
    pub fail_timeout: Duration,
    /// How long it takes from its return to its full weight (nginx `slow_start`). Zero means no time.
    pub slow_start: Duration,
    /// The share of endpoints that failures which clients may have caused can take out (Envoy
    /// `max_ejection_percent`).
    pub max_ejected: Percent,
    /// When early ends of tunnels count as failures. `None` means never.
    pub early_end: Option<EarlyEnd>,
}

/// When early ends of tunnels count as failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EarlyEnd {
    /// An end counts if the endpoint breaks the tunnel off sooner than this after it opened.
    pub within: Duration,
    /// This many in a row take the endpoint out. A tunnel that lasts starts the row again. One end alone proves
    /// nothing: many servers drop clients that they refuse without a Close.
    pub max: u32,
}

/// A percentage, 0 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Percent(pub u8);

/// An observation of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Evidence {
    /// It answered a request.
    Answered,
    /// It failed in a way that no client can cause: it refused the connection, could not be reached, failed the TLS
    /// handshake, or answered a key wrongly.
    Failed,
    /// It failed, but the request may have caused the failure: it broke off before the answer, did not answer in
    /// time, or gave a bad answer.
    FailedOver(Witness),
    /// It broke off a young tunnel.
    EndedEarly(Witness),
    /// A tunnel to it lasted.
    Lasted,
}

/// What follows from a piece of evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing yet. A failure is only remembered while one client alone may have caused it.
    Remembered,
    /// It counts as a failure.
    Counted,
    /// It counts as a failure, and took the endpoint out.
    TakenOut,
    /// It brought the endpoint back.
    Back,
}

/// The endpoints of an upstream that are in use, including this one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Group {
    /// How many there are.
    pub all: usize,
    /// How many of the others are out.
    pub others_out: usize,
}

impl Group {
    /// Whether failures that clients may have caused can take out one more. A single endpoint always stays (nginx
    /// ignores `max_fails` then). Of several, one may always go (Envoy). One client alone never takes out a second one.
    fn has_room(self, agreement: Agreement, most: Percent) -> bool {
        let most = match self.all {
            0 | 1 => 0,
            _ if most.0 == 0 => 0,
            all => (all * usize::from(most.0) / 100).max(1),
        };
        match agreement {
            Agreement::Nobody => false,
            Agreement::Targets => most > 0 && self.others_out == 0,
            Agreement::Clients => self.others_out < most,
        }
    }
}

/// The health of an endpoint.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standing {
    fails: u32,
    first_fail: Option<Instant>,
    /// Failures that clients may have caused.
    doubts: Testimony,
    /// Young tunnels that it broke off, in a row.
    early_ends: Testimony,
    out_until: Option<Instant>,
    on_trial: bool,
    back_since: Option<Instant>,
}

/// Whether an endpoint may take a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    /// It may take any connection.
    Up,
    /// It was out, and may take one connection as a trial.
    Trial,
    /// It may take none.
    Out,
}

impl Standing {
    /// Returns the health of a new endpoint beside others that already serve. It starts slowly.
    #[must_use]
    pub(crate) fn newcomer(now: Instant) -> Self {
        Self { back_since: Some(now), ..Self::default() }
    }

    /// Returns whether it may take a connection now.
    #[must_use]
    pub(crate) fn availability(&self, now: Instant) -> Availability {
        match self.out_until {
            None => Availability::Up,
            Some(until) if now >= until && !self.on_trial => Availability::Trial,
            Some(_) => Availability::Out,
        }
    }

    /// Records that the trial connection has begun.
    pub(crate) fn begin_trial(&mut self) {
        self.on_trial = true;
    }

    /// Records that the trial ended without a result, because the client left first.
    pub(crate) fn cancel_trial(&mut self) {
        self.on_trial = false;
    }

    /// Records evidence, and returns what follows. `group` matters only for evidence that names a witness.
    pub(crate) fn record(
        &mut self,
        evidence: Evidence,
        group: Group,
        rules: &Rules,
        now: Instant,
    ) -> Verdict {
        match evidence {
            Evidence::Answered => self.answered(now),
            Evidence::Failed => self.failed(rules, now),
            Evidence::FailedOver(witness) => self.failed_over(witness, group, rules, now),
            Evidence::EndedEarly(witness) => self.ended_early(witness, group, rules, now),
            Evidence::Lasted => {
                self.early_ends.clear();
                Verdict::Remembered
            }
        }
    }

    fn answered(&mut self, now: Instant) -> Verdict {
        if self.out_until.is_none() {
            self.doubts.answered();
            return Verdict::Remembered;
        }
        *self = Self { back_since: Some(now), ..Self::default() };
        Verdict::Back
    }

    fn failed(&mut self, rules: &Rules, now: Instant) -> Verdict {
        if self.fails(rules, now) == 0 {
            (self.fails, self.first_fail) = (0, Some(now));
        }
        self.fails = self.fails.saturating_add(1);
        self.count(self.fails, true, rules, now)
    }

    fn failed_over(&mut self, witness: Witness, group: Group, rules: &Rules, now: Instant) -> Verdict {
        // What took it out still counts against it at its trial.
        self.doubts.add(witness, now, if self.on_trial { Duration::MAX } else { rules.fail_timeout });
        let agreement = self.doubts.agreement();
        if agreement == Agreement::Nobody {
            // It decides nothing. The next connection is the trial.
            self.on_trial = false;
            return Verdict::Remembered;
        }
        let may_go = group.has_room(agreement, rules.max_ejected);
        self.count(self.counted(rules, now), may_go, rules, now)
    }

    /// Counts a failure, and takes the endpoint out if these are enough.
    fn count(&mut self, fails: u32, may_go: bool, rules: &Rules, now: Instant) -> Verdict {
        let enough = rules.max_fails > 0 && fails >= rules.max_fails;
        let out = may_go && (enough || self.on_trial) && self.take_out(rules, now);
        self.on_trial = false;
        if out { Verdict::TakenOut } else { Verdict::Counted }
    }

    fn ended_early(&mut self, witness: Witness, group: Group, rules: &Rules, now: Instant) -> Verdict {
        self.early_ends.add(witness, now, Duration::MAX);
        let agreement = self.early_ends.agreement();
        if agreement == Agreement::Nobody {
            return Verdict::Remembered;
        }
        let enough = rules.early_end.is_some_and(|early| self.early_ends.count() >= early.max);
        let may_go = rules.max_fails > 0 && group.has_room(agreement, rules.max_ejected);
        if enough && may_go && self.take_out(rules, now) { Verdict::TakenOut } else { Verdict::Counted }
    }

    /// Returns how many failures count towards `max_fails` now.
    #[must_use]
    pub(crate) fn counted(&self, rules: &Rules, now: Instant) -> u32 {
        let agreed = self.doubts.agreement() != Agreement::Nobody;
        let is_current = self.doubts.is_current(now, rules.fail_timeout);
        let doubts = if agreed && is_current { self.doubts.count() } else { 0 };
        self.fails(rules, now).saturating_add(doubts)
    }

    fn fails(&self, rules: &Rules, now: Instant) -> u32 {
        let counts = |first: &Instant| now.saturating_duration_since(*first) <= rules.fail_timeout;
        self.first_fail.as_ref().filter(|first| counts(first)).map_or(0, |_| self.fails)
    }

    /// Takes it out. Returns whether it was in before.
    fn take_out(&mut self, rules: &Rules, now: Instant) -> bool {
        let was_in = self.out_until.is_none();
        self.out_until = Some(now + rules.fail_timeout);
        self.early_ends.clear();
        (self.on_trial, self.back_since) = (false, None);
        was_in
    }

    /// Returns its current share of its weight, in thousandths. The share grows evenly over `slow_start`, from 1.
    #[must_use]
    pub(crate) fn share(&self, rules: &Rules, now: Instant) -> u32 {
        let Some(since) = self.back_since.filter(|_| !rules.slow_start.is_zero()) else { return 1000 };
        let passed = now.saturating_duration_since(since).as_secs_f64() / rules.slow_start.as_secs_f64();
        (passed * 1000.0).clamp(1.0, 1000.0) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);
    /// Two endpoints. The other one serves.
    const PAIR: Group = Group { all: 2, others_out: 0 };

    fn rules() -> Rules {
        Rules {
            max_fails: 2,
            fail_timeout: 10 * SECOND,
            slow_start: 10 * SECOND,
            max_ejected: Percent(50),
            early_end: Some(EarlyEnd { within: 5 * SECOND, max: 3 }),
        }
    }

    fn by(client: u32, target: &str) -> Witness {
        Witness::new(client, target)
    }

    /// It refuses: whether that took it out.
    fn refuses(standing: &mut Standing, now: Instant) -> bool {
        standing.record(Evidence::Failed, PAIR, &rules(), now) == Verdict::TakenOut
    }

    /// It answers: whether that brought it back.
    fn answers(standing: &mut Standing, now: Instant) -> bool {
        standing.record(Evidence::Answered, PAIR, &rules(), now) == Verdict::Back
    }

    fn taken_out(now: Instant) -> Standing {
        let mut standing = Standing::default();
        assert!(!refuses(&mut standing, now));
        assert!(refuses(&mut standing, now));
        standing
    }

    #[test]
    fn failures_within_the_window_take_it_out_and_one_trial_decides() {
        let start = Instant::now();
        let mut standing = Standing::default();
        assert!(!refuses(&mut standing, start));
        assert!(!refuses(&mut standing, start + 11 * SECOND), "the window of the first is over");
        assert!(refuses(&mut standing, start + 12 * SECOND));
        assert_eq!(standing.availability(start + 21 * SECOND), Availability::Out);
        let trial = start + 22 * SECOND;
        assert_eq!(standing.availability(trial), Availability::Trial);
        standing.begin_trial();
        assert_eq!(standing.availability(trial), Availability::Out, "one at a time");
        assert!(!refuses(&mut standing, trial), "it was out before");
        assert_eq!(standing.availability(trial + 9 * SECOND), Availability::Out);
        standing.begin_trial();
        assert!(answers(&mut standing, trial + 10 * SECOND));
        assert_eq!(standing.availability(trial + 10 * SECOND), Availability::Up);
        assert!(!answers(&mut standing, trial + 10 * SECOND), "it was back before");
    }

    #[test]
    fn a_cancelled_trial_leaves_room_for_the_next() {
        let start = Instant::now();
        let mut standing = taken_out(start);
        standing.begin_trial();
        standing.cancel_trial();
        assert_eq!(standing.availability(start + 10 * SECOND), Availability::Trial);
    }

    #[test]
    fn it_comes_back_slowly() {
        let (rules, start) = (rules(), Instant::now());
        assert_eq!(Standing::default().share(&rules, start), 1000);
        let mut standing = taken_out(start);
        answers(&mut standing, start + 10 * SECOND);
        assert_eq!(standing.share(&rules, start + 10 * SECOND), 1);
        assert_eq!(standing.share(&rules, start + 15 * SECOND), 500);
        assert_eq!(standing.share(&rules, start + 99 * SECOND), 1000);
    }

    #[test]
    fn one_client_is_believed_by_nobody() {
        let (rules, now) = (Rules { max_fails: 1, ..rules() }, Instant::now());
        let mut standing = Standing::default();
        let mut fail = |witness| standing.record(Evidence::FailedOver(witness), PAIR, &rules, now);
        for _ in 0..100 {
            assert_eq!(fail(by(1, "/destroy")), Verdict::Remembered);
        }
        assert_eq!(fail(by(2, "/")), Verdict::TakenOut, "a second client met it");
        assert_eq!(standing.availability(now), Availability::Out);
    }

    #[test]
    fn several_targets_of_one_client_count_if_nobody_was_answered_between() {
        let (rules, now) = (Rules { max_fails: 1, ..rules() }, Instant::now());
        let mut standing = Standing::default();
        let first = Evidence::FailedOver(by(1, "/a"));
        let second = Evidence::FailedOver(by(1, "/b"));
        assert_eq!(standing.record(first, PAIR, &rules, now), Verdict::Remembered);
        answers(&mut standing, now);
        assert_eq!(standing.record(second, PAIR, &rules, now), Verdict::Remembered);
        let other_is_out = Group { all: 10, others_out: 1 };
        assert_eq!(
            standing.record(first, other_is_out, &rules, now),
            Verdict::Counted,
            "never a second endpoint"
        );
        assert_eq!(standing.record(first, PAIR, &rules, now), Verdict::TakenOut);
    }

    #[test]
    fn a_trial_that_one_client_broke_decides_nothing() {
        let start = Instant::now();
        let mut standing = taken_out(start);
        let later = start + 10 * SECOND;
        for client in [1, 1] {
            standing.begin_trial();
            standing.record(Evidence::FailedOver(by(client, "/")), PAIR, &rules(), later);
            assert_eq!(standing.availability(later), Availability::Trial);
        }
        standing.begin_trial();
        standing.record(Evidence::FailedOver(by(2, "/")), PAIR, &rules(), later);
        assert_eq!(standing.availability(later), Availability::Out);
    }

    #[test]
    fn what_took_it_out_speaks_against_it_at_its_trial() {
        let (rules, start) = (Rules { max_fails: 1, ..rules() }, Instant::now());
        let mut standing = Standing::default();
        for client in [1, 2] {
            standing.record(Evidence::FailedOver(by(client, "/")), PAIR, &rules, start);
        }
        let later = start + 10 * SECOND;
        standing.begin_trial();
        standing.record(Evidence::FailedOver(by(1, "/")), PAIR, &rules, later);
        assert_eq!(standing.availability(later), Availability::Out);
    }

    #[test]
    fn early_ends_count_in_a_row_and_of_several_clients() {
        let (rules, now) = (rules(), Instant::now());
        let mut standing = Standing::default();
        let end = |standing: &mut Standing, client| {
            standing.record(Evidence::EndedEarly(by(client, "/")), PAIR, &rules, now)
        };
        for _ in 0..10 {
            assert_eq!(end(&mut standing, 1), Verdict::Remembered, "one client, again and again");
        }
        standing.record(Evidence::Lasted, PAIR, &rules, now);
        assert_eq!([1, 2].map(|client| end(&mut standing, client)), [Verdict::Remembered, Verdict::Counted]);
        assert_eq!(end(&mut standing, 1), Verdict::TakenOut);
        assert_eq!(standing.availability(now), Availability::Out);
    }

    #[test]
    fn zero_fails_means_never_out() {
        let rules = Rules { max_fails: 0, ..rules() };
        let (mut standing, now) = (Standing::default(), Instant::now());
        for client in 0..100 {
            let witness = by(client, "/");
            for evidence in [Evidence::Failed, Evidence::FailedOver(witness)] {
                assert_ne!(standing.record(evidence, PAIR, &rules, now), Verdict::TakenOut);
            }
            assert_ne!(standing.record(Evidence::EndedEarly(witness), PAIR, &rules, now), Verdict::TakenOut);
        }
    }

    #[test]
    fn room_is_a_part_of_the_endpoints() {
        let room =
            |all, others_out, most| Group { all, others_out }.has_room(Agreement::Clients, Percent(most));
        assert!(!room(1, 0, 100), "nobody else could be asked");
        assert!(room(2, 0, 50) && !room(2, 1, 50));
        assert!(room(3, 0, 50) && !room(3, 1, 50));
        assert!(room(5, 1, 50) && !room(5, 2, 50));
        assert!(room(5, 0, 10) && !room(5, 1, 10), "one of several at least");
        assert!(!room(5, 0, 0) && room(5, 4, 100));
    }

    proptest! {
        /// Whatever clients cause, no more than `max_ejected` of the endpoints are out by it; and what one client
        /// causes takes out one at most.
        #[test]
        fn clients_take_out_no_more_than_their_part(
            all in 1_usize..8,
            percent in 0_u8..=100,
            clients in 1_u32..4,
            events in prop::collection::vec((0_usize..8, 0_u32..4, 0_u8..5, 0_u64..4), 0..200),
        ) {
            let rules = Rules { max_fails: 1, max_ejected: Percent(percent), ..rules() };
            let mut endpoints = vec![Standing::default(); all];
            let mut now = Instant::now();
            for (at, client, target, pause) in events {
                now += Duration::from_secs(pause);
                let out = |standing: &Standing| standing.availability(now) == Availability::Out;
                let at = at % all;
                let others = endpoints.iter().enumerate().filter(|&(index, one)| index != at && out(one));
                let group = Group { all, others_out: others.count() };
                let witness = by(client % clients, &target.to_string());
                let evidence = match target {
                    0 => Evidence::EndedEarly(witness),
                    _ => Evidence::FailedOver(witness),
                };
                endpoints[at].record(evidence, group, &rules, now);
                let out = endpoints.iter().filter(|one| out(one)).count();
                let most = if all == 1 || percent == 0 { 0 } else { (all * usize::from(percent) / 100).max(1) };
                prop_assert!(out <= most);
                prop_assert!(clients > 1 || out <= 1);
            }
        }
    }
}
