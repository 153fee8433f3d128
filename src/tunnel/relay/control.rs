//! Owns what control frames of the peers mean to a tunnel: whose a Pong is, and how a side answers Pings.

use super::keepalive::Owner;
use super::violation::Breach;
use super::{Course, Output, Relay};
use crate::outcome::{Ending, Side, Why};
use crate::tunnel::OnViolation;
use crate::tunnel::counters::Counters;
use crate::tunnel::timer::Tick;
use crate::ws::close::{self, CloseReason};
use crate::ws::frame::{Header, MAX_CONTROL_PAYLOAD, OpCode, Violation};
use std::fmt;

/// A side that answers the proxy's Pings otherwise than RFC 6455 5.5.3 asks. Its answers go no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadAnswer {
    /// Who.
    pub side: Side,
    /// How.
    pub fault: Fault,
}

/// What is wrong with an answer to a Ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It breaks a rule of framing.
    Framing(Violation),
    /// It is a Pong with another payload than the Ping had.
    Payload,
    /// It is the Ping itself.
    Echo,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Framing(violation) => violation.fmt(f),
            Self::Payload => f.write_str("another payload than the ping had"),
            Self::Echo => f.write_str("the ping itself, sent back"),
        }
    }
}

impl<C: AsRef<Counters>> Relay<C> {
    /// A control frame came, whole; what becomes of it.
    pub(super) fn on_control(
        &mut self,
        from: Side,
        header: &Header,
        wire: &[u8],
        now: Tick,
        out: &mut impl Output,
    ) -> Result<Course, Breach> {
        let (mut scratch, to) = ([0; MAX_CONTROL_PAYLOAD], from.other());
        let payload = unmasked(header, wire, &mut scratch);
        let was_bad = self.legs[from].keepalive.answers_badly();
        self.move_forward();
        match header.opcode {
            OpCode::Ping => {
                if let Some(owner) = self.legs[from].keepalive.echo(payload) {
                    return Ok(self.on_answer(from, (owner, Fault::Echo), was_bad, now, out));
                }
                if !self.legs[to].sealed {
                    self.legs[to].keepalive.foreign_ping(payload, now);
                }
            }
            OpCode::Pong => {
                let goes_on = self.legs[from].scanner.take_unfinished_pong();
                let owner = self.legs[from].keepalive.pong(payload, goes_on);
                return Ok(self.on_answer(from, (owner, Fault::Payload), was_bad, now, out));
            }
            OpCode::Close => return self.on_close(from, payload, now),
            _ => {}
        }
        Ok(Course::Passes)
    }

    /// A Pong that breaks a rule came, or a piece of one. It is never passed on while it may be an answer
    /// to a Ping of the proxy's: a strict peer would fail the connection.
    pub(super) fn on_bad_pong(
        &mut self,
        from: Side,
        header: &Header,
        violation: Violation,
        wire: &[u8],
        now: Tick,
        out: &mut impl Output,
    ) -> Result<Course, Breach> {
        self.move_forward();
        if header.opcode == OpCode::Continuation {
            return Ok(Course::Ends);
        }
        let mut scratch = [0; MAX_CONTROL_PAYLOAD];
        let payload = unmasked(header, wire, &mut scratch);
        let was_bad = self.legs[from].keepalive.answers_badly();
        match self.legs[from].keepalive.bad_pong(payload) {
            Some(owner) => Ok(self.on_answer(from, (owner, Fault::Framing(violation)), was_bad, now, out)),
            None => Err(Breach::Framing(violation)),
        }
    }

    fn on_answer(
        &mut self,
        from: Side,
        (owner, fault): (Owner, Fault),
        was_bad: bool,
        now: Tick,
        out: &mut impl Output,
    ) -> Course {
        if !was_bad && self.legs[from].keepalive.answers_badly() {
            out.answered_badly(BadAnswer { side: from, fault });
        }
        match owner {
            Owner::Peer => Course::Passes,
            Owner::Given => Course::Ends,
            Owner::Proxy { sent, missing } => {
                if let Some(sent) = sent {
                    self.counters().pong(from, sent, now);
                }
                // Here is a frame boundary towards the other side: it goes out with the queue.
                self.legs[from.other()].keepalive.queued_pong |= missing;
                Course::Ends
            }
        }
    }

    fn on_close(&mut self, from: Side, payload: &[u8], now: Tick) -> Result<Course, Breach> {
        let to = from.other();
        self.legs[from].closed = true;
        let fault = close::check(payload).err();
        if let Some(fault) = fault
            && self.settings.on_violation == OnViolation::Close
            && self.is_open()
        {
            return Err(Breach::Close(fault));
        }
        if !self.legs[to].sealed {
            self.legs[to].told = true;
            self.legs[to].forget_queued();
        }
        let CloseReason { code, text } = CloseReason::parse(payload);
        // What was sent is told, whether it may be sent or not.
        let code = (payload.len() >= 2).then_some(code);
        let reason = match fault {
            Some(fault @ close::Fault::OneByte) => fault.to_string().into(),
            _ => text,
        };
        self.decide(Ending { who: from.into(), why: Why::Close, code, reason }, now);
        Ok(Course::Passes)
    }
}

/// The payload of a control frame, of which `wire` are all bytes. Of a longer one there is none.
fn unmasked<'a>(header: &Header, wire: &[u8], scratch: &'a mut [u8; MAX_CONTROL_PAYLOAD]) -> &'a [u8] {
    let length = usize::try_from(header.length).unwrap_or(usize::MAX);
    let Some(payload) = scratch.get_mut(..length) else { return &[] };
    payload.copy_from_slice(&wire[wire.len() - length..]);
    if let Some(key) = header.mask {
        key.apply(payload);
    }
    payload
}
