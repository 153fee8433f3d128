//! Owns the thread that writes the access log: the queue before it, the order in which targets follow one
//! another, and its end. Whoever hands a line over never waits.

use super::losses::Cause;
use super::sample::Allowances;
use super::sink::{Line, Sink, Tally};
use super::{OpenError, Shared};
use crate::telemetry::{AccessTarget, Settings};
use std::convert::Infallible;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines that may wait for the thread; more are lost.
const QUEUE: usize = 16 * 1024;
/// A new target waits so long for the one before to have its last lines.
const TURN: Duration = Duration::from_secs(2);
/// A lasting failure to write is said once in this time.
const COMPLAIN: Duration = Duration::from_secs(60);
/// How often an idle thread looks whether there is something to be said.
const TICK: Duration = Duration::from_secs(1);

/// What writes to one target. Dropped, it writes what waits and ends.
#[derive(Debug)]
pub(super) struct Writer {
    queue: SyncSender<Order>,
    tally: Tally,
    /// How many lines are written under a flood; `None`: all.
    pub(super) allowed: Option<Allowances>,
    /// The queue had no room for the order to open the file anew.
    reopen: Arc<AtomicBool>,
    ended: Mutex<Option<Ended>>,
}

#[derive(Debug)]
enum Order {
    /// Let another writer end before.
    After(Rest),
    Line(Line),
    Reopen,
}

/// Never receives anything: the thread holds the other end for as long as it lives.
type Ended = Receiver<Infallible>;

/// What is left of a writer that is to end.
#[derive(Debug)]
pub(super) struct Rest {
    tally: Tally,
    ended: Option<Ended>,
}

impl Writer {
    /// Opens the target and starts the thread; `None`: there is no target.
    pub(super) fn open(settings: &Settings, shared: &Arc<Shared>) -> Result<Option<Self>, OpenError> {
        let failed = |error| OpenError { target: settings.access.clone(), error };
        let tally = Tally::new(Arc::clone(shared));
        let Some(sink) = Sink::open(settings, tally.clone()).map_err(failed)? else { return Ok(None) };
        let (queue, orders) = sync_channel(QUEUE);
        let (alive, ended) = sync_channel::<Infallible>(0);
        let reopen = Arc::<AtomicBool>::default();
        let thread = Thread {
            orders,
            sink,
            tally: tally.clone(),
            reopen: Arc::clone(&reopen),
            complaint: Complaint::new(settings.access.clone()),
        };
        let run = move || {
            thread.run();
            drop(alive);
        };
        std::thread::Builder::new().name("access-log".to_owned()).spawn(run).map_err(failed)?;
        let allowed = settings.sample_above.map(Allowances::new);
        Ok(Some(Self { queue, tally, allowed, reopen, ended: Mutex::new(Some(ended)) }))
    }

    /// Hands a line over, or counts it as lost.
    pub(super) fn give(&self, line: Line) {
        let (class, left_out) = (line.class, line.left_out);
        self.tally.given();
        if self.queue.try_send(Order::Line(line)).is_err() {
            self.tally.lost(Cause::Queue, class, left_out);
            self.tally.tell();
        }
    }

    /// Opens the file anew, after what was given before.
    pub(super) fn reopen(&self) {
        if self.queue.try_send(Order::Reopen).is_err() {
            self.reopen.store(true, Ordering::Release);
        }
    }

    /// Lets another one end before; to be said first of all.
    pub(super) fn follow(&self, before: Rest) {
        // There is room: it is the first order.
        let _ = self.queue.try_send(Order::After(before));
    }

    /// What will be left when it is dropped.
    pub(super) fn rest(&self) -> Rest {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner).take();
        Rest { tally: self.tally.clone(), ended }
    }
}

impl Rest {
    /// Waits until all is written, and so long at most. What is left then is lost.
    pub(super) fn wait(self, patience: Duration) {
        let Some(Err(RecvTimeoutError::Timeout)) = self.ended.map(|ended| ended.recv_timeout(patience))
        else {
            return;
        };
        let lines = self.tally.give_up();
        tracing::error!(
            lines,
            "the target of the access log takes nothing; lines that waited for it are lost"
        );
    }
}

/// The thread.
struct Thread {
    orders: Receiver<Order>,
    sink: Sink,
    tally: Tally,
    reopen: Arc<AtomicBool>,
    complaint: Complaint,
}

impl Thread {
    fn run(mut self) {
        let mut open = true;
        while open {
            open = match self.orders.recv_timeout(TICK) {
                Ok(order) => {
                    self.obey(order);
                    self.obey_all()
                }
                Err(RecvTimeoutError::Timeout) => true,
                Err(RecvTimeoutError::Disconnected) => false,
            };
            self.flush();
            if self.reopen.swap(false, Ordering::Acquire) {
                self.sink.reopen();
            }
            self.tally.tell();
        }
    }

    /// What waits is written in one go. Whether there may be more.
    fn obey_all(&mut self) -> bool {
        loop {
            match self.orders.try_recv() {
                Ok(order) => self.obey(order),
                Err(error) => return error == TryRecvError::Empty,
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::After(before) => before.wait(TURN),
            Order::Line(line) => {
                let result = self.sink.take(&line);
                self.complaint.of(result);
            }
            Order::Reopen => {
                self.flush();
                self.sink.reopen();
            }
        }
    }

    fn flush(&mut self) {
        let result = self.sink.flush();
        self.complaint.of(result);
    }
}

/// Says why lines cannot be written, seldom. How many they are is said elsewhere.
struct Complaint {
    target: AccessTarget,
    last: Option<Instant>,
}

impl Complaint {
    fn new(target: AccessTarget) -> Self {
        Self { target, last: None }
    }

    fn of(&mut self, result: io::Result<()>) {
        let Err(error) = result else { return };
        if self.last.is_none_or(|last| last.elapsed() >= COMPLAIN) {
            self.last = Some(Instant::now());
            tracing::error!(access = %self.target, %error, "cannot write the access log; lines are being lost");
        }
    }
}
