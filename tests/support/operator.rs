//! Whoever asks the admin endpoint: one connection a question, bytes as they are.

use super::{PATIENCE, Raw};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::PathBuf;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

/// Where the endpoint is.
#[derive(Clone, Debug)]
pub enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// An operator.
#[derive(Clone, Debug)]
pub struct Operator {
    pub place: Place,
    /// Header lines of each question.
    pub lines: String,
}

/// What was answered.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: String,
}

trait Connection: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Connection for T {}

impl Operator {
    /// One who asks on TCP and says nothing but what must be said.
    pub fn at(address: SocketAddr) -> Self {
        Self { place: Place::Tcp(address), lines: "Host: localhost\r\n".to_owned() }
    }

    /// One who asks on a unix socket.
    pub fn on(path: impl Into<PathBuf>) -> Self {
        Self { place: Place::Unix(path.into()), lines: "Host: x\r\n".to_owned() }
    }

    /// The same with other header lines.
    pub fn with(&self, lines: &str) -> Self {
        Self { lines: lines.to_owned(), ..self.clone() }
    }

    async fn connect(&self) -> Box<dyn Connection> {
        match &self.place {
            Place::Tcp(address) => Box::new(TcpStream::connect(address).await.unwrap()),
            Place::Unix(path) => Box::new(UnixStream::connect(path).await.unwrap()),
        }
    }

    pub async fn ask(&self, method: &str, path: &str, more: &str, body: &str) -> Reply {
        let mut stream = self.connect().await;
        let (lines, length) = (&self.lines, body.len());
        let request = format!(
            "{method} {path} HTTP/1.1\r\n{lines}Connection: close\r\nContent-Length: {length}\r\n{more}\r\n{body}"
        );
        // A refusal may come before the whole is read.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("an answer in time");
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap();
        Reply { status, head: head.to_lowercase(), body: body.to_owned() }
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, "", "").await
    }

    /// The value of a question that is answered with 200.
    pub async fn value(&self, path: &str) -> Value {
        let reply = self.get(path).await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.body);
        reply.value()
    }

    pub async fn post(&self, path: &str, body: &str) -> Reply {
        self.ask("POST", path, "Content-Type: application/json\r\n", body).await
    }

    /// Events as they come.
    pub async fn events(&self, path: &str) -> Events {
        let mut raw = Raw::new(self.connect().await);
        let head = raw.ask(&format!("GET {path} HTTP/1.1\r\n{}Connection: close\r\n\r\n", self.lines)).await;
        assert!(head.starts_with("HTTP/1.1 200") && head.contains("text/event-stream"), "{head}");
        Events { raw }
    }
}

impl Reply {
    pub fn value(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// What is wrong; every refusal says it with a remedy.
    pub fn error(&self) -> String {
        let error = self.value()["error"].as_str().unwrap().to_owned();
        assert!(error.contains(';'), "no remedy: {error}");
        error
    }
}

/// A stream of events.
pub struct Events {
    raw: Raw<Box<dyn Connection>>,
}

impl Events {
    /// The next event: its name and its data; `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            // Each event is a chunk, or several are: what stands between them is left out.
            let text = self.raw.until_or_end(b"\n\n").await?;
            let text = String::from_utf8(text).unwrap();
            let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
            if let (Some(event), Some(data)) = (field("event: "), field("data: ")) {
                return Some((event.to_owned(), serde_json::from_str(data).unwrap()));
            }
        }
    }

    /// The next event of a name.
    pub async fn named(&mut self, name: &str) -> Value {
        loop {
            let (found, data) = self.next().await.expect("the stream goes on");
            if found == name {
                return data;
            }
        }
    }
}
