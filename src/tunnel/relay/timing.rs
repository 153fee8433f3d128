//! Owns the timers of a tunnel: which ones run, and what happens when they expire.

use super::{Output, Relay};
use crate::outcome::{Cause, Side};
use crate::tunnel::Pong;
use crate::tunnel::counters::Counters;
use crate::tunnel::timer::{Timer, TunnelTime};

impl<C: AsRef<Counters>> Relay<C> {
    /// When the next Ping to this side is due. `None` while bytes wait for it (the send timeout covers them), after a
    /// Close, and while a Ping is queued. Also `None` while a Pong is awaited that decides whether the peer is alive.
    pub(super) fn ping_due(&self, side: Side) -> Option<TunnelTime> {
        let state = &self.sides[side];
        let is_held_back = !self.is_open()
            || !state.takes_injected()
            || state.blocked_since.is_some()
            || state.keepalive.queued_ping;
        let judged = self.settings.pong == Pong::Required
            && state.keepalive.is_awaiting()
            && !self.is_read_paused(side);
        if self.is_blind() || is_held_back || judged {
            return None;
        }
        let interval = self.settings.ping[side]?;
        Some(state.keepalive.due(self.counters().last_read(side), interval, self.settings.ping_timeout))
    }

    fn pong_due(&self, side: Side) -> Option<TunnelTime> {
        let (state, timeout) = (&self.sides[side], self.settings.ping_timeout);
        if self.is_blind() || self.settings.pong == Pong::Optional || self.is_read_paused(side) {
            return None;
        }
        if state.blocked_since.is_some() {
            // No Ping can reach the side while it takes no bytes. If it sends none either, it gets no more time than
            // a side that can be pinged.
            let longest = self.settings.ping[side]?.saturating_add(timeout.saturating_mul(2));
            return Some(self.counters().last_read(side).max(state.last_write) + longest);
        }
        let free_since = state.last_write.max(self.sides[side.other()].last_write);
        state.keepalive.dead_at(free_since, timeout)
    }

    /// Whether reads from this side are paused, because bytes wait for the other. Its silence proves nothing then.
    fn is_read_paused(&self, side: Side) -> bool {
        self.sides[side.other()].blocked_since.is_some()
    }

    /// All running timers, with their deadlines.
    fn timers(&self) -> impl Iterator<Item = (TunnelTime, Timer)> + '_ {
        let open = self.is_open();
        let sides = Side::BOTH.into_iter().filter(move |_| open).flat_map(|side| {
            let state = &self.sides[side];
            let send_timeout = self.settings.send_timeout.zip(state.waits_since());
            [
                self.pong_due(side).map(|at| (at, Timer::PongDue(side))),
                send_timeout.map(|(timeout, since)| (since + timeout, Timer::Send(side))),
                self.ping_due(side).map(|at| (at, Timer::PingDue(side))),
            ]
        });
        let moved = Side::BOTH.map(|side| self.counters().last_read(side).max(self.sides[side].last_write));
        let last_moved = moved[0].max(moved[1]);
        let both = [
            self.settings.read_timeout.map(|timeout| (last_moved + timeout, Timer::Read)),
            self.settings.max_lifetime.map(|span| (TunnelTime::ZERO + span, Timer::Lifetime)),
            self.close_request().map(|request| (request.at, Timer::CloseRequest)),
        ];
        let both = both.into_iter().filter(move |_| open);
        let grace = [self.close_deadline().map(|at| (at, Timer::CloseGrace))];
        sides.chain(both).chain(grace).flatten()
    }

    /// When the driver should call [`Relay::on_timer`] next. Arriving bytes mostly make this later. A driver needs to
    /// follow it only when it becomes earlier than the wake-up that the driver has set.
    #[must_use]
    pub fn next_deadline(&self) -> Option<TunnelTime> {
        self.timers().map(|(at, _)| at).min()
    }

    /// Returns whether [`Relay::next_deadline`] may be earlier than at the last call, and clears that mark. A new
    /// relay and [`Relay::on_timer`] set the mark too. Data that passes only delays deadlines, so it sets no mark.
    pub fn take_earlier_deadline(&mut self) -> bool {
        Side::BOTH
            .into_iter()
            .fold(false, |moved, side| moved | std::mem::take(&mut self.sides[side].earlier_deadline))
    }

    /// Marks that a deadline of either side may be earlier now.
    pub(super) fn mark_earlier_deadline(&mut self) {
        self.sides.client.earlier_deadline = true;
    }

    /// Handles all timers that are due by `now`.
    pub fn on_timer(&mut self, now: TunnelTime, out: &mut impl Output) {
        self.mark_earlier_deadline();
        // An end stops the other timers, so each step looks them up again.
        while let Some(timer) = self.due(now) {
            match timer {
                Timer::PongDue(side) => self.end_unresponsive(side, now, out),
                Timer::Send(side) => self.end_send_timeout(side, now, out),
                Timer::PingDue(side) if self.sides[side.other()].mid_frame => {
                    self.sides[side].keepalive.queued_ping = true
                }
                Timer::PingDue(side) => self.ping(side, now, out),
                Timer::Read => self.end_by_proxy(Cause::ReadTimeout, now, out),
                Timer::Lifetime => self.end_by_proxy(Cause::Lifetime, now, out),
                Timer::CloseRequest => self.end_by_request(now, out),
                Timer::CloseGrace => return,
            }
        }
    }

    fn due(&self, now: TunnelTime) -> Option<Timer> {
        self.timers().find(|&(at, timer)| at <= now && timer != Timer::CloseGrace).map(|(_, timer)| timer)
    }

    /// Records that bytes for this side wait from now on.
    pub fn on_blocked(&mut self, side: Side, now: TunnelTime) {
        let state = &mut self.sides[side];
        state.blocked_since.get_or_insert(now);
        state.earlier_deadline = true;
    }

    /// Records that this side took some of the bytes that wait for it.
    pub fn on_progress(&mut self, side: Side, now: TunnelTime) {
        self.on_blocked(side, now);
        self.sides[side].last_write = now;
    }

    /// Whether a timer about this side's silence is due. If bytes have arrived nevertheless, the driver must call
    /// [`Relay::on_arrival`] before the next [`Relay::on_timer`].
    #[must_use]
    pub fn is_silence_due(&self, side: Side, now: TunnelTime) -> bool {
        let about = |timer| matches!(timer, Timer::PongDue(of) if of == side) || timer == Timer::Read;
        let can_be_read = self.wants_bytes(side) && !self.is_read_paused(side);
        can_be_read && self.timers().any(|(at, timer)| at <= now && about(timer))
    }

    /// Records that bytes have arrived from a side, read or not.
    pub fn on_arrival(&mut self, side: Side, now: TunnelTime) {
        self.counters().arrived(side, now);
        let state = &mut self.sides[side];
        state.earlier_deadline |= state.keepalive.on_byte();
    }

    /// Records that the process was paused until now. Bytes that a side sent meanwhile may not be read yet, so all
    /// waiting for it starts again.
    pub fn on_stall(&mut self, now: TunnelTime) {
        for side in Side::BOTH {
            self.sides[side].last_write = now;
        }
    }

    /// Records that no bytes wait for this side any more.
    pub fn on_drained(&mut self, side: Side, now: TunnelTime) {
        let state = &mut self.sides[side];
        (state.blocked_since, state.last_write, state.earlier_deadline) = (None, now, true);
    }
}
