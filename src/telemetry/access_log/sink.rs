//! Owns the targets of the access log, which the writer thread writes to.

mod journal;
mod stream;
mod syslog;

use super::Shared;
use super::drops::DropReason;
use super::sampling::LogClass;
use crate::outcome::{Cause, EndedBy, Ending};
use crate::telemetry::report::Ended;
use crate::telemetry::{AccessTarget, Format, Settings};
use journal::Journal;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use stream::Stream;
use syslog::Syslog;

/// One line that is not formatted yet.
#[derive(Debug)]
pub(super) struct QueuedLine {
    pub(super) end: Arc<Ended>,
    pub(super) class: LogClass,
    /// How many lines of its class are missing before it.
    pub(super) left_out: u64,
}

impl QueuedLine {
    fn text(&self, format: Format) -> String {
        let Ended { report, outcome } = &*self.end;
        match format {
            Format::Json => report.json(outcome, self.left_out),
            Format::Text => report.text(outcome, self.left_out),
        }
    }
}

/// Counts the queued, written and lost lines of one target.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    shared: Arc<Shared>,
    waiting: Arc<AtomicU64>,
}

impl Tally {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, waiting: Arc::default() }
    }

    /// Counts a queued line.
    pub(super) fn enqueued(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a written line.
    pub(super) fn written(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts a lost line.
    pub(super) fn lost(&self, reason: DropReason, class: LogClass, left_out: u64) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        self.shared.drops.add(reason, 1);
        self.shared.sampler.add_missing(class, left_out);
    }

    /// Counts all queued lines as lost. Returns how many.
    pub(super) fn abandon(&self) -> u64 {
        let lines = self.waiting.load(Ordering::Relaxed);
        self.shared.drops.add(DropReason::Target, lines);
        lines
    }

    /// Logs missing lines, if that is due.
    pub(super) fn log_due(&self) {
        self.shared.drops.log_due(self.shared.since.elapsed());
    }
}

/// A target that writes lines.
pub(super) struct Sink {
    kind: Kind,
    format: Format,
    tally: Tally,
}

enum Kind {
    Stream(Stream),
    Syslog(Syslog),
    Journal(Journal),
}

impl Sink {
    /// Opens the target. `None` means that the log is off.
    pub(super) fn open(settings: &Settings, tally: Tally) -> io::Result<Option<Self>> {
        let kind = match &settings.access {
            AccessTarget::Off => return Ok(None),
            AccessTarget::Stdout => Kind::Stream(Stream::of(&io::stdout())?),
            AccessTarget::Stderr => Kind::Stream(Stream::of(&io::stderr())?),
            AccessTarget::File(path) => Kind::Stream(Stream::open(path)?),
            AccessTarget::Syslog(to) => Kind::Syslog(Syslog::new(to.clone(), settings.facility)),
            AccessTarget::Journald => Kind::Journal(Journal::connect(settings.facility)?),
        };
        Ok(Some(Self { kind, format: settings.format, tally }))
    }

    /// Writes a line, which may stay buffered until [`Self::flush`].
    pub(super) fn take(&mut self, line: &QueuedLine) -> io::Result<()> {
        let text = line.text(self.format);
        let result = match &mut self.kind {
            Kind::Stream(stream) => return stream.take(line, &text, &self.tally),
            Kind::Syslog(syslog) => syslog.send(Severity::of(&line.end.outcome.ending), &text),
            Kind::Journal(journal) => journal.send(line, &text),
        };
        match result {
            Ok(()) => self.tally.written(),
            Err(_) => self.tally.lost(DropReason::Target, line.class, line.left_out),
        }
        result
    }

    /// Writes the buffer.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        match &mut self.kind {
            Kind::Stream(stream) => stream.flush(&self.tally),
            Kind::Syslog(_) | Kind::Journal(_) => Ok(()),
        }
    }

    /// Reopens its file and logs the result.
    pub(super) fn reopen(&mut self) {
        match &mut self.kind {
            Kind::Stream(stream) => stream.reopen(),
            Kind::Syslog(_) | Kind::Journal(_) => {
                tracing::info!("the access log is not a file; there is nothing to reopen")
            }
        }
    }
}

/// The severity of an end (RFC 5424 6.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Severity {
    /// A defect of the proxy.
    Error,
    /// The operator's own systems: an upstream failed, or none was available.
    Warning,
    /// A client's connection was lost or refused. That is normal, unless there are many.
    Notice,
    /// A normal end.
    Info,
}

impl Severity {
    fn of(ending: &Ending) -> Self {
        match (ending.cause, ending.ended_by) {
            (Cause::Aborted, _) => Self::Error,
            (cause, _) if !cause.is_abnormal() => Self::Info,
            (Cause::Unreachable, _) | (_, EndedBy::Upstream) => Self::Warning,
            _ => Self::Notice,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn severity_is_by_whose_affair_it_is() {
        let of = |ended_by, cause| Severity::of(&Ending::new(ended_by, cause));
        assert_eq!(of(EndedBy::Client, Cause::Close), Severity::Info);
        assert_eq!(of(EndedBy::Upstream, Cause::Done), Severity::Info);
        assert_eq!(of(EndedBy::Proxy, Cause::Shutdown), Severity::Info);
        assert_eq!(of(EndedBy::Client, Cause::Reset), Severity::Notice);
        assert_eq!(of(EndedBy::Proxy, Cause::Refused), Severity::Notice);
        assert_eq!(of(EndedBy::Upstream, Cause::Eof), Severity::Warning);
        assert_eq!(of(EndedBy::Proxy, Cause::Unreachable), Severity::Warning);
        assert_eq!(of(EndedBy::Proxy, Cause::Aborted), Severity::Error);
    }
}
