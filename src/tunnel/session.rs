//! Owns a session: two byte streams and the relay between them. It reads, feeds the relay, writes, and tells its
//! driver what it waits for. It must not know frames, or when the driver calls it.
//!
//! An idle tunnel owns no buffer. The session reads into a buffer of the thread. It keeps only the bytes that the
//! other side cannot take at once, and reads nothing more from a side until those are written.

mod buffered_stream;
mod output;

use super::control::{Changes, Control};
use super::counters::Counters;
use super::inspect::FrameSenders;
use super::relay::{BadPong, CloseRequest, Output, PongFault, Relay};
use super::timer::TunnelTime;
use super::{Framing, Settings};
use crate::clock::{is_late, is_stall};
use crate::io::{PrefixedStream, Readiness};
use crate::outcome::{Cause, Outcome, PerSide, Side};
use buffered_stream::{BufferedStream, cause_of, read_cause_of};
use output::{InspectedOutput, SessionOutput};
use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// The most bytes of one read, and the most that wait for a side, apart from injected frames. It holds a message of
/// 64 KiB, which many programs send, with its header. Otherwise the last bytes of each would need a write of their
/// own.
pub(super) const SCRATCH: usize = 80 * 1024;
/// The most reads of each side in one turn, 240 KiB in all, so that a busy tunnel leaves time to the others of its
/// thread. Four times as many gain no throughput, and make the others wait longer.
pub(super) const READS_PER_TURN: usize = 3;
/// After this many frames of both sides, a turn reads no more, because small frames cost by their number. One read
/// can find 13,653 empty Pongs, and then ends the turn.
pub(super) const FRAMES_PER_TURN: usize = 1024;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// Two streams, and the relay between them.
pub(super) struct Session<S> {
    relay: Relay<ControlCounters>,
    streams: PerSide<BufferedStream<S>>,
    /// The deadline that the driver was last given.
    armed: Option<TunnelTime>,
    /// The last deadline fired late while a stream could not tell whether bytes wait, so it was excused. The next is not.
    is_excused: bool,
    /// Whether the control knows how to wake the driver.
    pub(super) is_attached: bool,
    /// Whether there is more work that no event will announce.
    has_more: bool,
    /// Whether its driver has it in the queue for a turn.
    pub(super) is_queued: bool,
    /// Bad Pongs that the relay reported and the driver has not taken yet.
    bad_pongs: PerSide<Option<PongFault>>,
    /// Inspectors of its frames. Nearly all tunnels have none.
    pub(super) inspectors: Option<Box<FrameSenders>>,
}

/// A control that shows the relay its counters only.
struct ControlCounters(Arc<Control>);

impl AsRef<Counters> for ControlCounters {
    fn as_ref(&self) -> &Counters {
        self.0.counters()
    }
}

/// What the driver does after a turn.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Drop the session: the tunnel has ended.
    End,
    /// Give it another turn, after the other tunnels of its thread and a look at their streams.
    Again,
    /// Wait for its streams, its control and its deadline.
    Wait,
}

/// An input of the relay other than bytes.
enum Input {
    Eof(Side),
    Gone(Side, Cause),
    Timer,
}

impl<S: AsyncRead + AsyncWrite + Readiness + Unpin> Session<S> {
    /// A session for two streams. The tunnel's time begins with its control.
    pub(super) fn new(
        streams: PerSide<PrefixedStream<S>>,
        settings: Arc<Settings>,
        framing: Framing,
        control: Arc<Control>,
    ) -> Self {
        let PerSide { client, upstream } = streams;
        let tags = PerSide { client: rand::random(), upstream: rand::random() };
        Self {
            relay: Relay::with_counters(settings, framing, tags, ControlCounters(control)),
            streams: PerSide { client: BufferedStream::new(client), upstream: BufferedStream::new(upstream) },
            armed: None,
            is_excused: false,
            is_attached: false,
            has_more: false,
            is_queued: false,
            bad_pongs: PerSide::default(),
            inspectors: None,
        }
    }

    /// Does the work that is possible at `now`, up to the limits of one turn.
    pub(super) fn turn(&mut self, now: TunnelTime, cx: &mut Context<'_>) -> Next {
        self.has_more = false;
        if self.control().has_changes()
            && let Some(changes) = self.control().take_changes()
        {
            let cut = changes.cut;
            self.apply_changes(*changes, now);
            if let Some(cause) = cut {
                self.end_at_once(cause, now, cx);
                return self.end();
            }
        }
        BUFFER.with_borrow_mut(|buffer| self.relay_bytes(buffer, now, cx));
        // After the reads, so that bytes that arrived in time count, however late they are read.
        if let Some(at) = self.armed.take_if(|at| *at <= now) {
            self.on_deadline(now.since(at), now, cx);
        }
        match (self.is_over(now), self.has_more) {
            (true, _) => self.end(),
            (false, true) => Next::Again,
            (false, false) => Next::Wait,
        }
    }

    fn end(&mut self) -> Next {
        if self.relay.has_no_close_frames() {
            for side in Side::BOTH {
                self.streams[side].reset_on_close();
            }
        }
        Next::End
    }

    /// Whether [`Session::take_bad_pong`] returns one. It nearly never does.
    pub(super) fn has_bad_pong(&self) -> bool {
        self.bad_pongs.client.is_some() || self.bad_pongs.upstream.is_some()
    }

    /// Takes a bad Pong that was found since the last call.
    pub(super) fn take_bad_pong(&mut self) -> Option<BadPong> {
        let mut sides = Side::BOTH.into_iter();
        sides.find_map(|side| self.bad_pongs[side].take().map(|fault| BadPong { side, fault }))
    }

    /// Returns the next deadline if it is earlier than the one last returned. A later deadline needs no update,
    /// because firing too early only costs a turn.
    pub(super) fn arm(&mut self) -> Option<TunnelTime> {
        if !self.relay.take_earlier_deadline() {
            debug_assert!(
                self.relay.next_deadline().is_none_or(|next| self.armed.is_some_and(|armed| next >= armed)),
                "a deadline moved without a mark"
            );
            return None;
        }
        let next = self.relay.next_deadline()?;
        let earlier = self.armed.is_none_or(|armed| next < armed);
        earlier.then(|| *self.armed.insert(next))
    }

    /// The deadline last returned by [`Session::arm`], if it has not fired.
    pub(super) fn armed(&self) -> Option<TunnelTime> {
        self.armed
    }

    /// The tunnel's control.
    pub(super) fn control(&self) -> &Arc<Control> {
        &self.relay.counters_handle().0
    }

    pub(super) fn stream(&mut self, side: Side) -> &mut S {
        &mut self.streams[side].io
    }

    /// The outcome up to now. Before the end is decided, its cause is [`Cause::Aborted`].
    pub(super) fn outcome(&self) -> Outcome {
        self.relay.outcome(self.control().now())
    }

    fn apply_changes(&mut self, changes: Changes, now: TunnelTime) {
        if let Some(settings) = changes.settings {
            self.relay.set_settings(settings);
        }
        if !changes.inspectors.is_empty() {
            self.inspectors.get_or_insert_default().add(changes.inspectors);
        }
        if let Some((at, cause, reason)) = changes.close {
            let at = self.control().time_at(at);
            self.relay.request_close(CloseRequest { at: at.max(now), cause, reason });
        }
    }

    fn end_at_once(&mut self, cause: Cause, now: TunnelTime, cx: &mut Context<'_>) {
        self.relay.request_close(CloseRequest { at: now, cause, reason: None });
        self.feed(Input::Timer, now, cx);
    }

    fn on_deadline(&mut self, late: Duration, now: TunnelTime, cx: &mut Context<'_>) {
        let mut is_unknown = false;
        for side in Side::BOTH {
            if self.relay.is_silence_due(side, now) {
                match self.streams[side].io.has_pending() {
                    Some(true) => self.relay.on_arrival(side, now),
                    Some(false) => {}
                    None => is_unknown = true,
                }
            }
        }
        // Not twice in a row, so that a process that is always late still finds dead peers.
        self.is_excused = is_unknown && is_late(late) && !self.is_excused;
        if self.is_excused || is_stall(late) {
            self.relay.on_stall(now);
        }
        self.feed(Input::Timer, now, cx);
        self.settle(now, cx);
    }

    /// Feeds bytes to the relay, and returns how many frames it found in them.
    fn feed_bytes(&mut self, from: Side, bytes: &[u8], now: TunnelTime, cx: &mut Context<'_>) -> usize {
        // Inspected tunnels use their own instance of the relay, so that others never test for inspectors.
        if self.inspectors.is_some() {
            return self.feed_inspected(now, cx, |relay, mut out| relay.on_bytes(from, bytes, now, &mut out));
        }
        let mut out = SessionOutput::new(&mut self.streams, &mut self.bad_pongs, cx);
        let frames = self.relay.on_bytes(from, bytes, now, &mut out);
        out.write_gathered();
        frames
    }

    /// Feeds an input other than bytes to the relay.
    #[inline(never)]
    fn feed(&mut self, input: Input, now: TunnelTime, cx: &mut Context<'_>) {
        if self.inspectors.is_some() {
            return self.feed_inspected(now, cx, |relay, mut out| feed_relay(relay, input, now, &mut out));
        }
        let mut out = SessionOutput::new(&mut self.streams, &mut self.bad_pongs, cx);
        feed_relay(&mut self.relay, input, now, &mut out);
        out.write_gathered();
    }

    #[inline(never)]
    fn feed_inspected<T>(
        &mut self,
        now: TunnelTime,
        cx: &mut Context<'_>,
        give: impl FnOnce(&mut Relay<ControlCounters>, InspectedOutput<'_, SessionOutput<'_, '_, S>>) -> T,
    ) -> T {
        let inspectors = self.inspectors.get_or_insert_default();
        let mut out = SessionOutput::new(&mut self.streams, &mut self.bad_pongs, cx);
        let given = give(&mut self.relay, InspectedOutput::new(&mut out, inspectors, now));
        out.write_gathered();
        self.inspectors.take_if(|inspectors| inspectors.is_empty());
        given
    }

    /// Relays bytes both ways until neither side has more, or the turn reaches its limits.
    fn relay_bytes(&mut self, buffer: &mut [u8], now: TunnelTime, cx: &mut Context<'_>) {
        let mut frames = 0;
        for _ in 0..READS_PER_TURN {
            self.write_waiting(now, cx);
            let client = self.read(Side::Client, buffer, &mut frames, now, cx);
            let upstream = self.read(Side::Upstream, buffer, &mut frames, now, cx);
            if !client && !upstream {
                return self.settle(now, cx);
            }
            if frames >= FRAMES_PER_TURN {
                break;
            }
        }
        self.settle(now, cx);
        self.has_more = true;
    }

    /// Reads once and adds to `frames`. Returns whether there may be more to read or to do.
    fn read(
        &mut self,
        from: Side,
        buffer: &mut [u8],
        frames: &mut usize,
        now: TunnelTime,
        cx: &mut Context<'_>,
    ) -> bool {
        let is_paused = self.streams[from.other()].waiting.is_some();
        if is_paused || !self.relay.wants_bytes(from) {
            return false;
        }
        let stream = &mut self.streams[from];
        match stream.read(buffer, cx) {
            Poll::Ready(Ok(length)) if length > 0 => {
                *frames += self.feed_bytes(from, &buffer[..length], now, cx);
                self.streams[from].may_read()
            }
            Poll::Pending if stream.broken.is_none() => false,
            nothing => self.read_nothing(from, nothing, now, cx),
        }
    }

    /// Handles a read that found no bytes. Returns whether there may be more to do.
    #[cold]
    fn read_nothing(
        &mut self,
        from: Side,
        read: Poll<io::Result<usize>>,
        now: TunnelTime,
        cx: &mut Context<'_>,
    ) -> bool {
        let input = match (read, self.streams[from].broken) {
            (Poll::Ready(Err(error)), _) => Input::Gone(from, read_cause_of(error.kind())),
            // A side that cannot be written to has nothing left to read.
            (_, Some(kind)) => Input::Gone(from, cause_of(kind)),
            (Poll::Ready(Ok(_)), None) => Input::Eof(from),
            (Poll::Pending, None) => return false,
        };
        self.feed(input, now, cx);
        true
    }

    #[inline]
    fn write_waiting(&mut self, now: TunnelTime, cx: &mut Context<'_>) {
        if self.streams.client.waiting.is_some() || self.streams.upstream.waiting.is_some() {
            self.write_more(now, cx);
        }
    }

    #[inline(never)]
    fn write_more(&mut self, now: TunnelTime, cx: &mut Context<'_>) {
        for side in Side::BOTH {
            let stream = &mut self.streams[side];
            if self.relay.is_dead(side) && stream.waiting.take().is_some() {
                // The other side's reads were paused, so no event will announce its bytes.
                self.has_more = true;
            }
            match stream.write_waiting(cx) {
                (true, true) => self.relay.on_progress(side, now),
                (true, false) => self.relay.on_drained(side, now),
                (false, true) => self.relay.on_blocked(side, now),
                (false, false) => {}
            }
        }
    }

    /// Ends a turn: writes what waits, reports broken streams to the relay, and flushes or shuts down streams.
    fn settle(&mut self, now: TunnelTime, cx: &mut Context<'_>) {
        self.write_waiting(now, cx);
        for side in Side::BOTH {
            let stream = &mut self.streams[side];
            if self.relay.awaits_reset(side) && stream.broken.is_none() && stream.io.check_broken() {
                stream.broken = Some(io::ErrorKind::ConnectionReset);
            }
            // A broken side cannot be read to its end while its reads are paused, or once its stream has ended.
            let is_open = || self.relay.wants_bytes(side) || self.relay.awaits_reset(side);
            if let Some(kind) = stream.broken.filter(|_| is_open()) {
                self.feed(Input::Gone(side, cause_of(kind)), now, cx);
            }
        }
        for side in Side::BOTH {
            self.streams[side].flush(self.relay.wants_shutdown(side), cx);
        }
    }

    fn is_over(&self, now: TunnelTime) -> bool {
        let written = |side| self.relay.is_dead(side) || self.streams[side].waiting.is_none();
        (self.relay.is_settled() && Side::BOTH.into_iter().all(written)) || self.relay.is_expired(now)
    }
}

impl<S> Drop for Session<S> {
    fn drop(&mut self) {
        self.relay.counters_handle().0.close_mailbox();
    }
}

fn feed_relay(relay: &mut Relay<ControlCounters>, input: Input, now: TunnelTime, out: &mut impl Output) {
    match input {
        Input::Eof(from) => relay.on_eof(from, now, out),
        Input::Gone(side, cause) => relay.on_gone(side, cause, now, out),
        Input::Timer => relay.on_timer(now, out),
    }
}
