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
    posts: Mutex<Option<Posts>>,
    /// Counts up when there is something; epoll watches it.
    bell: OwnedFd,
    /// Sessions of the worker, those among them that it has not fetched yet.
    sessions: AtomicUsize,
}

/// What was left since the worker last looked.
#[derive(Default)]
struct Posts {
    left: Vec<Post>,
    /// The bell was rung for them.
    is_rung: bool,
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

/// Something was left in an inbox: the worker is woken when this is dropped.
#[derive(Debug)]
pub struct Knock(pub(super) Arc<Inbox>);

impl Drop for Knock {
    fn drop(&mut self) {
        self.0.ring();
    }
}

impl Inbox {
    pub(super) fn new() -> io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self { posts: Mutex::new(Some(Posts::default())), bell, sessions: AtomicUsize::new(0) })
    }

    /// Leaves something for the worker, and wakes it.
    pub(super) fn post(&self, post: Post) {
        self.leave(post);
        self.ring();
    }

    /// Leaves something for the worker, who is to be woken by [`Inbox::ring`]. A session that it will not
    /// fetch any more is dropped, and so reports its end.
    pub(super) fn leave(&self, post: Post) {
        let mut lock = self.posts();
        let Some(posts) = &mut *lock else {
            // Behind the lock: what a session does at its end is not known here.
            return drop((lock, post));
        };
        if let Post::Open(_) = post {
            self.sessions.fetch_add(1, Ordering::Relaxed);
        }
        posts.left.push(post);
    }

    /// Wakes the worker, unless there is nothing for it or it was woken for that already.
    pub(super) fn ring(&self) {
        let is_new = match &mut *self.posts() {
            Some(posts) => !posts.left.is_empty() && !std::mem::replace(&mut posts.is_rung, true),
            None => false,
        };
        // Behind the lock: on the same processor the worker runs at once, and asks for it.
        if is_new {
            // It fails when it counts 2^64 rings that nobody has heard: then it rings.
            let _ = write(&self.bell, &1_u64.to_ne_bytes());
        }
    }

    /// All that was left since the last time.
    pub(super) fn collect(&self) -> Vec<Post> {
        // It fails when it did not ring.
        let _ = read(&self.bell, &mut [0; 8]);
        self.posts().as_mut().map(std::mem::take).unwrap_or_default().left
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

    fn posts(&self) -> MutexGuard<'_, Option<Posts>> {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// How often the bell was rung since the last time.
    fn rings(inbox: &Inbox) -> u64 {
        let mut count = [0; 8];
        read(&inbox.bell, &mut count).map_or(0, |_| u64::from_ne_bytes(count))
    }

    #[test]
    fn the_bell_rings_once_for_all_that_was_left() {
        let inbox = Arc::new(Inbox::new().unwrap());
        let token = Token { index: 0, generation: 0 };
        inbox.ring();
        assert_eq!(rings(&inbox), 0, "for nothing");
        for _ in 0..2 {
            inbox.leave(Post::Mail(token));
            let (one, other) = (Knock(Arc::clone(&inbox)), Knock(Arc::clone(&inbox)));
            assert_eq!(rings(&inbox), 0, "not before the knock");
            drop(one);
            inbox.leave(Post::Mail(token));
            drop(other);
            inbox.post(Post::Stop);
            assert_eq!(rings(&inbox), 1);
            assert_eq!(inbox.collect().len(), 3);
        }
        inbox.leave(Post::Mail(token));
        inbox.post(Post::Stop);
        assert_eq!(rings(&inbox), 1, "also for what nobody has knocked for yet");
        inbox.close();
        inbox.post(Post::Mail(token));
        assert_eq!(rings(&inbox), 0, "nobody is there");
    }
}
