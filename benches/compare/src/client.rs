//! Owns one connection of the load: connects, opens, sends and counts what comes back. Never decides what is sent
//! when.

use crate::frame::{self, Decoder, Header, Part};
use crate::handshake;
use crate::stream::Stream;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// What all connections of a run do alike.
pub struct Plan {
    /// Where they connect to.
    pub to: SocketAddr,
    /// TLS, and the name that is asked for.
    pub tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    /// What opens a WebSocket; `None`: plain HTTP is spoken.
    pub opening: Option<Vec<u8>>,
    /// What is sent each time: a message, or a plain request.
    pub sent: Vec<u8>,
    /// What a message comes back with.
    pub payload: Vec<u8>,
}

/// What happened at a connection.
#[derive(Default)]
pub struct News {
    /// It is open, and may send.
    pub opened: bool,
    /// So many messages or answers have come whole.
    pub received: u32,
    /// It is at its end, for this reason.
    pub ended: Option<String>,
}

/// One connection.
pub struct Connection {
    stream: Stream,
    stage: Stage,
    /// How much of the message that is being sent has been.
    at: usize,
    /// Messages to be sent, with the one that is being sent.
    queued: usize,
    /// What goes between messages: the opening, pongs, a Close.
    between: Vec<u8>,
    /// The answer to a Ping that has not come whole.
    pong: Vec<u8>,
    /// Whether the first echo was looked at.
    verified: bool,
    closing: bool,
    /// Whether room to write was waited for when it was last asked.
    pub waits_to_write: bool,
}

enum Stage {
    Connecting,
    /// The beginning of the opening's answer.
    Opening(Vec<u8>),
    /// Frames; where in a message the next payload belongs, and whether that is a message at all.
    Open {
        decoder: Decoder,
        header: Option<Header>,
        at: usize,
    },
    /// Answers to plain requests: the beginning of a head, and how much of a body is to come.
    Plain {
        head: Vec<u8>,
        left: usize,
    },
}

impl Connection {
    /// Begins to connect.
    pub fn begin(plan: &Plan) -> io::Result<Self> {
        let tls = plan.tls.as_ref().map(|(config, name)| (config, name));
        Ok(Self {
            stream: Stream::connect(plan.to, tls)?,
            stage: Stage::Connecting,
            at: 0,
            queued: 0,
            between: Vec::new(),
            pong: Vec::new(),
            verified: false,
            closing: false,
            waits_to_write: true,
        })
    }

    /// Whether it waits for room to write.
    pub fn wants_write(&self) -> bool {
        matches!(self.stage, Stage::Connecting)
            || self.queued > 0
            || !self.between.is_empty()
            || self.stream.wants_write()
    }

    /// Sends what is sent each time.
    pub fn send(&mut self, plan: &Plan) -> Result<(), String> {
        self.queued += 1;
        self.write(plan).map_err(|error| reason(&error))
    }

    /// Sends a Close; the end is for the other side to make.
    pub fn close(&mut self, plan: &Plan) -> Result<(), String> {
        self.closing = true;
        Header { fin: true, opcode: frame::CLOSE, length: 2, mask: Some([0; 4]) }.write(&mut self.between);
        self.between.extend_from_slice(&1000_u16.to_be_bytes());
        self.write(plan).map_err(|error| reason(&error))
    }

    /// Does what is to be done: takes what has come and writes what waits.
    pub fn turn(&mut self, plan: &Plan, buffer: &mut [u8]) -> News {
        let mut news = News::default();
        if let Err(end) = self.try_turn(plan, buffer, &mut news) {
            news.ended = Some(end);
        }
        news
    }

    fn try_turn(&mut self, plan: &Plan, buffer: &mut [u8], news: &mut News) -> Result<(), String> {
        if matches!(self.stage, Stage::Connecting) {
            if let Some(error) = self.stream.error().map_err(|error| reason(&error))? {
                return Err(reason(&error));
            }
            self.connected(plan, news);
        } else {
            self.read(plan, buffer, news)?;
        }
        self.write(plan).map_err(|error| reason(&error))
    }

    fn connected(&mut self, plan: &Plan, news: &mut News) {
        if let Some(opening) = &plan.opening {
            self.between.extend_from_slice(opening);
            self.stage = Stage::Opening(Vec::new());
        } else {
            self.stage = Stage::Plain { head: Vec::new(), left: 0 };
            news.opened = true;
        }
    }

    fn read(&mut self, plan: &Plan, buffer: &mut [u8], news: &mut News) -> Result<(), String> {
        loop {
            let read = match self.stream.read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(reason(&error)),
                Ok(0) => return Err(if self.closing { CLOSED } else { "end of stream" }.to_owned()),
                Ok(read) => read,
            };
            self.take(plan, &mut buffer[..read], news)?;
            if read < buffer.len() && self.stream.short_read_is_all() {
                return Ok(());
            }
        }
    }

    fn take(&mut self, plan: &Plan, input: &mut [u8], news: &mut News) -> Result<(), String> {
        match &mut self.stage {
            Stage::Connecting => Ok(()),
            Stage::Opening(head) => {
                head.extend_from_slice(input);
                let Some(end) = handshake::end_of_head(head) else { return Ok(()) };
                let mut rest = head.split_off(end);
                handshake::check(head)?;
                news.opened = true;
                self.stage = Stage::Open { decoder: Decoder::default(), header: None, at: 0 };
                self.frames(plan, &mut rest, news)
            }
            Stage::Open { .. } => self.frames(plan, input, news),
            Stage::Plain { head, left } => answers(head, left, input, news),
        }
    }

    fn frames(&mut self, plan: &Plan, mut input: &mut [u8], news: &mut News) -> Result<(), String> {
        let Stage::Open { decoder, header, at } = &mut self.stage else { return Ok(()) };
        while let Some(part) = decoder.next(&mut input) {
            match part {
                Part::Header(new) => {
                    *header = Some(new);
                    if new.opcode == frame::PING {
                        Header { opcode: frame::PONG, mask: Some([0; 4]), ..new }.write(&mut self.pong);
                    }
                }
                Part::Payload { bytes, last } => match *header {
                    Some(header) if header.is_data() => {
                        let end = *at + bytes.len();
                        if !self.verified && plan.payload.get(*at..end) != Some(bytes) {
                            return Err(FALSE.to_owned());
                        }
                        *at = end;
                        if last && header.fin {
                            if std::mem::take(at) != plan.payload.len() {
                                return Err(FALSE.to_owned());
                            }
                            (news.received, self.verified) = (news.received + 1, true);
                        }
                    }
                    Some(Header { opcode: frame::PING, .. }) => {
                        self.pong.extend_from_slice(bytes);
                        if last {
                            self.between.append(&mut self.pong);
                        }
                    }
                    _ => {}
                },
            }
        }
        Ok(())
    }

    /// Writes until all is sent or there is no room. Nothing comes into the middle of a message.
    fn write(&mut self, plan: &Plan) -> io::Result<()> {
        if matches!(self.stage, Stage::Connecting) {
            return Ok(());
        }
        self.stream.flush()?;
        loop {
            let amid = self.at > 0 || (self.between.is_empty() && self.queued > 0);
            let bytes = if amid { &plan.sent[self.at..] } else { self.between.as_slice() };
            if bytes.is_empty() {
                return Ok(());
            }
            let sent = match self.stream.write(bytes) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                other => other?,
            };
            if !amid {
                self.between.drain(..sent);
            } else if self.at + sent == plan.sent.len() {
                (self.at, self.queued) = (0, self.queued - 1);
            } else {
                self.at += sent;
            }
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// How a connection ends whose message came back as another.
const FALSE: &str = "false echo";
/// How a connection ends that was closed from here.
pub const CLOSED: &str = "closed";

/// An error in a word or two, so that like ones can be counted.
pub fn reason(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => "refused".to_owned(),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => "reset".to_owned(),
        _ => error.to_string(),
    }
}

/// Counts the answers to plain requests.
fn answers(head: &mut Vec<u8>, left: &mut usize, mut input: &[u8], news: &mut News) -> Result<(), String> {
    while !input.is_empty() {
        if *left > 0 {
            let taken = input.len().min(*left);
            (*left, input) = (*left - taken, &input[taken..]);
            news.received += u32::from(*left == 0);
            continue;
        }
        let before = head.len();
        head.extend_from_slice(input);
        let Some(end) = handshake::end_of_head(head) else { return Ok(()) };
        input = &input[end - before..];
        head.truncate(end);
        let status = handshake::status(head);
        if status != "200" {
            return Err(format!("status {status}"));
        }
        let length = handshake::header(head, "content-length").and_then(|length| length.parse().ok());
        *left = length.filter(|length| *length > 0).ok_or("an answer without a length")?;
        head.clear();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_survive_any_cut() {
        let one = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
        let wire = [one.as_slice(), one, one].concat();
        for chunk in 1..=wire.len() {
            let (mut head, mut left, mut news) = (Vec::new(), 0, News::default());
            for input in wire.chunks(chunk) {
                answers(&mut head, &mut left, input, &mut news).unwrap();
            }
            assert_eq!((news.received, left, head.len()), (3, 0, 0), "in chunks of {chunk}");
        }
    }

    #[test]
    fn another_status_is_an_end() {
        let wire = b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 5\r\n\r\nhello";
        let ended = answers(&mut Vec::new(), &mut 0, wire, &mut News::default());
        assert_eq!(ended, Err("status 502".to_owned()));
    }
}
