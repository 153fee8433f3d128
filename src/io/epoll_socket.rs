//! Owns a socket outside of the tokio runtime, registered with an edge-triggered epoll instance. It reads and
//! writes only while the last events allow it. It must not know who owns the epoll instance.

use super::Readiness;
use rustix::event::epoll::EventFlags;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connected non-blocking stream socket. It never wakes a task. The owner of the epoll instance reports events
/// through [`EpollSocket::on_events`] and then polls it.
#[derive(Debug)]
pub struct EpollSocket {
    fd: OwnedFd,
    readable: bool,
    writable: bool,
    /// Epoll reported the end of the stream or an error, so reads go on until they return it.
    ends: bool,
    /// A read that does not fill its buffer has emptied the socket. This does not hold for unix sockets, where a
    /// read ends at ancillary data.
    short_read_empties: bool,
}

impl EpollSocket {
    pub(super) fn new(fd: OwnedFd, short_read_empties: bool) -> Self {
        // Epoll reports readable bytes right after the registration. A new socket is nearly always writable.
        Self { fd, readable: false, writable: true, ends: false, short_read_empties }
    }

    /// The events to register with epoll, once.
    pub const INTEREST: EventFlags =
        EventFlags::IN.union(EventFlags::OUT).union(EventFlags::RDHUP).union(EventFlags::ET);

    /// Records the events that epoll reported.
    pub fn on_events(&mut self, events: EventFlags) {
        let ends = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
        self.ends |= events.intersects(ends);
        self.readable |= events.intersects(ends | EventFlags::IN);
        self.writable |= events.intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR);
    }
}

impl AsFd for EpollSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Readiness for EpollSocket {
    fn has_pending(&self) -> Option<bool> {
        Some(!matches!(recv(&self.fd, &mut [0_u8; 1], RecvFlags::PEEK), Err(Errno::AGAIN)))
    }

    fn may_read(&self) -> bool {
        self.readable
    }

    fn check_broken(&mut self) -> bool {
        super::check_broken(self)
    }

    fn reset_on_close(&mut self) {
        super::reset_on_close(self);
    }
}

impl AsyncRead for EpollSocket {
    #[inline]
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.readable {
            return Poll::Pending;
        }
        let room = into.remaining();
        match retry_on_intr(|| recv(&self.fd, into.initialize_unfilled(), RecvFlags::empty())) {
            Ok((length, _)) => {
                into.advance(length);
                let emptied = self.short_read_empties && length < room;
                self.readable = self.ends || !emptied;
                Poll::Ready(Ok(()))
            }
            Err(Errno::AGAIN) => {
                self.readable = false;
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }
}

impl AsyncWrite for EpollSocket {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if !self.writable {
            return Poll::Pending;
        }
        match retry_on_intr(|| send(&self.fd, bytes, SendFlags::NOSIGNAL)) {
            Ok(length) => Poll::Ready(Ok(length)),
            Err(Errno::AGAIN) => {
                self.writable = false;
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(shutdown(&self.fd, Shutdown::Write).map_err(Into::into))
    }
}
