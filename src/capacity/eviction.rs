//! Owns how a connection gives up its slot for another one.

use super::Slot;
use super::budget::Turn;
use crate::clock::is_late;
use std::future::Future;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

/// How long in total a client may keep Holdline waiting before its first request while others wait for a slot.
/// A lost packet arrives again within this time.
pub const EVICT_AFTER: Duration = Duration::from_secs(2);

/// A connection or handshake must free its slot, because others wait for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evicted;

impl Slot {
    /// Waits until another connection needs this slot. Then the caller must drop the slot. `waited` tells for how
    /// long the client has kept Holdline waiting, and `None` means that it does not. Only a slot for which this is
    /// `after` or more is evicted. The one that waited longest comes first.
    pub async fn evicted(&self, after: Duration, waited: impl Fn() -> Option<Duration>) -> Evicted {
        loop {
            let since = wait_until(after, &waited).await;
            let offer = Offer::until_asked(self, since).await;
            if waited().is_some_and(|waited| waited >= after) {
                return offer.accept();
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
            evicted = self.evicted(EVICT_AFTER, || Some(before + began.elapsed())) => Err(evicted),
        };
        *waited += began.elapsed();
        done
    }
}

/// Sleeps until the client has kept Holdline waiting for `after`. Returns since when.
async fn wait_until(after: Duration, waited: &impl Fn() -> Option<Duration>) -> Instant {
    loop {
        let kept = waited().unwrap_or_default();
        let left = after.saturating_sub(kept);
        if left.is_zero() {
            return Instant::now().checked_sub(kept).unwrap_or_else(Instant::now);
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
    is_accepted: bool,
}

impl<'a> Offer<'a> {
    /// Offers the slot until another connection needs it.
    async fn until_asked(slot: &'a Slot, since: Instant) -> Self {
        let (waker, asked) = oneshot::channel();
        let turn = slot.slots.0.change(|budget| budget.offer(since.into_std(), waker));
        let offer = Self { slot, turn, is_accepted: false };
        // The budget keeps the waker until it asks.
        let _ = asked.await;
        offer
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
