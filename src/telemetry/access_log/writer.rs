//! Owns the thread that writes the access log: its queue, the change of targets, and its end. Queueing a line
//! never blocks.

use super::drops::DropReason;
use super::sampling::Allowances;
use super::sink::{QueuedLine, Sink, Tally};
use super::{OpenError, Shared};
use crate::clock::LogLimit;
use crate::telemetry::{AccessTarget, Settings};
use std::convert::Infallible;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Maximum number of queued lines. Further lines are lost.
const QUEUE: usize = 16 * 1024;
/// How long a new target waits until the old one has its last lines.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(2);
/// How often an idle thread checks whether it must log missing lines.
const TICK: Duration = Duration::from_secs(1);

/// Writes to one target. Dropping it ends the thread after the queued lines.
#[derive(Debug)]
pub(super) struct Writer {
    queue: SyncSender<Command>,
    tally: Tally,
    /// The sampling limits. `None` means that all lines are written.
    pub(super) allowed: Option<Allowances>,
    /// Set if the queue was full when the file should be reopened.
    reopen: Arc<AtomicBool>,
    ended: Mutex<Option<Ended>>,
}

#[derive(Debug)]
enum Command {
    /// Wait until another writer has ended.
    After(Remainder),
    Line(QueuedLine),
    Reopen,
}

/// Never receives anything: the thread holds the other end for as long as it lives.
type Ended = Receiver<Infallible>;

/// A writer that is about to end.
#[derive(Debug)]
pub(super) struct Remainder {
    tally: Tally,
    ended: Option<Ended>,
}

impl Writer {
    /// Opens the target and starts the thread. `None` means that the log is off.
    pub(super) fn open(settings: &Settings, shared: &Arc<Shared>) -> Result<Option<Self>, OpenError> {
        let failed = |error| OpenError { target: settings.access.clone(), error };
        let tally = Tally::new(Arc::clone(shared));
        let Some(sink) = Sink::open(settings, tally.clone()).map_err(failed)? else { return Ok(None) };
        let (queue, commands) = sync_channel(QUEUE);
        let (alive, ended) = sync_channel::<Infallible>(0);
        let reopen = Arc::<AtomicBool>::default();
        let thread = Thread {
            commands,
            sink,
            tally: tally.clone(),
            reopen: Arc::clone(&reopen),
            error_log: ErrorLog::new(settings.access.clone()),
        };
        let run = move || {
            thread.run();
            drop(alive);
        };
        std::thread::Builder::new().name("access-log".to_owned()).spawn(run).map_err(failed)?;
        let allowed = settings.sample_above.map(Allowances::new);
        Ok(Some(Self { queue, tally, allowed, reopen, ended: Mutex::new(Some(ended)) }))
    }

    /// Queues a line, or counts it as lost.
    pub(super) fn enqueue(&self, line: QueuedLine) {
        let (class, left_out) = (line.class, line.left_out);
        self.tally.enqueued();
        if self.queue.try_send(Command::Line(line)).is_err() {
            self.tally.lost(DropReason::Queue, class, left_out);
            self.tally.log_due();
        }
    }

    /// Reopens the file after the queued lines.
    pub(super) fn reopen(&self) {
        if self.queue.try_send(Command::Reopen).is_err() {
            self.reopen.store(true, Ordering::Release);
        }
    }

    /// Makes the thread wait until another writer has ended. Must be the first command.
    pub(super) fn wait_for(&self, before: Remainder) {
        // The queue has space: this is the first command.
        let _ = self.queue.try_send(Command::After(before));
    }

    /// Returns what remains when it is dropped.
    pub(super) fn remainder(&self) -> Remainder {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner).take();
        Remainder { tally: self.tally.clone(), ended }
    }
}

impl Remainder {
    /// Waits at most `patience` until all lines are written. The rest is lost.
    pub(super) fn wait(self, patience: Duration) {
        let Some(Err(RecvTimeoutError::Timeout)) = self.ended.map(|ended| ended.recv_timeout(patience))
        else {
            return;
        };
        let lines = self.tally.abandon();
        tracing::error!(lines, "the target of the access log accepts nothing; the queued lines are lost");
    }
}

/// The thread.
struct Thread {
    commands: Receiver<Command>,
    sink: Sink,
    tally: Tally,
    reopen: Arc<AtomicBool>,
    error_log: ErrorLog,
}

impl Thread {
    fn run(mut self) {
        let mut open = true;
        while open {
            open = match self.commands.recv_timeout(TICK) {
                Ok(command) => {
                    self.execute(command);
                    self.execute_all()
                }
                Err(RecvTimeoutError::Timeout) => true,
                Err(RecvTimeoutError::Disconnected) => false,
            };
            self.flush();
            if self.reopen.swap(false, Ordering::Acquire) {
                self.sink.reopen();
            }
            self.tally.log_due();
        }
    }

    /// Executes all queued commands. Returns whether more may come.
    fn execute_all(&mut self) -> bool {
        loop {
            match self.commands.try_recv() {
                Ok(command) => self.execute(command),
                Err(error) => return error == TryRecvError::Empty,
            }
        }
    }

    fn execute(&mut self, command: Command) {
        match command {
            Command::After(before) => before.wait(HANDOVER_TIMEOUT),
            Command::Line(line) => {
                let result = self.sink.take(&line);
                self.error_log.of(result);
            }
            Command::Reopen => {
                self.flush();
                self.sink.reopen();
            }
        }
    }

    fn flush(&mut self) {
        let result = self.sink.flush();
        self.error_log.of(result);
    }
}

/// Logs why lines cannot be written. [`Drops`](super::drops::Drops) logs how many.
struct ErrorLog {
    target: AccessTarget,
    limit: LogLimit,
}

impl ErrorLog {
    fn new(target: AccessTarget) -> Self {
        Self { target, limit: LogLimit::default() }
    }

    fn of(&self, result: io::Result<()>) {
        if let Err(error) = result
            && self.limit.take()
        {
            tracing::error!(access = %self.target, %error, "cannot write the access log; lines are being lost");
        }
    }
}
