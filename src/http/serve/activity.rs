//! Owns what a connection is doing, as far as its timeouts are concerned: which requests are under
//! way, since when a head is coming, since when nothing is asked.
//!
//! The clock of a connection that asks nothing runs from the end of its last request, whatever comes
//! over it: only a request stops it.

use super::super::Settings;
use super::hints::Hints;
use super::http1::{Flush, Interim};
use crate::slots::{More, Slot};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// What a connection is doing, as far as timeouts are concerned: shared by its stream, which sees
/// bytes come, and its exchanges. Moments are milliseconds since it was accepted.
#[derive(Debug)]
pub(super) struct Activity {
    /// Heads come one behind the other, and the first byte of one ends the idle time, once. Of HTTP/2 no
    /// byte does that, for not every byte is of a request.
    is_http1: bool,
    accepted: Instant,
    exchanges: AtomicU32,
    /// Of HTTP/1: the client is waited for to take what is there of an answer.
    is_waiting: AtomicBool,
    /// When that began, or when the client last took something.
    moved: AtomicU64,
    /// When a head began to come, or a frame of HTTP/2 that takes no time; 0: none is coming. A client of
    /// HTTP/2 can make it begin again, frame by frame.
    begun: AtomicU64,
    /// 0: nothing was ever asked.
    idle_since: AtomicU64,
    /// Of HTTP/2: since when the socket takes nothing of what is written; 0: it does.
    blocked: AtomicU64,
    /// It ended as the client took nothing.
    cut: Fate,
    pub(super) flush: Flush,
    pub(super) interim: Interim,
    /// The room for an upstream connection that its place brings along.
    own: Arc<Semaphore>,
}

/// What became of the connection, or the stream of HTTP/2, that a request came over.
#[derive(Clone, Debug, Default)]
pub struct Fate(Arc<AtomicU8>);

const LEFT: u8 = 1;
const STALLED: u8 = 2;

impl Fate {
    /// It was cut, as the client took nothing of what there was for `body_timeout`.
    #[must_use]
    pub fn is_stalled(&self) -> bool {
        self.0.load(Ordering::Relaxed) == STALLED
    }

    /// It ended before the client had taken all of the answer. Of HTTP/1, that is not known where all of the answer
    /// had come.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }

    pub(super) fn stall(&self) {
        self.0.store(STALLED, Ordering::Relaxed);
    }

    pub(super) fn leave(&self) {
        self.0.store(LEFT, Ordering::Relaxed);
    }
}

pub(super) enum Verdict {
    Fine,
    /// Nothing was asked for `keepalive_timeout`, or for `header_timeout` since the beginning.
    Idle,
    /// A head did not come to its end within `header_timeout`.
    TooSlow,
    /// Nothing of the answer was taken for `body_timeout`; of HTTP/2, nothing at all, and no request is left.
    Stalled,
}

impl Activity {
    pub(super) fn new(is_http1: bool) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            is_http1,
            accepted: Instant::now(),
            exchanges: AtomicU32::new(0),
            is_waiting: AtomicBool::new(false),
            moved: zero(),
            begun: zero(),
            idle_since: zero(),
            blocked: zero(),
            cut: Fate::default(),
            flush: Flush::default(),
            interim: Interim::default(),
            own: Arc::new(Semaphore::new(1)),
        }
    }

    /// Never 0, which stands for "none".
    fn now(&self) -> u64 {
        self.accepted.elapsed().as_millis() as u64 + 1
    }

    /// Bytes of HTTP/1 came.
    pub(super) fn bytes_came(&self) {
        if !self.is_busy() && self.begun.load(Ordering::Relaxed) == 0 {
            self.begun.store(self.now(), Ordering::Relaxed);
        }
    }

    /// Bytes of HTTP/2 came: whether a frame is half there now, and whether none was in between.
    pub(super) fn frames_came(&self, is_half: bool, was_whole: bool) {
        if !is_half {
            self.begun.store(0, Ordering::Relaxed);
        } else if was_whole || self.begun.load(Ordering::Relaxed) == 0 {
            self.begun.store(self.now(), Ordering::Relaxed);
        }
    }

    /// The socket of HTTP/2 takes something, or nothing.
    pub(super) fn is_written(&self, takes: bool) {
        if takes {
            self.blocked.store(0, Ordering::Relaxed);
        } else if self.blocked.load(Ordering::Relaxed) == 0 {
            self.blocked.store(self.now(), Ordering::Relaxed);
        }
    }

    /// The client of HTTP/1 is waited for from now on, or not any more.
    pub(super) fn waits_for_client(&self, waits: bool) {
        self.moved.store(self.now(), Ordering::Relaxed);
        self.is_waiting.store(waits, Ordering::Relaxed);
    }

    /// The client of HTTP/1 took some bytes.
    pub(super) fn bytes_went(&self) {
        if self.is_waiting.load(Ordering::Relaxed) {
            self.moved.store(self.now(), Ordering::Relaxed);
        }
    }

    pub(super) fn is_busy(&self) -> bool {
        self.exchanges.load(Ordering::Relaxed) > 0
    }

    pub(super) fn verdict(&self, settings: &Settings) -> Verdict {
        let read = |moment: &AtomicU64| moment.load(Ordering::Relaxed);
        let over = |since: u64, limit: Duration| self.now().saturating_sub(since) >= limit.as_millis() as u64;
        let exchanges = self.exchanges.load(Ordering::Relaxed);
        let begun = read(&self.begun);
        if begun > 0 && over(begun, settings.header_timeout) {
            return Verdict::TooSlow;
        }
        if exchanges == 0 {
            let blocked = read(&self.blocked);
            if blocked > 0 && settings.body_timeout.is_some_and(|limit| over(blocked, limit)) {
                return Verdict::Stalled;
            }
            let idle_since = read(&self.idle_since);
            let patience = if idle_since == 0 { settings.header_timeout } else { settings.keepalive_timeout };
            let is_asking = self.is_http1 && begun > 0;
            return if !is_asking && over(idle_since, patience) { Verdict::Idle } else { Verdict::Fine };
        }
        let is_over = |limit| over(read(&self.moved), limit);
        if self.is_waiting.load(Ordering::Relaxed) && settings.body_timeout.is_some_and(is_over) {
            self.cut.stall();
            return Verdict::Stalled;
        }
        Verdict::Fine
    }

    /// Whether nothing but a request has been waited for, for so long.
    pub(super) fn waits_for(&self, patience: Duration) -> bool {
        let since = match self.begun.load(Ordering::Relaxed) {
            begun if begun > 0 && self.is_http1 => begun,
            _ => self.idle_since.load(Ordering::Relaxed),
        };
        !self.is_busy() && self.now().saturating_sub(since) >= patience.as_millis() as u64
    }
}

/// A request under way, until its answer is written, or its tunnel over HTTP/2 ends.
#[derive(Debug)]
pub(super) struct Exchange {
    activity: Weak<Activity>,
    fate: Fate,
    hints: Hints,
    room: OnceLock<Room>,
}

/// Room for a connection to an upstream.
#[derive(Debug)]
enum Room {
    /// What the connection's place brings along.
    Own { _own: OwnedSemaphorePermit },
    /// More than that.
    More { _more: More },
}

impl Exchange {
    /// One of HTTP/1.
    pub(super) fn over_http1(activity: &Arc<Activity>) -> Self {
        activity.begun.store(0, Ordering::Relaxed);
        let number = activity.interim.open();
        let hints = Hints::over_http1(Arc::downgrade(activity), number);
        Self::begin(activity, activity.cut.clone(), hints)
    }

    /// One that may be cut by itself.
    pub(super) fn begin(activity: &Arc<Activity>, fate: Fate, hints: Hints) -> Self {
        activity.exchanges.fetch_add(1, Ordering::Relaxed);
        let activity = Arc::downgrade(activity);
        Self { activity, fate, hints, room: OnceLock::new() }
    }

    pub(super) fn fate(&self) -> Fate {
        self.fate.clone()
    }

    /// What passes interim answers to its client.
    pub(super) fn hints(&self) -> Hints {
        self.hints.clone()
    }

    /// It is answered.
    pub(super) fn answered(&self) {
        if let Some(activity) = self.activity.upgrade() {
            activity.interim.seal();
        }
    }

    /// Its connection.
    pub(super) fn activity(&self) -> Option<Arc<Activity>> {
        self.activity.upgrade()
    }

    /// Waits until there is room for a connection to an upstream, which is kept until the end.
    pub(super) async fn make_room(&self, slot: &Slot) {
        let Some(own) = self.activity.upgrade().map(|activity| Arc::clone(&activity.own)) else { return };
        let room = tokio::select! {
            biased;
            Ok(own) = own.acquire_owned() => Room::Own { _own: own },
            more = slot.more() => Room::More { _more: more },
        };
        // It is asked once.
        let _ = self.room.set(room);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(activity) = self.activity.upgrade() {
            activity.idle_since.store(activity.now(), Ordering::Relaxed);
            activity.exchanges.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
