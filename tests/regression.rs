//! One test for each bug that was found, named after it.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use holdline::testing::config::Config;
use holdline::testing::http::headers::remove_hop_by_hop;
use holdline::testing::outcome::{Cause, EndedBy, PerSide, Side};
use holdline::testing::route::{PathError, PathPattern, Rewrite};
use holdline::testing::telemetry::report::redact;
use holdline::testing::tunnel::relay::{Output, Relay};
use holdline::testing::tunnel::timer::TunnelTime;
use holdline::testing::tunnel::{CloseCodes, Framing, OnViolation, Pong, Settings};
use holdline::testing::ws::frame::{OpCode, Violation};
use holdline::testing::ws::handshake::{
    AnswerError, Extensions, UpgradeKind, accept, check_answer, check_other_answer, classify, extensions,
    list_names,
};
use holdline::testing::ws::mask::MaskKey;
use holdline::testing::ws::scanner::{Rules, Scanner};
use http::header::CONNECTION;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use std::sync::Arc;
use std::time::Duration;
use support::{PATIENCE, Proxy, Puppet, frame, route, upstream, ws_request};
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

#[test]
fn a_violation_in_a_split_control_frame_waited_for_its_payload() {
    let mut scanner = Scanner::new(Rules { masked: true, deflate: false });
    assert!(scanner.next(&[0x89]).unwrap().is_none());
    assert_eq!(scanner.next(&[0x05]).unwrap_err(), Violation::Unmasked);
}

#[test]
fn a_ping_interval_below_a_microsecond_was_due_for_ever() {
    struct Few(u32);
    impl Output for Few {
        fn send(&mut self, _: Side, _: &[u8]) {
            self.0 += 1;
            assert!(self.0 < 3, "one tick goes on for ever");
        }

        fn mask_key(&mut self) -> MaskKey {
            MaskKey([1, 2, 3, 4])
        }
    }
    let often = Some(Duration::from_nanos(1));
    let settings = Settings {
        ping: PerSide { client: often, upstream: often },
        ping_timeout: Duration::from_secs(20),
        pong: Pong::Optional,
        read_timeout: None,
        send_timeout: None,
        close_timeout: Duration::from_secs(10),
        max_lifetime: None,
        on_violation: OnViolation::Blind,
        max_message_size: None,
        close_codes: CloseCodes::Registered,
    };
    let mut relay = Relay::new(Arc::new(settings), Framing::WebSocket { deflate: false }, PerSide::default());
    let now = TunnelTime::after(Duration::from_secs(1));
    relay.on_timer(now, &mut Few(0));
    assert!(relay.next_deadline().unwrap() > now);
}

fn answer(pairs: &[(&'static str, &'static [u8])]) -> HeaderMap {
    let value = |value| HeaderValue::from_bytes(value).unwrap();
    pairs.iter().map(|&(name, bytes)| (HeaderName::from_static(name), value(bytes))).collect()
}

#[test]
fn an_extension_with_bytes_beyond_ascii_was_overlooked() {
    let unknown = answer(&[("sec-websocket-extensions", b"x-\xe4")]);
    assert_eq!(extensions(&unknown), Extensions::Unknown);
    let both = answer(&[
        ("sec-websocket-extensions", b"permessage-deflate"),
        ("sec-websocket-extensions", b"x; y=\"\xe4\""),
    ]);
    assert_eq!(extensions(&both), Extensions::Unknown);
}

#[test]
fn bytes_beyond_ascii_hid_the_other_members_of_a_list() {
    let connection = answer(&[("connection", b"k\xe4, Upgrade, x-hop"), ("x-hop", b"1")]);
    assert!(list_names(&connection, &CONNECTION, "upgrade"));
    let mut passed = connection;
    remove_hop_by_hop(&mut passed);
    assert!(passed.is_empty(), "{passed:?}");
}

#[test]
fn a_protocol_beyond_ascii_was_asked_for_and_its_answer_refused() {
    let asked = answer(&[("connection", b"upgrade"), ("upgrade", "h\u{e4}, tcp".as_bytes())]);
    let Ok(UpgradeKind::Other(tokens)) = classify(&Method::GET, Version::HTTP_11, &asked) else {
        panic!("another")
    };
    assert_eq!(tokens, "tcp");
    assert_eq!(check_other_answer(&tokens, &answer(&[("upgrade", b"tcp")])), Ok(()));
}

#[test]
fn a_second_subprotocol_in_an_answer_was_overlooked() {
    let asked = answer(&[("sec-websocket-key", b"k"), ("sec-websocket-protocol", b"chat")]);
    let mut given = answer(&[
        ("upgrade", b"websocket"),
        ("connection", b"upgrade"),
        ("sec-websocket-protocol", b"chat"),
        ("sec-websocket-protocol", b"mqtt"),
    ]);
    given.insert("sec-websocket-accept", accept(b"k").parse().unwrap());
    assert_eq!(check_answer(&asked, &given), Err(AnswerError::Protocols));
}

#[test]
fn secrets_behind_a_semicolon_were_logged() {
    assert_eq!(redact("/ws?a=1;token=x"), "/ws?a=1;token=***");
    assert_eq!(redact("/ws;jsessionid=x/room?b=2"), "/ws;jsessionid=***/room?b=2");
    assert_eq!(redact("/ws;v=1;sid=x"), "/ws;v=1;sid=***");
    assert_eq!(redact("/ws?to=/back?token=x&b=2"), "/ws?to=/back?token=***&b=2");
    assert_eq!(redact("/ws?token=a;b?c/d"), "/ws?token=***", "none of the value is left");
    assert_eq!(redact("/a=b/c;d?e;f=g"), "/a=b/c;d?e;f=g");
}

#[test]
fn a_rewritten_path_led_out_of_its_route() {
    let below = |rewrite: &str, path| {
        Rewrite(rewrite.to_owned()).apply(&PathPattern::prefix("/ws", false).unwrap(), path)
    };
    assert_eq!(below("/api/", "/ws../admin"), Err(PathError::LeadsOut));
    assert_eq!(below("/", "/ws."), Err(PathError::LeadsOut));
    assert_eq!(below("/api/", "/ws..x"), Ok("/api/..x".to_owned()));
    let regex = PathPattern::regex("^/ws(.*)$").unwrap();
    assert_eq!(Rewrite("/api/$1".to_owned()).apply(&regex, "/ws../admin"), Err(PathError::LeadsOut));
}

#[tokio::test]
async fn a_request_that_leads_out_of_its_route_reached_the_upstream() {
    let puppet = Puppet::new().await;
    let route = "[[route]]\npath = \"/ws\"\nupstream = \"up\"\nrewrite = \"/api/\"\n";
    let proxy = Proxy::start(&format!("{route}{}", upstream(&[puppet.address()], ""))).await;
    for path in ["/ws../admin", "/ws%2e%2e/admin"] {
        let head = proxy.connect().await.ask(&ws_request(path, "")).await;
        assert!(head.starts_with("HTTP/1.1 400"), "{head}");
    }
}

#[test]
fn a_control_character_in_a_host_made_a_name_that_was_refused() {
    let text = "[[listen]]\naddress = \"127.0.0.1:0\"\n[[route]]\nhosts = [\"~a\\tb\"]\npath = \"/\"\n\
                respond = { status = 200 }\n";
    let Err(errors) = Config::parse(text, "f") else { panic!("its name could not be read again") };
    assert!(
        errors.to_string().starts_with("f:4: route[0].hosts[0]: found \"~a\\tb\", expected a host"),
        "{errors}"
    );
}

#[tokio::test]
async fn a_request_that_came_while_the_proxy_stood_still_was_refused() {
    let text = "[log]\naccess = \"off\"\n[[listen]]\naddress = \"127.0.0.1:0\"\nheader_timeout = \"500ms\"\n\
                [[route]]\npath = \"/\"\nrespond = { status = 204 }\n";
    let proxy = Proxy::with(text).await;
    let mut clients = Vec::new();
    for _ in 0..16 {
        let mut client = proxy.connect().await;
        client.write("GET / HTTP/1.1\r\n").await;
        clients.push(client);
    }
    // The beginnings of the heads are read.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    for client in &mut clients {
        client.write("Host: x\r\n\r\n").await;
    }
    // Proxy and test are one thread: now neither runs.
    std::thread::sleep(Duration::from_secs(2));
    for client in &mut clients {
        assert!(client.head().await.starts_with("HTTP/1.1 204"));
    }
}

#[tokio::test]
async fn half_a_preface_and_an_end_kept_a_cpu_busy_until_the_timeout() {
    let listen = |more: &str| {
        format!(
            "[log]\naccess = \"off\"\n[real_ip]\ntrusted = [\"127.0.0.1\"]\n[[listen]]\naddress = \"127.0.0.1:0\"\n\
             header_timeout = \"60s\"\n{more}\n[[route]]\npath = \"/\"\nrespond = {{ status = 204 }}\n"
        )
    };
    let cases = [("protocols = [\"h1\", \"h2\"]", "PRI * HT"), ("proxy_protocol = \"accept\"", "PROXY TC")];
    for (more, begun) in cases {
        let proxy = Proxy::with(&listen(more)).await;
        let mut client = proxy.connect().await;
        client.write(begun).await;
        client.stream.shutdown().await.unwrap();
        // It comes well before the timeout, as the end is seen.
        assert_eq!(client.rest().await, b"", "{more}");
    }
}

#[tokio::test]
async fn when_a_side_took_nothing_the_other_was_not_read_until_the_close_timeout() {
    let settings = "send_timeout = \"50ms\"\nclose_timeout = \"1h\"";
    let puppet = Puppet::new().await;
    let config = format!("{}\n{}", route(settings), upstream(&[puppet.address()], ""));
    let mut proxy = Proxy::start(&config).await;
    let mut client = proxy.connect().await;
    client.write(ws_request("/", "")).await;
    let (mut server, _) = puppet.open().await;
    // More than all buffers on the way hold, and behind it what the server says to its Close.
    let flood = frame(OpCode::Binary, &vec![7; 32 << 20], None);
    timeout(PATIENCE, server.write(flood)).await.expect("it is read on when the client is given up");
    assert_eq!(server.close().await.code.0, 1001);
    server.write(frame(OpCode::Close, &1001_u16.to_be_bytes(), None)).await;
    assert!(server.rest().await.is_empty());
    let ended = proxy.ended().await;
    assert_eq!(
        (ended.outcome.ending.ended_by, ended.outcome.ending.cause),
        (EndedBy::Client, Cause::SendTimeout)
    );
}
