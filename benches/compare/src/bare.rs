//! Owns the floor: a relay of sockets that looks at nothing it carries, knows no HTTP, no timeout and no end but the
//! peers'. What it takes for a message is what the kernel takes, for any proxy.
//!
//! Edge-triggered, each socket registered once; one read and one write a message.

use crate::poll::{Poll, listen};
use serde_json::json;
use socket2::{Domain, Socket, Type};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

const LISTENER: usize = 0;
const INPUT: usize = 1;
/// Tokens before those of sockets.
const RESERVED: usize = 2;
/// Bytes read at once, as the proxy does.
const BUFFER: usize = 80 * 1024;

/// Relays until the standard input ends. Says on the standard output where.
pub fn run(address: SocketAddr, to: SocketAddr) -> io::Result<()> {
    let listener = listen(address)?;
    let mut poll = Poll::new()?;
    poll.add(&listener, LISTENER, false)?;
    poll.add(io::stdin(), INPUT, false)?;
    println!("{}", json!({ "event": "ready", "port": listener.local_addr()?.port() }));
    let (mut pairs, mut buffer) = (Pairs { to, all: Vec::new(), free: Vec::new() }, vec![0; BUFFER]);
    loop {
        for at in 0..poll.wait(None)? {
            match poll.event(at) {
                LISTENER => pairs.accept(&listener, &poll)?,
                INPUT => {
                    if io::stdin().read(&mut buffer)? == 0 {
                        return Ok(());
                    }
                }
                token => pairs.turn(token - RESERVED, poll.ends(at), &mut buffer),
            }
        }
    }
}

/// The connections; the sockets of one have its place twice over, and one more, as token.
struct Pairs {
    to: SocketAddr,
    all: Vec<Option<[Leg; 2]>>,
    free: Vec<usize>,
}

impl Pairs {
    /// Takes all that wait.
    fn accept(&mut self, listener: &TcpListener, poll: &Poll) -> io::Result<()> {
        loop {
            let client = match listener.accept() {
                Ok((client, _)) => client,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            client.set_nonblocking(true)?;
            let upstream = connect(self.to)?;
            let place = self.free.pop().unwrap_or_else(|| {
                self.all.push(None);
                self.all.len() - 1
            });
            let pair = [Leg::new(client), Leg::new(upstream)];
            for (leg, token) in pair.iter().zip(RESERVED + 2 * place..) {
                leg.stream.set_nodelay(true)?;
                poll.add_edges(&leg.stream, token)?;
            }
            self.all[place] = Some(pair);
        }
    }

    fn turn(&mut self, token: usize, ends: bool, buffer: &mut [u8]) {
        let (place, side) = (token / 2, token % 2);
        // Nothing: the event is of one that ended in this same batch.
        let Some(pair) = &mut self.all[place] else { return };
        pair[side].readable = true;
        pair[side].ends |= ends;
        if !relay(pair, buffer).unwrap_or(false) {
            self.all[place] = None;
            self.free.push(place);
        }
    }
}

/// One socket of the two.
struct Leg {
    stream: TcpStream,
    readable: bool,
    /// Its end is on its way: it is read up to there.
    ends: bool,
    /// Its end was read.
    ended: bool,
    unsent: Vec<u8>,
}

impl Leg {
    fn new(stream: TcpStream) -> Self {
        Self { stream, readable: false, ends: false, ended: false, unsent: Vec::new() }
    }

    /// Sends what waits; whether all of it is sent.
    fn flush(&mut self) -> io::Result<bool> {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                written => drop(self.unsent.drain(..written?)),
            }
        }
        Ok(true)
    }
}

/// Moves what there is both ways; whether the two go on.
fn relay(pair: &mut [Leg; 2], buffer: &mut [u8]) -> io::Result<bool> {
    let [client, upstream] = pair;
    one_way(client, upstream, buffer)?;
    one_way(upstream, client, buffer)?;
    Ok(!(pair.iter().all(|leg| leg.ended && leg.unsent.is_empty())))
}

fn one_way(from: &mut Leg, to: &mut Leg, buffer: &mut [u8]) -> io::Result<()> {
    while to.flush()? && from.readable && !from.ended {
        match from.stream.read(buffer) {
            Ok(0) => {
                from.ended = true;
                to.stream.shutdown(Shutdown::Write)?;
            }
            Ok(read) => {
                from.readable = read == buffer.len() || from.ends;
                to.unsent = send(&to.stream, &buffer[..read])?;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => from.readable = false,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Sends bytes; what is not taken.
fn send(mut stream: &TcpStream, bytes: &[u8]) -> io::Result<Vec<u8>> {
    match stream.write(bytes) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(bytes.to_vec()),
        written => Ok(bytes[written?..].to_vec()),
    }
}

/// Begins to connect; what is sent before it is done waits.
fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM.nonblocking().cloexec(), None)?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
            Err(error)
        }
        _ => Ok(socket.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> (TcpStream, Leg) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let far = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
        let near = listener.accept().expect("the same").0;
        near.set_nonblocking(true).expect("an option");
        (far, Leg::new(near))
    }

    #[test]
    fn bytes_and_ends_pass_both_ways() {
        let ((mut client, one), (mut upstream, other)) = (two(), two());
        let (mut pair, mut buffer, mut read) = ([one, other], vec![0; 64], Vec::new());
        let whole = vec![7; 1000];
        client.write_all(&whole).expect("room");
        client.shutdown(Shutdown::Write).expect("an end");
        while !pair[0].ended {
            pair[0].readable = true;
            assert!(relay(&mut pair, &mut buffer).expect("no error"));
        }
        upstream.read_to_end(&mut read).expect("the end");
        assert_eq!(read, whole);
        upstream.write_all(b"back").expect("room");
        drop(upstream);
        pair[1].ends = true;
        loop {
            pair[1].readable = true;
            if !relay(&mut pair, &mut buffer).expect("no error") {
                break;
            }
        }
        drop(pair);
        read.clear();
        client.read_to_end(&mut read).expect("the end");
        assert_eq!(read, b"back");
    }
}
