//! Owns the epoll driver: threads that each relay many tunnels over sockets that have left the runtime,
//! plain or with TLS on them. It must not know what is done with the bytes.
//!
//! A tunnel stays with its thread, and each of its sockets is registered once, edge-triggered: a message
//! costs one `recv`, one `send` and a share of an `epoll_wait`. An idle one owns no task, no timer entry
//! of the runtime and no buffer.

mod inbox;
mod session;
mod wheel;
mod wire;
mod worker;

use super::control::Control;
use super::join::{Join, Opened};
use super::{Framing, Observer, Settings};
use crate::outcome::PerSide;
pub use inbox::Knock;
pub(super) use inbox::Line;
use inbox::{Inbox, Post};
use session::Session;
use std::io;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, available_parallelism};
use tokio::runtime::Handle;
pub use wire::Wire;
use worker::Worker;

/// Threads that relay.
#[derive(Debug)]
pub struct Engine {
    inboxes: Vec<Arc<Inbox>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Engine {
    /// Starts `workers` threads, one for each CPU if that is 0. What is done at the end of a tunnel may
    /// use the runtime that this is called in.
    ///
    /// # Errors
    /// There are no descriptors, or no threads, to be had.
    pub fn start(workers: usize) -> io::Result<Self> {
        let mut engine = Self { inboxes: Vec::new(), threads: Mutex::default() };
        for _ in 0..threads(workers) {
            let inbox = Arc::new(Inbox::new()?);
            let worker = Worker::new(Arc::clone(&inbox))?;
            let runtime = Handle::current();
            let run = move || {
                let _entered = runtime.enter();
                worker.run();
            };
            let thread = std::thread::Builder::new().name("relay".to_owned()).spawn(run)?;
            engine.inboxes.push(inbox);
            engine.threads.get_mut().unwrap_or_else(PoisonError::into_inner).push(thread);
        }
        Ok(engine)
    }

    /// Open files that so many workers take for themselves.
    #[must_use]
    pub fn descriptors(workers: usize) -> u64 {
        2 * threads(workers) as u64
    }

    /// Joins two streams to their end, of which `observer` is told on the thread that relays; the tunnel's time
    /// begins with its control. The thread with the fewest tunnels gets it, and is woken when the knock is
    /// dropped: whoever has more to do that comes to the same thread wakes it once for all.
    pub fn run(
        &self,
        streams: PerSide<Opened<Wire>>,
        settings: Arc<Settings>,
        framing: Framing,
        control: Arc<Control>,
        observer: impl Observer + 'static,
    ) -> Knock {
        let join = Join::new(streams, settings, framing, control);
        let session = Box::new(Session::new(join, Box::new(observer)));
        let fewest = self.inboxes.iter().min_by_key(|inbox| (inbox.is_closed(), inbox.sessions()));
        let inbox = fewest.expect("an engine has a thread at least");
        inbox.leave(Post::Open(session));
        Knock(Arc::clone(inbox))
    }

    /// Ends the threads. A tunnel that is still open is dropped, and reported so.
    pub fn stop(&self) {
        for inbox in &self.inboxes {
            inbox.post(Post::Stop);
        }
        for thread in std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner)) {
            // A panic of the thread has been printed.
            let _ = thread.join();
        }
    }
}

/// How many threads are meant; 0: one for each CPU, as the runtime has it.
fn threads(workers: usize) -> usize {
    match workers {
        0 => available_parallelism().map_or(1, NonZeroUsize::get),
        workers => workers,
    }
}

impl Drop for Engine {
    /// Without waiting: it may be a thread of its own that drops it.
    fn drop(&mut self) {
        for inbox in &self.inboxes {
            inbox.post(Post::Stop);
        }
    }
}

#[cfg(test)]
mod tests;
