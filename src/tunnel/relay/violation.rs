//! Owns what follows when a peer breaks a rule or a limit: the tunnel ends, or Holdline stops reading frames.

use super::{Output, Relay};
use crate::outcome::Side;
use crate::tunnel::counters::Counters;
use crate::tunnel::timer::TunnelTime;
use crate::tunnel::{Blind, OnViolation};
use crate::ws::close;
use crate::ws::frame::Violation;

/// What a frame breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Breach {
    /// A rule of framing.
    Framing(Violation),
    /// The rules of Close frames.
    Close(close::InvalidClose),
    /// `max_message_size`.
    TooBig,
}

impl<C: AsRef<Counters>> Relay<C> {
    /// Ends the tunnel because of a frame that may not pass.
    pub(super) fn end_breach(&mut self, from: Side, breach: Breach, now: TunnelTime, out: &mut impl Output) {
        match breach {
            Breach::Framing(violation) => self.end_violation(from, &violation, now, out),
            Breach::Close(fault) => self.end_bad_close(from, fault, now, out),
            Breach::TooBig => self.end_too_big(from, now, out),
        }
    }

    /// Handles a breach of framing. `frame` holds the offending frame, if the scanner took it. Otherwise the frame is
    /// in what the scanner holds, and in `rest`.
    pub(super) fn on_violation(
        &mut self,
        from: Side,
        violation: Violation,
        frame: Option<&[u8]>,
        rest: &[u8],
        now: TunnelTime,
        out: &mut impl Output,
    ) {
        // Without reading frames Holdline cannot limit messages, so a peer could end the limit by a breach.
        let closes =
            self.settings.on_violation == OnViolation::Close || self.settings.max_message_size.is_some();
        if closes && self.is_open() {
            return self.end_violation(from, &violation, now, out);
        }
        if self.is_open() {
            self.go_blind(Blind::Violation(violation), out);
        } else if let Some(held) = self.sides[from].scanner.take_held() {
            self.gather(from.other(), held.bytes(), out);
        }
        self.gather(from.other(), frame.unwrap_or_default(), out);
        self.forward(from.other(), rest, out);
    }

    /// Stops reading frames in both directions. Injecting into one direction needs its frame boundaries, and the
    /// Pongs of the other.
    fn go_blind(&mut self, reason: Blind, out: &mut impl Output) {
        self.counters().go_blind(reason);
        for side in Side::BOTH {
            if let Some(held) = self.sides[side].scanner.take_held() {
                self.gather(side.other(), held.bytes(), out);
            }
            self.sides[side].clear_queue();
        }
    }
}
