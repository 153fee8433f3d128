//! The requests, by what is wrong with them.

use crate::Case;
use crate::Want::{Broken, Passed, Refused};

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";

/// All of them.
pub(crate) fn all() -> Vec<Case> {
    [lengths(), codings(), chunks(), fields(), request_lines(), hosts(), handshakes()].concat()
}

/// A GET with more header lines.
fn get(lines: &str) -> String {
    format!("GET /a HTTP/1.1\r\nHost: x\r\n{lines}\r\n")
}

/// A POST with more header lines and what stands behind its head.
fn post(lines: &str, body: &str) -> String {
    format!("POST /a HTTP/1.1\r\nHost: x\r\n{lines}\r\n{body}")
}

fn lengths() -> Vec<Case> {
    let case =
        |section, value: &str, want| (section, post(&format!("Content-Length:{value}\r\n"), "hello"), want);
    let mut cases = vec![
        case("6.2", " 5", Passed(1)),
        case("5.1: no space is needed", "5", Passed(1)),
        case("5.1: any white space around", "\t 5 \t", Passed(1)),
        case("6.2: 1*DIGIT", " 05", Passed(1)),
    ];
    for value in [
        " +5",
        " -5",
        " 0x5",
        " 5.0",
        " 5e0",
        " 5a",
        " five",
        " 5 5",
        " 5,5",
        " 5, 5",
        " 5;",
        " \"5\"",
        " ٥",
        "",
        " ",
        " 99999999999999999999",
        " 18446744073709551616",
        " 5\x0b",
        " 5,",
        " ,5",
        " _5",
        " 5_0",
    ] {
        cases.push(case("6.3: a length that is not one number", value, Refused(400)));
    }
    for lines in [
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 0\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\ncontent-length: 0\r\n",
        "Content-Length: 5\r\nX: y\r\nCONTENT-LENGTH: 44\r\n",
    ] {
        cases.push(("6.3: several lengths", post(lines, "hello"), Refused(400)));
    }
    for lines in
        ["Content-Length : 5\r\n", "Content-Length\t: 5\r\n", " Content-Length: 5\r\n", "Content-Length\r\n"]
    {
        cases.push(("5.1: no white space before the colon", post(lines, "hello"), Refused(400)));
    }
    cases
}

fn codings() -> Vec<Case> {
    let chunked = "5\r\nhello\r\n0\r\n\r\n";
    let case = |section, lines: &str, want| (section, post(lines, chunked), want);
    let mut cases = vec![
        case("7.1", "Transfer-Encoding: chunked\r\n", Passed(1)),
        case("7: names of codings have no case", "Transfer-Encoding: CHUNKED\r\n", Passed(1)),
        case("5.1: white space around", "Transfer-Encoding: \t chunked \t\r\n", Passed(1)),
        case("5.1: none needed", "transfer-encoding:chunked\r\n", Passed(1)),
    ];
    for lines in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
        "Transfer-Encoding: chunked\r\ncontent-length: 15\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: CHUNKED\r\n",
        "Content-Length: 5\r\nTransfer-Encoding:chunked\r\n",
    ] {
        cases.push(case("6.1: both a length and a coding", lines, Refused(400)));
    }
    for value in [
        "xchunked",
        "chunkedx",
        "identity",
        "chunked, identity",
        "identity, chunked",
        "chunked, chunked",
        "gzip, chunked",
        "chunked, gzip",
        "gzip",
        "chunked;q=1",
        "\"chunked\"",
        "chunked,",
        ",chunked",
        "x, chunked",
        "chun ked",
        "chunked\x0b",
        "'chunked'",
        "cow",
        "",
        "chunked\u{a0}",
    ] {
        let lines = format!("Transfer-Encoding: {value}\r\n");
        cases.push(case("6.1: a coding that is not chunked alone", &lines, Refused(400)));
    }
    for lines in [
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n",
        "Transfer-Encoding: chunked\r\ntransfer-encoding: identity\r\n",
    ] {
        cases.push(case("6.1: several codings", lines, Refused(400)));
    }
    for lines in [
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding\t: chunked\r\n",
        " Transfer-Encoding: chunked\r\n",
        "X: y\r\n Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding:\r\n chunked\r\n",
        "Transfer-Encoding\r\n: chunked\r\n",
        "Transfer\0Encoding: chunked\r\n",
    ] {
        cases.push(case("5.1, 5.2: no names with space, no folding", lines, Refused(400)));
    }
    let old = post("Transfer-Encoding: chunked\r\n", chunked).replace("HTTP/1.1", "HTTP/1.0");
    cases.push(("6.1: HTTP/1.0 knows no codings", old, Refused(400)));
    cases
}

fn chunks() -> Vec<Case> {
    let case = |section, body: &str, want| (section, post("Transfer-Encoding: chunked\r\n", body), want);
    let mut cases = vec![
        case("7.1", "0\r\n\r\n", Passed(1)),
        case("7.1: HEXDIG", "A\r\n0123456789\r\n0\r\n\r\n", Passed(1)),
        case("7.1: leading zeros", "005\r\nhello\r\n000\r\n\r\n", Passed(1)),
        case("7.1.1: extensions are dropped", "5;name=value\r\nhello\r\n0;x\r\n\r\n", Passed(1)),
        case("7.1.2: trailers", "5\r\nhello\r\n0\r\nX-Trailer: 1\r\n\r\n", Passed(1)),
        case(
            "9.3: what follows is the next request",
            "0\r\n\r\nGET /b HTTP/1.1\r\nHost: x\r\n\r\n",
            Passed(2),
        ),
    ];
    for size in ["0x5", "-5", "+5", "g", "", " ", "5 5", "fffffffffffffffff", "5,", "5\x0b", "_5", "5\0"] {
        let body = format!("{size}\r\nhello\r\n0\r\n\r\n");
        cases.push(case("7.1: a chunk size that is not hexadecimal", &body, Broken));
    }
    for body in [
        "5\r\nhelloX\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "5;\nhello\r\n0\r\n\r\n",
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello\r0\r\n\r\n",
        "6\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\n",
        "5\r\nhel",
        "5\r\nhello\r\n",
    ] {
        let body = format!("{body}{SMUGGLED}");
        cases.push(case("7.1: a body that does not end as it should", &body, Broken));
    }
    cases
}

fn fields() -> Vec<Case> {
    let mut cases = vec![
        ("5.1", get("X: y\r\n"), Passed(1)),
        ("5.1: an empty value", get("X:\r\n"), Passed(1)),
        ("2.2: a bare LF may end a line", "GET /a HTTP/1.1\nHost: x\n\n".into(), Passed(1)),
        ("RFC 9110 5.5: obs-text", get("X: \u{fc}\r\n"), Passed(1)),
        (
            "RFC 9110 7.6.1: framing cannot be named away",
            post("Connection: content-length\r\nContent-Length: 5\r\n", "hello"),
            Passed(1),
        ),
        (
            "RFC 9110 7.6.1: nor can codings",
            post("Connection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
            Passed(1),
        ),
        ("RFC 9110 7.6.1: nor the host", get("Connection: host\r\n"), Passed(1)),
        ("RFC 9110 10.1.1", post("Expect: 100-continue\r\nContent-Length: 5\r\n", "hello"), Passed(1)),
        (
            "RFC 9113 3.1: h2c is not offered",
            get(
                "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
            ),
            Passed(1),
        ),
    ];
    for lines in [
        "X: y\r\n folded\r\n",
        "X: y\r\n\tfolded\r\n",
        " X: y\r\n",
        "X : y\r\n",
        "X\t: y\r\n",
        "X y\r\n",
        ": y\r\n",
        "X\r\n",
        "X: a\rb\r\n",
        "X: a\r\r\n",
        "X: a\0b\r\n",
        "X\0: a\r\n",
        "X(: a\r\n",
        "X\"Y: a\r\n",
        "X\u{fc}: a\r\n",
        "X: a\x01b\r\n",
        "X: a\x7fb\r\n",
        "X Y: a\r\n",
        "[X]: a\r\n",
        "\r: y\r\n",
    ] {
        cases.push(("5: no valid field line", get(lines), Refused(400)));
    }
    cases
}

fn request_lines() -> Vec<Case> {
    let line = |line: &str| format!("{line}\r\nHost: x\r\n\r\n");
    let mut cases = vec![
        ("2.2: empty lines before are ignored", format!("\r\n{}", get("")), Passed(1)),
        ("3.2.2: absolute form", line("GET http://other.example/a HTTP/1.1"), Passed(1)),
        ("3.1: methods are case-sensitive tokens", line("get /a HTTP/1.1"), Passed(1)),
        ("3.2.1: a query", line("GET /a?b=/../c HTTP/1.1"), Passed(1)),
        ("2.3, 3.2: HTTP/1.0 without a Host", "GET /a HTTP/1.0\r\n\r\n".into(), Passed(1)),
        ("3.2.4: asterisk form", line("OPTIONS * HTTP/1.1"), Passed(1)),
        ("9.3: pipelining", format!("{}{}", get(""), get("")), Passed(2)),
        (
            "3.2.3: CONNECT is not for this",
            "CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n\r\n".into(),
            Refused(405),
        ),
    ];
    for first in [
        "GET  /a HTTP/1.1",
        "GET /a  HTTP/1.1",
        "GET\t/a HTTP/1.1",
        "GET /a\tHTTP/1.1",
        " GET /a HTTP/1.1",
        "GET /a",
        "GET /a ",
        "GET /a HTTP/0.9",
        "GET /a HTTP/1.2",
        "GET /a HTTP/1",
        "GET /a HTTP/11",
        "GET /a HTTP/1.1x",
        "GET /a http/1.1",
        "GET /a HTTP/3.0",
        "GET /a HTTP /1.1",
        "GET /a b HTTP/1.1",
        "GET a HTTP/1.1",
        "GET * HTTP/1.1",
        "GET /../a HTTP/1.1",
        "GET /a/%2e%2e/%2e%2e/b HTTP/1.1",
        "GET /%00 HTTP/1.1",
        "GET /\0 HTTP/1.1",
        "GET http://user@x/a HTTP/1.1",
        "GET http:///a HTTP/1.1",
        "GET x:80 HTTP/1.1",
        "G(T /a HTTP/1.1",
        "G\0T /a HTTP/1.1",
        "/a HTTP/1.1",
        "GET",
    ] {
        cases.push(("3: no valid request line", line(first), Refused(400)));
    }
    cases
}

fn hosts() -> Vec<Case> {
    let with = |lines: &str| format!("GET /a HTTP/1.1\r\n{lines}\r\n");
    let mut cases = vec![
        ("3.2", with("Host: x:80\r\n"), Passed(1)),
        ("RFC 3986 3.2.2", with("Host: [::1]:80\r\n"), Passed(1)),
        ("3.2: none", with(""), Refused(400)),
    ];
    for lines in [
        "Host: a\r\nHost: b\r\n",
        "Host: a\r\nHost: a\r\n",
        "Host: a\r\nhost: b\r\n",
        "Host:\r\n",
        "Host: a b\r\n",
        "Host: a/b\r\n",
        "Host: a@b\r\n",
        "Host: a, b\r\n",
        "Host: a#b\r\n",
        "Host: a?b\r\n",
        "Host: a\\b\r\n",
        "Host: a:b\r\n",
        "Host: a:80:80\r\n",
        "Host: \u{fc}\r\n",
        "Host : a\r\n",
        "Host: a\r\n b\r\n",
    ] {
        cases.push(("3.2: no single valid Host", with(lines), Refused(400)));
    }
    cases
}

fn handshakes() -> Vec<Case> {
    let ws_request = |lines: &str, behind: &str| {
        let fixed =
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        format!("GET /a HTTP/1.1\r\nHost: x\r\n{fixed}{lines}\r\n{behind}")
    };
    let version = "Sec-WebSocket-Version: 13\r\n";
    vec![
        // What follows a refused handshake is not read any more; the upstream never sees it.
        ("RFC 6455 4.1: no version", ws_request("", SMUGGLED), Refused(400)),
        ("RFC 6455 4.4: another version", ws_request("Sec-WebSocket-Version: 7\r\n", ""), Refused(426)),
        (
            "RFC 6455 4.1: a body",
            ws_request(&format!("{version}Content-Length: 5\r\n"), "hello"),
            Refused(400),
        ),
        (
            "RFC 6455 4.1: a body of chunks",
            ws_request(&format!("{version}Transfer-Encoding: chunked\r\n"), "0\r\n\r\n"),
            Refused(400),
        ),
        (
            "RFC 6455 4.1: both",
            ws_request(&format!("{version}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"), "0\r\n\r\n"),
            Refused(400),
        ),
        (
            "RFC 6455 4.1: two keys",
            ws_request(&format!("{version}Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"), ""),
            Refused(400),
        ),
        ("RFC 6455 4.1: two versions", ws_request(&format!("{version}{version}"), ""), Refused(426)),
        // The upstream answers 200: then no tunnel opens, and what follows is the next request.
        ("RFC 9110 7.8: an upgrade that is not taken up", ws_request(version, &get("")), Passed(2)),
        (
            "RFC 9110 7.8: an upgrade with a body",
            post("Connection: upgrade\r\nUpgrade: tcp\r\nContent-Length: 5\r\n", "hello"),
            Passed(1),
        ),
    ]
}
