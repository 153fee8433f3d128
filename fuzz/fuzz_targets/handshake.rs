//! Owns the properties of the WebSocket handshake: an accepted request is valid, an accepted 101 answers it,
//! and no extension is overlooked.
//!
//! An input is lines: a request line ("GET 1.1"), header lines, an empty line, header lines of the
//! answer. The line "accept" stands for the header that answers the key.

#![no_main]

use holdline::testing::ws::handshake::{self, AnswerError, Extensions, UpgradeKind};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use libfuzzer_sys::fuzz_target;

fn headers<'a>(lines: impl Iterator<Item = &'a [u8]>, key: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines.take(64) {
        if line == b"accept" {
            headers.append("sec-websocket-accept", handshake::accept(key).parse().expect("base64"));
            continue;
        }
        let Some(colon) = line.iter().position(|&byte| byte == b':') else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    headers
}

/// The members of a list header, read as bytes and without the code under test.
fn members(headers: &HeaderMap, name: &str) -> Vec<Vec<u8>> {
    let lines = headers.get_all(name).iter();
    let all = lines.flat_map(|line| line.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii));
    all.filter(|member| !member.is_empty()).map(<[u8]>::to_ascii_lowercase).collect()
}

fn has(headers: &HeaderMap, name: &str, member: &[u8]) -> bool {
    members(headers, name).iter().any(|found| found == member)
}

fn check_classify(method: &Method, version: Version, request: &HeaderMap) -> bool {
    let values = |name: &str| request.get_all(name).iter().map(HeaderValue::as_bytes).collect::<Vec<_>>();
    let body = values("content-length").iter().any(|&length| length != b"0")
        || request.contains_key("transfer-encoding");
    let asks = has(request, "connection", b"upgrade");
    let kind = handshake::classify(method, version, request);
    match &kind {
        Ok(UpgradeKind::WebSocket) => {
            assert!(method == Method::GET && version >= Version::HTTP_11 && asks && !body);
            assert!(has(request, "upgrade", b"websocket"));
            assert_eq!(values("sec-websocket-version"), [b"13"]);
            let [key] = values("sec-websocket-key")[..] else { panic!("one key") };
            let padding = key.iter().rev().take_while(|&&byte| byte == b'=').count();
            let (digits, _) = key.split_at(key.len() - padding);
            let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/".contains(byte);
            assert!(padding < 3 && !digits.is_empty() && digits.iter().all(is_digit), "base64");
        }
        Ok(UpgradeKind::Other(tokens)) => {
            assert!(asks && version >= Version::HTTP_11);
            let other = HeaderMap::from_iter([(http::header::UPGRADE, tokens.clone())]);
            let asked = members(&other, "upgrade");
            assert!(!asked.is_empty(), "another protocol has a name");
            for token in &asked {
                assert!(token != b"websocket" && token != b"h2c");
                assert!(has(request, "upgrade", token), "it was asked for");
            }
            assert_eq!(
                handshake::check_other_answer(tokens, &other),
                Ok(()),
                "what was asked for is accepted"
            );
        }
        Ok(UpgradeKind::None) => {}
        Err(error) => {
            assert!(has(request, "upgrade", b"websocket"), "only who says so is refused");
            assert!(error.status().is_client_error() && !error.to_string().is_empty());
        }
    }
    matches!(kind, Ok(UpgradeKind::WebSocket))
}

fn check_answer(request: &HeaderMap, answer: &HeaderMap, key: &[u8]) {
    let verdict = handshake::check_answer(request, answer);
    let upgraded = has(answer, "upgrade", b"websocket") && has(answer, "connection", b"upgrade");
    assert_eq!(verdict == Err(AnswerError::NotUpgraded), !upgraded);
    if verdict.is_ok() {
        let accepts: Vec<_> = answer.get_all("sec-websocket-accept").iter().collect();
        assert!(accepts.len() == 1 && accepts[0].as_bytes() == handshake::accept(key).as_bytes());
        // RFC 6455 11.3.4: in an answer it stands once, and names one of those asked for.
        let chosen: Vec<_> = answer.get_all("sec-websocket-protocol").iter().collect();
        assert!(chosen.len() < 2, "one subprotocol at most");
        for chosen in chosen {
            let offered = request.get_all("sec-websocket-protocol");
            let mut offered = offered.iter().flat_map(|line| line.as_bytes().split(|&byte| byte == b','));
            assert!(offered.any(|offer| offer.trim_ascii() == chosen.as_bytes().trim_ascii()));
        }
        // RFC 6455 9.1: no extension that was not offered. Without quotes a comma parts them.
        let quotes = |headers: &HeaderMap| {
            headers.get_all("sec-websocket-extensions").iter().any(|line| line.as_bytes().contains(&b'"'))
        };
        let names = |headers: &HeaderMap| -> Vec<Vec<u8>> {
            let name = |member: Vec<u8>| {
                member.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii().to_vec()
            };
            members(headers, "sec-websocket-extensions").into_iter().map(name).collect()
        };
        if !quotes(request) && !quotes(answer) {
            let offered = names(request);
            assert!(names(answer).iter().all(|name| offered.contains(name)), "an extension nobody offered");
        }
    }
}

fn check_extensions(answer: &HeaderMap) {
    let deflate = |member: &Vec<u8>| {
        member
            .split(|&byte| byte == b';')
            .next()
            .is_some_and(|name| name.trim_ascii() == b"permessage-deflate")
    };
    let agreed = members(answer, "sec-websocket-extensions");
    match handshake::extensions(answer) {
        Extensions::None => assert!(agreed.is_empty(), "an extension was overlooked"),
        Extensions::Deflate => assert!(!agreed.is_empty() && agreed.iter().all(deflate)),
        Extensions::Unknown => assert!(!agreed.is_empty()),
    }
}

fuzz_target!(|input: &[u8]| {
    let mut lines = input.split(|&byte| byte == b'\n');
    let first = lines.next().unwrap_or_default();
    let mut words = first.split(|&byte| byte == b' ');
    let Ok(method) = Method::from_bytes(words.next().unwrap_or_default()) else { return };
    let version = match words.next() {
        Some(b"1.0") => Version::HTTP_10,
        Some(b"2") => Version::HTTP_2,
        _ => Version::HTTP_11,
    };
    let request = headers(lines.by_ref().take_while(|line| !line.is_empty()), b"");
    let key = request.get("sec-websocket-key").map_or(&b""[..], HeaderValue::as_bytes).to_vec();
    let answer = headers(lines, &key);
    check_classify(&method, version, &request);
    check_answer(&request, &answer, &key);
    check_extensions(&answer);
    if let Some(asked) = request.get("upgrade") {
        let _ = handshake::check_other_answer(asked, &answer);
    }
});
