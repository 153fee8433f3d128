//! Owns the observation of a connection's bytes below `h2`: incomplete incoming frames, and outgoing
//! responses.

use super::super::shared::ConnState;
use super::super::{LARGE_RESPONSE, MAX_UNSENT};
use super::frames::Frames;
use super::send_tracker::{FrameReader, SendTracker};
use crate::io::Stream;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The stream of a client that speaks HTTP/2.
#[derive(Debug)]
pub(super) struct ObservedStream {
    stream: Stream,
    conn_state: Arc<ConnState>,
    came: Frames,
    went: FrameReader,
    /// Whether the kernel's send buffer is limited.
    is_limited: bool,
}

impl ObservedStream {
    pub(super) fn new(stream: Stream, conn_state: Arc<ConnState>, tracker: Arc<SendTracker>) -> Self {
        Self {
            stream,
            conn_state,
            came: Frames::default(),
            went: FrameReader::new(tracker),
            is_limited: false,
        }
    }

    /// Processes written bytes.
    fn wrote(&mut self, bytes: &[u8]) {
        self.went.pass(bytes);
        if !self.is_limited && self.went.bytes() >= LARGE_RESPONSE {
            self.is_limited = true;
            self.stream.limit_unsent(Some(MAX_UNSENT));
        }
    }
}

impl AsyncRead for ObservedStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        let before = into.filled().len();
        let read = Pin::new(&mut me.stream).poll_read(cx, into);
        if let came @ [_, ..] = &mut into.filled_mut()[before..] {
            let was_whole = me.came.pass(came);
            me.conn_state.note_frames_read(me.came.is_half(), was_whole);
        }
        read
    }
}

impl AsyncWrite for ObservedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.conn_state.note_write(written.is_ready());
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
        self.conn_state.note_write(written.is_ready());
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
