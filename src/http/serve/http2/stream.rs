//! Owns one request of HTTP/2 from its head to the end of its answer. Each answer has a timeout of its own, which
//! counts from the last byte of it that the client took: a client that takes none of one loses that stream, and
//! whatever else its connection carries goes on.

use super::super::activity::{Exchange, Fate};
use super::sent::{Followed, Sent};
use super::tunnel::Tunnel;
use crate::http::respond::Body;
use crate::stall::is_late;
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::Response;
use http::header::CONTENT_LENGTH;
use hyper::body::{Body as _, Frame};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context as Cx, Poll, ready};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, Sleep, sleep_until};

/// What is given to `h2` at once, in bytes: the most that a frame holds, unless its client allows more
/// (RFC 9113 6.5.2, SETTINGS_MAX_FRAME_SIZE).
const PIECE: usize = 16 * 1024;

/// What a request needs beside its answer.
pub(super) struct Context {
    pub(super) sent: Arc<Sent>,
    pub(super) body_timeout: Option<Duration>,
    pub(super) fate: Fate,
    /// Of a CONNECT.
    pub(super) tunnel: Option<Promise>,
    /// Interim answers.
    pub(super) interim: mpsc::Receiver<Response<()>>,
}

/// The stream of a CONNECT, and who waits for its tunnel.
pub(super) struct Promise {
    pub(super) stream: RecvStream,
    pub(super) tunnel: oneshot::Sender<Tunnel>,
}

/// Why an answer did not come to its end.
#[derive(Debug)]
enum Broken {
    /// The client reset the stream, or its connection is gone.
    Left,
    /// It took nothing of the answer for `body_timeout`.
    Stalled,
    /// The answer itself broke off.
    Body,
}

/// Waits for the answer of a request and sends it.
pub(super) async fn run<A>(mut reply: SendResponse<Bytes>, answer: A, mut context: Context)
where
    A: Future<Output = (Response<Body>, Arc<Exchange>)>,
{
    let Some((response, exchange)) = answered(&mut reply, answer, &mut context.interim).await else { return };
    let (parts, body) = response.into_parts();
    let mut head = Response::from_parts(parts, ());
    if let Some(Promise { stream, tunnel }) = context.tunnel.filter(|_| head.status().is_success()) {
        // RFC 9110 9.3.6: it has none.
        head.headers_mut().remove(CONTENT_LENGTH);
        if let Ok(send) = reply.send_response(head, false) {
            // Dropped, it ends.
            let _ = tunnel.send(Tunnel::new(send, stream, exchange));
        }
        return;
    }
    if body.is_end_stream() {
        // It fails only where the client has left.
        let _ = reply.send_response(head, true);
        return;
    }
    if let Some(length) = body.size_hint().exact() {
        head.headers_mut().entry(CONTENT_LENGTH).or_insert(length.into());
    }
    let taken = context.sent.follow(reply.stream_id().into());
    if let Ok(send) = reply.send_response(head, false) {
        let patience = Patience::new(context.body_timeout);
        Answer { send, body, taken, patience, given: 0 }.send(&context.fate).await;
        // It is over when all of it is sent.
        drop(exchange);
    }
}

/// The answer. `None` means that the client left before it.
async fn answered<A>(
    reply: &mut SendResponse<Bytes>,
    answer: A,
    interim: &mut mpsc::Receiver<Response<()>>,
) -> Option<(Response<Body>, Arc<Exchange>)>
where
    A: Future<Output = (Response<Body>, Arc<Exchange>)>,
{
    let mut answer = pin!(answer);
    loop {
        tokio::select! {
            biased;
            // What announces an answer goes ahead of it.
            Some(head) = interim.recv() => {
                // It fails only where the client has left.
                let _ = reply.send_informational(head);
            }
            response = &mut answer => return Some(response),
            _ = poll_fn(|cx| reply.poll_reset(cx)) => return None,
        }
    }
}

/// An answer whose head was sent.
struct Answer {
    send: SendStream<Bytes>,
    body: Body,
    taken: Followed,
    patience: Patience,
    /// Bytes of the body that were given to `h2`.
    given: u64,
}

impl Answer {
    async fn send(mut self, fate: &Fate) {
        match self.pass().await {
            Ok(()) | Err(Broken::Left) => {}
            Err(Broken::Stalled) => {
                // The report looks at it when the body is dropped.
                fate.stall();
                self.send.send_reset(Reason::CANCEL);
            }
            Err(Broken::Body) => {
                // A reset would drop what waits to be written.
                let given = self.given;
                let _ = self.until(|taken| taken.has(given)).await;
                self.send.send_reset(Reason::INTERNAL_ERROR);
            }
        }
    }

    /// Passes the body on, and waits until its end is written.
    async fn pass(&mut self) -> Result<(), Broken> {
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
        self.until(|taken| taken.has_ended()).await
    }

    /// What comes next of the body. The upstream is waited for.
    async fn next(&mut self) -> Result<Option<Frame<Bytes>>, Broken> {
        poll_fn(|cx| {
            if self.send.poll_reset(cx).is_ready() {
                return Poll::Ready(Err(Broken::Left));
            }
            let next = ready!(Pin::new(&mut self.body).poll_frame(cx));
            Poll::Ready(next.transpose().map_err(|_| Broken::Body))
        })
        .await
    }

    /// Passes a part of the body on. Whether it was the last.
    async fn pass_frame(&mut self, frame: Frame<Bytes>) -> Result<bool, Broken> {
        match frame.into_data() {
            Ok(data) => {
                let is_last = self.body.is_end_stream();
                self.pass_data(data, is_last).await?;
                Ok(is_last)
            }
            Err(frame) => {
                // Of what is neither, nothing is known.
                let Ok(trailers) = frame.into_trailers() else { return Ok(false) };
                self.send.reserve_capacity(0);
                self.send.send_trailers(trailers).map_err(|_| Broken::Left)?;
                Ok(true)
            }
        }
    }

    /// Gives `h2` no more than the client's window has room for: what waits there beside the window would wait
    /// without a timeout.
    async fn pass_data(&mut self, mut data: Bytes, is_last: bool) -> Result<(), Broken> {
        if data.is_empty() {
            return self.give(data, is_last);
        }
        while !data.is_empty() {
            let piece = self.room(data.len().min(PIECE)).await?;
            let piece = data.split_to(piece);
            self.give(piece, is_last && data.is_empty())?;
        }
        Ok(())
    }

    fn give(&mut self, data: Bytes, is_last: bool) -> Result<(), Broken> {
        self.given += data.len() as u64;
        self.send.send_data(data, is_last).map_err(|_| Broken::Left)
    }

    /// Waits for the client's window to have room, for `most` bytes at most.
    async fn room(&mut self, most: usize) -> Result<usize, Broken> {
        let Self { send, taken, patience, .. } = self;
        send.reserve_capacity(most);
        patience.begin();
        poll_fn(|cx| {
            while send.capacity() == 0 {
                match send.poll_capacity(cx) {
                    Poll::Ready(Some(Ok(_))) => {}
                    Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(Err(Broken::Left)),
                    Poll::Pending if patience.is_over(taken.last(), cx) => {
                        return Poll::Ready(Err(Broken::Stalled));
                    }
                    Poll::Pending => return Poll::Pending,
                }
            }
            Poll::Ready(Ok(send.capacity().min(most)))
        })
        .await
    }

    /// Waits until the client has taken so much.
    async fn until(&mut self, has: impl Fn(&Followed) -> bool) -> Result<(), Broken> {
        let Self { send, taken, patience, .. } = self;
        patience.begin();
        while !has(taken) {
            let mut changed = pin!(taken.changed.notified());
            poll_fn(|cx| match changed.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(Ok(())),
                Poll::Pending if send.poll_reset(cx).is_ready() => Poll::Ready(Err(Broken::Left)),
                Poll::Pending if patience.is_over(taken.last(), cx) => Poll::Ready(Err(Broken::Stalled)),
                Poll::Pending => Poll::Pending,
            })
            .await?;
        }
        Ok(())
    }
}

/// How long a client may take nothing while there is something for it.
struct Patience {
    /// `None` means for ever.
    limit: Option<Duration>,
    since: Instant,
    /// Armed anew only when it fires, not for each piece.
    timer: Option<Pin<Box<Sleep>>>,
    /// The time in which the process itself stood still was given to the client.
    excused: bool,
}

impl Patience {
    fn new(limit: Option<Duration>) -> Self {
        Self { limit, since: Instant::now(), timer: None, excused: false }
    }

    /// Now the client is waited for.
    fn begin(&mut self) {
        self.since = Instant::now();
    }

    /// Whether it was waited for too long. `last` is when it last took something.
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
