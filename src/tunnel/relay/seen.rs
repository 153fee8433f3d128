//! Owns what is told of a frame to those who watch a tunnel. It must not know payloads.

use crate::outcome::Side;
use crate::ws::frame::{Header, OpCode};

/// A frame, as far as its header tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Who sent it; of one of the proxy's own, who is sent it.
    pub side: Side,
    /// What it is.
    pub opcode: OpCode,
    /// It ends its message.
    pub fin: bool,
    /// Bytes of its payload, as its header announces them.
    pub length: u64,
    /// What becomes of it.
    pub course: Course,
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// It goes on to the other side.
    Passes,
    /// It ends here: it answers a Ping of the proxy's, or breaks a limit.
    Ends,
    /// It begins here: the proxy sends it.
    Begins,
}

impl Seen {
    pub(super) fn from(side: Side, header: &Header, passes: bool) -> Self {
        let course = if passes { Course::Passes } else { Course::Ends };
        Self { side, opcode: header.opcode, fin: header.fin, length: header.length, course }
    }

    pub(super) fn injected(side: Side, opcode: OpCode, payload: &[u8]) -> Self {
        Self { side, opcode, fin: true, length: payload.len() as u64, course: Course::Begins }
    }
}
