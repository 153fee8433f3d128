//! Owns the targets of the access log as the thread sees them: what takes lines.

mod journal;
mod stream;
mod syslog;

use super::Shared;
use super::losses::Cause;
use super::sample::Class;
use crate::outcome::{Ending, Who, Why};
use crate::telemetry::recent::End;
use crate::telemetry::{AccessTarget, Format, Settings};
use journal::Journal;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use stream::Stream;
use syslog::Syslog;

/// One line, not yet a text.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) end: End,
    pub(super) class: Class,
    /// Lines of its class that are missing before it.
    pub(super) left_out: u64,
}

impl Line {
    fn text(&self, format: Format) -> String {
        let (report, outcome) = &*self.end;
        match format {
            Format::Json => report.json(outcome, self.left_out),
            Format::Text => report.text(outcome, self.left_out),
        }
    }
}

/// Lines on their way to one target, and what became of them.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    shared: Arc<Shared>,
    waiting: Arc<AtomicU64>,
}

impl Tally {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, waiting: Arc::default() }
    }

    /// One more is on its way.
    pub(super) fn given(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// One is where it was to go.
    pub(super) fn written(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// One is not going to be there.
    pub(super) fn lost(&self, cause: Cause, class: Class, left_out: u64) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        self.shared.losses.add(cause, 1);
        self.shared.sampler.is_missing(class, left_out);
    }

    /// What is on its way is given up. How many lines that are.
    pub(super) fn give_up(&self) -> u64 {
        let lines = self.waiting.load(Ordering::Relaxed);
        self.shared.losses.add(Cause::Target, lines);
        lines
    }

    /// Says what is missing, if it is time.
    pub(super) fn tell(&self) {
        self.shared.losses.tell(self.shared.since.elapsed());
    }
}

/// What takes lines.
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
    /// Opens the target; `None`: there is none.
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

    /// Takes a line, which may wait for [`Self::flush`].
    pub(super) fn take(&mut self, line: &Line) -> io::Result<()> {
        let text = line.text(self.format);
        let result = match &mut self.kind {
            Kind::Stream(stream) => return stream.take(line, &text, &self.tally),
            Kind::Syslog(syslog) => syslog.send(Severity::of(&line.end.1.ending), &text),
            Kind::Journal(journal) => journal.send(line, &text),
        };
        match result {
            Ok(()) => self.tally.written(),
            Err(_) => self.tally.lost(Cause::Target, line.class, line.left_out),
        }
        result
    }

    /// Writes what waits.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        match &mut self.kind {
            Kind::Stream(stream) => stream.flush(&self.tally),
            Kind::Syslog(_) | Kind::Journal(_) => Ok(()),
        }
    }

    /// Opens its file anew, and says how that went.
    pub(super) fn reopen(&mut self) {
        match &mut self.kind {
            Kind::Stream(stream) => stream.reopen(),
            Kind::Syslog(_) | Kind::Journal(_) => {
                tracing::info!("the access log is no file to be opened anew")
            }
        }
    }
}

/// How much an end asks for somebody's attention (RFC 5424 6.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Severity {
    /// A defect of the proxy.
    Error,
    /// Something of the operator's own: an upstream failed, or there was none.
    Warning,
    /// Somebody's connection was lost or refused, as happens every day; many are news.
    Notice,
    /// As it should be.
    Info,
}

impl Severity {
    fn of(ending: &Ending) -> Self {
        match (ending.why, ending.who) {
            (Why::Aborted, _) => Self::Error,
            (why, _) if !why.is_abnormal() => Self::Info,
            (Why::Unreachable, _) | (_, Who::Upstream) => Self::Warning,
            _ => Self::Notice,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn severity_is_by_whose_affair_it_is() {
        let of = |who, why| Severity::of(&Ending::new(who, why));
        assert_eq!(of(Who::Client, Why::Close), Severity::Info);
        assert_eq!(of(Who::Upstream, Why::Done), Severity::Info);
        assert_eq!(of(Who::Proxy, Why::Shutdown), Severity::Info);
        assert_eq!(of(Who::Client, Why::Reset), Severity::Notice);
        assert_eq!(of(Who::Proxy, Why::Refused), Severity::Notice);
        assert_eq!(of(Who::Upstream, Why::Eof), Severity::Warning);
        assert_eq!(of(Who::Proxy, Why::Unreachable), Severity::Warning);
        assert_eq!(of(Who::Proxy, Why::Aborted), Severity::Error);
    }
}
