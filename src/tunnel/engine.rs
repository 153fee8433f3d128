//! Owns the epoll driver: threads that relay many tunnels each, over sockets detached from the tokio runtime, with
//! or without TLS. It must not know what happens to the bytes.
//!
//! A tunnel stays with its thread. Each of its sockets is registered once, edge-triggered. A message costs one
//! `recv`, one `send` and a share of an `epoll_wait`. An idle tunnel owns no task, no runtime timer and no buffer.

mod detached_stream;
mod entry;
mod intake;
mod wheel;
mod worker;

use super::control::Control;
use super::session::Session;
pub(crate) use super::wake::WakeOnDrop;
use super::{Framing, Observer, Settings};
use crate::io::PrefixedStream;
use crate::outcome::PerSide;
pub(crate) use detached_stream::DetachedStream;
use entry::Entry;
use intake::Intake;
use std::io;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, available_parallelism};
use tokio::runtime::Handle;
use worker::Worker;

/// The threads that relay tunnels.
#[derive(Debug)]
pub struct Engine {
    intakes: Vec<Arc<Intake>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Engine {
    /// Starts `workers` threads. 0 means one for each CPU. The caller must be inside a tokio runtime, which
    /// observers of tunnels may use.
    ///
    /// # Errors
    /// The system has no descriptors or threads left. Threads that were started by then end.
    pub fn start(workers: usize) -> io::Result<Self> {
        let mut engine = Self { intakes: Vec::new(), threads: Mutex::default() };
        for _ in 0..threads(workers) {
            let intake = Arc::new(Intake::new()?);
            let worker = Worker::new(Arc::clone(&intake))?;
            let runtime = Handle::current();
            let run = move || {
                let _entered = runtime.enter();
                worker.run();
            };
            let thread = std::thread::Builder::new().name("relay".to_owned()).spawn(run)?;
            engine.intakes.push(intake);
            engine.threads.get_mut().unwrap_or_else(PoisonError::into_inner).push(thread);
        }
        Ok(engine)
    }

    /// How many descriptors `workers` threads open for themselves.
    #[must_use]
    pub fn descriptors(workers: usize) -> u64 {
        2 * threads(workers) as u64
    }

    /// Hands both streams to the worker with the fewest tunnels. The tunnel's time begins with its control.
    /// `observer` runs on the worker's thread. Dropping the returned guard wakes the worker, so a caller can batch
    /// several changes into one wake-up.
    pub fn open(
        &self,
        streams: PerSide<PrefixedStream<DetachedStream>>,
        settings: Arc<Settings>,
        framing: Framing,
        control: Arc<Control>,
        observer: impl Observer + 'static,
    ) -> WakeOnDrop {
        let session = Session::new(streams, settings, framing, control);
        let entry = Box::new(Entry::new(session, Box::new(observer)));
        let fewest = self.intakes.iter().min_by_key(|intake| (intake.is_closed(), intake.sessions()));
        fewest.expect("an engine has a thread at least").open(entry)
    }

    /// Ends the threads and waits for them. Tunnels that are still open are dropped and reported as aborted.
    pub fn stop(&self) {
        for intake in &self.intakes {
            intake.stop();
        }
        for thread in std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner)) {
            // A panic of the thread has been printed.
            let _ = thread.join();
        }
    }
}

/// Resolves 0 to one thread for each CPU, as tokio does.
fn threads(workers: usize) -> usize {
    match workers {
        0 => available_parallelism().map_or(1, NonZeroUsize::get),
        workers => workers,
    }
}

impl Drop for Engine {
    /// Ends the threads without waiting for them, because one of them may drop the engine.
    fn drop(&mut self) {
        for intake in &self.intakes {
            intake.stop();
        }
    }
}

#[cfg(test)]
mod tests;
