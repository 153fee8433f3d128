//! Owns what is seen of a connection's bytes below `h2`: half frames that come in, answers that go out.

use super::super::activity::Activity;
use super::super::{LONG, UNSENT};
use super::frames::Frames;
use super::sent::{Reader, Sent};
use crate::io::Stream;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The stream of a client that speaks HTTP/2.
#[derive(Debug)]
pub(super) struct Watched {
    stream: Stream,
    activity: Arc<Activity>,
    came: Frames,
    went: Reader,
    /// What the kernel holds is limited.
    is_limited: bool,
}

impl Watched {
    pub(super) fn new(stream: Stream, activity: Arc<Activity>, sent: Arc<Sent>) -> Self {
        Self { stream, activity, came: Frames::default(), went: Reader::new(sent), is_limited: false }
    }

    /// Takes note of what was written.
    fn wrote(&mut self, bytes: &[u8]) {
        self.went.pass(bytes);
        if !self.is_limited && self.went.bytes() >= LONG {
            self.is_limited = true;
            self.stream.limit_unsent(Some(UNSENT));
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        let before = into.filled().len();
        let read = Pin::new(&mut me.stream).poll_read(cx, into);
        if let came @ [_, ..] = &mut into.filled_mut()[before..] {
            let was_whole = me.came.pass(came);
            me.activity.frames_came(me.came.is_half(), was_whole);
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.activity.is_written(written.is_ready());
        if let Poll::Ready(Ok(length)) = written {
            self.wrote(&bytes[..length]);
        }
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.activity.is_written(written.is_ready());
        if let Poll::Ready(Ok(mut left)) = written {
            for slice in slices {
                let length = left.min(slice.len());
                self.wrote(&slice[..length]);
                left -= length;
            }
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
