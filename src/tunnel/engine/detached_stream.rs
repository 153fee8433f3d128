//! Owns the streams of the engine: those detached from the tokio runtime. They take half the size of a `Stream`.

use crate::io::{EpollSocket, Readiness, Stream, StreamLayer};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream that was detached from the tokio runtime.
#[derive(Debug)]
pub enum DetachedStream {
    /// A socket.
    Plain(EpollSocket),
    /// A layer over a socket.
    Layered(Box<dyn StreamLayer>),
}

impl DetachedStream {
    /// The socket that epoll watches.
    pub(super) fn epoll_socket(&mut self) -> Option<&mut EpollSocket> {
        match self {
            Self::Plain(socket) => Some(socket),
            Self::Layered(stream) => stream.inner_mut()?.epoll_socket(),
        }
    }
}

/// Detaches a stream from the tokio runtime.
impl TryFrom<Stream> for DetachedStream {
    type Error = io::Error;

    fn try_from(stream: Stream) -> io::Result<Self> {
        match stream.detach()? {
            Stream::Epoll(socket) => Ok(Self::Plain(socket)),
            Stream::Layered(stream) => Ok(Self::Layered(stream)),
            Stream::Tcp(_) | Stream::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

impl Readiness for DetachedStream {
    fn has_pending(&self) -> Option<bool> {
        match self {
            Self::Plain(socket) => socket.has_pending(),
            Self::Layered(stream) => stream.has_pending(),
        }
    }

    fn may_read(&self) -> bool {
        match self {
            Self::Plain(socket) => socket.may_read(),
            // A layer may hold bytes that it has read.
            Self::Layered(_) => true,
        }
    }

    fn check_broken(&mut self) -> bool {
        self.epoll_socket().is_some_and(Readiness::check_broken)
    }

    fn reset_on_close(&mut self) {
        if let Some(socket) = self.epoll_socket() {
            socket.reset_on_close();
        }
    }
}

impl AsyncRead for DetachedStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, into),
            Self::Layered(stream) => Pin::new(stream).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for DetachedStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, bytes),
            Self::Layered(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Self::Layered(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Layered(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
