//! Owns the state machine of a tunnel: which bytes pass, where a Ping fits, which Ping a Pong answers, and how the
//! tunnel ends. It must not know sockets or clocks. Callers pass in bytes and the time, and it writes into an `Output`.
//! So drivers, tests and fuzz targets use the same machine.

mod control;
mod ending;
mod inject;
mod keepalive;
mod frame_event;
mod side;
mod timing;
mod violation;

use super::counters::Counters;
use super::timer::TunnelTime;
use super::{Framing, OnViolation, Settings};
use crate::outcome::{Cause, Ending, PerSide, Side};
use crate::ws::close::{CloseCode, CloseReason};
use crate::ws::frame::Header;
use crate::ws::mask::MaskKey;
use crate::ws::scanner::{Event, Found, Rules};
pub(crate) use control::{BadPong, PongFault};
pub(crate) use frame_event::{Disposition, FrameEvent};
use side::RelaySide;
use std::sync::Arc;
use violation::Breach;

/// What the relay needs from its caller: a way to send bytes, and random mask keys.
pub trait Output {
    /// Sends `bytes` to a side, after everything sent to it before.
    fn send(&mut self, to: Side, bytes: &[u8]);

    /// Like [`Output::send`], but more bytes for that side may follow before the call of the relay returns. The
    /// output may gather them and send all at once.
    fn gather(&mut self, to: Side, bytes: &[u8]) {
        self.send(to, bytes);
    }

    /// A key to mask a frame to the upstream. Nobody may predict it from earlier keys (RFC 6455 5.3).
    fn mask_key(&mut self) -> MaskKey;

    /// Called for each frame that the relay reads or injects. The default does nothing and costs nothing.
    fn on_frame(&mut self, _: FrameEvent) {}

    /// Reports that a side answers Holdline's Pings incorrectly. Called once for each side.
    fn report_bad_pong(&mut self, _: BadPong) {}
}

/// A tunnel without its sockets. `C` leads to its counters.
#[derive(Debug)]
pub struct Relay<C = Arc<Counters>> {
    settings: Arc<Settings>,
    sides: PerSide<RelaySide>,
    counters: C,
    /// Boxed, because nearly all tunnels have none.
    closing: Option<Box<Closing>>,
}

/// The end of a tunnel: decided, or requested.
#[derive(Debug, Default)]
struct Closing {
    /// Set when the end is decided. The first cause wins.
    end: Option<End>,
    request: Option<CloseRequest>,
    /// The codes of Close frames that wait for the next frame boundary.
    codes: PerSide<Option<CloseCode>>,
}

/// A request to close the tunnel at a moment.
#[derive(Clone, Debug)]
pub struct CloseRequest {
    /// When to close.
    pub at: TunnelTime,
    /// One of [`Cause::Drain`], [`Cause::Shutdown`], [`Cause::EndpointRemoved`], [`Cause::Operator`].
    pub cause: Cause,
    /// The code and text of the Close frames. `None` means those of the cause.
    pub reason: Option<Box<CloseReason>>,
}

#[derive(Debug)]
struct End {
    ending: Ending,
    at: TunnelTime,
    idle: PerSide<std::time::Duration>,
}

impl Relay {
    /// A tunnel that opens at [`TunnelTime::ZERO`]. `tags` mark Holdline's Pings to each side. They must be random, so
    /// that no peer knows them in advance.
    #[must_use]
    pub fn new(settings: Arc<Settings>, framing: Framing, tags: PerSide<u32>) -> Self {
        Self::with_counters(settings, framing, tags, Arc::default())
    }
}

impl<C: AsRef<Counters>> Relay<C> {
    /// Like [`Relay::new`], but counts in `counters`, where no other tunnel may count.
    #[must_use]
    pub fn with_counters(settings: Arc<Settings>, framing: Framing, tags: PerSide<u32>, counters: C) -> Self {
        let deflate = match framing {
            Framing::WebSocket { deflate } => deflate,
            Framing::Blind(reason) => {
                counters.as_ref().go_blind(reason);
                false
            }
        };
        let sides = PerSide {
            client: RelaySide::new(Rules { masked: true, deflate }, tags.client),
            upstream: RelaySide::new(Rules { masked: false, deflate }, tags.upstream),
        };
        let mut relay = Self { settings, sides, counters, closing: None };
        relay.apply_tolerance();
        relay
    }

    /// The handle that leads to the counters.
    pub(super) fn counters_handle(&self) -> &C {
        &self.counters
    }

    fn counters(&self) -> &Counters {
        self.counters.as_ref()
    }

    /// Whether the end is not decided yet.
    fn is_open(&self) -> bool {
        self.end().is_none()
    }

    fn end(&self) -> Option<&End> {
        self.closing.as_ref().and_then(|closing| closing.end.as_ref())
    }

    fn close_request(&self) -> Option<&CloseRequest> {
        self.closing.as_ref().and_then(|closing| closing.request.as_ref())
    }

    /// Takes new settings of the route, from a reload.
    pub fn set_settings(&mut self, settings: Arc<Settings>) {
        self.settings = settings;
        self.apply_tolerance();
        self.mark_earlier_deadline();
    }

    /// A length that is not minimal can still be read, so `blind` tolerates it.
    fn apply_tolerance(&mut self) {
        let tolerate = self.settings.on_violation == OnViolation::Blind;
        for side in Side::BOTH {
            self.sides[side].scanner.tolerate_lengths(tolerate);
        }
    }

    /// Takes a request to close. The earliest one counts.
    pub fn request_close(&mut self, request: CloseRequest) {
        if self.close_request().is_none_or(|earlier| request.at < earlier.at) {
            self.closing.get_or_insert_default().request = Some(request);
            self.mark_earlier_deadline();
        }
    }

    /// Handles bytes from a side. Returns how many frames, and pieces of frames, it found: the cost of the call.
    pub fn on_bytes(&mut self, from: Side, input: &[u8], now: TunnelTime, out: &mut impl Output) -> usize {
        self.on_arrival(from, now);
        self.counters().received(from, input.len());
        if self.is_blind() {
            self.forward(from.other(), input, out);
            return 0;
        }
        let (at, found) = self.forward_data(from, input, out);
        if at < input.len() {
            return found + self.scan(from, input, at, now, out);
        }
        self.forward(from.other(), input, out);
        found
    }

    /// Reads the frames of `input` from `at` on, and forwards the bytes before it. Bytes that pass unchanged are sent
    /// in one piece, which begins at `run`.
    #[inline(never)]
    fn scan(
        &mut self,
        from: Side,
        input: &[u8],
        mut at: usize,
        now: TunnelTime,
        out: &mut impl Output,
    ) -> usize {
        let to = from.other();
        let (mut run, mut found) = (0, 0);
        loop {
            let event = match self.sides[from].scanner.next(&input[at..]) {
                Ok(Some(event)) => event,
                Ok(None) => {
                    // The scanner holds the rest, if there is any.
                    self.forward(to, &input[run..at], out);
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
            let disposition = self.on_event(from, &event, &input[start..], now, out);
            if disposition != Ok(Disposition::Forwarded) || !is_whole {
                self.gather(to, &input[run..start], out);
                run = at;
            }
            match disposition {
                Ok(Disposition::Forwarded) if !is_whole => self.gather(to, event.bytes(&input[start..]), out),
                Ok(_) => {}
                Err(Breach::Framing(violation)) => {
                    let frame = Some(event.bytes(&input[start..]));
                    self.on_violation(from, violation, frame, &input[at..], now, out);
                    return found;
                }
                Err(breach) => self.end_breach(from, breach, now, out),
            }
            if !self.sides[from].mid_frame && self.sides[to].has_queued() {
                self.gather(to, &input[run..at], out);
                run = at;
                self.inject_queued(to, now, out);
            }
            let (size, frames) = self.forward_data(from, &input[at..], out);
            (at, found) = (at + size, found + frames);
        }
    }

    /// The fast path of most bytes: data within the limits, while nothing waits to be injected. Returns how many bytes
    /// at the start of `input` that is, and how many frames.
    #[inline]
    fn forward_data(&mut self, from: Side, input: &[u8], out: &mut impl Output) -> (usize, usize) {
        if self.sides[from.other()].has_queued() || !self.is_open() {
            return (0, 0);
        }
        let most = self.settings.max_message_size.unwrap_or(u64::MAX);
        let state = &mut self.sides[from];
        let (mut at, mut frames, mut messages) = (0, 0, 0);
        while at < input.len()
            && let Some(data) = state.scanner.take_data(&input[at..], most)
        {
            if let Some(header) = data.header {
                out.on_frame(FrameEvent::received(from, &header, true));
            }
            state.mid_frame = !data.ends_frame;
            (at, frames, messages) = (at + data.taken, frames + 1, messages + u64::from(data.ends_message));
        }
        if messages > 0 {
            self.counters().messages(from, messages);
        }
        (at, frames)
    }

    /// Updates the state for an event, and returns what happens to its bytes. Sends nothing.
    #[inline(never)]
    fn on_event(
        &mut self,
        from: Side,
        event: &Event,
        input: &[u8],
        now: TunnelTime,
        out: &mut impl Output,
    ) -> Result<Disposition, Breach> {
        match &event.found {
            Found::Data(header) => {
                let too_big = self.too_big(from);
                out.on_frame(FrameEvent::received(from, header, !too_big));
                if too_big {
                    return Err(Breach::TooBig);
                }
                self.on_data(from, header);
                Ok(Disposition::Forwarded)
            }
            Found::Payload { ends_frame, ends_message } => {
                self.on_payload(from, *ends_frame, *ends_message);
                Ok(Disposition::Forwarded)
            }
            Found::BadPayload => Ok(Disposition::Consumed),
            Found::Control(header) => {
                let disposition = self.on_control(from, header, event.bytes(input), now, out);
                out.on_frame(FrameEvent::received(from, header, disposition == Ok(Disposition::Forwarded)));
                disposition
            }
            Found::BadPong(header, violation) => {
                out.on_frame(FrameEvent::received(from, header, false));
                self.on_bad_pong(from, header, *violation, event.bytes(input), now, out)
            }
        }
    }

    fn too_big(&self, from: Side) -> bool {
        let size = self.sides[from].scanner.message_size();
        self.is_open() && self.settings.max_message_size.is_some_and(|max| size > max)
    }

    fn on_data(&mut self, from: Side, header: &Header) {
        let state = &mut self.sides[from];
        state.mid_frame = header.length > 0;
        if header.length == 0 && header.fin {
            self.counters().messages(from, 1);
        }
    }

    fn on_payload(&mut self, from: Side, ends_frame: bool, ends_message: bool) {
        let state = &mut self.sides[from];
        state.mid_frame = !ends_frame;
        if ends_message && self.is_open() {
            self.counters().messages(from, 1);
        }
    }

    /// Forwards bytes, unless Holdline has sent a Close to that side or it is dead.
    fn forward(&self, to: Side, bytes: &[u8], out: &mut impl Output) {
        if !bytes.is_empty() && self.sides[to].takes_frames() {
            out.send(to, bytes);
        }
    }

    /// Like [`Relay::forward`], but more may follow.
    fn gather(&self, to: Side, bytes: &[u8], out: &mut impl Output) {
        if !bytes.is_empty() && self.sides[to].takes_frames() {
            out.gather(to, bytes);
        }
    }

    fn is_blind(&self) -> bool {
        self.counters().is_blind()
    }
}

#[cfg(test)]
mod tests;
