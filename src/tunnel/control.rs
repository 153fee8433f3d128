//! Owns the line between an open tunnel and the rest of the process: orders and new settings go in,
//! its counts can be read at any time. An idle tunnel costs nothing for it but its place.

use super::Settings;
use super::counters::Counters;
use super::engine::Line;
use super::tap::{self, Tail, Tap};
use super::timer::Tick;
use crate::outcome::Why;
use crate::ws::close::CloseReason;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use tokio::time::Instant;

/// The end that the rest of the process holds.
#[derive(Debug)]
pub struct Control {
    opened: Instant,
    counters: Counters,
    /// Something was left for the tunnel: checked on each of its turns, at the price of one load.
    pending: AtomicBool,
    letters: Mutex<Letters>,
}

#[derive(Debug, Default)]
struct Letters {
    bell: Option<Bell>,
    /// Nearly always none.
    mail: Option<Box<Mail>>,
    /// The tunnel is no more: nobody will collect what is left.
    ended: bool,
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
        Self { opened: Instant::now(), counters, pending: AtomicBool::default(), letters: Mutex::default() }
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
            if letters.ended {
                return;
            }
            write(letters.mail.get_or_insert_default());
            self.pending.store(true, Ordering::Release);
            letters.bell.clone()
        };
        if let Some(bell) = bell {
            bell.ring();
        }
    }

    /// The tunnel is told by `bell` from now on.
    pub(super) fn attach(&self, bell: Bell) {
        self.lock().bell = Some(bell);
    }

    /// The tunnel is no more. What was left for it is dropped, and whoever watches it learns.
    pub(super) fn detach(&self) {
        let left = Letters { ended: true, ..Letters::default() };
        // Dropped behind the lock: it may wake others.
        drop(std::mem::replace(&mut *self.lock(), left));
    }

    pub(super) fn collect(&self) -> Option<Box<Mail>> {
        // A plain load first: an exchange on every turn would own the cache line for nothing.
        if !self.pending.load(Ordering::Relaxed) || !self.pending.swap(false, Ordering::Acquire) {
            return None;
        }
        self.lock().mail.take()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Letters> {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_to_a_tunnel_is_small() {
        // Each idle tunnel has one; with the counts of the Arc that shares it, it is 192 bytes.
        assert!(size_of::<Control>() <= 176, "{}", size_of::<Control>());
    }
}
