//! Owns one thread of the engine: it waits for sockets, wake-ups and posts, and gives each session that
//! has something to do a turn. It must not know what a session does with it.

use super::inbox::{Inbox, Line, Post, Token};
use super::session::Session;
use super::wheel::Wheel;
use crate::io::EpollSocket;
use crate::outcome::Side;
use crate::tunnel::join::Next;
use crate::tunnel::timer::Tick;
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

/// Events fetched at once. What is fetched waits for all before it; few more a call save little.
const EVENTS: usize = 256;
/// What the timer wheel tells apart, in milliseconds.
const SLOT: u64 = 4;
/// Places that are kept when all are free; what a storm of openings took beyond goes back.
const KEPT: usize = 1024;
/// The event of the inbox; no session has it, for there are not so many.
const INBOX: u64 = u64::MAX;

/// One thread's sessions.
pub(super) struct Worker {
    epoll: OwnedFd,
    inbox: Arc<Inbox>,
    places: Vec<Place>,
    free: Vec<u32>,
    /// More than any generation that a place has had which is no more.
    generation: u32,
    wheel: Wheel,
    /// The wheel's slot 0.
    began: Instant,
    /// Those that have a turn next.
    due: Vec<u32>,
    stopped: bool,
}

/// A place for a session.
struct Place {
    session: Option<Box<Session>>,
    /// How many sessions have left it.
    generation: u32,
}

impl Worker {
    pub(super) fn new(inbox: Arc<Inbox>) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &inbox, EventData::new_u64(INBOX), EventFlags::IN | EventFlags::ET)?;
        let (places, free, due) = (Vec::new(), Vec::new(), Vec::new());
        let (wheel, began) = (Wheel::new(), Instant::now());
        Ok(Self { epoll, inbox, places, free, generation: 0, wheel, began, due, stopped: false })
    }

    /// Relays until it is told to stop.
    pub(super) fn run(mut self) {
        let mut events = Vec::with_capacity(EVENTS);
        let mut turns = Vec::new();
        let mut patience = None;
        while !self.stopped {
            events.clear();
            // It fails when a signal comes in between.
            let _ = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), patience.as_ref());
            for event in &events {
                self.on_event(event);
            }
            std::mem::swap(&mut turns, &mut self.due);
            let mut now = None;
            for index in turns.drain(..) {
                self.turn(index, *now.insert(Instant::now()));
            }
            // Behind the turns, so that those whose time has come have theirs behind a look at their sockets.
            let now = now.unwrap_or_else(Instant::now) - self.began;
            self.wake_up(now);
            patience = self.patience(now);
        }
    }

    /// How long there may be nothing to do.
    fn patience(&self, now: Duration) -> Option<Timespec> {
        if !self.due.is_empty() {
            return Some(Timespec::default());
        }
        let patience = begin_of(self.wheel.next()?).saturating_sub(now);
        Some(Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: patience.subsec_nanos().into() })
    }

    fn on_event(&mut self, event: &Event) {
        if event.data.u64() == INBOX {
            return self.read_posts();
        }
        let (token, side) = unpack(event.data.u64());
        if let Some(session) = self.session(token) {
            if let Some(socket) = session.join.stream(side).epoll_socket() {
                socket.on_events(event.flags);
            }
            self.give_turn(token.index);
        }
    }

    fn read_posts(&mut self) {
        for post in self.inbox.collect() {
            match post {
                Post::Open(session) => self.open(session),
                Post::Mail(token) if self.session(token).is_some() => self.give_turn(token.index),
                Post::Mail(_) => {}
                Post::Stop => self.stopped = true,
            }
        }
    }

    fn open(&mut self, mut session: Box<Session>) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place { session: None, generation: self.generation });
            self.places.len() as u32 - 1
        });
        let place = &mut self.places[index as usize];
        let token = Token { index, generation: place.generation };
        session.join.control().attach(Line { inbox: Arc::clone(&self.inbox), token }.into());
        let watched = Side::BOTH.into_iter().try_for_each(|side| {
            let data = EventData::new_u64(pack(token, side));
            match session.join.stream(side).epoll_socket() {
                Some(socket) => epoll::add(&self.epoll, socket, data, EpollSocket::INTEREST),
                None => Err(Errno::NOTSUP),
            }
        });
        place.session = Some(session);
        match watched {
            Ok(()) => self.give_turn(index),
            Err(error) => {
                tracing::error!(%error, "cannot watch a tunnel's sockets: it ends");
                self.close(index);
            }
        }
    }

    fn session(&mut self, token: Token) -> Option<&mut Session> {
        let place = self.places.get_mut(token.index as usize)?;
        place.session.as_deref_mut().filter(|_| place.generation == token.generation)
    }

    fn give_turn(&mut self, index: u32) {
        if let Some(session) = &mut self.places[index as usize].session
            && !std::mem::replace(&mut session.join.is_due, true)
        {
            self.due.push(index);
        }
    }

    /// Gives those their turn whose time has come.
    fn wake_up(&mut self, now: Duration) {
        let Some(next) = self.wheel.next() else { return };
        let now = now.as_millis() as u64 / SLOT;
        if next > now {
            return;
        }
        let mut woken = Vec::new();
        self.wheel.expire(now, |index| woken.push(index));
        for index in woken {
            match self.armed(index) {
                // It was more than a turn of the wheel away.
                Some(at) if at > now => self.wheel.set(index, at),
                _ => self.give_turn(index),
            }
        }
    }

    fn turn(&mut self, index: u32, now: Instant) {
        let (began, mut nobody) = (self.began, Context::from_waker(Waker::noop()));
        let Some(session) = self.places.get_mut(index as usize).and_then(|place| place.session.as_mut())
        else {
            return;
        };
        session.join.is_due = false;
        // A defect that one tunnel meets is not to be the end of all others.
        let turn = catch_unwind(AssertUnwindSafe(|| {
            let next = session.join.turn(session.join.control().tick(now), &mut nobody);
            if session.join.has_bad_answer() {
                session.tell_of_answers();
            }
            (next, session.join.arm().map(|at| slot(began, session, at)))
        }));
        let (next, wake_up) = turn.unwrap_or((Next::End, None));
        match next {
            Next::End => return self.close(index),
            Next::GoOn => self.give_turn(index),
            Next::Wait => {}
        }
        if let Some(at) = wake_up {
            self.wheel.set(index, at);
        }
    }

    /// In which slot the session is to be woken.
    fn armed(&self, index: u32) -> Option<u64> {
        let session = self.places[index as usize].session.as_deref()?;
        session.join.armed().map(|at| slot(self.began, session, at))
    }

    fn close(&mut self, index: u32) {
        self.wheel.remove(index);
        let place = &mut self.places[index as usize];
        place.generation = place.generation.wrapping_add(1);
        let session = place.session.take();
        self.generation = self.generation.max(place.generation);
        self.free.push(index);
        self.inbox.closed();
        if self.free.len() == self.places.len() && self.places.len() > KEPT {
            (self.places, self.free, self.wheel) = (Vec::new(), Vec::new(), self.wheel.emptied());
        }
        // What is done at its end is not ours, and no reason to end the others.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(session)));
    }
}

impl Drop for Worker {
    /// At its end as by a defect: whoever is still open is dropped with it, and reports that.
    fn drop(&mut self) {
        self.inbox.close();
    }
}

/// The first slot behind a moment of the session.
fn slot(began: Instant, session: &Session, at: Tick) -> u64 {
    let at = session.join.control().opened() + at.elapsed();
    first_behind(at.saturating_duration_since(began))
}

fn first_behind(moment: Duration) -> u64 {
    moment.as_nanos().div_ceil(u128::from(SLOT) * 1_000_000) as u64
}

fn begin_of(slot: u64) -> Duration {
    Duration::from_millis(slot.saturating_mul(SLOT))
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
    fn a_slot_begins_when_its_sessions_are_due_even_after_years() {
        let year = Duration::from_secs(365 * 24 * 3600);
        for moment in [Duration::ZERO, Duration::from_micros(1), Duration::from_millis(4), 10 * year] {
            let begin = begin_of(first_behind(moment));
            assert!(begin >= moment && begin < moment + Duration::from_millis(SLOT), "{moment:?}: {begin:?}");
        }
    }

    #[test]
    fn an_event_tells_whose_it_is() {
        for (index, generation) in [(0, 0), (1, u32::MAX), (u32::MAX >> 1, 7)] {
            for side in Side::BOTH {
                let token = Token { index, generation };
                assert_eq!(unpack(pack(token, side)), (token, side));
            }
        }
    }
}
