//! Owns the arithmetic of capacity: what is taken, who waits for it, and who must make room. It must not know
//! tasks, sockets or the clock.

use std::collections::BTreeMap;
use std::time::Instant;

/// What is taken, and waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// A slot, with a descriptor for its connection.
    Slot,
    /// Room for a connection to an upstream, beyond the one that a slot includes.
    UpstreamSlot,
    /// A descriptor for a connection to an upstream that has room.
    Descriptor,
}

/// How much there is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// What slots and upstream slots share.
    pub(super) total: usize,
    /// What a slot takes of it. An upstream slot takes 1.
    pub(super) slot_cost: usize,
    /// Maximum number of upstream slots.
    pub(super) upstream_slots: usize,
    /// Maximum number of open descriptors.
    pub(super) descriptors: usize,
}

/// What is taken, who waits, and who may be evicted. `T` wakes a task.
#[derive(Debug)]
pub(super) struct Budget<T> {
    limits: Limits,
    slots: usize,
    upstream_slots: usize,
    descriptors: usize,
    waiting: Waiting<T>,
    /// Slots that may be evicted, by the time since which their clients keep Holdline waiting.
    evictable: BTreeMap<Turn, T>,
    /// Slots that were asked to make room, and have neither declined nor been freed.
    asked: usize,
    /// Idle connections to upstreams that were told to close, and still hold their descriptors.
    closing: usize,
    last_ticket: u64,
}

/// Those who wait for each [`Need`], by their tickets.
#[derive(Debug)]
struct Waiting<T> {
    slots: BTreeMap<u64, T>,
    upstream_slots: BTreeMap<u64, T>,
    descriptors: BTreeMap<u64, T>,
}

/// The place of a slot among those that may be evicted: since when it keeps Holdline waiting, and a ticket.
pub(super) type Turn = (Instant, u64);

/// What follows from a change. The caller carries it out after it has unlocked the budget.
#[derive(Debug)]
#[must_use]
pub(super) struct Decisions<T> {
    /// Waiters that have what they waited for.
    pub(super) served: Vec<T>,
    /// Slots that must make room.
    pub(super) asked: Vec<T>,
}

impl<T> Budget<T> {
    pub(super) fn new(limits: Limits) -> Self {
        let waiting =
            Waiting { slots: BTreeMap::new(), upstream_slots: BTreeMap::new(), descriptors: BTreeMap::new() };
        Self {
            limits,
            slots: 0,
            upstream_slots: 0,
            descriptors: 0,
            waiting,
            evictable: BTreeMap::new(),
            asked: 0,
            closing: 0,
            last_ticket: 0,
        }
    }

    /// Slots that are taken.
    pub(super) fn slots(&self) -> usize {
        self.slots
    }

    /// Takes what is free, unless others wait for the same.
    pub(super) fn try_take(&mut self, need: Need) -> bool {
        let is_next = match need {
            Need::Slot | Need::UpstreamSlot => self.first_in_line().is_none(),
            Need::Descriptor => self.waiting.descriptors.is_empty(),
        };
        let may_take = is_next && self.fits(need);
        if may_take {
            self.take(need);
        }
        may_take
    }

    /// Lets a caller wait. Returns its ticket.
    pub(super) fn wait(&mut self, need: Need, waker: T) -> u64 {
        let ticket = self.next_ticket();
        self.waiting.of(need).insert(ticket, waker);
        ticket
    }

    /// Ends the wait of a caller that gave up. What it was given meanwhile is free again.
    pub(super) fn stop_waiting(&mut self, need: Need, ticket: u64) {
        if self.waiting.of(need).remove(&ticket).is_none() {
            self.free(need);
        }
    }

    /// Frees what was taken.
    pub(super) fn free(&mut self, need: Need) {
        match need {
            Need::Slot => {
                self.slots -= 1;
                self.descriptors -= 1;
            }
            Need::UpstreamSlot => self.upstream_slots -= 1,
            Need::Descriptor => {
                self.descriptors -= 1;
                // It may be another connection than the one that was told to close. Then one more is closed
                // than was needed.
                self.closing = self.closing.saturating_sub(1);
            }
        }
    }

    /// Adds a slot to those that may be evicted.
    pub(super) fn offer(&mut self, since: Instant, waker: T) -> Turn {
        let turn = (since, self.next_ticket());
        self.evictable.insert(turn, waker);
        turn
    }

    /// Takes the offer of a slot back. If it was asked already, it has declined.
    pub(super) fn withdraw(&mut self, turn: Turn) {
        if self.evictable.remove(&turn).is_none() {
            self.asked -= 1;
        }
    }

    /// Frees a slot that was asked and did not decline.
    pub(super) fn free_evicted(&mut self) {
        self.asked -= 1;
        self.free(Need::Slot);
    }

    /// Records that fewer idle connections were there to close.
    pub(super) fn expect_fewer_to_close(&mut self, fewer: usize) {
        self.closing = self.closing.saturating_sub(fewer);
    }

    /// Expects no more of connections that were told to close, because they take too long. Of all that wait, only
    /// the first says so, or each of them would have others closed.
    pub(super) fn stop_expecting(&mut self, need: Need, ticket: u64) {
        let descriptors = self.waiting.descriptors.first_key_value();
        let first = descriptors.or_else(|| self.waiting.slots.first_key_value());
        if need != Need::UpstreamSlot && first.is_some_and(|(first, _)| *first == ticket) {
            self.closing = 0;
        }
    }

    /// Whether somebody waits for a descriptor. Then no connection should become idle and be kept.
    pub(super) fn is_short_of_descriptors(&self) -> bool {
        self.descriptors_wanted() > self.limits.descriptors - self.descriptors
    }

    /// Whether a caller must wait for an upstream slot.
    pub(super) fn is_short_of_upstream_slots(&self) -> bool {
        self.first_in_line().is_some() || !self.fits(Need::UpstreamSlot)
    }

    /// Serves those who wait, and asks others to make room for the rest.
    pub(super) fn settle(&mut self) -> Decisions<T> {
        let mut served = Vec::new();
        // They hold a slot, so they come first.
        while self.fits(Need::Descriptor)
            && let Some((_, waker)) = self.waiting.descriptors.pop_first()
        {
            self.take(Need::Descriptor);
            served.push(waker);
        }
        while let Some(need) = self.first_in_line()
            && self.fits(need)
            && let Some((_, waker)) = self.waiting.of(need).pop_first()
        {
            self.take(need);
            served.push(waker);
        }
        Decisions { served, asked: self.ask() }
    }

    /// Returns how many idle connections must be closed now, and counts on them.
    pub(super) fn close(&mut self) -> usize {
        let coming = self.limits.descriptors - self.descriptors + self.closing;
        let missing = self.descriptors_wanted().saturating_sub(coming);
        self.closing += missing;
        missing
    }

    /// Whether all slots that were asked must leave. If not, one of them may decline.
    pub(super) fn is_asked_rightly(&self) -> bool {
        let others = self.asked.saturating_sub(1);
        self.wanted() > self.unreserved() + others * self.limits.slot_cost
    }

    /// Asks slots, the one that keeps Holdline waiting longest first.
    fn ask(&mut self) -> Vec<T> {
        let mut asked = Vec::new();
        while self.wanted() > self.unreserved() + self.asked * self.limits.slot_cost
            && let Some((_, waker)) = self.evictable.pop_first()
        {
            self.asked += 1;
            asked.push(waker);
        }
        asked
    }

    /// What slots and upstream slots are waited for.
    fn wanted(&self) -> usize {
        self.waiting.slots.len() * self.limits.slot_cost
            + self.waiting.upstream_slots.len().min(self.limits.upstream_slots - self.upstream_slots)
    }

    /// Descriptors that are waited for, by those with room for them.
    fn descriptors_wanted(&self) -> usize {
        let slots = self.waiting.slots.len().min(self.unreserved() / self.limits.slot_cost);
        self.waiting.descriptors.len() + slots
    }

    /// Returns what is served next of slots and upstream slots. Those who wait for an upstream slot while all
    /// are taken keep nobody behind them.
    fn first_in_line(&self) -> Option<Need> {
        let slot = self.waiting.slots.first_key_value().map(|(ticket, _)| ticket);
        let has_upstream_slots = self.upstream_slots < self.limits.upstream_slots;
        let upstream = self.waiting.upstream_slots.first_key_value().filter(|_| has_upstream_slots);
        match (slot, upstream.map(|(ticket, _)| ticket)) {
            (Some(slot), Some(upstream)) if upstream < slot => Some(Need::UpstreamSlot),
            (Some(_), _) => Some(Need::Slot),
            (None, upstream) => upstream.map(|_| Need::UpstreamSlot),
        }
    }

    fn fits(&self, need: Need) -> bool {
        let has_descriptor = self.descriptors < self.limits.descriptors;
        match need {
            Need::Slot => has_descriptor && self.unreserved() >= self.limits.slot_cost,
            Need::UpstreamSlot => self.upstream_slots < self.limits.upstream_slots && self.unreserved() >= 1,
            Need::Descriptor => has_descriptor,
        }
    }

    fn take(&mut self, need: Need) {
        match need {
            Need::Slot => {
                self.slots += 1;
                self.descriptors += 1;
            }
            Need::UpstreamSlot => self.upstream_slots += 1,
            Need::Descriptor => self.descriptors += 1,
        }
    }

    /// What neither slots nor upstream slots take.
    fn unreserved(&self) -> usize {
        self.limits.total - self.slots * self.limits.slot_cost - self.upstream_slots
    }

    fn next_ticket(&mut self) -> u64 {
        self.last_ticket += 1;
        self.last_ticket
    }
}

impl<T> Waiting<T> {
    fn of(&mut self, need: Need) -> &mut BTreeMap<u64, T> {
        match need {
            Need::Slot => &mut self.slots,
            Need::UpstreamSlot => &mut self.upstream_slots,
            Need::Descriptor => &mut self.descriptors,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;
    use std::time::Duration;

    const LIMITS: Limits = Limits { total: 12, slot_cost: 2, upstream_slots: 6, descriptors: 12 };
    const NEEDS: [Need; 3] = [Need::Slot, Need::UpstreamSlot, Need::Descriptor];

    /// A budget, and what its users know of themselves.
    struct Model {
        budget: Budget<u64>,
        /// What is held, by the name of its holder.
        held: Vec<(Need, u64)>,
        /// Those that wait, in their order, with their tickets.
        waiting: Vec<(Need, u64, u64)>,
        /// Slots that may be evicted, and those that were asked.
        offered: Vec<(Turn, u64)>,
        asked: HashSet<u64>,
        names: u64,
        start: Instant,
    }

    impl Model {
        fn new() -> Self {
            Self {
                budget: Budget::new(LIMITS),
                held: Vec::new(),
                waiting: Vec::new(),
                offered: Vec::new(),
                asked: HashSet::new(),
                names: 0,
                start: Instant::now(),
            }
        }

        fn act(&mut self, action: u8, pick: usize) {
            let need = NEEDS[pick % 3];
            match action {
                0 | 1 => {
                    self.names += 1;
                    if self.budget.try_take(need) {
                        self.held.push((need, self.names));
                    } else {
                        let ticket = self.budget.wait(need, self.names);
                        self.waiting.push((need, ticket, self.names));
                    }
                }
                2 if !self.waiting.is_empty() => {
                    let (need, ticket, _) = self.waiting.remove(pick % self.waiting.len());
                    self.budget.stop_waiting(need, ticket);
                }
                3 => self.offer(pick),
                4 if !self.offered.is_empty() => {
                    let (turn, name) = self.offered.remove(pick % self.offered.len());
                    self.budget.withdraw(turn);
                    self.asked.remove(&name);
                }
                _ if !self.held.is_empty() => self.free(pick % self.held.len()),
                _ => {}
            }
        }

        fn offer(&mut self, pick: usize) {
            let slots = self.held.iter().filter(|(need, _)| *need == Need::Slot);
            let free: Vec<_> = slots
                .map(|(_, name)| *name)
                .filter(|name| self.offered.iter().all(|(_, o)| o != name))
                .collect();
            if let Some(name) = free.get(pick % free.len().max(1)) {
                let since = self.start + Duration::from_secs((pick / 7) as u64);
                self.offered.push((self.budget.offer(since, *name), *name));
            }
        }

        /// Frees what one holds. A slot that was asked is freed as evicted, another one takes its offer back.
        fn free(&mut self, at: usize) {
            let (need, name) = self.held.remove(at);
            let offer = self.offered.iter().position(|(_, offered)| *offered == name);
            if let Some(offer) = offer.filter(|_| need == Need::Slot) {
                let (turn, _) = self.offered.remove(offer);
                if self.asked.remove(&name) {
                    return self.budget.free_evicted();
                }
                self.budget.withdraw(turn);
            }
            self.budget.free(need);
        }

        fn settle(&mut self) {
            let longest: Vec<_> = {
                let mut turns: Vec<_> =
                    self.offered.iter().filter(|(_, name)| !self.asked.contains(name)).copied().collect();
                turns.sort_unstable();
                turns.into_iter().map(|(_, name)| name).collect()
            };
            let Decisions { served, asked } = self.budget.settle();
            let _ = self.budget.close();
            for name in served {
                let at = self.waiting.iter().position(|(.., waiting)| *waiting == name).unwrap();
                let (need, ..) = self.waiting.remove(at);
                let is_first = self.waiting[..at].iter().all(|(other, ..)| *other != need);
                assert!(is_first, "each line is served in its order");
                self.held.push((need, name));
            }
            assert_eq!(asked, longest[..asked.len()], "the longest first");
            self.asked.extend(asked);
        }

        fn check(&self) {
            let held = |need| self.held.iter().filter(|(held, _)| *held == need).count();
            let [slots, upstream_slots, descriptors] = NEEDS.map(held);
            assert_eq!(self.budget.slots(), slots);
            let reserved = slots * LIMITS.slot_cost + upstream_slots;
            assert!(reserved <= LIMITS.total && slots + descriptors <= LIMITS.descriptors);
            assert!(upstream_slots <= LIMITS.upstream_slots);
            let (free, open) = (LIMITS.total - reserved, LIMITS.descriptors - slots - descriptors);
            let waits = |need| self.waiting.iter().filter(|(waiting, ..)| *waiting == need).count();
            let [waiting_slots, waiting_upstream, waiting_descriptors] = NEEDS.map(waits);
            // Nobody waits for what is free.
            assert!(waiting_descriptors == 0 || open == 0);
            assert!(
                waiting_slots + waiting_upstream.min(LIMITS.upstream_slots - upstream_slots) == 0
                    || free < LIMITS.slot_cost
                    || open == 0
            );
            // As many are asked as are needed, if there are as many, and no more when they are asked.
            let wanted = waiting_slots * LIMITS.slot_cost
                + waiting_upstream.min(LIMITS.upstream_slots - upstream_slots);
            let coming = free + self.asked.len() * LIMITS.slot_cost;
            assert!(wanted <= coming || self.asked.len() == self.offered.len());
        }
    }

    proptest! {
        #[test]
        fn nobody_waits_for_what_is_free_and_no_limit_is_exceeded(
            actions in prop::collection::vec((0_u8..6, 0_usize..1000), 1..200),
        ) {
            let mut model = Model::new();
            for (action, pick) in actions {
                model.act(action, pick);
                model.settle();
                model.check();
            }
            // Once all have left, all is free again.
            while !model.waiting.is_empty() {
                model.act(2, 0);
                model.settle();
            }
            while !model.held.is_empty() {
                model.free(0);
                model.settle();
            }
            for need in NEEDS {
                prop_assert!(model.budget.try_take(need));
            }
            prop_assert_eq!(model.budget.asked, 0);
        }
    }

    #[test]
    fn no_more_are_asked_than_wait() {
        let mut budget = Budget::new(LIMITS);
        let since = Instant::now();
        for name in 0..6 {
            assert!(budget.try_take(Need::Slot));
            budget.offer(since, name);
        }
        budget.wait(Need::Slot, 100);
        assert_eq!(budget.settle().asked, [0]);
        assert!(budget.settle().asked.is_empty());
        budget.wait(Need::Slot, 101);
        budget.wait(Need::UpstreamSlot, 102);
        assert_eq!(budget.settle().asked, [1, 2]);
        budget.free_evicted();
        assert_eq!(budget.settle().served, [100]);
    }

    #[test]
    fn a_slot_that_no_longer_fits_has_nothing_closed() {
        let mut budget = Budget::new(LIMITS);
        for _ in 0..5 {
            assert!(budget.try_take(Need::Slot));
        }
        while budget.try_take(Need::Descriptor) {}
        budget.wait(Need::UpstreamSlot, 1);
        budget.wait(Need::Slot, 2);
        assert_eq!(budget.settle().served, [1]);
        assert_eq!(budget.close(), 0);
    }

    #[test]
    fn as_many_idle_connections_close_as_descriptors_are_waited_for() {
        let mut budget = Budget::new(LIMITS);
        assert!(budget.try_take(Need::Slot));
        while budget.try_take(Need::Descriptor) {}
        budget.wait(Need::Descriptor, 1);
        // It has room, but no descriptor.
        budget.wait(Need::Slot, 2);
        assert!(budget.settle().served.is_empty());
        assert_eq!((budget.close(), budget.close()), (2, 0));
        // One of the two is not there. Then one closes, and another one leaves by itself.
        budget.expect_fewer_to_close(1);
        assert_eq!((budget.close(), budget.close()), (1, 0));
        budget.free(Need::Descriptor);
        assert_eq!(budget.settle().served, [1]);
        assert!(budget.is_short_of_descriptors());
        budget.free(Need::Descriptor);
        assert_eq!(budget.settle().served, [2]);
        assert!(!budget.is_short_of_descriptors());
    }
}
