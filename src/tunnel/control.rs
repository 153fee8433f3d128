//! Owns the line between an open tunnel and the rest of the process: orders and new settings go in,
//! its counts can be read at any time. An idle tunnel costs nothing for it but its place.

use super::Settings;
use super::counters::Counters;
use super::engine::Line;
use super::tap::{self, Tail, Tap};
use super::timer::Tick;
use crate::outcome::Why;
use crate::ws::close::CloseReason;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use tokio::time::Instant;

/// The end that the rest of the process holds.
#[derive(Debug)]
pub struct Control {
    opened: Instant,
    counters: Counters,
    /// On each of the tunnel's turns a flag tells whether there are any, at the price of one load.
    letters: Mutex<Letters>,
}

#[derive(Debug, Default)]
enum Letters {
    /// None, and nobody to be told of any.
    #[default]
    Unattached,
    /// None: nearly always.
    None(Bell),
    /// Some, with the bell.
    Some(Box<Mail>),
    /// The tunnel is no more: nobody will collect what is left.
    Ended,
}

/// How the tunnel is told that something was left for it.
#[derive(Clone, Debug)]
pub(super) enum Bell {
    /// It is a task.
    Task(Waker),
    /// It is a session of the engine.
    Session(Line),
}

impl Bell {
    fn ring(&self) {
        match self {
            Self::Task(waker) => waker.wake_by_ref(),
            Self::Session(line) => line.ring(),
        }
    }
}

impl From<&Waker> for Bell {
    fn from(waker: &Waker) -> Self {
        Self::Task(waker.clone())
    }
}

impl From<Line> for Bell {
    fn from(line: Line) -> Self {
        Self::Session(line)
    }
}

/// What was left for the tunnel since it last looked.
#[derive(Debug, Default)]
pub(super) struct Mail {
    pub(super) settings: Option<Arc<Settings>>,
    pub(super) order: Option<(Instant, Why, Option<Box<CloseReason>>)>,
    pub(super) cut: Option<Why>,
    pub(super) taps: Vec<Tap>,
    bell: Option<Bell>,
}

impl Letters {
    /// Those there are, to be added to; `None`: nobody would collect them.
    fn mail(&mut self) -> Option<&mut Mail> {
        match std::mem::take(self) {
            Self::Unattached => *self = Self::Some(Box::default()),
            Self::None(bell) => *self = Self::Some(Box::new(Mail { bell: Some(bell), ..Mail::default() })),
            letters => *self = letters,
        }
        match self {
            Self::Some(mail) => Some(mail),
            _ => None,
        }
    }
}

impl Default for Control {
    /// Of a tunnel that opens now.
    fn default() -> Self {
        Self::new(Counters::default())
    }
}

impl Control {
    /// Of a tunnel that opens now, counting there.
    #[must_use]
    pub fn new(counters: Counters) -> Self {
        Self { opened: Instant::now(), counters, letters: Mutex::default() }
    }

    /// When the tunnel opened: [`Tick::ZERO`] of its counters.
    #[must_use]
    pub fn opened(&self) -> Instant {
        self.opened
    }

    /// What the tunnel has counted up to now.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Now, as the tunnel's counters tell time.
    #[must_use]
    pub fn now(&self) -> Tick {
        self.tick(Instant::now())
    }

    /// A moment, as the tunnel's counters tell time.
    #[must_use]
    pub fn tick(&self, at: Instant) -> Tick {
        Tick::after(at.saturating_duration_since(self.opened))
    }

    /// Orders the tunnel to close at a moment; the earliest moment counts.
    pub fn close(&self, at: Instant, why: Why) {
        self.order(at, why, None);
    }

    /// Orders the tunnel to close now, at the next frame boundary, with these words to both sides. A
    /// text over 123 bytes is cut; a code that may not be sent (RFC 6455 7.4) is the caller's to refuse.
    /// `close_codes` applies.
    pub fn close_with(&self, why: Why, words: CloseReason) {
        self.order(Instant::now(), why, Some(Box::new(words)));
    }

    fn order(&self, at: Instant, why: Why, words: Option<Box<CloseReason>>) {
        self.leave(|mail| {
            if mail.order.as_ref().is_none_or(|(standing, ..)| at < *standing) {
                mail.order = Some((at, why, words));
            }
        });
    }

    /// Ends the tunnel at once, with whatever words still fit.
    pub fn cut(&self, why: Why) {
        self.leave(|mail| mail.cut = Some(why));
    }

    /// Gives the tunnel its route's new settings.
    pub fn set_settings(&self, settings: Arc<Settings>) {
        self.leave(|mail| mail.settings = Some(settings));
    }

    /// The headers of its frames from its next turn on. `room` frames may wait to be looked at; what
    /// comes while there is none is left out, and counted.
    #[must_use]
    pub fn tap(&self, room: usize) -> Tail {
        let (tap, tail) = tap::channel(room);
        self.leave(|mail| mail.taps.push(tap));
        tail
    }

    fn leave(&self, write: impl FnOnce(&mut Mail)) {
        let bell = {
            let mut letters = self.lock();
            let Some(mail) = letters.mail() else { return };
            write(mail);
            self.counters.has_mail.store(true, Ordering::Release);
            mail.bell.clone()
        };
        if let Some(bell) = bell {
            bell.ring();
        }
    }

    /// The tunnel is told by `bell` from now on.
    pub(super) fn attach(&self, bell: Bell) {
        let mut letters = self.lock();
        match &mut *letters {
            Letters::Unattached | Letters::None(_) => *letters = Letters::None(bell),
            Letters::Some(mail) => mail.bell = Some(bell),
            Letters::Ended => {}
        }
    }

    /// The tunnel is no more. What was left for it is dropped, and whoever watches it learns.
    pub(super) fn detach(&self) {
        let left = std::mem::replace(&mut *self.lock(), Letters::Ended);
        // Behind the lock: it may wake others.
        drop(left);
    }

    /// Whether there may be something to collect: nearly never. A plain load, as an exchange on every turn would
    /// own the cache line for nothing.
    #[inline]
    pub(super) fn has_mail(&self) -> bool {
        self.counters.has_mail.load(Ordering::Relaxed)
    }

    pub(super) fn collect(&self) -> Option<Box<Mail>> {
        if !self.counters.has_mail.swap(false, Ordering::Acquire) {
            return None;
        }
        let mut letters = self.lock();
        let Letters::Some(mail) = &mut *letters else { return None };
        let rest = mail.bell.take().map_or(Letters::Unattached, Letters::None);
        match std::mem::replace(&mut *letters, rest) {
            Letters::Some(mail) => Some(mail),
            _ => None,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Letters> {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    #[derive(Default)]
    struct Rings(AtomicUsize);

    impl Wake for Rings {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn what_is_left_is_collected_once_and_rings_from_the_attaching_on() {
        let (control, rings) = (Control::default(), Arc::new(Rings::default()));
        let cut = || control.collect().and_then(|mail| mail.cut);
        control.cut(Why::Drain);
        control.attach(Bell::Task(Arc::clone(&rings).into()));
        assert_eq!((cut(), cut(), rings.0.load(Ordering::Relaxed)), (Some(Why::Drain), None, 0));
        control.cut(Why::Shutdown);
        control.cut(Why::Operator);
        assert_eq!((cut(), cut(), rings.0.load(Ordering::Relaxed)), (Some(Why::Operator), None, 2));
        control.detach();
        control.cut(Why::Drain);
        assert_eq!((cut(), rings.0.load(Ordering::Relaxed)), (None, 2));
        assert_eq!(Arc::strong_count(&rings), 1, "it keeps no task");
    }

    #[test]
    fn the_line_to_a_tunnel_is_small() {
        // Each idle tunnel has one; with the counts of the Arc that shares it, it is 160 bytes.
        assert!(size_of::<Control>() <= 144, "{}", size_of::<Control>());
    }
}
