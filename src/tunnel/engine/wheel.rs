//! Owns the wake-ups of many sessions: a hashed timer wheel (Varghese and Lauck, 1987). It sets, moves or removes a
//! wake-up in a few steps, however many there are. It must not know clocks, so moments are bucket numbers.

/// Buckets of one turn of the wheel.
const BUCKETS: usize = 8192;
/// The end of a list.
const NONE: u32 = u32::MAX;

/// A timer wheel. Each session, known by its index, has at most one wake-up.
pub(super) struct Wheel {
    /// The first session of each bucket.
    heads: Box<[u32; BUCKETS]>,
    /// One bit for each bucket that has a session.
    taken: [u64; BUCKETS / 64],
    nodes: Vec<Node>,
    /// All buckets up to this one have expired.
    now: u64,
    /// No bucket before this one has a session. `None` means that no bucket has one.
    next: Option<u64>,
}

/// A session in the list of its bucket.
#[derive(Clone, Copy)]
struct Node {
    bucket: u32,
    before: u32,
    behind: u32,
}

impl Node {
    const OUT: Self = Self { bucket: NONE, before: NONE, behind: NONE };
}

impl Wheel {
    pub(super) fn new() -> Self {
        let (heads, taken) = (Box::new([NONE; BUCKETS]), [0; BUCKETS / 64]);
        Self { heads, taken, nodes: Vec::new(), now: 0, next: None }
    }

    /// Returns a wheel at the same moment without memory for sessions. This wheel must be empty.
    pub(super) fn emptied(&mut self) -> Self {
        Self { now: self.now, ..Self::new() }
    }

    /// Sets the wake-up of a session, and replaces an earlier one. A moment in the past moves to the next bucket. A
    /// moment beyond one turn of the wheel moves to the last bucket, so that the session wakes too early rather than late.
    pub(super) fn set(&mut self, index: u32, at: u64) {
        self.remove(index);
        let at = at.clamp(self.now + 1, self.now + BUCKETS as u64);
        if self.nodes.len() <= index as usize {
            self.nodes.resize(index as usize + 1, Node::OUT);
        }
        let bucket = at as usize % BUCKETS;
        let behind = std::mem::replace(&mut self.heads[bucket], index);
        self.nodes[index as usize] = Node { bucket: bucket as u32, before: NONE, behind };
        if behind != NONE {
            self.nodes[behind as usize].before = index;
        }
        self.taken[bucket / 64] |= 1 << (bucket % 64);
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }

    /// Removes a session's wake-up, if it has one.
    pub(super) fn remove(&mut self, index: u32) {
        let Some(node) = self.nodes.get_mut(index as usize) else { return };
        let Node { bucket, before, behind } = std::mem::replace(node, Node::OUT);
        if bucket == NONE {
            return;
        }
        let bucket = bucket as usize;
        match before {
            NONE => self.heads[bucket] = behind,
            before => self.nodes[before as usize].behind = behind,
        }
        if behind != NONE {
            self.nodes[behind as usize].before = before;
        }
        if self.heads[bucket] == NONE {
            self.taken[bucket / 64] &= !(1 << (bucket % 64));
        }
    }

    /// Returns the earliest moment at which a session may be due. `None` means that no session waits.
    pub(super) fn next(&self) -> Option<u64> {
        self.next
    }

    /// Removes all sessions that are due by `now`, and calls `wake` for each.
    pub(super) fn expire(&mut self, now: u64, mut wake: impl FnMut(u32)) {
        if self.next.is_none_or(|next| next > now) {
            self.now = self.now.max(now);
            return;
        }
        while let Some(at) = self.first_taken().filter(|&at| at <= now) {
            let bucket = at as usize % BUCKETS;
            while self.heads[bucket] != NONE {
                let index = self.heads[bucket];
                self.remove(index);
                wake(index);
            }
        }
        self.now = self.now.max(now);
        self.next = self.first_taken();
    }

    /// Returns the first bucket with a session, within the turn that begins at `now`.
    fn first_taken(&self) -> Option<u64> {
        let first = self.now + 1;
        let (word, bit) = (first as usize % BUCKETS / 64, first as usize % 64);
        // The first word is read twice: its upper bits first, its lower bits last.
        let upper = self.taken[word] & (!0 << bit);
        let words = self.taken.len();
        let rest = (1..=words).map(|step| (step, self.taken[(word + step) % words]));
        std::iter::once((0, upper))
            .chain(rest)
            .find(|&(_, bits)| bits != 0)
            .map(|(step, bits)| first - bit as u64 + step as u64 * 64 + u64::from(bits.trailing_zeros()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[derive(Clone, Debug)]
    enum Step {
        Set(u32, u64),
        Remove(u32),
        Expire(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..40_u32, 0..2 * BUCKETS as u64).prop_map(|(index, span)| Step::Set(index, span)),
            1 => (0..40_u32).prop_map(Step::Remove),
            2 => (0..100_u64).prop_map(Step::Expire),
            1 => (0..3 * BUCKETS as u64).prop_map(Step::Expire),
        ]
    }

    proptest! {
        #[test]
        fn it_wakes_whom_a_sorted_map_would_wake(steps in vec(step(), 0..200)) {
            let (mut wheel, mut model, mut now) = (Wheel::new(), BTreeMap::new(), 0);
            for step in steps {
                match step {
                    Step::Set(index, span) => {
                        wheel.set(index, now + span);
                        model.insert(index, now + span.clamp(1, BUCKETS as u64));
                    }
                    Step::Remove(index) => {
                        wheel.remove(index);
                        model.remove(&index);
                    }
                    Step::Expire(span) => {
                        now += span;
                        let mut woken = Vec::new();
                        wheel.expire(now, |index| woken.push(index));
                        woken.sort_unstable();
                        let due: Vec<_> = model.iter().filter(|&(_, &at)| at <= now).map(|(&index, _)| index).collect();
                        prop_assert_eq!(&woken, &due);
                        model.retain(|_, at| *at > now);
                    }
                }
                let first = model.values().min().copied();
                prop_assert!(wheel.next() <= first || first.is_none(), "it must not sleep too long");
                prop_assert!(wheel.next().is_some() || first.is_none());
            }
        }
    }
}
