//! Owns the life of a tunnel as a state machine: which bytes pass, where a Ping fits, whose a Pong
//! is, how it ends. It must not know sockets or clocks: bytes and the time are handed in, bytes to
//! send are handed out, and the same machine serves every driver, test and fuzz target.

mod ending;
mod inject;
mod keepalive;
mod seen;
mod timing;

use super::counters::Counters;
use super::timer::Tick;
use super::{Blind, Framing, OnViolation, Settings};
use crate::outcome::{Ending, PerSide, Side, Why};
use crate::ws::close::{CloseCode, CloseReason};
use crate::ws::frame::{Header, MAX_CONTROL_PAYLOAD, OpCode, Violation};
use crate::ws::scanner::{Event, Found, Rules, Scanner};
use keepalive::{Keepalive, Owner};
pub use seen::{Course, Seen};
use std::sync::Arc;

/// Where the relay's bytes go.
pub trait Output {
    /// `bytes` are to reach `to`, in order, behind everything sent to it before.
    fn send(&mut self, to: Side, bytes: &[u8]);

    /// A frame was read or is sent. Whoever does not watch pays nothing for it.
    fn see(&mut self, _: Seen) {}
}

/// A tunnel without its sockets. It counts in what `C` leads to.
#[derive(Debug)]
pub struct Relay<C = Arc<Counters>> {
    settings: Arc<Settings>,
    legs: PerSide<Leg>,
    counters: C,
    /// Nearly always none: one word for both.
    closing: Option<Box<Closing>>,
}

/// What brings a tunnel to its end.
#[derive(Debug, Default)]
struct Closing {
    /// Set when the end is decided; the first sign of it wins.
    end: Option<End>,
    order: Option<Order>,
}

/// An order of the operator to close.
#[derive(Clone, Debug)]
pub struct Order {
    /// When.
    pub at: Tick,
    /// One of [`Why::Drain`], [`Why::Shutdown`], [`Why::EndpointRemoved`], [`Why::Operator`].
    pub why: Why,
    /// What the peers are told; `None`: what goes with the cause.
    pub words: Option<Box<CloseReason>>,
}

#[derive(Debug)]
struct End {
    ending: Ending,
    at: Tick,
    idle: PerSide<std::time::Duration>,
}

/// One side, as the source of what it sends and as the destination of what it is sent.
#[derive(Debug)]
struct Leg {
    scanner: Scanner,
    keepalive: Keepalive,
    /// When this side last took some of the bytes that wait for it, or all of them; or the end of
    /// a stall, in which it may have done so.
    took: Tick,
    /// What goes to this side at the next frame boundary.
    queued_close: Option<CloseCode>,
    /// The Pong that the other side's [`Keepalive`] has found to be missing.
    queued_pong: bool,
    queued_ping: bool,
    /// Bytes wait for this side that it does not take.
    blocked: bool,
    /// A data frame *from* this side has passed in part.
    mid_frame: bool,
    /// This side has sent a Close frame.
    closed: bool,
    /// A Close frame was sent to this side: nothing may be injected behind it.
    told: bool,
    /// It was the proxy's: nothing of the other side may follow.
    sealed: bool,
    /// This side's stream has ended.
    eof: bool,
    /// Nothing can be exchanged with this side any more.
    dead: bool,
    /// Something happened that may have moved a timer forward: see [`Relay::has_moved_forward`].
    moved_forward: bool,
}

impl Leg {
    fn new(rules: Rules) -> Self {
        Self {
            scanner: Scanner::new(rules),
            keepalive: Keepalive::new(rand::random()),
            took: Tick::ZERO,
            queued_close: None,
            queued_pong: false,
            queued_ping: false,
            blocked: false,
            mid_frame: false,
            closed: false,
            told: false,
            sealed: false,
            eof: false,
            dead: false,
            moved_forward: false,
        }
    }
}

impl Relay {
    /// A tunnel that has just opened, at [`Tick::ZERO`].
    #[must_use]
    pub fn new(settings: Arc<Settings>, framing: Framing) -> Self {
        Self::counting(settings, framing, Arc::default())
    }
}

impl<C: AsRef<Counters>> Relay<C> {
    /// One that has just opened, counting where others can read it. No other tunnel may count there.
    #[must_use]
    pub fn counting(settings: Arc<Settings>, framing: Framing, counters: C) -> Self {
        let deflate = match framing {
            Framing::WebSocket { deflate } => deflate,
            Framing::Blind(reason) => {
                counters.as_ref().go_blind(reason);
                false
            }
        };
        let legs = PerSide {
            client: Leg::new(Rules { masked: true, deflate }),
            upstream: Leg::new(Rules { masked: false, deflate }),
        };
        Self { settings, legs, counters, closing: None }
    }

    /// What leads to its counters.
    pub(super) fn counting_in(&self) -> &C {
        &self.counters
    }

    fn counters(&self) -> &Counters {
        self.counters.as_ref()
    }

    /// The end is not decided.
    fn is_open(&self) -> bool {
        self.end().is_none()
    }

    fn end(&self) -> Option<&End> {
        self.closing.as_ref().and_then(|closing| closing.end.as_ref())
    }

    fn standing_order(&self) -> Option<&Order> {
        self.closing.as_ref().and_then(|closing| closing.order.as_ref())
    }

    /// New settings of the route, from a reload.
    pub fn set_settings(&mut self, settings: Arc<Settings>) {
        self.settings = settings;
        self.move_forward();
    }

    /// Takes the operator's order to close; an earlier moment replaces a later one.
    pub fn order(&mut self, order: Order) {
        if self.standing_order().is_none_or(|standing| order.at < standing.at) {
            self.closing.get_or_insert_default().order = Some(order);
            self.move_forward();
        }
    }

    /// Bytes arrived from a side.
    pub fn on_bytes(&mut self, from: Side, input: &[u8], now: Tick, out: &mut impl Output) {
        self.on_arrival(from, now);
        self.counters().received(from, input.len());
        if self.is_blind() { self.pass(from.other(), input, out) } else { self.scan(from, input, now, out) }
    }

    /// Reads the frames of `input`. What passes unchanged passes in one piece: `run` is where the
    /// piece begins that is to be sent next.
    fn scan(&mut self, from: Side, input: &[u8], now: Tick, out: &mut impl Output) {
        let to = from.other();
        let (mut run, mut at) = (0, 0);
        loop {
            let event = match self.legs[from].scanner.next(&input[at..]) {
                Ok(Some(event)) => event,
                Ok(None) => {
                    // The rest is held back by the scanner, or there is none.
                    return self.pass(to, &input[run..at], out);
                }
                Err(violation) => {
                    self.pass(to, &input[run..at], out);
                    return self.on_violation(from, violation, &input[at..], now, out);
                }
            };
            let start = at;
            at += event.taken;
            if event.is_contiguous() && self.passes_unjudged(from, &event, out) {
                continue;
            }
            self.pass(to, &input[run..start], out);
            run = at;
            if self.admit(from, &event, &input[start..], now, out) {
                if event.is_contiguous() {
                    run = start;
                } else {
                    self.pass(to, event.bytes(&input[start..]), out);
                }
            }
            if !self.legs[from].mid_frame && self.has_queued(to) {
                self.pass(to, &input[run..at], out);
                run = at;
                self.inject_queued(to, now, out);
            }
        }
    }

    /// The short way of most frames: data within the limits, with nothing waiting to be injected.
    fn passes_unjudged(&mut self, from: Side, event: &Event, out: &mut impl Output) -> bool {
        if self.has_queued(from.other()) {
            return false;
        }
        match &event.found {
            Found::Data(header) if !self.too_big(from) => {
                out.see(Seen::from(from, header, true));
                self.on_data(from, header);
                true
            }
            Found::Payload { ends_frame, ends_message } => {
                self.on_payload(from, *ends_frame, *ends_message);
                true
            }
            _ => false,
        }
    }

    /// Takes note of an event; whether its bytes pass.
    fn admit(&mut self, from: Side, event: &Event, input: &[u8], now: Tick, out: &mut impl Output) -> bool {
        match &event.found {
            Found::Data(header) if self.too_big(from) => {
                out.see(Seen::from(from, header, false));
                self.end_too_big(from, now, out);
                false
            }
            Found::Data(header) => {
                out.see(Seen::from(from, header, true));
                self.on_data(from, header);
                true
            }
            Found::Payload { ends_frame, ends_message } => {
                self.on_payload(from, *ends_frame, *ends_message);
                true
            }
            Found::Control(header) => {
                let (mut scratch, wire) = ([0; MAX_CONTROL_PAYLOAD], event.bytes(input));
                let payload = &mut scratch[..header.length as usize];
                payload.copy_from_slice(&wire[wire.len() - payload.len()..]);
                if let Some(key) = header.mask {
                    key.apply(payload);
                }
                let passes = self.on_control(from, header.opcode, payload, now);
                out.see(Seen::from(from, header, passes));
                passes
            }
        }
    }

    fn too_big(&self, from: Side) -> bool {
        let size = self.legs[from].scanner.message_size();
        self.is_open() && self.settings.max_message_size.is_some_and(|max| size > max)
    }

    fn on_data(&mut self, from: Side, header: &Header) {
        let leg = &mut self.legs[from];
        leg.mid_frame = header.length > 0;
        if header.length == 0 && header.fin {
            self.counters().message(from);
        }
    }

    fn on_payload(&mut self, from: Side, ends_frame: bool, ends_message: bool) {
        let leg = &mut self.legs[from];
        leg.mid_frame = !ends_frame;
        if ends_message && self.is_open() {
            self.counters().message(from);
        }
    }

    /// A control frame came, whole; whether it passes.
    fn on_control(&mut self, from: Side, opcode: OpCode, payload: &[u8], now: Tick) -> bool {
        let to = from.other();
        self.move_forward();
        match opcode {
            OpCode::Ping if !self.legs[to].sealed => self.legs[to].keepalive.foreign_ping(payload, now),
            OpCode::Pong => return self.on_pong(from, payload, now),
            OpCode::Close => {
                self.legs[from].closed = true;
                if !self.legs[to].sealed {
                    self.legs[to].told = true;
                    self.legs[to].forget_queued();
                }
                let CloseReason { code, text } = CloseReason::parse(payload);
                let code = (code != CloseCode::NO_STATUS).then_some(code);
                self.decide(Ending { who: from.into(), why: Why::Close, code, reason: text }, now);
            }
            _ => {}
        }
        true
    }

    fn on_pong(&mut self, from: Side, payload: &[u8], now: Tick) -> bool {
        let leg = &mut self.legs[from];
        match leg.keepalive.pong(payload) {
            Owner::Peer => true,
            Owner::Given => false,
            Owner::Proxy { sent, missing } => {
                if let Some(sent) = sent {
                    self.counters().pong(from, sent, now);
                }
                // Here is a frame boundary towards the other side: it goes out with the queue.
                self.legs[from.other()].queued_pong = missing;
                false
            }
        }
    }

    fn on_violation(
        &mut self,
        from: Side,
        violation: Violation,
        rest: &[u8],
        now: Tick,
        out: &mut impl Output,
    ) {
        if self.settings.on_violation == OnViolation::Close && self.is_open() {
            return self.end_violation(from, violation, now, out);
        }
        if self.is_open() {
            self.go_blind(Blind::Violation(violation), out);
        } else if let Some(held) = self.legs[from].scanner.take_held() {
            self.pass(from.other(), held.bytes(), out);
        }
        self.pass(from.other(), rest, out);
    }

    /// Gives up reading frames, in both directions: without the one, Pongs could not be told apart,
    /// without the other, nothing could be injected.
    fn go_blind(&mut self, reason: Blind, out: &mut impl Output) {
        self.counters().go_blind(reason);
        for side in Side::BOTH {
            if let Some(held) = self.legs[side].scanner.take_held() {
                self.pass(side.other(), held.bytes(), out);
            }
            self.legs[side].forget_queued();
        }
    }

    /// Sends what passes, unless the proxy has closed this side already.
    fn pass(&self, to: Side, bytes: &[u8], out: &mut impl Output) {
        let leg = &self.legs[to];
        if !bytes.is_empty() && !leg.sealed && !leg.dead {
            out.send(to, bytes);
        }
    }

    fn is_blind(&self) -> bool {
        self.counters().is_blind()
    }
}

#[cfg(test)]
mod tests;
