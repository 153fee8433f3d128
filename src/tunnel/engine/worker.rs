//! Owns one thread of the engine. It waits for socket events, deadlines and messages, and gives a turn to each
//! session that has work. It must not know what a session does in its turn.

use super::entry::Entry;
use super::intake::Intake;
use super::wheel::Wheel;
use crate::io::EpollSocket;
use crate::outcome::Side;
use crate::tunnel::session::Next;
use crate::tunnel::timer::TunnelTime;
use crate::tunnel::wake::{SessionRef, Token};
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;
use tokio::time::Instant;

/// Events fetched by one `epoll_wait`. Fetched events wait for those before them, and larger batches save little.
const EVENTS: usize = 256;
/// Resolution of the timer wheel, in milliseconds.
const BUCKET: u64 = 4;
/// When all cells are free and there are more than this, the worker frees their memory.
const KEPT_CELLS: usize = 1024;
/// The event data of the wake queue. No session uses it, because there are fewer sessions.
const QUEUE: u64 = u64::MAX;

/// One thread's sessions.
pub(super) struct Worker {
    epoll: OwnedFd,
    intake: Arc<Intake>,
    cells: Vec<Cell>,
    free: Vec<u32>,
    /// The generation of new cells. It is above those of freed cells, so no old token matches again.
    generation: u32,
    wheel: Wheel,
    /// The start of bucket 0 of the wheel.
    began: Instant,
    /// Sessions that take a turn next.
    due: Vec<u32>,
    stopped: bool,
}

/// Memory for one entry.
struct Cell {
    entry: Option<Box<Entry>>,
    /// Rises with each entry that leaves the cell.
    generation: u32,
}

impl Worker {
    pub(super) fn new(intake: Arc<Intake>) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &intake.wake_queue, EventData::new_u64(QUEUE), EventFlags::IN | EventFlags::ET)?;
        let (cells, free, due) = (Vec::new(), Vec::new(), Vec::new());
        let (wheel, began) = (Wheel::new(), Instant::now());
        Ok(Self { epoll, intake, cells, free, generation: 0, wheel, began, due, stopped: false })
    }

    /// Relays until [`Intake::stop`].
    pub(super) fn run(mut self) {
        let mut events = Vec::with_capacity(EVENTS);
        let mut turns = Vec::new();
        let mut timeout = None;
        while !self.stopped {
            events.clear();
            // This fails when a signal interrupts it.
            let _ = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref());
            for event in &events {
                self.on_event(event);
            }
            std::mem::swap(&mut turns, &mut self.due);
            let mut now = None;
            for index in turns.drain(..) {
                self.turn(index, *now.insert(Instant::now()));
            }
            // After the turns, so that an expired session looks at its sockets before its deadline counts.
            let now = now.unwrap_or_else(Instant::now) - self.began;
            self.expire_timers(now);
            timeout = self.epoll_timeout(now);
        }
    }

    /// How long `epoll_wait` may block. `None` means without limit.
    fn epoll_timeout(&self, now: Duration) -> Option<Timespec> {
        if !self.due.is_empty() {
            return Some(Timespec::default());
        }
        let timeout = start_of(self.wheel.next()?).saturating_sub(now);
        Some(Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() })
    }

    fn on_event(&mut self, event: &Event) {
        if event.data.u64() == QUEUE {
            return self.read_queues();
        }
        let (token, side) = unpack(event.data.u64());
        if let Some(entry) = self.entry(token) {
            if let Some(socket) = entry.session.stream(side).epoll_socket() {
                socket.on_events(event.flags);
            }
            self.give_turn(token.index);
        }
    }

    fn read_queues(&mut self) {
        for token in self.intake.wake_queue.take() {
            if self.entry(token).is_some() {
                self.give_turn(token.index);
            }
        }
        // After the wake queue was emptied: what comes later wakes the worker again.
        for entry in self.intake.take() {
            self.open(entry);
        }
        self.stopped = self.intake.is_stopped();
    }

    fn open(&mut self, mut entry: Box<Entry>) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.cells.push(Cell { entry: None, generation: self.generation });
            self.cells.len() as u32 - 1
        });
        let cell = &mut self.cells[index as usize];
        let token = Token { index, generation: cell.generation };
        entry
            .session
            .control()
            .attach(SessionRef { queue: Arc::clone(&self.intake.wake_queue), token }.into());
        let watched = Side::BOTH.into_iter().try_for_each(|side| {
            let data = EventData::new_u64(pack(token, side));
            match entry.session.stream(side).epoll_socket() {
                Some(socket) => epoll::add(&self.epoll, socket, data, EpollSocket::INTEREST),
                None => Err(Errno::NOTSUP),
            }
        });
        cell.entry = Some(entry);
        match watched {
            Ok(()) => self.give_turn(index),
            Err(error) => {
                tracing::error!(%error, "cannot register a tunnel's sockets with epoll; the tunnel ends");
                self.close(index);
            }
        }
    }

    fn entry(&mut self, token: Token) -> Option<&mut Entry> {
        let cell = self.cells.get_mut(token.index as usize)?;
        cell.entry.as_deref_mut().filter(|_| cell.generation == token.generation)
    }

    fn give_turn(&mut self, index: u32) {
        if let Some(entry) = &mut self.cells[index as usize].entry
            && !std::mem::replace(&mut entry.session.is_queued, true)
        {
            self.due.push(index);
        }
    }

    /// Gives a turn to the sessions whose deadlines have passed.
    fn expire_timers(&mut self, now: Duration) {
        let Some(next) = self.wheel.next() else { return };
        let now = now.as_millis() as u64 / BUCKET;
        if next > now {
            return;
        }
        let mut woken = Vec::new();
        self.wheel.expire(now, |index| woken.push(index));
        for index in woken {
            match self.armed(index) {
                // The deadline was more than one turn of the wheel away.
                Some(at) if at > now => self.wheel.set(index, at),
                _ => self.give_turn(index),
            }
        }
    }

    fn turn(&mut self, index: u32, now: Instant) {
        let (began, mut no_waker) = (self.began, Context::from_waker(Waker::noop()));
        let Some(entry) = self.cells.get_mut(index as usize).and_then(|cell| cell.entry.as_mut()) else {
            return;
        };
        entry.session.is_queued = false;
        // A panic in one tunnel must not end the others.
        let turn = catch_unwind(AssertUnwindSafe(|| {
            let next = entry.session.turn(entry.session.control().time_at(now), &mut no_waker);
            if entry.session.has_bad_pong() {
                entry.report_bad_pongs();
            }
            (next, entry.session.arm().map(|at| bucket_of(began, entry, at)))
        }));
        let (next, next_wake) = turn.unwrap_or((Next::End, None));
        match next {
            Next::End => return self.close(index),
            Next::Again => self.give_turn(index),
            Next::Wait => {}
        }
        if let Some(at) = next_wake {
            self.wheel.set(index, at);
        }
    }

    /// The bucket of the session's next deadline.
    fn armed(&self, index: u32) -> Option<u64> {
        let entry = self.cells[index as usize].entry.as_deref()?;
        entry.session.armed().map(|at| bucket_of(self.began, entry, at))
    }

    fn close(&mut self, index: u32) {
        self.wheel.remove(index);
        let cell = &mut self.cells[index as usize];
        cell.generation = cell.generation.wrapping_add(1);
        let entry = cell.entry.take();
        self.generation = self.generation.max(cell.generation);
        self.free.push(index);
        self.intake.session_ended();
        if self.free.len() == self.cells.len() && self.cells.len() > KEPT_CELLS {
            (self.cells, self.free, self.wheel) = (Vec::new(), Vec::new(), self.wheel.emptied());
        }
        // The observer runs code of other modules. Its panic must not end the other tunnels.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(entry)));
    }
}

impl Drop for Worker {
    /// Runs after a stop and after a panic. Sessions that are still open are dropped, and report their end.
    fn drop(&mut self) {
        self.intake.close();
    }
}

/// The first bucket that starts at or after a moment of the session.
fn bucket_of(began: Instant, entry: &Entry, at: TunnelTime) -> u64 {
    let at = entry.session.control().opened() + at.elapsed();
    bucket_after(at.saturating_duration_since(began))
}

fn bucket_after(moment: Duration) -> u64 {
    moment.as_nanos().div_ceil(u128::from(BUCKET) * 1_000_000) as u64
}

fn start_of(bucket: u64) -> Duration {
    Duration::from_millis(bucket.saturating_mul(BUCKET))
}

fn pack(token: Token, side: Side) -> u64 {
    let is_upstream = u64::from(side == Side::Upstream);
    u64::from(token.generation) << 32 | u64::from(token.index) << 1 | is_upstream
}

fn unpack(data: u64) -> (Token, Side) {
    let side = if data & 1 == 1 { Side::Upstream } else { Side::Client };
    (Token { index: data as u32 >> 1, generation: (data >> 32) as u32 }, side)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_starts_no_earlier_than_its_deadlines_even_after_years() {
        let year = Duration::from_secs(365 * 24 * 3600);
        for moment in [Duration::ZERO, Duration::from_micros(1), Duration::from_millis(4), 10 * year] {
            let start = start_of(bucket_after(moment));
            assert!(
                start >= moment && start < moment + Duration::from_millis(BUCKET),
                "{moment:?}: {start:?}"
            );
        }
    }

    #[test]
    fn event_data_round_trips() {
        for (index, generation) in [(0, 0), (1, u32::MAX), (u32::MAX >> 1, 7)] {
            for side in Side::BOTH {
                let token = Token { index, generation };
                assert_eq!(unpack(pack(token, side)), (token, side));
            }
        }
    }
}
