//! Owns the idle HTTP connections to one endpoint, bounded in number and time. Holdline closes them first
//! when descriptors run short.

use super::exchange::EndpointConnection;
use crate::capacity::{self, Descriptor};
use crate::drain::Watch;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// How many idle connections Holdline keeps, and for how long (nginx, `keepalive` and `keepalive_timeout` of
/// an upstream).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Maximum number of idle connections per endpoint. 0 keeps none.
    pub connections: usize,
    /// How long Holdline keeps an idle connection.
    pub timeout: Duration,
}

/// The idle connections of an endpoint.
#[derive(Debug, Default)]
pub struct Pool {
    idle: Mutex<Vec<Idle>>,
    /// Whether it is registered as a source of descriptors.
    is_offered: AtomicBool,
}

#[derive(Debug)]
struct Idle {
    connection: EndpointConnection,
    since: Instant,
    until: Instant,
}

impl Pool {
    /// Returns the ready connection that was used last, so that the others can expire.
    #[must_use]
    pub fn take(&self) -> Option<EndpointConnection> {
        let mut idle = self.lock();
        idle.retain(|idle| !idle.connection.is_closed());
        let at = idle.iter().rposition(|idle| idle.connection.is_ready())?;
        Some(idle.remove(at).connection)
    }

    /// Keeps a connection after an exchange, if any client may use it. The oldest are closed if there are too
    /// many.
    pub fn give(self: &Arc<Self>, connection: EndpointConnection, limits: Limits, watch: &Watch) {
        if limits.connections == 0 || connection.is_closed() || !connection.is_shareable() {
            return;
        }
        if let Some(descriptor) = connection.descriptor()
            && !self.is_offered.swap(true, Ordering::Relaxed)
        {
            descriptor.offer(Arc::downgrade(self) as Weak<dyn capacity::IdlePool>);
        }
        let mut idle = self.lock();
        let first = idle.is_empty();
        let since = Instant::now();
        idle.push(Idle { connection, since, until: since + limits.timeout });
        let surplus = idle.len().saturating_sub(limits.connections);
        idle.drain(..surplus);
        // A waiter that came before this connection has not seen it, so serve it now.
        idle.pop_if(|idle| idle.connection.descriptor().is_some_and(Descriptor::has_waiters));
        if first {
            tokio::spawn(sweep(Arc::downgrade(self), watch.clone()));
        }
    }

    /// Closes the expired connections. Returns when the next one expires.
    fn purge(&self, now: Instant) -> Option<Instant> {
        let mut idle = self.lock();
        idle.retain(|idle| idle.until > now && !idle.connection.is_closed());
        idle.iter().map(|idle| idle.until).min()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl capacity::IdlePool for Pool {
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

/// Closes expired connections while there are any. When the proxy drains, it closes all.
async fn sweep(pool: Weak<Pool>, mut watch: Watch) {
    loop {
        let Some(due) = pool.upgrade().and_then(|pool| pool.purge(Instant::now())) else { return };
        tokio::select! {
            () = sleep_until(due) => {}
            () = watch.draining() => {
                if let Some(pool) = pool.upgrade() {
                    pool.lock().clear();
                }
                return;
            }
        }
    }
}
