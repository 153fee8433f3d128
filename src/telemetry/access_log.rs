//! Owns the access log: lines are handed to a thread that writes them, so that a slow or full disk
//! holds up no connection.

use super::recent::End;
use super::{AccessTarget, Format, Settings};
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::broadcast;

/// Lines that may wait for the thread; more are dropped and counted.
const QUEUE: usize = 16 * 1024;
/// A lasting failure to write is said once in this time.
const COMPLAIN: Duration = Duration::from_secs(60);
/// Reports that a slow listener may lag behind.
const LISTENERS: usize = 1024;

/// Where reports go.
#[derive(Debug)]
pub struct AccessLog {
    queue: SyncSender<Order>,
    thread: Mutex<Option<JoinHandle<()>>>,
    json: AtomicBool,
    off: AtomicBool,
    lost: Arc<AtomicU64>,
    listeners: broadcast::Sender<End>,
}

enum Order {
    Line(String),
    Target(Sink),
    Reopen,
    Close,
}

/// Where lines are written.
enum Sink {
    Nowhere,
    Stream(Box<dyn Write + Send>),
    File(std::path::PathBuf, BufWriter<File>),
}

impl AccessLog {
    /// Opens the target and starts the thread.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(settings: &Settings) -> io::Result<Self> {
        let sink = Sink::open(&settings.access)?;
        let (queue, orders) = sync_channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&lost);
        let write = move || write_all(sink, &orders, &counted);
        let thread = std::thread::Builder::new().name("access-log".to_owned()).spawn(write)?;
        Ok(Self {
            queue,
            thread: Mutex::new(Some(thread)),
            json: AtomicBool::new(settings.format == Format::Json),
            off: AtomicBool::new(settings.access == AccessTarget::Off),
            lost,
            listeners: broadcast::channel(LISTENERS).0,
        })
    }

    /// Checks, and opens, the target of new settings; what is given back makes them count, and
    /// cannot fail.
    ///
    /// # Errors
    /// The file cannot be opened; nothing has changed then.
    pub fn prepare(&self, settings: &Settings) -> io::Result<impl FnOnce() + '_> {
        let sink = Sink::open(&settings.access)?;
        let (json, off) = (settings.format == Format::Json, settings.access == AccessTarget::Off);
        Ok(move || {
            self.json.store(json, Ordering::Relaxed);
            self.off.store(off, Ordering::Relaxed);
            self.give(Order::Target(sink));
        })
    }

    /// Writes one report.
    pub fn write(&self, end: End) {
        let (report, outcome) = &*end;
        if !report.unlogged && !self.off.load(Ordering::Relaxed) {
            let json = self.json.load(Ordering::Relaxed);
            let line = if json { report.json(outcome) } else { report.text(outcome) };
            self.give(Order::Line(line));
        }
        // Nobody may be listening.
        let _ = self.listeners.send(end);
    }

    /// All reports from now on.
    #[must_use]
    pub fn listen(&self) -> broadcast::Receiver<End> {
        self.listeners.subscribe()
    }

    /// How many lines were lost, as the target was too slow.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Opens the file anew, after it was moved away (SIGUSR1).
    pub fn reopen(&self) {
        self.give(Order::Reopen);
    }

    /// Writes out what waits and ends the thread.
    pub fn close(&self) {
        // Blocks while the queue is full: this order may not be lost.
        let _ = self.queue.send(Order::Close);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A panic of the thread has been printed by the runtime.
            let _ = thread.join();
        }
    }

    fn give(&self, order: Order) {
        if self.queue.try_send(order).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn write_all(mut sink: Sink, orders: &Receiver<Order>, lost: &AtomicU64) {
    let mut complaint = Complaint::default();
    loop {
        let order = match orders.recv_timeout(Duration::from_secs(1)) {
            Ok(order) => order,
            Err(RecvTimeoutError::Timeout) => {
                complaint.of_lost(lost);
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        };
        if !obey(order, &mut sink, &mut complaint) {
            return;
        }
        // What waits is written in one go.
        for order in orders.try_iter() {
            if !obey(order, &mut sink, &mut complaint) {
                return;
            }
        }
        complaint.of(sink.flush());
    }
}

/// Whether there is more to do.
fn obey(order: Order, sink: &mut Sink, complaint: &mut Complaint) -> bool {
    match order {
        Order::Line(line) => complaint.of(sink.line(&line)),
        Order::Target(new) => {
            complaint.of(sink.flush());
            *sink = new;
        }
        Order::Reopen => {
            complaint.of(sink.flush());
            complaint.of(sink.reopen());
        }
        Order::Close => {
            complaint.of(sink.flush());
            return false;
        }
    }
    true
}

impl Sink {
    fn open(target: &AccessTarget) -> io::Result<Self> {
        Ok(match target {
            AccessTarget::Off => Self::Nowhere,
            AccessTarget::Stdout => Self::Stream(Box::new(BufWriter::new(io::stdout()))),
            AccessTarget::Stderr => Self::Stream(Box::new(BufWriter::new(io::stderr()))),
            AccessTarget::File(path) => Self::File(path.clone(), BufWriter::new(append_to(path)?)),
        })
    }

    fn line(&mut self, line: &str) -> io::Result<()> {
        match self {
            Self::Nowhere => Ok(()),
            Self::Stream(stream) => writeln!(stream, "{line}"),
            Self::File(_, file) => writeln!(file, "{line}"),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Nowhere => Ok(()),
            Self::Stream(stream) => stream.flush(),
            Self::File(_, file) => file.flush(),
        }
    }

    fn reopen(&mut self) -> io::Result<()> {
        if let Self::File(path, file) = self {
            *file = BufWriter::new(append_to(path)?);
        }
        Ok(())
    }
}

fn append_to(path: &std::path::Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Says what goes wrong, seldom.
#[derive(Default)]
struct Complaint {
    last: Option<Instant>,
    said_lost: u64,
}

impl Complaint {
    fn of(&mut self, result: io::Result<()>) {
        if let (Err(error), true) = (result, self.may_speak()) {
            tracing::error!(%error, "cannot write the access log; lines are being lost");
        }
    }

    fn of_lost(&mut self, lost: &AtomicU64) {
        let lost = lost.load(Ordering::Relaxed);
        if lost > self.said_lost && self.may_speak() {
            tracing::error!(
                lines = lost - self.said_lost,
                "the access log could not keep up; lines were lost"
            );
            self.said_lost = lost;
        }
    }

    fn may_speak(&mut self) -> bool {
        let may = self.last.is_none_or(|last| last.elapsed() >= COMPLAIN);
        if may {
            self.last = Some(Instant::now());
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::ClientAddr;
    use crate::outcome::{Ending, Outcome, PerSide, Who, Why};
    use crate::telemetry::report::{ConnectionId, Report};
    use std::time::SystemTime;
    use tracing::level_filters::LevelFilter;

    fn settings(access: AccessTarget, format: Format) -> Settings {
        Settings { level: LevelFilter::INFO, format, access }
    }

    fn write_one(log: &AccessLog, id: u64) {
        let report = Report {
            id: ConnectionId(id),
            time: SystemTime::UNIX_EPOCH,
            client: ClientAddr::Unix,
            peer: ClientAddr::Unix,
            method: http::Method::GET,
            protocol: "h1",
            tls: None,
            host: "".into(),
            target: "/".into(),
            route: None,
            upstream: None,
            endpoint: None,
            tries: 0,
            status: 404,
            subprotocol: None,
            extensions: None,
            unlogged: false,
        };
        let outcome = Outcome {
            ending: Ending::new(Who::Proxy, Why::Refused),
            traffic: PerSide::default(),
            duration: Duration::ZERO,
            idle: PerSide::default(),
            blind: None,
        };
        log.write(Arc::new((Arc::new(report), outcome)));
    }

    #[test]
    fn a_moved_file_is_opened_anew_and_no_line_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let (path, moved) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
        let log = AccessLog::open(&settings(AccessTarget::File(path.clone()), Format::Text)).unwrap();
        write_one(&log, 1);
        std::fs::rename(&path, &moved).unwrap();
        write_one(&log, 2);
        log.reopen();
        write_one(&log, 3);
        log.close();
        let lines = |path| std::fs::read_to_string(path).unwrap().lines().count();
        assert_eq!((lines(&moved), lines(&path)), (2, 1));
    }

    #[test]
    fn settings_change_between_two_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let log = AccessLog::open(&settings(AccessTarget::Off, Format::Text)).unwrap();
        write_one(&log, 1);
        log.prepare(&settings(AccessTarget::File(path.clone()), Format::Json)).unwrap()();
        write_one(&log, 2);
        assert!(
            log.prepare(&settings(AccessTarget::File("/no/such/folder/x".into()), Format::Json)).is_err()
        );
        write_one(&log, 3);
        log.close();
        let written = std::fs::read_to_string(path).unwrap();
        assert_eq!(written.lines().count(), 2);
        assert!(written.lines().all(|line| line.starts_with('{')));
    }
}
