//! Owns the limit of concurrent TLS handshakes of a listener, and keeps their signatures from taking the CPUs away from
//! tunnels. It must not know how a handshake works.

use crate::capacity::{EVICT_AFTER, Evicted, Slot, Slots};
use crate::clock::LogLimit;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::Poll;
use std::thread::available_parallelism;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Handshakes of all listeners that may compute at once: one for each CPU. A signature blocks its thread for up to
/// some milliseconds (RSA with 4096 bits). Without this limit, tunnels would wait behind thousands of signatures.
static HANDSHAKE_CPU: LazyLock<Semaphore> =
    LazyLock::new(|| Semaphore::new(available_parallelism().map_or(1, usize::from)));

/// Limits the concurrent TLS handshakes of a listener.
#[derive(Clone, Debug)]
pub(crate) struct Handshakes {
    slots: Slots,
    log_limit: Arc<LogLimit>,
}

impl Handshakes {
    /// Allows `limit` handshakes at once.
    #[must_use]
    pub(crate) fn new(limit: usize) -> Self {
        Self { slots: Slots::new(limit, "max_handshakes"), log_limit: Arc::default() }
    }

    /// How many handshakes may run at once.
    #[must_use]
    pub(crate) fn limit(&self) -> usize {
        self.slots.total()
    }

    /// Runs a handshake once a handshake slot is free. The future must not allocate buffers before its first poll.
    /// `waited` is the same as in [`Slot::wait_evictable`].
    ///
    /// # Errors
    /// [`Evicted`] if the client keeps Holdline waiting while others need its handshake slot or its connection slot.
    /// The caller must then drop the connection.
    pub(crate) async fn run<T>(
        &self,
        connection: &Slot,
        waited: &mut Duration,
        handshake: impl Future<Output = T>,
    ) -> Result<T, Evicted> {
        let slot = self.slot().await;
        let mut handshake = pin!(handshake);
        // All time counts as the client's but what Holdline itself computes.
        let (before, began, computed) = (*waited, Instant::now(), AtomicU64::new(0));
        let computed_so_far = || Duration::from_micros(computed.load(Ordering::Relaxed));
        let kept = || Some(before + began.elapsed().saturating_sub(computed_so_far()));
        // One future for all waits: a client that sends a byte now and then must not begin it again.
        let mut evicted = pin!(async {
            tokio::select! {
                evicted = connection.evicted(EVICT_AFTER, Duration::ZERO, &kept) => evicted,
                evicted = slot.evicted(EVICT_AFTER, Duration::ZERO, &kept) => evicted,
            }
        });
        let done = loop {
            let computing = Instant::now();
            let cpu = HANDSHAKE_CPU.acquire().await;
            let polled = poll_fn(|cx| Poll::Ready(handshake.as_mut().poll(cx))).await;
            drop(cpu);
            if let Poll::Ready(done) = polled {
                break Ok(done);
            }
            computed.fetch_add(computing.elapsed().as_micros() as u64, Ordering::Relaxed);
            tokio::select! {
                // `woken` is ready whenever this task wakes, so it comes last.
                biased;
                evicted = &mut evicted => break Err(evicted),
                () = woken() => {}
            }
        };
        *waited = kept().unwrap_or_default();
        done
    }

    async fn slot(&self) -> Slot {
        if let Some(slot) = self.slots.try_take() {
            return slot;
        }
        if self.log_limit.take() {
            let handshakes = self.limit();
            tracing::warn!(handshakes, "more concurrent TLS handshakes than max_handshakes; the others wait");
        }
        self.slots.take().await
    }
}

/// Waits until something wakes this task: mostly the handshake, which was polled before.
async fn woken() {
    let mut is_first = true;
    poll_fn(|_| match std::mem::take(&mut is_first) {
        true => Poll::Pending,
        false => Poll::Ready(()),
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;
    use tokio::sync::oneshot;
    use tokio::task::{JoinHandle, yield_now};
    use tokio::time::sleep;

    /// Runs a handshake in a task of its own.
    fn begin(
        handshakes: &Handshakes,
        handshake: impl Future<Output = ()> + Send + 'static,
    ) -> JoinHandle<Result<(), Evicted>> {
        let handshakes = handshakes.clone();
        tokio::spawn(async move {
            let slots = Slots::new(1, "");
            let connection = slots.take().await;
            handshakes.run(&connection, &mut Duration::default(), handshake).await
        })
    }

    #[tokio::test(start_paused = true)]
    async fn one_too_many_waits_for_its_slot() {
        let handshakes = Handshakes::new(2);
        let (done, first) = oneshot::channel::<()>();
        let first = begin(&handshakes, async move { first.await.unwrap_or_default() });
        let second = begin(&handshakes, sleep(EVICT_AFTER / 2));
        yield_now().await;
        let (said, heard) = oneshot::channel();
        let third = begin(&handshakes, async move { said.send(Instant::now()).unwrap_or_default() });
        let began = Instant::now();
        assert_eq!(third.await.unwrap(), Ok(()));
        assert_eq!(heard.await.unwrap() - began, EVICT_AFTER / 2, "when the second ended");
        assert_eq!(second.await.unwrap(), Ok(()));
        done.send(()).unwrap();
        assert_eq!(first.await.unwrap(), Ok(()));
        assert!(handshakes.slots.try_take().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn stalled_clients_are_evicted_only_while_others_wait() {
        let handshakes = Handshakes::new(3);
        let stalled: Vec<_> = (0..3).map(|_| begin(&handshakes, pending())).collect();
        sleep(EVICT_AFTER * 5).await;
        assert!(stalled.iter().all(|stalled| !stalled.is_finished()), "nobody waits for their slots");
        let began = Instant::now();
        assert_eq!(begin(&handshakes, async {}).await.unwrap(), Ok(()));
        assert!(began.elapsed() < Duration::from_millis(5));
        assert_eq!(stalled.iter().filter(|stalled| stalled.is_finished()).count(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_trickle_of_bytes_does_not_keep_a_slot() {
        let handshakes = Handshakes::new(1);
        let drip = begin(&handshakes, async {
            loop {
                sleep(Duration::from_millis(100)).await;
            }
        });
        yield_now().await;
        let began = Instant::now();
        assert_eq!(begin(&handshakes, async {}).await.unwrap(), Ok(()));
        assert!(began.elapsed().abs_diff(EVICT_AFTER) < Duration::from_millis(110), "{:?}", began.elapsed());
        assert_eq!(drip.await.unwrap(), Err(Evicted));
    }
}
