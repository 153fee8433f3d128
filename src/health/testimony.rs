//! Owns what several requests have seen of an endpoint: one alone may have caused what it saw. It must not know what
//! follows from it.

use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::time::{Duration, Instant};

/// By whom, and over what, an endpoint was seen to fail: hashes, for they are only compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Witness {
    client: u64,
    target: u64,
}

impl Witness {
    /// `client` is whoever limits take for one client, `target` the path without the query: anybody can make up
    /// queries.
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

/// What was seen since the first of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Testimony {
    since: Option<Instant>,
    count: u32,
    /// Bounded, and no client has more than two of them.
    seen: Vec<Seen>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    witness: Witness,
    /// The endpoint has answered nobody since.
    fresh: bool,
}

/// Who agrees that an endpoint fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Agreement {
    /// Nobody with anybody: one client, over one target.
    Nobody,
    /// One client over several targets, and the endpoint answered nobody between them.
    Targets,
    /// Several clients.
    Clients,
}

/// Enough to tell one client from several, however many come.
const MOST: usize = 8;

impl Testimony {
    /// Adds what was seen. What began longer ago than `window` is forgotten first.
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

    /// The endpoint answered somebody: that it failed one client over several targets proves nothing any more.
    pub(super) fn answered(&mut self) {
        self.seen.iter_mut().for_each(|seen| seen.fresh = false);
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// How much was seen, by whomsoever.
    #[must_use]
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// Whether its first is not older than `window`.
    #[must_use]
    pub(super) fn is_current(&self, now: Instant, window: Duration) -> bool {
        self.since.is_some_and(|since| now.saturating_duration_since(since) <= window)
    }

    /// Who agrees.
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
    fn an_answer_between_parts_the_targets_and_not_the_clients() {
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
    fn what_is_older_than_the_window_is_forgotten() {
        let now = Instant::now();
        let mut testimony = seen(&[(1, "/a")]);
        testimony.add(Witness::new(2, "/a"), now + 2 * WINDOW, WINDOW);
        assert_eq!((testimony.agreement(), testimony.count()), (Agreement::Nobody, 1));
    }

    proptest! {
        /// However many targets a client makes up, it stays one client, and does not push out the others.
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

        /// Memory is bounded, and with two clients among the last ones both are known.
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
