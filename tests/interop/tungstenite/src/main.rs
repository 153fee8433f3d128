//! The crate tungstenite, as client and as server: answers the driver's requests, one JSON object a
//! line. A thread per connection reads it, and takes requests between reads. It has no compression.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use std::collections::{HashMap, VecDeque};
use std::error::Error as StdError;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};
use tungstenite::handshake::server::{Request, Response};
use tungstenite::http::{HeaderMap, HeaderValue};
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{Data, OpCode};
use tungstenite::stream::MaybeTlsStream;
use tungstenite::{ClientRequestBuilder, Error, Message, WebSocket};

type Failure = Box<dyn StdError + Send + Sync>;
type Outcome = Result<Value, Failure>;

/// Requests of a connection go to its thread.
static CONNS: LazyLock<Mutex<HashMap<String, Sender<Value>>>> = LazyLock::new(Default::default);

fn main() {
    let transports = ["ws", "wss/h1"];
    let can =
        json!({"pieces": true, "pings": true, "drop": true, "deflate": ["off"], "transports": transports});
    println!("{}", json!({"can": can}));
    for line in std::io::stdin().lines() {
        let request: Value = serde_json::from_str(&line.expect("a line")).expect("a request");
        match request["verb"].as_str() {
            Some("listen") => answer(&request, listen(&request)),
            Some("open") => drop(std::thread::spawn(move || answer(&request, open(&request)))),
            _ => hand_over(request),
        }
    }
}

fn answer(request: &Value, outcome: Outcome) {
    println!(
        "{}",
        match outcome {
            Ok(value) => json!({"id": request["id"], "ok": value}),
            Err(error) => json!({"id": request["id"], "error": error.to_string()}),
        }
    );
}

fn hand_over(request: Value) {
    let name = text(&request, "conn");
    match CONNS.lock().unwrap().get(name) {
        Some(thread) => thread.send(request).expect("the connection's thread"),
        None => answer(&request, Err(format!("no connection {name}").into())),
    }
}

fn text<'a>(request: &'a Value, key: &str) -> &'a str {
    request[key].as_str().unwrap_or_default()
}

fn listen(request: &Value) -> Outcome {
    let listener = TcpListener::bind(("127.0.0.1", request["port"].as_u64().unwrap_or(0) as u16))?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || accept(stream));
        }
    });
    Ok(port.into())
}

#[allow(clippy::result_large_err)]
fn accept(stream: TcpStream) {
    let (mut name, mut protocol) = (String::new(), String::new());
    let choose = |request: &Request, mut response: Response| {
        name = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        if header(request.headers()).contains("chat.v2") {
            protocol = "chat.v2".to_owned();
            response.headers_mut().insert(PROTOCOL, HeaderValue::from_static("chat.v2"));
        }
        Ok(response)
    };
    if let Ok(socket) = tungstenite::accept_hdr(MaybeTlsStream::Plain(stream), choose) {
        Conn::keep(name, socket, protocol);
    }
}

const PROTOCOL: &str = "sec-websocket-protocol";

fn header(headers: &HeaderMap) -> &str {
    headers.get(PROTOCOL).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn open(request: &Value) -> Outcome {
    let uri: tungstenite::http::Uri = text(request, "url").parse()?;
    let stream = TcpStream::connect(uri.authority().ok_or("no authority")?.as_str())?;
    let mut upgrade = ClientRequestBuilder::new(uri);
    for protocol in request["protocols"].as_array().into_iter().flatten() {
        upgrade = upgrade.with_sub_protocol(protocol.as_str().unwrap_or_default());
    }
    let (socket, response) = tungstenite::client_tls(upgrade, stream)?;
    Conn::keep(text(request, "conn").to_owned(), socket, header(response.headers()).to_owned());
    Ok(Value::Null)
}

type Socket = WebSocket<MaybeTlsStream<TcpStream>>;

struct Conn {
    socket: Socket,
    protocol: String,
    messages: VecDeque<Value>,
    waiting: VecDeque<(Value, Instant)>,
    pings: Vec<String>,
    pongs: Vec<String>,
    closed: Value,
    over: bool,
}

impl Conn {
    fn keep(name: String, socket: Socket, protocol: String) {
        let (sender, requests) = channel();
        tcp(&socket).set_read_timeout(Some(Duration::from_millis(2))).expect("a timeout");
        tcp(&socket).set_nodelay(true).expect("no delay");
        let conn = Self {
            socket,
            protocol,
            messages: VecDeque::new(),
            waiting: VecDeque::new(),
            pings: Vec::new(),
            pongs: Vec::new(),
            closed: Value::Null,
            over: false,
        };
        CONNS.lock().unwrap().insert(name, sender);
        std::thread::spawn(move || conn.run(&requests));
    }

    /// Reads until the connection is over. Then it waits for requests without a timer: hundreds of these threads
    /// are left late in a run, and must not take the processor time of the others.
    fn run(mut self, requests: &Receiver<Value>) {
        while !self.over {
            self.read();
            for request in requests.try_iter().collect::<Vec<_>>() {
                self.take(request);
            }
            self.hand_out();
        }
        for request in requests {
            self.take(request);
            self.hand_out();
        }
    }

    fn read(&mut self) {
        match self.socket.read() {
            Ok(Message::Text(text)) => self.messages.push_back(json!({"text": text.as_str()})),
            Ok(Message::Binary(data)) => self.messages.push_back(json!({"binary": STANDARD.encode(data)})),
            Ok(Message::Ping(data)) => self.pings.push(String::from_utf8_lossy(&data).into_owned()),
            Ok(Message::Pong(data)) => self.pongs.push(String::from_utf8_lossy(&data).into_owned()),
            Ok(Message::Close(frame)) => {
                let (code, reason) =
                    frame.map_or((1005, String::new()), |f| (f.code.into(), f.reason.to_string()));
                self.closed = json!([code, reason]);
            }
            Ok(Message::Frame(_)) => {}
            Err(Error::Io(error)) if is_timeout(&error) => {}
            Err(error) => self.end(&error),
        }
    }

    fn end(&mut self, error: &Error) {
        self.over = true;
        let _ = tcp(&self.socket).shutdown(Shutdown::Both);
        if self.closed.is_null() {
            self.closed = json!([1006, error.to_string()]);
        }
    }

    fn take(&mut self, request: Value) {
        if text(&request, "verb") == "recv" {
            self.waiting.push_back((request, Instant::now() + Duration::from_secs(10)));
            return;
        }
        let outcome = self.act(&request);
        answer(&request, outcome);
    }

    fn act(&mut self, request: &Value) -> Outcome {
        match text(request, "verb") {
            "send" => self.send(request)?,
            "ping" => self.socket.send(Message::Ping(text(request, "data").to_owned().into()))?,
            "close" => {
                let code = request["code"].as_u64().unwrap_or_default() as u16;
                let reason = text(request, "reason").to_owned().into();
                self.socket.close(Some(CloseFrame { code: code.into(), reason }))?;
            }
            "drop" => {
                self.over = true;
                tcp(&self.socket).shutdown(Shutdown::Both)?;
            }
            "seen" => return Ok(self.seen()),
            verb => return Err(format!("no verb {verb}").into()),
        }
        Ok(Value::Null)
    }

    fn seen(&self) -> Value {
        json!({
            "pings": self.pings, "pongs": self.pongs, "closed": self.closed,
            "protocol": self.protocol, "extensions": "",
        })
    }

    fn send(&mut self, request: &Value) -> Result<(), Failure> {
        let message = &request["message"];
        let (first, data) = match message["text"].as_str() {
            Some(text) => (Data::Text, text.as_bytes().to_vec()),
            None => (Data::Binary, STANDARD.decode(text(message, "binary"))?),
        };
        let pieces = request["pieces"].as_u64().unwrap_or(1) as usize;
        if pieces == 1 {
            let whole = if first == Data::Text {
                Message::text(String::from_utf8(data)?)
            } else {
                Message::binary(data)
            };
            return Ok(self.socket.send(whole)?);
        }
        self.send_pieces(first, &data, pieces)
    }

    fn send_pieces(&mut self, first: Data, data: &[u8], pieces: usize) -> Result<(), Failure> {
        let size = data.len().div_ceil(pieces);
        for (at, part) in data.chunks(size).enumerate() {
            let opcode = OpCode::Data(if at == 0 { first } else { Data::Continue });
            let last = (at + 1) * size >= data.len();
            self.socket.send(Message::Frame(Frame::message(part.to_vec(), opcode, last)))?;
            let resume = Instant::now() + Duration::from_millis(50);
            while !last && Instant::now() < resume {
                self.read();
            }
        }
        Ok(())
    }

    fn hand_out(&mut self) {
        while let Some((request, deadline)) = self.waiting.front().cloned() {
            if let Some(message) = self.messages.pop_front() {
                answer(&request, Ok(message));
            } else if self.over || Instant::now() > deadline {
                answer(&request, Err("no message within 10 s, or none before the end".into()));
            } else {
                return;
            }
            self.waiting.pop_front();
        }
    }
}

fn tcp(socket: &Socket) -> &TcpStream {
    match socket.get_ref() {
        MaybeTlsStream::Plain(stream) => stream,
        MaybeTlsStream::Rustls(stream) => &stream.sock,
        _ => unreachable!("no other TLS is built in"),
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}
