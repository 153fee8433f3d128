//! Owns the load: many connections on one thread, and what all kinds of load share.

pub mod hold;
pub mod openings;
pub mod rate;
pub mod rounds;

use crate::client::{Connection, News, Plan};
use crate::poll::{Poll, Timer};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

/// Bytes read at once, of whichever connection.
const BUFFER: usize = 256 * 1024;
/// Openings under way at once while the connections of a load are opened: fewer than any proxy lets wait.
const OPENING_AT_ONCE: usize = 128;
/// How long nothing may happen before what is missing is given up.
const PATIENCE: Duration = Duration::from_secs(10);

const TIMER: usize = 0;
const INPUT: usize = 1;
/// Tokens before those of connections.
const RESERVED: usize = 2;

/// What a connection is to do now.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Wait.
    Nothing,
    /// Send once more.
    Send,
    /// Send a Close.
    Close,
}

/// What else there was in a turn.
#[derive(Default)]
pub struct Woken {
    /// The timer is due; it is to be set anew.
    pub timer: bool,
    /// There is something on the standard input.
    pub input: bool,
}

/// How many of what, for instance ends by reason.
#[derive(Default)]
pub struct Counts(BTreeMap<String, u64>);

impl Counts {
    /// Counts one.
    pub fn add(&mut self, what: &str) {
        *self.0.entry(what.to_owned()).or_default() += 1;
    }

    /// All there are.
    pub fn sum(&self) -> u64 {
        self.0.values().sum()
    }

    /// As an object.
    pub fn json(&self) -> Value {
        json!(self.0)
    }
}

/// The connections, by their slot.
pub struct Fleet {
    plan: Plan,
    poll: Poll,
    timer: Timer,
    connections: Vec<Option<Connection>>,
    buffer: Vec<u8>,
}

impl Fleet {
    /// Without connections yet.
    pub fn new(plan: Plan) -> io::Result<Self> {
        let (poll, timer) = (Poll::new()?, Timer::new()?);
        poll.add(&timer, TIMER, false)?;
        Ok(Self { plan, poll, timer, connections: Vec::new(), buffer: vec![0; BUFFER] })
    }

    /// Wakes for the standard input too, once there is something to read or it ends.
    pub fn heed_input(&self) -> io::Result<()> {
        self.poll.add(io::stdin(), INPUT, false)
    }

    /// Sets the timer.
    pub fn wake_after(&self, after: Duration) -> io::Result<()> {
        self.timer.set(after)
    }

    /// Begins a connection in an empty slot.
    pub fn begin(&mut self, slot: usize) -> io::Result<()> {
        let connection = Connection::begin(&self.plan)?;
        self.poll.add(&connection, slot + RESERVED, true)?;
        if self.connections.len() <= slot {
            self.connections.resize_with(slot + 1, || None);
        }
        self.connections[slot] = Some(connection);
        Ok(())
    }

    /// The slots with a connection.
    pub fn live(&self) -> Vec<usize> {
        (0..self.connections.len()).filter(|slot| self.connections[*slot].is_some()).collect()
    }

    /// Whether a slot has one.
    pub fn is_live(&self, slot: usize) -> bool {
        self.connections.get(slot).is_some_and(Option::is_some)
    }

    /// Has a connection do something; why it has ended, if it has.
    pub fn order(&mut self, slot: usize, then: Then) -> io::Result<Option<String>> {
        let Some(connection) = &mut self.connections[slot] else { return Ok(None) };
        let done = match then {
            Then::Nothing => Ok(()),
            Then::Send => connection.send(&self.plan),
            Then::Close => connection.close(&self.plan),
        };
        let wants_write = connection.wants_write();
        match done {
            Err(end) => {
                self.connections[slot] = None;
                return Ok(Some(end));
            }
            Ok(()) if wants_write != connection.waits_to_write => {
                connection.waits_to_write = wants_write;
                self.poll.change(&*connection, slot + RESERVED, wants_write)?;
            }
            Ok(()) => {}
        }
        Ok(None)
    }

    /// Waits, and asks of every connection with news what it is to do. Of one that has ended the slot is empty.
    pub fn turn(
        &mut self,
        timeout: Option<Duration>,
        mut each: impl FnMut(usize, &News) -> Then,
    ) -> io::Result<Woken> {
        let mut woken = Woken::default();
        for at in 0..self.poll.wait(timeout)? {
            let slot = match self.poll.event(at) {
                TIMER => {
                    woken.timer = true;
                    continue;
                }
                INPUT => {
                    woken.input = true;
                    continue;
                }
                token => token - RESERVED,
            };
            let Some(connection) = &mut self.connections[slot] else { continue };
            let news = connection.turn(&self.plan, &mut self.buffer);
            let then = each(slot, &news);
            if news.ended.is_some() {
                self.connections[slot] = None;
            } else if let Some(end) = self.order(slot, then)? {
                each(slot, &News { ended: Some(end), ..News::default() });
            }
        }
        Ok(woken)
    }

    /// Opens as many in the first slots, and waits until all are open or have failed.
    pub fn open(&mut self, count: usize) -> io::Result<Opened> {
        let (begun_at, mut last) = (Instant::now(), Instant::now());
        let (mut begun, mut opened, mut failures) = (0, 0, Counts::default());
        loop {
            let settled = opened + failures.sum() as usize;
            if settled == count {
                break;
            } else if last.elapsed() > PATIENCE {
                (settled..count).for_each(|_| failures.add("no answer"));
                break;
            }
            while begun < count && begun - settled < OPENING_AT_ONCE {
                self.begin(begun)?;
                begun += 1;
            }
            self.turn(Some(PATIENCE), |_, news| {
                opened += usize::from(news.opened);
                if let Some(end) = &news.ended {
                    failures.add(end);
                }
                last = Instant::now();
                Then::Nothing
            })?;
        }
        Ok(Opened { opened, failures, seconds: begun_at.elapsed().as_secs_f64() })
    }

    /// Closes all, and waits until they have ended. How they have.
    pub fn close(&mut self) -> io::Result<Counts> {
        let mut ends = Counts::default();
        for slot in self.live() {
            if let Some(end) = self.order(slot, Then::Close)? {
                ends.add(&end);
            }
        }
        let mut last = Instant::now();
        let mut left = self.live().len();
        while left > 0 && last.elapsed() < PATIENCE {
            self.turn(Some(PATIENCE), |_, news| {
                if let Some(end) = &news.ended {
                    ends.add(end);
                    (left, last) = (left - 1, Instant::now());
                }
                Then::Nothing
            })?;
        }
        (0..left).for_each(|_| ends.add("stays open"));
        Ok(ends)
    }
}

/// What came of opening many.
pub struct Opened {
    /// So many are open.
    pub opened: usize,
    /// Why others are not.
    pub failures: Counts,
    /// How long it took.
    pub seconds: f64,
}

/// Says something to who runs this.
pub fn say(event: &str, mut what: Value) {
    what["event"] = json!(event);
    println!("{what}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{self, Decoder, Part};
    use crate::handshake;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    /// The next frame that a client sends: what it is, and its payload.
    fn frame_of(stream: &mut TcpStream) -> (u8, Vec<u8>) {
        let (mut decoder, mut opcode, mut payload) = (Decoder::default(), 0, Vec::new());
        loop {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            let mut input = byte.as_mut_slice();
            while let Some(part) = decoder.next(&mut input) {
                match part {
                    Part::Header(header) => opcode = header.opcode,
                    Part::Payload { bytes, last } => {
                        payload.extend_from_slice(bytes);
                        if last {
                            return (opcode, payload);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_ping_in_parts_is_answered_whole() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let payload = frame::payload(64);
        let plan = Plan {
            to: listener.local_addr().unwrap(),
            tls: None,
            opening: Some(handshake::request("localhost", "/")),
            sent: frame::message(&payload),
            payload: payload.clone(),
        };
        let server = thread::spawn(move || {
            let (mut stream, mut head) = (listener.accept().unwrap().0, Vec::new());
            // So that a false answer fails, and does not hang.
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            while handshake::end_of_head(&head).is_none() {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                head.extend_from_slice(&byte);
            }
            let key = handshake::header(&head, "sec-websocket-key").unwrap();
            stream.write_all(&[handshake::accepted(key), vec![0x89, 2]].concat()).unwrap();
            let first = frame_of(&mut stream);
            stream.write_all(b"hi").unwrap();
            [first, frame_of(&mut stream)]
        });
        let mut fleet = Fleet::new(plan).unwrap();
        fleet.begin(0).unwrap();
        while !server.is_finished() {
            let then = |_, news: &News| if news.opened { Then::Send } else { Then::Nothing };
            fleet.turn(Some(Duration::from_millis(10)), then).unwrap();
        }
        assert_eq!(server.join().unwrap(), [(frame::BINARY, payload), (frame::PONG, b"hi".to_vec())]);
    }
}
