//! Owns a file, the standard output or the standard error as the access log's target: lines are gathered and
//! written in one go, and each is known to be there or to be lost.

use super::{Line, Tally};
use crate::telemetry::access_log::losses::Cause;
use crate::telemetry::access_log::sample::Class;
use rustix::event::{PollFd, PollFlags, poll};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// So many bytes are gathered, and written to a file at once.
const BATCH: usize = 64 * 1024;
/// So many are written at once to what may be a pipe: it takes all of them or none (`PIPE_BUF` of Linux), so
/// that it is known of each line whether it is there, and the lines of others do not get between.
const ATOMIC: usize = 4096;

/// A file, or what is like one.
pub(super) struct Stream {
    file: File,
    /// Of a file that can be opened anew.
    path: Option<PathBuf>,
    /// Most bytes that are written at once.
    most: usize,
    /// What is to be written.
    bytes: Vec<u8>,
    /// Where in it each line ends.
    ends: VecDeque<LineEnd>,
    /// What was written last is a part of a line.
    torn: bool,
}

struct LineEnd {
    at: usize,
    class: Class,
    left_out: u64,
}

impl Stream {
    /// A file, to be appended to.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { path: Some(path.to_owned()), most: BATCH, ..Self::new(append_to(path)?) })
    }

    /// A stream that is open. It is written to without the lock that the process has for it: whoever waits
    /// for its reader may hold nobody else up.
    pub(super) fn of(stream: &impl AsFd) -> io::Result<Self> {
        Ok(Self::new(File::from(stream.as_fd().try_clone_to_owned()?)))
    }

    fn new(file: File) -> Self {
        Self { file, path: None, most: ATOMIC, bytes: Vec::new(), ends: VecDeque::new(), torn: false }
    }

    pub(super) fn take(&mut self, line: &Line, text: &str, tally: &Tally) -> io::Result<()> {
        if self.torn && self.bytes.is_empty() {
            self.bytes.push(b'\n');
        }
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(b'\n');
        self.ends.push_back(LineEnd { at: self.bytes.len(), class: line.class, left_out: line.left_out });
        if self.bytes.len() >= BATCH { self.flush(tally) } else { Ok(()) }
    }

    /// Writes what waits; what cannot be written is lost.
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
                    // A pipe that somebody else has set to be non-blocking.
                    let _ = poll(&mut [PollFd::new(&self.file, PollFlags::OUT)], None);
                }
                Err(error) => break Err(error),
            }
        };
        self.bytes.clear();
        self.ends.drain(..).for_each(|end| tally.lost(Cause::Target, end.class, end.left_out));
        result
    }

    /// What is to be written next: whole lines, if one fits.
    fn next(&self, done: usize) -> &[u8] {
        let most = self.bytes.len().min(done + self.most);
        let fitting = self.ends.partition_point(|end| end.at <= most);
        let end = fitting.checked_sub(1).map_or(most, |last| self.ends[last].at);
        &self.bytes[done..end]
    }

    /// Opens its file anew. Where that fails the old one stays in use: its lines are somewhere at least.
    pub(super) fn reopen(&mut self) {
        let Some(path) = &self.path else {
            tracing::info!("the access log is no file to be opened anew");
            return;
        };
        match append_to(path) {
            Ok(file) => {
                (self.file, self.torn) = (file, false);
                tracing::info!(path = %path.display(), "access log is opened anew");
            }
            Err(error) => tracing::error!(
                path = %path.display(), %error,
                "the access log cannot be opened anew, the file before stays in use"
            ),
        }
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}
