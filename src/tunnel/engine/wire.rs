//! Owns the stream of one side as the engine has it: half the size of one that may be of the runtime too.

use crate::io::{Arrivals, Edge, Layered, Stream};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream that has left the runtime.
#[derive(Debug)]
pub enum Wire {
    /// A socket.
    Plain(Edge),
    /// What a socket carries.
    Layered(Box<dyn Layered>),
}

impl Wire {
    /// The socket, which epoll watches.
    pub(super) fn edge(&mut self) -> Option<&mut Edge> {
        match self {
            Self::Plain(edge) => Some(edge),
            Self::Layered(stream) => stream.below()?.edge(),
        }
    }
}

/// Takes a stream out of the runtime.
impl TryFrom<Stream> for Wire {
    type Error = io::Error;

    fn try_from(stream: Stream) -> io::Result<Self> {
        match stream.leave()? {
            Stream::Edge(edge) => Ok(Self::Plain(edge)),
            Stream::Layered(stream) => Ok(Self::Layered(stream)),
            Stream::Tcp(_) | Stream::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

impl Arrivals for Wire {
    fn has_arrived(&self) -> Option<bool> {
        match self {
            Self::Plain(edge) => edge.has_arrived(),
            Self::Layered(stream) => stream.has_arrived(),
        }
    }

    fn may_read(&self) -> bool {
        match self {
            Self::Plain(edge) => edge.may_read(),
            // A layer may have read ahead.
            Self::Layered(_) => true,
        }
    }

    fn is_broken(&mut self) -> bool {
        self.edge().is_some_and(Arrivals::is_broken)
    }

    fn break_off(&mut self) {
        if let Some(edge) = self.edge() {
            edge.break_off();
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(edge) => Pin::new(edge).poll_read(cx, into),
            Self::Layered(stream) => Pin::new(stream).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(edge) => Pin::new(edge).poll_write(cx, bytes),
            Self::Layered(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(edge) => Pin::new(edge).poll_flush(cx),
            Self::Layered(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(edge) => Pin::new(edge).poll_shutdown(cx),
            Self::Layered(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
