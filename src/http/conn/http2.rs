//! Owns a client's HTTP/2 connection (RFC 9113): its handshake and its streams. The `h2` crate parses the
//! frames. Each request runs in its own task.

mod frames;
mod send_tracker;
mod stream;
mod translate;
mod tunnel;
mod observed_stream;

use super::super::Settings;
use super::super::body::Body;
use super::super::incoming::{Http2Body, Incoming};
use super::shared::{ConnState, ConnectionEnd, InterimSender, RequestGuard};
use crate::io::Stream;
use bytes::Bytes;
use h2::RecvStream;
use h2::server::{self, Builder, SendResponse};
use http::{Method, Request, Response};
use observed_stream::ObservedStream;
use send_tracker::SendTracker;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tracing::Instrument as _;
pub(super) use tunnel::Http2Tunnel;

/// Flow-control window of a stream, in bytes (RFC 9113 6.9.2).
const STREAM_WINDOW: u32 = 64 * 1024;
/// Flow-control window of a connection. It bounds what waits here for slow upstreams. 16 stalled streams can
/// fill it.
const CONNECTION_WINDOW: u32 = 16 * STREAM_WINDOW;
/// Maximum concurrent requests of one connection (nginx, `http2_max_concurrent_streams`).
const MAX_STREAMS: u32 = 128;
/// Interim answers to a request. More are left out: nobody needs one, and `h2` queues them without a bound.
const MAX_INTERIM: usize = 8;

/// Receives the tunnel of a CONNECT once it is answered with a 2xx.
pub(super) type PendingTunnel = oneshot::Receiver<Http2Tunnel>;

/// A connection. The future ends with the connection. Its requests report the errors themselves.
pub(super) struct Http2Connection<F> {
    state: State,
    is_draining: bool,
    conn_state: Arc<ConnState>,
    tracker: Arc<SendTracker>,
    body_timeout: Option<Duration>,
    answer: F,
}

enum State {
    Handshake(server::Handshake<ObservedStream, Bytes>),
    Open(server::Connection<ObservedStream, Bytes>),
}

impl<F, A> Http2Connection<F>
where
    F: Fn(Request<Incoming>, Option<PendingTunnel>, Arc<RequestGuard>) -> A,
    A: Future<Output = (Response<Body>, Arc<RequestGuard>)> + Send + 'static,
{
    /// Calls `answer` for each request, with its tunnel if it is a CONNECT.
    pub(super) fn new(stream: Stream, settings: &Settings, conn_state: Arc<ConnState>, answer: F) -> Self {
        let tracker = Arc::new(SendTracker::new());
        let observed_stream = ObservedStream::new(stream, Arc::clone(&conn_state), Arc::clone(&tracker));
        let handshake = Builder::new()
            .enable_connect_protocol()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buffer_size(STREAM_WINDOW as usize)
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(u32::try_from(settings.max_header_size).unwrap_or(u32::MAX))
            .handshake(observed_stream);
        let state = State::Handshake(handshake);
        Self { state, is_draining: false, conn_state, tracker, body_timeout: settings.body_timeout, answer }
    }

    /// Accepts no more requests, and ends when the active ones have ended (RFC 9113 6.8).
    pub(super) fn shut_down(&mut self) {
        self.is_draining = true;
        if let State::Open(connection) = &mut self.state {
            connection.graceful_shutdown();
        }
    }

    fn begin(&mut self, request: Request<RecvStream>, reply: SendResponse<Bytes>) {
        let connection_end = ConnectionEnd::default();
        let (send, interim) = mpsc::channel(MAX_INTERIM);
        let interim_sender = InterimSender::over_http2(send.clone());
        let request_guard =
            Arc::new(RequestGuard::begin(&self.conn_state, connection_end.clone(), interim_sender));
        let is_head = *request.method() == Method::HEAD;
        let (mut request, opened, tunnel) = take_apart(request, &send, &request_guard);
        let opens = translate::from_http2(&mut request);
        let answer = (self.answer)(request, opened, request_guard);
        let answer = async move {
            let (mut response, request_guard) = answer.await;
            translate::to_http2(&mut response, opens);
            (response, request_guard)
        };
        let stream = stream::Context {
            tracker: Arc::clone(&self.tracker),
            body_timeout: self.body_timeout,
            connection_end,
            is_head,
            tunnel,
            interim,
        };
        tokio::spawn(stream::run(reply, answer, stream).in_current_span());
    }
}

/// Returns a request with its body, and what it may become. The data of a CONNECT belongs to its tunnel.
fn take_apart(
    request: Request<RecvStream>,
    interim: &mpsc::Sender<Response<()>>,
    request_guard: &Arc<RequestGuard>,
) -> (Request<Incoming>, Option<PendingTunnel>, Option<stream::ConnectStream>) {
    let (parts, stream) = request.into_parts();
    if parts.method != Method::CONNECT {
        let received = Http2Body::new(stream, &parts.headers, interim, Arc::clone(request_guard) as _);
        return (Request::from_parts(parts, Incoming::Http2(received)), None, None);
    }
    let (tunnel, opened) = oneshot::channel();
    let request = Request::from_parts(parts, Incoming::Empty);
    (request, Some(opened), Some(stream::ConnectStream { stream, tunnel }))
}

impl<F, A> Future for Http2Connection<F>
where
    F: Fn(Request<Incoming>, Option<PendingTunnel>, Arc<RequestGuard>) -> A + Unpin,
    A: Future<Output = (Response<Body>, Arc<RequestGuard>)> + Send + 'static,
{
    type Output = Result<(), h2::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let me = self.get_mut();
        loop {
            match &mut me.state {
                State::Handshake(handshake) => {
                    let mut connection = ready!(Pin::new(handshake).poll(cx))?;
                    if me.is_draining {
                        connection.graceful_shutdown();
                    }
                    me.state = State::Open(connection);
                }
                State::Open(connection) => match ready!(connection.poll_accept(cx)) {
                    Some(Ok((request, reply))) => me.begin(request, reply),
                    Some(Err(error)) => return Poll::Ready(Err(error)),
                    None => return Poll::Ready(Ok(())),
                },
            }
        }
    }
}
