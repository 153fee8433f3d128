//! Owns the room of one client connection for connections to upstreams: one that its slot includes, and more
//! from what all client connections share.

use super::{Slot, UpstreamSlot};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The room for one connection to an upstream that the slot of a client connection includes.
#[derive(Clone, Debug)]
pub(crate) struct IncludedRoom(Arc<Semaphore>);

/// Room for one connection to an upstream. Dropping it frees the room.
#[derive(Debug)]
#[expect(dead_code, reason = "room is held, not read")]
pub(crate) enum UpstreamRoom {
    /// What the slot includes.
    Included(OwnedSemaphorePermit),
    /// Room beyond that, as concurrent HTTP/2 requests need it.
    Extra(UpstreamSlot),
}

impl Default for IncludedRoom {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl IncludedRoom {
    /// Waits for room and takes it: what `slot` includes, or an upstream slot of all connections.
    pub(crate) async fn take(self, slot: &Slot) -> UpstreamRoom {
        tokio::select! {
            biased;
            Ok(permit) = self.0.acquire_owned() => UpstreamRoom::Included(permit),
            extra = slot.upstream_slot() => UpstreamRoom::Extra(extra),
        }
    }
}
