//! Owns slots, for connections and for handshakes: how many there are, and which connection is evicted when
//! others wait for a slot.
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

mod descriptors;
mod log_limit;

pub use descriptors::{Descriptor, Descriptors, IdlePool};
pub use log_limit::LogLimit;
use std::future::{Future, pending, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep};

/// How long in total a client may keep Holdline waiting before its first request while others wait for a slot.
/// A lost packet arrives again within this time.
pub const EVICT_AFTER: Duration = Duration::from_secs(2);

/// The connection slots of all listeners together, or the handshake slots of one listener.
#[derive(Clone, Debug)]
pub struct Slots(Arc<SlotPool>);

#[derive(Debug)]
struct SlotPool {
    free: Semaphore,
    total: usize,
    /// Permits of `free` that a slot takes.
    cost: u32,
    taken: AtomicUsize,
    limited_by: &'static str,
    /// `None` means that slots are not counted in descriptors.
    descriptors: Option<Descriptors>,
    /// Upstream slots that are free.
    upstream_slots: Semaphore,
    reserved: usize,
    demand: Mutex<Demand>,
    /// Connections that may be evicted wait here, in the order in which they became evictable.
    evictable: Notify,
    /// Limits the warning that HTTP/2 requests wait for an upstream slot.
    log_limit: LogLimit,
}

/// How many wait for a slot, and for how many of them an eviction was claimed.
#[derive(Debug, Default)]
struct Demand {
    waiting: usize,
    claimed: usize,
}

/// A slot that is taken. Dropping it frees the slot.
#[derive(Debug)]
pub struct Slot {
    pool: Arc<SlotPool>,
    _descriptor: Option<Descriptor>,
}

/// Room for one more connection to an upstream, beyond the one that a client's slot pays for.
#[derive(Debug)]
pub struct UpstreamSlot(Arc<SlotPool>);

/// The promise to free a slot for one that waits. Dropping the claim withdraws it, and another connection is
/// asked instead.
#[derive(Debug)]
#[must_use]
pub struct EvictionClaim<'a>(&'a SlotPool);

/// A connection or handshake must free its slot, because others wait for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evicted;

// === impl Slots ===

impl Slots {
    /// Makes `total` slots. `limited_by` tells the operator which limit sets the number, and how to raise it.
    #[must_use]
    pub fn new(total: usize, limited_by: &'static str) -> Self {
        let total = total.min(Semaphore::MAX_PERMITS);
        Self::of(SlotPool {
            free: Semaphore::new(total),
            total,
            cost: 1,
            taken: AtomicUsize::new(0),
            limited_by,
            descriptors: None,
            upstream_slots: Semaphore::new(Semaphore::MAX_PERMITS),
            reserved: RESERVED,
            demand: Mutex::default(),
            evictable: Notify::new(),
            log_limit: LogLimit::default(),
        })
    }

    /// Makes as many slots as this many open files allow (`RLIMIT_NOFILE`): two descriptors for each slot, after
    /// a few are reserved for the process itself.
    #[must_use]
    pub fn within(open_files: u64) -> Self {
        let open_files = usize::try_from(open_files).unwrap_or(usize::MAX);
        let reserved = RESERVED.min(open_files / 4);
        let descriptors = (open_files - reserved).min(Semaphore::MAX_PERMITS);
        Self::of(SlotPool {
            free: Semaphore::new(descriptors),
            total: descriptors / 2,
            cost: 2,
            taken: AtomicUsize::new(0),
            limited_by: "no more fit into the limit of open files, raise LimitNOFILE",
            descriptors: Some(Descriptors::new(descriptors)),
            upstream_slots: Semaphore::new(descriptors / 2),
            reserved,
            demand: Mutex::default(),
            evictable: Notify::new(),
            log_limit: LogLimit::default(),
        })
    }

    fn of(pool: SlotPool) -> Self {
        Self(Arc::new(pool))
    }

    /// All slots, free and taken.
    #[must_use]
    pub fn total(&self) -> usize {
        self.0.total
    }

    /// Slots that are taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.0.taken.load(Ordering::Relaxed)
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
        let permit = self.0.free.try_acquire_many(self.0.cost).ok()?;
        let descriptor = match &self.0.descriptors {
            Some(descriptors) => Some(descriptors.try_take()?),
            None => None,
        };
        Some(Slot::new(&self.0, permit, descriptor))
    }

    /// Waits for a free slot and takes it. Waiters are served in the order of their calls.
    pub async fn take(&self) -> Slot {
        if let Some(slot) = self.try_take() {
            return slot;
        }
        let permit = self.0.acquire(self.0.cost).await;
        let descriptor = match &self.0.descriptors {
            Some(descriptors) => Some(descriptors.take().await),
            None => None,
        };
        Slot::new(&self.0, permit, descriptor)
    }
}

// === impl Slot ===

impl Slot {
    fn new(pool: &Arc<SlotPool>, permit: SemaphorePermit<'_>, descriptor: Option<Descriptor>) -> Self {
        permit.forget();
        pool.taken.fetch_add(1, Ordering::Relaxed);
        Self { pool: Arc::clone(pool), _descriptor: descriptor }
    }

    /// Waits for room for one more connection to an upstream and takes it. Waiters are served in the order of
    /// their calls.
    pub async fn upstream_slot(&self) -> UpstreamSlot {
        if self.pool.is_short() && self.pool.log_limit.take() {
            let limit = self.pool.limited_by;
            tracing::warn!("requests over HTTP/2 wait for room for connections to upstreams: {limit}");
        }
        let Ok(slot) = self.pool.upstream_slots.acquire().await else { pending().await };
        let permit = self.pool.acquire(1).await;
        slot.forget();
        permit.forget();
        UpstreamSlot(Arc::clone(&self.pool))
    }

    /// The descriptors of all connections. `None` means that they are not counted.
    #[must_use]
    pub fn descriptors(&self) -> Option<&Descriptors> {
        self.pool.descriptors.as_ref()
    }

    /// Claims an eviction. `None` means that nobody waits for a slot, or that others have claimed an eviction
    /// for each waiter. The caller must free this slot and confirm the claim, or drop the claim.
    #[must_use]
    pub fn claim_eviction(&self) -> Option<EvictionClaim<'_>> {
        let mut demand = self.pool.demand();
        let is_needed = demand.claimed < demand.waiting;
        demand.claimed += usize::from(is_needed);
        is_needed.then(|| EvictionClaim(&self.pool))
    }

    /// Awaits `awaited`, which depends on the client. `waited` adds up how long the client has kept Holdline
    /// waiting. Beyond [`EVICT_AFTER`] in total, this gives up as soon as another connection needs the slot.
    ///
    /// # Errors
    /// [`Evicted`] if the caller must free this slot. The eviction has been claimed and confirmed by then.
    pub async fn wait_evictable<T>(
        &self,
        waited: &mut Duration,
        awaited: impl Future<Output = T>,
    ) -> Result<T, Evicted> {
        let mut awaited = pin!(awaited);
        // Most futures are ready at once, and need no timer.
        if let Poll::Ready(done) = poll_fn(|cx| Poll::Ready(awaited.as_mut().poll(cx))).await {
            return Ok(done);
        }
        // The future was polled just now, and wakes this task when it is ready.
        let mut was_polled = true;
        let awaited = poll_fn(|cx| match std::mem::take(&mut was_polled) {
            true => Poll::Pending,
            false => awaited.as_mut().poll(cx),
        });
        let began = Instant::now();
        let done = tokio::select! {
            // A future that wakes its task again and again must not delay the eviction.
            biased;
            claim = self.eviction(EVICT_AFTER.saturating_sub(*waited)) => {
                claim.confirm();
                Err(Evicted)
            }
            done = awaited => Ok(done),
        };
        *waited += began.elapsed();
        done
    }

    /// Sleeps for `delay`, then waits until another connection needs this slot.
    pub async fn eviction(&self, delay: Duration) -> EvictionClaim<'_> {
        if !delay.is_zero() {
            sleep(delay).await;
        }
        loop {
            let mut asked = pin!(self.pool.evictable.notified());
            asked.as_mut().enable();
            if let Some(claim) = self.claim_eviction() {
                return claim;
            }
            asked.await;
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.pool.taken.fetch_sub(1, Ordering::Relaxed);
        self.pool.free.add_permits(self.pool.cost as usize);
    }
}

impl Drop for UpstreamSlot {
    fn drop(&mut self) {
        self.0.upstream_slots.add_permits(1);
        self.0.free.add_permits(1);
    }
}

// === impl EvictionClaim ===

impl EvictionClaim<'_> {
    /// Keeps the promise: the caller drops its slot next.
    pub fn confirm(self) {
        std::mem::forget(self);
    }
}

impl Drop for EvictionClaim<'_> {
    fn drop(&mut self) {
        let mut demand = self.0.demand();
        demand.claimed = demand.claimed.saturating_sub(1);
        drop(demand);
        self.0.evictable.notify_one();
    }
}

// === impl SlotPool ===

impl SlotPool {
    /// Whether a caller must wait for the next upstream slot.
    fn is_short(&self) -> bool {
        self.upstream_slots.available_permits() == 0 || self.free.available_permits() == 0
    }

    async fn acquire(&self, cost: u32) -> SemaphorePermit<'_> {
        if let Ok(permit) = self.free.try_acquire_many(cost) {
            return permit;
        }
        let _waiting = Waiting::begin(self);
        match self.free.acquire_many(cost).await {
            Ok(permit) => permit,
            // The semaphore is never closed.
            Err(_) => pending().await,
        }
    }

    fn demand(&self) -> MutexGuard<'_, Demand> {
        self.demand.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts one waiter for as long as it lives.
struct Waiting<'a>(&'a SlotPool);

impl<'a> Waiting<'a> {
    fn begin(pool: &'a SlotPool) -> Self {
        pool.demand().waiting += 1;
        pool.evictable.notify_one();
        Self(pool)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut demand = self.0.demand();
        demand.waiting -= 1;
        demand.claimed = demand.claimed.saturating_sub(1);
    }
}

/// Descriptors of the process itself: the runtime, listeners, logs, name look-ups, and the 64 connections of the
/// admin endpoint.
const RESERVED: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::task::yield_now;
    use tokio::time::{advance, timeout};

    #[test]
    fn two_descriptors_a_connection_and_some_for_the_process() {
        assert_eq!(
            [40, 1024, 20_000, 1_048_576].map(|files| Slots::within(files).total()),
            [15, 448, 9936, 524_224]
        );
        assert_eq!(Slots::within(u64::MAX).total(), Semaphore::MAX_PERMITS / 2);
    }

    #[test]
    fn a_slot_is_free_when_it_is_dropped() {
        let slots = Slots::new(1, "");
        let taken = slots.try_take();
        assert!(taken.is_some() && slots.try_take().is_none());
        assert_eq!(slots.taken(), 1);
        drop(taken);
        assert!(slots.try_take().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn streams_leave_room_for_clients_and_clients_for_their_own() {
        let is_free = async |waiting: &mut (dyn Future<Output = UpstreamSlot> + Unpin)| {
            timeout(Duration::from_secs(60), waiting).await.is_ok()
        };
        // 10 of the 40 are reserved for the process.
        let slots = Slots::within(40);
        let first = slots.take().await;
        let mut streams = Vec::new();
        for _ in 0..15 {
            streams.push(first.upstream_slot().await);
        }
        assert!(!is_free(&mut Box::pin(first.upstream_slot())).await, "half of all");
        let mut others = Vec::new();
        while let Some(slot) = slots.try_take() {
            others.push(slot);
        }
        assert_eq!((others.len(), slots.taken(), slots.total()), (6, 7, 15));
        // Each of them also has one connection to an upstream. One descriptor is left.
        let descriptors = first.descriptors().unwrap();
        let upstreams: Vec<_> = (0..15 + 7).map(|_| descriptors.try_take().unwrap()).collect();
        assert!(descriptors.try_take().is_some());
        drop((upstreams, others));
        streams.pop();
        assert!(is_free(&mut Box::pin(first.upstream_slot())).await);
        drop((first, streams));
        assert_eq!((slots.0.free.available_permits(), slots.taken()), (30, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn the_log_says_once_a_minute_that_requests_wait() {
        let (log, lines) = captured();
        let _log = tracing::subscriber::set_default(log);
        let (bound, slots) = ("raise LimitNOFILE", Slots::within(40));
        let first = slots.take().await;
        let wait = async |count: usize| {
            for _ in 0..count {
                assert!(timeout(Duration::from_secs(1), first.upstream_slot()).await.is_err());
            }
        };
        let streams: Vec<_> = (0..15).map(|_| first.upstream_slot()).collect();
        let mut taken = Vec::new();
        for stream in streams {
            taken.push(stream.await);
        }
        assert_eq!(lines().matches(bound).count(), 0);
        wait(10).await;
        assert_eq!(lines().matches(bound).count(), 1, "{}", lines());
        advance(Duration::from_secs(60)).await;
        wait(10).await;
        assert_eq!(lines().matches(bound).count(), 2, "{}", lines());
        // Idle connections free their descriptors at once, so the log says nothing before none is left.
        drop(taken);
        let descriptors = first.descriptors().unwrap();
        let open: Vec<_> = std::iter::from_fn(|| descriptors.try_take()).collect();
        assert!(timeout(Duration::from_millis(100), descriptors.take()).await.is_err());
        assert_eq!(lines().matches(bound).count(), 2, "{}", lines());
        for _ in 0..3 {
            assert!(timeout(Duration::from_secs(1), descriptors.take()).await.is_err());
        }
        assert_eq!(lines().matches(bound).count(), 3, "{}", lines());
        drop(open);
    }

    /// A subscriber, and the text that it has logged.
    fn captured() -> (impl tracing::Subscriber + Send + Sync, impl Fn() -> String) {
        #[derive(Clone, Default)]
        struct Written(Arc<Mutex<Vec<u8>>>);
        impl std::io::Write for Written {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().unwrap().write(bytes)
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let written = Written::default();
        let text = written.clone();
        let log = tracing_subscriber::fmt().with_writer(move || written.clone()).finish();
        (log, move || String::from_utf8_lossy(&text.0.lock().unwrap()).into_owned())
    }

    /// A client that sends nothing. `gone` counts those that were evicted.
    fn keep_silent(slot: Slot, gone: &Arc<AtomicUsize>) {
        let gone = Arc::clone(gone);
        tokio::spawn(async move {
            let waited = slot.wait_evictable(&mut Duration::default(), pending::<()>()).await;
            assert_eq!(waited, Err(Evicted));
            gone.fetch_add(1, Ordering::Relaxed);
        });
    }

    #[tokio::test(start_paused = true)]
    async fn as_many_are_evicted_as_are_waiting_and_none_while_nobody_waits() {
        let (slots, gone) = (Slots::new(10, ""), Arc::default());
        for _ in 0..10 {
            keep_silent(slots.take().await, &gone);
        }
        sleep(EVICT_AFTER * 10).await;
        assert_eq!(gone.load(Ordering::Relaxed), 0);
        let mut others = Vec::new();
        for taken in 1..=7 {
            others.push(slots.take().await);
            sleep(EVICT_AFTER * 10).await;
            assert_eq!(gone.load(Ordering::Relaxed), taken);
        }
        let (one, two) = tokio::join!(slots.take(), slots.take());
        sleep(EVICT_AFTER * 10).await;
        assert_eq!(gone.load(Ordering::Relaxed), 9);
        drop((one, two, others));
        assert_eq!(slots.0.free.available_permits(), 9);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_evicted_before_its_time() {
        let (slots, gone) = (Slots::new(1, ""), Arc::default());
        keep_silent(slots.take().await, &gone);
        let began = Instant::now();
        slots.take().await;
        assert!(began.elapsed().abs_diff(EVICT_AFTER) < Duration::from_millis(5));
        assert_eq!(gone.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_withdrawn_claim_passes_to_another_connection() {
        let (slots, gone) = (Slots::new(2, ""), Arc::default());
        let slot = slots.take().await;
        keep_silent(slots.take().await, &gone);
        sleep(EVICT_AFTER * 2).await;
        assert!(slot.claim_eviction().is_none(), "nobody waits");
        let mut waiting = pin!(slots.take());
        // This task claims before the silent client is woken.
        let first = poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx))).await;
        assert!(first.is_pending());
        let claim = slot.claim_eviction().expect("somebody waits");
        assert!(slot.claim_eviction().is_none(), "an eviction is claimed for it");
        yield_now().await;
        assert_eq!(gone.load(Ordering::Relaxed), 0);
        drop(claim);
        waiting.await;
        assert_eq!(gone.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiter_that_gives_up_evicts_nobody() {
        let (slots, gone) = (Slots::new(1, ""), Arc::default());
        keep_silent(slots.take().await, &gone);
        let waiting = tokio::spawn({
            let slots = slots.clone();
            async move { drop(slots.take().await) }
        });
        yield_now().await;
        waiting.abort();
        advance(EVICT_AFTER * 2).await;
        yield_now().await;
        assert_eq!(gone.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn only_time_spent_waiting_for_the_client_counts() {
        let slots = Slots::new(1, "");
        let slot = slots.take().await;
        let mut waited = Duration::ZERO;
        for _ in 0..3 {
            assert_eq!(slot.wait_evictable(&mut waited, sleep(EVICT_AFTER / 4)).await, Ok(()));
            // Meanwhile the proxy itself works.
            sleep(EVICT_AFTER).await;
        }
        assert!(waited.abs_diff(EVICT_AFTER * 3 / 4) < Duration::from_millis(10));
    }
}
