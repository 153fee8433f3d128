//! Owns requests to write out what hyper holds: for interim responses, and before a broken response ends. When a
//! body fails, hyper drops what it has not written yet, even the head.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use tokio::sync::Notify;

/// Tells a connection to write, and bodies when all their data so far is written. Failing bodies and interim
/// responses ask.
#[derive(Debug, Default)]
pub(in crate::http::conn) struct Flush {
    requested: AtomicU64,
    /// The last flush for which the connection was polled again. A flush requested during a poll may be too
    /// late for that poll's writes.
    started: AtomicU64,
    done: AtomicU64,
    request: Notify,
    waiting: Mutex<Vec<Waker>>,
}

impl Flush {
    /// Requests a flush. Returns its number.
    pub(in crate::http::conn) fn request(&self) -> u64 {
        let number = self.requested.fetch_add(1, Ordering::SeqCst) + 1;
        self.request.notify_one();
        number
    }

    /// Waits until a requested flush is done.
    pub(in crate::http::conn) fn poll_done(&self, number: u64, cx: &Context<'_>) -> Poll<()> {
        let is_done = || self.done.load(Ordering::SeqCst) >= number;
        if is_done() {
            return Poll::Ready(());
        }
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(cx.waker().clone());
        // It may have finished in between.
        if is_done() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Waits until a flush is requested. The caller must then poll the connection.
    pub(in crate::http::conn) async fn requested(&self) {
        self.request.notified().await;
        self.started.store(self.requested.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    /// Records that the connection has written all its data.
    pub(in crate::http::conn) fn flushed(&self) {
        let started = self.started.load(Ordering::SeqCst);
        if self.done.load(Ordering::SeqCst) < started {
            self.done.store(started, Ordering::SeqCst);
            let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
            waiting.into_iter().for_each(Waker::wake);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::sync::Arc;

    #[tokio::test]
    async fn only_a_flush_that_began_after_it_was_asked_for_counts() {
        let flush = Arc::new(Flush::default());
        let number = flush.request();
        let waiting = tokio::spawn({
            let flush = Arc::clone(&flush);
            async move { poll_fn(|cx| flush.poll_done(number, cx)).await }
        });
        // That of a poll which began before.
        flush.flushed();
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        flush.requested().await;
        assert!(!waiting.is_finished());
        flush.flushed();
        waiting.await.unwrap();
    }
}
