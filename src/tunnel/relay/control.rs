//! Owns how the relay handles control frames of the peers: which Ping a Pong answers, and what a Close ends.

use super::keepalive::Owner;
use super::violation::Breach;
use super::{Disposition, Output, Relay};
use crate::outcome::{Cause, Ending, Side};
use crate::tunnel::OnViolation;
use crate::tunnel::counters::Counters;
use crate::tunnel::timer::TunnelTime;
use crate::ws::close::{self, CloseReason};
use crate::ws::frame::{Header, MAX_CONTROL_PAYLOAD, OpCode, Violation};
use std::fmt;

/// A side that answers Holdline's Pings against RFC 6455 5.5.3. Its answers are not forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadPong {
    /// The side.
    pub side: Side,
    /// What is wrong with its answers.
    pub fault: PongFault,
}

/// What is wrong with an answer to a Ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PongFault {
    /// It breaks a rule of framing.
    Framing(Violation),
    /// The Pong has another payload than the Ping.
    Payload,
    /// The side sent the Ping itself back.
    Echo,
}

impl fmt::Display for PongFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Framing(violation) => violation.fmt(f),
            Self::Payload => f.write_str("another payload than the ping had"),
            Self::Echo => f.write_str("the ping itself, sent back"),
        }
    }
}

impl<C: AsRef<Counters>> Relay<C> {
    /// Handles a whole control frame.
    pub(super) fn on_control(
        &mut self,
        from: Side,
        header: &Header,
        wire: &[u8],
        now: TunnelTime,
        out: &mut impl Output,
    ) -> Result<Disposition, Breach> {
        let (mut scratch, to) = ([0; MAX_CONTROL_PAYLOAD], from.other());
        let payload = unmasked(header, wire, &mut scratch);
        let was_bad = self.sides[from].keepalive.answers_badly();
        self.mark_earlier_deadline();
        match header.opcode {
            OpCode::Ping => {
                if let Some(owner) = self.sides[from].keepalive.echo(payload) {
                    return Ok(self.on_answer(from, (owner, PongFault::Echo), was_bad, now, out));
                }
                if self.sides[to].takes_frames() {
                    self.sides[to].keepalive.on_peer_ping(payload, now);
                }
            }
            OpCode::Pong => {
                let goes_on = self.sides[from].scanner.take_unfinished_pong();
                let owner = self.sides[from].keepalive.pong(payload, goes_on);
                return Ok(self.on_answer(from, (owner, PongFault::Payload), was_bad, now, out));
            }
            OpCode::Close => return self.on_close(from, payload, now),
            _ => {}
        }
        Ok(Disposition::Forwarded)
    }

    /// Handles a Pong that breaks a rule, or a piece of one. While it may answer one of Holdline's Pings, it is not
    /// forwarded, because a strict peer would fail the connection.
    pub(super) fn on_bad_pong(
        &mut self,
        from: Side,
        header: &Header,
        violation: Violation,
        wire: &[u8],
        now: TunnelTime,
        out: &mut impl Output,
    ) -> Result<Disposition, Breach> {
        self.mark_earlier_deadline();
        if header.opcode == OpCode::Continuation {
            return Ok(Disposition::Consumed);
        }
        let mut scratch = [0; MAX_CONTROL_PAYLOAD];
        let payload = unmasked(header, wire, &mut scratch);
        let was_bad = self.sides[from].keepalive.answers_badly();
        match self.sides[from].keepalive.bad_pong(payload) {
            Some(owner) => {
                Ok(self.on_answer(from, (owner, PongFault::Framing(violation)), was_bad, now, out))
            }
            None => Err(Breach::Framing(violation)),
        }
    }

    fn on_answer(
        &mut self,
        from: Side,
        (owner, fault): (Owner, PongFault),
        was_bad: bool,
        now: TunnelTime,
        out: &mut impl Output,
    ) -> Disposition {
        if !was_bad && self.sides[from].keepalive.answers_badly() {
            out.report_bad_pong(BadPong { side: from, fault });
        }
        match owner {
            Owner::Peer => Disposition::Forwarded,
            Owner::Given => Disposition::Consumed,
            Owner::Proxy { sent, missing } => {
                if let Some(sent) = sent {
                    self.counters().pong(from, sent, now);
                }
                // This is a frame boundary towards the other side, so the Pong goes out with its queue.
                self.sides[from.other()].keepalive.queued_pong |= missing;
                Disposition::Consumed
            }
        }
    }

    fn on_close(&mut self, from: Side, payload: &[u8], now: TunnelTime) -> Result<Disposition, Breach> {
        let to = from.other();
        self.sides[from].see_close();
        let fault = close::check(payload).err();
        if let Some(fault) = fault
            && self.settings.on_violation == OnViolation::Close
            && self.is_open()
        {
            return Err(Breach::Close(fault));
        }
        self.sides[to].forward_close();
        let CloseReason { code, text } = CloseReason::parse(payload);
        // The report shows the code that was sent, even one that may not be sent.
        let code = (payload.len() >= 2).then_some(code);
        let reason = match fault {
            Some(fault @ close::InvalidClose::OneByte) => fault.to_string().into(),
            _ => text,
        };
        self.decide(Ending { ended_by: from.into(), cause: Cause::Close, code, reason }, now);
        Ok(Disposition::Forwarded)
    }
}

/// The payload of a control frame whose bytes are `wire`. Empty if it is longer than the limit.
fn unmasked<'a>(header: &Header, wire: &[u8], scratch: &'a mut [u8; MAX_CONTROL_PAYLOAD]) -> &'a [u8] {
    let length = usize::try_from(header.length).unwrap_or(usize::MAX);
    let Some(payload) = scratch.get_mut(..length) else { return &[] };
    payload.copy_from_slice(&wire[wire.len() - length..]);
    if let Some(key) = header.mask {
        key.apply(payload);
    }
    payload
}
