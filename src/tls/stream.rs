//! Owns the server's side of a TLS stream: rustls reads and makes the records, and nothing is buffered while
//! nothing is under way. What rustls buffers where it does so by itself takes 4 KiB of every idle connection.

use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use rustls::{CommonState, ServerConfig};
use std::cell::RefCell;
use std::fmt;
use std::future::Future as _;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::{io, mem};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

/// Bytes both ways in TLS records over another stream.
pub struct TlsStream<S> {
    io: S,
    session: UnbufferedServerConnection,
    server_name: Option<Box<str>>,
    /// Records and messages of the handshake that more bytes have to come for.
    begun: Vec<u8>,
    /// What was read and is not fetched yet.
    unread: Rest,
    /// Records that `io` has not taken yet.
    unsent: Rest,
    /// The client said `close_notify`.
    closed: bool,
    said_goodbye: bool,
    /// The client broke the protocol, or its records were altered.
    failed: bool,
}

/// Bytes of which the first are done with.
#[derive(Debug, Default)]
struct Rest {
    bytes: Vec<u8>,
    done: usize,
}

/// What a record measures at most (RFC 5246 section 6.2.3; those of RFC 8446 are smaller).
const RECORD: usize = 5 + (1 << 14) + 2048;
/// What is sealed at once: two records of the largest size keep a socket busy.
const SEAL: usize = 2 << 14;
/// What there is room for at least when what has begun is read on.
const MORE: usize = 4096;
/// What is kept at most of a message that has begun; rustls takes 64 KiB of one.
const BEGUN: usize = 4 * RECORD;

thread_local! {
    /// Records of the stream that is at work on this thread.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; 2 * RECORD].into());
}

impl<S> TlsStream<S> {
    /// Over `io`, before the handshake; `server_name` is the host that the client has named.
    ///
    /// # Errors
    /// The configuration is of no use.
    pub(super) fn new(
        io: S,
        config: Arc<ServerConfig>,
        server_name: Option<Box<str>>,
    ) -> Result<Self, (rustls::Error, S)> {
        let session = match UnbufferedServerConnection::new(config) {
            Ok(session) => session,
            Err(error) => return Err((error, io)),
        };
        let (begun, unread, unsent) = (Vec::new(), Rest::default(), Rest::default());
        let (closed, said_goodbye, failed) = (false, false, false);
        Ok(Self { io, session, server_name, begun, unread, unsent, closed, said_goodbye, failed })
    }

    /// What the handshake has settled.
    #[must_use]
    pub fn session(&self) -> &CommonState {
        &self.session
    }

    /// The host that the client named (SNI, RFC 6066 section 3).
    #[must_use]
    pub fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    /// The stream below.
    #[must_use]
    pub fn io(&self) -> &S {
        &self.io
    }

    /// The same, to be exchanged for another way to the same socket.
    pub fn io_mut(&mut self) -> &mut S {
        &mut self.io
    }

    /// The same, for good: what was read of it and not fetched is lost.
    #[must_use]
    pub fn into_io(self) -> S {
        self.io
    }

    /// Whether there is something that a read would give at once.
    #[must_use]
    pub fn has_unread(&self) -> bool {
        !self.unread.is_empty() || self.closed
    }

    /// Takes what can be taken of `bytes`: how many that are. What they say goes to `into`, and what has no
    /// room there is kept. Rustls counts on seeing the others again, in the same place.
    fn digest(&mut self, bytes: &mut [u8], into: &mut ReadBuf<'_>) -> Result<usize, rustls::Error> {
        let mut taken = 0;
        loop {
            let UnbufferedStatus { discard, state } = self.session.process_tls_records(&mut bytes[taken..]);
            taken += discard;
            let state = match state {
                Ok(state) => state,
                Err(error) => {
                    self.fetch_alert(&mut bytes[taken..]);
                    return Err(error);
                }
            };
            match state {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        taken += record.discard;
                        let (now, later) =
                            record.payload.split_at(record.payload.len().min(into.remaining()));
                        into.put_slice(now);
                        self.unread.bytes.extend_from_slice(later);
                    }
                }
                ConnectionState::EncodeTlsData(data) => encode(data, &mut self.unsent.bytes),
                // It is kept until it is sent.
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::PeerClosed => self.closed = true,
                _ => return Ok(taken),
            }
        }
    }

    /// After an error: rustls must not look at what is left a second time.
    fn fetch_alert(&mut self, left: &mut [u8]) {
        self.failed = true;
        while self.session.wants_write()
            && let Ok(ConnectionState::EncodeTlsData(data)) = self.session.process_tls_records(left).state
        {
            encode(data, &mut self.unsent.bytes);
        }
    }

    /// Writes records with `bytes` to `into`, or with a farewell; how many bytes that are.
    fn seal(&mut self, bytes: Option<&[u8]>, into: &mut [u8]) -> io::Result<usize> {
        while !self.failed {
            let UnbufferedStatus { discard, state } = self.session.process_tls_records(&mut self.begun);
            debug_assert_eq!(discard, 0, "all that is whole was taken when it came");
            match state.map_err(broken)? {
                ConnectionState::WriteTraffic(mut traffic) => {
                    let sealed = match bytes {
                        Some(bytes) => traffic.encrypt(bytes, into),
                        None => traffic.queue_close_notify(into),
                    };
                    return sealed.map_err(io::Error::other);
                }
                ConnectionState::EncodeTlsData(data) => encode(data, &mut self.unsent.bytes),
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::PeerClosed => self.closed = true,
                _ => break,
            }
        }
        Err(io::ErrorKind::BrokenPipe.into())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream<S> {
    /// Begins the handshake with what has been read of it.
    ///
    /// # Errors
    /// Those of [`poll_handshake`](Self::poll_handshake).
    pub(super) fn begin(&mut self, mut ahead: Vec<u8>, cx: &mut Context<'_>) -> io::Result<()> {
        let taken = self.digest(&mut ahead, &mut ReadBuf::new(&mut []));
        let taken = taken.map_err(|error| self.fail(error, cx))?;
        self.begun = ahead.split_off(taken);
        Ok(())
    }

    /// Goes on with the handshake, to its end.
    pub(super) fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let sent = self.poll_send(cx)?;
            if !self.session.is_handshaking() {
                // Tickets may be left, which go along with what comes next.
                return Poll::Ready(Ok(()));
            }
            if sent.is_ready() {
                ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            }
            // The client may be sending too, and take nothing before that is read.
            ready!(self.poll_receive(cx, &mut ReadBuf::new(&mut [])))?;
        }
    }

    /// Reads once from the stream below.
    fn poll_receive(&mut self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.begun.is_empty() {
            return self.poll_receive_more(cx, into);
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let mut fresh = ReadBuf::new(scratch);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut fresh))?;
            let count = fresh.filled().len();
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            let taken = self.digest(&mut scratch[..count], into).map_err(|error| self.fail(error, cx))?;
            if !self.closed {
                self.begun = scratch[taken..count].to_vec();
            }
            Poll::Ready(Ok(()))
        })
    }

    /// The same, where something has begun.
    fn poll_receive_more(&mut self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut bytes = mem::take(&mut self.begun);
        let begun = bytes.len();
        if begun > BEGUN {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        bytes.reserve(MORE);
        let polled = pin!(self.io.read_buf(&mut bytes)).poll(cx);
        match polled {
            Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            Poll::Ready(Ok(_)) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => {
                self.begun = bytes;
                return Poll::Pending;
            }
        }
        let taken = self.digest(&mut bytes, into).map_err(|error| self.fail(error, cx))?;
        if !self.closed && taken < bytes.len() {
            bytes.drain(..taken);
            self.begun = bytes;
        }
        Poll::Ready(Ok(()))
    }

    /// Sends what waits.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, self.unsent.left()))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.unsent.advance(count),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Sends the alert that tells the client what is wrong, if it is taken at once.
    fn fail(&mut self, error: rustls::Error, cx: &mut Context<'_>) -> io::Error {
        let _ = self.poll_send(cx);
        broken(error)
    }
}

fn encode(mut data: EncodeTlsData<'_, rustls::server::ServerConnectionData>, into: &mut Vec<u8>) {
    let start = into.len();
    if let Err(EncodeError::InsufficientSize(wanted)) = data.encode(&mut []) {
        into.resize(start + wanted.required_size, 0);
        data.encode(&mut into[start..]).expect("it has the room that it wants");
    }
}

/// So tokio-rustls gives it as well.
fn broken(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl Rest {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn left(&self) -> &[u8] {
        &self.bytes[self.done..]
    }

    fn advance(&mut self, count: usize) {
        self.done += count;
        if self.done == self.bytes.len() {
            *self = Self::default();
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for TlsStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream").field("io", &self.io).finish_non_exhaustive()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = into.filled().len();
        // Tickets, or an answer to what was read last. It goes before what is written next at the latest.
        let _ = this.poll_send(cx);
        while into.filled().len() == before && into.remaining() > 0 {
            if !this.unread.is_empty() {
                let count = this.unread.left().len().min(into.remaining());
                into.put_slice(&this.unread.left()[..count]);
                this.unread.advance(count);
            } else if this.closed {
                break;
            } else if this.failed {
                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
            } else {
                ready!(this.poll_receive(cx, into))?;
                let _ = this.poll_send(cx);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        let bytes = &bytes[..bytes.len().min(SEAL)];
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let count = this.seal(Some(bytes), scratch)?;
            let mut records = &scratch[..count];
            if this.unsent.is_empty()
                && let Poll::Ready(taken) = Pin::new(&mut this.io).poll_write(cx, records)
            {
                records = &records[taken?..];
            }
            this.unsent.bytes.extend_from_slice(records);
            Poll::Ready(Ok(bytes.len()))
        })
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    /// Says `close_notify`, and ends the stream below.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.said_goodbye {
            this.said_goodbye = true;
            SCRATCH.with_borrow_mut(|scratch| {
                // Where there can be no farewell, as after an error, the end itself says enough.
                let count = this.seal(None, scratch).unwrap_or(0);
                this.unsent.bytes.extend_from_slice(&scratch[..count]);
            });
        }
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
