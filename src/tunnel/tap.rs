//! Owns the look at a live tunnel's frames from outside: headers only, as they pass. Whoever looks too
//! slowly misses some, and holds up nobody.

use super::relay::Seen;
use super::timer::Tick;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

/// A frame and its moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// When, since the tunnel opened.
    pub at: Tick,
    /// What its header tells.
    pub seen: Seen,
}

/// The frames of a tunnel, from when this was asked for; dropped, it costs the tunnel nothing more.
#[derive(Debug)]
pub struct Tail {
    frames: mpsc::Receiver<Frame>,
    left_out: Arc<AtomicU64>,
}

impl Tail {
    /// The next frame; `None`: the tunnel has ended.
    pub async fn next(&mut self) -> Option<Frame> {
        self.frames.recv().await
    }

    /// How many frames there was no room for since this was last asked.
    #[must_use]
    pub fn take_left_out(&self) -> u64 {
        self.left_out.swap(0, Ordering::Relaxed)
    }
}

/// The tunnel's end of a [`Tail`].
#[derive(Debug)]
pub(super) struct Tap {
    frames: mpsc::Sender<Frame>,
    left_out: Arc<AtomicU64>,
}

/// A tap and its tail, with room for so many frames between them.
pub(super) fn channel(room: usize) -> (Tap, Tail) {
    let (sender, frames) = mpsc::channel(room.max(1));
    let left_out = Arc::new(AtomicU64::new(0));
    (Tap { frames: sender, left_out: Arc::clone(&left_out) }, Tail { frames, left_out })
}

/// All who look at a tunnel.
#[derive(Debug, Default)]
pub(super) struct Taps(Vec<Tap>);

impl Taps {
    pub(super) fn add(&mut self, taps: Vec<Tap>) {
        self.0.extend(taps);
    }

    /// Shows a frame to all, and forgets who has gone.
    pub(super) fn show(&mut self, frame: Frame) {
        self.0.retain(|tap| match tap.frames.try_send(frame) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                tap.left_out.fetch_add(1, Ordering::Relaxed);
                true
            }
            Err(TrySendError::Closed(_)) => false,
        });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
