//! Owns the targets of the access log as the thread sees them: what takes lines.

mod stream;

use super::Shared;
use super::losses::Cause;
use super::sample::Class;
use crate::telemetry::recent::End;
use crate::telemetry::{AccessTarget, Format, Settings};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use stream::Stream;

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
    stream: Stream,
    format: Format,
    tally: Tally,
}

impl Sink {
    /// Opens the target; `None`: there is none.
    pub(super) fn open(settings: &Settings, tally: Tally) -> io::Result<Option<Self>> {
        let stream = match &settings.access {
            AccessTarget::Off => return Ok(None),
            AccessTarget::Stdout => Stream::of(&io::stdout())?,
            AccessTarget::Stderr => Stream::of(&io::stderr())?,
            AccessTarget::File(path) => Stream::open(path)?,
        };
        Ok(Some(Self { stream, format: settings.format, tally }))
    }

    /// Takes a line, which may wait for [`Self::flush`].
    pub(super) fn take(&mut self, line: &Line) -> io::Result<()> {
        let text = line.text(self.format);
        self.stream.take(line, &text, &self.tally)
    }

    /// Writes what waits.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.stream.flush(&self.tally)
    }

    /// Opens its file anew, and says how that went.
    pub(super) fn reopen(&mut self) {
        self.stream.reopen();
    }
}
