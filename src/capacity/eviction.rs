//! Owns how a connection gives up its slot for another one.

use super::Slot;
use super::budget::Turn;
use crate::clock::is_late;
use std::future::{Future, poll_fn};
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

/// How long in total a client may keep Holdline waiting before its first request while others wait for a slot.
/// A lost packet arrives again within this time.
pub const EVICT_AFTER: Duration = Duration::from_secs(2);

/// How long a slot that is asked still waits for bytes of its client. The kernel may hold some that the runtime has not
/// seen; it looks before it fires a timer. Plain connections before their first byte, and handshakes, skip this: in a
/// flood of them, each accept would wait this long.
pub(crate) const LOOK: Duration = Duration::from_millis(1);
/// Waits that began within this time are the same one: the states of connections count in milliseconds.
const SAME_WAIT: Duration = Duration::from_millis(5);

/// A connection or handshake must free its slot, because others wait for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evicted;

impl Slot {
    /// Waits until another connection needs this slot. Then the caller must drop the slot. `waited` tells for how
    /// long the client has kept Holdline waiting, and `None` means that it does not. Only a slot for which this is
    /// `after` or more is evicted, and the one that waited longest comes first. It still looks for bytes of the
    /// client for `look`: zero, or [`LOOK`]. The caller must poll this whenever `waited` may have changed, after what
    /// changes it.
    pub async fn evicted(
        &self,
        after: Duration,
        look: Duration,
        waited: impl Fn() -> Option<Duration>,
    ) -> Evicted {
        let mut declined = None;
        loop {
            wait_until(after, &waited).await;
            let offer = Offer::new(self, waited().unwrap_or(after));
            // Only now, so that meanwhile no other slot is asked.
            drop(declined.take());
            let offer = offer.asked().await;
            // The runtime sees what has arrived before the timer fires, and the caller handles it first.
            sleep(look).await;
            match waited() {
                Some(waited) if waited >= after && offer.is_from(waited) && offer.is_needed() => {
                    return offer.accept();
                }
                // It has waited long again, but not as long as it was offered: others may have waited longer.
                Some(waited) if waited >= after => declined = Some(offer),
                _ => {}
            }
        }
    }

    /// Awaits `awaited`, which depends on the client. `waited` adds up how long the client has kept Holdline
    /// waiting. Beyond [`EVICT_AFTER`] in total, this gives up as soon as another connection needs the slot.
    ///
    /// # Errors
    /// [`Evicted`] if the caller must free this slot.
    pub async fn wait_evictable<T>(
        &self,
        waited: &mut Duration,
        awaited: impl Future<Output = T>,
    ) -> Result<T, Evicted> {
        let (before, began) = (*waited, Instant::now());
        let done = tokio::select! {
            // Most futures are ready at once, and need no timer.
            biased;
            done = awaited => Ok(done),
            evicted = self.evicted(EVICT_AFTER, Duration::ZERO, || Some(before + began.elapsed())) => Err(evicted),
        };
        *waited += began.elapsed();
        done
    }
}

/// Waits until the client has kept Holdline waiting for `after`. While the client does not, no timer runs.
async fn wait_until(after: Duration, waited: &impl Fn() -> Option<Duration>) {
    loop {
        let kept = poll_fn(|_| waited().map_or(Poll::Pending, Poll::Ready)).await;
        let left = after.saturating_sub(kept);
        if left.is_zero() {
            return;
        }
        let began = Instant::now();
        sleep(left).await;
        let late = began.elapsed().saturating_sub(left);
        if is_late(late) {
            // Bytes of the client may have overtaken the timer, unread.
            sleep(late.min(after)).await;
        }
    }
}

/// The offer to evict a slot. Dropping it takes the offer back, also when the slot was asked already.
struct Offer<'a> {
    slot: &'a Slot,
    turn: Turn,
    asked: oneshot::Receiver<()>,
    is_accepted: bool,
}

impl<'a> Offer<'a> {
    /// Offers the slot of a client that has kept Holdline waiting for `waited`.
    fn new(slot: &'a Slot, waited: Duration) -> Self {
        let (waker, asked) = oneshot::channel();
        let since = Instant::now().checked_sub(waited).unwrap_or_else(Instant::now);
        let turn = slot.slots.0.change(|budget| budget.offer(since.into_std(), waker));
        Self { slot, turn, asked, is_accepted: false }
    }

    /// Waits until another connection needs the slot.
    async fn asked(mut self) -> Self {
        // The budget keeps the waker until it asks.
        let _ = (&mut self.asked).await;
        self
    }

    /// Whether this is how long the client has waited since the moment of the offer, and not a later wait.
    fn is_from(&self, waited: Duration) -> bool {
        Instant::now().into_std().saturating_duration_since(self.turn.0) <= waited + SAME_WAIT
    }

    /// Whether others still wait for the slot: another one may have come free.
    fn is_needed(&self) -> bool {
        self.slot.slots.0.lock().is_asked_rightly()
    }

    /// Keeps the promise: the caller drops its slot next.
    fn accept(mut self) -> Evicted {
        self.slot.is_evicted.store(true, Ordering::Relaxed);
        self.is_accepted = true;
        Evicted
    }
}

impl Drop for Offer<'_> {
    fn drop(&mut self) {
        if !self.is_accepted {
            self.slot.slots.0.change(|budget| budget.withdraw(self.turn));
        }
    }
}
