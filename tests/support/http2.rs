//! A client of HTTP/2, by the `h2` crate.

use super::{MaskKey, OpCode, PATIENCE, frame};
use h2::client::{Builder, SendRequest};
use h2::ext::Protocol;
use h2::{RecvStream, SendStream};
use holdline::testing::ws::frame::Header;
use http::{Request, Response, StatusCode};
use hyper::body::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tokio::time::timeout;

const CONNECTION_WINDOW: u32 = 1 << 20;

/// A connection.
pub struct Http2 {
    pub requests: SendRequest<Bytes>,
    /// Ends with the connection.
    pub connection: JoinHandle<Result<(), h2::Error>>,
}

impl Http2 {
    /// Begins one on a stream, and waits until the server has said what it can do.
    pub async fn over(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        // Streams that are not read hold up others only where the client lets them.
        let handshake = Builder::new().initial_connection_window_size(CONNECTION_WINDOW).handshake(stream);
        let (requests, connection) = handshake.await.unwrap();
        let connection = tokio::spawn(connection);
        let mut requests = timeout(PATIENCE, requests.ready()).await.expect("settings in time").unwrap();
        // Settings come before any answer.
        while !requests.is_extended_connect_protocol_enabled() {
            tokio::task::yield_now().await;
            requests = requests.ready().await.unwrap();
        }
        Self { requests, connection }
    }

    /// A request without a body, and the head of its answer.
    pub async fn ask(&mut self, request: Request<()>) -> Response<RecvStream> {
        let (response, _) = self.requests.send_request(request, true).unwrap();
        timeout(PATIENCE, response).await.expect("an answer in time").unwrap()
    }

    /// Asks for a WebSocket; the answer's status, and the stream.
    pub async fn connect(&mut self, target: &str) -> (Response<()>, Stream) {
        let request = Request::connect(format!("http://example.com{target}"))
            .header("sec-websocket-version", "13")
            .extension(Protocol::from_static("websocket"));
        let (response, send) = self.requests.send_request(request.body(()).unwrap(), false).unwrap();
        let response = timeout(PATIENCE, response).await.expect("an answer in time").unwrap();
        let (parts, body) = response.into_parts();
        (Response::from_parts(parts, ()), Stream { send, body, read: Vec::new() })
    }

    /// Opens a WebSocket.
    pub async fn open(&mut self, target: &str) -> Stream {
        let (response, stream) = self.connect(target).await;
        assert_eq!(response.status(), StatusCode::OK);
        stream
    }
}

/// A WebSocket in a stream of HTTP/2.
pub struct Stream {
    pub send: SendStream<Bytes>,
    pub body: RecvStream,
    read: Vec<u8>,
}

impl Stream {
    /// Sends a masked frame.
    pub fn send(&mut self, opcode: OpCode, payload: &[u8]) {
        let frame = frame(opcode, payload, Some(MaskKey([9, 8, 7, 6])));
        self.send.send_data(frame.to_vec().into(), false).unwrap();
    }

    /// Reads a frame; `None` at the end of the stream, however it came.
    pub async fn frame(&mut self) -> Option<(OpCode, Vec<u8>)> {
        loop {
            if let Some((header, size)) = Header::decode(&self.read).unwrap() {
                let end = size + header.length as usize;
                if self.read.len() >= end {
                    let payload = self.read[size..end].to_vec();
                    self.read.drain(..end);
                    return Some((header.opcode, payload));
                }
            }
            let data = timeout(PATIENCE, self.body.data()).await.expect("bytes in time")?.ok()?;
            self.body.flow_control().release_capacity(data.len()).unwrap();
            self.read.extend_from_slice(&data);
        }
    }

    /// Says a text and hears it again.
    pub async fn echo(&mut self, text: &str) {
        self.send(OpCode::Text, text.as_bytes());
        assert_eq!(self.frame().await, Some((OpCode::Text, text.as_bytes().to_vec())));
    }
}
