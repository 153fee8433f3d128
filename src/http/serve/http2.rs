//! Owns a client's connection of HTTP/2 (RFC 9113): its handshake, its streams and their order. The `h2` crate
//! frames it. Each request is a task of its own.

mod frames;
mod sent;
mod stream;
mod translate;
mod tunnel;
mod watched;

use super::super::Settings;
use super::super::incoming::{Incoming, Received};
use super::super::respond::Body;
use super::activity::{Activity, Exchange, Fate};
use super::hints::Hints;
use super::upgrade::OnTunnel;
use crate::io::Stream;
use bytes::Bytes;
use h2::RecvStream;
use h2::server::{self, Builder, SendResponse};
use http::{Method, Request, Response};
use sent::Sent;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
pub(super) use tunnel::Tunnel;
use watched::Watched;

/// What a stream may send before it was read, in bytes (RFC 9113 6.9.2).
const STREAM_WINDOW: u32 = 64 * 1024;
/// The same of all streams of a connection: that many bytes wait here for upstreams that do not
/// read, and 16 such streams leave the others alone.
const CONNECTION_WINDOW: u32 = 16 * STREAM_WINDOW;
/// Requests at once over one connection (nginx, `http2_max_concurrent_streams`).
const MAX_STREAMS: u32 = 128;
/// Interim answers to a request. More are left out: nobody needs one, and `h2` queues them without a bound.
const MAX_INTERIM: usize = 8;

/// A connection. As a future it ends with the connection, whose errors are those of its requests, which have
/// reports of their own.
pub(super) struct Connection<F> {
    state: State,
    is_draining: bool,
    activity: Arc<Activity>,
    sent: Arc<Sent>,
    body_timeout: Option<Duration>,
    answer: F,
}

enum State {
    Handshake(server::Handshake<Watched, Bytes>),
    Open(server::Connection<Watched, Bytes>),
}

impl<F, A> Connection<F>
where
    F: Fn(Request<Incoming>, Arc<Exchange>) -> A,
    A: Future<Output = (Response<Body>, Arc<Exchange>)> + Send + 'static,
{
    /// `answer` is asked for each request.
    pub(super) fn new(stream: Stream, settings: &Settings, activity: Arc<Activity>, answer: F) -> Self {
        let sent = Arc::new(Sent::new());
        let watched = Watched::new(stream, Arc::clone(&activity), Arc::clone(&sent));
        let handshake = Builder::new()
            .enable_connect_protocol()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buffer_size(STREAM_WINDOW as usize)
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(u32::try_from(settings.max_header_size).unwrap_or(u32::MAX))
            .handshake(watched);
        let state = State::Handshake(handshake);
        Self { state, is_draining: false, activity, sent, body_timeout: settings.body_timeout, answer }
    }

    /// Takes no more requests, and ends when those under way have ended (RFC 9113 6.8).
    pub(super) fn shut_down(&mut self) {
        self.is_draining = true;
        if let State::Open(connection) = &mut self.state {
            connection.graceful_shutdown();
        }
    }

    fn begin(&mut self, request: Request<RecvStream>, reply: SendResponse<Bytes>) {
        let fate = Fate::default();
        let (send, interim) = mpsc::channel(MAX_INTERIM);
        let hints = Hints::over_http2(send.clone());
        let exchange = Arc::new(Exchange::begin(&self.activity, fate.clone(), hints));
        let is_head = *request.method() == Method::HEAD;
        let (mut request, tunnel) = take_apart(request, &send, &exchange);
        let opens = translate::from_http2(&mut request);
        let answer = (self.answer)(request, exchange);
        let answer = async move {
            let (mut response, exchange) = answer.await;
            translate::to_http2(&mut response, opens);
            (response, exchange)
        };
        let stream = stream::Context {
            sent: Arc::clone(&self.sent),
            body_timeout: self.body_timeout,
            fate,
            is_head,
            tunnel,
            interim,
        };
        tokio::spawn(stream::run(reply, answer, stream));
    }
}

/// A request with its body; what a CONNECT brings belongs to its tunnel.
fn take_apart(
    request: Request<RecvStream>,
    interim: &mpsc::Sender<Response<()>>,
    exchange: &Arc<Exchange>,
) -> (Request<Incoming>, Option<stream::Promise>) {
    let (mut parts, stream) = request.into_parts();
    if parts.method != Method::CONNECT {
        let received = Received::new(stream, &parts.headers, interim, Arc::clone(exchange) as _);
        return (Request::from_parts(parts, Incoming::Http2(received)), None);
    }
    let (tunnel, opened) = oneshot::channel();
    parts.extensions.insert(OnTunnel::new(opened));
    (Request::from_parts(parts, Incoming::Empty), Some(stream::Promise { stream, tunnel }))
}

impl<F, A> Future for Connection<F>
where
    F: Fn(Request<Incoming>, Arc<Exchange>) -> A + Unpin,
    A: Future<Output = (Response<Body>, Arc<Exchange>)> + Send + 'static,
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
