//! Owns one tunnel of a worker: its session, and the observer who learns about its end.

use super::detached_stream::DetachedStream;
use crate::tunnel::Observer;
use crate::tunnel::session::Session;

/// One tunnel of a worker.
pub(super) struct Entry {
    pub(super) session: Session<DetachedStream>,
    /// `None` means that the end was reported.
    observer: Option<Box<dyn Observer>>,
}

impl Entry {
    pub(super) fn new(session: Session<DetachedStream>, observer: Box<dyn Observer>) -> Self {
        Self { session, observer: Some(observer) }
    }

    /// Reports the bad Pongs that the last turn found.
    pub(super) fn report_bad_pongs(&mut self) {
        while let Some(bad_pong) = self.session.take_bad_pong() {
            if let Some(observer) = &self.observer {
                observer.report_bad_pong(bad_pong);
            }
        }
    }
}

impl Drop for Entry {
    /// Reports the end. If the tunnel has not ended, its outcome is [`Cause::Aborted`](crate::outcome::Cause::Aborted).
    fn drop(&mut self) {
        if let Some(observer) = self.observer.take() {
            observer.ended(self.session.outcome());
        }
    }
}
