//! Owns one question to the admin endpoint over HTTP/1.1, on TCP or a unix socket.

use crate::addr::HostPort;
use crate::admin::{Token, TokenError};
use crate::io::Stream;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::fmt;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

/// Whom to ask.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) address: Address,
    pub(super) token: Option<Token>,
}

/// Where.
#[derive(Clone, Debug)]
pub(super) enum Address {
    /// A host, which may be a name, and a port.
    Tcp(String),
    Unix(PathBuf),
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum CtlError {
    #[error("{0}")]
    Place(String),
    #[error("--token-file: {0}")]
    Token(#[from] TokenError),
    #[error(
        "cannot connect to {address}: {error}; is Holdline running, with an [admin] table in its configuration?"
    )]
    Connect { address: Address, error: io::Error },
    #[error("{address}: {error}")]
    Http { address: Address, error: String },
    #[error("{}", said(.status, .answer))]
    Refused { status: StatusCode, answer: Value },
    #[error("{0}")]
    Unknown(String),
    #[error("cannot write: {0}")]
    Output(io::Error),
}

/// What the endpoint says is wrong, one a line.
fn said(status: &StatusCode, answer: &Value) -> String {
    let listed = answer["errors"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let text =
        answer["error"].as_str().map_or_else(|| format!("the endpoint answers {status}"), str::to_owned);
    let hint = if *status == StatusCode::UNAUTHORIZED { " (--token-file)" } else { "" };
    listed.chain([format!("{text}{hint}").as_str()]).collect::<Vec<_>>().join("\n")
}

impl Address {
    pub(super) fn parse(text: &str) -> Result<Self, CtlError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix(path.into()));
        }
        let split = HostPort::split(text);
        if split.host.is_empty() || split.port_number().is_none() {
            return Err(CtlError::Place(format!(
                "--address {text}: expected \"IP:PORT\", \"HOST:PORT\" or \"unix:/path\""
            )));
        }
        Ok(Self::Tcp(text.to_owned()))
    }

    async fn connect(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(address) => TcpStream::connect(address).await.map(Stream::Tcp),
            Self::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Client {
    /// Asks for JSON.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, CtlError> {
        let text = self.whole(self.send(method, path, body).await?).await?;
        serde_json::from_slice(&text).map_err(|error| self.broken(&format!("no JSON: {error}")))
    }

    /// Asks for a text.
    pub(super) async fn text(&self, path: &str) -> Result<String, CtlError> {
        let text = self.whole(self.send(Method::GET, path, None).await?).await?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Asks for a stream of events.
    pub(super) async fn events(&self, path: &str) -> Result<Events<'_>, CtlError> {
        let body = self.send(Method::GET, path, None).await?.into_body();
        Ok(Events { client: self, body, read: Vec::new() })
    }

    /// The answer to a question, if it is not refused.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Response<Incoming>, CtlError> {
        let stream = self.in_time(self.address.connect()).await?;
        let stream = stream.map_err(|error| CtlError::Connect { address: self.address.clone(), error })?;
        let broken = |error: hyper::Error| self.broken(&error);
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        tokio::spawn(connection);
        let host = match &self.address {
            Address::Tcp(address) => address,
            Address::Unix(_) => "localhost",
        };
        let mut request =
            Request::builder().method(method).uri(path).header(HOST, host).header(ACCEPT, "*/*");
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {}", token.expose()));
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = request.body(Full::new(Bytes::from(body))).map_err(|error| self.broken(&error))?;
        let response = self.in_time(sender.send_request(request)).await?.map_err(broken)?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let text = self.whole(response).await?;
        Err(CtlError::Refused { status, answer: serde_json::from_slice(&text).unwrap_or_default() })
    }

    async fn whole(&self, response: Response<Incoming>) -> Result<Bytes, CtlError> {
        let collected = self.in_time(response.into_body().collect()).await?;
        Ok(collected.map_err(|error| self.broken(&error))?.to_bytes())
    }

    async fn in_time<T>(&self, what: impl Future<Output = T>) -> Result<T, CtlError> {
        timeout(PATIENCE, what).await.map_err(|_| self.broken(&"no answer within 60 s"))
    }

    fn broken(&self, error: &dyn fmt::Display) -> CtlError {
        CtlError::Http { address: self.address.clone(), error: error.to_string() }
    }
}

/// Server-Sent Events as they come.
pub(super) struct Events<'a> {
    client: &'a Client,
    body: Incoming,
    read: Vec<u8>,
}

impl Events<'_> {
    /// The next one: its name and its data. `None`: the stream is over.
    pub(super) async fn next(&mut self) -> Result<Option<(String, Value)>, CtlError> {
        loop {
            if let Some(end) = self.read.windows(2).position(|two| two == b"\n\n") {
                let event: Vec<u8> = self.read.drain(..end + 2).collect();
                if let Some(event) = parsed(&String::from_utf8_lossy(&event)) {
                    return Ok(Some(event));
                }
                continue;
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            let frame = frame.map_err(|error| self.client.broken(&error))?;
            self.read.extend_from_slice(&frame.into_data().unwrap_or_default());
        }
    }
}

/// `None`: a sign of life.
fn parsed(event: &str) -> Option<(String, Value)> {
    let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    Some((field("event")?.to_owned(), serde_json::from_str(field("data")?).ok()?))
}

/// A reload looks up names, which may take its time.
const PATIENCE: Duration = Duration::from_secs(60);
