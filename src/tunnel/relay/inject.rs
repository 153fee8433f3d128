//! Owns what the proxy itself sends into a tunnel, at frame boundaries only.

use super::{Output, Relay, Seen};
use crate::outcome::Side;
use crate::tunnel::counters::Counters;
use crate::tunnel::timer::Tick;
use crate::ws::close::{self, CloseCode};
use crate::ws::frame::{OpCode, encode};

impl<C: AsRef<Counters>> Relay<C> {
    pub(super) fn has_queued(&self, to: Side) -> bool {
        let leg = &self.legs[to];
        leg.keepalive.queued_ping || leg.keepalive.queued_pong || leg.queued_close
    }

    /// Injects what waits for this frame boundary: the Pong somebody waits for, a Ping if it is
    /// still due, and a Close last.
    pub(super) fn inject_queued(&mut self, to: Side, now: Tick, out: &mut impl Output) {
        if std::mem::take(&mut self.legs[to].keepalive.queued_pong) {
            self.inject(to, OpCode::Pong, self.legs[to.other()].keepalive.missing(), out);
        }
        self.move_forward();
        let queued = std::mem::take(&mut self.legs[to].keepalive.queued_ping);
        if queued && self.ping_due(to).is_some_and(|due| due <= now) {
            self.ping(to, now, out);
        }
        if std::mem::take(&mut self.legs[to].queued_close)
            && let Some(code) = self.closing.as_mut().and_then(|closing| closing.codes[to].take())
        {
            self.close(to, code, out);
        }
    }

    fn inject(&self, to: Side, opcode: OpCode, payload: &[u8], out: &mut impl Output) {
        let leg = &self.legs[to];
        if !leg.told && !leg.dead {
            // To the upstream the proxy is a client, and clients mask (RFC 6455 5.1).
            let mask = (to == Side::Upstream).then(|| out.mask_key());
            out.gather(to, &encode(opcode, payload, mask));
            out.see(Seen::injected(to, opcode, payload));
        }
    }

    pub(super) fn ping(&mut self, to: Side, now: Tick, out: &mut impl Output) {
        self.move_forward();
        let leg = &mut self.legs[to];
        let payload = leg.keepalive.ping(now);
        leg.scanner.tolerate_pongs();
        self.counters().ping(to);
        self.inject(to, OpCode::Ping, &payload, out);
    }

    pub(super) fn close(&mut self, to: Side, code: CloseCode, out: &mut impl Output) {
        let reason = self.end().map_or("", |end| &end.ending.reason);
        self.inject(to, OpCode::Close, &close::payload(code, reason), out);
        self.legs[to].told = true;
        self.legs[to].sealed = true;
    }
}
