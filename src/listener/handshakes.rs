//! Owns how many handshakes of TLS are under way at once on a listener, and that their signatures
//! leave the CPUs to tunnels. It must not know TLS.

use crate::capacity::{Evicted, LogLimit, Slot, Slots};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, LazyLock};
use std::task::Poll;
use std::thread::available_parallelism;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Handshakes that compute at once, of all listeners: one for each CPU. A signature takes up to some
/// milliseconds (RSA with 4096 bits) in which a thread does nothing else. Were thousands of them
/// ready at once, tunnels would come to their turn behind all of them; so it is behind a few.
static TURNS: LazyLock<Semaphore> =
    LazyLock::new(|| Semaphore::new(available_parallelism().map_or(1, usize::from)));

/// Places for handshakes.
#[derive(Clone, Debug)]
pub struct Handshakes {
    places: Slots,
    lines: Arc<LogLimit>,
}

impl Handshakes {
    /// So many at once.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { places: Slots::new(most, "max_handshakes"), lines: Arc::default() }
    }

    /// How many there may be at once.
    #[must_use]
    pub fn most(&self) -> usize {
        self.places.total()
    }

    /// Leads a handshake to its end, as soon as there is a place for it. It is to be given what it
    /// works on when it is polled first: until then it should own no buffer. `waited` is as with
    /// [`Slot::wait_evictable`].
    ///
    /// # Errors
    /// The client keeps the proxy waiting, and others want the place, or that of the connection.
    pub async fn lead<T>(
        &self,
        connection: &Slot,
        waited: &mut Duration,
        handshake: impl Future<Output = T>,
    ) -> Result<T, Evicted> {
        let place = self.place().await;
        let mut handshake = pin!(handshake);
        loop {
            let turn = TURNS.acquire().await;
            let polled = poll_fn(|cx| Poll::Ready(handshake.as_mut().poll(cx))).await;
            drop(turn);
            if let Poll::Ready(done) = polled {
                return Ok(done);
            }
            let mut of_place = *waited;
            connection.wait_evictable(waited, place.wait_evictable(&mut of_place, woken())).await??;
        }
    }

    async fn place(&self) -> Slot {
        if let Some(place) = self.places.try_take() {
            return place;
        }
        if self.lines.take() {
            let handshakes = self.most();
            tracing::warn!(handshakes, "more TLS handshakes at once than max_handshakes: they wait");
        }
        self.places.take().await
    }
}

/// Waits until the task is woken, by what it polled before.
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
    use crate::capacity::EVICT_AFTER;
    use std::future::pending;
    use tokio::sync::oneshot;
    use tokio::task::{JoinHandle, yield_now};
    use tokio::time::{Instant, sleep};

    /// Leads a handshake in a task of its own.
    fn begin(
        handshakes: &Handshakes,
        handshake: impl Future<Output = ()> + Send + 'static,
    ) -> JoinHandle<Result<(), Evicted>> {
        let handshakes = handshakes.clone();
        tokio::spawn(async move {
            let slots = Slots::new(1, "");
            let connection = slots.take().await;
            handshakes.lead(&connection, &mut Duration::default(), handshake).await
        })
    }

    #[tokio::test(start_paused = true)]
    async fn one_too_many_waits_for_its_place() {
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
        assert!(handshakes.places.try_take().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn clients_that_stall_give_way_to_others_and_not_before() {
        let handshakes = Handshakes::new(3);
        let stalled: Vec<_> = (0..3).map(|_| begin(&handshakes, pending())).collect();
        sleep(EVICT_AFTER * 5).await;
        assert!(stalled.iter().all(|stalled| !stalled.is_finished()), "nobody wants their places");
        let began = Instant::now();
        assert_eq!(begin(&handshakes, async {}).await.unwrap(), Ok(()));
        assert!(began.elapsed() < Duration::from_millis(5));
        assert_eq!(stalled.iter().filter(|stalled| stalled.is_finished()).count(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn drops_of_bytes_do_not_keep_a_place() {
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
