//! Owns the frames that Holdline injects into a tunnel, always at frame boundaries.

use super::{FrameEvent, Output, Relay};
use crate::outcome::Side;
use crate::tunnel::counters::Counters;
use crate::tunnel::timer::TunnelTime;
use crate::ws::close::{self, CloseCode};
use crate::ws::frame::{OpCode, encode};

impl<C: AsRef<Counters>> Relay<C> {
    /// Injects what waits for this frame boundary: the Pong that the side waits for, a Ping if it is still due, and a
    /// Close last.
    pub(super) fn inject_queued(&mut self, to: Side, now: TunnelTime, out: &mut impl Output) {
        if std::mem::take(&mut self.sides[to].keepalive.queued_pong) {
            self.inject(to, OpCode::Pong, self.sides[to.other()].keepalive.missing(), out);
        }
        self.mark_earlier_deadline();
        let queued = std::mem::take(&mut self.sides[to].keepalive.queued_ping);
        if queued && self.ping_due(to).is_some_and(|due| due <= now) {
            self.ping(to, now, out);
        }
        if self.sides[to].take_queued_close()
            && let Some(code) = self.closing.as_mut().and_then(|closing| closing.codes[to].take())
        {
            self.inject_close(to, code, out);
        }
    }

    fn inject(&self, to: Side, opcode: OpCode, payload: &[u8], out: &mut impl Output) {
        if self.sides[to].takes_injected() {
            // Holdline is a client of the upstream, and clients mask their frames (RFC 6455 5.1).
            let mask = (to == Side::Upstream).then(|| out.mask_key());
            out.gather(to, &encode(opcode, payload, mask));
            out.on_frame(FrameEvent::injected(to, opcode, payload));
        }
    }

    pub(super) fn ping(&mut self, to: Side, now: TunnelTime, out: &mut impl Output) {
        self.mark_earlier_deadline();
        let state = &mut self.sides[to];
        let payload = state.keepalive.ping(now);
        state.scanner.tolerate_pongs();
        self.counters().ping(to);
        self.inject(to, OpCode::Ping, &payload, out);
    }

    pub(super) fn inject_close(&mut self, to: Side, code: CloseCode, out: &mut impl Output) {
        let reason = self.end().map_or("", |end| &end.ending.reason);
        self.inject(to, OpCode::Close, &close::payload(code, reason), out);
        self.sides[to].close();
    }
}
