//! Owns what the stream and the requests of one connection share: the state for its timeouts, its interim
//! responses and its room for connections to upstreams. It must not judge the state; `state` does.

mod flush;
mod interim;
mod interim_sender;

use super::super::Settings;
use super::state::{Moment, State, Verdict, verdict, waited};
use crate::capacity::{IncludedRoom, Slot, UpstreamRoom};
use flush::Flush;
use interim::InterimQueue;
pub(crate) use interim_sender::InterimSender;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;
use tokio::time::Instant;

/// What the stream and the requests of a connection share. Times are [`Moment`]s; 0 means none.
#[derive(Debug)]
pub(super) struct ConnState {
    is_http1: bool,
    accepted: Instant,
    active_requests: AtomicU32,
    /// HTTP/1: whether Holdline waits for the client to accept response data.
    is_waiting: AtomicBool,
    /// When that wait began, or when the client last accepted data.
    last_progress: AtomicU64,
    head_started: AtomicU64,
    idle_since: AtomicU64,
    blocked: AtomicU64,
    /// Set if it ends because the client accepted nothing.
    connection_end: ConnectionEnd,
    pub(super) flush: Flush,
    pub(super) interim: InterimQueue,
    included_room: IncludedRoom,
}

/// How the connection or HTTP/2 stream of a request ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConnectionEnd(Arc<AtomicU8>);

const CLIENT_LEFT: u8 = 1;
const STALLED: u8 = 2;

impl ConnectionEnd {
    /// Whether Holdline ended it because the client accepted nothing for `body_timeout`.
    #[must_use]
    pub(crate) fn is_stalled(&self) -> bool {
        self.0.load(Ordering::Relaxed) == STALLED
    }

    /// Whether it ended before the client had accepted the whole response. HTTP/1 does not tell that if the
    /// whole response had come.
    #[must_use]
    pub(crate) fn is_lost(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }

    pub(super) fn stall(&self) {
        self.0.store(STALLED, Ordering::Relaxed);
    }

    pub(super) fn mark_left(&self) {
        self.0.store(CLIENT_LEFT, Ordering::Relaxed);
    }
}

impl ConnState {
    pub(super) fn new(is_http1: bool) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            is_http1,
            accepted: Instant::now(),
            active_requests: AtomicU32::new(0),
            is_waiting: AtomicBool::new(false),
            last_progress: zero(),
            head_started: zero(),
            idle_since: zero(),
            blocked: zero(),
            connection_end: ConnectionEnd::default(),
            flush: Flush::default(),
            interim: InterimQueue::default(),
            included_room: IncludedRoom::default(),
        }
    }

    /// Returns the time. Never 0, which means "none".
    fn now(&self) -> Moment {
        self.accepted.elapsed().as_millis() as u64 + 1
    }

    /// Records received HTTP/1 bytes.
    pub(super) fn note_bytes_read(&self) {
        if !self.is_busy() && self.head_started.load(Ordering::Relaxed) == 0 {
            self.head_started.store(self.now(), Ordering::Relaxed);
        }
    }

    /// Records received HTTP/2 bytes: whether a frame is incomplete now, and whether none was at some moment
    /// in between.
    pub(super) fn note_frames_read(&self, is_half: bool, was_whole: bool) {
        if !is_half {
            self.head_started.store(0, Ordering::Relaxed);
        } else if was_whole || self.head_started.load(Ordering::Relaxed) == 0 {
            self.head_started.store(self.now(), Ordering::Relaxed);
        }
    }

    /// Records whether the HTTP/2 socket accepts data.
    pub(super) fn note_write(&self, takes: bool) {
        if takes {
            self.blocked.store(0, Ordering::Relaxed);
        } else if self.blocked.load(Ordering::Relaxed) == 0 {
            self.blocked.store(self.now(), Ordering::Relaxed);
        }
    }

    /// Sets whether Holdline waits for the HTTP/1 client.
    pub(super) fn set_waiting_for_client(&self, waits: bool) {
        self.last_progress.store(self.now(), Ordering::Relaxed);
        self.is_waiting.store(waits, Ordering::Relaxed);
    }

    /// Records that the HTTP/1 client accepted bytes.
    pub(super) fn note_bytes_written(&self) {
        if self.is_waiting.load(Ordering::Relaxed) {
            self.last_progress.store(self.now(), Ordering::Relaxed);
        }
    }

    pub(super) fn is_busy(&self) -> bool {
        self.active_requests.load(Ordering::Relaxed) > 0
    }

    /// Returns what the timeouts say now.
    pub(super) fn verdict(&self, settings: &Settings) -> Verdict {
        verdict(&self.state(), self.now(), settings)
    }

    /// Returns how long Holdline has waited for a request, and for nothing else. `None` means that a request
    /// is active.
    pub(super) fn waited(&self) -> Option<Duration> {
        waited(&self.state(), self.now())
    }

    fn state(&self) -> State {
        let read = |moment: &AtomicU64| Some(moment.load(Ordering::Relaxed)).filter(|&moment| moment > 0);
        State {
            is_http1: self.is_http1,
            active_requests: self.active_requests.load(Ordering::Relaxed),
            waiting_since: read(&self.last_progress).filter(|_| self.is_waiting.load(Ordering::Relaxed)),
            head_started: read(&self.head_started),
            idle_since: read(&self.idle_since),
            blocked_since: read(&self.blocked),
        }
    }

    /// Records that Holdline ends the connection because its client accepts nothing. Its requests report that.
    pub(super) fn mark_stalled(&self) {
        self.connection_end.stall();
    }
}

/// Marks a request as active until its response is written, or its HTTP/2 tunnel ends.
#[derive(Debug)]
pub(super) struct RequestGuard {
    conn_state: Weak<ConnState>,
    connection_end: ConnectionEnd,
    interim_sender: InterimSender,
    room: OnceLock<UpstreamRoom>,
}

impl RequestGuard {
    /// Begins an HTTP/1 request.
    pub(super) fn over_http1(conn_state: &Arc<ConnState>) -> Self {
        conn_state.head_started.store(0, Ordering::Relaxed);
        let number = conn_state.interim.begin_exchange();
        let interim_sender = InterimSender::over_http1(Arc::downgrade(conn_state), number);
        Self::begin(conn_state, conn_state.connection_end.clone(), interim_sender)
    }

    /// Begins a request with its own end.
    pub(super) fn begin(
        conn_state: &Arc<ConnState>,
        connection_end: ConnectionEnd,
        interim_sender: InterimSender,
    ) -> Self {
        conn_state.active_requests.fetch_add(1, Ordering::Relaxed);
        let conn_state = Arc::downgrade(conn_state);
        Self { conn_state, connection_end, interim_sender, room: OnceLock::new() }
    }

    pub(super) fn connection_end(&self) -> ConnectionEnd {
        self.connection_end.clone()
    }

    /// Returns what sends interim responses to its client.
    pub(super) fn interim_sender(&self) -> InterimSender {
        self.interim_sender.clone()
    }

    /// Records that its final response begins.
    pub(super) fn answered(&self) {
        if let Some(conn_state) = self.conn_state.upgrade() {
            conn_state.interim.close();
        }
    }

    /// Returns the state of its connection, if that still exists.
    pub(super) fn conn_state(&self) -> Option<Arc<ConnState>> {
        self.conn_state.upgrade()
    }

    /// Waits until there is room for a connection to an upstream, and holds it to the end.
    pub(super) async fn wait_for_room(&self, slot: &Slot) {
        let included = self.conn_state.upgrade().map(|conn_state| conn_state.included_room.clone());
        if let Some(included) = included {
            // It is called once per request.
            let _ = self.room.set(included.take(slot).await);
        }
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        if let Some(conn_state) = self.conn_state.upgrade() {
            conn_state.idle_since.store(conn_state.now(), Ordering::Relaxed);
            conn_state.active_requests.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
