//! Owns what inspectors of a tunnel learn about a frame. It must not know payloads.

use crate::outcome::Side;
use crate::ws::frame::{Header, OpCode};

/// A frame, as described by its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameEvent {
    /// The side that sent the frame. For an injected frame, the side that receives it.
    pub side: Side,
    /// The opcode.
    pub opcode: OpCode,
    /// Whether this is the last frame of its message.
    pub fin: bool,
    /// The payload length that the header announces, in bytes.
    pub length: u64,
    /// What the relay does with the frame.
    pub disposition: Disposition,
}

/// What the relay does with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// The relay forwards it to the other side.
    Forwarded,
    /// The relay keeps it: it answers one of Holdline's Pings, or breaks a limit.
    Consumed,
    /// Holdline sends it.
    Injected,
}

impl FrameEvent {
    pub(super) fn received(side: Side, header: &Header, is_forwarded: bool) -> Self {
        let disposition = if is_forwarded { Disposition::Forwarded } else { Disposition::Consumed };
        Self { side, opcode: header.opcode, fin: header.fin, length: header.length, disposition }
    }

    pub(super) fn injected(side: Side, opcode: OpCode, payload: &[u8]) -> Self {
        let length = payload.len() as u64;
        Self { side, opcode, fin: true, length, disposition: Disposition::Injected }
    }
}
