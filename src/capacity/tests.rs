use super::*;
use std::future::{Future, pending, poll_fn};
use std::pin::pin;
use std::sync::atomic::AtomicUsize;
use std::task::Poll;
use tokio::task::yield_now;
use tokio::time::{advance, sleep, timeout};

#[test]
fn two_descriptors_a_connection_and_some_for_the_process() {
    assert_eq!(
        [40, 1024, 20_000, 1_048_576].map(|files| Slots::within(files).total()),
        [15, 448, 9936, 524_224]
    );
    assert_eq!(Slots::within(u64::MAX).total(), MOST / 2);
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
    let mut upstreams = Vec::new();
    for _ in 0..15 + 7 {
        upstreams.push(slots.descriptor().await);
    }
    let one_more = slots.descriptor().await;
    assert!(timeout(Duration::from_secs(60), slots.descriptor()).await.is_err());
    drop(one_more);
    drop((upstreams, others));
    streams.pop();
    assert!(is_free(&mut Box::pin(first.upstream_slot())).await);
    drop((first, streams));
    assert_eq!(slots.taken(), 0);
    assert_eq!(std::iter::from_fn(|| slots.try_take()).collect::<Vec<_>>().len(), 15);
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
    let mut open = Vec::new();
    for _ in 0..29 {
        open.push(slots.descriptor().await);
    }
    assert!(timeout(Duration::from_millis(100), slots.descriptor()).await.is_err());
    assert_eq!(lines().matches(bound).count(), 2, "{}", lines());
    for _ in 0..3 {
        assert!(timeout(Duration::from_secs(1), slots.descriptor()).await.is_err());
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
    assert_eq!(slots.taken(), 1);
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

/// A client that is busy whenever it is asked, but not when it offers its slot.
#[tokio::test(start_paused = true)]
async fn one_that_became_busy_declines_and_another_is_evicted() {
    let (slots, gone) = (Slots::new(2, ""), Arc::default());
    let busy = slots.take().await;
    let is_busy = Arc::new(AtomicBool::new(false));
    let declined = tokio::spawn({
        let is_busy = Arc::clone(&is_busy);
        async move {
            let waited = || (!is_busy.load(Ordering::Relaxed)).then_some(EVICT_AFTER * 9);
            // It is polled as a connection is that checks its timeouts.
            let checks = async {
                loop {
                    sleep(EVICT_AFTER).await;
                }
            };
            tokio::select! {
                evicted = busy.evicted(EVICT_AFTER, LOOK, waited) => evicted,
                () = checks => Evicted,
            }
        }
    });
    keep_silent(slots.take().await, &gone);
    sleep(EVICT_AFTER * 2).await;
    is_busy.store(true, Ordering::Relaxed);
    // It waits longest, so it is asked first.
    let _third = slots.take().await;
    assert_eq!((declined.is_finished(), gone.load(Ordering::Relaxed)), (false, 1));
    is_busy.store(false, Ordering::Relaxed);
    let _fourth = slots.take().await;
    assert_eq!(declined.await.unwrap(), Evicted);
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
async fn one_that_was_asked_stays_if_the_waiter_gives_up_meanwhile() {
    let (slots, gone) = (Slots::new(1, ""), Arc::default());
    keep_silent(slots.take().await, &gone);
    sleep(EVICT_AFTER * 2).await;
    {
        let mut waiting = pin!(slots.take());
        assert!(poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx))).await.is_pending());
    }
    sleep(EVICT_AFTER).await;
    assert_eq!(gone.load(Ordering::Relaxed), 0);
    slots.take().await;
    assert_eq!(gone.load(Ordering::Relaxed), 1);
}

/// Awaits for a minute, and counts how often that is polled.
async fn polls_in_a_minute<T>(awaited: impl Future<Output = T>) -> usize {
    let (mut awaited, mut polls) = (pin!(awaited), 0);
    let counted = poll_fn(|cx| {
        polls += 1;
        awaited.as_mut().poll(cx)
    });
    assert!(timeout(Duration::from_secs(60), counted).await.is_err());
    polls
}

#[tokio::test(start_paused = true)]
async fn those_that_wait_for_nothing_slow_and_those_that_are_busy_need_no_timer() {
    let handshakes = Slots::new(1, "");
    let slot = handshakes.take().await;
    // Once at the start, and once at the end of the minute.
    assert_eq!(polls_in_a_minute(handshakes.take()).await, 2);
    assert_eq!(polls_in_a_minute(slot.evicted(EVICT_AFTER, LOOK, || None)).await, 2);
    let idle = || Some(EVICT_AFTER);
    assert_eq!(polls_in_a_minute(slot.evicted(EVICT_AFTER, LOOK, idle)).await, 2);
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

/// Keeps descriptors.
#[derive(Debug)]
struct Kept(Mutex<Vec<(Instant, Descriptor)>>);

impl IdlePool for Kept {
    fn oldest_since(&self) -> Option<Instant> {
        self.0.lock().unwrap().first().map(|(since, _)| *since)
    }

    fn close_oldest(&self) {
        self.0.lock().unwrap().remove(0);
    }
}

/// Keeps descriptors, which stay open when it is told to close them.
#[derive(Debug)]
struct Slow(Mutex<Vec<Descriptor>>, Mutex<Vec<Descriptor>>);

impl IdlePool for Slow {
    fn oldest_since(&self) -> Option<Instant> {
        (!self.0.lock().unwrap().is_empty()).then(Instant::now)
    }

    fn close_oldest(&self) {
        self.1.lock().unwrap().push(self.0.lock().unwrap().remove(0));
    }
}

#[tokio::test(start_paused = true)]
async fn slow_closes_have_one_more_closed_for_each_waiter() {
    // All of it is open.
    let slots = Slots::within(26);
    let pool = Arc::new(Slow(Mutex::default(), Mutex::default()));
    for _ in 0..20 {
        let descriptor = slots.descriptor().await;
        descriptor.offer(Arc::downgrade(&pool) as Weak<dyn IdlePool>);
        pool.0.lock().unwrap().push(descriptor);
    }
    let waiting: Vec<_> = (0..5)
        .map(|_| {
            let slots = slots.clone();
            tokio::spawn(async move { slots.descriptor().await })
        })
        .collect();
    yield_now().await;
    assert_eq!(pool.1.lock().unwrap().len(), 5);
    sleep(CLOSE_WAIT + Duration::from_millis(10)).await;
    assert_eq!(pool.1.lock().unwrap().len(), 10);
    pool.1.lock().unwrap().clear();
    for waiting in waiting {
        waiting.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn the_oldest_idle_connection_is_closed_for_a_waiter() {
    let slots = Slots::within(5);
    let pools = [(); 2].map(|()| Arc::new(Kept(Mutex::default())));
    for pool in [&pools[1], &pools[0], &pools[1]] {
        let descriptor = slots.descriptor().await;
        descriptor.offer(Arc::downgrade(pool) as Weak<dyn IdlePool>);
        pool.0.lock().unwrap().push((Instant::now(), descriptor));
        advance(Duration::from_secs(1)).await;
    }
    let kept = || pools.each_ref().map(|pool| pool.0.lock().unwrap().len());
    let first = slots.descriptor().await;
    assert_eq!(kept(), [1, 2], "there was room");
    let mut all = vec![first];
    for left in [[1, 1], [0, 1], [0, 0]] {
        assert!(!all[0].has_waiters());
        all.push(slots.descriptor().await);
        assert_eq!(kept(), left);
    }
    let mut waiting = pin!(slots.descriptor());
    assert!(poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx))).await.is_pending());
    assert!(all[0].has_waiters(), "nothing is kept then");
    all.pop();
    waiting.await;
}
