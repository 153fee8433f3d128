//! Owns the output of the relay: it sends bytes to the streams, with one write for all pieces of a side.

use super::buffered_stream::BufferedStream;
use crate::io::Readiness;
use crate::outcome::{PerSide, Side};
use crate::tunnel::inspect::{FrameSenders, TimedFrame};
use crate::tunnel::relay::{BadPong, FrameEvent, Output, PongFault};
use crate::tunnel::timer::TunnelTime;
use crate::ws::mask::MaskKey;
use std::cell::RefCell;
use std::task::Context;
use tokio::io::{AsyncRead, AsyncWrite};

thread_local! {
    /// Pieces for each side, until one write sends them.
    static GATHERED: RefCell<PerSide<Vec<u8>>> = RefCell::default();
}

/// Sends bytes to the streams at once, and gathers pieces.
pub(super) struct SessionOutput<'a, 'c, S> {
    streams: &'a mut PerSide<BufferedStream<S>>,
    cx: &'a mut Context<'c>,
    bad_pongs: &'a mut PerSide<Option<PongFault>>,
    /// Whether pieces for the side wait in [`GATHERED`].
    gathers: PerSide<bool>,
}

impl<'a, 'c, S: AsyncRead + AsyncWrite + Readiness + Unpin> SessionOutput<'a, 'c, S> {
    pub(super) fn new(
        streams: &'a mut PerSide<BufferedStream<S>>,
        bad_pongs: &'a mut PerSide<Option<PongFault>>,
        cx: &'a mut Context<'c>,
    ) -> Self {
        Self { streams, cx, bad_pongs, gathers: PerSide::default() }
    }

    /// Writes the gathered pieces. The caller of the relay must call this afterwards.
    pub(super) fn write_gathered(&mut self) {
        for side in Side::BOTH {
            if self.gathers[side] {
                self.write_gathered_of(side);
            }
        }
    }

    #[cold]
    fn write_gathered_of(&mut self, side: Side) {
        GATHERED.with_borrow(|gathered| self.streams[side].write(&gathered[side], self.cx));
    }
}

impl<S: AsyncRead + AsyncWrite + Readiness + Unpin> Output for SessionOutput<'_, '_, S> {
    fn send(&mut self, to: Side, bytes: &[u8]) {
        if self.gathers[to] { self.gather(to, bytes) } else { self.streams[to].write(bytes, self.cx) }
    }

    #[inline(never)]
    fn gather(&mut self, to: Side, bytes: &[u8]) {
        let is_first = !std::mem::replace(&mut self.gathers[to], true);
        GATHERED.with_borrow_mut(|gathered| {
            if is_first {
                // Pieces of an earlier call, perhaps of another tunnel.
                gathered[to].clear();
            }
            gathered[to].extend_from_slice(bytes);
        });
    }

    fn mask_key(&mut self) -> MaskKey {
        MaskKey::random()
    }

    fn report_bad_pong(&mut self, bad_pong: BadPong) {
        self.bad_pongs[bad_pong.side] = Some(bad_pong.fault);
    }
}

/// An output that also sends each frame to the inspectors.
pub(super) struct InspectedOutput<'a, O> {
    out: &'a mut O,
    inspectors: &'a mut FrameSenders,
    now: TunnelTime,
}

impl<'a, O> InspectedOutput<'a, O> {
    pub(super) fn new(out: &'a mut O, inspectors: &'a mut FrameSenders, now: TunnelTime) -> Self {
        Self { out, inspectors, now }
    }
}

impl<O: Output> Output for InspectedOutput<'_, O> {
    fn send(&mut self, to: Side, bytes: &[u8]) {
        self.out.send(to, bytes);
    }

    fn gather(&mut self, to: Side, bytes: &[u8]) {
        self.out.gather(to, bytes);
    }

    fn mask_key(&mut self) -> MaskKey {
        self.out.mask_key()
    }

    fn on_frame(&mut self, event: FrameEvent) {
        self.inspectors.send(TimedFrame { at: self.now, event });
    }

    fn report_bad_pong(&mut self, bad_pong: BadPong) {
        self.out.report_bad_pong(bad_pong);
    }
}
