//! Owns what is left out of the access log under a flood, and the account of what is missing in it. It must
//! not know what a line says, or where it goes.

use crate::limit::rate::Rate;
use crate::telemetry::metrics::Kind;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Of the lines beyond an allowance, one in so many is written: it shows what the flood is made of.
const ONE_IN: u32 = 100;
/// What never became a request has so small a part of what requests have: scanners take a few lines.
const PART_OF_UNASKED: u32 = 10;

/// Lines that share an allowance. A flood of one class leaves the others their lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Ends of tunnels.
    Tunnel,
    /// Plain requests, and openings that came to nothing.
    Request,
    /// What never became a request.
    Unasked,
}

impl From<Kind> for Class {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Tunnel => Self::Tunnel,
            Kind::Http | Kind::Opening => Self::Request,
            Kind::Unasked => Self::Unasked,
        }
    }
}

/// Ends of tunnels may come so much longer at full pace: the tunnels of a large proxy, 60,000 by default, may
/// all end at once, and none is to go unexplained.
const TUNNELS_LONGER: NonZeroU32 = NonZeroU32::MIN.saturating_add(5);

/// How many lines each class may have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowances {
    tunnels: Rate,
    requests: Rate,
    unasked: Rate,
}

impl Allowances {
    /// `rate` for requests, the same and a larger burst for tunnels, and a tenth for what never became a
    /// request.
    pub(super) fn new(rate: Rate) -> Self {
        let longer = rate.burst().checked_mul(TUNNELS_LONGER);
        let tunnels = longer.and_then(|burst| Rate::new(rate.openings(), rate.per(), burst));
        let burst = (rate.burst().get() / PART_OF_UNASKED).max(1);
        let part = burst.try_into().ok().and_then(|burst| {
            let per = rate.per().checked_mul(PART_OF_UNASKED)?;
            Rate::new(rate.openings(), per, burst)
        });
        Self { tunnels: tunnels.unwrap_or(rate), requests: rate, unasked: part.unwrap_or(rate) }
    }

    fn of(&self, class: Class) -> Rate {
        match class {
            Class::Tunnel => self.tunnels,
            Class::Request => self.requests,
            Class::Unasked => self.unasked,
        }
    }
}

/// The accounts of all classes.
#[derive(Debug, Default)]
pub(super) struct Sampler {
    accounts: [Mutex<Account>; 3],
}

impl Sampler {
    /// Whether one more line is written, and if so how many of its class are missing before it, since
    /// the last that was. `now` is the time since a fixed moment; without allowances every line is written.
    pub(super) fn admit(&self, class: Class, allowed: Option<&Allowances>, now: Duration) -> Option<u64> {
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let rate = allowed.map(|allowed| allowed.of(class));
        self.with(class, |account| account.admit(rate, now))
    }

    /// A line that was admitted with this count is missing after all: the next one says so.
    pub(super) fn is_missing(&self, class: Class, left_out: u64) {
        self.with(class, |account| account.missing += left_out + 1);
    }

    fn with<T>(&self, class: Class, change: impl FnOnce(&mut Account) -> T) -> T {
        let account = &self.accounts[class as usize];
        change(&mut account.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What is known of one class.
#[derive(Debug, Default)]
struct Account {
    /// When its allowance is used up to, in nanoseconds.
    due: u64,
    /// Lines beyond the allowance since the last of them that was written.
    beyond: u32,
    /// Lines that are missing since the last one written.
    missing: u64,
}

impl Account {
    fn admit(&mut self, rate: Option<Rate>, now: u64) -> Option<u64> {
        if let Some(rate) = rate {
            match rate.conform(self.due, now) {
                Ok(due) => self.due = due,
                Err(_) if self.beyond + 1 < ONE_IN => {
                    self.beyond += 1;
                    self.missing += 1;
                    return None;
                }
                Err(_) => self.beyond = 0,
            }
        }
        Some(std::mem::take(&mut self.missing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn rate(lines: u32, burst: u32) -> Rate {
        Rate::new(lines.try_into().unwrap(), SECOND, burst.try_into().unwrap()).unwrap()
    }

    #[test]
    fn a_flood_has_its_allowance_and_then_one_line_in_a_hundred_with_the_count() {
        let (sampler, allowed) = (Sampler::default(), Allowances::new(rate(10, 100)));
        let lines = |class, count: usize, now| -> Vec<u64> {
            (0..count).filter_map(|_| sampler.admit(class, Some(&allowed), now)).collect()
        };
        assert_eq!(lines(Class::Request, 100, SECOND), [0; 100]);
        assert_eq!(lines(Class::Request, 250, SECOND), [99, 99]);
        // 50 are missing; the allowance of a second shows the first of them.
        let mut next = [0; 10];
        next[0] = 50;
        assert_eq!(lines(Class::Request, 10, 2 * SECOND), next);
        // The others are as they were.
        assert_eq!(lines(Class::Tunnel, 600, SECOND), [0; 600]);
        assert_eq!(lines(Class::Tunnel, 100, SECOND), [99]);
        assert_eq!(lines(Class::Unasked, 100, SECOND), [0; 10], "a tenth");
        assert_eq!(
            lines(Class::Unasked, 11, 2 * SECOND),
            [90, 9],
            "one a second, and the hundredth beyond it"
        );
    }

    #[test]
    fn without_an_allowance_nothing_is_left_out_and_what_was_lost_is_told() {
        let sampler = Sampler::default();
        let admit = || sampler.admit(Class::Tunnel, None, SECOND);
        assert!((0..10_000).all(|_| admit() == Some(0)));
        sampler.is_missing(Class::Tunnel, 0);
        sampler.is_missing(Class::Tunnel, 41);
        assert_eq!([admit(), admit()], [Some(43), Some(0)]);
    }

    proptest! {
        /// Lines with the silence before each, in microseconds.
        #[test]
        fn the_account_is_exact(
            silences in prop::collection::vec(prop_oneof![Just(0_u64), 0..3_000_u64], 1..2_000),
            lines in 1..2_000_u32,
            burst in 1..500_u32,
        ) {
            let rate = rate(lines, burst);
            let (mut account, mut now) = (Account::default(), 0);
            let (mut written, mut told) = (0, 0);
            for silence in &silences {
                now += silence * 1_000;
                if let Some(left_out) = account.admit(Some(rate), now) {
                    written += 1;
                    told += left_out;
                }
                prop_assert!(account.missing < u64::from(ONE_IN), "one in a hundred is written");
            }
            let all = silences.len() as u64;
            prop_assert_eq!(written + told + account.missing, all);
            let allowance = u64::from(burst) + now * u64::from(lines) / 1_000_000_000 + 1;
            prop_assert!(written <= allowance + all / u64::from(ONE_IN));
            prop_assert!(written >= all.min(u64::from(burst)));
        }
    }
}
