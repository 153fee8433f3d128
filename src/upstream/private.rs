//! Owns the connections to endpoints that are one client's alone, since a login is bound to them: they live as long as
//! that client's connection. It must not know what a login looks like.

use super::client::Connection;
use super::endpoint::Endpoint;
use super::{Lease, Upstream};
use crate::addr::ClientAddr;
use crate::slots::{self, File};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::time::Instant;

/// Those of one connection of a client, while none of its requests uses them.
#[derive(Debug, Default)]
pub struct Private {
    idle: Mutex<Vec<Idle>>,
    /// Those who want descriptors know of it.
    is_offered: AtomicBool,
}

#[derive(Debug)]
struct Idle {
    /// Whose it is: over one connection of a proxy come several clients.
    client: ClientAddr,
    endpoint: Arc<Endpoint>,
    connection: Connection,
    since: Instant,
}

/// Most that are kept: a client has one for each upstream that wants a login, and over HTTP/2 some more.
const MOST: usize = 8;

impl Private {
    /// The connection of a client that was used last, to an endpoint of an upstream that takes it.
    #[must_use]
    pub fn take(&self, client: ClientAddr, upstream: &Upstream) -> Option<(Lease, Connection)> {
        let mut idle = self.lock();
        idle.retain(|idle| !idle.connection.is_closed());
        let (at, lease) = idle.iter().enumerate().rev().find_map(|(at, idle)| {
            let is_own = idle.client == client;
            Some((at, is_own.then(|| upstream.lease_on(&idle.endpoint)).flatten()?))
        })?;
        Some((lease, idle.remove(at).connection))
    }

    /// Keeps a connection whose exchange has ended; the oldest goes if there are too many.
    pub fn keep(self: &Arc<Self>, client: ClientAddr, endpoint: &Arc<Endpoint>, connection: Connection) {
        if let Some(file) = connection.file()
            && !self.is_offered.swap(true, Ordering::Relaxed)
        {
            file.offer(Arc::downgrade(self) as Weak<dyn slots::Idle>);
        }
        let mut idle = self.lock();
        idle.retain(|idle| !idle.connection.is_closed());
        if idle.len() == MOST {
            idle.remove(0);
        }
        idle.push(Idle { client, endpoint: Arc::clone(endpoint), connection, since: Instant::now() });
        // Whoever began to wait before it was here has not seen it.
        idle.pop_if(|idle| idle.connection.file().is_some_and(File::is_wanted));
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl slots::Idle for Private {
    fn since(&self) -> Option<Instant> {
        self.lock().first().map(|idle| idle.since)
    }

    fn close_one(&self) {
        let mut idle = self.lock();
        if !idle.is_empty() {
            idle.remove(0);
        }
    }
}
