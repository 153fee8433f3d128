//! Owns the messages that other threads send to a worker, and the eventfd that wakes it.

use super::entry::Entry;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{read, write};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The message queue of one worker.
pub(in crate::tunnel) struct Queue {
    /// `None` means that the worker has ended and takes no more messages.
    messages: Mutex<Option<Messages>>,
    /// Wakes the worker: its epoll instance watches this eventfd.
    eventfd: OwnedFd,
    /// Sessions of the worker, including those that still wait in the queue.
    sessions: AtomicUsize,
}

/// Messages that the worker has not taken yet.
#[derive(Default)]
struct Messages {
    queued: Vec<Message>,
    /// Whether the worker was woken for them.
    is_woken: bool,
}

/// A message to a worker.
pub(super) enum Message {
    /// Relay a new tunnel.
    Open(Box<Entry>),
    /// The control of this session has changes.
    Changed(Token),
    /// End the thread.
    Stop,
}

/// Identifies a session to its worker. `index` is used again for later sessions, so `generation` counts its uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) index: u32,
    pub(super) generation: u32,
}

/// Refers to a session of the engine from any thread.
#[derive(Clone, Debug)]
pub(in crate::tunnel) struct SessionRef {
    pub(super) queue: Arc<Queue>,
    pub(super) token: Token,
}

impl SessionRef {
    /// Makes the session look at its control.
    pub(in crate::tunnel) fn wake(&self) {
        self.queue.send(Message::Changed(self.token));
    }
}

/// Wakes a worker when dropped, if its queue holds messages.
#[derive(Debug)]
pub struct WakeOnDrop(pub(super) Arc<Queue>);

impl Drop for WakeOnDrop {
    fn drop(&mut self) {
        self.0.wake();
    }
}

impl Queue {
    pub(super) fn new() -> io::Result<Self> {
        let eventfd = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self { messages: Mutex::new(Some(Messages::default())), eventfd, sessions: AtomicUsize::new(0) })
    }

    /// Queues a message and wakes the worker.
    pub(super) fn send(&self, message: Message) {
        self.push(message);
        self.wake();
    }

    /// Queues a message. The caller wakes the worker with [`Queue::wake`]. If the worker has ended, this drops the
    /// message, and a session in it reports its end.
    pub(super) fn push(&self, message: Message) {
        let mut lock = self.messages();
        let Some(messages) = &mut *lock else {
            // The lock is released first, because the observer of a session may run any code.
            return drop((lock, message));
        };
        if let Message::Open(_) = message {
            self.sessions.fetch_add(1, Ordering::Relaxed);
        }
        messages.queued.push(message);
    }

    /// Wakes the worker, unless the queue is empty or the worker was woken for it before.
    pub(super) fn wake(&self) {
        let is_new = match &mut *self.messages() {
            Some(messages) => !messages.queued.is_empty() && !std::mem::replace(&mut messages.is_woken, true),
            None => false,
        };
        // The lock is released first. On the same CPU the worker may run at once, and needs the lock.
        if is_new {
            // This fails only if the counter would overflow. Then the worker is awake anyway.
            let _ = write(&self.eventfd, &1_u64.to_ne_bytes());
        }
    }

    /// Takes all messages.
    pub(super) fn take(&self) -> Vec<Message> {
        // This fails if the eventfd is 0.
        let _ = read(&self.eventfd, &mut [0; 8]);
        self.messages().as_mut().map(std::mem::take).unwrap_or_default().queued
    }

    /// Closes the queue, because the worker has ended.
    pub(super) fn close(&self) {
        let dropped = self.messages().take();
        drop(dropped);
    }

    /// Counts the end of a session.
    pub(super) fn session_ended(&self) {
        self.sessions.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many sessions the worker has.
    pub(super) fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Whether the worker has ended.
    pub(super) fn is_closed(&self) -> bool {
        self.messages().is_none()
    }

    fn messages(&self) -> MutexGuard<'_, Option<Messages>> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.eventfd.as_fd()
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("sessions", &self.sessions()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often the worker was woken since the last call.
    fn wakes(queue: &Queue) -> u64 {
        let mut count = [0; 8];
        read(&queue.eventfd, &mut count).map_or(0, |_| u64::from_ne_bytes(count))
    }

    #[test]
    fn the_worker_is_woken_once_for_all_messages() {
        let queue = Arc::new(Queue::new().unwrap());
        let token = Token { index: 0, generation: 0 };
        queue.wake();
        assert_eq!(wakes(&queue), 0, "the queue is empty");
        for _ in 0..2 {
            queue.push(Message::Changed(token));
            let (one, other) = (WakeOnDrop(Arc::clone(&queue)), WakeOnDrop(Arc::clone(&queue)));
            assert_eq!(wakes(&queue), 0, "not before a drop");
            drop(one);
            queue.push(Message::Changed(token));
            drop(other);
            queue.send(Message::Stop);
            assert_eq!(wakes(&queue), 1);
            assert_eq!(queue.take().len(), 3);
        }
        queue.push(Message::Changed(token));
        queue.send(Message::Stop);
        assert_eq!(wakes(&queue), 1, "also for a message that was only pushed");
        queue.close();
        queue.send(Message::Changed(token));
        assert_eq!(wakes(&queue), 0, "the worker has ended");
    }
}
