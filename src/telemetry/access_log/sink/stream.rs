//! Owns a file, standard output or standard error as the access log's target. It writes lines in batches, and
//! knows of each line whether it was written or lost.

use super::{QueuedLine, Tally};
use crate::telemetry::access_log::drops::DropReason;
use crate::telemetry::access_log::sampling::LogClass;
use rustix::event::{PollFd, PollFlags, poll};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// Bytes that it collects and writes to a file at once.
const BATCH: usize = 64 * 1024;
/// Bytes that it writes at once to a possible pipe. A pipe accepts all or none of them (`PIPE_BUF` of Linux),
/// so that no line is cut or mixed with others' lines.
const ATOMIC: usize = 4096;

/// A file or an open stream.
pub(super) struct Stream {
    file: File,
    /// The path of a file that can be reopened.
    path: Option<PathBuf>,
    /// Maximum bytes of one write.
    most: usize,
    /// Bytes to write.
    bytes: Vec<u8>,
    /// The end of each line in the buffer.
    ends: VecDeque<LineEnd>,
    /// Whether the last write ended within a line.
    torn: bool,
}

struct LineEnd {
    at: usize,
    class: LogClass,
    left_out: u64,
}

impl Stream {
    /// Opens a file for appending.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { path: Some(path.to_owned()), most: BATCH, ..Self::new(append_to(path)?) })
    }

    /// Wraps an open stream. It bypasses the process-wide lock, so that a slow reader blocks nobody else.
    pub(super) fn of(stream: &impl AsFd) -> io::Result<Self> {
        Ok(Self::new(File::from(stream.as_fd().try_clone_to_owned()?)))
    }

    fn new(file: File) -> Self {
        Self { file, path: None, most: ATOMIC, bytes: Vec::new(), ends: VecDeque::new(), torn: false }
    }

    pub(super) fn take(&mut self, line: &QueuedLine, text: &str, tally: &Tally) -> io::Result<()> {
        if self.torn && self.bytes.is_empty() {
            self.bytes.push(b'\n');
        }
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(b'\n');
        self.ends.push_back(LineEnd { at: self.bytes.len(), class: line.class, left_out: line.left_out });
        if self.bytes.len() >= BATCH { self.flush(tally) } else { Ok(()) }
    }

    /// Writes the buffer. Lines that it cannot write are lost.
    pub(super) fn flush(&mut self, tally: &Tally) -> io::Result<()> {
        let mut done = 0;
        let result = loop {
            if done == self.bytes.len() {
                break Ok(());
            }
            match (&self.file).write(self.next(done)) {
                Ok(0) => break Err(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    done += written;
                    self.torn = self.bytes[done - 1] != b'\n';
                    while self.ends.front().is_some_and(|end| end.at <= done) {
                        self.ends.pop_front();
                        tally.written();
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    // Another process has made the pipe non-blocking.
                    let _ = poll(&mut [PollFd::new(&self.file, PollFlags::OUT)], None);
                }
                Err(error) => break Err(error),
            }
        };
        self.bytes.clear();
        self.ends.drain(..).for_each(|end| tally.lost(DropReason::Target, end.class, end.left_out));
        result
    }

    /// Returns the next bytes to write: whole lines, if one fits.
    fn next(&self, done: usize) -> &[u8] {
        let most = self.bytes.len().min(done + self.most);
        let fitting = self.ends.partition_point(|end| end.at <= most);
        let end = fitting.checked_sub(1).map_or(most, |last| self.ends[last].at);
        &self.bytes[done..end]
    }

    /// Reopens its file. If that fails, the old one stays in use, so that its lines are not lost.
    pub(super) fn reopen(&mut self) {
        let Some(path) = &self.path else {
            tracing::info!("the access log is not a file; there is nothing to reopen");
            return;
        };
        match append_to(path) {
            Ok(file) => {
                (self.file, self.torn) = (file, false);
                tracing::info!(path = %path.display(), "access log reopened");
            }
            Err(error) => tracing::error!(
                path = %path.display(), %error,
                "cannot reopen the access log; the old file stays in use"
            ),
        }
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}
