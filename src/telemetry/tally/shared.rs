//! Owns counts that any thread adds to without waiting for another one. It must not know what they mean.

use super::{Histogram, bucket};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

/// A histogram that threads share. A reader may see a value in its bucket before it is in the sum.
#[derive(Debug)]
pub(crate) struct SharedHistogram {
    edges: &'static [f64],
    counts: Box<[AtomicU64]>,
    /// The bits of an `f64`.
    sum: AtomicU64,
}

impl SharedHistogram {
    /// Creates an empty histogram.
    #[must_use]
    pub(crate) fn new(edges: &'static [f64]) -> Self {
        let counts = (0..=edges.len()).map(|_| AtomicU64::default()).collect();
        Self { edges, counts, sum: AtomicU64::new(0.0_f64.to_bits()) }
    }

    /// Counts one value.
    pub(crate) fn add(&self, value: f64) {
        self.counts[bucket(self.edges, value)].fetch_add(1, Relaxed);
        let add = |bits| Some((f64::from_bits(bits) + value).to_bits());
        // It cannot fail: there always is a new sum.
        let _ = self.sum.fetch_update(Relaxed, Relaxed, add);
    }

    /// Returns the present counts.
    #[must_use]
    pub(crate) fn read(&self) -> Histogram {
        let counts = self.counts.iter().map(|count| count.load(Relaxed)).collect();
        Histogram { edges: self.edges, counts, sum: f64::from_bits(self.sum.load(Relaxed)) }
    }
}

/// Counts by key. Most keys are expected in advance, and there are few, so a sorted list is searched. Threads
/// that count share its lock. Only a new key takes the lock alone.
#[derive(Debug)]
pub(crate) struct Counts<K>(RwLock<Vec<(K, AtomicU64)>>);

impl<K> Default for Counts<K> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<K: Copy + Ord> Counts<K> {
    /// Starts keys at 0 that have no count yet.
    pub(crate) fn expect(&self, keys: impl IntoIterator<Item = K>) {
        let mut counts = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for key in keys {
            if let Err(at) = position(&counts, key) {
                counts.insert(at, (key, AtomicU64::default()));
            }
        }
    }

    /// Counts one event.
    pub(crate) fn add(&self, key: K) {
        if !self.add_to_known(key) {
            self.expect([key]);
            self.add_to_known(key);
        }
    }

    /// Returns all keys in order, and their counts.
    #[must_use]
    pub(crate) fn read(&self) -> Vec<(K, u64)> {
        self.lock().iter().map(|(key, count)| (*key, count.load(Relaxed))).collect()
    }

    /// Returns all keys in order, and their counts, and forgets them.
    #[must_use]
    pub(crate) fn take(&self) -> Vec<(K, u64)> {
        let taken = std::mem::take(&mut *self.0.write().unwrap_or_else(PoisonError::into_inner));
        taken.into_iter().map(|(key, count)| (key, count.into_inner())).collect()
    }

    fn add_to_known(&self, key: K) -> bool {
        let counts = self.lock();
        let Ok(at) = position(&counts, key) else { return false };
        counts[at].1.fetch_add(1, Relaxed);
        true
    }

    fn lock(&self) -> RwLockReadGuard<'_, Vec<(K, AtomicU64)>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn position<K: Ord>(counts: &[(K, AtomicU64)], key: K) -> Result<usize, usize> {
    counts.binary_search_by(|(known, _)| known.cmp(&key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn nothing_is_lost_where_threads_count_at_once() {
        let (counts, histogram) = (Counts::default(), SharedHistogram::new(&[1.0, 2.0]));
        counts.expect([2]);
        thread::scope(|scope| {
            for thread in 0..4_u16 {
                let (counts, histogram) = (&counts, &histogram);
                scope.spawn(move || {
                    for number in 0..10_000 {
                        // New keys come up all the time.
                        counts.add(number / 100 + thread);
                        histogram.add(f64::from(number % 4));
                    }
                });
            }
        });
        let read = counts.read();
        assert!(read.is_sorted());
        assert_eq!(read.iter().map(|(_, count)| count).sum::<u64>(), 40_000);
        assert_eq!(read[50], (50, 400));
        assert_eq!(histogram.read().counts(), [20_000, 10_000, 10_000]);
        assert_eq!(histogram.read().sum(), 60_000.0);
    }

    #[test]
    fn an_expected_key_starts_at_zero_and_keeps_its_count() {
        let counts = Counts::default();
        counts.expect(["b", "a"]);
        counts.add("b");
        counts.expect(["b", "c"]);
        assert_eq!(counts.read(), [("a", 0), ("b", 1), ("c", 0)]);
    }
}
