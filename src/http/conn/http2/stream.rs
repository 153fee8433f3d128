//! Owns one HTTP/2 request, from its head to the end of its response. Each response has its own timeout,
//! which runs from the last byte that the client accepted. A stalled client loses that stream only.

use super::super::shared::{ConnectionEnd, RequestGuard};
use super::MAX_INTERIM;
use super::send_tracker::{SendTracker, TrackedResponse};
use super::tunnel::Http2Tunnel;
use crate::clock::is_late;
use crate::http::body::Body;
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::Response;
use http::header::CONTENT_LENGTH;
use hyper::body::{Body as _, Frame};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context as Cx, Poll};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, Sleep, sleep_until};

/// Maximum number of frames of a response that wait in `h2`. It limits their bytes, but not the memory of
/// each frame.
const MAX_UNTAKEN: usize = 64;

/// What a request needs beside its response.
pub(super) struct Context {
    pub(super) tracker: Arc<SendTracker>,
    pub(super) body_timeout: Option<Duration>,
    pub(super) connection_end: ConnectionEnd,
    /// Its response has no body, whatever its head says (RFC 9110 9.3.2).
    pub(super) is_head: bool,
    /// Set for a CONNECT.
    pub(super) tunnel: Option<ConnectStream>,
    /// Interim responses to send.
    pub(super) interim: mpsc::Receiver<Response<()>>,
}

/// The stream of a CONNECT, and the receiver of its tunnel.
pub(super) struct ConnectStream {
    pub(super) stream: RecvStream,
    pub(super) tunnel: oneshot::Sender<Http2Tunnel>,
}

/// Why a response was not sent completely.
#[derive(Debug)]
enum SendError {
    /// The client reset the stream, or its connection is gone.
    ClientGone,
    /// The client accepted nothing for `body_timeout`.
    Stalled,
    /// The response body failed.
    Body,
}

/// Waits for the response to a request and sends it.
pub(super) async fn run<A>(mut reply: SendResponse<Bytes>, answer: A, mut context: Context)
where
    A: Future<Output = (Response<Body>, Arc<RequestGuard>)>,
{
    let mut interim = Interim { progress: None, count: 0 };
    let answered = interim.pass_until(&mut reply, answer, &mut context).await;
    let Some((response, request_guard)) = answered else { return };
    let (parts, body) = response.into_parts();
    let mut head = Response::from_parts(parts, ());
    if let Some(ConnectStream { stream, tunnel }) = context.tunnel.filter(|_| head.status().is_success()) {
        // A 2xx to CONNECT has no length (RFC 9110 9.3.6).
        head.headers_mut().remove(CONTENT_LENGTH);
        if let Ok(send) = reply.send_response(head, false) {
            // If the receiver is gone, dropping the tunnel ends it.
            let _ = tunnel.send(Http2Tunnel::new(send, stream, request_guard));
        }
        return;
    }
    let length = body.size_hint().exact().filter(|_| !body.is_end_stream());
    if let Some(length) = length {
        head.headers_mut().entry(CONTENT_LENGTH).or_insert(length.into());
    }
    if context.is_head || body.is_end_stream() {
        // It fails only if the client has left.
        let _ = reply.send_response(head, true);
        return;
    }
    let progress = interim.progress.unwrap_or_else(|| context.tracker.track(reply.stream_id().into()));
    if let Ok(send) = reply.send_response(head, false) {
        let send_timeout = SendTimeout::new(context.body_timeout);
        let answer = ResponseWriter {
            send,
            body,
            progress,
            send_timeout,
            heads: interim.count + 1,
            given: 0,
            untaken: 0,
        };
        answer.send(&context.connection_end).await;
        // The request is over once its whole response is sent.
        drop(request_guard);
    }
}

/// The interim responses of a request.
struct Interim {
    /// Tracks the stream from the first one on, so that its head is not taken for the final one.
    progress: Option<TrackedResponse>,
    count: u32,
}

impl Interim {
    /// Sends them until the response comes. `None` means that the client left first.
    async fn pass_until<A>(
        &mut self,
        reply: &mut SendResponse<Bytes>,
        answer: A,
        context: &mut Context,
    ) -> Option<A::Output>
    where
        A: Future,
    {
        let mut answer = pin!(answer);
        loop {
            tokio::select! {
                biased;
                _ = poll_fn(|cx| reply.poll_reset(cx)) => return None,
                // Send interim responses before the final one.
                Some(head) = context.interim.recv() => {
                    if self.count < MAX_INTERIM as u32 {
                        self.progress.get_or_insert_with(|| context.tracker.track(reply.stream_id().into()));
                        self.count += 1;
                        // It fails only if the client has left.
                        let _ = reply.send_informational(head);
                    }
                }
                answer = &mut answer => return Some(answer),
            }
        }
    }
}

/// Writes a response whose head was sent.
struct ResponseWriter {
    send: SendStream<Bytes>,
    body: Body,
    progress: TrackedResponse,
    send_timeout: SendTimeout,
    /// Heads given to `h2`, including those of interim responses.
    heads: u32,
    /// Body bytes given to `h2`.
    given: u64,
    /// Frames given since the client last had accepted everything.
    untaken: usize,
}

impl ResponseWriter {
    async fn send(mut self, connection_end: &ConnectionEnd) {
        match self.pass().await {
            Ok(()) => {}
            // The report reads it when the body is dropped.
            Err(SendError::ClientGone) => connection_end.mark_left(),
            Err(SendError::Stalled) => {
                connection_end.stall();
                self.send.send_reset(Reason::CANCEL);
            }
            Err(SendError::Body) => {
                // A reset would drop unwritten data.
                let (heads, given) = (self.heads, self.given);
                let _ = self.until(|progress| progress.has_heads(heads) && progress.has_bytes(given)).await;
                self.send.send_reset(Reason::INTERNAL_ERROR);
            }
        }
    }

    /// Sends the body, and waits until its end is written.
    async fn pass(&mut self) -> Result<(), SendError> {
        let mut is_over = false;
        while !is_over {
            is_over = match self.next().await? {
                Some(frame) => self.pass_frame(frame).await?,
                None => {
                    self.give(Bytes::new(), true)?;
                    true
                }
            };
        }
        self.until(TrackedResponse::has_ended).await
    }

    /// Waits for the next frame of the body from the upstream, and for the client to accept what `h2` has.
    async fn next(&mut self) -> Result<Option<Frame<Bytes>>, SendError> {
        poll_fn(|cx| {
            if self.send.poll_reset(cx).is_ready() {
                return Poll::Ready(Err(SendError::ClientGone));
            }
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(next) => Poll::Ready(next.transpose().map_err(|_| SendError::Body)),
                Poll::Pending if !self.progress.has_bytes(self.given) && self.is_stalled(cx) => {
                    Poll::Ready(Err(SendError::Stalled))
                }
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    fn is_stalled(&mut self, cx: &mut Cx<'_>) -> bool {
        self.send_timeout.is_over(self.progress.last(self.given), cx)
    }

    /// Sends a frame. Returns whether it was the last.
    async fn pass_frame(&mut self, frame: Frame<Bytes>) -> Result<bool, SendError> {
        match frame.into_data() {
            Ok(data) => {
                let is_last = self.body.is_end_stream();
                self.pass_data(data, is_last).await?;
                Ok(is_last)
            }
            Err(frame) => {
                // Ignore a frame that is neither data nor trailers.
                let Ok(trailers) = frame.into_trailers() else { return Ok(false) };
                self.send.reserve_capacity(0);
                self.send.send_trailers(trailers).map_err(|_| SendError::ClientGone)?;
                Ok(true)
            }
        }
    }

    /// Gives `h2` no more than the client's window accepts. More would wait in `h2` without a timeout.
    async fn pass_data(&mut self, mut data: Bytes, is_last: bool) -> Result<(), SendError> {
        if data.is_empty() {
            return self.give(data, is_last);
        }
        while !data.is_empty() {
            if self.untaken >= MAX_UNTAKEN {
                let given = self.given;
                self.until(|progress| progress.has_bytes(given)).await?;
            }
            let piece = self.room(data.len()).await?;
            let piece = data.split_to(piece);
            self.give(piece, is_last && data.is_empty())?;
        }
        Ok(())
    }

    fn give(&mut self, data: Bytes, is_last: bool) -> Result<(), SendError> {
        if self.progress.has_bytes(self.given) {
            self.untaken = 0;
            self.progress.gives(self.given);
            self.send_timeout.begin();
        }
        self.untaken += 1;
        self.given += data.len() as u64;
        self.send.send_data(data, is_last).map_err(|_| SendError::ClientGone)
    }

    /// Waits until the client's window has space, for at most `most` bytes.
    async fn room(&mut self, most: usize) -> Result<usize, SendError> {
        self.send.reserve_capacity(most);
        if self.progress.has_bytes(self.given) {
            self.send_timeout.begin();
        }
        poll_fn(|cx| {
            loop {
                // Ask once, because a window can shrink in between.
                let room = self.send.capacity();
                if room > 0 {
                    return Poll::Ready(Ok(room.min(most)));
                }
                match self.send.poll_capacity(cx) {
                    Poll::Ready(Some(Ok(_))) => {}
                    Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(Err(SendError::ClientGone)),
                    Poll::Pending if self.is_stalled(cx) => return Poll::Ready(Err(SendError::Stalled)),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await
    }

    /// Waits until `has` holds for the client's progress. The data fits its window, so only its turn on the
    /// connection is missing.
    async fn until(&mut self, has: impl Fn(&TrackedResponse) -> bool) -> Result<(), SendError> {
        let Self { send, progress, send_timeout, .. } = self;
        while !has(progress) {
            let mut changed = pin!(progress.changed());
            poll_fn(|cx| {
                let has_changed = changed.as_mut().poll(cx).is_ready();
                if progress.is_gone() || send.poll_reset(cx).is_ready() {
                    Poll::Ready(Err(SendError::ClientGone))
                } else if has_changed {
                    Poll::Ready(Ok(()))
                } else if send_timeout.is_over(progress.last(u64::MAX), cx) {
                    Poll::Ready(Err(SendError::Stalled))
                } else {
                    Poll::Pending
                }
            })
            .await?;
        }
        Ok(())
    }
}

/// Limits how long a client may accept nothing while data is ready.
struct SendTimeout {
    /// `None` means no limit.
    limit: Option<Duration>,
    since: Instant,
    /// Reset only when it fires, not for each frame.
    timer: Option<Pin<Box<Sleep>>>,
    /// Whether the client already got extra time because the process itself was paused.
    excused: bool,
}

impl SendTimeout {
    fn new(limit: Option<Duration>) -> Self {
        Self { limit, since: Instant::now(), timer: None, excused: false }
    }

    /// Starts waiting for the client.
    fn begin(&mut self) {
        self.since = Instant::now();
    }

    /// Whether the wait has expired. `last` is when the client last accepted data.
    fn is_over(&mut self, last: Instant, cx: &mut Cx<'_>) -> bool {
        let Some(limit) = self.limit else { return false };
        let due = self.since.max(last) + limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
        while timer.as_mut().poll(cx).is_ready() {
            let late = timer.deadline().elapsed();
            if Instant::now() < due {
                self.excused = false;
                timer.as_mut().reset(due);
            } else if is_late(late) && !self.excused {
                self.excused = true;
                timer.as_mut().reset(Instant::now() + late.min(limit));
            } else {
                return true;
            }
        }
        false
    }
}
