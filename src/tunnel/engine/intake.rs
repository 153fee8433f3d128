//! Owns what a worker is given by other threads: new tunnels, and the order to stop.
#![expect(clippy::vec_box, reason = "an entry stays where it was built")]

use super::entry::Entry;
use crate::tunnel::wake::{WakeOnDrop, WakeQueue};
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The intake of one worker.
pub(super) struct Intake {
    /// Tunnels that the worker has not taken yet. `None` means that it has ended and takes no more.
    opened: Mutex<Option<Vec<Box<Entry>>>>,
    is_stopped: AtomicBool,
    /// Sessions of the worker, including those that still wait here.
    sessions: AtomicUsize,
    /// Wakes the worker.
    pub(super) wake_queue: Arc<WakeQueue>,
}

impl Intake {
    /// # Errors
    /// No descriptor is free.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            opened: Mutex::new(Some(Vec::new())),
            is_stopped: AtomicBool::new(false),
            sessions: AtomicUsize::new(0),
            wake_queue: Arc::new(WakeQueue::new()?),
        })
    }

    /// Adds a tunnel. The returned guard wakes the worker. If the worker has ended, this drops the tunnel, which
    /// reports its end.
    pub(super) fn open(&self, entry: Box<Entry>) -> WakeOnDrop {
        let mut lock = self.opened();
        match &mut *lock {
            Some(opened) => {
                self.sessions.fetch_add(1, Ordering::Relaxed);
                opened.push(entry);
                drop(lock);
                self.wake_queue.add_work();
            }
            // The lock is released first, because the observer of a session may run any code.
            None => drop((lock, entry)),
        }
        WakeOnDrop(Arc::clone(&self.wake_queue))
    }

    /// Ends the worker's thread.
    pub(super) fn stop(&self) {
        self.is_stopped.store(true, Ordering::Release);
        self.wake_queue.add_work();
        self.wake_queue.wake();
    }

    /// Takes the new tunnels.
    pub(super) fn take(&self) -> Vec<Box<Entry>> {
        self.opened().as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Whether the worker must stop.
    pub(super) fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Acquire)
    }

    /// Takes no more tunnels, because the worker has ended.
    pub(super) fn close(&self) {
        self.wake_queue.close();
        let dropped = self.opened().take();
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
        self.opened().is_none()
    }

    fn opened(&self) -> MutexGuard<'_, Option<Vec<Box<Entry>>>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Intake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Intake").field("sessions", &self.sessions()).finish_non_exhaustive()
    }
}
