//! Owns the idle HTTP connections to one endpoint: bounded, and not for long. They are the first to go where
//! descriptors run short.

use super::client::Connection;
use crate::drain::Watch;
use crate::slots::{self, File};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// How many idle connections are kept, and how long (nginx, `keepalive` and `keepalive_timeout` of
/// an upstream).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most idle connections of an endpoint; 0: none is kept.
    pub connections: usize,
    /// From the end of an exchange to the closing of its connection.
    pub timeout: Duration,
}

/// The idle connections of an endpoint.
#[derive(Debug, Default)]
pub struct Pool {
    idle: Mutex<Vec<Idle>>,
    /// Those who want descriptors know of it.
    is_offered: AtomicBool,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
    until: Instant,
}

impl Pool {
    /// A connection that is ready, the one used last: so the others can be given up.
    #[must_use]
    pub fn take(&self) -> Option<Connection> {
        let mut idle = self.lock();
        idle.retain(|idle| !idle.connection.is_closed());
        let at = idle.iter().rposition(|idle| idle.connection.is_ready())?;
        Some(idle.remove(at).connection)
    }

    /// Keeps a connection whose exchange has ended, if anybody may use it; the oldest go if there are too many.
    pub fn give(self: &Arc<Self>, connection: Connection, limits: Limits, watch: &Watch) {
        if limits.connections == 0 || connection.is_closed() || !connection.is_anybodys() {
            return;
        }
        if let Some(file) = connection.file()
            && !self.is_offered.swap(true, Ordering::Relaxed)
        {
            file.offer(Arc::downgrade(self) as Weak<dyn slots::Idle>);
        }
        let mut idle = self.lock();
        let first = idle.is_empty();
        let since = Instant::now();
        idle.push(Idle { connection, since, until: since + limits.timeout });
        let surplus = idle.len().saturating_sub(limits.connections);
        idle.drain(..surplus);
        // Whoever began to wait before it was here has not seen it.
        idle.pop_if(|idle| idle.connection.file().is_some_and(File::is_wanted));
        if first {
            tokio::spawn(sweep(Arc::downgrade(self), watch.clone()));
        }
    }

    /// Closes those whose time is over; when the next is due.
    fn purge(&self, now: Instant) -> Option<Instant> {
        let mut idle = self.lock();
        idle.retain(|idle| idle.until > now && !idle.connection.is_closed());
        idle.iter().map(|idle| idle.until).min()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl slots::Idle for Pool {
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

/// Runs as long as there are idle connections; when the proxy drains, none is needed any more.
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
