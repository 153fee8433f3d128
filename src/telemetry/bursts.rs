//! Owns the detection of bursts: many tunnels of one endpoint that end in the same way at once. One log line
//! sums them up. It has no clock.

use crate::addr::EndpointAddr;
use crate::outcome::{Cause, EndedBy};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Many tunnels of one endpoint that ended in the same way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Burst {
    /// Number of tunnels.
    pub tunnels: u64,
    /// Their endpoint.
    pub endpoint: Arc<EndpointAddr>,
    /// Who ended them.
    pub ended_by: EndedBy,
    /// Why.
    pub cause: Cause,
    /// From the first end to the last one.
    pub within: Duration,
}

impl fmt::Display for Burst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tunnels, endpoint, ended_by, cause, within } = self;
        let seconds = (within.as_millis().div_ceil(1000)).max(1);
        write!(f, "{tunnels} tunnels of {endpoint} ended {ended_by}/{cause} within {seconds} s")
    }
}

/// The watched kinds of ends.
#[derive(Debug, Default)]
pub(super) struct Bursts(Vec<Kind>);

#[derive(Debug)]
struct Kind {
    endpoint: Arc<EndpointAddr>,
    ended_by: EndedBy,
    cause: Cause,
    /// Ends in the second before, if any, because bursts do not start on a full second.
    previous: u64,
    previous_began: Duration,
    count: u64,
    began: Duration,
    last: Duration,
    is_burst: bool,
    /// Holdline logs it no earlier.
    not_before: Duration,
}

/// Minimum number of ends in a burst. Fewer are easy to read in the access log.
const LEAST: u64 = 20;

/// A burst has at least one in this many open tunnels: a busy proxy loses more than a few in any second of an
/// ordinary day.
const ONE_IN: u64 = 100;

/// Ends of a burst fall within this time, or twice as long. It is over when none came for as long.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Holdline logs a burst after this time even if it goes on, because an operator waits for it.
const LONGEST: Duration = Duration::from_secs(10);

/// Minimum time between two log lines of one kind, so that a burst each second does not fill the log.
const QUIET: Duration = Duration::from_secs(60);

/// Maximum number of watched kinds. In an incident each endpoint has one or two.
const MOST: usize = 64;

impl Bursts {
    /// Records the end of a tunnel at `at` since the start, with this many tunnels still open. Returns
    /// whether a burst begins. The caller should then ask for it when it is over.
    pub(super) fn add(
        &mut self,
        at: Duration,
        endpoint: &Arc<EndpointAddr>,
        ended_by: EndedBy,
        cause: Cause,
        open: u64,
    ) -> bool {
        let Some(kind) = self.kind(at, endpoint, ended_by, cause) else { return false };
        if !kind.is_burst && at.saturating_sub(kind.began) >= AT_ONCE {
            let follows = at.saturating_sub(kind.began) < 2 * AT_ONCE;
            kind.previous = if follows { kind.count } else { 0 };
            kind.previous_began = kind.began;
            (kind.count, kind.began) = (0, at);
        }
        kind.count += 1;
        kind.last = at;
        let all = kind.previous + kind.count;
        if kind.is_burst || all < LEAST || all * ONE_IN < open {
            return false;
        }
        if kind.previous > 0 {
            (kind.count, kind.began, kind.previous) = (all, kind.previous_began, 0);
        }
        kind.is_burst = true;
        true
    }

    /// Returns the bursts that are over.
    pub(super) fn over(&mut self, at: Duration) -> Vec<Burst> {
        let over = self.0.iter_mut().filter(|kind| kind.is_burst && kind.over_at() <= at);
        over.map(|kind| {
            let burst = Burst {
                tunnels: kind.count,
                endpoint: Arc::clone(&kind.endpoint),
                ended_by: kind.ended_by,
                cause: kind.cause,
                within: kind.last.saturating_sub(kind.began),
            };
            (kind.count, kind.previous, kind.is_burst) = (0, 0, false);
            kind.not_before = at + QUIET;
            burst
        })
        .collect()
    }

    /// Returns when the next burst may be over. `None` means that there is none.
    pub(super) fn next(&self) -> Option<Duration> {
        self.0.iter().filter(|kind| kind.is_burst).map(Kind::over_at).min()
    }

    /// Returns the state of a kind. `None` means that all watched kinds have bursts.
    fn kind(
        &mut self,
        at: Duration,
        endpoint: &Arc<EndpointAddr>,
        ended_by: EndedBy,
        cause: Cause,
    ) -> Option<&mut Kind> {
        let is_it = |kind: &Kind| {
            (kind.ended_by, kind.cause) == (ended_by, cause)
                && (Arc::ptr_eq(&kind.endpoint, endpoint) || kind.endpoint == *endpoint)
        };
        if let Some(place) = self.0.iter().position(is_it) {
            return self.0.get_mut(place);
        }
        let new = Kind {
            endpoint: Arc::clone(endpoint),
            ended_by,
            cause,
            previous: 0,
            previous_began: at,
            count: 0,
            began: at,
            last: at,
            is_burst: false,
            not_before: at,
        };
        if self.0.len() < MOST {
            self.0.push(new);
            return self.0.last_mut();
        }
        let idle = self.0.iter_mut().filter(|kind| !kind.is_burst && kind.not_before <= at);
        let oldest = idle.min_by_key(|kind| kind.last)?;
        *oldest = new;
        Some(oldest)
    }
}

impl Kind {
    fn over_at(&self) -> Duration {
        (self.last + AT_ONCE).min(self.began + LONGEST).max(self.not_before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn endpoint(port: u16) -> Arc<EndpointAddr> {
        Arc::new(EndpointAddr::Tcp(([127, 0, 0, 1], port).into()))
    }

    /// Adds so many, evenly over a span; how many of them began a burst.
    fn add(bursts: &mut Bursts, count: u64, from: u64, to: u64, open: u64) -> usize {
        let each = |n| at(from + (to - from) * n / count);
        (0..count)
            .filter(|n| bursts.add(each(*n), &endpoint(3001), EndedBy::Upstream, Cause::Eof, open))
            .count()
    }

    #[test]
    fn a_burst_is_told_once_it_is_over() {
        let mut bursts = Bursts::default();
        assert_eq!(add(&mut bursts, 349, 5_000, 5_700, 349), 1);
        assert!(bursts.over(at(6_000)).is_empty(), "it may go on");
        let due = bursts.next().unwrap();
        assert!((at(6_690)..=at(6_700)).contains(&due), "{due:?}");
        let over = bursts.over(due);
        assert_eq!(over[0].to_string(), "349 tunnels of 127.0.0.1:3001 ended upstream/eof within 1 s");
        assert_eq!((over.len(), bursts.next(), bursts.over(at(60_000)).len()), (1, None, 0));
    }

    #[test]
    fn a_few_and_a_trickle_are_none() {
        let mut bursts = Bursts::default();
        assert_eq!(add(&mut bursts, LEAST - 1, 0, 900, 30), 0);
        assert_eq!(add(&mut bursts, 500, 10_000, 110_000, 30), 0, "five a second, on and on");
        assert_eq!(add(&mut bursts, 50, 200_000, 200_500, 50_000), 0, "of fifty thousand, fifty");
        assert_eq!(bursts.next(), None);
    }

    #[test]
    fn a_burst_that_began_within_a_second_of_another_end_is_whole() {
        let mut bursts = Bursts::default();
        bursts.add(at(0), &endpoint(3001), EndedBy::Upstream, Cause::Eof, 100);
        assert_eq!(add(&mut bursts, 30, 800, 1_300, 100), 1);
        assert_eq!(bursts.over(at(9_000))[0].tunnels, 31);
    }

    #[test]
    fn one_that_goes_on_is_told_in_time_and_then_once_a_minute() {
        let mut bursts = Bursts::default();
        let mut told = Vec::new();
        for second in 0..300 {
            add(&mut bursts, 100, second * 1000, second * 1000 + 999, 100);
            told.extend(
                bursts.over(at(second * 1000 + 999)).into_iter().map(|burst| (second, burst.tunnels)),
            );
        }
        assert_eq!(told.first(), Some(&(10, 1100)));
        assert_eq!(told.len(), 5, "{told:?}");
        let sum: u64 = told.iter().map(|(_, tunnels)| tunnels).sum();
        assert!(sum >= 25_000, "hardly any is missing in the sum: {sum}");
    }

    #[test]
    fn its_memory_is_bounded() {
        let mut bursts = Bursts::default();
        for port in 1..1000 {
            for _ in 0..LEAST {
                bursts.add(at(u64::from(port)), &endpoint(port), EndedBy::Client, Cause::Reset, 20);
            }
        }
        assert_eq!((bursts.0.len(), bursts.over(at(9_000)).len()), (MOST, MOST));
        assert!(!bursts.add(at(70_000), &endpoint(2000), EndedBy::Client, Cause::Reset, 20));
        assert_eq!(bursts.0.len(), MOST);
    }
}
