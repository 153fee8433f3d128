//! What is sent back for frames and requests that break HTTP/2, and what becomes of a WebSocket beside them.
//!
//! The `h2` crate reads frames below hyper, and decides most of it. Where it does otherwise than RFC 9113 says, a
//! test pins what it does: once that changes, the README's section on HTTP/2 changes too.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use h2::Reason;
use holdline::testing::outcome::{Cause, EndedBy};
use holdline::testing::ws::frame::OpCode;
use holdline::testing::ws::mask::MaskKey;
use std::net::SocketAddr;
use support::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, PING, PREFACE, PRIORITY,
    RST_STREAM, SETTINGS, WINDOW_UPDATE, block, frame, get, next, raw,
};
use support::{Proxy, Puppet, Raw, echo, route, upstream, web, with_listen};
use tokio::time::timeout;

/// What came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// The connection's end.
    GoAway(Reason),
    /// The end of a stream.
    Reset(u32, Reason),
    /// The head of an answer.
    Status(u32, u16),
}
use Answer::{GoAway, Reset, Status};

/// Of the static table (RFC 7541 A).
const STATUSES: [(u8, u16); 3] = [(0x88, 200), (0x89, 204), (0x8c, 400)];
/// The WebSocket's stream, and that of the request beside it.
const TUNNEL: u32 = 1;
const BESIDE: u32 = 3;
const TEXT: &[u8] = b"still here";

/// A proxy that speaks HTTP/2, and its upstreams: a WebSocket at `/`, 204 at `/web`, no answer at `/mute`.
struct Stage {
    proxy: Proxy,
    _mute: Puppet,
}

impl Stage {
    async fn new() -> Self {
        let (echo, mute, web) = (echo().await, Puppet::new().await, web().await);
        let more = |name: &str, server: SocketAddr| {
            format!(
                "[[route]]\npath = \"/{name}\"\nupstream = \"{name}\"\n\
                 [upstream.{name}]\nservers = [\"{server}\"]\n"
            )
        };
        let others = more("web", web) + &more("mute", mute.address());
        let rest = format!("{}\n{others}{}", route(""), upstream(&[echo], ""));
        let listen = "address = \"127.0.0.1:0\"\nprotocols = [\"h2\"]";
        let text = with_listen(&rest).replace("address = \"127.0.0.1:0\"", listen);
        Self { proxy: Proxy::with(&text).await, _mute: mute }
    }

    /// A connection with an open WebSocket.
    async fn client(&self) -> Raw {
        let mut client = raw(&self.proxy, b"").await;
        let handshake = block(&[
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "http"),
            (":authority", "example.com"),
            (":path", "/"),
            ("sec-websocket-version", "13"),
        ]);
        client.write(frame(HEADERS, END_HEADERS, TUNNEL, &handshake)).await;
        while next(&mut client).await.expect("an answer").kind != HEADERS {}
        client
    }
}

fn answer_of(frame: &Frame) -> Option<Answer> {
    let reason = |at: usize| Reason::from(u32::from_be_bytes(frame.payload[at..at + 4].try_into().unwrap()));
    match frame.kind {
        RST_STREAM => Some(Reset(frame.stream, reason(0))),
        GOAWAY => Some(GoAway(reason(4))),
        HEADERS => {
            let known = STATUSES.iter().find(|(index, _)| *index == frame.payload[0]);
            Some(Status(frame.stream, known.expect("a status of the table").1))
        }
        _ => None,
    }
}

/// Sends something beside a WebSocket, and lets that echo after it. All that came back: so many answers at least,
/// unless the connection ended; and whether the WebSocket was still there.
async fn beside(client: &mut Raw, bytes: &[u8], answers: usize) -> (Vec<Answer>, bool) {
    let text = support::frame(OpCode::Text, TEXT, Some(MaskKey([9, 8, 7, 6])));
    // The connection may be ended at once.
    let _ = tokio::io::AsyncWriteExt::write_all(
        &mut client.stream,
        &[bytes, &frame(DATA, 0, TUNNEL, &text)].concat(),
    )
    .await;
    let (mut came, mut lives) = (Vec::new(), false);
    while !lives || came.len() < answers {
        let Some(frame) = next(client).await else { return (came, false) };
        lives |= frame.kind == DATA && frame.stream == TUNNEL && frame.payload.ends_with(TEXT);
        came.extend(answer_of(&frame));
    }
    (came, lives)
}

/// What a row is about, what is sent, and what comes back.
type Row = (&'static str, Vec<u8>, Vec<Answer>);

/// Each row on a connection of its own, which only a GOAWAY ends.
async fn hold(rows: impl IntoIterator<Item = Row>) {
    let stage = Stage::new().await;
    let mut wrong = Vec::new();
    for (name, bytes, expected) in rows {
        let mut client = stage.client().await;
        let (came, lives) = beside(&mut client, &bytes, expected.len()).await;
        let ends = expected.iter().any(|answer| matches!(answer, GoAway(_)));
        if came != expected || lives == ends {
            wrong.push(format!("{name}: {came:?}, the WebSocket lives: {lives}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A request without a body, of these fields.
fn request(fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, BESIDE, &block(fields))
}

/// The pseudo-header fields of a request, with one of them changed; `None`: left out.
fn pseudo(changed: &str, value: Option<&str>) -> Vec<u8> {
    let fields = [(":method", "GET"), (":scheme", "http"), (":authority", "example.com"), (":path", "/web")];
    let fields =
        fields.map(|(name, usual)| if name == changed { (name, value) } else { (name, Some(usual)) });
    let fields: Vec<_> = fields.iter().filter_map(|(name, value)| Some((*name, (*value)?))).collect();
    request(&fields)
}

/// One more field behind those of a good request.
fn with(name: &str, value: &str) -> Vec<u8> {
    let usual = [(":method", "GET"), (":scheme", "http"), (":authority", "example.com"), (":path", "/web")];
    request(&[&usual[..], &[(name, value)]].concat())
}

/// A POST with this length, if one is said, its body, and trailers.
fn post(length: Option<&str>, body: &[u8], trailers: &[(&str, &str)]) -> Vec<u8> {
    let mut fields =
        vec![(":method", "POST"), (":scheme", "http"), (":authority", "example.com"), (":path", "/web")];
    fields.extend(length.map(|length| ("content-length", length)));
    let head = frame(HEADERS, END_HEADERS, BESIDE, &block(&fields));
    let last = if trailers.is_empty() { END_STREAM } else { 0 };
    let trailers = match trailers {
        [] => Vec::new(),
        _ => frame(HEADERS, END_HEADERS | END_STREAM, BESIDE, &block(trailers)),
    };
    [head, frame(DATA, last, BESIDE, body), trailers].concat()
}

/// Trailers, and yet no end.
fn endless_trailers() -> Vec<u8> {
    let head = post(None, b"", &[]);
    let end = head.len() - 9;
    [&head[..end], &frame(HEADERS, END_HEADERS, BESIDE, &block(&[("x-sum", "1")]))].concat()
}

/// A request that is not answered, behind whose end this comes.
fn half_closed(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    [pseudo(":path", Some("/mute")), frame(kind, flags, BESIDE, payload)].concat()
}

/// RFC 9113 8.1.1: such a request is an error of its stream.
#[tokio::test]
async fn a_malformed_request_ends_its_stream_and_nothing_beside_it() {
    let reset = vec![Reset(BESIDE, Reason::PROTOCOL_ERROR)];
    let refused = vec![Status(BESIDE, 400)];
    let good = vec![Status(BESIDE, 204)];
    hold([
        ("a good one", pseudo("", None), good.clone()),
        ("no :method", pseudo(":method", None), reset.clone()),
        ("no :scheme", pseudo(":scheme", None), reset.clone()),
        ("no :path", pseudo(":path", None), reset.clone()),
        ("neither :authority nor Host", pseudo(":authority", None), refused.clone()),
        ("an empty :scheme", pseudo(":scheme", Some("")), refused.clone()),
        ("an empty :authority", pseudo(":authority", Some("")), reset.clone()),
        ("an empty :path", pseudo(":path", Some("")), reset.clone()),
        (":path without a slash", pseudo(":path", Some("web")), reset.clone()),
        (":path of a server, but for OPTIONS", pseudo(":path", Some("*")), refused.clone()),
        ("a name and a password", pseudo(":authority", Some("a:b@example.com")), refused),
        ("another :path", with(":path", "/web"), reset.clone()),
        (":status", with(":status", "200"), reset.clone()),
        (":protocol without CONNECT", with(":protocol", "websocket"), reset.clone()),
        (
            "a pseudo-header field behind another",
            request(&[(":method", "GET"), (":scheme", "http"), ("x", "1"), (":path", "/web")]),
            reset.clone(),
        ),
        ("Connection", with("connection", "close"), reset.clone()),
        ("Keep-Alive", with("keep-alive", "timeout=5"), reset.clone()),
        ("Proxy-Connection", with("proxy-connection", "close"), reset.clone()),
        ("Transfer-Encoding", with("transfer-encoding", "chunked"), reset.clone()),
        ("Upgrade", with("upgrade", "websocket"), reset.clone()),
        ("TE but for trailers", with("te", "gzip"), reset.clone()),
        ("TE for trailers", with("te", "trailers"), good.clone()),
        ("a length without a body", with("content-length", "5"), reset.clone()),
        ("two lengths", post(Some("5, 6"), b"hello", &[]), reset.clone()),
        ("a body", post(None, b"hello", &[]), good.clone()),
        ("a longer body than was said", post(Some("4"), b"hello", &[]), reset.clone()),
        ("a shorter body than was said", post(Some("6"), b"hello", &[]), reset.clone()),
        ("trailers", post(None, b"hello", &[("x-sum", "1")]), good),
        ("trailers before the length is reached", post(Some("6"), b"hello", &[("x", "1")]), reset.clone()),
        ("trailers with Connection", post(None, b"hello", &[("connection", "close")]), reset.clone()),
        (
            "trailers with Transfer-Encoding",
            post(None, b"hello", &[("transfer-encoding", "x")]),
            reset.clone(),
        ),
        ("trailers with :path behind", post(None, b"hello", &[("x", "1"), (":path", "/")]), reset.clone()),
        ("trailers that do not end the stream", endless_trailers(), reset),
    ])
    .await;
}

#[tokio::test]
async fn an_empty_scheme_is_in_the_log() {
    let mut stage = Stage::new().await;
    let mut client = stage.client().await;
    beside(&mut client, &pseudo(":scheme", Some("")), 1).await;
    let ended = stage.proxy.ended().await;
    let ending = &ended.outcome.ending;
    assert_eq!((ended.report.status, ending.ended_by, ending.cause), (400, EndedBy::Proxy, Cause::Refused));
    assert_eq!(&*ending.reason, ":scheme is empty");
}

/// RFC 9113 6.3 wants RST_STREAM. Priorities are ignored in any case (5.3.2), and so are these.
#[tokio::test]
async fn a_priority_of_a_wrong_length_ends_nothing() {
    hold([
        ("PRIORITY of 4 bytes", frame(PRIORITY, 0, BESIDE, &[0; 4]), vec![]),
        ("PRIORITY of 6 bytes", frame(PRIORITY, 0, BESIDE, &[0; 6]), vec![]),
        ("PRIORITY without a byte", frame(PRIORITY, 0, BESIDE, &[]), vec![]),
        ("such a one of the WebSocket itself", frame(PRIORITY, 0, TUNNEL, &[0; 4]), vec![]),
        ("a PRIORITY", frame(PRIORITY, 0, BESIDE, &[0, 0, 0, 0, 9]), vec![]),
    ])
    .await;
}

/// RFC 9113 3.4.
#[tokio::test]
async fn the_first_frame_is_settings() {
    let stage = Stage::new().await;
    for first in [frame(PING, 0, 0, &[7; 8]), request(&[]), frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 9])] {
        let mut client = stage.proxy.connect().await;
        client.write([PREFACE, &first, &frame(SETTINGS, 0, 0, b"")].concat()).await;
        let mut came = Vec::new();
        while let Some(frame) = next(&mut client).await {
            assert!(frame.kind != PING, "{first:?} is answered");
            came.extend(answer_of(&frame));
        }
        assert_eq!(came, [GoAway(Reason::PROTOCOL_ERROR)], "{first:?}");
    }
}

/// RFC 9113 wants the codes that the rows begin with. The connection ends in any case.
#[tokio::test]
async fn the_library_says_protocol_error_for_other_errors_of_a_connection() {
    let header = |bytes: &[u8]| frame(HEADERS, END_HEADERS | END_STREAM, BESIDE, bytes);
    let rows = [
        ("COMPRESSION_ERROR (4.3): no end of a number", header(&[0xff; 4])),
        ("COMPRESSION_ERROR: index 0", header(&[0x80])),
        ("COMPRESSION_ERROR: index 62, of an empty table", header(&[0x80 | 62])),
        ("COMPRESSION_ERROR: a table over the limit", header(&[0x3f, 0xe2, 0x1f])),
        ("COMPRESSION_ERROR: 8 bits of padding", header(&[0, 0x82, 0x1f, 0xff, 0])),
        ("COMPRESSION_ERROR: EOS in a text", header(&[0, 0x84, 0xff, 0xff, 0xff, 0xff, 0])),
        ("FRAME_SIZE_ERROR (6.5): SETTINGS, ACK, with a payload", frame(SETTINGS, ACK, 0, &[0; 6])),
        ("FRAME_SIZE_ERROR (6.5): SETTINGS of 3 bytes", frame(SETTINGS, 0, 0, &[0; 3])),
        ("FRAME_SIZE_ERROR (6.4): RST_STREAM of 3 bytes", frame(RST_STREAM, 0, TUNNEL, &[0; 3])),
        ("FRAME_SIZE_ERROR (6.7): PING of 6 bytes", frame(PING, 0, 0, &[0; 6])),
        ("FRAME_SIZE_ERROR (6.9): WINDOW_UPDATE of 3 bytes", frame(WINDOW_UPDATE, 0, 0, &[0; 3])),
        ("FRAME_SIZE_ERROR (4.2): GOAWAY of 4 bytes", frame(GOAWAY, 0, 0, &[0; 4])),
        ("FLOW_CONTROL_ERROR (6.5.2): a window of 2^31", frame(SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0])),
        ("PROTOCOL_ERROR (6.10): CONTINUATION of nothing", frame(CONTINUATION, END_HEADERS, BESIDE, &get())),
    ];
    hold(rows.map(|(name, bytes)| (name, bytes, vec![GoAway(Reason::PROTOCOL_ERROR)]))).await;
}

/// These are malformed requests (RFC 9113 8.2.1, 8.3), which end a stream. h2 finds them while it decodes the fields.
#[tokio::test]
async fn the_library_ends_the_connection_for_names_that_are_none() {
    let go = || vec![GoAway(Reason::PROTOCOL_ERROR)];
    hold([
        ("a name in upper case", with("X-Upper", "1"), go()),
        ("an empty name", with("", "1"), go()),
        ("a space in a name", with("x y", "1"), go()),
        ("a line break in a value", with("x", "1\r\ny: 2"), go()),
        ("an unknown pseudo-header field", with(":x", "1"), go()),
        ("an empty :method", pseudo(":method", Some("")), go()),
        ("trailers in upper case", post(None, b"hello", &[("X-Upper", "1")]), go()),
    ])
    .await;
}

/// RFC 9113 5.1 wants RST_STREAM with STREAM_CLOSED, which would leave the others alone.
#[tokio::test]
async fn the_library_ends_the_connection_for_frames_behind_the_end_of_a_stream() {
    let go = vec![GoAway(Reason::PROTOCOL_ERROR)];
    hold([
        ("DATA", half_closed(DATA, 0, b"more"), go.clone()),
        ("DATA with END_STREAM", half_closed(DATA, END_STREAM, b"more"), go.clone()),
        ("HEADERS", half_closed(HEADERS, END_HEADERS | END_STREAM, &block(&[("x-sum", "1")])), go.clone()),
        (
            "DATA behind the end of the WebSocket",
            [frame(DATA, END_STREAM, TUNNEL, b""), frame(DATA, 0, TUNNEL, b"more")].concat(),
            go,
        ),
    ])
    .await;
}

/// RFC 9113 5.1 has a connection error here, or nothing at all for a while. This is gentler.
#[tokio::test]
async fn the_library_resets_a_closed_stream_for_more_data() {
    let stage = Stage::new().await;
    let mut client = stage.client().await;
    assert_eq!(beside(&mut client, &pseudo("", None), 1).await, (vec![Status(BESIDE, 204)], true));
    let (came, lives) = beside(&mut client, &frame(DATA, 0, BESIDE, b"more"), 1).await;
    assert_eq!((came, lives), (vec![Reset(BESIDE, Reason::STREAM_CLOSED)], true));
}

/// They are malformed (RFC 9113 8.1, 8.3). h2 leaves them out, and the rest passes.
#[tokio::test]
async fn the_library_takes_pseudo_header_fields_out_of_trailers() {
    let puppet = Puppet::new().await;
    let listen = "address = \"127.0.0.1:0\"\nprotocols = [\"h2\"]";
    let rest = format!("{}\n{}", route(""), upstream(&[puppet.address()], ""));
    let proxy = Proxy::with(&with_listen(&rest).replace("address = \"127.0.0.1:0\"", listen)).await;
    let mut client = raw(&proxy, b"").await;
    let announced = get().into_iter().chain(block(&[("trailer", "x-sum")])).collect::<Vec<_>>();
    let trailers = block(&[(":method", "GET"), ("x-sum", "1")]);
    let frames = [
        frame(HEADERS, END_HEADERS, BESIDE, &announced),
        frame(DATA, 0, BESIDE, b"hello"),
        frame(HEADERS, END_HEADERS | END_STREAM, BESIDE, &trailers),
    ];
    client.write(frames.concat()).await;
    let mut server = puppet.accept().await;
    server.head().await;
    let body = timeout(support::PATIENCE, server.until_or_end(b"\r\n\r\n")).await.unwrap().unwrap();
    assert_eq!(String::from_utf8(body).unwrap(), "5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n");
}

/// Without `:authority`, h2 does not keep the scheme. With one, it is refused.
#[tokio::test]
async fn the_library_forgets_an_empty_scheme_beside_host() {
    let fields = [(":method", "GET"), (":scheme", ""), (":path", "/web"), ("host", "example.com")];
    hold([("an empty :scheme beside Host", request(&fields), vec![Status(BESIDE, 204)])]).await;
}
