//! The table of tunnels.

use crate::scene::Scene;
use crate::support::{PATIENCE, Raw, frame};
use holdline::testing::app::Ended;
use holdline::testing::outcome::EndedBy;
use holdline::testing::ws::close::CloseReason;
use holdline::testing::ws::frame::{Header, OpCode};
use socket2::SockRef;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

/// One way to die.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    name: &'static str,
    /// How it is brought about.
    pub(crate) how: How,
    /// Settings of the route.
    pub(crate) settings: &'static str,
    /// Who, why and the code, as the log writes them; 0: none.
    end: (&'static str, u16),
    client: Told,
    upstream: Told,
}

/// What a side is told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Told {
    /// It is not there any more to be told anything.
    Gone,
    /// The end of its stream, with no Close.
    Cut,
    /// A Close with this code; 1005: one without a code.
    Close(u16),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum How {
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
pub(crate) enum Deed {
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
pub(crate) enum Order {
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
pub(crate) enum Record {
    CloseNotify,
    /// FIN without close_notify.
    Fin,
    FatalAlert,
    Altered,
}

/// What the client does over HTTP/2.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Breach {
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
    let (side, cause) = way.end.0.split_once('/').unwrap();
    let code = label(way.end.1);
    let series = format!(
        "websocket_ends_total{{cause=\"{cause}\",code=\"{code}\",ended_by=\"{side}\",route=\"all\"}}"
    );
    assert!(scene.stage.has_series(&series), "{name}: {series} is told before it counts anything");
    let mut server = Some(scene.server.take().unwrap());
    let client = match how {
        How::Client(deed) => {
            let client = scene.client();
            does(client, server.as_mut().unwrap(), deed, EndedBy::Client).await
        }
        How::Upstream(deed) => {
            let mut client = scene.client();
            server = does(server.take().unwrap(), &mut client, deed, EndedBy::Upstream).await;
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
    let client = told(client, EndedBy::Client, way.client, answers && !by_client);
    let upstream = told(server, EndedBy::Upstream, way.upstream, answers && !by_upstream);
    let (client, upstream) = tokio::join!(client, upstream);
    assert_eq!((client, upstream), (way.client, way.upstream), "{name}: what client and upstream are told");
    scene.stage.judge(name, "all", way.end).await;
    assert_eq!(scene.stage.samples("websocket_ends_total{"), [format!("{series} 1.0")], "{name}");
    let of_endpoint = scene.stage.samples("holdline_endpoint_ends_total{");
    let labels = format!("cause=\"{cause}\",ended_by=\"{side}\",");
    match cause {
        "endpoint_removed" => assert_eq!(of_endpoint, [] as [String; 0], "{name}: its series went with it"),
        _ => assert!(matches!(&of_endpoint[..], [one] if one.contains(&labels)), "{name}: {of_endpoint:?}"),
    }
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
pub(crate) async fn told<S>(side: Option<Raw<S>>, ended_by: EndedBy, expected: Told, answers: bool) -> Told
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
            other => panic!("the {ended_by} is sent {other:?}"),
        }
    };
    if answers {
        let payload = if code == 1005 { Vec::new() } else { code.to_be_bytes().to_vec() };
        // Of some ways to die there is nobody who would take it.
        let _ = side.stream.write_all(&sent_by(ended_by, OpCode::Close, &payload)).await;
    }
    if ended_by == EndedBy::Client {
        // The server closes first (RFC 6455 7.1.1).
        assert!(side.rest().await.is_empty(), "something stands behind the Close");
    }
    Close(code)
}

/// A frame as this side sends it.
fn sent_by(ended_by: EndedBy, opcode: OpCode, payload: &[u8]) -> Vec<u8> {
    let mask = (ended_by == EndedBy::Client).then_some(holdline::testing::ws::mask::MaskKey([9, 8, 7, 6]));
    frame(opcode, payload, mask).to_vec()
}

/// Lets a side do something; what is left of it.
async fn does(mut side: Raw, other: &mut Raw, deed: Deed, ended_by: EndedBy) -> Option<Raw> {
    let forbidden = if ended_by == EndedBy::Client { vec![0x83, 0x80, 1, 2, 3, 4] } else { vec![0x83, 0] };
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
            let by_other = if ended_by == EndedBy::Client { EndedBy::Upstream } else { EndedBy::Client };
            other.write(sent_by(by_other, OpCode::Text, b"never read")).await;
            side.stream.readable().await.unwrap();
            kill_with(side);
            return None;
        }
        Deed::RstWithinFrame => {
            let whole = sent_by(ended_by, OpCode::Binary, &[7; 100]);
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
        Deed::Close(0) => side.write(sent_by(ended_by, OpCode::Close, &[])).await,
        Deed::Close(code) => side.write(sent_by(ended_by, OpCode::Close, &code.to_be_bytes())).await,
        Deed::TakesNothing => {
            let by_other = if ended_by == EndedBy::Client { EndedBy::Upstream } else { EndedBy::Client };
            // More than all buffers on the way hold. It is taken to its end when this side is given up.
            let flood = sent_by(by_other, OpCode::Binary, &vec![7; 32 << 20]);
            timeout(PATIENCE, other.write(flood)).await.expect("the proxy reads on");
        }
        Deed::SendsTooMuch => side.write(sent_by(ended_by, OpCode::Text, &[b'x'; 1025])).await,
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
