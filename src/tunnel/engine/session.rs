//! Owns one tunnel of the engine, from its opening to the report of its end.

use super::wire::Wire;
use crate::outcome::Outcome;
use crate::tunnel::join::Join;

/// What is told of the end.
pub(super) type OnEnd = Box<dyn FnOnce(Outcome) + Send>;

/// One tunnel.
pub(super) struct Session {
    pub(super) join: Join<Wire>,
    /// Taken when it is told.
    on_end: Option<OnEnd>,
}

impl Session {
    pub(super) fn new(join: Join<Wire>, on_end: OnEnd) -> Self {
        Self { join, on_end: Some(on_end) }
    }
}

impl Drop for Session {
    /// Tells of the end. Of a session that is dropped before it, which is a defect, the story so far says so.
    fn drop(&mut self) {
        if let Some(on_end) = self.on_end.take() {
            on_end(self.join.outcome());
        }
    }
}
