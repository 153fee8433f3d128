//! Owns the line between an open tunnel and the rest of the process: orders and new settings go in,
//! a look at its story so far comes out. An idle tunnel costs nothing for it but its place.

use super::Settings;
use crate::outcome::{Outcome, Why};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use tokio::time::Instant;

/// The end that the rest of the process holds.
#[derive(Debug, Default)]
pub struct Control {
    /// Something was left for the tunnel: checked on each of its turns, at the price of one load.
    pending: AtomicBool,
    letters: Mutex<Letters>,
}

#[derive(Debug, Default)]
struct Letters {
    waker: Option<Waker>,
    mail: Mail,
    story: Option<Box<Outcome>>,
}

/// What was left for the tunnel since it last looked.
#[derive(Debug, Default)]
pub(super) struct Mail {
    pub(super) settings: Option<Arc<Settings>>,
    pub(super) order: Option<(Instant, Why)>,
    pub(super) cut: Option<Why>,
    pub(super) story_wanted: bool,
}

impl Control {
    /// Orders the tunnel to close at a moment; the earliest moment counts.
    pub fn close(&self, at: Instant, why: Why) {
        self.leave(|mail| {
            if mail.order.is_none_or(|(standing, _)| at < standing) {
                mail.order = Some((at, why));
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

    /// The story as of the last time this was called; the first time there is none. The tunnel
    /// writes it on its next turn.
    #[must_use]
    pub fn story(&self) -> Option<Box<Outcome>> {
        self.leave(|mail| mail.story_wanted = true);
        self.lock().story.clone()
    }

    fn leave(&self, write: impl FnOnce(&mut Mail)) {
        let waker = {
            let mut letters = self.lock();
            write(&mut letters.mail);
            self.pending.store(true, Ordering::Release);
            letters.waker.clone()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The tunnel's task can be woken by `waker` from now on.
    pub(super) fn attach(&self, waker: &Waker) {
        self.lock().waker = Some(waker.clone());
    }

    pub(super) fn collect(&self) -> Option<Mail> {
        // A plain load first: an exchange on every turn would own the cache line for nothing.
        if !self.pending.load(Ordering::Relaxed) || !self.pending.swap(false, Ordering::Acquire) {
            return None;
        }
        Some(std::mem::take(&mut self.lock().mail))
    }

    pub(super) fn tell(&self, story: Outcome) {
        self.lock().story = Some(Box::new(story));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Letters> {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
