//! Owns how a tunnel ends: which Close each side gets, what the relay waits for, and when the tunnel is over.

use super::{End, Output, Relay};
use crate::outcome::{Cause, EndedBy, Ending, Outcome, PerSide, Side};
use crate::tunnel::counters::Counters;
use crate::tunnel::timer::TunnelTime;
use crate::ws::close::{self, CloseCode, CloseReason};
use crate::ws::frame::Violation;
use std::time::Duration;

/// An end takes at most this many times `close_timeout`, even while bytes still move. By default that is a minute,
/// in which 1.4 KB a second empty the largest buffer of a side.
const MOST_CLOSE_TIMEOUTS: u32 = 6;

impl<C: AsRef<Counters>> Relay<C> {
    /// Handles the end of a side's stream.
    pub fn on_eof(&mut self, side: Side, now: TunnelTime, out: &mut impl Output) {
        if !self.sides[side].end() {
            return;
        }
        if self.is_other_protocol() {
            // Other protocols may close one direction and go on in the other.
            if self.sides[side.other()].has_ended() {
                self.decide(Ending::new(side.other(), Cause::Eof), now);
            }
            return;
        }
        if self.is_blind() {
            return self.decide(Ending::new(side, Cause::Eof), now);
        }
        // Half a header is useless to the other side, and without it there is room for a Close.
        drop(self.sides[side].scanner.take_held());
        if self.is_open() {
            self.decide(self.ending_of(side, Cause::Eof), now);
            self.send_close(side.other(), gone_code(side), out);
        }
    }

    /// Handles a side that can be neither read nor written any more. `cause` says how it was lost.
    pub fn on_gone(&mut self, side: Side, cause: Cause, now: TunnelTime, out: &mut impl Output) {
        self.sides[side].end();
        self.sides[side].give_up();
        if self.is_open() {
            self.decide(self.ending_of(side, cause), now);
            self.send_close(side.other(), gone_code(side), out);
        }
        self.cut_if_mid_frame(side.other());
    }

    pub(super) fn end_unresponsive(&mut self, side: Side, now: TunnelTime, out: &mut impl Output) {
        self.decide(self.ending_of(side, Cause::Unresponsive), now);
        // The peer may be asleep. When it wakes up, it can read what happened.
        self.send_close(side, CloseCode::GOING_AWAY, out);
        self.sides[side].give_up();
        self.send_close(side.other(), gone_code(side), out);
        self.cut_if_mid_frame(side.other());
    }

    pub(super) fn end_send_timeout(&mut self, side: Side, now: TunnelTime, out: &mut impl Output) {
        let ending = self.ending_of(side, Cause::SendTimeout);
        self.decide(Ending { code: ending.code.and(Some(CloseCode::GOING_AWAY)), ..ending }, now);
        self.sides[side].give_up();
        self.send_close(side.other(), CloseCode::GOING_AWAY, out);
        self.cut_if_mid_frame(side.other());
    }

    /// Ends the tunnel by a timeout or a request, with a Close to both sides.
    pub(super) fn end_by_proxy(&mut self, cause: Cause, now: TunnelTime, out: &mut impl Output) {
        let code = match cause {
            Cause::Drain | Cause::EndpointRemoved | Cause::Operator => CloseCode::SERVICE_RESTART,
            _ => CloseCode::GOING_AWAY,
        };
        self.end_with(cause, CloseReason { code, text: close_text(EndedBy::Proxy, cause).into() }, now, out);
    }

    pub(super) fn end_by_request(&mut self, now: TunnelTime, out: &mut impl Output) {
        let Some(request) = self.closing.as_mut().and_then(|closing| closing.request.take()) else { return };
        match request.reason {
            Some(reason) => self.end_with(request.cause, *reason, now, out),
            None => self.end_by_proxy(request.cause, now, out),
        }
    }

    fn end_with(&mut self, cause: Cause, reason: CloseReason, now: TunnelTime, out: &mut impl Output) {
        let CloseReason { code, text } = reason;
        self.decide(self.ending_of_proxy(cause, code, text), now);
        for side in Side::BOTH {
            self.send_close(side, code, out);
        }
    }

    pub(super) fn end_too_big(&mut self, from: Side, now: TunnelTime, out: &mut impl Output) {
        let max = self.settings.max_message_size.unwrap_or_default();
        let reason = format!("message over {max} bytes from the {}", EndedBy::from(from));
        self.decide(self.ending_of_proxy(Cause::TooBig, CloseCode::TOO_BIG, reason.into()), now);
        self.send_close(from, CloseCode::TOO_BIG, out);
        self.send_close(from.other(), CloseCode::GOING_AWAY, out);
    }

    pub(super) fn end_violation(
        &mut self,
        from: Side,
        what: &Violation,
        now: TunnelTime,
        out: &mut impl Output,
    ) {
        self.end_protocol_error(format!("{what} from the {}", EndedBy::from(from)), now, out);
    }

    pub(super) fn end_bad_close(
        &mut self,
        from: Side,
        fault: close::InvalidClose,
        now: TunnelTime,
        out: &mut impl Output,
    ) {
        self.end_protocol_error(format!("{fault}, sent by the {}", EndedBy::from(from)), now, out);
    }

    fn end_protocol_error(&mut self, reason: String, now: TunnelTime, out: &mut impl Output) {
        self.decide(self.ending_of_proxy(Cause::Violation, CloseCode::PROTOCOL_ERROR, reason.into()), now);
        for side in Side::BOTH {
            self.send_close(side, CloseCode::PROTOCOL_ERROR, out);
        }
    }

    /// Decides the end, unless it was decided before.
    pub(super) fn decide(&mut self, ending: Ending, now: TunnelTime) {
        if self.is_open() {
            let idle = self.idle(now);
            self.closing.get_or_insert_default().end = Some(End { ending, at: now, idle });
            self.mark_earlier_deadline();
        }
    }

    fn idle(&self, now: TunnelTime) -> PerSide<Duration> {
        let since = |side| now.since(self.counters().last_read(side));
        PerSide { client: since(Side::Client), upstream: since(Side::Upstream) }
    }

    /// Sends a side a Close now, or at the next frame boundary. If no boundary can come, it sends none.
    fn send_close(&mut self, side: Side, code: CloseCode, out: &mut impl Output) {
        let code = self.settings.close_codes.apply(code);
        if self.is_blind() {
            self.sides[side].cut();
        } else if !self.sides[side].takes_injected() {
            // This side had its Close, or can receive none.
        } else if self.sides[side.other()].mid_frame {
            self.sides[side].queue_close();
            self.closing.get_or_insert_default().codes[side] = Some(code);
        } else {
            self.sides[side].clear_queue();
            self.inject_close(side, code, out);
        }
    }

    /// Cuts `side` if a frame to it is incomplete, because the source of the frame is gone.
    fn cut_if_mid_frame(&mut self, side: Side) {
        if self.sides[side.other()].mid_frame || self.is_blind() {
            self.sides[side].cut();
        }
    }

    fn ending_of(&self, side: Side, cause: Cause) -> Ending {
        let may_close = !self.is_blind() && !self.sides[side].mid_frame;
        let code = may_close.then(|| self.settings.close_codes.apply(gone_code(side)));
        Ending { ended_by: side.into(), cause, code, reason: close_text(side.into(), cause).into() }
    }

    fn ending_of_proxy(&self, cause: Cause, code: CloseCode, reason: Box<str>) -> Ending {
        let code = (!self.is_blind()).then(|| self.settings.close_codes.apply(code));
        Ending { ended_by: EndedBy::Proxy, cause, code, reason }
    }

    pub(super) fn close_deadline(&self) -> Option<TunnelTime> {
        let (end, timeout) = (self.end()?, self.settings.close_timeout);
        // While bytes still move, wait for them, because the Close comes after them.
        let moved = Side::BOTH.into_iter().filter_map(|side| self.sides[side].waits_since());
        // A blind tunnel may still carry the other direction.
        let heard =
            Side::BOTH.into_iter().filter(|_| self.is_blind()).map(|side| self.counters().last_read(side));
        let patient = moved.chain(heard).fold(end.at, TunnelTime::max) + timeout;
        // A byte now and then must not delay the end for ever.
        Some(patient.min(end.at + timeout.saturating_mul(MOST_CLOSE_TIMEOUTS)))
    }

    /// Whether the relay waits for nothing more. The driver closes the sockets once all output is written.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        !self.is_open() && Side::BOTH.iter().all(|&side| self.sides[side].is_settled())
    }

    /// Whether the time to close is over. The driver closes the sockets at once.
    #[must_use]
    pub fn is_expired(&self, now: TunnelTime) -> bool {
        self.close_deadline().is_some_and(|deadline| deadline <= now)
    }

    /// Whether this side will take no more bytes.
    #[must_use]
    pub fn is_dead(&self, side: Side) -> bool {
        self.sides[side].is_dead()
    }

    /// Whether the driver should read from this side.
    #[must_use]
    pub fn wants_bytes(&self, side: Side) -> bool {
        self.sides[side].is_readable()
    }

    /// Whether the driver should shut down this side's stream after all output is written.
    #[must_use]
    pub fn wants_shutdown(&self, side: Side) -> bool {
        self.sides[side.other()].has_ended() && !self.sides[side].is_dead()
    }

    /// Whether this side's stream has ended while the other goes on. Then only a socket error can tell that the peer
    /// is gone.
    #[must_use]
    pub fn awaits_reset(&self, side: Side) -> bool {
        self.sides[side].has_ended() && self.is_other_protocol() && self.is_open()
    }

    /// Whether the protocol has no Close frames. Then a side must see a failed stream, not an end, if something may be
    /// missing.
    #[must_use]
    pub fn has_no_close_frames(&self) -> bool {
        self.is_other_protocol()
    }

    /// Whether this is no WebSocket connection.
    fn is_other_protocol(&self) -> bool {
        self.counters().is_other_protocol()
    }

    /// The outcome up to now. Before the end is decided, its cause is [`Cause::Aborted`].
    #[must_use]
    pub fn outcome(&self, now: TunnelTime) -> Outcome {
        let (ending, idle) = match self.end() {
            Some(end) => (end.ending.clone(), end.idle),
            None => (Ending::new(EndedBy::Proxy, Cause::Aborted), self.idle(now)),
        };
        let counters = self.counters();
        let traffic =
            PerSide { client: counters.traffic(Side::Client), upstream: counters.traffic(Side::Upstream) };
        Outcome { ending, traffic, duration: now.elapsed(), idle, blind: counters.blind(), ended: None }
    }
}

/// The close code that tells the other side that `side` is gone.
fn gone_code(side: Side) -> CloseCode {
    match side {
        Side::Client => CloseCode::GOING_AWAY,
        Side::Upstream => CloseCode::BAD_GATEWAY,
    }
}

/// The text of a Close frame, short enough to read in a browser's console.
fn close_text(ended_by: EndedBy, cause: Cause) -> &'static str {
    match (ended_by, cause) {
        (EndedBy::Client, Cause::Eof) => "client left without a close frame",
        (EndedBy::Client, Cause::Reset) => "client reset the connection",
        (EndedBy::Client, Cause::Unresponsive) => "client did not answer a ping",
        (EndedBy::Client, Cause::TcpTimeout) => "client unreachable",
        (EndedBy::Client, Cause::SendTimeout) => "client took no data in time",
        (EndedBy::Upstream, Cause::Eof) => "upstream left without a close frame",
        (EndedBy::Upstream, Cause::Reset) => "upstream reset the connection",
        (EndedBy::Upstream, Cause::Unresponsive) => "upstream did not answer a ping",
        (EndedBy::Upstream, Cause::TcpTimeout) => "upstream unreachable",
        (EndedBy::Upstream, Cause::SendTimeout) => "upstream took no data in time",
        (_, Cause::ReadTimeout) => "idle for too long",
        (_, Cause::Lifetime) => "longest permitted lifetime reached",
        (_, Cause::Shutdown) => "proxy is shutting down",
        (_, Cause::Drain) => "upstream server is being drained",
        (_, Cause::EndpointRemoved) => "upstream server is being removed",
        (_, Cause::Operator) => "closed by the operator",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_texts_are_words_that_fit_into_a_close_frame() {
        let all = EndedBy::ALL.into_iter().flat_map(|by| Cause::ALL.map(|cause| (by, cause)));
        for text in all.map(|(by, cause)| close_text(by, cause)) {
            assert!(
                text.len() <= close::MAX_REASON && text.chars().all(|c| c.is_ascii_lowercase() || c == ' ')
            );
        }
        let of = |by, cause| close_text(by, cause);
        assert_eq!(of(EndedBy::Client, Cause::SendTimeout), "client took no data in time");
        assert_eq!(of(EndedBy::Upstream, Cause::SendTimeout), "upstream took no data in time");
        assert_eq!(of(EndedBy::Proxy, Cause::Operator), "closed by the operator");
    }
}
