//! HTTP/2 as those send it who mean harm: each connection ends or is bounded, upstreams see no more than
//! was admitted, and others go on.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use h2::Reason;
use holdline::testing::outcome::{Cause, EndedBy};
use http::Request;
use std::net::SocketAddr;
use std::time::Duration;
use support::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, block, frame, get, literal, next_of, raw,
};
use support::http2::Http2;
use support::{PATIENCE, Proxy, Puppet, Raw, echo, nobody, route, upstream, with_listen};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy, sink};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, interval, sleep, timeout};

/// One with short timeouts, and a client that goes on through whatever another does.
async fn before(server: SocketAddr) -> Proxy {
    let listen = "address = \"127.0.0.1:0\"\nprotocols = [\"h1\", \"h2\"]\nheader_timeout = \"400ms\"\n\
                  keepalive_timeout = \"60s\"\nbody_timeout = \"400ms\"";
    let rest = format!("{}\n{}", route(""), upstream(&[server], ""));
    Proxy::with(&with_listen(&rest).replace("address = \"127.0.0.1:0\"", listen)).await
}

/// A path that is asked for behind everything else.
const LAST: &str = "/last";

/// The fields of a GET for a path.
fn get_of(path: &str) -> Vec<u8> {
    block(&[(":method", "GET"), (":scheme", "http"), (":authority", "example.com"), (":path", path)])
}

/// Whether a connection brought the request for the last path. Others may end without one.
async fn is_last(mut server: Raw) -> bool {
    let head = server.until_or_end(b"\r\n\r\n").await.unwrap_or_default();
    head.starts_with(format!("GET {LAST} ").as_bytes())
}

/// Waits for the end of a connection; what its GOAWAY said, if there was one.
async fn end(client: &mut Raw) -> Option<Reason> {
    let mut said = None;
    while let Some((_, _, payload)) = next_of(client, &[GOAWAY]).await {
        said = Some(Reason::from(u32::from_be_bytes(payload[4..8].try_into().unwrap())));
    }
    said
}

/// Writes the same again and again, until nobody takes it any more.
async fn flood(client: &mut Raw, bytes: &[u8]) {
    let (mut read, mut write) = client.stream.split();
    let listen = async { copy(&mut read, &mut sink()).await.unwrap_or_default() };
    let speak = async { while write.write_all(bytes).await.is_ok() {} };
    timeout(PATIENCE, async { tokio::join!(speak, listen) }).await.expect("an end in time");
}

/// What others would notice.
async fn others_go_on(proxy: &Proxy) {
    proxy.open("/").await.echo("still here").await;
    let mut client = Http2::over(TcpStream::connect(proxy.address).await.unwrap()).await;
    client.open("/").await.echo("and here").await;
}

#[tokio::test]
async fn what_never_comes_to_its_end_is_cut_off_in_time() {
    let mut proxy = before(echo().await).await;
    let begun = frame(HEADERS, END_STREAM, 1, &get());
    let cases: [(&str, Vec<u8>); 6] = [
        ("half a preface", PREFACE[..20].to_vec()),
        ("half a frame's head", [PREFACE, &frame(SETTINGS, 0, 0, b""), &[0, 0]].concat()),
        ("half a HEADERS", [PREFACE, &frame(SETTINGS, 0, 0, b""), &begun[..20]].concat()),
        ("no END_HEADERS", [PREFACE, &frame(SETTINGS, 0, 0, b""), &begun].concat()),
        (
            "CONTINUATION without END_HEADERS",
            [PREFACE, &frame(SETTINGS, 0, 0, b""), &begun, &frame(CONTINUATION, 0, 1, b"")].concat(),
        ),
        ("half a SETTINGS", [PREFACE, &frame(SETTINGS, 0, 0, &[0; 6])[..12]].concat()),
    ];
    for (name, bytes) in cases {
        let mut client = proxy.connect().await;
        client.write(bytes).await;
        end(&mut client).await;
        let reason = proxy.ended().await.outcome.ending.reason.to_string();
        assert_eq!(reason, "request head not complete within header_timeout", "{name}");
    }
    others_go_on(&proxy).await;
}

#[tokio::test]
async fn a_head_in_drops_is_cut_off_in_time() {
    let mut proxy = before(echo().await).await;
    let mut client = raw(&proxy, b"").await;
    let rest = frame(CONTINUATION, END_HEADERS, 1, &[0; 4_000]);
    client.write([frame(HEADERS, END_STREAM, 1, &get()), rest[..9].to_vec()].concat()).await;
    let drip = async {
        let (mut read, mut write) = client.stream.split();
        let mut every = interval(Duration::from_millis(50));
        let speak = async {
            while write.write_all(&[0]).await.is_ok() {
                every.tick().await;
            }
        };
        tokio::join!(speak, async { copy(&mut read, &mut sink()).await.unwrap_or_default() })
    };
    timeout(PATIENCE, drip).await.expect("an end in time");
    let reason = proxy.ended().await.outcome.ending.reason.to_string();
    assert_eq!(reason, "request head not complete within header_timeout");
}

#[tokio::test]
async fn who_opens_a_connection_and_asks_nothing_is_sent_away() {
    let proxy = before(nobody().await).await;
    let mut client = raw(&proxy, b"").await;
    // It answers neither SETTINGS nor the PING by which its end is timed.
    assert_eq!(end(&mut client).await, Some(Reason::NO_ERROR));
}

#[tokio::test]
async fn streams_beyond_the_most_are_refused_and_reach_no_upstream() {
    let puppet = Puppet::new().await;
    let proxy = before(puppet.address()).await;
    let mut client = raw(&proxy, b"").await;
    let all: Vec<u8> = (0..140)
        .flat_map(|number| frame(HEADERS, END_STREAM | END_HEADERS, 2 * number + 1, &get()))
        .collect();
    client.write(&all).await;
    for number in 128..140 {
        let (_, stream, payload) = next_of(&mut client, &[RST_STREAM]).await.expect("a refusal");
        assert_eq!((stream, &payload[..]), (2 * number + 1, &[0, 0, 0, 7][..]), "REFUSED_STREAM");
    }
    let mut servers = Vec::new();
    for _ in 0..128 {
        servers.push(puppet.accept().await);
    }
    for server in &mut servers {
        server.head().await;
    }
    servers[0].write("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await;
    next_of(&mut client, &[HEADERS]).await.expect("an answer");
    client.write(frame(HEADERS, END_STREAM | END_HEADERS, 2 * 140 + 1, &get_of(LAST))).await;
    // A refused stream would have connected before this one.
    let head = puppet.accept().await.head().await;
    assert!(head.starts_with(&format!("GET {LAST} ")), "a refused stream reached the upstream: {head}");
}

/// CVE-2023-44487: requests that are cancelled at once do not count as open, and cost the upstream each.
#[tokio::test]
async fn rapid_resets_end_the_connection_and_leave_the_upstream_alone() {
    let puppet = Puppet::new().await;
    let proxy = before(puppet.address()).await;
    let mut client = raw(&proxy, b"").await;
    let cancel = |stream| {
        let head = frame(HEADERS, END_STREAM | END_HEADERS, stream, &get());
        [head, frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
    };
    let all: Vec<u8> = (0..2_000).flat_map(|number| cancel(2 * number + 1)).collect();
    // It may be ended before all is written.
    let _ = client.stream.write_all(&all).await;
    assert_eq!(end(&mut client).await, Some(Reason::ENHANCE_YOUR_CALM));
    // Connections of the cancelled requests came before that of another client.
    let mut other = proxy.connect().await;
    other.write(format!("GET {LAST} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
    let mut reached = 0;
    while !is_last(puppet.accept().await).await {
        reached += 1;
    }
    assert!(reached <= 128, "{reached}");
}

/// CVE-2025-8671, "MadeYouReset": the client makes the server reset streams whose requests go on.
#[tokio::test]
async fn streams_that_the_proxy_is_made_to_reset_are_bounded() {
    let puppet = Puppet::new().await;
    let proxy = before(puppet.address()).await;
    let mut client = raw(&proxy, b"").await;
    let provoke = |stream| {
        let head = frame(HEADERS, END_STREAM | END_HEADERS, stream, &get());
        // A window that overflows is an error of the stream (RFC 9113 6.9.1).
        [head, frame(WINDOW_UPDATE, 0, stream, &[0x7f, 0xff, 0xff, 0xff])].concat()
    };
    let all: Vec<u8> = (0..4_000).flat_map(|number| provoke(2 * number + 1)).collect();
    let _ = client.stream.write_all(&all).await;
    assert_eq!(end(&mut client).await, Some(Reason::ENHANCE_YOUR_CALM));
}

#[tokio::test]
async fn floods_of_frames_end_the_connection_or_are_only_read() {
    let proxy = before(echo().await).await;
    let open = frame(HEADERS, END_HEADERS, 1, &get());
    for (_what, first, again) in [
        ("a window that overflows", vec![], frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff])),
        ("a window update of 0", vec![], frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
        ("CONTINUATION", frame(HEADERS, 0, 1, &get()), frame(CONTINUATION, 0, 1, b"")),
        (
            "header fields",
            frame(HEADERS, 0, 1, &get()),
            frame(CONTINUATION, 0, 1, &literal("x", &"y".repeat(100)).repeat(20)),
        ),
        ("empty DATA", open, frame(DATA, 0, 1, b"")),
    ] {
        let mut client = raw(&proxy, b"").await;
        client.write(first).await;
        flood(&mut client, &again).await;
        others_go_on(&proxy).await;
    }
}

/// They are answered, one by one, as long as the answers are read: neither memory nor others suffer.
#[tokio::test]
async fn who_floods_with_what_is_to_be_answered_and_reads_nothing_is_not_read_any_more() {
    let proxy = before(echo().await).await;
    for (name, again) in [
        ("PING", frame(PING, 0, 0, &[7; 8]).repeat(100)),
        ("SETTINGS", frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 9]).repeat(100)),
    ] {
        let mut client = raw(&proxy, b"").await;
        let mut sent = 0_usize;
        let speak = async {
            while client.stream.write_all(&again).await.is_ok() {
                sent += again.len();
            }
        };
        timeout(PATIENCE, speak).await.expect("an end in time");
        // What fits into the sockets' buffers both ways, and not the memory of the proxy.
        assert!(sent < 64 << 20, "{name}: {sent}");
        others_go_on(&proxy).await;
    }
}

/// The head of an answer of a million bytes, and the first of them.
async fn begin_large(server: &mut Raw) {
    server.head().await;
    server.write("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n").await;
    server.write([b'x'; 1000]).await;
}

/// SETTINGS_INITIAL_WINDOW_SIZE 0: no byte of an answer may be sent before its window is opened.
const SHUT: &[u8] = &[0, 4, 0, 0, 0, 0];

#[tokio::test]
async fn an_answer_that_nobody_takes_loses_its_stream_only() {
    let puppet = Puppet::new().await;
    let mut proxy = before(puppet.address()).await;
    let mut client = raw(&proxy, SHUT).await;
    client.write(frame(HEADERS, END_STREAM | END_HEADERS, 1, &get())).await;
    let mut server = puppet.accept().await;
    begin_large(&mut server).await;
    assert_eq!(next_of(&mut client, &[HEADERS]).await.expect("the head").1, 1);
    let (_, stream, code) = next_of(&mut client, &[RST_STREAM]).await.expect("a reset");
    assert_eq!((stream, &code[..]), (1, &8_u32.to_be_bytes()[..]), "CANCEL");
    assert_eq!(server.rest().await, b"", "the upstream is left as well");
    let ended = proxy.ended().await;
    assert_eq!(
        (ended.outcome.ending.ended_by, ended.outcome.ending.cause),
        (EndedBy::Client, Cause::SendTimeout)
    );
    // The connection is as good as before.
    client.write(frame(HEADERS, END_STREAM | END_HEADERS, 3, &get())).await;
    let mut server = puppet.accept().await;
    begin_large(&mut server).await;
    assert_eq!(next_of(&mut client, &[HEADERS]).await.expect("the head").1, 3);
}

#[tokio::test]
async fn the_end_of_an_answer_must_be_taken_too() {
    let puppet = Puppet::new().await;
    let mut proxy = before(puppet.address()).await;
    let mut client = raw(&proxy, SHUT).await;
    client.write(frame(HEADERS, END_STREAM | END_HEADERS, 1, &get())).await;
    let mut server = puppet.accept().await;
    server.head().await;
    server.write("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n").await;
    server.write([b'x'; 1000]).await;
    // All but the last byte.
    client.write(frame(WINDOW_UPDATE, 0, 1, &999_u32.to_be_bytes())).await;
    assert_eq!(next_of(&mut client, &[DATA]).await.expect("data").2.len(), 999);
    assert_eq!(next_of(&mut client, &[RST_STREAM]).await.expect("a reset").1, 1);
    let ended = proxy.ended().await;
    assert_eq!(
        (ended.outcome.ending.ended_by, ended.outcome.ending.cause),
        (EndedBy::Client, Cause::SendTimeout)
    );
}

/// A client with windows of 8 MiB, whose socket takes little.
async fn narrow(proxy: &Proxy) -> Raw {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(8 * 1024).unwrap();
    let mut client = Raw::new(socket.connect(proxy.address).await.unwrap());
    client.write([PREFACE, &frame(SETTINGS, 0, 0, &[0, 4, 0, 0x80, 0, 0])].concat()).await;
    client.write(frame(WINDOW_UPDATE, 0, 0, &(8_u32 << 20).to_be_bytes())).await;
    client
}

/// Asks over a stream; the upstream's answer of so many bytes.
async fn answer(client: &mut Raw, puppet: &Puppet, stream: u32, length: usize) -> Raw {
    client.write(frame(HEADERS, END_STREAM | END_HEADERS, stream, &get())).await;
    let mut server = puppet.accept().await;
    server.head().await;
    server.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")).await;
    server.write(vec![b'x'; length]).await;
    server
}

#[tokio::test]
async fn answers_that_wait_in_a_connection_end_with_it() {
    let puppet = Puppet::new().await;
    let listen = "address = \"127.0.0.1:0\"\nprotocols = [\"h2\"]\nbody_timeout = \"off\"";
    let rest = format!("{}\n{}", route(""), upstream(&[puppet.address()], ""));
    let mut proxy = Proxy::with(&with_listen(&rest).replace("address = \"127.0.0.1:0\"", listen)).await;
    let mut client = narrow(&proxy).await;
    let _blocks = answer(&mut client, &puppet, 1, 400_000).await;
    let mut waiting = Vec::new();
    for stream in [3, 5, 7] {
        // It has all come, and waits for its turn behind the first one.
        waiting.push(answer(&mut client, &puppet, stream, 20_000).await);
    }
    for server in &mut waiting {
        assert_eq!(server.rest().await, b"");
    }
    drop(client);
    for _ in 0..4 {
        let ended = proxy.ended().await;
        assert_eq!(
            (ended.outcome.ending.ended_by, ended.outcome.ending.cause),
            (EndedBy::Client, Cause::Eof)
        );
    }
}

#[tokio::test]
async fn who_waits_for_its_turn_on_a_slow_connection_is_not_cut() {
    const STREAMS: u32 = 30;
    const LENGTH: usize = 50_000;
    let puppet = Puppet::new().await;
    let proxy = before(puppet.address()).await;
    let mut client = narrow(&proxy).await;
    let mut servers = Vec::new();
    for stream in 0..STREAMS {
        servers.push(answer(&mut client, &puppet, 2 * stream + 1, LENGTH).await);
    }
    // A turn of all streams takes more than a second here, and the timeout is 0.4 s.
    let mut taken = 0;
    while taken < STREAMS as usize * LENGTH {
        if taken < STREAMS as usize * LENGTH / 2 {
            sleep(Duration::from_millis(30)).await;
        }
        let (kind, stream, data) = next_of(&mut client, &[DATA, RST_STREAM]).await.expect("a frame");
        assert_eq!(kind, DATA, "stream {stream} was reset");
        taken += data.len();
    }
}

#[tokio::test]
async fn an_upstream_that_sends_all_the_time_does_not_hold_up_the_timeout() {
    let puppet = Puppet::new().await;
    let mut proxy = before(puppet.address()).await;
    let mut client = narrow(&proxy).await;
    // The socket is full.
    let _blocks = answer(&mut client, &puppet, 1, 4_000_000).await;
    client.write(frame(HEADERS, END_STREAM | END_HEADERS, 3, &get())).await;
    let mut server = puppet.accept().await;
    server.head().await;
    server.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let events = async {
        while server.stream.write_all(b"1\r\nx\r\n").await.is_ok() {
            sleep(Duration::from_millis(200)).await;
        }
    };
    timeout(Duration::from_secs(4), events).await.expect("a cut in time");
    for _ in 0..2 {
        let ended = proxy.ended().await;
        assert_eq!(
            (ended.outcome.ending.ended_by, ended.outcome.ending.cause),
            (EndedBy::Client, Cause::SendTimeout)
        );
    }
}

#[tokio::test]
async fn a_full_socket_does_not_hold_up_a_shutdown() {
    let puppet = Puppet::new().await;
    let proxy = before(puppet.address()).await;
    let mut client = narrow(&proxy).await;
    let _blocks = answer(&mut client, &puppet, 1, 4_000_000).await;
    let running = proxy.running;
    // keepalive_timeout is 60 s.
    timeout(PATIENCE, running.shut_down(std::future::pending())).await.expect("an end in time");
}

#[tokio::test]
async fn an_upload_behind_its_answer_keeps_its_connection() {
    let puppet = Puppet::new().await;
    let listen = "address = \"127.0.0.1:0\"\nprotocols = [\"h2\"]\nheader_timeout = \"100ms\"\nkeepalive_timeout = \"100ms\"";
    let rest = format!("{}\n{}", route(""), upstream(&[puppet.address()], ""));
    let proxy = Proxy::with(&with_listen(&rest).replace("address = \"127.0.0.1:0\"", listen)).await;
    let mut client = Http2::over(TcpStream::connect(proxy.address).await.unwrap()).await;
    let request = Request::post("http://example.com/").body(()).unwrap();
    let (response, mut upload) = client.requests.send_request(request, false).unwrap();
    let mut server = puppet.accept().await;
    server.head().await;
    server.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let mut answer = timeout(PATIENCE, response).await.unwrap().unwrap().into_body();
    while let Some(data) = answer.data().await {
        data.unwrap();
    }
    // Idle ones are sent away meanwhile, one behind the other.
    for _ in 0..4 {
        let idle = Http2::over(TcpStream::connect(proxy.address).await.unwrap()).await;
        timeout(PATIENCE, idle.connection).await.expect("an end in time").unwrap().unwrap();
    }
    upload.send_data("hello".into(), true).unwrap();
    assert_eq!(server.bytes(15).await, b"5\r\nhello\r\n0\r\n\r\n");
}

#[tokio::test]
async fn a_client_that_takes_little_at_a_time_gets_all() {
    const FIRST: usize = 70_000;
    const PIECE: u8 = 100;
    let puppet = Puppet::new().await;
    let proxy = before(puppet.address()).await;
    let mut client = raw(&proxy, SHUT).await;
    client.write(frame(HEADERS, END_STREAM | END_HEADERS, 1, &get())).await;
    // Quick at first, then slow: 2 s for 1,600 bytes, five times the timeout.
    client.write(frame(WINDOW_UPDATE, 0, 1, &(FIRST as u32).to_be_bytes())).await;
    client.write(frame(WINDOW_UPDATE, 0, 0, &1_000_000_u32.to_be_bytes())).await;
    let mut server = puppet.accept().await;
    server.head().await;
    let length = FIRST + 16 * usize::from(PIECE);
    server.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n")).await;
    server.write(vec![b'x'; length]).await;
    let mut taken = 0;
    while taken < length {
        if taken >= FIRST {
            sleep(Duration::from_millis(125)).await;
            client.write(frame(WINDOW_UPDATE, 0, 1, &u32::from(PIECE).to_be_bytes())).await;
        }
        let (kind, _, data) = next_of(&mut client, &[DATA, RST_STREAM]).await.expect("a frame");
        assert_eq!(kind, DATA, "reset after {taken} bytes");
        taken += data.len();
    }
}

#[tokio::test]
async fn a_client_that_reads_slowly_gets_all() {
    let puppet = Puppet::new().await;
    let proxy = before(puppet.address()).await;
    for http2 in [false, true] {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(8 * 1024).unwrap();
        let mut client = Raw::new(socket.connect(proxy.address).await.unwrap());
        if http2 {
            // Windows of 8 MiB: only the socket is in the way.
            let settings = [0, 4, 0, 0x80, 0, 0];
            client.write([PREFACE, &frame(SETTINGS, 0, 0, &settings)].concat()).await;
            client.write(frame(WINDOW_UPDATE, 0, 0, &(8_u32 << 20).to_be_bytes())).await;
            client.write(frame(HEADERS, END_STREAM | END_HEADERS, 1, &get())).await;
        } else {
            client.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        }
        let mut server = puppet.accept().await;
        server.head().await;
        const LENGTH: usize = 6 << 20;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n");
        let writer = tokio::spawn(async move {
            let whole = [head.as_bytes(), &vec![b'x'; LENGTH]].concat();
            // It fails where the client is cut.
            server.stream.write_all(&whole).await
        });
        // For five times the timeout, then as fast as it goes.
        let (mut taken, began) = (0, Instant::now());
        while taken < LENGTH {
            if began.elapsed() < Duration::from_secs(2) {
                sleep(Duration::from_millis(50)).await;
            }
            let mut some = [0; 8192];
            let length = timeout(PATIENCE, client.stream.read(&mut some)).await.expect("bytes in time");
            match length {
                Ok(length @ 1..) => taken += length,
                end => panic!("{end:?} after {taken} bytes, HTTP/2: {http2}"),
            }
        }
        writer.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn answers_that_nobody_takes_are_given_up_beside_a_tunnel_that_lives() {
    const STALLED: usize = 10;
    let echo = echo().await;
    let puppet = Puppet::new().await;
    let other = format!(
        "[[route]]\npath = \"/slow/\"\nupstream = \"slow\"\n[upstream.slow]\nservers = [\"{}\"]\n",
        puppet.address()
    );
    let listen = "address = \"127.0.0.1:0\"\nprotocols = [\"h2\"]\nheader_timeout = \"400ms\"\nbody_timeout = \"200ms\"";
    let rest = format!("{}\n{other}\n{}", route(""), upstream(&[echo], ""));
    let proxy = Proxy::with(&with_listen(&rest).replace("address = \"127.0.0.1:0\"", listen)).await;
    let mut client = Http2::over(TcpStream::connect(proxy.address).await.unwrap()).await;
    let mut socket = client.open("/").await;
    let mut stalled = Vec::new();
    for _ in 0..STALLED {
        let request = Request::get("http://example.com/slow/").body(()).unwrap();
        let (pending, _) = client.requests.send_request(request, true).unwrap();
        let mut server = puppet.accept().await;
        server.head().await;
        server.write("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n").await;
        server.write(vec![b'x'; 70_000]).await;
        stalled.push((timeout(PATIENCE, pending).await.unwrap().unwrap(), server));
        socket.echo("meanwhile").await;
    }
    for (answer, mut server) in stalled {
        assert_eq!(server.rest().await, b"", "the upstream is left");
        let mut body = answer.into_body();
        let error = loop {
            match timeout(PATIENCE, body.data()).await.expect("an end in time").expect("no end but a reset") {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(error.reason(), Some(Reason::CANCEL));
    }
    socket.echo("still here").await;
}
