//! HTTP/2 to the client: plain requests, and WebSockets by extended CONNECT (RFC 8441).

mod support;

use holdline::testing::app::Ended;
use holdline::testing::outcome::{Cause, EndedBy};
use holdline::testing::ws::close::CloseReason;
use holdline::testing::ws::frame::OpCode;
use http::{Method, Request};
use support::http2::{Http2, Stream};
use support::{PATIENCE, Proxy, Puppet, Raw, echo, nobody, route, upstream, with_listen};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A proxy whose listener has these settings.
async fn proxy(listen: &str, rest: &str) -> Proxy {
    let with = format!("address = \"127.0.0.1:0\"\n{listen}");
    Proxy::with(&with_listen(rest).replace("address = \"127.0.0.1:0\"", &with)).await
}

/// One that speaks both versions before an upstream.
async fn before(server: std::net::SocketAddr, settings: &str) -> Proxy {
    let listen = "protocols = [\"h1\", \"h2\"]";
    proxy(listen, &format!("{}\n{}", route(settings), upstream(&[server], ""))).await
}

async fn client(proxy: &Proxy) -> Http2 {
    Http2::over(TcpStream::connect(proxy.address).await.expect("a connection")).await
}

#[tokio::test]
async fn a_plain_request_is_one_of_http_1_to_the_upstream() {
    let puppet = Puppet::new().await;
    let mut proxy = before(puppet.address(), "").await;
    let mut client = client(&proxy).await;
    let request = Request::post("http://example.com/a?b").header("cookie", "a=1").header("cookie", "b=2");
    let (response, mut body) = client.requests.send_request(request.body(()).unwrap(), false).unwrap();
    body.send_data("hello".into(), true).unwrap();
    let mut server = puppet.accept().await;
    let head = server.head().await.to_ascii_lowercase();
    assert!(head.starts_with("post /a?b http/1.1\r\n"), "{head}");
    for line in ["host: example.com", "cookie: a=1; b=2", "via: 2.0 holdline", "transfer-encoding: chunked"] {
        assert!(head.contains(&format!("{line}\r\n")), "{line} in {head}");
    }
    assert_eq!(server.bytes(15).await, b"5\r\nhello\r\n0\r\n\r\n");
    server
        .write("HTTP/1.1 201 Created\r\nContent-Length: 2\r\nConnection: close\r\nX-Own: 1\r\n\r\nok")
        .await;
    let response = timeout(PATIENCE, response).await.unwrap().unwrap();
    assert_eq!((response.status().as_u16(), &response.headers()["x-own"]), (201, &"1".parse().unwrap()));
    assert!(!response.headers().contains_key("connection"));
    assert_eq!(&response.into_body().data().await.unwrap().unwrap()[..], b"ok");
    let ended = proxy.ended().await;
    assert_eq!(
        (ended.report.protocol(), ended.report.status, ended.outcome.ending.cause),
        ("h2", 201, Cause::Done)
    );
    assert_eq!((ended.report.host(), ended.report.target()), (&b"example.com"[..], &b"/a?b"[..]));
}

/// RFC 9110 8.6 forbids it, and some servers send it all the same.
#[tokio::test]
async fn a_101_with_a_length_opens_too() {
    for line in [
        "Content-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Content-Length: 5\r\nContent-Length: x\r\n",
    ] {
        let puppet = Puppet::new().await;
        let proxy = before(puppet.address(), "").await;
        let mut client = client(&proxy).await;
        let server = async {
            let mut server = puppet.accept().await;
            let head = server.head().await;
            server.write(support::accepting(&head, line)).await;
            server
        };
        let ((response, mut socket), mut server) = tokio::join!(client.connect("/"), server);
        assert_eq!(response.status(), 200, "{line}");
        assert!(!response.headers().contains_key("content-length"), "{line}");
        socket.send(OpCode::Text, b"up");
        assert_eq!(server.frame().await, (OpCode::Text, b"up".to_vec()), "{line}");
        server.write(support::frame(OpCode::Text, b"down", None)).await;
        assert_eq!(socket.frame().await, Some((OpCode::Text, b"down".to_vec())), "{line}");
    }
}

#[tokio::test]
async fn a_websocket_by_extended_connect() {
    let puppet = Puppet::new().await;
    let mut proxy = before(puppet.address(), "").await;
    let mut client = client(&proxy).await;
    let ((response, mut socket), (mut server, head)) =
        tokio::join!(client.connect("/ws?room=1"), puppet.open());
    assert_eq!(response.status(), 200);
    for name in ["upgrade", "connection", "sec-websocket-accept"] {
        assert!(!response.headers().contains_key(name), "{response:?}");
    }
    assert!(head.starts_with("GET /ws?room=1 HTTP/1.1\r\n"), "{head}");
    let lower = head.to_ascii_lowercase();
    for line in
        ["host: example.com", "upgrade: websocket", "connection: upgrade", "sec-websocket-version: 13"]
    {
        assert!(lower.contains(&format!("{line}\r\n")), "{line} in {head}");
    }

    socket.send(OpCode::Text, b"up");
    assert_eq!(server.frame().await, (OpCode::Text, b"up".to_vec()));
    server.write(support::frame(OpCode::Text, b"down", None)).await;
    assert_eq!(socket.frame().await, Some((OpCode::Text, b"down".to_vec())));
    server.write(support::frame(OpCode::Close, &1000_u16.to_be_bytes(), None)).await;
    let (opcode, payload) = socket.frame().await.unwrap();
    assert_eq!((opcode, CloseReason::parse(&payload).code.0), (OpCode::Close, 1000));
    socket.send(OpCode::Close, &1000_u16.to_be_bytes());
    assert_eq!(server.close().await.code.0, 1000);
    drop(server);
    assert_eq!(socket.frame().await, None);
    drop(socket);
    let ended = proxy.ended().await;
    assert_eq!((ended.report.protocol(), ended.report.method(), ended.report.status), ("h2", "GET", 101));
    assert_eq!(
        (ended.outcome.ending.ended_by, ended.outcome.ending.cause),
        (EndedBy::Upstream, Cause::Close)
    );
}

#[tokio::test]
async fn many_tunnels_share_a_connection_and_do_not_hold_each_other_up() {
    let mut proxy = before(echo().await, "").await;
    let mut client = client(&proxy).await;
    let mut stuck = client.open("/stuck").await;
    let mut sockets = Vec::new();
    for number in 0..20 {
        sockets.push(client.open(&format!("/{number}")).await);
    }
    // It is answered with what it does not read: its windows fill in both directions.
    for _ in 0..200 {
        stuck.send(OpCode::Binary, &[7; 10_000]);
    }
    for socket in &mut sockets {
        socket.echo("still here").await;
    }
    drop(client);
    drop(sockets);
    drop(stuck);
    for _ in 0..21 {
        assert_eq!(proxy.ended().await.outcome.ending.ended_by, EndedBy::Client);
    }
}

#[tokio::test]
async fn a_stream_that_is_reset_is_a_client_that_left() {
    let puppet = Puppet::new().await;
    let mut proxy = before(puppet.address(), "").await;
    let mut client = client(&proxy).await;
    let (mut socket, (mut server, _)) = open(&mut client, &puppet).await;
    socket.send.send_reset(h2::Reason::INTERNAL_ERROR);
    assert_eq!(server.close().await.code.0, 1001);
    drop(server);
    let ended = proxy.ended().await;
    assert_eq!((ended.outcome.ending.ended_by, ended.outcome.ending.cause), (EndedBy::Client, Cause::Reset));
    // The connection is as good as before.
    let (_socket, _server) = open(&mut client, &puppet).await;
}

#[tokio::test]
async fn a_connection_that_ends_is_a_client_that_left() {
    // Without END_STREAM, as of a process that was killed.
    let goaway = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for last_words in [&goaway[..], &[]] {
        let puppet = Puppet::new().await;
        let mut proxy = before(puppet.address(), "").await;
        let own =
            TcpStream::connect(proxy.address).await.expect("a connection").into_std().expect("a socket");
        let spare = own.try_clone().expect("a second way to it");
        let mut spare = TcpStream::from_std(spare).expect("a socket");
        let mut client = Http2::over(TcpStream::from_std(own).expect("a socket")).await;
        let (_socket, (mut server, _)) = open(&mut client, &puppet).await;
        spare.write_all(last_words).await.expect("it is taken");
        spare.shutdown().await.expect("an end");
        let close = server.close().await;
        assert_eq!((close.code.0, &*close.text), (1001, "client left without a close frame"));
        drop(server);
        let ended = proxy.ended().await;
        assert_eq!(
            (ended.outcome.ending.ended_by, ended.outcome.ending.cause),
            (EndedBy::Client, Cause::Eof)
        );
    }
}

/// A tunnel to a puppet.
async fn open(client: &mut Http2, puppet: &Puppet) -> (Stream, (Raw, String)) {
    tokio::join!(client.open("/"), puppet.open())
}

#[tokio::test]
async fn handshakes_are_refused_with_a_status() {
    let cases = [
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", 403),
        // Here it would mean that the WebSocket is open.
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", 502),
        ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", 502),
    ];
    for (answer, status) in cases {
        let puppet = Puppet::new().await;
        let mut proxy = before(puppet.address(), "").await;
        let mut client = client(&proxy).await;
        let play = async {
            let mut server = puppet.accept().await;
            server.head().await;
            server.write(answer).await;
            server
        };
        let ((response, _), _server) = tokio::join!(client.connect("/"), play);
        assert_eq!(response.status(), status, "{answer}");
        drop(client);
        assert_eq!(proxy.ended().await.report.status, status, "{answer}");
    }
}

#[tokio::test]
async fn a_refusal_by_close_works_too() {
    let mut proxy = before(nobody().await, "reject_with = \"close\"").await;
    let mut client = client(&proxy).await;
    let mut socket = client.open("/").await;
    let (opcode, payload) = socket.frame().await.unwrap();
    assert_eq!((opcode, CloseReason::parse(&payload).code.0), (OpCode::Close, 1014));
    socket.send.send_data(Default::default(), true).unwrap();
    assert_eq!(proxy.ended().await.outcome.ending.cause, Cause::Unreachable);
}

#[tokio::test]
async fn an_answer_to_head_has_no_body_whoever_gives_it() {
    let proxy = before(nobody().await, "").await;
    let mut client = client(&proxy).await;
    let response = client.ask(Request::head("http://example.com/").body(()).unwrap()).await;
    assert_eq!(response.status(), 502);
    assert_ne!(response.headers()["content-length"], "0");
    assert!(response.into_body().is_end_stream());
}

#[tokio::test]
async fn other_connects_are_not_served() {
    let proxy = before(nobody().await, "").await;
    let mut client = client(&proxy).await;
    let request = Request::builder().method(Method::CONNECT).uri("example.com:443").body(()).unwrap();
    assert_eq!(client.ask(request).await.status(), 405);
    let other = h2::ext::Protocol::from_static("connect-udp");
    let request = Request::connect("http://example.com/").extension(other).body(()).unwrap();
    assert_eq!(client.ask(request).await.status(), 405);
}

#[tokio::test]
async fn a_tunnel_keeps_its_connection_from_being_idle() {
    let listen = "protocols = [\"h2\"]\nkeepalive_timeout = \"100ms\"\nheader_timeout = \"200ms\"";
    let servers = upstream(&[echo().await], "");
    let proxy = proxy(listen, &format!("{}\n{servers}", route(""))).await;
    let mut busy = client(&proxy).await;
    let mut socket = busy.open("/").await;
    let idle = client(&proxy).await;
    // The idle one is told to go; by then the busy one has been silent for as long.
    timeout(PATIENCE, idle.connection).await.expect("an end in time").unwrap().unwrap();
    socket.echo("still here").await;
    busy.open("/more").await.echo("and more").await;
}

#[tokio::test]
async fn a_listener_speaks_what_it_is_told() {
    let answer = "[[route]]\npath = \"/\"\nrespond = { status = 200, body = \"here\" }";
    let get = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let both = proxy("protocols = [\"h1\", \"h2\"]", answer).await;
    assert!(both.connect().await.ask(get).await.starts_with("HTTP/1.1 200"));
    let request = || Request::get("http://example.com/").body(()).unwrap();
    assert_eq!(client(&both).await.ask(request()).await.status(), 200);

    let only_2 = proxy("protocols = [\"h2\"]", answer).await;
    assert_eq!(client(&only_2).await.ask(request()).await.status(), 200);
    let mut old = only_2.connect().await;
    old.write(get).await;
    assert!(!old.rest().await.starts_with(b"HTTP/1.1"));

    // The preface may come in pieces, and what begins like it may be another request.
    let mut slow = both.connect().await;
    slow.write("PR").await;
    slow.write("OPFIND / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(slow.head().await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_connection_that_ends_without_a_byte_is_not_waited_for() {
    let answer = "[[route]]\npath = \"/\"\nrespond = { status = 200 }";
    let both = proxy("protocols = [\"h1\", \"h2\"]\nheader_timeout = \"1h\"", answer).await;
    let mut client = both.connect().await;
    client.stream.shutdown().await.expect("an end");
    assert_eq!(client.rest().await, b"", "its place is free again");
}

#[tokio::test]
async fn a_shutdown_says_goodbye_to_tunnels_and_ends_the_connection() {
    let rest = format!("[process]\ndrain_spread = \"0s\"\n{}\n{}", route(""), upstream(&[echo().await], ""));
    let proxy = proxy("protocols = [\"h2\"]", &rest).await;
    let mut client = client(&proxy).await;
    let mut socket = client.open("/").await;
    socket.echo("hello").await;
    let running = proxy.running;
    let ended = tokio::spawn(async move { running.shut_down(std::future::pending()).await });
    let (opcode, payload) = socket.frame().await.unwrap();
    assert_eq!((opcode, CloseReason::parse(&payload).code.0), (OpCode::Close, 1001));
    socket.send(OpCode::Close, &1001_u16.to_be_bytes());
    drop(socket);
    timeout(PATIENCE, client.connection).await.expect("an end in time").unwrap().unwrap();
    let ended = timeout(PATIENCE, ended).await.expect("an end in time").unwrap();
    assert_eq!(ended, Ended::InTime);
}

/// A HEADERS frame that is a whole request, its fields as literals (RFC 7541 6.2.2): what a client
/// library would not send.
fn request_frame(fields: &[(&str, &[u8])]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.extend([0, u8::try_from(name.len()).expect("a short name")]);
        block.extend(name.as_bytes());
        block.push(u8::try_from(value.len()).expect("a short value"));
        block.extend(*value);
    }
    let length = u32::try_from(block.len()).expect("a small block").to_be_bytes();
    // HEADERS, END_STREAM and END_HEADERS, stream 1.
    [&length[1..], &[1, 5, 0, 0, 0, 1], &block].concat()
}

/// A connection on which such a request was sent.
async fn raw(proxy: &Proxy, fields: &[(&str, &[u8])]) -> Raw {
    let mut client = proxy.connect().await;
    client.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    client.write([0, 0, 0, 4, 0, 0, 0, 0, 0]).await;
    client.write(request_frame(fields)).await;
    client
}

#[tokio::test]
async fn what_would_be_another_request_in_http_1_reaches_no_upstream() {
    let puppet = Puppet::new().await;
    let proxy = before(puppet.address(), "").await;
    let pseudo: [(&str, &[u8]); 4] =
        [(":method", b"GET"), (":scheme", b"http"), (":authority", b"example.com"), (":path", b"/smuggled")];
    let cases: [(&str, &[u8]); 20] = [
        ("transfer-encoding", b"chunked"),
        ("connection", b"close"),
        ("connection", b"upgrade"),
        ("upgrade", b"websocket"),
        ("keep-alive", b"timeout=5"),
        ("proxy-connection", b"keep-alive"),
        ("te", b"chunked"),
        ("x", b"a\r\nx-injected: 1"),
        ("x", b"a\nb"),
        ("x", b"a\0b"),
        ("x\r\ny", b"a"),
        ("x y", b"a"),
        ("x:", b"a"),
        ("X-Upper", b"a"),
        ("", b"a"),
        ("content-length", b"5"),
        ("content-length", b"nonsense"),
        (":path", b"/again"),
        (":authority", b"other.example"),
        (":unknown", b"a"),
    ];
    let lines: [[(&str, &[u8]); 4]; 5] = [
        [(":method", b"GET /x HTTP/1.1\r\n\r\nGET"), pseudo[1], pseudo[2], pseudo[3]],
        [pseudo[0], pseudo[1], pseudo[2], (":path", b"/ HTTP/1.1\r\nhost: x\r\n\r\nGET /smuggled")],
        [pseudo[0], pseudo[1], pseudo[2], (":path", b"")],
        [pseudo[0], pseudo[1], (":authority", b"example.com\r\nx: y"), pseudo[3]],
        [pseudo[0], pseudo[1], (":authority", b"a b"), pseudo[3]],
    ];
    let requests = cases.map(|case| [&pseudo[..], &[case]].concat());
    // By itself such a frame is a good request.
    let _good = raw(&proxy, &pseudo).await;
    assert!(puppet.accept().await.head().await.starts_with("GET /smuggled HTTP/1.1\r\n"));
    for fields in requests.into_iter().chain(lines.map(|fields| fields.to_vec())) {
        let mut client = raw(&proxy, &fields).await;
        // A stream reset, the end of the connection, or a status: HEADERS of 9 bytes and more.
        let answered = loop {
            let Some(head) = client.bytes_or_end(9).await else { break "end" };
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let Some(payload) = client.bytes_or_end(length).await else { break "end" };
            match head[3] {
                1 => {
                    // 400 is entry 12 of the static table (RFC 7541 A).
                    assert_eq!(payload[0], 0x80 | 12, "{fields:?}");
                    break "400";
                }
                3 | 7 => break "reset",
                _ => {}
            }
        };
        assert!(["end", "400", "reset"].contains(&answered));
    }
    // The first connection that the upstream sees is that of an honest request.
    let mut client = client(&proxy).await;
    let request = Request::get("http://example.com/honest").body(()).unwrap();
    let _pending = client.requests.send_request(request, true).unwrap();
    let head = puppet.accept().await.head().await;
    assert!(head.starts_with("GET /honest HTTP/1.1\r\n"), "{head}");
}

#[tokio::test]
async fn the_authority_is_the_host_whatever_host_says() {
    let puppet = Puppet::new().await;
    let proxy = before(puppet.address(), "").await;
    let mut client = client(&proxy).await;
    let request = Request::get("http://example.com/").header("host", "evil.test").header("host", "more.test");
    let _pending = client.requests.send_request(request.body(()).unwrap(), true).unwrap();
    let head = puppet.accept().await.head().await.to_ascii_lowercase();
    assert!(
        head.contains("host: example.com\r\n") && !head.contains("evil") && !head.contains("more"),
        "{head}"
    );
}
