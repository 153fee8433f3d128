//! Owns places of which there are so many, for connections and for handshakes, and who gives one
//! back while others wait.
//!
//! The places of connections are those that the limit of open files allows. A client's connection takes a
//! descriptor and brings along room for one connection to an upstream, so that neither kind can take
//! the room of the other. Requests of HTTP/2 that are under way beside the first take more: half of all
//! at most, so that there is room for new clients whatever those do that are here. Idle connections to
//! upstreams live in what is left, and are closed when somebody wants their descriptors.
//!
//! Whoever opens connections and says nothing on them could keep everybody else out for as long as timeouts
//! last: while somebody waits for a place, those that have kept the proxy waiting longest give theirs back (as
//! nginx reuses connections that wait for a request when `worker_connections` are used up).

mod files;
mod log_limit;

pub use files::{File, Files, Idle};
pub use log_limit::LogLimit;
use std::future::{Future, pending, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
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
    /// How much of it a place takes.
    cost: u32,
    taken: AtomicUsize,
    bound: &'static str,
    /// Of connections: the descriptors they have.
    files: Option<Files>,
    /// What more may be taken beside places.
    more: Semaphore,
    own: usize,
    demand: Mutex<Demand>,
    /// Those whose places may be asked for, in the order in which they came to that.
    asked: Notify,
    /// Lines that say that requests wait.
    lines: LogLimit,
}

/// Those who wait for a place, and how many of them somebody is making room for.
#[derive(Debug, Default)]
struct Demand {
    waiting: usize,
    answered: usize,
}

/// A place; it is free again when this is dropped.
#[derive(Debug)]
pub struct Slot {
    room: Arc<Room>,
    _file: Option<File>,
}

/// Room for a connection to an upstream, beside the one that a client's connection brings along.
#[derive(Debug)]
pub struct More(Arc<Room>);

/// Somebody waits for a place, and this one is about to be given to him. Dropped, the claim is withdrawn, and
/// another place is asked for.
#[derive(Debug)]
#[must_use]
pub struct Claim<'a>(&'a Room);

/// The place is wanted by others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted;

// === impl Slots ===

impl Slots {
    /// Room for so many; `bound` says what sets the number, and what can be done about it.
    #[must_use]
    pub fn new(all: usize, bound: &'static str) -> Self {
        let all = all.min(Semaphore::MAX_PERMITS);
        Self::of(Room {
            free: Semaphore::new(all),
            all,
            cost: 1,
            taken: AtomicUsize::new(0),
            bound,
            files: None,
            more: Semaphore::new(Semaphore::MAX_PERMITS),
            own: OWN,
            demand: Mutex::default(),
            asked: Notify::new(),
            lines: LogLimit::default(),
        })
    }

    /// As many as that many open files allow (`RLIMIT_NOFILE`): two for each, less a few for the
    /// process itself.
    #[must_use]
    pub fn within(open_files: u64) -> Self {
        let open_files = usize::try_from(open_files).unwrap_or(usize::MAX);
        let own = OWN.min(open_files / 4);
        let files = (open_files - own).min(Semaphore::MAX_PERMITS);
        Self::of(Room {
            free: Semaphore::new(files),
            all: files / 2,
            cost: 2,
            taken: AtomicUsize::new(0),
            bound: "no more fit into the limit of open files, raise LimitNOFILE",
            files: Some(Files::new(files)),
            more: Semaphore::new(files / 2),
            own,
            demand: Mutex::default(),
            asked: Notify::new(),
            lines: LogLimit::default(),
        })
    }

    fn of(room: Room) -> Self {
        Self(Arc::new(room))
    }

    /// How many there are, taken or not.
    #[must_use]
    pub fn all(&self) -> usize {
        self.0.all
    }

    /// How many are taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.0.taken.load(Ordering::Relaxed)
    }

    /// How many descriptors the process has beside those of connections.
    #[must_use]
    pub fn own(&self) -> usize {
        self.0.own
    }

    /// What sets their number.
    #[must_use]
    pub fn bound(&self) -> &'static str {
        self.0.bound
    }

    /// One, if there is one.
    #[must_use]
    pub fn try_take(&self) -> Option<Slot> {
        let permit = self.0.free.try_acquire_many(self.0.cost).ok()?;
        let file = match &self.0.files {
            Some(files) => Some(files.try_take()?),
            None => None,
        };
        Some(Slot::new(&self.0, permit, file))
    }

    /// One, when there is one; in the order of asking.
    pub async fn take(&self) -> Slot {
        if let Some(slot) = self.try_take() {
            return slot;
        }
        let permit = self.0.acquire(self.0.cost).await;
        let file = match &self.0.files {
            Some(files) => Some(files.take().await),
            None => None,
        };
        Slot::new(&self.0, permit, file)
    }
}

// === impl Slot ===

impl Slot {
    fn new(room: &Arc<Room>, permit: SemaphorePermit<'_>, file: Option<File>) -> Self {
        permit.forget();
        room.taken.fetch_add(1, Ordering::Relaxed);
        Self { room: Arc::clone(room), _file: file }
    }

    /// Room for another connection to an upstream, when there is some; in the order of asking.
    pub async fn more(&self) -> More {
        if self.room.is_short() && self.room.lines.take() {
            let bound = self.room.bound;
            tracing::warn!("requests over HTTP/2 wait for room for connections to upstreams: {bound}");
        }
        let Ok(more) = self.room.more.acquire().await else { pending().await };
        let room = self.room.acquire(1).await;
        more.forget();
        room.forget();
        More(Arc::clone(&self.room))
    }

    /// The descriptors of all connections; `None`: nobody counts them.
    #[must_use]
    pub fn files(&self) -> Option<&Files> {
        self.room.files.as_ref()
    }

    /// A claim on this place, if somebody waits for one and no other place is claimed for him.
    #[must_use]
    pub fn claim(&self) -> Option<Claim<'_>> {
        let mut demand = self.room.demand();
        let is_wanted = demand.answered < demand.waiting;
        demand.answered += usize::from(is_wanted);
        is_wanted.then(|| Claim(&self.room))
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
            claim = self.wanted(PATIENCE.saturating_sub(*waited)) => {
                claim.give();
                Err(Wanted)
            }
            done = awaited => Ok(done),
        };
        *waited += began.elapsed();
        done
    }

    /// Waits until somebody wants the place, for `patience` at least.
    pub async fn wanted(&self, patience: Duration) -> Claim<'_> {
        if !patience.is_zero() {
            sleep(patience).await;
        }
        loop {
            let mut asked = pin!(self.room.asked.notified());
            asked.as_mut().enable();
            if let Some(claim) = self.claim() {
                return claim;
            }
            asked.await;
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.room.taken.fetch_sub(1, Ordering::Relaxed);
        self.room.free.add_permits(self.room.cost as usize);
    }
}

impl Drop for More {
    fn drop(&mut self) {
        self.0.more.add_permits(1);
        self.0.free.add_permits(1);
    }
}

// === impl Claim ===

impl Claim<'_> {
    /// The place is given: its slot is dropped next.
    pub fn give(self) {
        std::mem::forget(self);
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut demand = self.0.demand();
        demand.answered = demand.answered.saturating_sub(1);
        drop(demand);
        self.0.asked.notify_one();
    }
}

// === impl Room ===

impl Room {
    /// Whether who wants one more must wait for it.
    fn is_short(&self) -> bool {
        self.more.available_permits() == 0 || self.free.available_permits() == 0
    }

    async fn acquire(&self, cost: u32) -> SemaphorePermit<'_> {
        if let Ok(permit) = self.free.try_acquire_many(cost) {
            return permit;
        }
        let _waiting = Waiting::begin(self);
        match self.free.acquire_many(cost).await {
            Ok(permit) => permit,
            // It is never closed.
            Err(_) => pending().await,
        }
    }

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

/// Descriptors of the process itself: the runtime's, listeners, logs, name look-ups, and the 64
/// connections of the admin endpoint.
const OWN: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::task::yield_now;
    use tokio::time::{advance, timeout};

    #[test]
    fn two_descriptors_a_connection_and_some_for_the_process() {
        assert_eq!(
            [40, 1024, 20_000, 1_048_576].map(|files| Slots::within(files).all()),
            [15, 448, 9936, 524_224]
        );
        assert_eq!(Slots::within(u64::MAX).all(), Semaphore::MAX_PERMITS / 2);
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
        let is_free = async |waiting: &mut (dyn Future<Output = More> + Unpin)| {
            timeout(Duration::from_secs(60), waiting).await.is_ok()
        };
        // Of 40, 10 are the process's own.
        let slots = Slots::within(40);
        let first = slots.take().await;
        let mut streams = Vec::new();
        for _ in 0..15 {
            streams.push(first.more().await);
        }
        assert!(!is_free(&mut Box::pin(first.more())).await, "half of all");
        let mut others = Vec::new();
        while let Some(slot) = slots.try_take() {
            others.push(slot);
        }
        assert_eq!((others.len(), slots.taken(), slots.all()), (6, 7, 15));
        // All of these, and a connection to an upstream for each: one is left over.
        let files = first.files().unwrap();
        let upstreams: Vec<_> = (0..15 + 7).map(|_| files.try_take().unwrap()).collect();
        assert!(files.try_take().is_some());
        drop((upstreams, others));
        streams.pop();
        assert!(is_free(&mut Box::pin(first.more())).await);
        drop((first, streams));
        assert_eq!((slots.0.free.available_permits(), slots.taken()), (30, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn the_log_hears_once_a_minute_that_requests_wait() {
        let (log, lines) = captured();
        let _log = tracing::subscriber::set_default(log);
        let (bound, slots) = ("raise LimitNOFILE", Slots::within(40));
        let first = slots.take().await;
        let wait = async |count: usize| {
            for _ in 0..count {
                assert!(timeout(Duration::from_secs(1), first.more()).await.is_err());
            }
        };
        let streams: Vec<_> = (0..15).map(|_| first.more()).collect();
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
        // Idle connections give their descriptors at once: only who gets none of them is a reason for a line.
        drop(taken);
        let files = first.files().unwrap();
        let open: Vec<_> = std::iter::from_fn(|| files.try_take()).collect();
        assert!(timeout(Duration::from_millis(100), files.take()).await.is_err());
        assert_eq!(lines().matches(bound).count(), 2, "{}", lines());
        for _ in 0..3 {
            assert!(timeout(Duration::from_secs(1), files.take()).await.is_err());
        }
        assert_eq!(lines().matches(bound).count(), 3, "{}", lines());
        drop(open);
    }

    /// What is logged, as text.
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
    async fn a_claim_that_is_withdrawn_is_answered_by_another() {
        let (slots, gone) = (Slots::new(2, ""), Arc::default());
        let slot = slots.take().await;
        keep_silent(slots.take().await, &gone);
        sleep(PATIENCE * 2).await;
        assert!(slot.claim().is_none(), "nobody waits");
        let mut waiting = pin!(slots.take());
        // Its turn comes before the other hears of it.
        let first = poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx))).await;
        assert!(first.is_pending());
        let claim = slot.claim().expect("somebody waits");
        assert!(slot.claim().is_none(), "and is answered");
        yield_now().await;
        assert_eq!(gone.load(Ordering::Relaxed), 0);
        drop(claim);
        waiting.await;
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
