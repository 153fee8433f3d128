//! Owns how a tunnel ends: who is told what, what is waited for, when it is over.

use super::{End, Leg, Output, Relay};
use crate::outcome::{Ending, Outcome, PerSide, Side, Who, Why};
use crate::tunnel::counters::Counters;
use crate::tunnel::timer::Tick;
use crate::ws::close::{self, CloseCode, CloseReason};
use crate::ws::frame::Violation;
use std::time::Duration;

/// How many times `close_timeout` an end may take where bytes still move: a minute by default, in which 1.4 KB
/// a second take all that can wait for a side.
const MOST_CLOSE_TIMEOUTS: u32 = 6;

impl<C: AsRef<Counters>> Relay<C> {
    /// A side's stream ended.
    pub fn on_eof(&mut self, side: Side, now: Tick, out: &mut impl Output) {
        let leg = &mut self.legs[side];
        if std::mem::replace(&mut leg.eof, true) {
            return;
        }
        if self.is_foreign() {
            // There an end of stream in one direction is no farewell: the other may have much to say yet.
            if self.legs[side.other()].eof {
                self.decide(Ending::new(side.other(), Why::Eof), now);
            }
            return;
        }
        if self.is_blind() {
            return self.decide(Ending::new(side, Why::Eof), now);
        }
        // Half a header helps nobody, and without it a Close fits.
        drop(self.legs[side].scanner.take_held());
        if self.is_open() {
            self.decide(self.ending_of(side, Why::Eof), now);
            self.tell(side.other(), gone(side), out);
        }
    }

    /// A side can be neither read nor written any more, for the reason given.
    pub fn on_gone(&mut self, side: Side, why: Why, now: Tick, out: &mut impl Output) {
        self.legs[side].eof = true;
        self.legs[side].give_up();
        if self.is_open() {
            self.decide(self.ending_of(side, why), now);
            self.tell(side.other(), gone(side), out);
        }
        self.cut_if_mid_frame(side.other());
    }

    pub(super) fn end_unresponsive(&mut self, side: Side, now: Tick, out: &mut impl Output) {
        self.decide(self.ending_of(side, Why::Unresponsive), now);
        // It may be asleep rather than gone: on waking it shall read what happened.
        self.tell(side, CloseCode::GOING_AWAY, out);
        self.legs[side].give_up();
        self.tell(side.other(), gone(side), out);
        self.cut_if_mid_frame(side.other());
    }

    pub(super) fn end_send_timeout(&mut self, side: Side, now: Tick, out: &mut impl Output) {
        let ending = self.ending_of(side, Why::SendTimeout);
        self.decide(Ending { code: ending.code.and(Some(CloseCode::GOING_AWAY)), ..ending }, now);
        self.legs[side].give_up();
        self.tell(side.other(), CloseCode::GOING_AWAY, out);
        self.cut_if_mid_frame(side.other());
    }

    /// Ends by timeout or order: both sides are told.
    pub(super) fn end_by_proxy(&mut self, why: Why, now: Tick, out: &mut impl Output) {
        let code = match why {
            Why::Drain | Why::EndpointRemoved | Why::Operator => CloseCode::SERVICE_RESTART,
            _ => CloseCode::GOING_AWAY,
        };
        self.end_with(why, CloseReason { code, text: words(Who::Proxy, why).into() }, now, out);
    }

    pub(super) fn end_by_order(&mut self, now: Tick, out: &mut impl Output) {
        let Some(order) = self.closing.as_mut().and_then(|closing| closing.order.take()) else { return };
        match order.words {
            Some(words) => self.end_with(order.why, *words, now, out),
            None => self.end_by_proxy(order.why, now, out),
        }
    }

    fn end_with(&mut self, why: Why, words: CloseReason, now: Tick, out: &mut impl Output) {
        let CloseReason { code, text } = words;
        self.decide(self.proxys(why, code, text), now);
        for side in Side::BOTH {
            self.tell(side, code, out);
        }
    }

    pub(super) fn end_too_big(&mut self, from: Side, now: Tick, out: &mut impl Output) {
        let max = self.settings.max_message_size.unwrap_or_default();
        let reason = format!("message over {max} bytes from the {}", Who::from(from));
        self.decide(self.proxys(Why::TooBig, CloseCode::TOO_BIG, reason.into()), now);
        self.tell(from, CloseCode::TOO_BIG, out);
        self.tell(from.other(), CloseCode::GOING_AWAY, out);
    }

    pub(super) fn end_violation(&mut self, from: Side, what: &Violation, now: Tick, out: &mut impl Output) {
        self.end_protocol_error(format!("{what} from the {}", Who::from(from)), now, out);
    }

    pub(super) fn end_bad_close(
        &mut self,
        from: Side,
        fault: close::Fault,
        now: Tick,
        out: &mut impl Output,
    ) {
        self.end_protocol_error(format!("{fault}, sent by the {}", Who::from(from)), now, out);
    }

    fn end_protocol_error(&mut self, reason: String, now: Tick, out: &mut impl Output) {
        self.decide(self.proxys(Why::Violation, CloseCode::PROTOCOL_ERROR, reason.into()), now);
        for side in Side::BOTH {
            self.tell(side, CloseCode::PROTOCOL_ERROR, out);
        }
    }

    /// Decides the end, unless it is decided.
    pub(super) fn decide(&mut self, ending: Ending, now: Tick) {
        if self.is_open() {
            let idle = self.idle(now);
            self.closing.get_or_insert_default().end = Some(End { ending, at: now, idle });
            self.move_forward();
        }
    }

    fn idle(&self, now: Tick) -> PerSide<Duration> {
        let since = |side| now.since(self.counters().heard(side));
        PerSide { client: since(Side::Client), upstream: since(Side::Upstream) }
    }

    /// Sends a side a Close: now, or at the next frame boundary, or, where there is none to be
    /// had, not at all.
    fn tell(&mut self, side: Side, code: CloseCode, out: &mut impl Output) {
        let code = self.settings.close_codes.apply(code);
        if self.is_blind() {
            self.legs[side].cut();
        } else if self.legs[side].told || self.legs[side].dead {
            // It has had its Close, or can have none.
        } else if self.legs[side.other()].mid_frame {
            self.legs[side].queued_close = true;
            self.closing.get_or_insert_default().codes[side] = Some(code);
        } else {
            self.legs[side].forget_queued();
            self.close(side, code, out);
        }
    }

    /// The frame that is under way towards `side` cannot be finished: its source is gone.
    fn cut_if_mid_frame(&mut self, side: Side) {
        if self.legs[side.other()].mid_frame || self.is_blind() {
            self.legs[side].cut();
        }
    }

    fn ending_of(&self, side: Side, why: Why) -> Ending {
        let told = !self.is_blind() && !self.legs[side].mid_frame;
        let code = told.then(|| self.settings.close_codes.apply(gone(side)));
        Ending { who: side.into(), why, code, reason: words(side.into(), why).into() }
    }

    fn proxys(&self, why: Why, code: CloseCode, reason: Box<str>) -> Ending {
        let code = (!self.is_blind()).then(|| self.settings.close_codes.apply(code));
        Ending { who: Who::Proxy, why, code, reason }
    }

    pub(super) fn close_deadline(&self) -> Option<Tick> {
        let (end, timeout) = (self.end()?, self.settings.close_timeout);
        // Bytes that still move are not cut off: the Close stands behind them.
        let moved = Side::BOTH.into_iter().filter_map(|side| self.legs[side].waits_since());
        // Nor is the other half of what cannot be read here.
        let heard =
            Side::BOTH.into_iter().filter(|_| self.is_blind()).map(|side| self.counters().heard(side));
        let patient = moved.chain(heard).fold(end.at, Tick::max) + timeout;
        // Nobody puts the end off for ever by a byte now and then.
        Some(patient.min(end.at + timeout.saturating_mul(MOST_CLOSE_TIMEOUTS)))
    }

    /// Nothing is waited for any more: once what was handed out is written, the sockets go.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        !self.is_open() && Side::BOTH.iter().all(|&side| self.legs[side].is_settled())
    }

    /// The time for closing is over: the sockets go as they are.
    #[must_use]
    pub fn is_expired(&self, now: Tick) -> bool {
        self.close_deadline().is_some_and(|deadline| deadline <= now)
    }

    /// Nothing that waits for this side will be taken.
    #[must_use]
    pub fn is_dead(&self, side: Side) -> bool {
        self.legs[side].dead
    }

    /// Whether more is to be read from this side.
    #[must_use]
    pub fn wants_bytes(&self, side: Side) -> bool {
        !self.legs[side].eof && !self.legs[side].dead
    }

    /// Whether this side is to be told the end of the stream, behind what was sent to it.
    #[must_use]
    pub fn wants_shutdown(&self, side: Side) -> bool {
        self.legs[side.other()].eof && !self.legs[side].dead
    }

    /// Whether this side has said all that it has to say, while the other goes on: its stream can tell of a
    /// break yet.
    #[must_use]
    pub fn may_break(&self, side: Side) -> bool {
        self.legs[side].eof && self.is_foreign() && self.is_open()
    }

    /// Whether a side whose stream did not end in order is to see a break rather than an end: the end of
    /// the stream is all that tells there whether something is missing.
    #[must_use]
    pub fn ends_by_stream(&self) -> bool {
        self.is_foreign()
    }

    /// It is no WebSocket.
    fn is_foreign(&self) -> bool {
        self.counters().is_foreign()
    }

    /// The story so far; the end of one that has none is [`Why::Aborted`].
    #[must_use]
    pub fn outcome(&self, now: Tick) -> Outcome {
        let (ending, idle) = match self.end() {
            Some(end) => (end.ending.clone(), end.idle),
            None => (Ending::new(Who::Proxy, Why::Aborted), self.idle(now)),
        };
        let counters = self.counters();
        let traffic =
            PerSide { client: counters.traffic(Side::Client), upstream: counters.traffic(Side::Upstream) };
        Outcome { ending, traffic, duration: now.elapsed(), idle, blind: counters.blind(), ended: None }
    }
}

impl Leg {
    /// Since when this side has taken none of the bytes that wait for it, if any do.
    pub(super) fn waits_since(&self) -> Option<Tick> {
        self.blocked.map(|since| since.max(self.took))
    }

    fn give_up(&mut self) {
        self.dead = true;
        self.forget_queued();
    }

    /// Ends without a Close: there is nothing more to wait for than the writing of what was sent.
    fn cut(&mut self) {
        self.forget_queued();
        self.sealed = true;
        self.closed = true;
    }

    pub(super) fn forget_queued(&mut self) {
        self.queued_close = false;
        (self.keepalive.queued_ping, self.keepalive.queued_pong) = (false, false);
    }

    fn is_settled(&self) -> bool {
        self.dead || self.eof || (self.sealed && self.closed)
    }
}

/// The code that tells the other side that this one is gone.
fn gone(side: Side) -> CloseCode {
    match side {
        Side::Client => CloseCode::GOING_AWAY,
        Side::Upstream => CloseCode::BAD_GATEWAY,
    }
}

/// What a Close frame says about an end: short, plain, and good to read in a browser's console.
fn words(who: Who, why: Why) -> &'static str {
    match (who, why) {
        (Who::Client, Why::Eof) => "client left without a close frame",
        (Who::Client, Why::Reset) => "client reset the connection",
        (Who::Client, Why::Unresponsive) => "client did not answer a ping",
        (Who::Client, Why::TcpTimeout) => "client unreachable",
        (Who::Client, Why::SendTimeout) => "client took no data in time",
        (Who::Upstream, Why::Eof) => "upstream left without a close frame",
        (Who::Upstream, Why::Reset) => "upstream reset the connection",
        (Who::Upstream, Why::Unresponsive) => "upstream did not answer a ping",
        (Who::Upstream, Why::TcpTimeout) => "upstream unreachable",
        (Who::Upstream, Why::SendTimeout) => "upstream took no data in time",
        (_, Why::ReadTimeout) => "idle for too long",
        (_, Why::Lifetime) => "longest permitted lifetime reached",
        (_, Why::Shutdown) => "proxy is shutting down",
        (_, Why::Drain) => "upstream server is being drained",
        (_, Why::EndpointRemoved) => "upstream server is being removed",
        (_, Why::Operator) => "closed by the operator",
        _ => "",
    }
}
