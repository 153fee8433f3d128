//! Owns the counts of open connections, by client and in total, and the permits that keep them.

use super::{ClientKey, Limit, Limits};
use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts of open connections. They are kept even without limits, because a reload may set limits while connections
/// are open. A client takes 30 to 60 bytes, and none after its last connection ends.
#[derive(Debug)]
pub struct Connections {
    total: AtomicU32,
    shards: [Mutex<HashMap<ClientKey, u32>>; SHARDS],
    /// Keyed at random, so that clients cannot choose addresses that share a shard.
    hasher: RandomState,
}

/// An admitted connection. It counts until the permit is dropped.
#[derive(Debug)]
#[must_use = "the connection counts as long as its permit lives"]
pub struct Permit {
    connections: Arc<Connections>,
    /// The second limiter that counts the connection, if there is one.
    also: Option<Arc<Connections>>,
    client: ClientKey,
}

impl Default for Connections {
    fn default() -> Self {
        let shards = [(); SHARDS].map(|()| Mutex::default());
        Self { total: AtomicU32::new(0), shards, hasher: RandomState::new() }
    }
}

impl Connections {
    /// Admits one more connection of a client. Concurrent calls never exceed a limit, and a refused call never causes
    /// another refusal. This ignores the rates in `limits`.
    ///
    /// # Errors
    /// Returns the limit that is reached. The connection does not count then.
    pub fn admit(self: &Arc<Self>, client: ClientKey, limits: &Limits) -> Result<Permit, Limit> {
        self.enter(client, limits)?;
        Ok(Permit { connections: Arc::clone(self), also: None, client })
    }

    /// Admits a connection that has a permit of another limiter. The permit then counts in both.
    ///
    /// # Errors
    /// Returns the limit that is reached. The connection does not count here then.
    pub fn admit_also(self: &Arc<Self>, permit: &mut Permit, limits: &Limits) -> Result<(), Limit> {
        debug_assert!(permit.also.is_none(), "a connection counts in two at most");
        self.enter(permit.client, limits)?;
        permit.also = Some(Arc::clone(self));
        Ok(())
    }

    fn enter(&self, client: ClientKey, limits: &Limits) -> Result<(), Limit> {
        let is_full = |total| limits.connections.is_some_and(|most| total >= most);
        // Under a flood most calls are refused. Refuse them without the lock.
        if is_full(self.total.load(Ordering::Relaxed)) {
            return Err(Limit::Connections);
        }
        let mut counts = self.shard(client);
        let count = counts.get(&client).copied().unwrap_or(0);
        if limits.connections_per_ip.is_some_and(|most| count >= most) {
            return Err(Limit::ConnectionsPerIp);
        }
        // Relaxed, because no other memory depends on this number.
        let one_more = |total| (!is_full(total)).then_some(total + 1);
        let added = self.total.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        added.map_err(|_| Limit::Connections)?;
        counts.insert(client, count + 1);
        Ok(())
    }

    fn leave(&self, client: ClientKey) {
        let mut counts = self.shard(client);
        match counts.get_mut(&client) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                counts.remove(&client);
                // Shrinking by halves costs a constant for each connection that ended.
                if counts.capacity() > KEPT_CAPACITY && counts.len() < counts.capacity() / 4 {
                    let half = counts.capacity() / 2;
                    counts.shrink_to(half);
                }
            }
        }
        self.total.fetch_sub(1, Ordering::Relaxed);
    }

    /// Open connections of all clients.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.total.load(Ordering::Relaxed)
    }

    /// Open connections of one client.
    #[must_use]
    pub fn of(&self, client: ClientKey) -> u32 {
        self.shard(client).get(&client).copied().unwrap_or(0)
    }

    fn shard(&self, client: ClientKey) -> MutexGuard<'_, HashMap<ClientKey, u32>> {
        let shard = self.hasher.hash_one(client) as usize % SHARDS;
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit {
    /// Returns the client of the connection.
    pub(super) fn client(&self) -> ClientKey {
        self.client
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.connections.leave(self.client);
        if let Some(also) = &self.also {
            also.leave(self.client);
        }
    }
}

/// With this many shards, 10,000 handshakes a second rarely wait for a lock, which each holds for about 1 µs.
const SHARDS: usize = 32;
/// A shard does not shrink below this capacity.
const KEPT_CAPACITY: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{IpAddr, Ipv4Addr};
    use std::thread;

    fn key(number: u32) -> ClientKey {
        ClientKey::from(IpAddr::V4(Ipv4Addr::from_bits(number)))
    }

    fn limits(connections: Option<u32>, connections_per_ip: Option<u32>) -> Limits {
        Limits { connections, connections_per_ip, openings_per_ip: None }
    }

    fn capacity(connections: &Connections) -> usize {
        connections.shards.iter().map(|shard| shard.lock().unwrap().capacity()).sum()
    }

    #[test]
    fn a_lowered_limit_takes_nothing_from_those_inside() {
        let connections = Arc::new(Connections::default());
        let none = limits(None, None);
        let mut permits: Vec<_> = (0..5).map(|_| connections.admit(key(1), &none).unwrap()).collect();
        let low = limits(None, Some(2));
        while permits.len() > 1 {
            assert_eq!(connections.admit(key(1), &low).unwrap_err(), Limit::ConnectionsPerIp);
            permits.pop();
        }
        assert!(connections.admit(key(1), &low).is_ok());
        assert_eq!(connections.admit(key(2), &limits(Some(0), None)).unwrap_err(), Limit::Connections);
    }

    #[test]
    fn memory_returns_after_a_storm() {
        let connections = Arc::new(Connections::default());
        let none = limits(None, None);
        let permits: Vec<_> = (0..50_000).map(|client| connections.admit(key(client), &none)).collect();
        assert!(capacity(&connections) >= 50_000);
        drop(permits);
        assert_eq!(connections.total(), 0);
        assert!(capacity(&connections) <= SHARDS * KEPT_CAPACITY * 2, "{}", capacity(&connections));
    }

    #[test]
    fn however_many_ask_at_once_no_limit_is_exceeded_and_no_count_is_lost() {
        let connections = Arc::new(Connections::default());
        let both = limits(Some(10), Some(3));
        thread::scope(|scope| {
            for thread in 0..8 {
                let connections = &connections;
                scope.spawn(move || {
                    for turn in 0..2_000 {
                        let client = key((thread + turn) % 5);
                        let permit = connections.admit(client, &both);
                        assert!(connections.total() <= 10 && connections.of(client) <= 3);
                        drop(permit);
                    }
                });
            }
        });
        assert_eq!(connections.total(), 0);
        // No count was lost: the limit still admits ten, of four clients with up to three each.
        let permits: Vec<_> =
            (0..4 * 3).filter_map(|turn| connections.admit(key(turn % 4), &both).ok()).collect();
        assert_eq!(permits.len(), 10);
    }

    proptest! {
        #[test]
        fn counts_are_those_of_the_permits_that_live(
            steps in prop::collection::vec((0..4_u32, any::<bool>(), 0..6_u32, 0..4_u32), 0..200),
        ) {
            let connections = Arc::new(Connections::default());
            let mut alive: Vec<(u32, Permit)> = Vec::new();
            for (client, leaves, most, most_of_one) in steps {
                let of_one = alive.iter().filter(|(other, _)| *other == client).count() as u32;
                if leaves {
                    if let Some(at) = alive.iter().position(|(other, _)| *other == client) {
                        drop(alive.swap_remove(at));
                    }
                } else {
                    let verdict = connections.admit(key(client), &limits(Some(most), Some(most_of_one)));
                    let expected = if alive.len() as u32 >= most {
                        Err(Limit::Connections)
                    } else if of_one >= most_of_one {
                        Err(Limit::ConnectionsPerIp)
                    } else {
                        Ok(())
                    };
                    prop_assert_eq!(verdict.as_ref().map(|_| ()).map_err(|limit| *limit), expected);
                    alive.extend(verdict.ok().map(|permit| (client, permit)));
                }
                prop_assert_eq!(connections.total() as usize, alive.len());
                let of_one = alive.iter().filter(|(other, _)| *other == client).count();
                prop_assert_eq!(connections.of(key(client)) as usize, of_one);
            }
            drop(alive);
            let left: usize = connections.shards.iter().map(|shard| shard.lock().unwrap().len()).sum();
            prop_assert_eq!((connections.total(), left), (0, 0));
        }
    }
}
