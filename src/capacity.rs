//! Owns slots, for connections and for handshakes, and the descriptors of all connections: how many there are,
//! and who must make room when others wait.
//!
//! The limit of open files sets the number of connection slots. A slot pays for two descriptors: the client's
//! connection and one connection to an upstream. So neither kind can use up the descriptors of the other.
//! Each concurrent HTTP/2 request beyond the first on its connection takes an upstream slot as well. These use
//! at most half of all descriptors, which leaves room for new clients. Idle connections to upstreams use the
//! descriptors that are left. Holdline closes them when another connection needs a descriptor.
//!
//! A client that opens connections and sends nothing could keep others out until its timeouts end. So while
//! others wait for a slot, Holdline evicts the connections that have kept it waiting longest (nginx reuses
//! connections that wait for a request once `worker_connections` are used up).

mod budget;
mod eviction;
#[cfg(test)]
mod tests;
mod upstream_room;

use crate::clock::LogLimit;
use budget::{Budget, Decisions, Limits, Need};
pub use eviction::EVICT_AFTER;
pub(crate) use eviction::{Evicted, LOOK};
use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
pub(crate) use upstream_room::{IncludedRoom, UpstreamRoom};

/// Descriptors of the process itself: the runtime, listeners, logs, name look-ups, and the 64 connections of the
/// admin endpoint.
const RESERVED: usize = 128;
/// How long a closed connection may keep its descriptor before the next idle connection is closed as well.
const CLOSE_WAIT: Duration = Duration::from_millis(200);
/// The largest number of slots or descriptors.
const MOST: usize = usize::MAX >> 3;

/// A set of slots: those of all listeners together, with the descriptors; the handshake slots of one listener; or
/// those of the admin endpoint.
#[derive(Clone, Debug)]
pub struct Slots(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    budget: Mutex<Budget<oneshot::Sender<()>>>,
    total: usize,
    reserved: usize,
    limited_by: &'static str,
    counts_descriptors: bool,
    /// Whether somebody waits for a descriptor, as the budget says.
    is_short_of_descriptors: AtomicBool,
    idle_pools: Mutex<Vec<Weak<dyn IdlePool>>>,
    /// Limits the warning that HTTP/2 requests wait for an upstream slot.
    upstream_slot_log: LogLimit,
    /// Limits the warning that connections wait for a descriptor.
    descriptor_log: LogLimit,
}

/// A slot that is taken. Dropping it frees the slot and its client's descriptor.
#[derive(Debug)]
pub struct Slot {
    slots: Slots,
    is_evicted: AtomicBool,
}

/// Room for one more connection to an upstream, beyond the one that a client's slot pays for.
#[derive(Debug)]
pub struct UpstreamSlot(Slots);

/// The right to open one descriptor for a connection to an upstream. Dropping it returns the right.
#[derive(Debug)]
pub struct Descriptor(Slots);

/// A pool of idle connections to upstreams, which Holdline may close at any time.
pub trait IdlePool: Debug + Send + Sync {
    /// When the oldest connection became idle. `None` means that the pool is empty.
    fn oldest_since(&self) -> Option<Instant>;

    /// Closes the connection that has been idle longest.
    fn close_oldest(&self);
}

// === impl Slots ===

impl Slots {
    /// Makes `total` slots, without a limit of descriptors. `limited_by` tells the operator which limit sets the
    /// number, and how to raise it.
    #[must_use]
    pub fn new(total: usize, limited_by: &'static str) -> Self {
        let total = total.min(MOST);
        let limits = Limits { total, slot_cost: 1, upstream_slots: MOST, descriptors: MOST };
        Self::with(limits, RESERVED, limited_by)
    }

    /// Makes as many slots as this many open files allow (`RLIMIT_NOFILE`): two descriptors for each slot, after
    /// a few are reserved for the process itself.
    #[must_use]
    pub fn within(open_files: u64) -> Self {
        let open_files = usize::try_from(open_files).unwrap_or(usize::MAX);
        let reserved = RESERVED.min(open_files / 4);
        let descriptors = (open_files - reserved).min(MOST);
        let limits =
            Limits { total: descriptors, slot_cost: 2, upstream_slots: descriptors / 2, descriptors };
        Self::with(limits, reserved, "no more fit into the limit of open files, raise LimitNOFILE")
    }

    fn with(limits: Limits, reserved: usize, limited_by: &'static str) -> Self {
        Self(Arc::new(Shared {
            budget: Mutex::new(Budget::new(limits)),
            total: limits.total / limits.slot_cost,
            reserved,
            limited_by,
            counts_descriptors: limits.descriptors < MOST,
            is_short_of_descriptors: AtomicBool::new(false),
            idle_pools: Mutex::default(),
            upstream_slot_log: LogLimit::default(),
            descriptor_log: LogLimit::default(),
        }))
    }

    /// All slots, free and taken.
    #[must_use]
    pub fn total(&self) -> usize {
        self.0.total
    }

    /// Slots that are taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.0.lock().slots()
    }

    /// Descriptors that the process keeps for itself, outside of all slots.
    #[must_use]
    pub fn reserved(&self) -> usize {
        self.0.reserved
    }

    /// Which limit sets the number of slots, in words for the operator.
    #[must_use]
    pub fn limited_by(&self) -> &'static str {
        self.0.limited_by
    }

    /// Takes a slot. `None` means that none is free.
    #[must_use]
    pub fn try_take(&self) -> Option<Slot> {
        self.0.change(|budget| budget.try_take(Need::Slot)).then(|| Slot::new(self))
    }

    /// Waits for a free slot and takes it. Waiters are served in the order of their calls.
    pub async fn take(&self) -> Slot {
        self.acquire(Need::Slot).await;
        Slot::new(self)
    }

    /// Takes a descriptor for a connection to an upstream, for a caller that has room for one. If none is free, it
    /// closes idle connections until one is.
    pub async fn descriptor(&self) -> Descriptor {
        self.acquire(Need::Descriptor).await;
        Descriptor(self.clone())
    }

    async fn acquire(&self, need: Need) {
        if self.0.change(|budget| budget.try_take(need)) {
            return;
        }
        let (waker, mut served) = oneshot::channel();
        let ticket = self.0.change(|budget| budget.wait(need, waker));
        let mut waiter = Waiter { shared: &self.0, need, ticket, is_served: false };
        if self.0.may_wait_for_descriptors(need) {
            // A connection may close slowly.
            while timeout(CLOSE_WAIT, &mut served).await.is_err() {
                self.0.change(|budget| budget.stop_expecting(need, ticket));
                if need == Need::Descriptor && self.0.descriptor_log.take() {
                    tracing::warn!("connections wait for descriptors, and none is idle: raise LimitNOFILE");
                }
            }
        } else {
            // The budget keeps the waker until it serves.
            let _ = served.await;
        }
        waiter.is_served = true;
    }
}

// === impl Slot ===

impl Slot {
    fn new(slots: &Slots) -> Self {
        Self { slots: slots.clone(), is_evicted: AtomicBool::new(false) }
    }

    /// The slots to which this one belongs.
    #[must_use]
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// Waits for room for one more connection to an upstream and takes it. Waiters are served in the order of
    /// their calls.
    pub async fn upstream_slot(&self) -> UpstreamSlot {
        let shared = &self.slots.0;
        if shared.lock().is_short_of_upstream_slots() && shared.upstream_slot_log.take() {
            let limit = shared.limited_by;
            tracing::warn!("requests over HTTP/2 wait for room for connections to upstreams: {limit}");
        }
        self.slots.acquire(Need::UpstreamSlot).await;
        UpstreamSlot(self.slots.clone())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let is_evicted = *self.is_evicted.get_mut();
        self.slots.0.change(|budget| match is_evicted {
            true => budget.free_evicted(),
            false => budget.free(Need::Slot),
        });
    }
}

impl Drop for UpstreamSlot {
    fn drop(&mut self) {
        self.0.0.change(|budget| budget.free(Need::UpstreamSlot));
    }
}

// === impl Descriptor ===

impl Descriptor {
    /// Whether others wait for a descriptor. If so, no connection should become idle and be kept.
    #[must_use]
    pub fn has_waiters(&self) -> bool {
        self.0.0.is_short_of_descriptors.load(Ordering::SeqCst)
    }

    /// Registers a pool whose idle connections may be closed when others wait for a descriptor.
    pub fn offer(&self, pool: Weak<dyn IdlePool>) {
        let mut pools = self.0.0.idle_pools();
        pools.retain(|pool| pool.strong_count() > 0);
        pools.push(pool);
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // It closes no others: a pool that drops a connection may hold its own lock.
        self.0.0.settle(|budget| budget.free(Need::Descriptor), |_| ());
    }
}

// === impl Shared ===

impl Shared {
    /// Whether one that waits may depend on how fast idle connections close.
    fn may_wait_for_descriptors(&self, need: Need) -> bool {
        self.counts_descriptors && need != Need::UpstreamSlot
    }

    /// Changes the budget, and closes idle connections if that is needed then.
    fn change<R>(&self, change: impl FnOnce(&mut Budget<oneshot::Sender<()>>) -> R) -> R {
        let (result, to_close) = self.settle(change, Budget::close);
        let closed = (0..to_close).take_while(|_| self.close_oldest()).count();
        if closed < to_close {
            self.lock().expect_fewer_to_close(to_close - closed);
        }
        result
    }

    /// Changes the budget, and wakes those who are served or asked then. `then` is called after that, under the same
    /// lock.
    fn settle<R, T>(
        &self,
        change: impl FnOnce(&mut Budget<oneshot::Sender<()>>) -> R,
        then: impl FnOnce(&mut Budget<oneshot::Sender<()>>) -> T,
    ) -> (R, T) {
        let mut budget = self.lock();
        let result = change(&mut budget);
        let Decisions { served, asked } = budget.settle();
        let then = then(&mut budget);
        self.is_short_of_descriptors.store(budget.is_short_of_descriptors(), Ordering::SeqCst);
        drop(budget);
        for waker in served.into_iter().chain(asked) {
            // The receiver may be gone. Then its guard tells the budget.
            let _ = waker.send(());
        }
        (result, then)
    }

    /// Closes the connection that has been idle longest. Returns whether there was one.
    fn close_oldest(&self) -> bool {
        let live: Vec<_> = self.idle_pools().iter().filter_map(Weak::upgrade).collect();
        let idle = live.into_iter().filter_map(|pool| Some((pool.oldest_since()?, pool)));
        let oldest = idle.min_by_key(|(since, _)| *since);
        oldest.inspect(|(_, pool)| pool.close_oldest()).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Budget<oneshot::Sender<()>>> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn idle_pools(&self) -> MutexGuard<'_, Vec<Weak<dyn IdlePool>>> {
        self.idle_pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One that waits. Dropping it ends the wait.
struct Waiter<'a> {
    shared: &'a Shared,
    need: Need,
    ticket: u64,
    is_served: bool,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        if !self.is_served {
            self.shared.change(|budget| budget.stop_waiting(self.need, self.ticket));
        }
    }
}
