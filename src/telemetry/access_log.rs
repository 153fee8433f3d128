//! Owns the access log. A thread writes the reports, so that a slow, stuck or full target delays no
//! connection. Floods are sampled, and missing lines are counted.

mod drops;
mod sampling;
mod sink;
mod writer;

use super::report::{Ended, Kind};
use super::tally::Missing;
use super::{AccessTarget, Settings};
use arc_swap::ArcSwapOption;
use drops::{DropReason, Drops};
use sampling::Sampler;
use sink::QueuedLine;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::broadcast;
use writer::{Remainder, Writer};

/// How many reports a slow subscriber may lag behind.
const MAX_LAG: usize = 1024;

/// Receives all reports.
#[derive(Debug)]
pub struct AccessLog {
    /// `None` means that reports go to subscribers only.
    writer: ArcSwapOption<Writer>,
    /// A writer without a successor that may still be writing.
    last: Mutex<Option<Remainder>>,
    shared: Arc<Shared>,
    subscribers: broadcast::Sender<Arc<Ended>>,
}

/// The state that outlives every target.
#[derive(Debug)]
struct Shared {
    sampler: Sampler,
    drops: Drops,
    since: Instant,
}

/// An open target that receives no reports yet. Dropping it closes the target.
#[derive(Debug)]
pub struct NextTarget(Option<Writer>);

/// Why a target cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("{target}: {error}")]
pub struct OpenError {
    /// The target.
    pub target: AccessTarget,
    /// The system's error.
    #[source]
    pub error: io::Error,
}

impl Default for AccessLog {
    fn default() -> Self {
        Self::new()
    }
}

impl AccessLog {
    /// Maximum duration of [`Self::close`].
    pub const CLOSES_WITHIN: Duration = Duration::from_secs(3);

    /// Creates a log without a target: reports go to subscribers only.
    #[must_use]
    pub fn new() -> Self {
        let (sampler, drops, since) = (Sampler::default(), Drops::default(), Instant::now());
        let shared = Arc::new(Shared { sampler, drops, since });
        let (writer, last) = (ArcSwapOption::empty(), Mutex::default());
        Self { writer, last, shared, subscribers: broadcast::channel(MAX_LAG).0 }
    }

    /// Creates a log with a target.
    #[cfg(test)]
    pub(crate) fn open(settings: &Settings) -> Result<Self, OpenError> {
        let log = Self::new();
        log.switch_to(log.prepare(settings)?);
        Ok(log)
    }

    /// Opens the target of new settings, and starts its thread.
    ///
    /// # Errors
    /// Returns [`OpenError`] if the file cannot be opened or journald is missing. Holdline waits for a
    /// missing syslog. Reports still go to the target in use.
    pub fn prepare(&self, settings: &Settings) -> Result<NextTarget, OpenError> {
        Writer::open(settings, &self.shared).map(NextTarget)
    }

    /// Sends all further reports to a prepared target. Earlier reports go to the old one.
    pub fn switch_to(&self, NextTarget(next): NextTarget) {
        self.replace(next);
    }

    /// Writes one report.
    pub fn write(&self, kind: Kind, end: Arc<Ended>) {
        if !end.report.unlogged
            && let Some(writer) = &*self.writer.load()
        {
            let Shared { sampler, drops, since } = &*self.shared;
            let (class, now) = (kind.into(), since.elapsed());
            match sampler.admit(class, writer.allowed.as_ref(), now) {
                Some(left_out) => writer.enqueue(QueuedLine { end: Arc::clone(&end), class, left_out }),
                None => {
                    drops.add(DropReason::Sampled, 1);
                    drops.log_due(now);
                }
            }
        }
        // There may be no subscriber.
        let _ = self.subscribers.send(end);
    }

    /// Subscribes to all further reports, including those without a line.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Ended>> {
        self.subscribers.subscribe()
    }

    /// Returns how many lines were left out or lost.
    #[must_use]
    pub fn missing(&self) -> Missing {
        self.shared.drops.all()
    }

    /// Reopens the file after it was moved (SIGUSR1).
    pub fn reopen(&self) {
        match &*self.writer.load() {
            Some(writer) => writer.reopen(),
            None => tracing::info!("the access log is not a file; there is nothing to reopen"),
        }
    }

    /// Writes the queued lines, and logs how many are lost. Blocks for at most [`Self::CLOSES_WITHIN`].
    pub fn close(&self) {
        self.replace(None);
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(last) = last {
            last.wait(Self::CLOSES_WITHIN);
        }
        self.shared.drops.log_rest();
    }

    fn replace(&self, next: Option<Writer>) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.writer.load().as_ref().map(|writer| writer.remainder());
        *last = before.or_else(|| last.take());
        if let (Some(next), true) = (&next, last.is_some()) {
            last.take().into_iter().for_each(|before| next.wait_for(before));
        }
        self.writer.store(next.map(Arc::new));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::ClientAddr;
    use crate::outcome::{Cause, EndedBy, Ending, Outcome, PerSide};
    use crate::telemetry::report::{ConnectionId, Report, RequestInfo};
    use crate::telemetry::{Facility, Format};
    use std::time::SystemTime;
    use tracing::level_filters::LevelFilter;

    fn settings(access: AccessTarget, format: Format) -> Settings {
        Settings { level: LevelFilter::INFO, format, access, facility: Facility(23), sample_above: None }
    }

    fn write_one(log: &AccessLog, id: u64) {
        let (client, proxied_by) = (ClientAddr::Unix, None);
        let asked = RequestInfo { client, proxied_by, method: "GET", host: b"", target: b"/", tls: None };
        let report = Report::new(ConnectionId(id), SystemTime::UNIX_EPOCH, &asked);
        let outcome = Outcome {
            ending: Ending::new(EndedBy::Proxy, Cause::Refused),
            traffic: PerSide::default(),
            duration: Duration::ZERO,
            idle: PerSide::default(),
            blind: None,
            ended: None,
        };
        log.write(Kind::Http, Arc::new(Ended { report, outcome }));
    }

    #[test]
    fn a_moved_file_is_reopened_and_no_line_is_lost() {
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
    fn a_file_that_cannot_be_reopened_stays_in_use() {
        let folder = tempfile::tempdir().unwrap();
        let (inner, moved) = (folder.path().join("log"), folder.path().join("moved"));
        std::fs::create_dir(&inner).unwrap();
        let path = inner.join("access.log");
        let log = AccessLog::open(&settings(AccessTarget::File(path), Format::Text)).unwrap();
        write_one(&log, 1);
        std::fs::rename(&inner, &moved).unwrap();
        log.reopen();
        write_one(&log, 2);
        log.close();
        assert_eq!(std::fs::read_to_string(moved.join("access.log")).unwrap().lines().count(), 2);
        assert_eq!(log.missing(), Missing::default());
    }

    #[test]
    fn settings_change_between_two_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let log = AccessLog::open(&settings(AccessTarget::Off, Format::Text)).unwrap();
        write_one(&log, 1);
        log.switch_to(log.prepare(&settings(AccessTarget::File(path.clone()), Format::Json)).unwrap());
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

    #[test]
    fn lines_before_a_change_are_written_before_those_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let file = |format| settings(AccessTarget::File(path.clone()), format);
        let log = AccessLog::open(&file(Format::Text)).unwrap();
        (0..1_000).for_each(|id| write_one(&log, id));
        log.switch_to(log.prepare(&file(Format::Json)).unwrap());
        (0..1_000).for_each(|id| write_one(&log, id));
        log.switch_to(log.prepare(&settings(AccessTarget::Off, Format::Json)).unwrap());
        write_one(&log, 1_000);
        log.switch_to(log.prepare(&file(Format::Text)).unwrap());
        write_one(&log, 1_001);
        log.switch_to(log.prepare(&settings(AccessTarget::Off, Format::Json)).unwrap());
        log.close();
        let written = std::fs::read_to_string(path).unwrap();
        let lines: Vec<bool> = written.lines().map(|line| line.starts_with('{')).collect();
        let expected = [vec![false; 1_000], vec![true; 1_000], vec![false]].concat();
        assert_eq!(lines, expected);
        assert_eq!(log.missing(), Missing::default());
    }

    #[test]
    fn what_a_full_disk_does_not_take_is_counted() {
        let log = AccessLog::open(&settings(AccessTarget::File("/dev/full".into()), Format::Text)).unwrap();
        (0..500).for_each(|id| write_one(&log, id));
        log.close();
        assert_eq!(log.missing(), Missing { target: 500, ..Missing::default() });
    }

    #[test]
    fn a_syslog_that_is_not_there_keeps_nothing_from_starting() {
        let folder = tempfile::tempdir().unwrap();
        let nowhere = super::super::SyslogAddr::Unix(folder.path().join("log"));
        let log = AccessLog::open(&settings(AccessTarget::Syslog(nowhere), Format::Text)).unwrap();
        write_one(&log, 1);
        log.close();
        assert_eq!(log.missing(), Missing { target: 1, ..Missing::default() });
    }
}
