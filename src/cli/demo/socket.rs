//! Owns a WebSocket as a simple server sees it: whole messages, pings answered by the way.

use crate::drain::Watch;
use crate::http::body::{Body, full};
use crate::http::respond::plain;
use crate::ws::frame::{Header, OpCode, encode};
use crate::ws::handshake::{UpgradeKind, accept, classify};
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::{Bytes, Incoming};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// The longest message that is taken.
const MAX_MESSAGE: usize = 1 << 20;

pub(super) struct Socket {
    stream: TokioIo<Upgraded>,
    read: Vec<u8>,
}

pub(super) enum Message {
    Text(Vec<u8>),
    Binary(Vec<u8>),
}

/// Accepts a WebSocket request and gives the socket to `talk`. It ends when `talk` or the server does.
pub(super) fn open<F, T>(mut request: Request<Incoming>, mut watch: Watch, talk: F) -> Response<Body>
where
    F: FnOnce(Socket) -> T + Send + 'static,
    T: Future<Output = ()> + Send,
{
    if classify(request.method(), request.version(), request.headers()) != Ok(UpgradeKind::WebSocket) {
        return plain(StatusCode::OK, "Here is a WebSocket server.");
    }
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let socket = Socket { stream: TokioIo::new(upgraded), read: Vec::new() };
        tokio::select! {
            () = talk(socket) => {}
            () = watch.expired() => {}
        }
    });
    let key = request.headers().get(SEC_WEBSOCKET_KEY).map_or(&b""[..], HeaderValue::as_bytes);
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.extend(HeaderValue::from_str(&accept(key)).map(|value| (SEC_WEBSOCKET_ACCEPT, value)));
    response
}

impl Socket {
    /// Returns the next message. `None` means the end. It is cancel safe.
    pub(super) async fn next(&mut self) -> Option<Message> {
        let mut message: Option<Message> = None;
        loop {
            let (header, payload) = self.frame().await?;
            match header.opcode {
                OpCode::Ping => self.write(&encode(OpCode::Pong, &payload, None)).await?,
                OpCode::Pong => {}
                OpCode::Close => {
                    self.write(&encode(OpCode::Close, payload.get(..2).unwrap_or_default(), None)).await?;
                    return None;
                }
                OpCode::Text => message = Some(Message::Text(payload)),
                OpCode::Binary => message = Some(Message::Binary(payload)),
                OpCode::Continuation => message.as_mut()?.bytes().extend(payload),
            }
            let whole = header.fin && !header.opcode.is_control();
            if message.as_mut().is_some_and(|message| message.bytes().len() > MAX_MESSAGE) {
                return None;
            }
            if whole {
                return message;
            }
        }
    }

    pub(super) async fn send(&mut self, opcode: OpCode, payload: &[u8]) -> Option<()> {
        self.write(&encode(opcode, payload, None)).await
    }

    async fn frame(&mut self) -> Option<(Header, Vec<u8>)> {
        loop {
            if let Some((header, size)) = Header::decode(&self.read).ok()? {
                let end = size.checked_add(usize::try_from(header.length).ok()?)?;
                if header.length > MAX_MESSAGE as u64 {
                    return None;
                }
                if self.read.len() >= end {
                    let mut payload = self.read[size..end].to_vec();
                    self.read.drain(..end);
                    header.mask?.apply(&mut payload);
                    return Some((header, payload));
                }
            }
            // Cancel-safe: what was read is in the buffer.
            if self.stream.read_buf(&mut self.read).await.ok()? == 0 {
                return None;
            }
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Option<()> {
        self.stream.write_all(bytes).await.ok()
    }
}

impl Message {
    fn bytes(&mut self) -> &mut Vec<u8> {
        match self {
            Self::Text(bytes) | Self::Binary(bytes) => bytes,
        }
    }
}
