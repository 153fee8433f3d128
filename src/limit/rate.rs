//! Owns rates, and the rate limit of each client: the generic cell rate algorithm, in a table of fixed size. It must
//! not know what is limited.

use super::ClientKey;
use std::hash::{BuildHasher as _, RandomState};
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A rate of events, and the burst that it allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    events: NonZeroU32,
    per: Duration,
    burst: NonZeroU32,
    /// Nanoseconds from one event to the next at the full rate, rounded up.
    interval: u64,
    /// How far into the future a client may use up its rate, in nanoseconds: `burst` intervals.
    depth: u64,
}

impl Rate {
    /// Admits `events` evenly in each `per`, and `burst` of them at once after a silence. So it admits at most
    /// `burst` + `events` · t / `per` in any time t. nginx counts differently: its `burst=20` admits 21 at once.
    ///
    /// `None` means over a billion events a second, or a burst that takes over 292 years to regain.
    #[must_use]
    pub fn new(events: NonZeroU32, per: Duration, burst: NonZeroU32) -> Option<Self> {
        let is_slow = per.as_nanos() >= u128::from(events.get());
        let interval = u64::try_from(per.as_nanos().div_ceil(u128::from(events.get()))).ok();
        let interval = interval.filter(|_| is_slow)?;
        let depth = interval.checked_mul(u64::from(burst.get())).filter(|&depth| depth <= LONGEST)?;
        Some(Self { events, per, burst, interval, depth })
    }

    /// Events in each [`Rate::per`].
    #[must_use]
    pub fn events(&self) -> NonZeroU32 {
        self.events
    }

    /// The time in which [`Rate::events`] are admitted.
    #[must_use]
    pub fn per(&self) -> Duration {
        self.per
    }

    /// Events that are admitted at once after a silence.
    #[must_use]
    pub fn burst(&self) -> NonZeroU32 {
        self.burst
    }

    /// Does one step of the generic cell rate algorithm. `due` is the theoretical arrival time of the next event.
    /// Returns its new value after one more event at `now`. All are nanoseconds since a fixed moment.
    ///
    /// # Errors
    /// Returns by how many nanoseconds the event comes too early.
    pub fn conform(&self, due: u64, now: u64) -> Result<u64, u64> {
        // After a change of the rate, `due` may be further in the future than this rate allows.
        let due = due.clamp(now, now.saturating_add(self.depth));
        let used = due - now;
        let free = self.depth - used;
        if free < self.interval { Err(self.interval - free) } else { Ok(due.saturating_add(self.interval)) }
    }
}

/// Limits the rate of each client by the generic cell rate algorithm (ITU-T I.371, Annex A). It is a leaky bucket
/// that keeps one number for each client, its theoretical arrival time.
///
/// The table has a fixed number of entries of 16 bytes, in sets of eight. A randomly keyed hash chooses the set of a
/// client. In a full set, a new client replaces the one with the earliest theoretical arrival time. If that time has
/// passed, the entry was free anyway. Otherwise that client has used up the least of its rate. So a flood of
/// addresses costs neither memory nor time. The table always admits new clients, and forgets the worst clients last.
#[derive(Debug)]
pub(crate) struct ClientRates {
    /// Each shard is empty until its first event.
    shards: Vec<Mutex<Vec<Set>>>,
    sets_of_shard: usize,
    hasher: RandomState,
}

impl Default for ClientRates {
    /// 65,536 entries: 1 MiB when all shards are in use.
    fn default() -> Self {
        Self::new(65_536)
    }
}

impl ClientRates {
    /// Makes a table of at most `entries` entries, but at least 8.
    #[must_use]
    pub(crate) fn new(entries: usize) -> Self {
        let sets = (entries / WAYS).max(1);
        let shards = sets.min(SHARDS);
        let sets_of_shard = sets / shards;
        let shards = (0..shards).map(|_| Mutex::default()).collect();
        Self { shards, sets_of_shard, hasher: RandomState::new() }
    }

    /// Admits an event of a client. `now` is the time since a fixed moment. It may be a little earlier than in the
    /// last call, because threads race. The rate may change between calls.
    ///
    /// # Errors
    /// The event comes too early. Returns how long the client must wait. A refused event does not count.
    pub(crate) fn admit(&self, client: ClientKey, rate: Rate, now: Duration) -> Result<(), Duration> {
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        // The hash identifies the client. Any two of 65,536 clients share a hash with a probability of 2^-33.
        let hash = self.hasher.hash_one(client);
        let tag = hash | 1;
        let (set, shard) = (hash as usize / self.shards.len(), hash as usize % self.shards.len());
        let mut sets = self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner);
        if sets.is_empty() {
            sets.resize(self.sets_of_shard, Set::default());
        }
        let entry = sets[set % self.sets_of_shard].entry_of(tag);
        let due = if entry.tag == tag { entry.due } else { 0 };
        let due = rate.conform(due, now).map_err(Duration::from_nanos)?;
        *entry = Entry { tag, due };
        Ok(())
    }
}

/// One client. A tag of 0 means that the entry is free.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    tag: u64,
    /// The theoretical arrival time of its next event, in nanoseconds.
    due: u64,
}

/// A set fills two cache lines.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(64))]
struct Set([Entry; WAYS]);

impl Set {
    /// Returns the entry of a client, or the one that it may replace.
    fn entry_of(&mut self, tag: u64) -> &mut Entry {
        let own = self.0.iter().position(|entry| entry.tag == tag);
        let earliest = || (0..WAYS).min_by_key(|&index| self.0[index].due).unwrap_or(0);
        let index = own.unwrap_or_else(earliest);
        &mut self.0[index]
    }
}

/// Entries of a set.
const WAYS: usize = 8;
/// With this many shards, 10,000 events a second rarely wait for a lock, which each holds for about 1 µs.
const SHARDS: usize = 64;
/// The deepest burst: half of the range of 64-bit nanoseconds. `now` needs the other half.
const LONGEST: u64 = u64::MAX / 2;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{IpAddr, Ipv4Addr};

    fn key(number: u32) -> ClientKey {
        ClientKey::from(IpAddr::V4(Ipv4Addr::from_bits(number)))
    }

    fn rate(events: u32, per: Duration, burst: u32) -> Rate {
        Rate::new(events.try_into().unwrap(), per, burst.try_into().unwrap()).unwrap()
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_burst_is_admitted_at_once_and_then_the_rate() {
        let rates = ClientRates::default();
        let rate = rate(10, SECOND, 3);
        let admit = |millis| rates.admit(key(1), rate, Duration::from_millis(millis));
        for _ in 0..3 {
            assert_eq!(admit(5000), Ok(()));
        }
        assert_eq!(admit(5000), Err(Duration::from_millis(100)));
        assert_eq!(admit(5060), Err(Duration::from_millis(40)));
        assert_eq!(admit(5100), Ok(()));
        assert_eq!(admit(5100), Err(Duration::from_millis(100)));
        // The clock of another thread is behind.
        assert_eq!(admit(5090), Err(Duration::from_millis(100)));
        assert_eq!(rates.admit(key(2), rate, Duration::from_millis(5100)), Ok(()));
        assert_eq!([(); 4].map(|()| admit(9000).is_ok()), [true, true, true, false]);
    }

    #[test]
    fn another_rate_takes_effect_at_once() {
        let rates = ClientRates::default();
        let (slow, fast) = (rate(1, SECOND * 3600, 2), rate(10, SECOND, 2));
        assert_eq!([(); 3].map(|()| rates.admit(key(1), slow, SECOND).is_ok()), [true, true, false]);
        assert_eq!(rates.admit(key(1), fast, SECOND), Err(SECOND / 10));
        assert_eq!(rates.admit(key(1), fast, SECOND + SECOND / 10), Err(SECOND / 10));
    }

    #[test]
    fn rates_have_bounds() {
        let new = |events: u32, per, burst: u32| {
            Rate::new(events.try_into().unwrap(), per, burst.try_into().unwrap())
        };
        assert_eq!(new(1, Duration::ZERO, 1), None);
        assert_eq!(new(1001, Duration::from_micros(1), 1), None);
        assert_eq!(new(1, SECOND * 86_400, u32::MAX), None);
        assert_eq!(new(1, Duration::MAX, 1), None);
        let rate = new(3, SECOND, 7).unwrap();
        assert_eq!((rate.events().get(), rate.per(), rate.burst().get()), (3, SECOND, 7));
        // `now` and `due` saturate.
        let rates = ClientRates::default();
        assert_eq!(rates.admit(key(1), rate, Duration::MAX), Ok(()));
        assert_eq!(rates.admit(key(1), rate, Duration::MAX), Ok(()));
    }

    #[test]
    fn a_flood_of_addresses_keeps_out_no_newcomer_and_frees_none_of_the_worst() {
        let rates = ClientRates::new(64);
        let rate = rate(1, SECOND * 60, 5);
        let worst = key(u32::MAX);
        while rates.admit(worst, rate, SECOND).is_ok() {}
        for newcomer in 0..100_000 {
            assert_eq!(rates.admit(key(newcomer), rate, SECOND), Ok(()), "{newcomer}");
        }
        assert!(rates.admit(worst, rate, SECOND).is_err());
        let sets: usize = rates.shards.iter().map(|shard| shard.lock().unwrap().len()).sum();
        assert_eq!(sets * WAYS, 64);
    }

    #[test]
    fn memory_is_as_stated() {
        assert_eq!((size_of::<Entry>(), size_of::<Set>()), (16, 128));
        for (entries, expected) in [(0, 8), (8, 8), (100, 96), (65_536, 65_536)] {
            let rates = ClientRates::new(entries);
            assert_eq!(rates.shards.len() * rates.sets_of_shard * WAYS, expected);
        }
    }

    /// Events, each as the silence before it in nanoseconds.
    fn arrivals() -> impl Strategy<Value = Vec<u64>> {
        prop::collection::vec(prop_oneof![Just(0), 0..2_000_u64, 0..200_000_u64], 1..150)
    }

    proptest! {
        #[test]
        fn no_window_admits_more_than_burst_and_rate(
            arrivals in arrivals(), events in 1..20_u32, per in 20..50_000_u64, burst in 1..8_u32,
        ) {
            let table = ClientRates::new(8);
            let rate = rate(events, Duration::from_nanos(per), burst);
            let mut now = 0;
            let mut admitted = Vec::new();
            for silence in arrivals {
                now += silence;
                if table.admit(key(1), rate, Duration::from_nanos(now)).is_ok() {
                    admitted.push(now);
                }
            }
            for (first, from) in admitted.iter().enumerate() {
                for (last, to) in admitted.iter().enumerate().skip(first) {
                    let count = (last - first + 1) as u64;
                    let most = u64::from(burst) + (to - from) * u64::from(events) / per;
                    prop_assert!(count <= most, "{count} in {} ns", to - from);
                }
            }
        }

        #[test]
        fn it_is_the_leaky_bucket(arrivals in arrivals(), interval in 1..5_000_u64, burst in 1..8_u32) {
            let table = ClientRates::new(8);
            let rate = rate(1, Duration::from_nanos(interval), burst);
            // The bucket holds `burst` events of `interval` drops each. One drop leaks in a nanosecond.
            let (mut now, mut level) = (0_u64, 0_u64);
            for silence in arrivals {
                now += silence;
                level = level.saturating_sub(silence);
                let room = u64::from(burst) * interval - level;
                let expected = if room >= interval {
                    level += interval;
                    Ok(())
                } else {
                    Err(Duration::from_nanos(interval - room))
                };
                prop_assert_eq!(table.admit(key(1), rate, Duration::from_nanos(now)), expected);
            }
        }

        #[test]
        fn the_wait_is_exact(before in arrivals(), interval in 2..5_000_u64, burst in 1..8_u32) {
            let table = ClientRates::new(8);
            let rate = rate(1, Duration::from_nanos(interval), burst);
            let mut now = 0;
            for silence in before {
                now += silence;
                if let Err(wait) = table.admit(key(1), rate, Duration::from_nanos(now)) {
                    let at = Duration::from_nanos(now) + wait;
                    prop_assert!(table.admit(key(1), rate, at - Duration::from_nanos(1)).is_err());
                    prop_assert_eq!(table.admit(key(1), rate, at), Ok(()));
                    now = at.as_nanos() as u64;
                }
            }
        }
    }
}
