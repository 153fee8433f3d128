//! Owns one tunnel of the engine, from its opening to the report of its end.

use super::wire::Wire;
use crate::tunnel::Observer;
use crate::tunnel::join::Join;

/// One tunnel.
pub(super) struct Session {
    pub(super) join: Join<Wire>,
    /// Taken when it is told of the end.
    observer: Option<Box<dyn Observer>>,
}

impl Session {
    pub(super) fn new(join: Join<Wire>, observer: Box<dyn Observer>) -> Self {
        Self { join, observer: Some(observer) }
    }

    /// Passes on what the last turn has found of how the sides answer Pings.
    pub(super) fn tell_of_answers(&mut self) {
        while let Some(how) = self.join.take_bad_answer() {
            if let Some(observer) = &self.observer {
                observer.answered_badly(how);
            }
        }
    }
}

impl Drop for Session {
    /// Tells of the end. Of a session that is dropped before it, which is a defect, the story so far says so.
    fn drop(&mut self) {
        if let Some(observer) = self.observer.take() {
            observer.ended(self.join.outcome());
        }
    }
}
