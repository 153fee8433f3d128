//! Where a message begins and ends, and what is told of those that are none.

use crate::support::{Proxy, Puppet, ws_request};
use crate::{value, with};
use holdline::testing::outcome::{Cause, EndedBy};
use holdline::testing::ws::frame::OpCode;
use holdline::testing::ws::mask::MaskKey;
use tokio::io::AsyncWriteExt as _;

#[tokio::test]
async fn a_length_is_written_in_one_way() {
    let puppet = Puppet::new().await;
    let proxy = Proxy::before(&[puppet.address()]).await;
    let mut client = proxy.connect().await;
    client.write("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 005\r\n\r\nhello").await;
    let mut server = puppet.accept().await;
    let head = server.head().await;
    assert_eq!(value(&head, "content-length"), Some("5"), "{head}");
    assert_eq!(server.bytes(5).await, b"hello");
    server.write("HTTP/1.1 200 OK\r\nContent-Length: 0002\r\n\r\nok").await;
    let head = client.head().await;
    assert_eq!(value(&head, "content-length"), Some("2"), "{head}");
    assert_eq!(client.bytes(2).await, b"ok");
}

#[tokio::test]
async fn a_refusal_is_the_proxys_own_decision() {
    let puppet = Puppet::new().await;
    let mut proxy = Proxy::before(&[puppet.address()]).await;
    let head = proxy.connect().await.ask("TRACE / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 405"), "{head}");
    let ended = proxy.ended().await;
    assert_eq!((ended.outcome.ending.ended_by, ended.outcome.ending.cause), (EndedBy::Proxy, Cause::Refused));
    assert_eq!(&*ended.outcome.ending.reason, "TRACE is not served here");
}

#[tokio::test]
async fn frames_right_behind_a_handshake_pass_as_they_are() {
    let puppet = Puppet::new().await;
    let proxy = Proxy::before(&[puppet.address()]).await;
    let mut client = proxy.connect().await;
    // Longer by what is encoded than the buffer that it is read into.
    let target = format!("/?{}", "<".repeat(2_500));
    let text = "<\"".repeat(1_000);
    let frame = crate::support::frame(OpCode::Text, text.as_bytes(), Some(MaskKey([9, 8, 7, 6])));
    client.write([ws_request(&target, "").as_bytes(), &frame].concat()).await;
    let (mut server, head) = puppet.open().await;
    assert_eq!(head.split(' ').nth(1), Some(&*target.replace('<', "%3C")));
    assert_eq!(server.frame().await, (OpCode::Text, text.into_bytes()));
}

#[tokio::test]
async fn who_sends_no_request_is_told_why() {
    let puppet = Puppet::new().await;
    let mut proxy = with("max_header_size = \"128k\"", "", "", puppet.address()).await;
    let get = |lines: &str| format!("GET /a?b HTTP/1.1\r\nHost: x\r\n{lines}\r\n");
    let many: String = (0..101).map(|number| format!("X-{number}: 1\r\n")).collect();
    for (request, status, reason, asked) in [
        ("GET http://x/<a> HTTP/1.1\r\n\r\n".into(), 400, "the target has a \"<\"", ("GET", "http://x/<a>")),
        ("GET /a b HTTP/1.1\r\n\r\n".into(), 400, "the target has a blank", ("", "")),
        ("\x16\x03\x01\x02".to_owned(), 400, "TLS was spoken to a port of plain HTTP", ("", "")),
        (get("X : y\r\n"), 400, "the header name \"X \" has a \" \"", ("GET", "/a?b")),
        (get("Content-Length: +5\r\n"), 400, "Content-Length is not one number", ("GET", "/a?b")),
        (
            get(&format!("X: {}\r\n", "x".repeat(200_000))),
            431,
            "the request's head is over max_header_size",
            ("GET", "/a?b"),
        ),
        (get(&many), 431, "the request has over 100 headers", ("GET", "/a?b")),
        (
            get("").replace("/a?b", &format!("/{}", "a".repeat(66_000))),
            414,
            "the target is over 64 KiB",
            ("", ""),
        ),
    ] {
        // Alone, and behind another request.
        for before in [0, 1] {
            let mut client = proxy.connect().await;
            if before == 1 {
                client.write(get("")).await;
                let mut server = puppet.accept().await;
                server.head().await;
                server.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").await;
                client.head().await;
                assert_eq!(client.bytes(2).await, b"ok");
                proxy.ended().await;
            }
            // The proxy may refuse before it has read all.
            let _ = client.stream.write_all(request.as_bytes()).await;
            let answer = String::from_utf8(client.rest().await).unwrap();
            let ended = proxy.ended().await;
            assert_eq!((ended.report.status, &*ended.outcome.ending.reason), (status, reason));
            if status == 414 {
                assert!(ended.report.target().starts_with(b"/aaa"));
            } else {
                assert_eq!((ended.report.method(), &*ended.report.target_text()), asked, "{reason}");
            }
            // What was not read may have made a reset of the end.
            if request.len() < 4_096 {
                assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
                assert!(answer.ends_with(&format!("{reason}\n")), "{answer}");
                let length = answer.split_once("\r\n\r\n").unwrap().1.len().to_string();
                assert_eq!(value(&answer, "content-length"), Some(&*length));
            }
        }
    }
}

#[tokio::test]
async fn pipelined_requests_are_told_apart() {
    let puppet = Puppet::new().await;
    let proxy = Proxy::before(&[puppet.address()]).await;
    let mut client = proxy.connect().await;
    client.write("GET /<1> HTTP/1.1\r\nHost: x\r\n\r\nGET /<2> HTTP/1.1\r\nHost: x\r\n\r\nGET <3> HTTP/1.1\r\n\r\n").await;
    let mut server = puppet.accept().await;
    // An answer that looks like one of the proxy's own.
    let body = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
    for target in ["/%3C1%3E", "/%3C2%3E"] {
        assert_eq!(server.head().await.split(' ').nth(1), Some(target));
        server.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await;
        assert!(client.head().await.starts_with("HTTP/1.1 200"));
        assert_eq!(client.bytes(body.len()).await, body.as_bytes());
    }
    let answer = String::from_utf8(client.rest().await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400") && answer.ends_with("the target has a \"<\"\n"), "{answer}");
}

#[tokio::test]
async fn two_lengths_are_refused_wherever_they_come() {
    let puppet = Puppet::new().await;
    let mut proxy = Proxy::before(&[puppet.address()]).await;
    let chunked = "Transfer-Encoding: chunked";
    let before = ["", "Content-Length: 2\r\n", "Transfer-Encoding: chunked\r\n"];
    for (first, second) in [
        (chunked, "Content-Length: 5"),
        ("Content-Length: 0", chunked),
        ("transfer-encoding:CHUNKED", "CONTENT-length:31"),
        ("Content-Length: 5", "TRANSFER-ENCODING: \t chunked "),
    ] {
        for framing in before {
            let mut client = proxy.connect().await;
            let body = match framing {
                "" => "",
                "Content-Length: 2\r\n" => "hi",
                _ => "2\r\nhi\r\n0\r\n\r\n",
            };
            client.write(format!("POST /1 HTTP/1.1\r\nHost: x\r\n{framing}\r\n{body}")).await;
            let mut server = puppet.accept().await;
            server.head().await;
            server.write("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await;
            client.head().await;
            proxy.ended().await;
            let head = format!("POST /2 HTTP/1.1\r\nHost: x\r\n{first}\r\nX: y\r\n{second}\r\n\r\n");
            client.write(format!("{head}0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n")).await;
            let answer = String::from_utf8(client.rest().await).unwrap();
            assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
            assert!(!answer[1..].contains("HTTP/1.1 "), "one answer, and the end: {answer}");
            let ended = proxy.ended().await;
            let reason =
                "the length of the request's body is ambiguous: both Transfer-Encoding and Content-Length";
            assert_eq!((&*ended.outcome.ending.reason, ended.report.tries), (reason, 0));
        }
    }
}
