//! Owns the server's side of a TLS stream. Rustls reads and makes the records, and an idle stream holds no
//! buffer. With the buffers of rustls itself, each idle connection would take 4 KiB more. It must not know
//! what the bytes are.

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

/// A TLS stream over another stream.
pub struct TlsStream<S> {
    io: S,
    session: UnbufferedServerConnection,
    server_name: Option<Box<str>>,
    /// The beginning of a record or of a handshake message.
    partial: Vec<u8>,
    /// Decrypted bytes that have not been read.
    unread: ByteQueue,
    /// Records that have not been written to `io`.
    unsent: ByteQueue,
    /// The client has sent `close_notify`.
    closed: bool,
    close_notify_sent: bool,
    /// The client has broken the protocol, or its records were altered.
    failed: bool,
}

/// Bytes that are taken from the front.
#[derive(Debug, Default)]
struct ByteQueue {
    bytes: Vec<u8>,
    done: usize,
}

/// The largest record (RFC 5246 section 6.2.3; those of RFC 8446 are smaller).
const MAX_RECORD: usize = 5 + (1 << 14) + 2048;
/// How many bytes are encrypted at once. Two full records keep a socket busy.
const ENCRYPT_AT_ONCE: usize = 2 << 14;
/// The least room for reading the rest of a partial record.
const MIN_READ: usize = 4096;
/// The most that is kept of a partial message. Rustls accepts messages of 64 KiB.
const MAX_PARTIAL: usize = 4 * MAX_RECORD;

thread_local! {
    /// For the records of the stream that this thread is working on.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; 2 * MAX_RECORD].into());
}

impl<S> TlsStream<S> {
    /// A stream before its handshake. `server_name` is the host name that the client has sent.
    ///
    /// # Errors
    /// Rustls refuses the configuration. The stream is returned with the error.
    pub(super) fn new(
        io: S,
        config: Arc<ServerConfig>,
        server_name: Option<Box<str>>,
    ) -> Result<Self, (rustls::Error, S)> {
        let session = match UnbufferedServerConnection::new(config) {
            Ok(session) => session,
            Err(error) => return Err((error, io)),
        };
        let (partial, unread, unsent) = (Vec::new(), ByteQueue::default(), ByteQueue::default());
        let (closed, close_notify_sent, failed) = (false, false, false);
        Ok(Self { io, session, server_name, partial, unread, unsent, closed, close_notify_sent, failed })
    }

    /// What the handshake has negotiated.
    #[must_use]
    pub fn session(&self) -> &CommonState {
        &self.session
    }

    /// The host name that the client has sent (SNI, RFC 6066 section 3).
    #[must_use]
    pub fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    /// The stream below.
    #[must_use]
    pub(crate) fn io(&self) -> &S {
        &self.io
    }

    /// The stream below, which the caller may replace by another one over the same socket.
    pub(crate) fn io_mut(&mut self) -> &mut S {
        &mut self.io
    }

    /// The stream below. Bytes that were received and not read are lost.
    #[must_use]
    pub(crate) fn into_io(self) -> S {
        self.io
    }

    /// Whether a read would return at once.
    #[must_use]
    pub(crate) fn has_unread(&self) -> bool {
        !self.unread.is_empty() || self.closed
    }

    /// Processes the whole records in `bytes`, and returns how many bytes that were. Decrypted bytes go to
    /// `into`; those that do not fit are kept. Rustls must get the remaining bytes again, at the beginning of
    /// the next ones.
    fn process(&mut self, bytes: &mut [u8], into: &mut ReadBuf<'_>) -> Result<usize, rustls::Error> {
        let mut taken = 0;
        loop {
            let UnbufferedStatus { discard, state } = self.session.process_tls_records(&mut bytes[taken..]);
            taken += discard;
            let state = match state {
                Ok(state) => state,
                Err(error) => {
                    self.encode_alert(&mut bytes[taken..]);
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
                // `unsent` keeps it until it is sent.
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::PeerClosed => self.closed = true,
                _ => return Ok(taken),
            }
        }
    }

    /// Encodes the alert after an error. Rustls must not process the remaining bytes again.
    fn encode_alert(&mut self, left: &mut [u8]) {
        self.failed = true;
        while self.session.wants_write()
            && let Ok(ConnectionState::EncodeTlsData(data)) = self.session.process_tls_records(left).state
        {
            encode(data, &mut self.unsent.bytes);
        }
    }

    /// Encrypts `bytes` into `into`, or `close_notify` for `None`. Returns the length of the records.
    fn encrypt(&mut self, bytes: Option<&[u8]>, into: &mut [u8]) -> io::Result<usize> {
        while !self.failed {
            let UnbufferedStatus { discard, state } = self.session.process_tls_records(&mut self.partial);
            debug_assert_eq!(discard, 0, "whole records were processed when they came");
            match state.map_err(broken)? {
                ConnectionState::WriteTraffic(mut traffic) => {
                    let written = match bytes {
                        Some(bytes) => traffic.encrypt(bytes, into),
                        None => traffic.queue_close_notify(into),
                    };
                    return written.map_err(io::Error::other);
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
    /// Begins the handshake with the bytes that were read before.
    ///
    /// # Errors
    /// They break the protocol. Holdline has tried to send an alert.
    pub(super) fn begin(&mut self, mut bytes: Vec<u8>, cx: &mut Context<'_>) -> io::Result<()> {
        let taken = self.process(&mut bytes, &mut ReadBuf::new(&mut []));
        let taken = taken.map_err(|error| self.fail(error, cx))?;
        self.partial = bytes.split_off(taken);
        Ok(())
    }

    /// Runs the handshake to its end.
    pub(super) fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let sent = self.poll_send(cx)?;
            if !self.session.is_handshaking() {
                // Tickets may be unsent. The next write sends them.
                return Poll::Ready(Ok(()));
            }
            if sent.is_ready() {
                ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            }
            // The client may be sending too, and may read nothing until its bytes are read.
            ready!(self.poll_receive(cx, &mut ReadBuf::new(&mut [])))?;
        }
    }

    /// Reads once from the stream below.
    fn poll_receive(&mut self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.partial.is_empty() {
            return self.poll_receive_more(cx, into);
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let mut fresh = ReadBuf::new(scratch);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut fresh))?;
            let count = fresh.filled().len();
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            let taken = self.process(&mut scratch[..count], into).map_err(|error| self.fail(error, cx))?;
            if !self.closed {
                self.partial = scratch[taken..count].to_vec();
            }
            Poll::Ready(Ok(()))
        })
    }

    /// Reads once from the stream below, after a partial record.
    fn poll_receive_more(&mut self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut bytes = mem::take(&mut self.partial);
        let partial = bytes.len();
        if partial > MAX_PARTIAL {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        bytes.reserve(MIN_READ);
        let polled = pin!(self.io.read_buf(&mut bytes)).poll(cx);
        match polled {
            Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            Poll::Ready(Ok(_)) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => {
                self.partial = bytes;
                return Poll::Pending;
            }
        }
        let taken = self.process(&mut bytes, into).map_err(|error| self.fail(error, cx))?;
        if !self.closed && taken < bytes.len() {
            bytes.drain(..taken);
            self.partial = bytes;
        }
        Poll::Ready(Ok(()))
    }

    /// Sends what is unsent.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, self.unsent.left()))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.unsent.advance(count),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Sends the alert, if the stream below takes it at once.
    fn fail(&mut self, error: rustls::Error, cx: &mut Context<'_>) -> io::Error {
        let _ = self.poll_send(cx);
        broken(error)
    }
}

fn encode(mut data: EncodeTlsData<'_, rustls::server::ServerConnectionData>, into: &mut Vec<u8>) {
    let start = into.len();
    if let Err(EncodeError::InsufficientSize(wanted)) = data.encode(&mut []) {
        into.resize(start + wanted.required_size, 0);
        data.encode(&mut into[start..]).expect("there is room for it");
    }
}

/// An error as tokio-rustls returns it.
fn broken(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl ByteQueue {
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
        // Tickets, or replies to the records that were read last. The next write sends what is left.
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
        let bytes = &bytes[..bytes.len().min(ENCRYPT_AT_ONCE)];
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let count = this.encrypt(Some(bytes), scratch)?;
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

    /// Sends `close_notify`, and shuts the stream below down.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.close_notify_sent {
            this.close_notify_sent = true;
            SCRATCH.with_borrow_mut(|scratch| {
                // After an error there is no `close_notify`; the end of the stream has to do.
                let count = this.encrypt(None, scratch).unwrap_or(0);
                this.unsent.bytes.extend_from_slice(&scratch[..count]);
            });
        }
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
