//! Owns one request of HTTP/2 from its head to the end of its answer. Each answer has a timeout of its own, which
//! counts from the last byte of it that the client took: a client that takes none of one loses that stream, and
//! whatever else its connection carries goes on.

use super::super::activity::{Exchange, Fate};
use super::MAX_INTERIM;
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
use std::task::{Context as Cx, Poll};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, Sleep, sleep_until};

/// Pieces of an answer that may wait in `h2`, which bounds their bytes, and not what each of them takes beside those.
const MAX_UNTAKEN: usize = 64;

/// What a request needs beside its answer.
pub(super) struct Context {
    pub(super) sent: Arc<Sent>,
    pub(super) body_timeout: Option<Duration>,
    pub(super) fate: Fate,
    /// Its answer has no body, whatever its head says (RFC 9110 9.3.2).
    pub(super) is_head: bool,
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
    let mut interim = Interim { taken: None, count: 0 };
    let answered = interim.pass_until(&mut reply, answer, &mut context).await;
    let Some((response, exchange)) = answered else { return };
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
    let length = body.size_hint().exact().filter(|_| !body.is_end_stream());
    if let Some(length) = length {
        head.headers_mut().entry(CONTENT_LENGTH).or_insert(length.into());
    }
    if context.is_head || body.is_end_stream() {
        // It fails only where the client has left.
        let _ = reply.send_response(head, true);
        return;
    }
    let taken = interim.taken.unwrap_or_else(|| context.sent.follow(reply.stream_id().into()));
    if let Ok(send) = reply.send_response(head, false) {
        let patience = Patience::new(context.body_timeout);
        let answer = Answer { send, body, taken, patience, heads: interim.count + 1, given: 0, untaken: 0 };
        answer.send(&context.fate).await;
        // It is over when all of it is sent.
        drop(exchange);
    }
}

/// The interim answers of a request.
struct Interim {
    /// Followed from the first one on, so that its head is not taken for that of the answer.
    taken: Option<Followed>,
    count: u32,
}

impl Interim {
    /// Passes them on until the answer comes. `None` means that the client left before it.
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
                // What announces an answer goes ahead of it.
                Some(head) = context.interim.recv() => {
                    if self.count < MAX_INTERIM as u32 {
                        self.taken.get_or_insert_with(|| context.sent.follow(reply.stream_id().into()));
                        self.count += 1;
                        // It fails only where the client has left.
                        let _ = reply.send_informational(head);
                    }
                }
                answer = &mut answer => return Some(answer),
            }
        }
    }
}

/// An answer whose head was sent.
struct Answer {
    send: SendStream<Bytes>,
    body: Body,
    taken: Followed,
    patience: Patience,
    /// Heads that were given to `h2`, those of interim answers among them.
    heads: u32,
    /// Bytes of the body that were given to `h2`.
    given: u64,
    /// Pieces of it since the client last had taken all.
    untaken: usize,
}

impl Answer {
    async fn send(mut self, fate: &Fate) {
        match self.pass().await {
            Ok(()) => {}
            // The report looks at it when the body is dropped.
            Err(Broken::Left) => fate.leave(),
            Err(Broken::Stalled) => {
                fate.stall();
                self.send.send_reset(Reason::CANCEL);
            }
            Err(Broken::Body) => {
                // A reset would drop what waits to be written.
                let (heads, given) = (self.heads, self.given);
                let _ = self.until(|taken| taken.has_heads(heads) && taken.has_bytes(given)).await;
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
        self.until(Followed::has_ended).await
    }

    /// What comes next of the body. The upstream is waited for, and the client for what it has not taken.
    async fn next(&mut self) -> Result<Option<Frame<Bytes>>, Broken> {
        poll_fn(|cx| {
            if self.send.poll_reset(cx).is_ready() {
                return Poll::Ready(Err(Broken::Left));
            }
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(next) => Poll::Ready(next.transpose().map_err(|_| Broken::Body)),
                Poll::Pending if !self.taken.has_bytes(self.given) && self.is_stalled(cx) => {
                    Poll::Ready(Err(Broken::Stalled))
                }
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    fn is_stalled(&mut self, cx: &mut Cx<'_>) -> bool {
        self.patience.is_over(self.taken.last(self.given), cx)
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
            if self.untaken >= MAX_UNTAKEN {
                let given = self.given;
                self.until(|taken| taken.has_bytes(given)).await?;
            }
            let piece = self.room(data.len()).await?;
            let piece = data.split_to(piece);
            self.give(piece, is_last && data.is_empty())?;
        }
        Ok(())
    }

    fn give(&mut self, data: Bytes, is_last: bool) -> Result<(), Broken> {
        if self.taken.has_bytes(self.given) {
            self.untaken = 0;
            self.taken.gives(self.given);
            self.patience.begin();
        }
        self.untaken += 1;
        self.given += data.len() as u64;
        self.send.send_data(data, is_last).map_err(|_| Broken::Left)
    }

    /// Waits for the client's window to have room, for `most` bytes at most.
    async fn room(&mut self, most: usize) -> Result<usize, Broken> {
        self.send.reserve_capacity(most);
        if self.taken.has_bytes(self.given) {
            self.patience.begin();
        }
        poll_fn(|cx| {
            loop {
                // Asked once: a window can shrink in between.
                let room = self.send.capacity();
                if room > 0 {
                    return Poll::Ready(Ok(room.min(most)));
                }
                match self.send.poll_capacity(cx) {
                    Poll::Ready(Some(Ok(_))) => {}
                    Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(Err(Broken::Left)),
                    Poll::Pending if self.is_stalled(cx) => return Poll::Ready(Err(Broken::Stalled)),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await
    }

    /// Waits until the client has taken so much, of what its window has room for: only its turn is waited for.
    async fn until(&mut self, has: impl Fn(&Followed) -> bool) -> Result<(), Broken> {
        let Self { send, taken, patience, .. } = self;
        while !has(taken) {
            let mut changed = pin!(taken.changed());
            poll_fn(|cx| {
                let has_changed = changed.as_mut().poll(cx).is_ready();
                if taken.is_gone() || send.poll_reset(cx).is_ready() {
                    Poll::Ready(Err(Broken::Left))
                } else if has_changed {
                    Poll::Ready(Ok(()))
                } else if patience.is_over(taken.last(u64::MAX), cx) {
                    Poll::Ready(Err(Broken::Stalled))
                } else {
                    Poll::Pending
                }
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
