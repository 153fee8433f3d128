//! Owns what follows where a peer breaks a rule or a limit: the end, or that frames are not read any more.

use super::{Output, Relay};
use crate::outcome::Side;
use crate::tunnel::counters::Counters;
use crate::tunnel::timer::Tick;
use crate::tunnel::{Blind, OnViolation};
use crate::ws::close;
use crate::ws::frame::Violation;

/// What a frame breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Breach {
    /// A rule of framing.
    Framing(Violation),
    /// The rules of Close frames.
    Close(close::Fault),
    /// `max_message_size`.
    TooBig,
}

impl<C: AsRef<Counters>> Relay<C> {
    /// Ends the tunnel for a frame that does not pass.
    pub(super) fn end_breach(&mut self, from: Side, breach: Breach, now: Tick, out: &mut impl Output) {
        match breach {
            Breach::Framing(violation) => self.end_violation(from, &violation, now, out),
            Breach::Close(fault) => self.end_bad_close(from, fault, now, out),
            Breach::TooBig => self.end_too_big(from, now, out),
        }
    }

    /// A breach of framing: in `frame`, if that was read, and in what the scanner holds and `rest`, if not.
    pub(super) fn on_violation(
        &mut self,
        from: Side,
        violation: Violation,
        frame: Option<&[u8]>,
        rest: &[u8],
        now: Tick,
        out: &mut impl Output,
    ) {
        // A tunnel whose frames are not read has no limit for messages: it is the limited who would end it.
        let closes =
            self.settings.on_violation == OnViolation::Close || self.settings.max_message_size.is_some();
        if closes && self.is_open() {
            return self.end_violation(from, &violation, now, out);
        }
        if self.is_open() {
            self.go_blind(Blind::Violation(violation), out);
        } else if let Some(held) = self.legs[from].scanner.take_held() {
            self.gather(from.other(), held.bytes(), out);
        }
        self.gather(from.other(), frame.unwrap_or_default(), out);
        self.pass(from.other(), rest, out);
    }

    /// Gives up reading frames, in both directions: without the one, Pongs could not be told apart,
    /// without the other, nothing could be injected.
    fn go_blind(&mut self, reason: Blind, out: &mut impl Output) {
        self.counters().go_blind(reason);
        for side in Side::BOTH {
            if let Some(held) = self.legs[side].scanner.take_held() {
                self.gather(side.other(), held.bytes(), out);
            }
            self.legs[side].forget_queued();
        }
    }
}
