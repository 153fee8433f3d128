//! Owns what other threads leave for a worker, and the bell that wakes it.

use super::session::Session;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{read, write};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One worker's inbox.
pub(in crate::tunnel) struct Inbox {
    /// `None`: the worker has ended, and nobody will fetch them.
    posts: Mutex<Option<Vec<Post>>>,
    /// Counts up when there is something; epoll watches it.
    bell: OwnedFd,
    /// Sessions of the worker, those among them that it has not fetched yet.
    sessions: AtomicUsize,
}

/// Something for a worker.
pub(super) enum Post {
    /// A new session.
    Open(Box<Session>),
    /// Something was left in this session's control.
    Mail(Token),
    /// The end.
    Stop,
}

/// Names a session to its worker, never two of them the same way: an index that is used again, and how
/// often it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) index: u32,
    pub(super) generation: u32,
}

/// The way to a session, for whoever leaves something in its control.
#[derive(Clone, Debug)]
pub(in crate::tunnel) struct Line {
    pub(super) inbox: Arc<Inbox>,
    pub(super) token: Token,
}

impl Line {
    /// Has the session look at its control.
    pub(in crate::tunnel) fn ring(&self) {
        self.inbox.post(Post::Mail(self.token));
    }
}

impl Inbox {
    pub(super) fn new() -> io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self { posts: Mutex::new(Some(Vec::new())), bell, sessions: AtomicUsize::new(0) })
    }

    /// Leaves something for the worker. A session that it will not fetch any more is dropped, and so reports
    /// its end.
    pub(super) fn post(&self, post: Post) {
        let mut lock = self.posts();
        let Some(posts) = &mut *lock else {
            // Behind the lock: what a session does at its end is not known here.
            return drop((lock, post));
        };
        if let Post::Open(_) = post {
            self.sessions.fetch_add(1, Ordering::Relaxed);
        }
        posts.push(post);
        if posts.len() == 1 {
            // It fails when it counts 2^64 rings that nobody has heard: then it rings.
            let _ = write(&self.bell, &1_u64.to_ne_bytes());
        }
    }

    /// All that was left since the last time.
    pub(super) fn collect(&self) -> Vec<Post> {
        // It fails when it did not ring.
        let _ = read(&self.bell, &mut [0; 8]);
        self.posts().as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The worker has ended: it gets nothing any more.
    pub(super) fn close(&self) {
        let left = self.posts().take();
        drop(left);
    }

    /// A session has ended.
    pub(super) fn closed(&self) {
        self.sessions.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many sessions the worker has.
    pub(super) fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// The worker has ended.
    pub(super) fn is_closed(&self) -> bool {
        self.posts().is_none()
    }

    fn posts(&self) -> MutexGuard<'_, Option<Vec<Post>>> {
        self.posts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for Inbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("sessions", &self.sessions()).finish_non_exhaustive()
    }
}
