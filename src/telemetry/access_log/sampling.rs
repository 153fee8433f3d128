//! Owns the sampling of the access log under a flood, and the count of the lines left out. It must not know
//! the content or target of lines.

use crate::limit::rate::Rate;
use crate::telemetry::report::Kind;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Of the lines above the limit, one in this many is written, to show what the flood consists of.
const ONE_IN: u32 = 100;
/// Connections without a request have this fraction of the request limit: a few lines show a scanner.
const NO_REQUEST_DIVISOR: u32 = 10;

/// Lines that share a limit. A flood of one class does not affect the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LogClass {
    /// Ends of tunnels.
    Tunnel,
    /// Plain requests, and failed WebSocket handshakes.
    Request,
    /// Connections that never sent a request.
    NoRequest,
}

impl From<Kind> for LogClass {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Tunnel => Self::Tunnel,
            Kind::Http | Kind::Upgrade => Self::Request,
            Kind::NoRequest => Self::NoRequest,
        }
    }
}

/// Factor of the burst for ends of tunnels. All tunnels of a large proxy, 60,000 by default, may end at once,
/// and each end should be explained.
const TUNNELS_LONGER: NonZeroU32 = NonZeroU32::MIN.saturating_add(5);

/// The limit of each class.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowances {
    tunnels: Rate,
    requests: Rate,
    no_request: Rate,
}

impl Allowances {
    /// Gives requests `rate`, tunnels a larger burst, and connections without a request a tenth.
    pub(super) fn new(rate: Rate) -> Self {
        let longer = rate.burst().checked_mul(TUNNELS_LONGER);
        let tunnels = longer.and_then(|burst| Rate::new(rate.events(), rate.per(), burst));
        let burst = (rate.burst().get() / NO_REQUEST_DIVISOR).max(1);
        let part = burst.try_into().ok().and_then(|burst| {
            let per = rate.per().checked_mul(NO_REQUEST_DIVISOR)?;
            Rate::new(rate.events(), per, burst)
        });
        Self { tunnels: tunnels.unwrap_or(rate), requests: rate, no_request: part.unwrap_or(rate) }
    }

    fn of(&self, class: LogClass) -> Rate {
        match class {
            LogClass::Tunnel => self.tunnels,
            LogClass::Request => self.requests,
            LogClass::NoRequest => self.no_request,
        }
    }
}

/// The state of all classes.
#[derive(Debug, Default)]
pub(super) struct Sampler {
    accounts: [Mutex<Account>; 3],
}

impl Sampler {
    /// Returns `None` if a line is left out. Otherwise returns how many lines of its class are missing since
    /// the last written one. `now` is the time since a fixed moment. Without limits every line is written.
    pub(super) fn admit(&self, class: LogClass, allowed: Option<&Allowances>, now: Duration) -> Option<u64> {
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let rate = allowed.map(|allowed| allowed.of(class));
        self.with(class, |account| account.admit(rate, now))
    }

    /// Records that an admitted line with this count was lost. The next line reports it.
    pub(super) fn add_missing(&self, class: LogClass, left_out: u64) {
        self.with(class, |account| account.missing += left_out + 1);
    }

    fn with<T>(&self, class: LogClass, change: impl FnOnce(&mut Account) -> T) -> T {
        let account = &self.accounts[class as usize];
        change(&mut account.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The state of one class.
#[derive(Debug, Default)]
struct Account {
    /// Until when its limit is used up, in nanoseconds.
    due: u64,
    /// Lines above the limit since the last of them that was written.
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
        assert_eq!(lines(LogClass::Request, 100, SECOND), [0; 100]);
        assert_eq!(lines(LogClass::Request, 250, SECOND), [99, 99]);
        // 50 are missing; the allowance of a second shows the first of them.
        let mut next = [0; 10];
        next[0] = 50;
        assert_eq!(lines(LogClass::Request, 10, 2 * SECOND), next);
        // The others are as they were.
        assert_eq!(lines(LogClass::Tunnel, 600, SECOND), [0; 600]);
        assert_eq!(lines(LogClass::Tunnel, 100, SECOND), [99]);
        assert_eq!(lines(LogClass::NoRequest, 100, SECOND), [0; 10], "a tenth");
        assert_eq!(
            lines(LogClass::NoRequest, 11, 2 * SECOND),
            [90, 9],
            "one a second, and the hundredth beyond it"
        );
    }

    #[test]
    fn without_an_allowance_nothing_is_left_out_and_what_was_lost_is_told() {
        let sampler = Sampler::default();
        let admit = || sampler.admit(LogClass::Tunnel, None, SECOND);
        assert!((0..10_000).all(|_| admit() == Some(0)));
        sampler.add_missing(LogClass::Tunnel, 0);
        sampler.add_missing(LogClass::Tunnel, 41);
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
