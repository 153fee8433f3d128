//! What integration tests stand on: a proxy in this process, upstreams of several kinds, a client
//! that speaks bytes. All on port 0; nothing sleeps to wait for something.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "tests; each file uses its part")]

pub mod certificates;
pub mod frames;
pub mod http2;
pub mod operator;
pub mod process;

use holdline::testing::app::{Running, Startup};
use holdline::testing::config::Config;
use holdline::testing::listener::socket::Inherited;
use holdline::testing::telemetry::report::Ended;
use holdline::testing::ws::close::CloseReason;
pub use holdline::testing::ws::frame::encode as frame;
use holdline::testing::ws::frame::{Header, OpCode};
use holdline::testing::ws::handshake;
use holdline::testing::ws::mask::MaskKey;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::broadcast;
use tokio::time::timeout;

/// Longer than anything here may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A proxy in this process.
pub struct Proxy {
    pub running: Running,
    pub address: SocketAddr,
    reports: broadcast::Receiver<Arc<Ended>>,
}

impl Proxy {
    /// Starts one on a port of its own. `rest` is the configuration but for `[log]` and `[[listen]]`.
    pub async fn start(rest: &str) -> Self {
        Self::with(&with_listen(rest)).await
    }

    /// Starts one on the whole of a configuration.
    pub async fn with(text: &str) -> Self {
        let config = Config::parse(text, "test").unwrap_or_else(|errors| panic!("{errors}"));
        let startup = Startup::prepare(config, Inherited::default()).await.unwrap();
        let running = startup.run(None).await;
        let address = running.local_addrs()[0].unwrap();
        let reports = running.proxy.log.subscribe();
        Self { running, address, reports }
    }

    /// Before one upstream, `up`, with these servers, for every path.
    pub async fn before(servers: &[SocketAddr]) -> Self {
        Self::start(&format!("{}\n{}", route(""), upstream(servers, ""))).await
    }

    /// Takes over another configuration.
    pub async fn reload(&mut self, rest: &str) {
        let config = Config::parse(&with_listen(rest), "test").unwrap_or_else(|errors| panic!("{errors}"));
        self.running.reload(config).await.unwrap();
    }

    /// The next connection, request or tunnel that ends.
    pub async fn ended(&mut self) -> Arc<Ended> {
        timeout(PATIENCE, self.reports.recv()).await.expect("a report in time").unwrap()
    }

    /// A connection to it.
    pub async fn connect(&self) -> Raw {
        Raw::new(TcpStream::connect(self.address).await.unwrap())
    }

    /// A connection to it of another client: any address of 127.0.0.0/8 is this machine's.
    pub async fn connect_from(&self, address: [u8; 4]) -> Raw {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((address, 0).into()).unwrap();
        Raw::new(socket.connect(self.address).await.unwrap())
    }

    /// A WebSocket through it.
    pub async fn open(&self, target: &str) -> Raw {
        let mut raw = self.connect().await;
        let head = raw.ask(&ws_request(target, "")).await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        raw
    }
}

/// Logs nowhere and listens on one port that is free. The suite runs with each engine: HOLDLINE_TEST_ENGINE
/// names the one where the test does not.
pub fn with_listen(rest: &str) -> String {
    let process = match std::env::var("HOLDLINE_TEST_ENGINE") {
        Ok(engine) if !rest.contains("[process]") => format!("[process]\nengine = \"{engine}\"\n"),
        _ => String::new(),
    };
    // At the end, for some tests count lines.
    format!("[log]\naccess = \"off\"\n[[listen]]\naddress = \"127.0.0.1:0\"\n{rest}\n{process}")
}

/// A route for every path to the upstream `up`, with more settings.
pub fn route(settings: &str) -> String {
    format!("[[route]]\nname = \"all\"\npath = \"/\"\nupstream = \"up\"\n{settings}")
}

/// The upstream `up`, with more settings.
pub fn upstream(servers: &[SocketAddr], settings: &str) -> String {
    let servers: Vec<_> = servers.iter().map(|server| format!("\"{server}\"")).collect();
    format!("[upstream.up]\nservers = [{}]\n{settings}\n", servers.join(", "))
}

/// An address where nobody listens, nor ever will: its port stays taken.
pub async fn nobody() -> SocketAddr {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    std::mem::forget(socket);
    address
}

/// The WebSocket request of RFC 6455 1.2, with more header lines.
pub fn ws_request(target: &str, lines: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{lines}\r\n"
    )
}

/// The answer that accepts it, with more header lines.
pub fn accepted(lines: &str) -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {SAMPLE_ACCEPT}\r\n{lines}\r\n"
    )
}

/// The answer that accepts the request with this head, with more header lines.
pub fn accepting(head: &str, lines: &str) -> String {
    accepted(lines).replace(SAMPLE_ACCEPT, &accept_of(head))
}

/// The accept of the sample key of RFC 6455 1.2.
const SAMPLE_ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// Returns the accept that answers the key of a request.
fn accept_of(head: &str) -> String {
    let key = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("sec-websocket-key").then(|| value.trim().to_owned())
    });
    handshake::accept(key.expect("a key").as_bytes())
}

/// A connection on which bytes are written and read as they are.
pub struct Raw<S = TcpStream> {
    pub stream: S,
    read: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Raw<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, read: Vec::new() }
    }

    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Writes what is taken at once, or waits until something is.
    pub async fn write_some(&mut self, bytes: &[u8]) -> usize {
        self.stream.write(bytes).await.unwrap()
    }

    /// Writes a request and reads the head of its answer.
    pub async fn ask(&mut self, request: &str) -> String {
        self.write(request).await;
        self.head().await
    }

    /// Reads up to an empty line.
    pub async fn head(&mut self) -> String {
        loop {
            if let Some(end) = self.read.windows(4).position(|four| four == b"\r\n\r\n") {
                let head: Vec<u8> = self.read.drain(..end + 4).collect();
                return String::from_utf8(head).unwrap();
            }
            assert!(self.more().await, "the end came before the end of the head: {:?}", self.read);
        }
    }

    /// Reads up to an empty line, or nothing if the end comes first.
    pub async fn head_or_end(&mut self) -> String {
        if self.read.is_empty() && !self.more().await {
            return String::new();
        }
        self.head().await
    }

    /// Reads so many bytes.
    pub async fn bytes(&mut self, length: usize) -> Vec<u8> {
        while self.read.len() < length {
            assert!(self.more().await, "the end came early: {:?}", self.read);
        }
        self.read.drain(..length).collect()
    }

    /// Reads so many bytes; `None` if the end comes first.
    pub async fn bytes_or_end(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.read.len() < length {
            if !self.more().await {
                return None;
            }
        }
        Some(self.read.drain(..length).collect())
    }

    /// Reads up to some bytes, them too; `None` if the end comes first.
    pub async fn until_or_end(&mut self, mark: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.read.windows(mark.len()).position(|bytes| bytes == mark) {
                return Some(self.read.drain(..at + mark.len()).collect());
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// Reads to the end; a reset is an end too.
    pub async fn rest(&mut self) -> Vec<u8> {
        while self.more().await {}
        std::mem::take(&mut self.read)
    }

    /// Reads a frame, its payload unmasked.
    pub async fn frame(&mut self) -> (OpCode, Vec<u8>) {
        loop {
            if let Some((header, size)) = Header::decode(&self.read).unwrap() {
                let end = size + header.length as usize;
                if self.read.len() >= end {
                    let mut payload = self.read[size..end].to_vec();
                    if let Some(key) = header.mask {
                        key.apply(&mut payload);
                    }
                    self.read.drain(..end);
                    return (header.opcode, payload);
                }
            }
            assert!(self.more().await, "the end came before a frame: {:?}", self.read);
        }
    }

    /// Reads a frame that must be a Close.
    pub async fn close(&mut self) -> CloseReason {
        let (opcode, payload) = self.frame().await;
        assert_eq!(opcode, OpCode::Close, "{payload:?}");
        CloseReason::parse(&payload)
    }

    /// Sends a masked frame, as a client does.
    pub async fn send(&mut self, opcode: OpCode, payload: &[u8]) {
        self.write(frame(opcode, payload, Some(MaskKey([9, 8, 7, 6])))).await;
    }

    /// Says a text and hears it again.
    pub async fn echo(&mut self, text: &str) {
        self.send(OpCode::Text, text.as_bytes()).await;
        assert_eq!(self.frame().await, (OpCode::Text, text.as_bytes().to_vec()));
    }

    async fn more(&mut self) -> bool {
        let read = timeout(PATIENCE, self.stream.read_buf(&mut self.read)).await.expect("bytes in time");
        read.is_ok_and(|length| length > 0)
    }
}

/// An upstream that a test plays by hand.
pub struct Puppet {
    listener: TcpListener,
}

impl Puppet {
    pub async fn new() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// The next connection that comes.
    pub async fn accept(&self) -> Raw {
        let (stream, _) =
            timeout(PATIENCE, self.listener.accept()).await.expect("a connection in time").unwrap();
        Raw::new(stream)
    }

    /// Accepts the next connection and its WebSocket request. Returns the connection and the head of the request.
    pub async fn open(&self) -> (Raw, String) {
        let mut raw = self.accept().await;
        let head = raw.head().await;
        raw.write(accepting(&head, "")).await;
        (raw, head)
    }
}

/// A server of HTTP that answers each request with 204 and keeps its connections. It reads a chunked body first. It
/// never answers a request with a `Content-Length` above 0.
pub async fn web() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            tokio::spawn(web_one(Raw::new(listener.accept().await.unwrap().0)));
        }
    });
    address
}

async fn web_one(mut raw: Raw) {
    while let Some(head) = raw.until_or_end(b"\r\n\r\n").await {
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        let has_length = head.contains("content-length: ") && !head.contains("content-length: 0\r\n");
        let is_chunked = head.contains("transfer-encoding: chunked");
        if has_length || (is_chunked && raw.until_or_end(b"\r\n\r\n").await.is_none()) {
            raw.rest().await;
            return;
        }
        raw.write("HTTP/1.1 204 No Content\r\n\r\n").await;
    }
}

/// An upstream that echoes whatever frames come, and answers pings and closes.
pub async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(echo_one(Raw::new(stream)));
        }
    });
    address
}

async fn echo_one(mut raw: Raw) {
    let head = raw.head().await;
    raw.write(accepting(&head, "")).await;
    loop {
        // Its end is whatever ends it.
        if raw.read.is_empty() && !raw.more().await {
            return;
        }
        let (opcode, payload) = raw.frame().await;
        let answer = if opcode == OpCode::Ping { OpCode::Pong } else { opcode };
        if opcode != OpCode::Pong && raw.stream.write_all(&frame(answer, &payload, None)).await.is_err() {
            return;
        }
        if opcode == OpCode::Close {
            return;
        }
    }
}
