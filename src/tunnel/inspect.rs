//! Owns frame inspection: it streams the frame headers of a live tunnel to inspectors. A slow inspector loses
//! frames. It never delays the tunnel.

use super::relay::FrameEvent;
use super::timer::TunnelTime;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

/// A frame, and when it passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedFrame {
    /// When the relay read or sent it.
    pub at: TunnelTime,
    /// Its header.
    pub event: FrameEvent,
}

/// The frames of a tunnel, from the moment at which the stream was made. Dropping it ends the inspection.
#[derive(Debug)]
pub struct FrameStream {
    frames: mpsc::Receiver<TimedFrame>,
    dropped: Arc<AtomicU64>,
}

impl FrameStream {
    /// The next frame. `None` means that the tunnel has ended.
    pub async fn next(&mut self) -> Option<TimedFrame> {
        self.frames.recv().await
    }

    /// Returns how many frames were dropped since the last call, because the queue was full.
    #[must_use]
    pub fn take_dropped(&self) -> u64 {
        self.dropped.swap(0, Ordering::Relaxed)
    }
}

/// The tunnel's end of a [`FrameStream`].
#[derive(Debug)]
pub(super) struct FrameSender {
    frames: mpsc::Sender<TimedFrame>,
    dropped: Arc<AtomicU64>,
}

/// A queue for up to `capacity` frames.
pub(super) fn channel(capacity: usize) -> (FrameSender, FrameStream) {
    let (sender, frames) = mpsc::channel(capacity.max(1));
    let dropped = Arc::new(AtomicU64::new(0));
    (FrameSender { frames: sender, dropped: Arc::clone(&dropped) }, FrameStream { frames, dropped })
}

/// All inspectors of a tunnel.
#[derive(Debug, Default)]
pub(super) struct FrameSenders(Vec<FrameSender>);

impl FrameSenders {
    pub(super) fn add(&mut self, senders: Vec<FrameSender>) {
        self.0.extend(senders);
    }

    /// Sends a frame to all inspectors, and removes those that are gone.
    pub(super) fn send(&mut self, frame: TimedFrame) {
        self.0.retain(|sender| match sender.frames.try_send(frame) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                sender.dropped.fetch_add(1, Ordering::Relaxed);
                true
            }
            Err(TrySendError::Closed(_)) => false,
        });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
