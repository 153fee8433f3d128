//! Owns when: which timers of a tunnel run, and what is done as they expire.

use super::{Output, Relay};
use crate::outcome::{Side, Why};
use crate::tunnel::Pong;
use crate::tunnel::counters::Counters;
use crate::tunnel::timer::{Tick, Timer};

impl<C: AsRef<Counters>> Relay<C> {
    /// When this side is to be sent a Ping, if ever: not while bytes wait for it (their timeout
    /// is the send timeout), not behind a Close, not when one is queued already, and not while the
    /// answer to the last one decides over life and death, which it does unless it cannot be read.
    pub(super) fn ping_due(&self, side: Side) -> Option<Tick> {
        let leg = &self.legs[side];
        let closing = !self.is_open() || leg.told || leg.blocked.is_some() || leg.keepalive.queued_ping;
        let judged =
            self.settings.pong == Pong::Required && leg.keepalive.is_awaiting() && !self.is_held_up(side);
        if self.is_blind() || closing || judged {
            return None;
        }
        let interval = self.settings.ping[side]?;
        Some(leg.keepalive.due(self.counters().heard(side), interval, self.settings.ping_timeout))
    }

    fn pong_due(&self, side: Side) -> Option<Tick> {
        let (leg, timeout) = (&self.legs[side], self.settings.ping_timeout);
        if self.is_blind() || self.settings.pong == Pong::Optional || self.is_held_up(side) {
            return None;
        }
        if leg.blocked.is_some() {
            // No Ping reaches it behind bytes that it does not take. One that neither sends nor takes a
            // byte is not given longer than one that may be pinged.
            let longest = self.settings.ping[side]?.saturating_add(timeout.saturating_mul(2));
            return Some(self.counters().heard(side).max(leg.took) + longest);
        }
        let free_since = leg.took.max(self.legs[side.other()].took);
        leg.keepalive.dead_at(free_since, timeout)
    }

    /// Nothing is read from this side, as bytes wait for the other: its silence proves nothing.
    fn is_held_up(&self, side: Side) -> bool {
        self.legs[side.other()].blocked.is_some()
    }

    /// All timers that run, with their moments.
    fn timers(&self) -> impl Iterator<Item = (Tick, Timer)> + '_ {
        let open = self.is_open();
        let sides = Side::BOTH.into_iter().filter(move |_| open).flat_map(|side| {
            let leg = &self.legs[side];
            let send_timeout = self.settings.send_timeout.zip(leg.waits_since());
            [
                self.pong_due(side).map(|at| (at, Timer::PongDue(side))),
                send_timeout.map(|(timeout, since)| (since + timeout, Timer::Send(side))),
                self.ping_due(side).map(|at| (at, Timer::PingDue(side))),
            ]
        });
        let moved = Side::BOTH.map(|side| self.counters().heard(side).max(self.legs[side].took));
        let last_moved = moved[0].max(moved[1]);
        let both = [
            self.settings.read_timeout.map(|timeout| (last_moved + timeout, Timer::Read)),
            self.settings.max_lifetime.map(|span| (Tick::ZERO + span, Timer::Lifetime)),
            self.standing_order().map(|order| (order.at, Timer::Order)),
        ];
        let both = both.into_iter().filter(move |_| open);
        let grace = [self.close_deadline().map(|at| (at, Timer::CloseGrace))];
        sides.chain(both).chain(grace).flatten()
    }

    /// When [`Relay::on_tick`] is to be called next. It mostly moves later as bytes arrive: a
    /// driver need not follow it then, only when it moves earlier than the wake-up it has set.
    #[must_use]
    pub fn next_tick(&self) -> Option<Tick> {
        self.timers().map(|(at, _)| at).min()
    }

    /// Whether [`Relay::next_tick`] may have moved earlier since this was last asked, or was never asked for
    /// since the opening or the last [`Relay::on_tick`]. Data that passes only puts timers off, and so costs no
    /// look at them.
    pub fn has_moved_forward(&mut self) -> bool {
        Side::BOTH
            .into_iter()
            .fold(false, |moved, side| moved | std::mem::take(&mut self.legs[side].moved_forward))
    }

    /// Something happened that is of both sides.
    pub(super) fn move_forward(&mut self) {
        self.legs.client.moved_forward = true;
    }

    /// Does what is due by `now`.
    pub fn on_tick(&mut self, now: Tick, out: &mut impl Output) {
        self.move_forward();
        // An end stops the other timers, so each is looked up anew.
        while let Some(timer) = self.due(now) {
            match timer {
                Timer::PongDue(side) => self.end_unresponsive(side, now, out),
                Timer::Send(side) => self.end_send_timeout(side, now, out),
                Timer::PingDue(side) if self.legs[side.other()].mid_frame => {
                    self.legs[side].keepalive.queued_ping = true
                }
                Timer::PingDue(side) => self.ping(side, now, out),
                Timer::Read => self.end_by_proxy(Why::ReadTimeout, now, out),
                Timer::Lifetime => self.end_by_proxy(Why::Lifetime, now, out),
                Timer::Order => self.end_by_order(now, out),
                Timer::CloseGrace => return,
            }
        }
    }

    fn due(&self, now: Tick) -> Option<Timer> {
        self.timers().find(|&(at, timer)| at <= now && timer != Timer::CloseGrace).map(|(_, timer)| timer)
    }

    /// Bytes for this side are waiting from now on.
    pub fn on_blocked(&mut self, side: Side, now: Tick) {
        let leg = &mut self.legs[side];
        leg.blocked.get_or_insert(now);
        leg.moved_forward = true;
    }

    /// This side took some of the bytes that wait for it.
    pub fn on_progress(&mut self, side: Side, now: Tick) {
        self.on_blocked(side, now);
        self.legs[side].took = now;
    }

    /// Whether a side's silence is to be judged: if there was none, [`Relay::on_arrival`] is to say
    /// so before the next [`Relay::on_tick`].
    #[must_use]
    pub fn judges(&self, side: Side, now: Tick) -> bool {
        let about = |timer| matches!(timer, Timer::PongDue(of) if of == side) || timer == Timer::Read;
        let can_be_read = self.wants_bytes(side) && !self.is_held_up(side);
        can_be_read && self.timers().any(|(at, timer)| at <= now && about(timer))
    }

    /// Something has arrived from a side, read or not.
    pub fn on_arrival(&mut self, side: Side, now: Tick) {
        self.counters().arrived(side, now);
        let leg = &mut self.legs[side];
        leg.moved_forward |= leg.keepalive.heard();
    }

    /// The driver itself did not run for a while, up to now: what a side did meanwhile may still be
    /// on its way here, so all waiting for it begins anew.
    pub fn on_stall(&mut self, now: Tick) {
        for side in Side::BOTH {
            self.legs[side].took = now;
        }
    }

    /// No bytes wait for this side any more.
    pub fn on_drained(&mut self, side: Side, now: Tick) {
        let leg = &mut self.legs[side];
        (leg.blocked, leg.took, leg.moved_forward) = (None, now, true);
    }
}
