//! Owns the access log: reports are handed to a thread that writes them, so that a slow, stuck or full
//! target holds up no connection; under a flood they are sampled; and what is missing is counted.

mod losses;
mod sample;
mod sink;
mod writer;

pub use losses::Missing;

use super::metrics::Kind;
use super::recent::End;
use super::{AccessTarget, Settings};
use arc_swap::ArcSwapOption;
use losses::{Cause, Losses};
use sample::Sampler;
use sink::Line;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::broadcast;
use writer::{Rest, Writer};

/// Reports that a slow listener may lag behind.
const LISTENERS: usize = 1024;

/// Where reports go.
#[derive(Debug)]
pub struct AccessLog {
    /// `None`: they go to listeners only.
    writer: ArcSwapOption<Writer>,
    /// A writer without a successor that may still have to write.
    last: Mutex<Option<Rest>>,
    shared: Arc<Shared>,
    listeners: broadcast::Sender<End>,
}

/// What outlives every target.
#[derive(Debug)]
struct Shared {
    sampler: Sampler,
    losses: Losses,
    since: Instant,
}

/// Why a target cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("{target}: {error}")]
pub struct OpenError {
    /// The target.
    pub target: AccessTarget,
    /// What the system says.
    #[source]
    pub error: io::Error,
}

impl AccessLog {
    /// The longest that [`Self::close`] takes.
    pub const CLOSES_WITHIN: Duration = Duration::from_secs(3);

    /// Opens the target and starts the thread.
    ///
    /// # Errors
    /// The file cannot be opened, or journald is not there. A syslog that is not there is waited for.
    pub fn open(settings: &Settings) -> Result<Self, OpenError> {
        let (sampler, losses, since) = (Sampler::default(), Losses::default(), Instant::now());
        let shared = Arc::new(Shared { sampler, losses, since });
        let writer = ArcSwapOption::from_pointee(Writer::open(settings, &shared)?);
        Ok(Self { writer, last: Mutex::default(), shared, listeners: broadcast::channel(LISTENERS).0 })
    }

    /// Checks, and opens, the target of new settings; what is given back makes them count, and
    /// cannot fail. What was reported before goes to the old target.
    ///
    /// # Errors
    /// The target cannot be opened; nothing has changed then.
    pub fn prepare(&self, settings: &Settings) -> Result<impl FnOnce() + '_, OpenError> {
        let next = Writer::open(settings, &self.shared)?;
        Ok(move || self.replace(next))
    }

    /// Writes one report.
    pub fn write(&self, kind: Kind, end: End) {
        if !end.0.unlogged
            && let Some(writer) = &*self.writer.load()
        {
            let Shared { sampler, losses, since } = &*self.shared;
            let (class, now) = (kind.into(), since.elapsed());
            match sampler.admit(class, writer.allowed.as_ref(), now) {
                Some(left_out) => writer.give(Line { end: Arc::clone(&end), class, left_out }),
                None => {
                    losses.add(Cause::Sampled, 1);
                    losses.tell(now);
                }
            }
        }
        // Nobody may be listening.
        let _ = self.listeners.send(end);
    }

    /// All reports from now on, also those that have no line.
    #[must_use]
    pub fn listen(&self) -> broadcast::Receiver<End> {
        self.listeners.subscribe()
    }

    /// How many lines were left out or lost.
    #[must_use]
    pub fn missing(&self) -> Missing {
        self.shared.losses.all()
    }

    /// Opens the file anew, after it was moved away (SIGUSR1).
    pub fn reopen(&self) {
        match &*self.writer.load() {
            Some(writer) => writer.reopen(),
            None => tracing::info!("the access log is no file to be opened anew"),
        }
    }

    /// Writes out what waits, and says what is lost of it. Blocks, for [`Self::CLOSES_WITHIN`] at most.
    pub fn close(&self) {
        self.replace(None);
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(last) = last {
            last.wait(Self::CLOSES_WITHIN);
        }
        self.shared.losses.tell_rest();
    }

    fn replace(&self, next: Option<Writer>) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.writer.load().as_ref().map(|writer| writer.rest());
        *last = before.or_else(|| last.take());
        if let (Some(next), true) = (&next, last.is_some()) {
            last.take().into_iter().for_each(|before| next.follow(before));
        }
        self.writer.store(next.map(Arc::new));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::ClientAddr;
    use crate::outcome::{Ending, Outcome, PerSide, Who, Why};
    use crate::telemetry::report::{Asked, ConnectionId, Report};
    use crate::telemetry::{Facility, Format};
    use std::time::SystemTime;
    use tracing::level_filters::LevelFilter;

    fn settings(access: AccessTarget, format: Format) -> Settings {
        Settings { level: LevelFilter::INFO, format, access, facility: Facility(23), sample_above: None }
    }

    fn write_one(log: &AccessLog, id: u64) {
        let (client, proxied_by) = (ClientAddr::Unix, None);
        let asked = Asked { client, proxied_by, method: "GET", host: b"", target: b"/", tls: None };
        let report = Report::new(ConnectionId(id), SystemTime::UNIX_EPOCH, &asked);
        let outcome = Outcome {
            ending: Ending::new(Who::Proxy, Why::Refused),
            traffic: PerSide::default(),
            duration: Duration::ZERO,
            idle: PerSide::default(),
            blind: None,
            ended: None,
        };
        log.write(Kind::Http, Arc::new((report, outcome)));
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
    fn a_file_that_cannot_be_opened_anew_stays_in_use() {
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

    #[test]
    fn lines_before_a_change_are_written_before_those_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let file = |format| settings(AccessTarget::File(path.clone()), format);
        let log = AccessLog::open(&file(Format::Text)).unwrap();
        (0..1_000).for_each(|id| write_one(&log, id));
        log.prepare(&file(Format::Json)).unwrap()();
        (0..1_000).for_each(|id| write_one(&log, id));
        log.prepare(&settings(AccessTarget::Off, Format::Json)).unwrap()();
        write_one(&log, 1_000);
        log.prepare(&file(Format::Text)).unwrap()();
        write_one(&log, 1_001);
        log.prepare(&settings(AccessTarget::Off, Format::Json)).unwrap()();
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
