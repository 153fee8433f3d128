//! Owns the budget of descriptors for connections, to clients and to upstreams. When the budget is used up, it
//! closes idle connections to upstreams.

use super::LogLimit;
use std::fmt::Debug;
use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

/// The descriptors of all connections.
#[derive(Clone, Debug)]
pub struct Descriptors(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    free: Semaphore,
    waiting: AtomicUsize,
    pools: Mutex<Vec<Weak<dyn IdlePool>>>,
    /// Limits the warning that connections wait for a descriptor.
    log_limit: LogLimit,
}

/// The right to open one descriptor. Dropping it returns the right.
#[derive(Debug)]
pub struct Descriptor(Arc<Shared>);

/// A pool of idle connections, which Holdline may close at any time.
pub trait IdlePool: Debug + Send + Sync {
    /// When the oldest connection became idle. `None` means that the pool is empty.
    fn oldest_since(&self) -> Option<Instant>;

    /// Closes the connection that has been idle longest.
    fn close_oldest(&self);
}

impl Descriptors {
    pub(super) fn new(total: usize) -> Self {
        let free = Semaphore::new(total);
        let (waiting, pools, log_limit) = (AtomicUsize::new(0), Mutex::default(), LogLimit::default());
        Self(Arc::new(Shared { free, waiting, pools, log_limit }))
    }

    /// Takes a descriptor. `None` means that none is free.
    #[must_use]
    pub fn try_take(&self) -> Option<Descriptor> {
        self.0.free.try_acquire().ok().map(|permit| {
            permit.forget();
            Descriptor(Arc::clone(&self.0))
        })
    }

    /// Takes a descriptor. If none is free, it closes idle connections until one is.
    pub async fn take(&self) -> Descriptor {
        if let Some(descriptor) = self.try_take() {
            return descriptor;
        }
        let _waiting = Waiting::begin(&self.0);
        loop {
            self.0.close_idle();
            // A connection may close slowly. After `CLOSE_WAIT`, the next one is closed as well.
            match timeout(CLOSE_WAIT, self.0.free.acquire()).await {
                Ok(Ok(permit)) => {
                    permit.forget();
                    return Descriptor(Arc::clone(&self.0));
                }
                // The semaphore is never closed.
                Ok(Err(_)) => pending().await,
                Err(_) if self.0.log_limit.take() => {
                    tracing::warn!("connections wait for descriptors, and none is idle: raise LimitNOFILE");
                }
                Err(_) => {}
            }
        }
    }
}

impl Descriptor {
    /// Whether others wait for a descriptor. If so, no connection should become idle and be kept.
    #[must_use]
    pub fn has_waiters(&self) -> bool {
        self.0.waiting.load(SeqCst) > 0
    }

    /// Registers a pool whose idle connections may be closed when others wait for a descriptor.
    pub fn offer(&self, pool: Weak<dyn IdlePool>) {
        let mut pools = self.0.pools();
        pools.retain(|pool| pool.strong_count() > 0);
        pools.push(pool);
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        self.0.free.add_permits(1);
    }
}

impl Shared {
    /// Closes the connection that has been idle longest.
    fn close_idle(&self) {
        let pools = self.pools();
        let live = pools.iter().filter_map(Weak::upgrade);
        let oldest =
            live.filter_map(|pool| Some((pool.oldest_since()?, pool))).min_by_key(|(since, _)| *since);
        drop(pools);
        if let Some((_, pool)) = oldest {
            pool.close_oldest();
        }
    }

    fn pools(&self) -> MutexGuard<'_, Vec<Weak<dyn IdlePool>>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Waiting<'a>(&'a Shared);

impl<'a> Waiting<'a> {
    fn begin(shared: &'a Shared) -> Self {
        shared.waiting.fetch_add(1, SeqCst);
        Self(shared)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, SeqCst);
    }
}

/// How long a closed connection may keep its descriptor before the next idle connection is closed as well.
const CLOSE_WAIT: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{Future as _, poll_fn};
    use std::pin::pin;
    use std::task::Poll;

    /// Keeps descriptors.
    #[derive(Debug)]
    struct Kept(Mutex<Vec<(Instant, Descriptor)>>);

    impl IdlePool for Kept {
        fn oldest_since(&self) -> Option<Instant> {
            self.0.lock().unwrap().first().map(|(since, _)| *since)
        }

        fn close_oldest(&self) {
            self.0.lock().unwrap().remove(0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_idle_connection_is_closed_for_a_waiter() {
        let descriptors = Descriptors::new(4);
        let pools = [(); 2].map(|()| Arc::new(Kept(Mutex::default())));
        for pool in [&pools[1], &pools[0], &pools[1]] {
            let descriptor = descriptors.take().await;
            descriptor.offer(Arc::downgrade(pool) as Weak<dyn IdlePool>);
            pool.0.lock().unwrap().push((Instant::now(), descriptor));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let kept = || pools.each_ref().map(|pool| pool.0.lock().unwrap().len());
        let first = descriptors.take().await;
        assert_eq!(kept(), [1, 2], "there was room");
        let mut all = vec![first];
        for left in [[1, 1], [0, 1], [0, 0]] {
            assert!(!all[0].has_waiters());
            all.push(descriptors.take().await);
            assert_eq!(kept(), left);
        }
        let mut waiting = pin!(descriptors.take());
        assert!(poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx))).await.is_pending());
        assert!(all[0].has_waiters(), "nothing is kept then");
        all.pop();
        waiting.await;
    }
}
