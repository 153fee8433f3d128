//! Owns the life of a tunnel as a state machine: which bytes pass, where a Ping fits, whose a Pong
//! is, how it ends. It must not know sockets or clocks: bytes and the time are handed in, bytes to
//! send are handed out, and the same machine serves every driver, test and fuzz target.

mod control;
mod ending;
mod inject;
mod keepalive;
mod seen;
mod timing;
mod violation;

use super::counters::Counters;
use super::timer::Tick;
use super::{Framing, OnViolation, Settings};
use crate::outcome::{Ending, PerSide, Side, Why};
use crate::ws::close::{CloseCode, CloseReason};
use crate::ws::frame::Header;
use crate::ws::mask::MaskKey;
use crate::ws::scanner::{Event, Found, Rules, Scanner};
pub use control::{BadAnswer, Fault};
use keepalive::Keepalive;
pub use seen::{Course, Seen};
use std::sync::Arc;
use violation::Breach;

/// Where the relay's bytes go, and where it gets what it cannot make.
pub trait Output {
    /// `bytes` are to reach `to`, in order, behind everything sent to it before.
    fn send(&mut self, to: Side, bytes: &[u8]);

    /// The same, where more may follow for that side before the call ends: what is gathered until then
    /// can be sent at once.
    fn gather(&mut self, to: Side, bytes: &[u8]) {
        self.send(to, bytes);
    }

    /// A key for a frame to the upstream, which nobody can predict from those before it (RFC 6455 5.3).
    fn mask_key(&mut self) -> MaskKey;

    /// A frame was read or is sent. Whoever does not watch pays nothing for it.
    fn see(&mut self, _: Seen) {}

    /// A side answers the proxy's Pings otherwise than it should; told once of each side.
    fn answered_badly(&mut self, _: BadAnswer) {}
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
    /// What sides are told at the next frame boundary.
    codes: PerSide<Option<CloseCode>>,
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
    /// Since when bytes wait for this side that it does not take.
    blocked: Option<Tick>,
    /// A Close waits for the next frame boundary: [`Closing::codes`].
    queued_close: bool,
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
    fn new(rules: Rules, tag: u32) -> Self {
        Self {
            scanner: Scanner::new(rules),
            keepalive: Keepalive::new(tag),
            took: Tick::ZERO,
            blocked: None,
            queued_close: false,
            mid_frame: false,
            closed: false,
            told: false,
            sealed: false,
            eof: false,
            dead: false,
            moved_forward: true,
        }
    }
}

impl Relay {
    /// A tunnel that has just opened, at [`Tick::ZERO`]. `tags` mark the proxy's Pings to each side: random,
    /// so that no peer knows them before.
    #[must_use]
    pub fn new(settings: Arc<Settings>, framing: Framing, tags: PerSide<u32>) -> Self {
        Self::counting(settings, framing, tags, Arc::default())
    }
}

impl<C: AsRef<Counters>> Relay<C> {
    /// One that has just opened, counting where others can read it. No other tunnel may count there.
    #[must_use]
    pub fn counting(settings: Arc<Settings>, framing: Framing, tags: PerSide<u32>, counters: C) -> Self {
        let deflate = match framing {
            Framing::WebSocket { deflate } => deflate,
            Framing::Blind(reason) => {
                counters.as_ref().go_blind(reason);
                false
            }
        };
        let legs = PerSide {
            client: Leg::new(Rules { masked: true, deflate }, tags.client),
            upstream: Leg::new(Rules { masked: false, deflate }, tags.upstream),
        };
        let mut relay = Self { settings, legs, counters, closing: None };
        relay.apply_tolerance();
        relay
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
        self.apply_tolerance();
        self.move_forward();
    }

    /// A length in more bytes than it needs can be read, so it is no reason to give up reading.
    fn apply_tolerance(&mut self) {
        let tolerate = self.settings.on_violation == OnViolation::Blind;
        for side in Side::BOTH {
            self.legs[side].scanner.tolerate_lengths(tolerate);
        }
    }

    /// Takes the operator's order to close; an earlier moment replaces a later one.
    pub fn order(&mut self, order: Order) {
        if self.standing_order().is_none_or(|standing| order.at < standing.at) {
            self.closing.get_or_insert_default().order = Some(order);
            self.move_forward();
        }
    }

    /// Bytes arrived from a side. How many frames, and pieces of frames, were found in them: what they cost.
    pub fn on_bytes(&mut self, from: Side, input: &[u8], now: Tick, out: &mut impl Output) -> usize {
        self.on_arrival(from, now);
        self.counters().received(from, input.len());
        if self.is_blind() {
            self.pass(from.other(), input, out);
            return 0;
        }
        let (at, found) = self.pass_data(from, input, out);
        if at < input.len() {
            return found + self.scan(from, input, at, now, out);
        }
        self.pass(from.other(), input, out);
        found
    }

    /// Reads the frames of `input` from `at` on; what is before it passes. What passes unchanged passes in one
    /// piece: `run` is where the piece begins that is to be sent next.
    #[inline(never)]
    fn scan(&mut self, from: Side, input: &[u8], mut at: usize, now: Tick, out: &mut impl Output) -> usize {
        let to = from.other();
        let (mut run, mut found) = (0, 0);
        loop {
            let event = match self.legs[from].scanner.next(&input[at..]) {
                Ok(Some(event)) => event,
                Ok(None) => {
                    // The rest is held back by the scanner, or there is none.
                    self.pass(to, &input[run..at], out);
                    return found;
                }
                Err(violation) => {
                    self.gather(to, &input[run..at], out);
                    self.on_violation(from, violation, None, &input[at..], now, out);
                    return found;
                }
            };
            found += 1;
            let start = at;
            at += event.taken;
            let is_whole = event.is_contiguous();
            let course = self.admit(from, &event, &input[start..], now, out);
            if course != Ok(Course::Passes) || !is_whole {
                self.gather(to, &input[run..start], out);
                run = at;
            }
            match course {
                Ok(Course::Passes) if !is_whole => self.gather(to, event.bytes(&input[start..]), out),
                Ok(_) => {}
                Err(Breach::Framing(violation)) => {
                    let frame = Some(event.bytes(&input[start..]));
                    self.on_violation(from, violation, frame, &input[at..], now, out);
                    return found;
                }
                Err(breach) => self.end_breach(from, breach, now, out),
            }
            if !self.legs[from].mid_frame && self.has_queued(to) {
                self.gather(to, &input[run..at], out);
                run = at;
                self.inject_queued(to, now, out);
            }
            let (size, frames) = self.pass_data(from, &input[at..], out);
            (at, found) = (at + size, found + frames);
        }
    }

    /// The short way of most bytes: data within the limits, with nothing waiting to be injected. How many bytes
    /// that is from the start of `input`, and how many frames.
    #[inline]
    fn pass_data(&mut self, from: Side, input: &[u8], out: &mut impl Output) -> (usize, usize) {
        if self.has_queued(from.other()) || !self.is_open() {
            return (0, 0);
        }
        let most = self.settings.max_message_size.unwrap_or(u64::MAX);
        let leg = &mut self.legs[from];
        let (mut at, mut frames, mut messages) = (0, 0, 0);
        while at < input.len()
            && let Some(data) = leg.scanner.take_data(&input[at..], most)
        {
            if let Some(header) = data.header {
                out.see(Seen::from(from, &header, true));
            }
            leg.mid_frame = !data.ends_frame;
            (at, frames, messages) = (at + data.taken, frames + 1, messages + u64::from(data.ends_message));
        }
        if messages > 0 {
            self.counters().messages(from, messages);
        }
        (at, frames)
    }

    /// Takes note of an event; what becomes of its bytes. Nothing is sent.
    #[inline(never)]
    fn admit(
        &mut self,
        from: Side,
        event: &Event,
        input: &[u8],
        now: Tick,
        out: &mut impl Output,
    ) -> Result<Course, Breach> {
        match &event.found {
            Found::Data(header) => {
                let too_big = self.too_big(from);
                out.see(Seen::from(from, header, !too_big));
                if too_big {
                    return Err(Breach::TooBig);
                }
                self.on_data(from, header);
                Ok(Course::Passes)
            }
            Found::Payload { ends_frame, ends_message } => {
                self.on_payload(from, *ends_frame, *ends_message);
                Ok(Course::Passes)
            }
            Found::BadPayload => Ok(Course::Ends),
            Found::Control(header) => {
                let course = self.on_control(from, header, event.bytes(input), now, out);
                out.see(Seen::from(from, header, course == Ok(Course::Passes)));
                course
            }
            Found::BadPong(header, violation) => {
                out.see(Seen::from(from, header, false));
                self.on_bad_pong(from, header, *violation, event.bytes(input), now, out)
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
            self.counters().messages(from, 1);
        }
    }

    fn on_payload(&mut self, from: Side, ends_frame: bool, ends_message: bool) {
        let leg = &mut self.legs[from];
        leg.mid_frame = !ends_frame;
        if ends_message && self.is_open() {
            self.counters().messages(from, 1);
        }
    }

    /// Sends what passes, unless the proxy has closed this side already.
    fn pass(&self, to: Side, bytes: &[u8], out: &mut impl Output) {
        let leg = &self.legs[to];
        if !bytes.is_empty() && !leg.sealed && !leg.dead {
            out.send(to, bytes);
        }
    }

    /// The same, where more may follow.
    fn gather(&self, to: Side, bytes: &[u8], out: &mut impl Output) {
        let leg = &self.legs[to];
        if !bytes.is_empty() && !leg.sealed && !leg.dead {
            out.gather(to, bytes);
        }
    }

    fn is_blind(&self) -> bool {
        self.counters().is_blind()
    }
}

#[cfg(test)]
mod tests;
