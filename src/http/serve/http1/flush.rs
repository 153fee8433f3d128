//! Owns the order in which a broken answer ends: what came of it is written first. hyper drops what it
//! has not written yet as soon as a body fails, the head of the answer too.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use tokio::sync::Notify;

/// Tells the bodies of a connection when it has written all that they have given so far. Only bodies that
/// fail ask.
#[derive(Debug, Default)]
pub(in crate::http::serve) struct Flush {
    asked: AtomicU64,
    /// The last one for which the connection is polled once more. What is asked for during a poll may
    /// have come too late for that poll's writes.
    begun: AtomicU64,
    done: AtomicU64,
    ask: Notify,
    waiting: Mutex<Vec<Waker>>,
}

impl Flush {
    /// Asks for a flush: its number.
    pub(in crate::http::serve) fn ask(&self) -> u64 {
        let number = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        self.ask.notify_one();
        number
    }

    /// Whether a flush that was asked for is done.
    pub(in crate::http::serve) fn poll_done(&self, number: u64, cx: &Context<'_>) -> Poll<()> {
        let is_done = || self.done.load(Ordering::SeqCst) >= number;
        if is_done() {
            return Poll::Ready(());
        }
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(cx.waker().clone());
        // It may have been done in between.
        if is_done() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Waits until a flush is asked for. Then the connection is to be polled.
    pub(in crate::http::serve) async fn asked(&self) {
        self.ask.notified().await;
        self.begun.store(self.asked.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    /// The connection has written all it had.
    pub(in crate::http::serve) fn flushed(&self) {
        let begun = self.begun.load(Ordering::SeqCst);
        if self.done.load(Ordering::SeqCst) < begun {
            self.done.store(begun, Ordering::SeqCst);
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
        let number = flush.ask();
        let waiting = tokio::spawn({
            let flush = Arc::clone(&flush);
            async move { poll_fn(|cx| flush.poll_done(number, cx)).await }
        });
        // That of a poll which began before.
        flush.flushed();
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        flush.asked().await;
        assert!(!waiting.is_finished());
        flush.flushed();
        waiting.await.unwrap();
    }
}
