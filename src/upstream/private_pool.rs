//! Owns the endpoint connections that belong to one client, because a login is bound to them. They live as
//! long as that client's connection. It must not know how a login is recognised.

use super::endpoint::Endpoint;
use super::exchange::EndpointConnection;
use super::{Lease, Upstream};
use crate::addr::ClientAddr;
use crate::capacity::{self, Descriptor};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::time::Instant;

/// The idle private connections of one client connection.
#[derive(Debug, Default)]
pub(crate) struct PrivatePool {
    idle: Mutex<Vec<Idle>>,
    /// Whether it is registered as a source of descriptors.
    is_offered: AtomicBool,
}

#[derive(Debug)]
struct Idle {
    /// Its client. A trusted proxy's connection carries several clients.
    client: ClientAddr,
    endpoint: Arc<Endpoint>,
    connection: EndpointConnection,
    since: Instant,
}

/// Maximum number kept. A client has one for each upstream that needs a login, and a few more over HTTP/2.
const MOST: usize = 8;

impl PrivatePool {
    /// Returns the client's connection that was used last to an endpoint of this upstream, if the endpoint
    /// takes it.
    #[must_use]
    pub(crate) fn take(
        &self,
        client: ClientAddr,
        upstream: &Upstream,
    ) -> Option<(Lease, EndpointConnection)> {
        let mut idle = self.lock();
        idle.retain(|idle| !idle.connection.is_closed());
        let (at, lease) = idle.iter().enumerate().rev().find_map(|(at, idle)| {
            let is_own = idle.client == client;
            Some((at, is_own.then(|| upstream.lease_on(&idle.endpoint)).flatten()?))
        })?;
        Some((lease, idle.remove(at).connection))
    }

    /// Keeps a connection after an exchange. The oldest is closed if there are too many.
    pub(crate) fn keep(
        self: &Arc<Self>,
        client: ClientAddr,
        endpoint: &Arc<Endpoint>,
        connection: EndpointConnection,
    ) {
        if let Some(descriptor) = connection.descriptor()
            && !self.is_offered.swap(true, Ordering::Relaxed)
        {
            descriptor.offer(Arc::downgrade(self) as Weak<dyn capacity::IdlePool>);
        }
        let mut idle = self.lock();
        idle.retain(|idle| !idle.connection.is_closed());
        if idle.len() == MOST {
            idle.remove(0);
        }
        idle.push(Idle { client, endpoint: Arc::clone(endpoint), connection, since: Instant::now() });
        // A waiter that came before this connection has not seen it, so serve it now.
        idle.pop_if(|idle| idle.connection.descriptor().is_some_and(Descriptor::has_waiters));
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl capacity::IdlePool for PrivatePool {
    fn oldest_since(&self) -> Option<Instant> {
        self.lock().first().map(|idle| idle.since)
    }

    fn close_oldest(&self) {
        let mut idle = self.lock();
        if !idle.is_empty() {
            idle.remove(0);
        }
    }
}
