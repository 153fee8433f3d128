//! Owns places of which there are so many, for connections and for handshakes, and who gives one
//! back while others wait.
//!
//! A connection takes a descriptor to its client and one to its upstream, and accepting pauses before
//! none is left for those that are open. Whoever opens connections and says nothing on them could so
//! keep everybody else out for as long as timeouts last: while somebody waits for a place, those that
//! have kept the proxy waiting longest give theirs back (as nginx reuses connections that wait for a
//! request when `worker_connections` are used up).

use std::future::{Future, pending, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, sleep};

/// How long a client may keep the proxy waiting in all, before its first request, while others wait
/// for its place: time for a packet that was lost to come a second time.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// Room for connections of all listeners together, or for handshakes of one.
#[derive(Clone, Debug)]
pub struct Slots(Arc<Room>);

#[derive(Debug)]
struct Room {
    free: Semaphore,
    all: usize,
    bound: &'static str,
    demand: Mutex<Demand>,
    /// Those whose places may be asked for, in the order in which they came to that.
    asked: Notify,
}

/// Those who wait for a place, and how many of them somebody is making room for.
#[derive(Debug, Default)]
struct Demand {
    waiting: usize,
    answered: usize,
}

/// A place; it is free again when this is dropped.
#[derive(Debug)]
pub struct Slot(Arc<Room>);

/// The place is wanted by others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted;

// === impl Slots ===

impl Slots {
    /// Room for so many; `bound` says what sets the number, and what can be done about it.
    #[must_use]
    pub fn new(all: usize, bound: &'static str) -> Self {
        let all = all.min(Semaphore::MAX_PERMITS);
        let free = Semaphore::new(all);
        Self(Arc::new(Room { free, all, bound, demand: Mutex::default(), asked: Notify::new() }))
    }

    /// As many as that many open files allow (`RLIMIT_NOFILE`): two for each, less a few for the
    /// process itself.
    #[must_use]
    pub fn within(open_files: u64) -> Self {
        let own = OWN.min(open_files / 4);
        let all = usize::try_from((open_files - own) / 2).unwrap_or(usize::MAX);
        Self::new(all, "no more fit into the limit of open files, raise LimitNOFILE")
    }

    /// How many there are, taken or not.
    #[must_use]
    pub fn all(&self) -> usize {
        self.0.all
    }

    /// How many are taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.0.all - self.0.free.available_permits()
    }

    /// What sets their number.
    #[must_use]
    pub fn bound(&self) -> &'static str {
        self.0.bound
    }

    /// One, if there is one.
    #[must_use]
    pub fn try_take(&self) -> Option<Slot> {
        self.0.free.try_acquire().ok().map(|permit| {
            permit.forget();
            Slot(Arc::clone(&self.0))
        })
    }

    /// One, when there is one; in the order of asking.
    pub async fn take(&self) -> Slot {
        if let Some(slot) = self.try_take() {
            return slot;
        }
        let _waiting = Waiting::begin(&self.0);
        match self.0.free.acquire().await {
            Ok(permit) => permit.forget(),
            // It is never closed.
            Err(_) => pending().await,
        }
        Slot(Arc::clone(&self.0))
    }
}

// === impl Slot ===

impl Slot {
    /// Whether somebody waits for a place and nobody else has made room for him yet. Whoever hears
    /// that of his place gives it back.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        let mut demand = self.0.demand();
        let wanted = demand.answered < demand.waiting;
        demand.answered += usize::from(wanted);
        wanted
    }

    /// Waits for something that the client has to do. `waited` is the time that it has been waited
    /// for in all: beyond [`PATIENCE`] it is waited for as long as nobody wants the place.
    ///
    /// # Errors
    /// Somebody does.
    pub async fn spare<T>(
        &self,
        waited: &mut Duration,
        awaited: impl Future<Output = T>,
    ) -> Result<T, Wanted> {
        let mut awaited = pin!(awaited);
        // Most have done it before they are waited for: they cost no timer.
        if let Poll::Ready(done) = poll_fn(|cx| Poll::Ready(awaited.as_mut().poll(cx))).await {
            return Ok(done);
        }
        // It has just been asked, and will wake this task.
        let mut is_asked = true;
        let awaited = poll_fn(|cx| match std::mem::take(&mut is_asked) {
            true => Poll::Pending,
            false => awaited.as_mut().poll(cx),
        });
        let began = Instant::now();
        let done = tokio::select! {
            // Whoever is woken again and again does not put off this question.
            biased;
            () = self.wanted(PATIENCE.saturating_sub(*waited)) => Err(Wanted),
            done = awaited => Ok(done),
        };
        *waited += began.elapsed();
        done
    }

    async fn wanted(&self, patience: Duration) {
        if !patience.is_zero() {
            sleep(patience).await;
        }
        loop {
            let mut asked = pin!(self.0.asked.notified());
            asked.as_mut().enable();
            if self.is_wanted() {
                return;
            }
            asked.await;
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.free.add_permits(1);
    }
}

// === impl Room ===

impl Room {
    fn demand(&self) -> MutexGuard<'_, Demand> {
        self.demand.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who waits for a place.
struct Waiting<'a>(&'a Room);

impl<'a> Waiting<'a> {
    fn begin(room: &'a Room) -> Self {
        room.demand().waiting += 1;
        room.asked.notify_one();
        Self(room)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut demand = self.0.demand();
        demand.waiting -= 1;
        demand.answered = demand.answered.saturating_sub(1);
    }
}

/// Descriptors of the process itself: the runtime's, listeners, logs, name look-ups, kept connections, and the 64
/// connections of the admin endpoint.
const OWN: u64 = 128;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::task::yield_now;
    use tokio::time::advance;

    #[test]
    fn two_descriptors_a_connection_and_some_for_the_process() {
        assert_eq!(
            [40, 1024, 20_000, 1_048_576].map(|files| Slots::within(files).all()),
            [15, 448, 9936, 524_224]
        );
        assert_eq!(Slots::within(u64::MAX).all(), Semaphore::MAX_PERMITS);
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

    /// A client that never says a word; `gone` counts those whose places were wanted.
    fn keep_silent(slot: Slot, gone: &Arc<AtomicUsize>) {
        let gone = Arc::clone(gone);
        tokio::spawn(async move {
            let waited = slot.spare(&mut Duration::default(), pending::<()>()).await;
            assert_eq!(waited, Err(Wanted));
            gone.fetch_add(1, Ordering::Relaxed);
        });
    }

    #[tokio::test(start_paused = true)]
    async fn as_many_give_way_as_are_waiting_and_none_while_nobody_waits() {
        let (slots, gone) = (Slots::new(10, ""), Arc::default());
        for _ in 0..10 {
            keep_silent(slots.take().await, &gone);
        }
        sleep(PATIENCE * 10).await;
        assert_eq!(gone.load(Ordering::Relaxed), 0);
        let mut others = Vec::new();
        for taken in 1..=7 {
            others.push(slots.take().await);
            sleep(PATIENCE * 10).await;
            assert_eq!(gone.load(Ordering::Relaxed), taken);
        }
        let (one, two) = tokio::join!(slots.take(), slots.take());
        sleep(PATIENCE * 10).await;
        assert_eq!(gone.load(Ordering::Relaxed), 9);
        drop((one, two, others));
        assert_eq!(slots.0.free.available_permits(), 9);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_gives_way_before_his_time() {
        let (slots, gone) = (Slots::new(1, ""), Arc::default());
        keep_silent(slots.take().await, &gone);
        let began = Instant::now();
        slots.take().await;
        assert!(began.elapsed().abs_diff(PATIENCE) < Duration::from_millis(5));
        assert_eq!(gone.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn who_stops_waiting_wants_no_place() {
        let (slots, gone) = (Slots::new(1, ""), Arc::default());
        keep_silent(slots.take().await, &gone);
        let waiting = tokio::spawn({
            let slots = slots.clone();
            async move { drop(slots.take().await) }
        });
        yield_now().await;
        waiting.abort();
        advance(PATIENCE * 2).await;
        yield_now().await;
        assert_eq!(gone.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn time_that_the_client_used_well_is_not_counted() {
        let slots = Slots::new(1, "");
        let slot = slots.take().await;
        let mut waited = Duration::ZERO;
        for _ in 0..3 {
            assert_eq!(slot.spare(&mut waited, sleep(PATIENCE / 4)).await, Ok(()));
            // Here the proxy itself is at work.
            sleep(PATIENCE).await;
        }
        assert!(waited.abs_diff(PATIENCE * 3 / 4) < Duration::from_millis(10));
    }
}
