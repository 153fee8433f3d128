//! Owns how the driver of a tunnel is woken: a task by its waker, a session of the engine through the eventfd of its
//! worker. It must not know what a driver does when it wakes.

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{read, write};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

/// Wakes the driver of a tunnel.
#[derive(Clone, Debug)]
pub(super) enum DriverWaker {
    /// The tunnel is a tokio task.
    Task(Waker),
    /// The tunnel is a session of the engine.
    Session(SessionRef),
}

impl DriverWaker {
    pub(super) fn wake(&self) {
        match self {
            Self::Task(waker) => waker.wake_by_ref(),
            Self::Session(session) => session.queue.wake_session(session.token),
        }
    }
}

impl From<&Waker> for DriverWaker {
    fn from(waker: &Waker) -> Self {
        Self::Task(waker.clone())
    }
}

impl From<SessionRef> for DriverWaker {
    fn from(session: SessionRef) -> Self {
        Self::Session(session)
    }
}

/// Identifies a session to its worker. `index` is used again for later sessions, so `generation` counts its uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) index: u32,
    pub(super) generation: u32,
}

/// Refers to a session of the engine from any thread.
#[derive(Clone, Debug)]
pub(super) struct SessionRef {
    pub(super) queue: Arc<WakeQueue>,
    pub(super) token: Token,
}

/// Wakes one worker, and says which of its sessions have changes.
#[derive(Debug)]
pub(super) struct WakeQueue {
    state: Mutex<State>,
    /// The worker's epoll instance watches it.
    eventfd: OwnedFd,
}

#[derive(Debug, Default)]
struct State {
    /// Sessions that have changes.
    changed: Vec<Token>,
    /// Whether other work waits for the worker.
    has_work: bool,
    /// Whether the worker was woken for all this.
    is_woken: bool,
    /// The worker has ended.
    is_closed: bool,
}

impl WakeQueue {
    /// # Errors
    /// No descriptor is free.
    pub(super) fn new() -> io::Result<Self> {
        let eventfd = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self { state: Mutex::default(), eventfd })
    }

    /// Makes a session look at its control.
    fn wake_session(&self, token: Token) {
        {
            let mut state = self.state();
            if state.is_closed {
                return;
            }
            state.changed.push(token);
        }
        self.wake();
    }

    /// Records that other work waits. The caller wakes the worker with [`WakeQueue::wake`].
    pub(super) fn add_work(&self) {
        self.state().has_work = true;
    }

    /// Wakes the worker, unless nothing waits for it or it was woken before.
    pub(super) fn wake(&self) {
        let is_new = {
            let mut state = self.state();
            let waits = (state.has_work || !state.changed.is_empty()) && !state.is_closed;
            waits && !std::mem::replace(&mut state.is_woken, true)
        };
        // The lock is released first. On the same CPU the worker may run at once, and needs the lock.
        if is_new {
            // This fails only if the counter would overflow. Then the worker is awake anyway.
            let _ = write(&self.eventfd, &1_u64.to_ne_bytes());
        }
    }

    /// Takes the sessions that have changes. The worker must look for other work after that.
    pub(super) fn take(&self) -> Vec<Token> {
        // This fails if the eventfd is 0.
        let _ = read(&self.eventfd, &mut [0; 8]);
        let mut state = self.state();
        (state.has_work, state.is_woken) = (false, false);
        std::mem::take(&mut state.changed)
    }

    /// Drops what comes later, because the worker has ended.
    pub(super) fn close(&self) {
        *self.state() = State { is_closed: true, ..State::default() };
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for WakeQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.eventfd.as_fd()
    }
}

/// Wakes a worker when dropped, if something waits for it.
#[derive(Debug)]
pub struct WakeOnDrop(pub(super) Arc<WakeQueue>);

impl Drop for WakeOnDrop {
    fn drop(&mut self) {
        self.0.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often the worker was woken since the last call.
    fn wakes(queue: &WakeQueue) -> u64 {
        let mut count = [0; 8];
        read(&queue.eventfd, &mut count).map_or(0, |_| u64::from_ne_bytes(count))
    }

    #[test]
    fn the_worker_is_woken_once_for_all_that_waits() {
        let queue = Arc::new(WakeQueue::new().unwrap());
        let token = Token { index: 0, generation: 0 };
        let session = DriverWaker::from(SessionRef { queue: Arc::clone(&queue), token });
        queue.wake();
        assert_eq!(wakes(&queue), 0, "nothing waits");
        for _ in 0..2 {
            queue.add_work();
            let (one, other) = (WakeOnDrop(Arc::clone(&queue)), WakeOnDrop(Arc::clone(&queue)));
            assert_eq!(wakes(&queue), 0, "not before a drop");
            drop(one);
            queue.add_work();
            drop(other);
            session.wake();
            assert_eq!(wakes(&queue), 1);
            assert_eq!(queue.take(), [token]);
        }
        queue.add_work();
        session.wake();
        assert_eq!(wakes(&queue), 1, "also for work that was only added");
        queue.close();
        session.wake();
        queue.add_work();
        queue.wake();
        assert_eq!((wakes(&queue), queue.take()), (0, vec![]), "the worker has ended");
    }
}
