//! Owns a socket outside of the runtime, which an epoll instance watches edge by edge: it is asked for
//! bytes only while there may be some. It must not know whose the instance is.

use super::Arrivals;
use rustix::event::epoll::EventFlags;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connected stream socket, not blocking. As a stream it never wakes anybody: who watches it says by
/// [`Edge::ready`] what there is, and asks it then.
#[derive(Debug)]
pub struct Edge {
    fd: OwnedFd,
    readable: bool,
    writable: bool,
    /// Its end, or an error, is on its way: what is read must be read up to there.
    ends: bool,
    /// A read that does not fill its buffer has emptied the socket. Of unix sockets that is not said: a
    /// read ends where ancillary data begins.
    short_read_empties: bool,
}

impl Edge {
    pub(super) fn new(fd: OwnedFd, short_read_empties: bool) -> Self {
        // Epoll tells at once what there is to read; to write there is room nearly always.
        Self { fd, readable: false, writable: true, ends: false, short_read_empties }
    }

    /// What is asked of epoll, once for all.
    pub const INTEREST: EventFlags =
        EventFlags::IN.union(EventFlags::OUT).union(EventFlags::RDHUP).union(EventFlags::ET);

    /// Epoll has seen this.
    pub fn ready(&mut self, seen: EventFlags) {
        let ends = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
        self.ends |= seen.intersects(ends);
        self.readable |= seen.intersects(ends | EventFlags::IN);
        self.writable |= seen.intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR);
    }
}

impl AsFd for Edge {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Arrivals for Edge {
    fn has_arrived(&self) -> Option<bool> {
        Some(!matches!(recv(&self.fd, &mut [0_u8; 1], RecvFlags::PEEK), Err(Errno::AGAIN)))
    }

    fn may_read(&self) -> bool {
        self.readable
    }

    fn is_broken(&mut self) -> bool {
        super::is_broken(self)
    }

    fn break_off(&mut self) {
        super::break_off(self);
    }
}

impl AsyncRead for Edge {
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

impl AsyncWrite for Edge {
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
