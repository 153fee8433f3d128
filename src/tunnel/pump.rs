//! Owns the tokio driver of the relay, over any two byte streams: it reads, feeds the relay, writes,
//! and keeps one timer. It must not know frames.
//!
//! An idle tunnel owns no buffer. Bytes are read into a buffer of the thread; only what the other
//! side cannot take at once is kept, and nothing more is read from a side meanwhile.

mod leg;

use super::control::{Control, Mail};
use super::relay::{Order, Output, Relay, Seen};
use super::tap::{Frame, Taps};
use super::timer::Tick;
use super::{Framing, Settings};
use crate::io::Arrivals;
use crate::outcome::{Outcome, Side, Why};
use crate::stall::{is_late, is_stall};
use leg::Leg;
pub use leg::Opened;
use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::yield_now;
use tokio::time::{Sleep, sleep_until};

/// Bytes read at once; also the most that waits for a side, but for an injected frame.
const SCRATCH: usize = 64 * 1024;
/// Reads of each side in one turn, 256 KiB: a tunnel that moves much lets the others of its thread
/// have theirs. Four times as many move no byte more a second, and the others wait longer.
const READS_PER_TURN: usize = 4;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// An open tunnel; as a future it resolves to the tunnel's outcome. It is to be polled by one task
/// only, whose waker it keeps.
#[must_use = "a tunnel does nothing unless polled"]
pub struct Pump<C, U> {
    relay: Relay,
    client: Leg<C>,
    upstream: Leg<U>,
    control: Arc<Control>,
    /// One wake-up for all timers, set again only when it fires or must come earlier.
    wake_up: Pin<Box<Sleep>>,
    armed: Option<Tick>,
    attached: bool,
    /// The last wake-up was too late to judge a side of which is not known what has arrived.
    excused: bool,
    /// Who watches it: nearly always nobody.
    taps: Option<Box<Taps>>,
}

/// What the relay is fed.
enum Input<'a> {
    Bytes(Side, &'a [u8]),
    Eof(Side),
    Gone(Side, Why),
    Tick,
}

/// Joins two streams to their end; the tunnel's time begins with its control.
pub fn run<C, U>(
    client: Opened<C>,
    upstream: Opened<U>,
    settings: Arc<Settings>,
    framing: Framing,
    control: Arc<Control>,
) -> Pump<C, U>
where
    C: AsyncRead + AsyncWrite + Arrivals + Unpin,
    U: AsyncRead + AsyncWrite + Arrivals + Unpin,
{
    let counters = Arc::clone(control.counters());
    Pump {
        relay: Relay::counting(settings, framing, counters),
        client: Leg::new(client),
        upstream: Leg::new(upstream),
        wake_up: Box::pin(sleep_until(control.opened())),
        control,
        armed: None,
        attached: false,
        excused: false,
        taps: None,
    }
}

impl<C, U> Drop for Pump<C, U> {
    fn drop(&mut self) {
        self.control.detach();
    }
}

impl<C, U> Future for Pump<C, U>
where
    C: AsyncRead + AsyncWrite + Arrivals + Unpin,
    U: AsyncRead + AsyncWrite + Arrivals + Unpin,
{
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let pump = self.get_mut();
        if !std::mem::replace(&mut pump.attached, true) {
            pump.control.attach(cx.waker());
        }
        let now = pump.control.now();
        if let Some(mail) = pump.control.collect() {
            let cut = mail.cut;
            pump.read_mail(*mail, now);
            if let Some(why) = cut {
                return Poll::Ready(pump.cut(why, now, cx));
            }
        }
        BUFFER.with_borrow_mut(|buffer| pump.turn(buffer, now, cx));
        // Only behind the reading: what has come in time counts, however late it is looked at.
        if let Some(at) = pump.armed.take_if(|at| *at <= now) {
            pump.on_wake_up(now.since(at), now, cx);
        }
        if pump.is_over(now) {
            return Poll::Ready(pump.relay.outcome(now));
        }
        pump.arm(cx);
        Poll::Pending
    }
}

impl<C, U> Pump<C, U>
where
    C: AsyncRead + AsyncWrite + Arrivals + Unpin,
    U: AsyncRead + AsyncWrite + Arrivals + Unpin,
{
    /// The story so far, for a tunnel that is given up.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.relay.outcome(self.control.now())
    }

    fn read_mail(&mut self, mail: Mail, now: Tick) {
        if let Some(settings) = mail.settings {
            self.relay.set_settings(settings);
        }
        if !mail.taps.is_empty() {
            self.taps.get_or_insert_default().add(mail.taps);
        }
        if let Some((at, why, words)) = mail.order {
            let at = self.control.tick(at);
            self.relay.order(Order { at: at.max(now), why, words });
        }
    }

    fn cut(&mut self, why: Why, now: Tick, cx: &mut Context<'_>) -> Outcome {
        self.relay.order(Order { at: now, why, words: None });
        self.feed(Input::Tick, now, cx);
        self.relay.outcome(now)
    }

    fn on_wake_up(&mut self, late: Duration, now: Tick, cx: &mut Context<'_>) {
        let mut is_unknown = false;
        for side in Side::BOTH {
            if self.relay.judges(side, now) {
                match self.has_arrived(side) {
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

    fn has_arrived(&self, side: Side) -> Option<bool> {
        match side {
            Side::Client => self.client.stream.has_arrived(),
            Side::Upstream => self.upstream.stream.has_arrived(),
        }
    }

    fn feed(&mut self, input: Input<'_>, now: Tick, cx: &mut Context<'_>) {
        let Self { relay, client, upstream, taps, .. } = self;
        let mut out = Both { client, upstream, cx };
        match taps {
            // A relay of its own for those who are watched: of the others none looks for watchers.
            None => give(relay, input, now, &mut out),
            Some(watchers) => {
                give(relay, input, now, &mut Tapped { out, taps: watchers, now });
                if watchers.is_empty() {
                    *taps = None;
                }
            }
        }
    }

    /// Moves bytes both ways until neither side has more, or it is others' turn.
    fn turn(&mut self, buffer: &mut [u8], now: Tick, cx: &mut Context<'_>) {
        for _ in 0..READS_PER_TURN {
            self.write_waiting(now, cx);
            let client = self.read(Side::Client, buffer, now, cx);
            let upstream = self.read(Side::Upstream, buffer, now, cx);
            if !client && !upstream {
                return self.settle(now, cx);
            }
        }
        self.settle(now, cx);
        // Behind the others and a look at all sockets, which a thread that always has a task at hand
        // takes only every 61st time: so a mere wake-up would keep bytes for others waiting.
        let _ = pin!(yield_now()).poll(cx);
    }

    /// Reads once; whether there may be more to read or to do.
    fn read(&mut self, from: Side, buffer: &mut [u8], now: Tick, cx: &mut Context<'_>) -> bool {
        let held_up = self.is_waiting(from.other());
        if held_up || !self.relay.wants_bytes(from) {
            return false;
        }
        let (read, broken) = match from {
            Side::Client => (self.client.read(buffer, cx), self.client.broken),
            Side::Upstream => (self.upstream.read(buffer, cx), self.upstream.broken),
        };
        let input = match (read, broken) {
            (Poll::Ready(Ok(0)), None) => Input::Eof(from),
            (Poll::Ready(Ok(length)), _) if length > 0 => Input::Bytes(from, &buffer[..length]),
            (Poll::Ready(Err(error)), _) => Input::Gone(from, unread(error.kind())),
            // Nothing more to hear from a side that cannot be written to.
            (_, Some(kind)) => Input::Gone(from, why(kind)),
            (Poll::Pending, None) => return false,
            (Poll::Ready(Ok(_)), None) => return true,
        };
        self.feed(input, now, cx);
        true
    }

    fn write_waiting(&mut self, now: Tick, cx: &mut Context<'_>) {
        for side in Side::BOTH {
            if self.relay.is_dead(side) && self.forget_waiting(side) {
                // The other side was not read meanwhile: nothing that it sends would wake this task.
                cx.waker().wake_by_ref();
            }
            let (took, left) = match side {
                Side::Client => self.client.write_waiting(cx),
                Side::Upstream => self.upstream.write_waiting(cx),
            };
            match (took, left) {
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
            // A broken side whose other side is held up cannot be read to its end.
            let broken = match side {
                Side::Client => self.client.broken,
                Side::Upstream => self.upstream.broken,
            };
            if let Some(kind) = broken.filter(|_| self.relay.wants_bytes(side)) {
                self.feed(Input::Gone(side, why(kind)), now, cx);
            }
        }
        for side in Side::BOTH {
            let shut = self.relay.wants_shutdown(side);
            match side {
                Side::Client => self.client.flush(shut, cx),
                Side::Upstream => self.upstream.flush(shut, cx),
            }
        }
    }

    fn is_waiting(&self, side: Side) -> bool {
        match side {
            Side::Client => self.client.waiting.is_some(),
            Side::Upstream => self.upstream.waiting.is_some(),
        }
    }

    /// Whether there was something.
    fn forget_waiting(&mut self, side: Side) -> bool {
        let waiting = match side {
            Side::Client => self.client.waiting.take(),
            Side::Upstream => self.upstream.waiting.take(),
        };
        waiting.is_some()
    }

    fn is_over(&self, now: Tick) -> bool {
        let written = Side::BOTH.iter().all(|&side| self.relay.is_dead(side) || !self.is_waiting(side));
        (self.relay.is_settled() && written) || self.relay.is_expired(now)
    }

    /// Sets the wake-up, if it must come earlier than it is set.
    fn arm(&mut self, cx: &mut Context<'_>) {
        let Some(next) = self.relay.next_tick() else { return };
        if self.armed.is_none_or(|armed| next < armed) {
            self.armed = Some(next);
            self.wake_up.as_mut().reset(self.control.opened() + next.elapsed());
            if self.wake_up.as_mut().poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
    }
}

/// Where the relay's bytes go: straight to the sockets.
struct Both<'a, 'c, C, U> {
    client: &'a mut Leg<C>,
    upstream: &'a mut Leg<U>,
    cx: &'a mut Context<'c>,
}

impl<C, U> Output for Both<'_, '_, C, U>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    fn send(&mut self, to: Side, bytes: &[u8]) {
        match to {
            Side::Client => self.client.write(bytes, self.cx),
            Side::Upstream => self.upstream.write(bytes, self.cx),
        }
    }
}

/// The same, watched.
struct Tapped<'a, O> {
    out: O,
    taps: &'a mut Taps,
    now: Tick,
}

impl<O: Output> Output for Tapped<'_, O> {
    fn send(&mut self, to: Side, bytes: &[u8]) {
        self.out.send(to, bytes);
    }

    fn see(&mut self, seen: Seen) {
        self.taps.show(Frame { at: self.now, seen });
    }
}

fn give(relay: &mut Relay, input: Input<'_>, now: Tick, out: &mut impl Output) {
    match input {
        Input::Bytes(from, bytes) => relay.on_bytes(from, bytes, now, out),
        Input::Eof(from) => relay.on_eof(from, now, out),
        Input::Gone(side, why) => relay.on_gone(side, why, now, out),
        Input::Tick => relay.on_tick(now, out),
    }
}

/// What an error of reading says of its peer.
fn unread(kind: io::ErrorKind) -> Why {
    match kind {
        // HTTP/2 without END_STREAM: the connection ended. A socket says so only when it is written to.
        io::ErrorKind::BrokenPipe => Why::Eof,
        _ => why(kind),
    }
}

/// What an error of a socket says of its peer.
fn why(kind: io::ErrorKind) -> Why {
    match kind {
        io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            Why::TcpTimeout
        }
        // TLS without close_notify.
        io::ErrorKind::UnexpectedEof => Why::Eof,
        _ => Why::Reset,
    }
}

#[cfg(test)]
mod tests;
