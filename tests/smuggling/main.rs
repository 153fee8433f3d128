//! Requests that two readers might take differently: each is refused, or re-framed so that nobody
//! can. A recording upstream shows what really went on; `/smuggled` must never be asked of it.
//!
//! The numbers are sections of RFC 9112, unless another is named.

#![allow(clippy::unwrap_used, reason = "tests")]

mod cases;
#[path = "../support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use support::{Proxy, Puppet, Raw};
use tokio::io::AsyncWriteExt as _;

/// What is to become of a request.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Want {
    /// This status, and the upstream hears nothing.
    Refused(u16),
    /// So many requests reach the upstream, whole, and each is answered 200.
    Passed(usize),
    /// Its head passed before its body turned out to be bad: it never becomes whole.
    Broken,
}
use Want::{Broken, Passed, Refused};

type Case = (&'static str, String, Want);

/// Requests as the upstream has read them, whole, and all bytes it got.
#[derive(Default)]
struct Record {
    whole: usize,
    bytes: Vec<u8>,
}

/// An upstream that answers each whole request with a 200 and keeps a record.
async fn recorder() -> (SocketAddr, Arc<Mutex<Record>>) {
    let puppet = Puppet::new().await;
    let (address, record) = (puppet.address(), Arc::<Mutex<Record>>::default());
    let kept = record.clone();
    tokio::spawn(async move {
        loop {
            tokio::spawn(read_requests(puppet.accept().await, kept.clone()));
        }
    });
    (address, record)
}

async fn read_requests(mut raw: Raw, record: Arc<Mutex<Record>>) {
    loop {
        let head = raw.head_or_end().await;
        if head.is_empty() {
            return;
        }
        record.lock().unwrap().bytes.extend_from_slice(head.as_bytes());
        let lower = head.to_ascii_lowercase();
        let length =
            lower.lines().filter_map(|line| line.strip_prefix("content-length:")).collect::<Vec<_>>();
        let chunked = lower.contains("\r\ntransfer-encoding:");
        assert!(length.len() + usize::from(chunked) <= 1, "framed in two ways: {head}");
        assert_eq!(lower.matches("\r\nhost:").count(), 1, "{head}");
        let body = match length.first() {
            Some(length) => raw.bytes_or_end(length.trim().parse().unwrap()).await,
            None if chunked => raw.until_or_end(b"0\r\n\r\n").await,
            None => Some(Vec::new()),
        };
        let Some(body) = body else { return };
        {
            let mut record = record.lock().unwrap();
            record.bytes.extend_from_slice(&body);
            record.whole += 1;
        }
        raw.write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    }
}

#[tokio::test]
async fn nothing_is_passed_on_that_can_be_read_in_two_ways() {
    let cases = cases::all();
    assert!(cases.len() >= 150, "{} cases", cases.len());
    let mut faults = Vec::new();
    for (section, request, want) in cases {
        // Each has its own, so that nothing late is taken for another's.
        let (address, record) = recorder().await;
        let proxy = Proxy::before(&[address]).await;
        let mut client = proxy.connect().await;
        // The proxy may refuse before it has read all.
        let _ = client.stream.write_all(request.as_bytes()).await;
        let answer = exchange(&mut client, want).await;
        let record = record.lock().unwrap();
        let heard = String::from_utf8_lossy(&record.bytes).into_owned();
        let statuses = answer.matches(" 200 OK\r\n").count();
        let right = match want {
            Refused(status) => answer.starts_with(&format!("HTTP/1.1 {status}")) && heard.is_empty(),
            Passed(requests) => statuses == requests && record.whole == requests,
            Broken => statuses == 0 && record.whole == 0,
        };
        if !right || heard.contains("/smuggled") {
            faults.push(format!(
                "{section}: {request:?} should be {want:?}; answer {answer:?}; upstream heard {heard:?}"
            ));
        }
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

/// Reads the answers: as many as are wanted, or to the end.
async fn exchange(client: &mut Raw, want: Want) -> String {
    if let Passed(requests) = want {
        let mut answer = String::new();
        for _ in 0..requests {
            answer += &client.head_or_end().await.replace("HTTP/1.1 100 Continue\r\n\r\n", "");
            if answer.is_empty() {
                answer += &client.head_or_end().await;
            }
        }
        return answer;
    }
    // A request that never ends is ended by the client's end.
    let _ = client.stream.shutdown().await;
    String::from_utf8_lossy(&client.rest().await).into_owned()
}

/// Answers of an upstream, each with more bytes behind it than it announces, or with two readings.
/// What is left must not be taken for the answer to the next request.
#[tokio::test]
async fn no_answer_is_taken_for_the_next_one() {
    let poison = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\npoisoned";
    let answers = [
        ("two answers to one request", format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok{poison}")),
        ("bytes behind the body", format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok\r\n{poison}")),
        ("a body behind 204", format!("HTTP/1.1 204 No Content\r\n\r\n{poison}")),
        ("a body behind 304", format!("HTTP/1.1 304 Not Modified\r\nContent-Length: 8\r\n\r\n{poison}")),
        (
            "two lengths",
            format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 51\r\n\r\nok{poison}"),
        ),
        (
            "6.3: both framings",
            format!(
                "HTTP/1.1 200 OK\r\nContent-Length: 60\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{poison}"
            ),
        ),
        (
            "7.1: a bad chunk",
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nok\r\n0\r\n\r\n{poison}"),
        ),
        (
            "7.1: bytes behind the last chunk",
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n{poison}"),
        ),
        (
            "an answer behind a 100",
            format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok{poison}"),
        ),
        (
            "an unasked 101",
            format!("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n{poison}"),
        ),
        (
            "5.2: a folded field",
            format!("HTTP/1.1 200 OK\r\nX: a\r\n Content-Length: 2\r\nContent-Length: 0\r\n\r\n{poison}"),
        ),
        ("a negative length", format!("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{poison}")),
    ];
    for (what, answer) in answers {
        let puppet = Puppet::new().await;
        let proxy = Proxy::before(&[puppet.address()]).await;
        let mut client = proxy.connect().await;
        client.write("GET /1 HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let mut server = puppet.accept().await;
        server.head().await;
        server.write(&answer).await;
        // Answered, refused, or cut where a head had passed before the body proved bad.
        let _ = client.head_or_end().await;
        // Another client: what matters is the connection to the upstream.
        let mut next = proxy.connect().await;
        next.write("GET /2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        let good = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond";
        let serve_first = async {
            if server.head_or_end().await.starts_with("GET /2") {
                server.write(good).await;
            }
            std::future::pending::<()>().await;
        };
        let serve_new = async {
            let mut server = puppet.accept().await;
            server.head().await;
            server.write(good).await;
            std::future::pending::<()>().await;
        };
        let heard = tokio::select! {
            heard = next.rest() => heard,
            () = serve_first => unreachable!(),
            () = serve_new => unreachable!(),
        };
        assert!(
            String::from_utf8_lossy(&heard).ends_with("second"),
            "{what}: {}",
            String::from_utf8_lossy(&heard)
        );
    }
}
