//! Owns how many descriptors connections have open, to clients and to upstreams, and that idle ones are
//! closed when others want theirs.

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
pub struct Files(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    free: Semaphore,
    /// How many wait for one.
    waiting: AtomicUsize,
    idle: Mutex<Vec<Weak<dyn Idle>>>,
    /// Lines that say that some wait.
    lines: LogLimit,
}

/// A descriptor, or room for one; there is room for another when this is dropped.
#[derive(Debug)]
pub struct File(Arc<Shared>);

/// Connections that are kept for later, and can be done without.
pub trait Idle: Debug + Send + Sync {
    /// Since when the oldest is kept; `None`: none is.
    fn since(&self) -> Option<Instant>;

    /// Closes the oldest.
    fn close_one(&self);
}

impl Files {
    pub(super) fn new(all: usize) -> Self {
        let free = Semaphore::new(all);
        let (waiting, idle, lines) = (AtomicUsize::new(0), Mutex::default(), LogLimit::default());
        Self(Arc::new(Shared { free, waiting, idle, lines }))
    }

    /// One, if there is one.
    #[must_use]
    pub fn try_take(&self) -> Option<File> {
        self.0.free.try_acquire().ok().map(|permit| {
            permit.forget();
            File(Arc::clone(&self.0))
        })
    }

    /// One, when there is one. Where there is none, an idle connection is closed for it.
    pub async fn take(&self) -> File {
        if let Some(file) = self.try_take() {
            return file;
        }
        let _waiting = Waiting::begin(&self.0);
        loop {
            self.0.close_idle();
            // One that is closed may take its time to take its leave: then it is another's turn.
            match timeout(CLOSING, self.0.free.acquire()).await {
                Ok(Ok(permit)) => {
                    permit.forget();
                    return File(Arc::clone(&self.0));
                }
                // It is never closed.
                Ok(Err(_)) => pending().await,
                Err(_) if self.0.lines.take() => {
                    tracing::warn!("connections wait for descriptors, and none is idle: raise LimitNOFILE");
                }
                Err(_) => {}
            }
        }
    }
}

impl File {
    /// Whether somebody waits for a descriptor: nothing is to be kept for later.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.0.waiting.load(SeqCst) > 0
    }

    /// Idle connections of which one may be closed when somebody waits.
    pub fn offer(&self, idle: Weak<dyn Idle>) {
        let mut all = self.0.idle();
        all.retain(|idle| idle.strong_count() > 0);
        all.push(idle);
    }
}

impl Drop for File {
    fn drop(&mut self) {
        self.0.free.add_permits(1);
    }
}

impl Shared {
    /// Closes the connection that has been idle for longest.
    fn close_idle(&self) {
        let all = self.idle();
        let live = all.iter().filter_map(Weak::upgrade);
        let oldest = live.filter_map(|idle| Some((idle.since()?, idle))).min_by_key(|(since, _)| *since);
        drop(all);
        if let Some((_, idle)) = oldest {
            idle.close_one();
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Weak<dyn Idle>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
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

/// How long a connection that is closed may keep its descriptor before another is closed as well.
const CLOSING: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{Future as _, poll_fn};
    use std::pin::pin;
    use std::task::Poll;

    /// Keeps descriptors.
    #[derive(Debug)]
    struct Kept(Mutex<Vec<(Instant, File)>>);

    impl Idle for Kept {
        fn since(&self) -> Option<Instant> {
            self.0.lock().unwrap().first().map(|(since, _)| *since)
        }

        fn close_one(&self) {
            self.0.lock().unwrap().remove(0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_idle_connection_goes_for_whoever_waits() {
        let files = Files::new(4);
        let pools = [(); 2].map(|()| Arc::new(Kept(Mutex::default())));
        for pool in [&pools[1], &pools[0], &pools[1]] {
            let file = files.take().await;
            file.offer(Arc::downgrade(pool) as Weak<dyn Idle>);
            pool.0.lock().unwrap().push((Instant::now(), file));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let kept = || pools.each_ref().map(|pool| pool.0.lock().unwrap().len());
        let first = files.take().await;
        assert_eq!(kept(), [1, 2], "there was room");
        let mut all = vec![first];
        for left in [[1, 1], [0, 1], [0, 0]] {
            assert!(!all[0].is_wanted());
            all.push(files.take().await);
            assert_eq!(kept(), left);
        }
        let mut waiting = pin!(files.take());
        assert!(poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx))).await.is_pending());
        assert!(all[0].is_wanted(), "nothing is kept then");
        all.pop();
        waiting.await;
    }
}
