//! The table of handshakes that open no tunnel.

use crate::scene::{Stage, ask, rest};
use crate::support::{Proxy, Puppet, Raw, nobody, upstream, ws_request};
use crate::tunnels::Told::Close;
use crate::tunnels::told;
use holdline::testing::outcome::EndedBy;
use socket2::SockRef;

/// One way not to become a tunnel.
#[derive(Clone, Copy, Debug)]
struct Refusal {
    name: &'static str,
    /// Who stands behind the proxy.
    behind: Behind,
    /// Lines of the configuration's `[process]`, and of the route.
    process: &'static str,
    settings: &'static str,
    /// Header lines of the handshake, to this path.
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
    refusal("no handshake", Behind::Nobody, ("", ""), ("/", "Sec-WebSocket-Key: another\r\n"), ("proxy/refused", 0), 400),
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
async fn each_handshake_that_comes_to_nothing_does_so_as_the_table_says() {
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
    let route = if status == 404 { "" } else { "all" };
    let series = format!("websocket_openings_total{{route=\"{route}\",status=\"{status}\"}}");
    assert!(stage.has_series(&series), "{name}: {series} is told before it counts anything");
    let connect = async || stage.proxy.as_ref().unwrap().connect().await;
    let has_tunnel = matches!(behind, Behind::OneTunnel);
    let _open = if has_tunnel { Some(ask(connect().await, &puppet).await) } else { None };
    let mut client = connect().await;
    client.write(ws_request(row.path, row.lines)).await;
    let server = behind.meet(&puppet).await;
    if matches!(behind, Behind::SilentAsTheClientLeaves) {
        drop(client);
    } else {
        let head = client.head().await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{name}: {head}");
        if end.1 != 0 {
            assert_eq!(told(Some(client), EndedBy::Client, Close(end.1), true).await, Close(end.1), "{name}");
        }
    }
    let found = stage.judge(name, route, end).await;
    assert_eq!(found.report.status, status, "{name}");
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
