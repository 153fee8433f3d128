//! Owns the joining of two byte streams by a relay: it reads, feeds the relay, writes, and says what it
//! waits for. It must not know frames, nor who calls it and when: that is a driver's.
//!
//! An idle tunnel owns no buffer. Bytes are read into a buffer of the thread; only what the other
//! side cannot take at once is kept, and nothing more is read from a side meanwhile.

mod leg;
mod output;

use super::control::{Control, Mail};
use super::counters::Counters;
use super::relay::{BadAnswer, Fault, Order, Output, Relay};
use super::tap::Taps;
use super::timer::Tick;
use super::{Framing, Settings};
use crate::clock::{is_late, is_stall};
use crate::io::Readiness;
use crate::outcome::{Outcome, PerSide, Side, Why};
pub use leg::Opened;
use leg::{Leg, unread, why};
use output::{Both, Tapped};
use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// Bytes read at once; also the most that waits for a side, but for an injected frame. A message of 64 KiB,
/// which many programs send, fits with its header: otherwise the last bytes of each would travel alone.
pub(super) const SCRATCH: usize = 80 * 1024;
/// Reads of each side in one turn, 240 KiB: a tunnel that moves much lets the others of its thread
/// have theirs. Four times as many move no byte more a second, and the others wait longer.
pub(super) const READS_PER_TURN: usize = 3;
/// Frames in one turn, of both sides, behind which nothing more is read: small ones cost by their number, not by
/// their bytes. A read may find 13,653 empty Pongs in its buffer; with one such read a turn is over.
pub(super) const FRAMES_PER_TURN: usize = 1024;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// Two streams and the relay between them.
pub(super) struct Join<S> {
    relay: Relay<Counting>,
    legs: PerSide<Leg<S>>,
    /// The wake-up that the driver was last asked for.
    armed: Option<Tick>,
    /// The last wake-up was too late to judge a side of which is not known what has arrived.
    excused: bool,
    /// The control knows how to wake the driver.
    pub(super) attached: bool,
    /// There is more to do that no stream will tell of.
    again: bool,
    /// It is among those that its driver has promised a turn.
    pub(super) is_due: bool,
    /// How a side answers Pings that does it badly: told by the relay, and not asked for yet.
    bad_answers: PerSide<Option<Fault>>,
    /// Who watches it: nearly always nobody.
    pub(super) taps: Option<Box<Taps>>,
}

/// A control, as the way to its counters: the relay is not to know more of it.
struct Counting(Arc<Control>);

impl AsRef<Counters> for Counting {
    fn as_ref(&self) -> &Counters {
        self.0.counters()
    }
}

/// What a driver is to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing: the tunnel has ended.
    End,
    /// Let it go on, behind the other tunnels of its thread and a look at their streams.
    GoOn,
    /// Wait for its streams, its control and its wake-up.
    Wait,
}

/// What the relay is fed that is no bytes.
enum Input {
    Eof(Side),
    Gone(Side, Why),
    Tick,
}

impl<S: AsyncRead + AsyncWrite + Readiness + Unpin> Join<S> {
    /// Two streams that are to be relayed from now on; the tunnel's time begins with its control.
    pub(super) fn new(
        streams: PerSide<Opened<S>>,
        settings: Arc<Settings>,
        framing: Framing,
        control: Arc<Control>,
    ) -> Self {
        let PerSide { client, upstream } = streams;
        let tags = PerSide { client: rand::random(), upstream: rand::random() };
        Self {
            relay: Relay::counting(settings, framing, tags, Counting(control)),
            legs: PerSide { client: Leg::new(client), upstream: Leg::new(upstream) },
            armed: None,
            excused: false,
            attached: false,
            again: false,
            is_due: false,
            bad_answers: PerSide::default(),
            taps: None,
        }
    }

    /// Does all that can be done at `now`, or as much of it as is fair.
    pub(super) fn turn(&mut self, now: Tick, cx: &mut Context<'_>) -> Next {
        self.again = false;
        if self.control().has_mail()
            && let Some(mail) = self.control().collect()
        {
            let cut = mail.cut;
            self.read_mail(*mail, now);
            if let Some(why) = cut {
                self.cut(why, now, cx);
                return self.end();
            }
        }
        BUFFER.with_borrow_mut(|buffer| self.relay_bytes(buffer, now, cx));
        // Only behind the reading: what has come in time counts, however late it is looked at.
        if let Some(at) = self.armed.take_if(|at| *at <= now) {
            self.on_wake_up(now.since(at), now, cx);
        }
        match (self.is_over(now), self.again) {
            (true, _) => self.end(),
            (false, true) => Next::GoOn,
            (false, false) => Next::Wait,
        }
    }

    fn end(&mut self) -> Next {
        if self.relay.ends_by_stream() {
            for side in Side::BOTH {
                self.legs[side].reset_on_close();
            }
        }
        Next::End
    }

    /// Whether [`Join::take_bad_answer`] has one to give: nearly never.
    pub(super) fn has_bad_answer(&self) -> bool {
        self.bad_answers.client.is_some() || self.bad_answers.upstream.is_some()
    }

    /// A side that answers Pings badly, if one was found since this was last asked.
    pub(super) fn take_bad_answer(&mut self) -> Option<BadAnswer> {
        let mut sides = Side::BOTH.into_iter();
        sides.find_map(|side| self.bad_answers[side].take().map(|fault| BadAnswer { side, fault }))
    }

    /// The moment of the wake-up, where it must come earlier than the driver has been told, if it has been
    /// told any. A wake-up that comes too early costs a turn; it need never be put off.
    pub(super) fn arm(&mut self) -> Option<Tick> {
        if !self.relay.has_moved_forward() {
            debug_assert!(
                self.relay.next_tick().is_none_or(|next| self.armed.is_some_and(|armed| next >= armed)),
                "a timer moved unheard"
            );
            return None;
        }
        let next = self.relay.next_tick()?;
        let earlier = self.armed.is_none_or(|armed| next < armed);
        earlier.then(|| *self.armed.insert(next))
    }

    /// The wake-up that was last asked for, if it has not come yet.
    pub(super) fn armed(&self) -> Option<Tick> {
        self.armed
    }

    /// The line to the rest of the process.
    pub(super) fn control(&self) -> &Arc<Control> {
        &self.relay.counting_in().0
    }

    /// One side's stream.
    pub(super) fn stream(&mut self, side: Side) -> &mut S {
        &mut self.legs[side].stream
    }

    /// The story so far; the end of one that is given up is [`Why::Aborted`].
    pub(super) fn outcome(&self) -> Outcome {
        self.relay.outcome(self.control().now())
    }

    fn read_mail(&mut self, mail: Mail, now: Tick) {
        if let Some(settings) = mail.settings {
            self.relay.set_settings(settings);
        }
        if !mail.taps.is_empty() {
            self.taps.get_or_insert_default().add(mail.taps);
        }
        if let Some((at, why, words)) = mail.order {
            let at = self.control().tick(at);
            self.relay.order(Order { at: at.max(now), why, words });
        }
    }

    fn cut(&mut self, why: Why, now: Tick, cx: &mut Context<'_>) {
        self.relay.order(Order { at: now, why, words: None });
        self.feed(Input::Tick, now, cx);
    }

    fn on_wake_up(&mut self, late: Duration, now: Tick, cx: &mut Context<'_>) {
        let mut is_unknown = false;
        for side in Side::BOTH {
            if self.relay.judges(side, now) {
                match self.legs[side].stream.has_pending() {
                    Some(true) => self.relay.on_arrival(side, now),
                    Some(false) => {}
                    None => is_unknown = true,
                }
            }
        }
        // Not twice in a row: a process that is always late finds the dead as well.
        self.excused = is_unknown && is_late(late) && !self.excused;
        if self.excused || is_stall(late) {
            self.relay.on_stall(now);
        }
        self.feed(Input::Tick, now, cx);
        self.settle(now, cx);
    }

    /// Feeds the relay bytes; how many frames that were.
    fn feed_bytes(&mut self, from: Side, bytes: &[u8], now: Tick, cx: &mut Context<'_>) -> usize {
        // A relay of its own for those who are watched: of the others none looks for watchers.
        if self.taps.is_some() {
            return self.feed_watched(now, cx, |relay, mut out| relay.on_bytes(from, bytes, now, &mut out));
        }
        let mut out = Both::new(&mut self.legs, &mut self.bad_answers, cx);
        let frames = self.relay.on_bytes(from, bytes, now, &mut out);
        out.write_gathered();
        frames
    }

    /// Feeds the relay what is no bytes.
    #[inline(never)]
    fn feed(&mut self, input: Input, now: Tick, cx: &mut Context<'_>) {
        if self.taps.is_some() {
            return self.feed_watched(now, cx, |relay, mut out| give(relay, input, now, &mut out));
        }
        let mut out = Both::new(&mut self.legs, &mut self.bad_answers, cx);
        give(&mut self.relay, input, now, &mut out);
        out.write_gathered();
    }

    #[inline(never)]
    fn feed_watched<T>(
        &mut self,
        now: Tick,
        cx: &mut Context<'_>,
        give: impl FnOnce(&mut Relay<Counting>, Tapped<'_, Both<'_, '_, S>>) -> T,
    ) -> T {
        let watchers = self.taps.get_or_insert_default();
        let mut out = Both::new(&mut self.legs, &mut self.bad_answers, cx);
        let given = give(&mut self.relay, Tapped::new(&mut out, watchers, now));
        out.write_gathered();
        self.taps.take_if(|watchers| watchers.is_empty());
        given
    }

    /// Moves bytes both ways until neither side has more, or it is others' turn.
    fn relay_bytes(&mut self, buffer: &mut [u8], now: Tick, cx: &mut Context<'_>) {
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
        self.again = true;
    }

    /// Reads once, counting frames; whether there may be more to read or to do.
    fn read(
        &mut self,
        from: Side,
        buffer: &mut [u8],
        frames: &mut usize,
        now: Tick,
        cx: &mut Context<'_>,
    ) -> bool {
        let held_up = self.legs[from.other()].waiting.is_some();
        if held_up || !self.relay.wants_bytes(from) {
            return false;
        }
        let leg = &mut self.legs[from];
        match leg.read(buffer, cx) {
            Poll::Ready(Ok(length)) if length > 0 => {
                *frames += self.feed_bytes(from, &buffer[..length], now, cx);
                self.legs[from].may_read()
            }
            Poll::Pending if leg.broken.is_none() => false,
            nothing => self.read_nothing(from, nothing, now, cx),
        }
    }

    /// What follows a read that found no bytes; whether there may be more to do.
    #[cold]
    fn read_nothing(
        &mut self,
        from: Side,
        read: Poll<io::Result<usize>>,
        now: Tick,
        cx: &mut Context<'_>,
    ) -> bool {
        let input = match (read, self.legs[from].broken) {
            (Poll::Ready(Err(error)), _) => Input::Gone(from, unread(error.kind())),
            // Nothing more to hear from a side that cannot be written to.
            (_, Some(kind)) => Input::Gone(from, why(kind)),
            (Poll::Ready(Ok(_)), None) => Input::Eof(from),
            (Poll::Pending, None) => return false,
        };
        self.feed(input, now, cx);
        true
    }

    #[inline]
    fn write_waiting(&mut self, now: Tick, cx: &mut Context<'_>) {
        if self.legs.client.waiting.is_some() || self.legs.upstream.waiting.is_some() {
            self.write_more(now, cx);
        }
    }

    #[inline(never)]
    fn write_more(&mut self, now: Tick, cx: &mut Context<'_>) {
        for side in Side::BOTH {
            let leg = &mut self.legs[side];
            if self.relay.is_dead(side) && leg.waiting.take().is_some() {
                // The other side was not read meanwhile: nothing that it sends would tell.
                self.again = true;
            }
            match leg.write_waiting(cx) {
                (true, true) => self.relay.on_progress(side, now),
                (true, false) => self.relay.on_drained(side, now),
                (false, true) => self.relay.on_blocked(side, now),
                (false, false) => {}
            }
        }
    }

    /// What follows a turn: what waits from now on, what is gone, what is to be shut.
    fn settle(&mut self, now: Tick, cx: &mut Context<'_>) {
        self.write_waiting(now, cx);
        for side in Side::BOTH {
            let leg = &mut self.legs[side];
            if self.relay.may_break(side) && leg.broken.is_none() && leg.stream.check_broken() {
                leg.broken = Some(io::ErrorKind::ConnectionReset);
            }
            // A broken side whose other side is held up cannot be read to its end, nor one that has ended.
            let is_open = || self.relay.wants_bytes(side) || self.relay.may_break(side);
            if let Some(kind) = leg.broken.filter(|_| is_open()) {
                self.feed(Input::Gone(side, why(kind)), now, cx);
            }
        }
        for side in Side::BOTH {
            self.legs[side].flush(self.relay.wants_shutdown(side), cx);
        }
    }

    fn is_over(&self, now: Tick) -> bool {
        let written = |side| self.relay.is_dead(side) || self.legs[side].waiting.is_none();
        (self.relay.is_settled() && Side::BOTH.into_iter().all(written)) || self.relay.is_expired(now)
    }
}

impl<S> Drop for Join<S> {
    fn drop(&mut self) {
        self.relay.counting_in().0.detach();
    }
}

fn give(relay: &mut Relay<Counting>, input: Input, now: Tick, out: &mut impl Output) {
    match input {
        Input::Eof(from) => relay.on_eof(from, now, out),
        Input::Gone(side, why) => relay.on_gone(side, why, now, out),
        Input::Tick => relay.on_tick(now, out),
    }
}
