//! Ways to die: each in a row of a table, brought about on real sockets, with who ended it, why and with which
//! code, wherever that is told: the report, the line of the access log, the recent ends and what the operator
//! reads of them, the metric, and what each side of the tunnel is told.
//!
//! Cables that are pulled need hosts of their own, and so do the kernel's timeouts: `tests/soak/blackhole.py` sets
//! links of network namespaces down, with `client/unresponsive` and `upstream/unresponsive` where there are pings,
//! `client/tcp_timeout` and `upstream/tcp_timeout` (`tcp_user_timeout`) where there are none, and
//! `upstream/unreachable`, `upstream/response_timeout` and `proxy/refused` (408) before there is a tunnel. A
//! process that is stopped and never ends is `frozen` in `tests/soak/soak.py`.
//!
//! Connections that end before they asked for anything are no ends of tunnels: handshakes that fail, by an alert
//! of the client's too, are in `tests/tls.rs`, PROXY headers in `tests/front_door.rs`.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use holdline::app::{Ended, Running};
use holdline::outcome::Who;
use holdline::telemetry::metrics::Format;
use holdline::telemetry::recent::End;
use holdline::ws::close::CloseReason;
use holdline::ws::frame::{Header, OpCode};
use serde_json::{Value, json};
use socket2::SockRef;
use std::future::{pending, ready};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use support::certificates::{Authority, Folder, of};
use support::http2::{Http2, Stream};
use support::operator::Operator;
use support::{PATIENCE, Proxy, Puppet, Raw, frame, nobody, opening, route, upstream};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;

// === the table of tunnels ===

/// One way to die.
#[derive(Clone, Copy, Debug)]
struct Way {
    name: &'static str,
    /// How it is brought about.
    how: How,
    /// Settings of the route.
    settings: &'static str,
    /// Who, why and the code, as the log writes them; 0: none.
    end: (&'static str, u16),
    client: Told,
    upstream: Told,
}

/// What a side is told.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Told {
    /// It is not there any more to be told anything.
    Gone,
    /// The end of its stream, with no Close.
    Cut,
    /// A Close with this code; 1005: one without a code.
    Close(u16),
}

#[derive(Clone, Copy, Debug)]
enum How {
    Client(Deed),
    Upstream(Deed),
    /// Nothing is done: time passes.
    Wait,
    Operator(Order),
    Tls(Record),
    Http2(Breach),
}

/// What a side does.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Fin,
    Rst,
    /// SIGKILL to a process that holds the socket.
    Killed,
    /// The same while bytes wait that it has not read.
    KilledUnread,
    /// RST behind half a frame.
    RstWithinFrame,
    /// FIN behind a frame that RFC 6455 forbids, which passed.
    FinAfterViolation,
    /// A Close; 0: without a code.
    Close(u16),
    /// It takes none of the bytes that the other one sends.
    TakesNothing,
    SendsTooMuch,
    Violates,
}

#[derive(Clone, Copy, Debug)]
enum Order {
    ReloadWithDrain,
    ReloadWithout,
    Close,
    Drain,
    Shutdown,
    /// Neither side answers its Close, until the grace is over.
    ShutdownUnanswered,
    ShutdownTwice,
}

/// What the client does over TLS.
#[derive(Clone, Copy, Debug)]
enum Record {
    CloseNotify,
    /// FIN without close_notify.
    Fin,
    FatalAlert,
    Altered,
}

/// What the client does over HTTP/2.
#[derive(Clone, Copy, Debug)]
enum Breach {
    EndStream,
    RstStream(h2::Reason),
    GoAwayAndFin,
    ConnectionFin,
    ConnectionRst,
    /// A frame for which the proxy itself sends GOAWAY.
    ConnectionError,
}

use Told::{Close, Cut, Gone};

const fn way(
    name: &'static str,
    how: How,
    settings: &'static str,
    end: (&'static str, u16),
    client: Told,
    upstream: Told,
) -> Way {
    Way { name, how, settings, end, client, upstream }
}

const TO_CLIENT: &str = "ping = { client = \"20ms\", upstream = \"off\", timeout = \"30ms\" }";
const TO_UPSTREAM: &str = "ping = { client = \"off\", upstream = \"20ms\", timeout = \"30ms\" }";
const STRICT: &str = "on_violation = \"close\"";
const SMALL: &str = "max_message_size = \"1k\"";
const OLD_CODES: &str = "close_codes = \"rfc6455\"";
const TAKE: &str = "send_timeout = \"100ms\"";

#[rustfmt::skip]
const WAYS: &[Way] = &[
    // the client
    way("client FIN", How::Client(Deed::Fin), "", ("client/eof", 1001), Gone, Close(1001)),
    way("client RST", How::Client(Deed::Rst), "", ("client/reset", 1001), Gone, Close(1001)),
    way("client SIGKILL", How::Client(Deed::Killed), "", ("client/eof", 1001), Gone, Close(1001)),
    way("client SIGKILL, bytes unread", How::Client(Deed::KilledUnread), "", ("client/reset", 1001), Gone, Close(1001)),
    way("client RST in a frame", How::Client(Deed::RstWithinFrame), "", ("client/reset", 0), Gone, Cut),
    way("client FIN, blind", How::Client(Deed::FinAfterViolation), "", ("client/eof", 0), Gone, Cut),
    way("client Close 1000", How::Client(Deed::Close(1000)), "", ("client/close", 1000), Close(1000), Close(1000)),
    way("client Close 3000", How::Client(Deed::Close(3000)), "", ("client/close", 3000), Close(3000), Close(3000)),
    way("client Close 4999", How::Client(Deed::Close(4999)), "", ("client/close", 4999), Close(4999), Close(4999)),
    way("client Close, no code", How::Client(Deed::Close(0)), "", ("client/close", 0), Close(1005), Close(1005)),
    // the upstream
    way("upstream FIN", How::Upstream(Deed::Fin), "", ("upstream/eof", 1014), Close(1014), Gone),
    way("upstream FIN, old codes", How::Upstream(Deed::Fin), OLD_CODES, ("upstream/eof", 1011), Close(1011), Gone),
    way("upstream RST", How::Upstream(Deed::Rst), "", ("upstream/reset", 1014), Close(1014), Gone),
    way("upstream SIGKILL", How::Upstream(Deed::Killed), "", ("upstream/eof", 1014), Close(1014), Gone),
    way("upstream SIGKILL, bytes unread", How::Upstream(Deed::KilledUnread), "", ("upstream/reset", 1014), Close(1014), Gone),
    way("upstream RST in a frame", How::Upstream(Deed::RstWithinFrame), "", ("upstream/reset", 0), Cut, Gone),
    way("upstream FIN, blind", How::Upstream(Deed::FinAfterViolation), "", ("upstream/eof", 0), Cut, Gone),
    way("upstream Close 1000", How::Upstream(Deed::Close(1000)), "", ("upstream/close", 1000), Close(1000), Close(1000)),
    way("upstream Close 1012", How::Upstream(Deed::Close(1012)), "", ("upstream/close", 1012), Close(1012), Close(1012)),
    way("upstream Close, no code", How::Upstream(Deed::Close(0)), "", ("upstream/close", 0), Close(1005), Close(1005)),
    // timeouts
    way("ping.timeout, client", How::Wait, TO_CLIENT, ("client/unresponsive", 1001), Close(1001), Close(1001)),
    way("ping.timeout, upstream", How::Wait, TO_UPSTREAM, ("upstream/unresponsive", 1014), Close(1014), Close(1001)),
    way("read_timeout", How::Wait, "read_timeout = \"30ms\"", ("proxy/read_timeout", 1001), Close(1001), Close(1001)),
    way("max_lifetime", How::Wait, "max_lifetime = \"30ms\"", ("proxy/lifetime", 1001), Close(1001), Close(1001)),
    way("send_timeout, client", How::Client(Deed::TakesNothing), TAKE, ("client/send_timeout", 1001), Cut, Close(1001)),
    way("send_timeout, upstream", How::Upstream(Deed::TakesNothing), TAKE, ("upstream/send_timeout", 1001), Close(1001), Cut),
    // policies
    way("max_message_size, client", How::Client(Deed::SendsTooMuch), SMALL, ("proxy/too_big", 1009), Close(1009), Close(1001)),
    way("max_message_size, upstream", How::Upstream(Deed::SendsTooMuch), SMALL, ("proxy/too_big", 1009), Close(1001), Close(1009)),
    way("on_violation, client", How::Client(Deed::Violates), STRICT, ("proxy/violation", 1002), Close(1002), Close(1002)),
    way("on_violation, upstream", How::Upstream(Deed::Violates), STRICT, ("proxy/violation", 1002), Close(1002), Close(1002)),
    // orders
    way("drain by reload", How::Operator(Order::ReloadWithDrain), "", ("proxy/drain", 1012), Close(1012), Close(1012)),
    way("endpoint removed", How::Operator(Order::ReloadWithout), "", ("proxy/endpoint_removed", 1012), Close(1012), Close(1012)),
    way("endpoint removed, old codes", How::Operator(Order::ReloadWithout), OLD_CODES, ("proxy/endpoint_removed", 1001), Close(1001), Close(1001)),
    way("operator closes one", How::Operator(Order::Close), "", ("proxy/operator", 4001), Close(4001), Close(4001)),
    way("operator drains", How::Operator(Order::Drain), "", ("proxy/drain", 1012), Close(1012), Close(1012)),
    way("shutdown", How::Operator(Order::Shutdown), "", ("proxy/shutdown", 1001), Close(1001), Close(1001)),
    way("shutdown_grace over", How::Operator(Order::ShutdownUnanswered), "", ("proxy/shutdown", 1001), Close(1001), Close(1001)),
    way("shutdown, told twice", How::Operator(Order::ShutdownTwice), "", ("proxy/shutdown", 1001), Close(1001), Close(1001)),
    // TLS
    way("TLS close_notify", How::Tls(Record::CloseNotify), "", ("client/eof", 1001), Gone, Close(1001)),
    way("TLS FIN without it", How::Tls(Record::Fin), "", ("client/eof", 1001), Gone, Close(1001)),
    way("TLS fatal alert", How::Tls(Record::FatalAlert), "", ("client/reset", 1001), Gone, Close(1001)),
    way("TLS altered record", How::Tls(Record::Altered), "", ("client/reset", 1001), Gone, Close(1001)),
    // HTTP/2
    way("HTTP/2 END_STREAM", How::Http2(Breach::EndStream), "", ("client/eof", 1001), Gone, Close(1001)),
    // RFC 8441 5 has it for a reset; hyper's stream just ends, as it does for browsers' tabs that are closed.
    way("HTTP/2 RST_STREAM, CANCEL", How::Http2(Breach::RstStream(h2::Reason::CANCEL)), "", ("client/eof", 1001), Gone, Close(1001)),
    way("HTTP/2 RST_STREAM, INTERNAL_ERROR", How::Http2(Breach::RstStream(h2::Reason::INTERNAL_ERROR)), "", ("client/reset", 1001), Gone, Close(1001)),
    way("HTTP/2 GOAWAY and FIN", How::Http2(Breach::GoAwayAndFin), "", ("client/eof", 1001), Gone, Close(1001)),
    way("HTTP/2 connection FIN", How::Http2(Breach::ConnectionFin), "", ("client/eof", 1001), Gone, Close(1001)),
    way("HTTP/2 connection RST", How::Http2(Breach::ConnectionRst), "", ("client/reset", 1001), Gone, Close(1001)),
    way("HTTP/2 connection error", How::Http2(Breach::ConnectionError), "", ("client/reset", 1001), Gone, Close(1001)),
];

#[tokio::test]
async fn each_tunnel_ends_as_the_table_says() {
    let mut broken = Vec::new();
    for way in WAYS {
        // By itself, so that all rows that do not hold are named.
        if tokio::spawn(die(*way)).await.is_err() {
            broken.push(way.name);
        }
    }
    assert!(broken.is_empty(), "not as the table says: {broken:?}");
}

/// Brings one about, and compares all that is told of it.
async fn die(way: Way) {
    let Way { name, how, .. } = way;
    let mut scene = Scene::open(way).await;
    let mut server = Some(scene.server.take().unwrap());
    let client = match how {
        How::Client(deed) => {
            let client = scene.client();
            does(client, server.as_mut().unwrap(), deed, Who::Client).await
        }
        How::Upstream(deed) => {
            let mut client = scene.client();
            server = does(server.take().unwrap(), &mut client, deed, Who::Upstream).await;
            Some(client)
        }
        How::Wait => Some(scene.client()),
        How::Operator(order) => {
            scene.order(order).await;
            Some(scene.client())
        }
        How::Tls(record) => {
            scene.over_tls(record).await;
            None
        }
        How::Http2(breach) => {
            scene.over_http2(breach).await;
            None
        }
    };
    let by_client = matches!(how, How::Client(Deed::Close(_)));
    let by_upstream = matches!(how, How::Upstream(Deed::Close(_)));
    let answers = !matches!(how, How::Operator(Order::ShutdownUnanswered | Order::ShutdownTwice));
    let client = told(client, Who::Client, way.client, answers && !by_client);
    let upstream = told(server, Who::Upstream, way.upstream, answers && !by_upstream);
    let (client, upstream) = tokio::join!(client, upstream);
    assert_eq!((client, upstream), (way.client, way.upstream), "{name}: what client and upstream are told");
    scene.stage.judge(name, "all", way.end).await;
    let (side, why) = way.end.0.split_once('/').unwrap();
    let code = label(way.end.1);
    let only =
        format!("websocket_ends_total{{code=\"{code}\",route=\"all\",side=\"{side}\",why=\"{why}\"}} 1.0");
    assert_eq!(scene.stage.samples("websocket_ends_total{"), [only], "{name}");
    if let Some(ending) = scene.ending {
        let ended = timeout(PATIENCE, ending).await.expect("an end in time").unwrap();
        assert_eq!(ended, Ended::InTime, "{name}");
    }
}

/// A code as the metric has it.
fn label(code: u16) -> String {
    match code {
        0 => "none".to_owned(),
        3000..=3999 => "3xxx".to_owned(),
        4000..=4999 => "4xxx".to_owned(),
        code => code.to_string(),
    }
}

/// What a side that is there yet is told. One that `answers` a Close does so as RFC 6455 5.5.1 wants it.
async fn told<S>(side: Option<Raw<S>>, who: Who, expected: Told, answers: bool) -> Told
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Some(mut side) = side else { return Gone };
    if expected == Cut {
        // Half a frame that it has not read yet, or nothing: of neither a Close can be the end.
        let rest = side.rest().await;
        let in_frame = Header::decode(&rest)
            .unwrap()
            .is_some_and(|(header, size)| size + header.length as usize > rest.len());
        assert!(rest.is_empty() || in_frame, "it may have been sent a Close");
        return Cut;
    }
    let code = loop {
        match side.frame().await {
            (OpCode::Close, payload) => break CloseReason::parse(&payload).code.0,
            (OpCode::Ping, _) => {}
            other => panic!("the {who} is sent {other:?}"),
        }
    };
    if answers {
        let payload = if code == 1005 { Vec::new() } else { code.to_be_bytes().to_vec() };
        // Of some ways to die there is nobody who would take it.
        let _ = side.stream.write_all(&sent_by(who, OpCode::Close, &payload)).await;
    }
    if who == Who::Client {
        // The server closes first (RFC 6455 7.1.1).
        assert!(side.rest().await.is_empty(), "something stands behind the Close");
    }
    Close(code)
}

/// A frame as this side sends it.
fn sent_by(who: Who, opcode: OpCode, payload: &[u8]) -> Vec<u8> {
    let mask = (who == Who::Client).then_some(holdline::ws::mask::MaskKey([9, 8, 7, 6]));
    frame(opcode, payload, mask).to_vec()
}

/// Lets a side do something; what is left of it.
async fn does(mut side: Raw, other: &mut Raw, deed: Deed, who: Who) -> Option<Raw> {
    let forbidden = if who == Who::Client { vec![0x83, 0x80, 1, 2, 3, 4] } else { vec![0x83, 0] };
    match deed {
        Deed::Fin => return None,
        Deed::Rst => {
            SockRef::from(&side.stream).set_linger(Some(Duration::ZERO)).unwrap();
            return None;
        }
        Deed::Killed => {
            kill_with(side);
            return None;
        }
        Deed::KilledUnread => {
            let by_other = if who == Who::Client { Who::Upstream } else { Who::Client };
            other.write(sent_by(by_other, OpCode::Text, b"never read")).await;
            side.stream.readable().await.unwrap();
            kill_with(side);
            return None;
        }
        Deed::RstWithinFrame => {
            let whole = sent_by(who, OpCode::Binary, &[7; 100]);
            side.write(&whole[..50]).await;
            assert_eq!(other.bytes(50).await, whole[..50]);
            SockRef::from(&side.stream).set_linger(Some(Duration::ZERO)).unwrap();
            return None;
        }
        Deed::FinAfterViolation => {
            side.write(&forbidden).await;
            assert_eq!(other.bytes(forbidden.len()).await, forbidden);
            return None;
        }
        Deed::Close(0) => side.write(sent_by(who, OpCode::Close, &[])).await,
        Deed::Close(code) => side.write(sent_by(who, OpCode::Close, &code.to_be_bytes())).await,
        Deed::TakesNothing => {
            let by_other = if who == Who::Client { Who::Upstream } else { Who::Client };
            // More than all buffers on the way hold. It is taken to its end when this side is given up.
            let flood = sent_by(by_other, OpCode::Binary, &vec![7; 32 << 20]);
            timeout(PATIENCE, other.write(flood)).await.expect("the proxy reads on");
        }
        Deed::SendsTooMuch => side.write(sent_by(who, OpCode::Text, &[b'x'; 1025])).await,
        Deed::Violates => side.write(&forbidden).await,
    }
    Some(side)
}

/// Gives a connection to a process, and ends that by SIGKILL.
fn kill_with(side: Raw) {
    let socket = OwnedFd::from(side.stream.into_std().unwrap());
    let mut process = Command::new("sleep").arg("600").stdin(Stdio::from(socket)).spawn().unwrap();
    process.kill().unwrap();
    process.wait().unwrap();
}

// === the scene ===

/// A proxy, and whatever tells of an end.
struct Stage {
    /// Until it is told to stop.
    proxy: Option<Proxy>,
    core: Arc<holdline::proxy::Proxy>,
    operator: Option<Operator>,
    reports: broadcast::Receiver<End>,
}

/// The same with one tunnel.
struct Scene {
    stage: Stage,
    server_address: SocketAddr,
    settings: &'static str,
    client: Client,
    server: Option<Raw>,
    /// Where the proxy is told to stop.
    ending: Option<JoinHandle<Ended>>,
    _folder: Folder,
}

enum Client {
    None,
    Plain(Raw),
    Tls(Box<TlsStream<TcpStream>>),
    /// With its own way to the socket.
    Http2(Http2, Stream, TcpStream),
}

/// A configuration but for the listener. `grace` is that of the shutdown.
fn rest(grace: &str, settings: &str, upstreams: &str) -> String {
    format!(
        "[process]\nshutdown_grace = \"{grace}\"\ndrain_spread = \"0s\"\n[admin]\naddress = \"127.0.0.1:0\"\n{}\n{upstreams}",
        // Nothing here may end only because its time for closing is over.
        route(&format!("close_timeout = \"1h\"\n{settings}"))
    )
}

impl Scene {
    async fn open(way: Way) -> Self {
        let (puppet, folder, ca) = (Puppet::new().await, Folder::new(), Authority::new("Test CA"));
        let grace = match way.how {
            How::Operator(Order::ShutdownUnanswered) => "50ms",
            _ => "1h",
        };
        let rest = rest(grace, way.settings, &upstream(&[puppet.address()], ""));
        let listen = match way.how {
            How::Tls(_) => {
                let pair = folder.pair("a", &ca.issue(of(&["a.test"])));
                let (cert, key) = (pair.cert.display(), pair.key.display());
                format!("[listen.tls]\ncertificates = [{{ cert = \"{cert}\", key = \"{key}\" }}]\n")
            }
            How::Http2(_) => "protocols = [\"h2\"]\n".to_owned(),
            _ => String::new(),
        };
        let proxy = Proxy::start(&format!("{listen}{rest}")).await;
        let stream = TcpStream::connect(proxy.address).await.unwrap();
        let (client, server) = match way.how {
            How::Http2(_) => {
                let own = stream.into_std().unwrap();
                let spare = TcpStream::from_std(own.try_clone().unwrap()).unwrap();
                let mut http2 = Http2::over(TcpStream::from_std(own).unwrap()).await;
                let (stream, (server, _)) = tokio::join!(http2.open("/"), puppet.open());
                (Client::Http2(http2, stream, spare), server)
            }
            How::Tls(_) => {
                let connector = TlsConnector::from(Arc::new(ca.client()));
                let stream =
                    connector.connect(ServerName::try_from("a.test").unwrap(), stream).await.unwrap();
                let (client, server) = ask(Raw::new(stream), &puppet).await;
                (Client::Tls(Box::new(client.stream)), server)
            }
            _ => {
                let (client, server) = ask(Raw::new(stream), &puppet).await;
                (Client::Plain(client), server)
            }
        };
        Self {
            stage: Stage::new(proxy),
            server_address: puppet.address(),
            settings: way.settings,
            client,
            server: Some(server),
            ending: None,
            _folder: folder,
        }
    }

    fn client(&mut self) -> Raw {
        match std::mem::replace(&mut self.client, Client::None) {
            Client::Plain(client) => client,
            _ => panic!("no client over plain HTTP/1.1"),
        }
    }

    async fn order(&mut self, order: Order) {
        let (server, other) = (self.server_address, nobody().await);
        let drains = "drain_timeout = \"1ms\"\n";
        let operator = self.stage.operator.clone().unwrap();
        match order {
            Order::ReloadWithDrain => {
                let drained = format!(
                    "[upstream.up]\n{drains}servers = [{{ address = \"{server}\", state = \"drain\" }}, \"{other}\"]\n"
                );
                self.stage.proxy.as_mut().unwrap().reload(&rest("1h", self.settings, &drained)).await;
            }
            Order::ReloadWithout => {
                let removed = upstream(&[other], drains);
                self.stage.proxy.as_mut().unwrap().reload(&rest("1h", self.settings, &removed)).await;
            }
            Order::Close => {
                let id = self.stage.core.sessions.all()[0].report.id;
                let words = json!({ "code": 4001, "reason": "moved" }).to_string();
                assert_eq!(operator.post(&format!("/api/connections/{id}/close"), &words).await.status, 202);
            }
            Order::Drain => {
                let path = format!("/api/upstreams/up/endpoints/{server}/drain");
                assert_eq!(operator.post(&path, "{\"spread\":\"0s\"}").await.status, 200);
            }
            Order::Shutdown => self.ending = Some(tokio::spawn(self.stage.stop().shut_down(pending()))),
            Order::ShutdownUnanswered => {
                assert_eq!(self.stage.stop().shut_down(pending()).await, Ended::Cut);
            }
            Order::ShutdownTwice => {
                assert_eq!(self.stage.stop().shut_down(ready(())).await, Ended::AtOnce);
            }
        }
    }

    async fn over_tls(&mut self, record: Record) {
        let Client::Tls(mut stream) = std::mem::replace(&mut self.client, Client::None) else {
            panic!("no client over TLS")
        };
        match record {
            Record::CloseNotify => stream.shutdown().await.unwrap(),
            Record::Fin => return drop(stream.into_inner()),
            Record::FatalAlert => {
                // It is made to find what it is sent no good, and says so.
                let (socket, session) = stream.get_mut();
                session.read_tls(&mut &ALTERED[..]).unwrap();
                session.process_new_packets().unwrap_err();
                let mut alert = Vec::new();
                while session.wants_write() {
                    session.write_tls(&mut alert).unwrap();
                }
                assert_eq!(alert[0], 0x17, "a record");
                socket.write_all(&alert).await.unwrap();
            }
            Record::Altered => stream.get_mut().0.write_all(ALTERED).await.unwrap(),
        }
        // As it is: nothing more of it may decide anything.
        self.client = Client::Tls(stream);
    }

    async fn over_http2(&mut self, breach: Breach) {
        let Client::Http2(http2, mut stream, mut socket) = std::mem::replace(&mut self.client, Client::None)
        else {
            panic!("no client over HTTP/2")
        };
        match breach {
            Breach::EndStream => stream.send.send_data(Default::default(), true).unwrap(),
            Breach::RstStream(reason) => stream.send.send_reset(reason),
            Breach::GoAwayAndFin => {
                socket.write_all(&[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).await.unwrap();
                socket.shutdown().await.unwrap();
            }
            Breach::ConnectionFin => socket.shutdown().await.unwrap(),
            Breach::ConnectionRst => {
                SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
                http2.connection.abort();
                assert!(http2.connection.await.unwrap_err().is_cancelled());
                return drop(socket);
            }
            Breach::ConnectionError => {
                // DATA belongs to a stream (RFC 9113 6.1).
                socket.write_all(&[0, 0, 1, 0, 0, 0, 0, 0, 0, b'x']).await.unwrap();
                let error = timeout(PATIENCE, http2.connection).await.unwrap().unwrap().unwrap_err();
                let found = (error.is_go_away(), error.is_remote(), error.reason());
                assert_eq!(found, (true, true, Some(h2::Reason::PROTOCOL_ERROR)));
                return;
            }
        }
        self.client = Client::Http2(http2, stream, socket);
    }
}

impl Stage {
    fn new(proxy: Proxy) -> Self {
        Self {
            core: Arc::clone(&proxy.running.proxy),
            operator: proxy.running.admin_addr().map(Operator::at),
            reports: proxy.running.proxy.log.listen(),
            proxy: Some(proxy),
        }
    }

    /// What is to be shut down; the operator's endpoint ends with it.
    fn stop(&mut self) -> Running {
        self.operator = None;
        self.proxy.take().unwrap().running
    }

    /// The one end there is, wherever it is told; `code` 0: none.
    async fn judge(&mut self, name: &str, route: &str, (end, code): (&str, u16)) -> End {
        let told =
            timeout(PATIENCE, self.reports.recv()).await.unwrap_or_else(|_| panic!("{name}: no report"));
        let told = told.unwrap();
        let ending = &told.1.ending;
        let found = (format!("{}/{}", ending.who, ending.why), ending.code.map_or(0, |code| code.0));
        assert_eq!(found, (end.to_owned(), code), "{name}: {ending:?}");
        assert_eq!(told.0.route.as_deref().unwrap_or_default(), route, "{name}");
        let line = told.0.text(&told.1, 0);
        assert!(line.contains(&format!(" end={end} ")), "{name}: {line}");
        assert_eq!(line.contains(" code="), code != 0, "{name}: {line}");
        assert!(code == 0 || line.contains(&format!(" code={code} ")), "{name}: {line}");
        let (recent, count) = self.core.metrics.recent(10);
        assert_eq!((recent.len(), count), (1, 1), "{name}: one end, once");
        assert!(Arc::ptr_eq(&recent[0], &told), "{name}: {recent:?}");
        if let Some(operator) = &self.operator {
            let ends = operator.value("/api/ends").await["ends"].clone();
            let row = |key: &str| ends[0][key].clone();
            let (who, why) = end.split_once('/').unwrap();
            let code = if code == 0 { Value::Null } else { json!(code) };
            assert_eq!([row("who"), row("why"), row("code")], [json!(who), json!(why), code], "{name}");
            assert_eq!(ends.as_array().unwrap().len(), 1, "{name}");
        }
        told
    }

    /// The samples of a metric.
    fn samples(&self, name: &str) -> Vec<String> {
        let text = self.core.metrics_text(Format::Prometheus);
        text.lines().filter(|line| line.starts_with(name)).map(str::to_owned).collect()
    }
}

/// Asks for a tunnel, and lets the upstream accept it.
async fn ask<S: AsyncRead + AsyncWrite + Unpin>(mut client: Raw<S>, puppet: &Puppet) -> (Raw<S>, Raw) {
    client.write(opening("/", "")).await;
    let (server, _) = puppet.open().await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    (client, server)
}

/// A record of 32 bytes that no key opens.
const ALTERED: &[u8] = b"\x17\x03\x03\x00\x20this is not what was agreed upon";

// === the table of openings that come to nothing ===

/// One way not to become a tunnel.
#[derive(Clone, Copy, Debug)]
struct Refusal {
    name: &'static str,
    /// Who stands behind the proxy.
    behind: Behind,
    /// Lines of the configuration's `[process]`, and of the route.
    process: &'static str,
    settings: &'static str,
    /// Header lines of the opening, to this path.
    lines: &'static str,
    path: &'static str,
    /// Who, why and the code of the Close; 0: none.
    end: (&'static str, u16),
    /// What the client is answered, and what is counted; 499: nothing, as it has left.
    status: u16,
}

#[derive(Clone, Copy, Debug)]
enum Behind {
    /// A server, with one tunnel that is open.
    OneTunnel,
    Nobody,
    /// A server that is `down`.
    Down,
    /// One whose queue of connections is full.
    Full,
    /// One that takes the request, and does this.
    Silent,
    SilentAsTheClientLeaves,
    Leaves,
    Answers(&'static str),
}

const fn refusal(
    name: &'static str,
    behind: Behind,
    (process, settings): (&'static str, &'static str),
    (path, lines): (&'static str, &'static str),
    end: (&'static str, u16),
    status: u16,
) -> Refusal {
    Refusal { name, behind, process, settings, lines, path, end, status }
}

const ROOT: (&str, &str) = ("/", "");
const FALSE_101: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n";
const ONE: &str = "limits = { connections = 1 }";
const ONE_CLOSE: &str = "limits = { connections = 1 }\nreject_with = \"close\"";
const CLOSE: &str = "reject_with = \"close\"";

#[rustfmt::skip]
const REFUSALS: &[Refusal] = &[
    // limits
    refusal("max_connections", Behind::OneTunnel, ("max_connections = 1", ""), ROOT, ("proxy/limit", 0), 503),
    refusal("connections", Behind::OneTunnel, ("", ONE), ROOT, ("proxy/limit", 0), 503),
    refusal("connections, by a Close", Behind::OneTunnel, ("", ONE_CLOSE), ROOT, ("proxy/limit", 1013), 101),
    refusal("connections_per_ip", Behind::OneTunnel, ("", "limits = { connections_per_ip = 1 }"), ROOT, ("proxy/limit", 0), 429),
    refusal("openings_per_ip", Behind::OneTunnel, ("", "limits = { openings_per_ip = { rate = \"1/h\", burst = 1 } }"), ROOT, ("proxy/limit", 0), 429),
    // the request
    refusal("origin", Behind::Nobody, ("", "allowed_origins = [\"https://example.com\"]"), ("/", "Origin: https://evil.test\r\n"), ("proxy/refused", 0), 403),
    refusal("no route", Behind::Nobody, ("", "hosts = [\"elsewhere.test\"]"), ROOT, ("proxy/refused", 0), 404),
    refusal("no opening", Behind::Nobody, ("", ""), ("/", "Sec-WebSocket-Key: another\r\n"), ("proxy/refused", 0), 400),
    refusal("client leaves before the answer", Behind::SilentAsTheClientLeaves, ("", ""), ROOT, ("client/eof", 0), 499),
    // the upstream
    refusal("unreachable", Behind::Nobody, ("", ""), ROOT, ("upstream/unreachable", 0), 502),
    refusal("unreachable, by a Close", Behind::Nobody, ("", CLOSE), ROOT, ("upstream/unreachable", 1014), 101),
    refusal("connect_timeout", Behind::Full, ("", "connect_timeout = \"50ms\""), ROOT, ("upstream/unreachable", 0), 504),
    refusal("all are down", Behind::Down, ("", ""), ROOT, ("proxy/unreachable", 0), 503),
    refusal("response_timeout", Behind::Silent, ("", "response_timeout = \"50ms\""), ROOT, ("upstream/response_timeout", 0), 504),
    refusal("no answer", Behind::Leaves, ("", ""), ROOT, ("upstream/eof", 0), 502),
    refusal("no HTTP", Behind::Answers("SSH-2.0-OpenSSH_9.2\r\n"), ("", ""), ROOT, ("upstream/bad_answer", 0), 502),
    refusal("a false 101", Behind::Answers(FALSE_101), ("", ""), ROOT, ("upstream/bad_answer", 0), 502),
];

#[tokio::test]
async fn each_opening_that_comes_to_nothing_does_so_as_the_table_says() {
    let mut broken = Vec::new();
    for refusal in REFUSALS {
        if tokio::spawn(refuse(*refusal)).await.is_err() {
            broken.push(refusal.name);
        }
    }
    assert!(broken.is_empty(), "not as the table says: {broken:?}");
}

/// Brings one about, and compares all that is told of it.
async fn refuse(row: Refusal) {
    let Refusal { name, behind, end, status, .. } = row;
    let (puppet, full) = (Puppet::new().await, Full::new());
    let upstreams = behind.upstreams(&puppet, &full).await;
    let process = format!("[process]\n{}\n", row.process);
    let rest = rest("1h", row.settings, &upstreams).replace("[process]\n", &process);
    let mut stage = Stage::new(Proxy::start(&rest).await);
    let connect = async || stage.proxy.as_ref().unwrap().connect().await;
    let has_tunnel = matches!(behind, Behind::OneTunnel);
    let _open = if has_tunnel { Some(ask(connect().await, &puppet).await) } else { None };
    let mut client = connect().await;
    client.write(opening(row.path, row.lines)).await;
    let server = behind.meet(&puppet).await;
    if matches!(behind, Behind::SilentAsTheClientLeaves) {
        drop(client);
    } else {
        let head = client.head().await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{name}: {head}");
        if end.1 != 0 {
            assert_eq!(told(Some(client), Who::Client, Close(end.1), true).await, Close(end.1), "{name}");
        }
    }
    let route = if status == 404 { "" } else { "all" };
    let found = stage.judge(name, route, end).await;
    assert_eq!(found.0.status, status, "{name}");
    let sample = |status, count| {
        format!("websocket_openings_total{{route=\"{route}\",status=\"{status}\"}} {count}.0")
    };
    let mut expected = match (has_tunnel, status) {
        (true, 101) => vec![sample(101, 2)],
        (true, _) => vec![sample(101, 1), sample(status, 1)],
        (false, _) => vec![sample(status, 1)],
    };
    let mut samples = stage.samples("websocket_openings_total{");
    expected.sort();
    samples.sort();
    assert_eq!(samples, expected, "{name}");
    assert_eq!(stage.samples("websocket_ends_total{"), [] as [String; 0], "{name}: no tunnel has ended");
    drop(server);
}

/// A server whose queue of connections is full: connects to it are not answered.
struct Full {
    listener: std::net::TcpListener,
    _queued: std::net::TcpStream,
}

impl Full {
    fn new() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        // The least there can be: the first connection fills it.
        SockRef::from(&listener).listen(0).unwrap();
        let _queued = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        Self { listener, _queued }
    }
}

impl Behind {
    async fn upstreams(self, puppet: &Puppet, full: &Full) -> String {
        // No endpoint is taken out, and none is tried twice: each fault is seen by itself.
        let settings = "max_fails = 0\nretry = \"off\"";
        match self {
            Self::Nobody => upstream(&[nobody().await], settings),
            Self::Full => upstream(&[full.listener.local_addr().unwrap()], settings),
            Self::Down => {
                let server = nobody().await;
                format!("[upstream.up]\nservers = [{{ address = \"{server}\", state = \"down\" }}]\n")
            }
            _ => upstream(&[puppet.address()], settings),
        }
    }

    /// Plays the server; what is left of it.
    async fn meet(self, puppet: &Puppet) -> Option<Raw> {
        if matches!(self, Self::OneTunnel | Self::Nobody | Self::Down | Self::Full) {
            return None;
        }
        let mut server = puppet.accept().await;
        server.head().await;
        match self {
            Self::Leaves => return None,
            Self::Answers(words) => server.write(words).await,
            _ => {}
        }
        Some(server)
    }
}
