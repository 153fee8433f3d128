//! Owns the upstream: a WebSocket echo that also answers plain requests, on one thread, far cheaper than a proxy.
//!
//! Payloads are passed back as they come, frame by frame; what a peer does not take is held and nothing more is read.

use crate::frame::{self, Decoder, Header, Part};
use crate::handshake;
use crate::poll::{Poll, listen};
use serde_json::json;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

const LISTENER: usize = 0;
const INPUT: usize = 1;
/// Tokens before those of peers.
const RESERVED: usize = 2;
/// Connections accepted before others have their turn.
const ACCEPTED_AT_ONCE: usize = 256;
/// Bytes read at once, of whichever peer.
const BUFFER: usize = 256 * 1024;
/// The body that a plain request is answered with.
const PAGE: usize = 1024;

/// Serves until the standard input ends. Says on the standard output where.
pub fn run(address: SocketAddr) -> io::Result<()> {
    let listener = listen(address)?;
    let mut poll = Poll::new()?;
    poll.add(&listener, LISTENER, false)?;
    poll.add(io::stdin(), INPUT, false)?;
    println!("{}", json!({ "event": "ready", "port": listener.local_addr()?.port() }));
    let (mut peers, mut buffers) = (Peers::default(), Buffers::new());
    loop {
        for at in 0..poll.wait(None)? {
            match poll.event(at) {
                LISTENER => peers.accept(&listener, &poll)?,
                INPUT => {
                    if io::stdin().read(&mut buffers.input)? == 0 {
                        return Ok(());
                    }
                }
                token => peers.turn(token - RESERVED, &poll, &mut buffers)?,
            }
        }
    }
}

/// What all peers share, as nothing is held in it from one turn to the next.
struct Buffers {
    input: Vec<u8>,
    output: Vec<u8>,
    page: Vec<u8>,
}

impl Buffers {
    fn new() -> Self {
        let mut page =
            format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {PAGE}\r\n\r\n");
        page.extend(std::iter::repeat_n('x', PAGE));
        Self { input: vec![0; BUFFER], output: Vec::with_capacity(2 * BUFFER), page: page.into_bytes() }
    }
}

/// The connections, by their token.
#[derive(Default)]
struct Peers {
    all: Vec<Option<Peer>>,
    free: Vec<usize>,
}

impl Peers {
    fn accept(&mut self, listener: &TcpListener, poll: &Poll) -> io::Result<()> {
        for _ in 0..ACCEPTED_AT_ONCE {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            let slot = self.free.pop().unwrap_or_else(|| {
                self.all.push(None);
                self.all.len() - 1
            });
            poll.add(&stream, slot + RESERVED, false)?;
            self.all[slot] = Some(Peer::new(stream));
        }
        Ok(())
    }

    fn turn(&mut self, slot: usize, poll: &Poll, buffers: &mut Buffers) -> io::Result<()> {
        // Nothing: the event is of one that ended in this same batch.
        let Some(peer) = &mut self.all[slot] else { return Ok(()) };
        let waited = !peer.unsent.is_empty();
        let goes_on = peer.turn(buffers).unwrap_or(false);
        if !goes_on {
            self.all[slot] = None;
            self.free.push(slot);
        } else if peer.unsent.is_empty() {
            if waited {
                poll.change(&peer.stream, slot + RESERVED, false)?;
            }
        } else if !waited {
            poll.only_write(&peer.stream, slot + RESERVED)?;
        }
        Ok(())
    }
}

/// One connection.
struct Peer {
    stream: TcpStream,
    speaks: Speaks,
    /// What the peer has not taken.
    unsent: Vec<u8>,
    /// The last of it was sent, or is about to be.
    ends: bool,
}

enum Speaks {
    /// Requests; of one that is not whole yet, its beginning.
    Http(Vec<u8>),
    /// Frames, and what the one that is being read is answered with.
    WebSocket { decoder: Decoder, answer: Option<u8> },
}

impl Peer {
    fn new(stream: TcpStream) -> Self {
        Self { stream, speaks: Speaks::Http(Vec::new()), unsent: Vec::new(), ends: false }
    }

    /// Whether the connection goes on.
    fn turn(&mut self, buffers: &mut Buffers) -> io::Result<bool> {
        if self.unsent.is_empty() {
            let read = match self.stream.read(&mut buffers.input) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                other => other?,
            };
            if read == 0 {
                return Ok(false);
            }
            buffers.output.clear();
            self.answer(read, buffers);
            let sent = self.send(&buffers.output)?;
            self.unsent.extend_from_slice(&buffers.output[sent..]);
        } else {
            let held = std::mem::take(&mut self.unsent);
            let sent = self.send(&held)?;
            self.unsent.extend_from_slice(&held[sent..]);
        }
        Ok(!(self.ends && self.unsent.is_empty()))
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        match self.stream.write(bytes) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            other => other,
        }
    }

    /// Writes the answer to the first `read` bytes of the input to the output.
    fn answer(&mut self, read: usize, Buffers { input, output, page }: &mut Buffers) {
        let input = &mut input[..read];
        let Speaks::Http(held) = &mut self.speaks else { return self.echo(input, output) };
        held.extend_from_slice(input);
        while let Some(end) = handshake::end_of_head(held) {
            let mut rest = held.split_off(end);
            let head = std::mem::take(held);
            if let Some(key) = handshake::header(&head, "sec-websocket-key") {
                output.extend_from_slice(&handshake::accepted(key));
                self.speaks = Speaks::WebSocket { decoder: Decoder::default(), answer: None };
                return self.echo(&mut rest, output);
            }
            output.extend_from_slice(page);
            self.ends = handshake::header(&head, "connection") == Some("close");
            *held = rest;
        }
    }

    fn echo(&mut self, mut input: &mut [u8], output: &mut Vec<u8>) {
        let Speaks::WebSocket { decoder, answer } = &mut self.speaks else { return };
        while let Some(part) = decoder.next(&mut input) {
            match part {
                Part::Header(header) => {
                    *answer = answer_to(header.opcode);
                    if let Some(opcode) = *answer {
                        Header { opcode, mask: None, ..header }.write(output);
                    }
                }
                Part::Payload { bytes, last } => {
                    if let Some(opcode) = *answer {
                        output.extend_from_slice(bytes);
                        self.ends |= last && opcode == frame::CLOSE;
                    }
                }
            }
        }
    }
}

/// What a frame is answered with: itself, a Ping with a Pong, a Pong with nothing.
fn answer_to(opcode: u8) -> Option<u8> {
    match opcode {
        frame::PING => Some(frame::PONG),
        frame::PONG => None,
        other => Some(other),
    }
}
