//! Owns which requests saw an endpoint fail. One request or one client alone may have caused the failure. It must not
//! know what follows from the failures.

use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::time::{Duration, Instant};

/// A request that saw an endpoint fail: hashes of its client and its target, because they are only compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Witness {
    client: u64,
    target: u64,
}

impl Witness {
    /// `client` is the key by which limits count a client. `target` is the path without the query, because a client
    /// can send any query.
    #[must_use]
    pub fn new(client: impl Hash, target: impl Hash) -> Self {
        let hash = |value: &dyn Fn(&mut DefaultHasher)| {
            let mut hasher = DefaultHasher::new();
            value(&mut hasher);
            hasher.finish()
        };
        Self { client: hash(&|hasher| client.hash(hasher)), target: hash(&|hasher| target.hash(hasher)) }
    }
}

/// The failures of an endpoint since the first of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Testimony {
    since: Option<Instant>,
    count: u32,
    /// The last witnesses: at most [`MOST`], and at most two of a client.
    seen: Vec<Seen>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    witness: Witness,
    /// The endpoint has answered no request since.
    fresh: bool,
}

/// Which witnesses agree that an endpoint fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Agreement {
    /// None: one client saw failures, and over one target only.
    Nobody,
    /// One client over several targets. The endpoint answered no request between them.
    Targets,
    /// Several clients.
    Clients,
}

/// Enough to tell one client from several, however many clients there are.
const MOST: usize = 8;

impl Testimony {
    /// Adds a failure. Forgets the earlier ones first if they began longer than `window` ago.
    pub(super) fn add(&mut self, witness: Witness, now: Instant, window: Duration) {
        if !self.is_current(now, window) {
            self.clear();
        }
        self.since.get_or_insert(now);
        self.count = self.count.saturating_add(1);
        self.seen.retain(|seen| seen.witness != witness);
        let of_client = |seen: &Seen| seen.witness.client == witness.client;
        if self.seen.iter().filter(|seen| of_client(seen)).count() == 2 {
            let oldest = self.seen.iter().position(of_client);
            oldest.map(|oldest| self.seen.remove(oldest));
        } else if self.seen.len() == MOST {
            self.seen.remove(0);
        }
        self.seen.push(Seen { witness, fresh: true });
    }

    /// Records that the endpoint answered a request. Earlier failures of one client over several targets then prove
    /// nothing.
    pub(super) fn answered(&mut self) {
        self.seen.iter_mut().for_each(|seen| seen.fresh = false);
    }

    /// Forgets all failures.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Returns the number of failures, of all clients.
    #[must_use]
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// Whether the first failure is at most `window` old.
    #[must_use]
    pub(super) fn is_current(&self, now: Instant, window: Duration) -> bool {
        self.since.is_some_and(|since| now.saturating_duration_since(since) <= window)
    }

    /// Returns which witnesses agree.
    #[must_use]
    pub(super) fn agreement(&self) -> Agreement {
        let Some(last) = self.seen.last() else { return Agreement::Nobody };
        if self.seen.iter().any(|seen| seen.witness.client != last.witness.client) {
            Agreement::Clients
        } else if self.seen.iter().filter(|seen| seen.fresh).count() > 1 {
            Agreement::Targets
        } else {
            Agreement::Nobody
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WINDOW: Duration = Duration::from_secs(10);

    fn seen(by: &[(u32, &str)]) -> Testimony {
        let (mut testimony, now) = (Testimony::default(), Instant::now());
        by.iter().for_each(|&(client, target)| testimony.add(Witness::new(client, target), now, WINDOW));
        testimony
    }

    #[test]
    fn one_client_alone_agrees_with_nobody() {
        assert_eq!(Testimony::default().agreement(), Agreement::Nobody);
        assert_eq!(seen(&[(1, "/a"); 50]).agreement(), Agreement::Nobody);
        assert_eq!(seen(&[(1, "/a"), (1, "/b")]).agreement(), Agreement::Targets);
        assert_eq!(seen(&[(1, "/a"), (2, "/a")]).agreement(), Agreement::Clients);
        assert_eq!(seen(&[(1, "/a"); 3]).count(), 3);
    }

    #[test]
    fn an_answer_between_failures_separates_targets_but_not_clients() {
        let now = Instant::now();
        let mut testimony = seen(&[(1, "/a")]);
        testimony.answered();
        testimony.add(Witness::new(1, "/b"), now, WINDOW);
        assert_eq!(testimony.agreement(), Agreement::Nobody);
        testimony.answered();
        testimony.add(Witness::new(2, "/b"), now, WINDOW);
        assert_eq!(testimony.agreement(), Agreement::Clients);
    }

    #[test]
    fn failures_older_than_the_window_are_forgotten() {
        let now = Instant::now();
        let mut testimony = seen(&[(1, "/a")]);
        testimony.add(Witness::new(2, "/a"), now + 2 * WINDOW, WINDOW);
        assert_eq!((testimony.agreement(), testimony.count()), (Agreement::Nobody, 1));
    }

    proptest! {
        /// A client that sends many targets stays one client, and does not displace the others.
        #[test]
        fn many_targets_of_one_client_hide_no_other(first in 0_u32..4, targets in prop::collection::vec(".{0,3}", 0..40)) {
            let now = Instant::now();
            let mut testimony = Testimony::default();
            testimony.add(Witness::new(first, "/"), now, WINDOW);
            for target in &targets {
                testimony.add(Witness::new(9, target), now, WINDOW);
            }
            let expected = if targets.is_empty() { Agreement::Nobody } else { Agreement::Clients };
            prop_assert_eq!(testimony.agreement(), expected);
            prop_assert!(testimony.seen.len() <= 3);
        }

        /// Memory is bounded. Two clients among the last witnesses are both known.
        #[test]
        fn memory_is_bounded(clients in prop::collection::vec(0_u32..1000, 1..60)) {
            let now = Instant::now();
            let mut testimony = Testimony::default();
            for client in &clients {
                testimony.add(Witness::new(client, "/"), now, WINDOW);
            }
            prop_assert!(testimony.seen.len() <= MOST);
            let several = clients.iter().any(|client| *client != clients[0]);
            prop_assert_eq!(testimony.agreement() == Agreement::Clients, several);
            prop_assert_eq!(testimony.count() as usize, clients.len());
        }
    }
}
