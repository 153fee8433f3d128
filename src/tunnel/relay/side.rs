//! Owns the state of one side, as a source and as a destination of bytes. It must not know the other side.

use super::keepalive::Keepalive;
use crate::tunnel::timer::TunnelTime;
use crate::ws::scanner::{Rules, Scanner};

/// One side, as a source and as a destination of bytes.
#[derive(Debug)]
pub(super) struct RelaySide {
    pub(super) scanner: Scanner,
    pub(super) keepalive: Keepalive,
    /// When this side last took some of the bytes that waited for it. A pause of the process counts too, because
    /// the side may have taken bytes meanwhile.
    pub(super) last_write: TunnelTime,
    /// Since when bytes wait for this side.
    pub(super) blocked_since: Option<TunnelTime>,
    hearing: Hearing,
    telling: Telling,
    /// Only a part of a data frame *from* this side was forwarded.
    pub(super) mid_frame: bool,
    /// A deadline may be earlier now. See [`Relay::take_earlier_deadline`](super::Relay::take_earlier_deadline).
    pub(super) earlier_deadline: bool,
}

/// What may still come from a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hearing {
    /// Frames.
    Open,
    /// It has sent a Close frame. Some peers send more after it.
    CloseSeen,
    /// Its stream has ended.
    Ended,
}

/// What may still be sent to a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Telling {
    /// Frames of the other side, and Holdline's own.
    Open,
    /// The same, until the next frame boundary. A Close of Holdline waits for it.
    CloseQueued,
    /// A Close of the other side was forwarded. Nothing may be injected after it.
    PeerClosed,
    /// Holdline has sent a Close. Nothing of the other side may follow it.
    ProxyClosed,
    /// No Close is possible, so Holdline sends nothing more.
    Cut,
    /// Nothing can be read from this side or written to it any more.
    Dead,
}

impl RelaySide {
    pub(super) fn new(rules: Rules, tag: u32) -> Self {
        Self {
            scanner: Scanner::new(rules),
            keepalive: Keepalive::new(tag),
            last_write: TunnelTime::ZERO,
            blocked_since: None,
            hearing: Hearing::Open,
            telling: Telling::Open,
            mid_frame: false,
            earlier_deadline: true,
        }
    }

    /// Since when this side has taken none of the bytes that wait for it. `None` means that none wait.
    pub(super) fn waits_since(&self) -> Option<TunnelTime> {
        self.blocked_since.map(|since| since.max(self.last_write))
    }

    /// Whether its stream has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.hearing == Hearing::Ended
    }

    /// Whether nothing can be read from it or written to it any more.
    pub(super) fn is_dead(&self) -> bool {
        self.telling == Telling::Dead
    }

    /// Whether bytes can be read from it.
    pub(super) fn is_readable(&self) -> bool {
        !self.has_ended() && !self.is_dead()
    }

    /// Whether bytes of the other side may be sent to it.
    pub(super) fn takes_frames(&self) -> bool {
        matches!(self.telling, Telling::Open | Telling::CloseQueued | Telling::PeerClosed)
    }

    /// Whether Holdline may send frames of its own to it.
    pub(super) fn takes_injected(&self) -> bool {
        matches!(self.telling, Telling::Open | Telling::CloseQueued)
    }

    /// Whether the relay waits for nothing more from this side.
    pub(super) fn is_settled(&self) -> bool {
        match self.telling {
            Telling::Cut | Telling::Dead => true,
            Telling::ProxyClosed => self.hearing != Hearing::Open,
            Telling::Open | Telling::CloseQueued | Telling::PeerClosed => self.has_ended(),
        }
    }

    /// Whether frames of Holdline wait for the next frame boundary.
    pub(super) fn has_queued(&self) -> bool {
        self.keepalive.queued_ping || self.keepalive.queued_pong || self.telling == Telling::CloseQueued
    }

    /// Records the end of its stream. Returns whether that is new.
    pub(super) fn end(&mut self) -> bool {
        std::mem::replace(&mut self.hearing, Hearing::Ended) != Hearing::Ended
    }

    /// Records a Close frame from it.
    pub(super) fn see_close(&mut self) {
        if self.hearing == Hearing::Open {
            self.hearing = Hearing::CloseSeen;
        }
    }

    /// Lets a Close of Holdline wait for the next frame boundary.
    pub(super) fn queue_close(&mut self) {
        if self.takes_injected() {
            self.telling = Telling::CloseQueued;
        }
    }

    /// Returns whether a Close waited. The caller must send it.
    pub(super) fn take_queued_close(&mut self) -> bool {
        let is_queued = self.telling == Telling::CloseQueued;
        if is_queued {
            self.telling = Telling::Open;
        }
        is_queued
    }

    /// Records that a Close of the other side passes to it.
    pub(super) fn forward_close(&mut self) {
        if self.takes_injected() {
            self.clear_queue();
            self.telling = Telling::PeerClosed;
        }
    }

    /// Records that Holdline has sent it a Close.
    pub(super) fn close(&mut self) {
        if self.takes_injected() {
            self.telling = Telling::ProxyClosed;
        }
    }

    /// Ends this side without a Close. The relay then waits only until its output is written.
    pub(super) fn cut(&mut self) {
        self.clear_queue();
        if !self.is_dead() {
            self.telling = Telling::Cut;
        }
    }

    /// Records that nothing can be read from it or written to it any more.
    pub(super) fn give_up(&mut self) {
        self.clear_queue();
        self.telling = Telling::Dead;
    }

    /// Drops the frames of Holdline that wait for the next frame boundary.
    pub(super) fn clear_queue(&mut self) {
        self.take_queued_close();
        (self.keepalive.queued_ping, self.keepalive.queued_pong) = (false, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ACTS: [fn(&mut RelaySide); 8] = [
        |side| _ = side.end(),
        RelaySide::see_close,
        RelaySide::queue_close,
        |side| _ = side.take_queued_close(),
        RelaySide::forward_close,
        RelaySide::close,
        RelaySide::cut,
        RelaySide::give_up,
    ];

    proptest! {
        /// Whatever happens to a side, it opens no more once it has closed, and nothing is injected after a Close.
        #[test]
        fn no_state_leads_back(acts in prop::collection::vec(0..ACTS.len(), 0..12)) {
            let mut side = RelaySide::new(Rules { masked: true, deflate: false }, 7);
            for act in acts {
                let before = (side.is_readable(), side.takes_frames(), side.takes_injected(), !side.is_settled());
                ACTS[act](&mut side);
                let after = (side.is_readable(), side.takes_frames(), side.takes_injected(), !side.is_settled());
                prop_assert!(after.0 <= before.0 && after.1 <= before.1, "{side:?}");
                prop_assert!(after.2 <= before.2 && after.3 <= before.3, "{side:?}");
                prop_assert!(side.takes_injected() <= side.takes_frames(), "{side:?}");
                prop_assert!(!side.has_queued() || side.takes_injected(), "{side:?}");
            }
        }
    }
}
