//! Owns the way of the relay's bytes to the streams: one write for all that a side is sent at once.

use super::leg::Leg;
use crate::io::Readiness;
use crate::outcome::{PerSide, Side};
use crate::tunnel::relay::{BadAnswer, Fault, Output, Seen};
use crate::tunnel::tap::{Frame, Taps};
use crate::tunnel::timer::Tick;
use crate::ws::mask::MaskKey;
use std::cell::RefCell;
use std::task::Context;
use tokio::io::{AsyncRead, AsyncWrite};

thread_local! {
    /// What is sent to each side in pieces, until it is written.
    static GATHERED: RefCell<PerSide<Vec<u8>>> = RefCell::default();
}

/// Where the relay's bytes go: straight to the streams, and what comes in pieces behind one another.
pub(super) struct Both<'a, 'c, S> {
    legs: &'a mut PerSide<Leg<S>>,
    cx: &'a mut Context<'c>,
    bad_answers: &'a mut PerSide<Option<Fault>>,
    /// Pieces for this side wait in [`GATHERED`].
    gathers: PerSide<bool>,
}

impl<'a, 'c, S: AsyncRead + AsyncWrite + Readiness + Unpin> Both<'a, 'c, S> {
    pub(super) fn new(
        legs: &'a mut PerSide<Leg<S>>,
        bad_answers: &'a mut PerSide<Option<Fault>>,
        cx: &'a mut Context<'c>,
    ) -> Self {
        Self { legs, cx, bad_answers, gathers: PerSide::default() }
    }

    /// Writes what came in pieces. Whoever has fed the relay calls it.
    pub(super) fn write_gathered(&mut self) {
        for side in Side::BOTH {
            if self.gathers[side] {
                self.write_gathered_of(side);
            }
        }
    }

    #[cold]
    fn write_gathered_of(&mut self, side: Side) {
        GATHERED.with_borrow(|gathered| self.legs[side].write(&gathered[side], self.cx));
    }
}

impl<S: AsyncRead + AsyncWrite + Readiness + Unpin> Output for Both<'_, '_, S> {
    fn send(&mut self, to: Side, bytes: &[u8]) {
        if self.gathers[to] { self.gather(to, bytes) } else { self.legs[to].write(bytes, self.cx) }
    }

    #[inline(never)]
    fn gather(&mut self, to: Side, bytes: &[u8]) {
        let is_first = !std::mem::replace(&mut self.gathers[to], true);
        GATHERED.with_borrow_mut(|gathered| {
            if is_first {
                // Another tunnel's, of before.
                gathered[to].clear();
            }
            gathered[to].extend_from_slice(bytes);
        });
    }

    fn mask_key(&mut self) -> MaskKey {
        MaskKey::random()
    }

    fn answered_badly(&mut self, how: BadAnswer) {
        self.bad_answers[how.side] = Some(how.fault);
    }
}

/// The same, watched.
pub(super) struct Tapped<'a, O> {
    out: &'a mut O,
    taps: &'a mut Taps,
    now: Tick,
}

impl<'a, O> Tapped<'a, O> {
    pub(super) fn new(out: &'a mut O, taps: &'a mut Taps, now: Tick) -> Self {
        Self { out, taps, now }
    }
}

impl<O: Output> Output for Tapped<'_, O> {
    fn send(&mut self, to: Side, bytes: &[u8]) {
        self.out.send(to, bytes);
    }

    fn gather(&mut self, to: Side, bytes: &[u8]) {
        self.out.gather(to, bytes);
    }

    fn mask_key(&mut self) -> MaskKey {
        self.out.mask_key()
    }

    fn see(&mut self, seen: Seen) {
        self.taps.show(Frame { at: self.now, seen });
    }

    fn answered_badly(&mut self, how: BadAnswer) {
        self.out.answered_badly(how);
    }
}
