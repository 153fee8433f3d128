//! Owns how many connections there is room for: each takes a descriptor to its client and one to its
//! upstream, and accepting pauses before none is left for those that are open.

use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Room for connections of all listeners together.
#[derive(Clone, Debug)]
pub struct Slots {
    free: Arc<Semaphore>,
    all: usize,
}

/// A place for a connection; it is free again when this is dropped.
#[derive(Debug)]
pub struct Slot(#[expect(dead_code, reason = "it is held, not used")] OwnedSemaphorePermit);

impl Slots {
    /// Room for so many.
    #[must_use]
    pub fn new(all: usize) -> Self {
        let all = all.min(Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(all)), all }
    }

    /// As many as that many open files allow (`RLIMIT_NOFILE`): two for each, less a few for the
    /// process itself.
    #[must_use]
    pub fn within(open_files: u64) -> Self {
        let own = OWN.min(open_files / 4);
        Self::new(usize::try_from((open_files - own) / 2).unwrap_or(usize::MAX))
    }

    /// How many there are, taken or not.
    #[must_use]
    pub fn all(&self) -> usize {
        self.all
    }

    /// One, if there is one.
    #[must_use]
    pub fn try_take(&self) -> Option<Slot> {
        Arc::clone(&self.free).try_acquire_owned().ok().map(Slot)
    }

    /// One, when there is one.
    pub async fn take(&self) -> Slot {
        match Arc::clone(&self.free).acquire_owned().await {
            Ok(permit) => Slot(permit),
            // It is never closed.
            Err(_) => std::future::pending().await,
        }
    }
}

/// Descriptors of the process itself: the runtime's, listeners, logs, name look-ups, kept connections.
const OWN: u64 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_descriptors_a_connection_and_some_for_the_process() {
        assert_eq!(
            [40, 1024, 20_000, 1_048_576].map(|files| Slots::within(files).all()),
            [15, 480, 9968, 524_256]
        );
        assert_eq!(Slots::within(u64::MAX).all(), Semaphore::MAX_PERMITS);
    }

    #[test]
    fn a_slot_is_free_when_it_is_dropped() {
        let slots = Slots::new(1);
        let taken = slots.try_take();
        assert!(taken.is_some() && slots.try_take().is_none());
        drop(taken);
        assert!(slots.try_take().is_some());
    }
}
