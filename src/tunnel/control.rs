//! Owns the handle to an open tunnel. Other tasks use it to change settings, to request the end, and to read
//! counts. An idle tunnel pays for it with memory only.

use super::Settings;
use super::counters::Counters;
use super::inspect::{self, FrameSender, FrameStream};
use super::timer::TunnelTime;
use super::wake::DriverWaker;
use crate::outcome::Cause;
use crate::ws::close::CloseReason;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::time::Instant;

/// The handle to a tunnel.
#[derive(Debug)]
pub struct Control {
    opened: Instant,
    counters: Counters,
    /// A flag in `counters` tells whether this holds changes, so that a turn pays for one load only.
    mailbox: Mutex<Mailbox>,
}

#[derive(Debug, Default)]
enum Mailbox {
    /// No changes, and no driver to wake yet.
    #[default]
    Unattached,
    /// No changes. This is the usual state.
    Empty(DriverWaker),
    /// Changes that the tunnel has not taken yet.
    Full(Box<Changes>),
    /// The tunnel has ended. Changes are dropped.
    Closed,
}

/// What other tasks asked of the tunnel since it last took changes.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) settings: Option<Arc<Settings>>,
    pub(super) close: Option<(Instant, Cause, Option<Box<CloseReason>>)>,
    pub(super) cut: Option<Cause>,
    pub(super) inspectors: Vec<FrameSender>,
    waker: Option<DriverWaker>,
}

impl Mailbox {
    /// The changes, to add to them. `None` means that the tunnel has ended.
    fn changes(&mut self) -> Option<&mut Changes> {
        match std::mem::take(self) {
            Self::Unattached => *self = Self::Full(Box::default()),
            Self::Empty(waker) => {
                *self = Self::Full(Box::new(Changes { waker: Some(waker), ..Changes::default() }));
            }
            mailbox => *self = mailbox,
        }
        match self {
            Self::Full(changes) => Some(changes),
            _ => None,
        }
    }
}

impl Default for Control {
    fn default() -> Self {
        Self::new(Counters::default())
    }
}

impl Control {
    /// The handle to a tunnel that opens now and counts in `counters`.
    #[must_use]
    pub fn new(counters: Counters) -> Self {
        Self { opened: Instant::now(), counters, mailbox: Mutex::default() }
    }

    /// When the tunnel opened, which is [`TunnelTime::ZERO`].
    #[must_use]
    pub fn opened(&self) -> Instant {
        self.opened
    }

    /// The tunnel's counters, which change while it lives.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The present moment in tunnel time.
    #[must_use]
    pub fn now(&self) -> TunnelTime {
        self.time_at(Instant::now())
    }

    /// Converts a moment to tunnel time.
    #[must_use]
    pub fn time_at(&self, at: Instant) -> TunnelTime {
        TunnelTime::after(at.saturating_duration_since(self.opened))
    }

    /// Asks the tunnel to close at `at`. The earliest request counts.
    pub fn close(&self, at: Instant, cause: Cause) {
        self.request_close(at, cause, None);
    }

    /// Asks the tunnel to close now, at the next frame boundary, and to send this code and text to both sides.
    /// `close_codes` applies to the code. A text over 123 bytes is cut. The caller must reject a code that may not
    /// be sent (RFC 6455 7.4).
    pub fn close_with(&self, cause: Cause, reason: CloseReason) {
        self.request_close(Instant::now(), cause, Some(Box::new(reason)));
    }

    fn request_close(&self, at: Instant, cause: Cause, reason: Option<Box<CloseReason>>) {
        self.post(|changes| {
            if changes.close.as_ref().is_none_or(|(earlier, ..)| at < *earlier) {
                changes.close = Some((at, cause, reason));
            }
        });
    }

    /// Ends the tunnel at once. A Close frame is sent only where it fits.
    pub fn cut(&self, cause: Cause) {
        self.post(|changes| changes.cut = Some(cause));
    }

    /// Gives the tunnel new settings of its route.
    pub fn set_settings(&self, settings: Arc<Settings>) {
        self.post(|changes| changes.settings = Some(settings));
    }

    /// Streams the frame headers from the tunnel's next turn on. The queue holds up to `capacity` frames. Further
    /// frames are dropped and counted.
    #[must_use]
    pub fn inspect(&self, capacity: usize) -> FrameStream {
        let (sender, stream) = inspect::channel(capacity);
        self.post(|changes| changes.inspectors.push(sender));
        stream
    }

    fn post(&self, change: impl FnOnce(&mut Changes)) {
        let waker = {
            let mut mailbox = self.lock();
            let Some(changes) = mailbox.changes() else { return };
            change(changes);
            self.counters.has_changes.store(true, Ordering::Release);
            changes.waker.clone()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Sets what wakes the tunnel's driver from now on.
    pub(super) fn attach(&self, waker: DriverWaker) {
        let mut mailbox = self.lock();
        match &mut *mailbox {
            Mailbox::Unattached | Mailbox::Empty(_) => *mailbox = Mailbox::Empty(waker),
            Mailbox::Full(changes) => changes.waker = Some(waker),
            Mailbox::Closed => {}
        }
    }

    /// Closes the mailbox, because the tunnel has ended. This drops all changes, which ends the streams of
    /// inspectors among them.
    pub(super) fn close_mailbox(&self) {
        let dropped = std::mem::replace(&mut *self.lock(), Mailbox::Closed);
        // Dropped after the lock is released, because it may wake other tasks.
        drop(dropped);
    }

    /// Whether there may be changes to take. A plain load: an atomic exchange on every turn would take the cache
    /// line for nothing.
    #[inline]
    pub(super) fn has_changes(&self) -> bool {
        self.counters.has_changes.load(Ordering::Relaxed)
    }

    pub(super) fn take_changes(&self) -> Option<Box<Changes>> {
        if !self.counters.has_changes.swap(false, Ordering::Acquire) {
            return None;
        }
        let mut mailbox = self.lock();
        let Mailbox::Full(changes) = &mut *mailbox else { return None };
        let rest = changes.waker.take().map_or(Mailbox::Unattached, Mailbox::Empty);
        match std::mem::replace(&mut *mailbox, rest) {
            Mailbox::Full(changes) => Some(changes),
            _ => None,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Mailbox> {
        self.mailbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn changes_are_taken_once_and_wake_the_driver_once_it_is_attached() {
        let (control, wakes) = (Control::default(), Arc::new(Wakes::default()));
        let cut = || control.take_changes().and_then(|changes| changes.cut);
        control.cut(Cause::Drain);
        control.attach(DriverWaker::Task(Arc::clone(&wakes).into()));
        assert_eq!((cut(), cut(), wakes.0.load(Ordering::Relaxed)), (Some(Cause::Drain), None, 0));
        control.cut(Cause::Shutdown);
        control.cut(Cause::Operator);
        assert_eq!((cut(), cut(), wakes.0.load(Ordering::Relaxed)), (Some(Cause::Operator), None, 2));
        control.close_mailbox();
        control.cut(Cause::Drain);
        assert_eq!((cut(), wakes.0.load(Ordering::Relaxed)), (None, 2));
        assert_eq!(Arc::strong_count(&wakes), 1, "it keeps no waker");
    }

    #[test]
    fn the_handle_to_a_tunnel_is_small() {
        // Each idle tunnel has one. With the counts of its Arc it takes 160 bytes.
        assert!(size_of::<Control>() <= 144, "{}", size_of::<Control>());
    }
}
