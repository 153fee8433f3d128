//! Owns an HTTP/2 stream that has become a tunnel, in both directions (RFC 8441 5). END_STREAM corresponds to
//! FIN, RST_STREAM to RST.

use super::super::shared::RequestGuard;
use crate::io::{Readiness, Stream, StreamLayer};
use bytes::{Buf as _, Bytes};
use h2::{Reason, RecvStream, SendStream};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// An HTTP/2 tunnel. Dropping it sends END_STREAM, if it has not ended before.
#[derive(Debug)]
pub(in crate::http::conn) struct Http2Tunnel {
    send: SendStream<Bytes>,
    recv: RecvStream,
    /// Received bytes that nobody has read yet.
    came: Bytes,
    has_ended: bool,
    /// Keeps its connection from counting as idle.
    _request_guard: Arc<RequestGuard>,
}

impl Http2Tunnel {
    pub(super) fn new(send: SendStream<Bytes>, recv: RecvStream, request_guard: Arc<RequestGuard>) -> Self {
        let came = Bytes::new();
        Self { send, recv, came, has_ended: false, _request_guard: request_guard }
    }

    /// Waits until the client's window has space, for at most `most` bytes.
    fn poll_room(&mut self, most: usize, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.send.reserve_capacity(most);
        loop {
            // Ask once, because a window can shrink in between.
            let room = self.send.capacity();
            if room > 0 {
                return Poll::Ready(Ok(room.min(most)));
            }
            match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(to_io(error))),
                // The stream was reset, or has ended.
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
    }
}

impl Drop for Http2Tunnel {
    fn drop(&mut self) {
        if !self.has_ended {
            // It fails only if the stream has ended already.
            let _ = self.send.send_data(Bytes::new(), true);
        }
    }
}

impl Readiness for Http2Tunnel {
    /// Its frames are mixed with those of other streams.
    fn has_pending(&self) -> Option<bool> {
        None
    }
}

impl StreamLayer for Http2Tunnel {
    fn inner_mut(&mut self) -> Option<&mut Stream> {
        None
    }
}

impl AsyncRead for Http2Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.came.is_empty() {
            match ready!(self.recv.poll_data(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(Ok(data)) => self.came = data,
                Some(Err(error)) => {
                    // The client closed the stream, like a page that was closed.
                    let is_left = matches!(error.reason(), Some(Reason::NO_ERROR | Reason::CANCEL));
                    return Poll::Ready(if is_left { Ok(()) } else { Err(to_io(error)) });
                }
            }
        }
        let length = self.came.len().min(into.remaining());
        into.put_slice(&self.came[..length]);
        self.came.advance(length);
        // It fails only if the stream has ended. Then the window does not matter.
        let _ = self.recv.flow_control().release_capacity(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Http2Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let length = ready!(self.poll_room(bytes.len(), cx))?;
        self.send.send_data(Bytes::copy_from_slice(&bytes[..length]), false).map_err(to_io)?;
        Poll::Ready(Ok(length))
    }

    /// The connection's task writes.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.has_ended {
            self.has_ended = true;
            self.send.send_data(Bytes::new(), true).map_err(to_io)?;
        }
        Poll::Ready(Ok(()))
    }
}

fn to_io(error: h2::Error) -> io::Error {
    if error.is_io()
        && let Some(error) = error.get_io()
    {
        return error.kind().into();
    }
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}
