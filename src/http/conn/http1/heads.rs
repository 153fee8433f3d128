//! Owns the parsing of HTTP/1 requests alongside hyper: where each head begins and ends. It must not know how
//! requests are answered.
//!
//! hyper refuses `"`, `<` and `>` in a target (RFC 3986 2), but nginx and HAProxy pass them. The parser
//! percent-encodes them before hyper sees them, and changes nothing else. So it must be certain that a byte belongs
//! to a target. It follows the framing of bodies only while there is one way to read it, in the strictest form of
//! RFC 9112. In doubt it is [`Place::Lost`], and changes nothing from then on. It may misread what hyper refuses,
//! because the connection ends then.

mod chunks;
mod explain;

use chunks::Chunks;
pub(crate) use explain::PartialRequest;
use std::collections::VecDeque;

/// Maximum bytes kept of a head, to explain what is wrong with it.
const KEPT: usize = 2048;
/// Maximum bytes kept of a header line: enough for its framing.
const LINE: usize = 64;

/// Parses the heads of a connection.
#[derive(Debug, Default)]
pub(super) struct Heads {
    place: Place,
    /// Starts of the heads that hyper has not made requests of yet, oldest first.
    seen: VecDeque<Vec<u8>>,
    /// The current header line, or the method.
    line: Vec<u8>,
    framing: Framing,
    /// How many requests hyper has made.
    requests: u64,
    begun: u64,
    /// The number of the head with two lengths.
    ambiguous: Option<u64>,
    /// The connection may become a tunnel, whose bytes are not HTTP.
    may_switch: bool,
}

#[derive(Debug, Default)]
enum Place {
    /// Before a head. Empty lines may come first (RFC 9112 2.2).
    #[default]
    Start,
    Method,
    Target(Part),
    /// After the target, in the same line.
    Version,
    Field,
    Body(u64),
    Chunks(Chunks),
    /// In a head that hyper refuses.
    Bad,
    Lost,
}

#[derive(Clone, Copy, Debug)]
enum Part {
    First,
    Path,
    Query,
    /// Part of a target that does not begin with a path.
    Other,
}

/// What a head says about the framing of its body.
#[derive(Debug, Default)]
struct Framing {
    fields: u32,
    codings: u32,
    lengths: u32,
    length: u64,
    is_odd: bool,
}

impl Heads {
    /// Parses received bytes. If it must encode bytes of a target, returns the changed bytes.
    pub(super) fn pass(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let (mut at, mut edits) = (0, Vec::new());
        while at < bytes.len() {
            at += self.step(&bytes[at..], at, &mut edits);
        }
        (!edits.is_empty()).then(|| encoded(bytes, &edits))
    }

    /// Records that hyper has made a request of a head. Returns whether the head had two lengths. hyper shows only
    /// one of them.
    pub(super) fn mark_request(&mut self) -> bool {
        let number = self.requests;
        self.requests += 1;
        self.seen.pop_front();
        self.ambiguous == Some(number)
    }

    /// Returns what could be read of the head that is no request, and why hyper answers it with this status.
    pub(super) fn partial_request(&self, status: u16) -> PartialRequest {
        let seen = self.seen.front().map_or(&b""[..], |seen| seen);
        explain::explain(seen, status, self.framing.fields)
    }

    /// Consumes some bytes, or none if only the position changes. Returns how many.
    fn step(&mut self, rest: &[u8], base: usize, edits: &mut Vec<usize>) -> usize {
        match &mut self.place {
            Place::Start => self.start(rest),
            Place::Method => self.method(rest),
            Place::Target(part) => {
                let part = *part;
                self.target(part, rest, base, edits)
            }
            Place::Version => self.line_end(rest, |_| Place::Field),
            Place::Field => self.line_end(rest, Self::field),
            Place::Body(left) => {
                let taken = rest.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= taken as u64;
                if *left == 0 {
                    self.place = Place::Start;
                }
                taken
            }
            Place::Chunks(chunks) => {
                let (taken, end) = chunks.pass(rest);
                match end {
                    Some(true) => self.place = Place::Start,
                    Some(false) => self.place = Place::Lost,
                    None => {}
                }
                taken
            }
            Place::Bad => self.keep(rest, rest.len()),
            Place::Lost => rest.len(),
        }
    }

    fn start(&mut self, rest: &[u8]) -> usize {
        let empty = rest.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        if empty == 0 {
            self.begun += 1;
            self.seen.push_back(Vec::new());
            self.line.clear();
            self.framing = Framing::default();
            self.place = Place::Method;
        }
        empty
    }

    fn method(&mut self, rest: &[u8]) -> usize {
        let end = rest.iter().position(|&byte| !is_token(byte));
        self.begin_line(&rest[..end.unwrap_or(rest.len())]);
        let Some(end) = end else { return self.keep(rest, rest.len()) };
        self.may_switch |= self.line == b"CONNECT";
        self.place = if rest[end] == b' ' { Place::Target(Part::First) } else { Place::Bad };
        self.keep(rest, end + 1)
    }

    fn target(&mut self, mut part: Part, rest: &[u8], base: usize, edits: &mut Vec<usize>) -> usize {
        let end = rest.iter().position(|byte| matches!(byte, b' ' | b'\r' | b'\n'));
        for (at, &byte) in rest[..end.unwrap_or(rest.len())].iter().enumerate() {
            part = match (part, byte) {
                (Part::First, b'/') => Part::Path,
                (Part::First, _) => Part::Other,
                (Part::Path, b'?') => Part::Query,
                (part, _) => part,
            };
            if !self.may_switch && has_to_be_encoded(part, byte) {
                edits.push(base + at);
            }
        }
        self.place = match end.map(|end| rest[end]) {
            None => Place::Target(part),
            Some(b' ') => Place::Version,
            Some(_) => Place::Bad,
        };
        self.keep(rest, end.map_or(rest.len(), |end| end + 1))
    }

    /// Skips to the end of a line, then goes to the next position.
    fn line_end(&mut self, rest: &[u8], next: impl FnOnce(&mut Self) -> Place) -> usize {
        let end = rest.iter().position(|&byte| byte == b'\n');
        self.begin_line(&rest[..end.unwrap_or(rest.len())]);
        let taken = self.keep(rest, end.map_or(rest.len(), |end| end + 1));
        if end.is_some() {
            self.place = next(self);
            self.line.clear();
        }
        taken
    }

    /// Handles the end of a header line.
    fn field(&mut self) -> Place {
        let line = self.line.strip_suffix(b"\r").unwrap_or(&self.line);
        if line.is_empty() {
            return self.head_end();
        }
        let is_whole = self.line.len() < LINE;
        let colon = line.iter().position(|&byte| byte == b':').unwrap_or(line.len());
        let (name, value) = (&line[..colon], line.get(colon + 1..).unwrap_or_default().trim_ascii());
        let framing = &mut self.framing;
        framing.fields += 1;
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            framing.codings += 1;
            framing.is_odd |= !is_whole || !value.eq_ignore_ascii_case(b"chunked");
        } else if name.eq_ignore_ascii_case(b"content-length") {
            framing.lengths += 1;
            let number = std::str::from_utf8(value).ok().filter(|_| value.iter().all(u8::is_ascii_digit));
            let number = number.and_then(|number| number.parse().ok());
            framing.is_odd |= !is_whole || number.is_none();
            framing.length = number.unwrap_or(0);
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            self.may_switch = true;
        }
        Place::Field
    }

    fn head_end(&mut self) -> Place {
        let Framing { codings, lengths, length, is_odd, .. } = self.framing;
        match (codings, lengths) {
            (1.., 1..) => {
                self.ambiguous = Some(self.begun - 1);
                Place::Lost
            }
            _ if is_odd => Place::Lost,
            (0, 0) | (0, 1) if length == 0 => Place::Start,
            (0, 1) => Place::Body(length),
            (1, 0) => Place::Chunks(Chunks::default()),
            _ => Place::Lost,
        }
    }

    fn begin_line(&mut self, bytes: &[u8]) {
        let room = LINE - self.line.len().min(LINE);
        self.line.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// Keeps some of the consumed bytes.
    fn keep(&mut self, rest: &[u8], taken: usize) -> usize {
        if let Some(seen) = self.seen.back_mut() {
            let room = KEPT - seen.len().min(KEPT);
            seen.extend_from_slice(&rest[..taken.min(room)]);
        }
        taken
    }
}

/// Whether hyper rejects a byte that nginx passes. hyper accepts a back-quote in a query and a quote in a
/// path. It also rejects invalid UTF-8, which a single byte does not show.
fn has_to_be_encoded(part: Part, byte: u8) -> bool {
    match part {
        Part::Path => matches!(byte, b'<' | b'>' | b'`'),
        Part::Query => matches!(byte, b'<' | b'>' | b'"'),
        Part::First | Part::Other => false,
    }
}

fn encoded(bytes: &[u8], edits: &[usize]) -> Vec<u8> {
    let mut all = Vec::with_capacity(bytes.len() + 2 * edits.len());
    let mut from = 0;
    for &at in edits {
        all.extend_from_slice(&bytes[from..at]);
        all.extend_from_slice(percent_encoding::percent_encode_byte(bytes[at]).as_bytes());
        from = at + 1;
    }
    all.extend_from_slice(&bytes[from..]);
    all
}

/// RFC 9110 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What bytes become, given in pieces of this size.
    fn passed(bytes: &[u8], size: usize) -> Vec<u8> {
        let mut heads = Heads::default();
        let pieces = bytes.chunks(size).flat_map(|piece| heads.pass(piece).unwrap_or_else(|| piece.to_vec()));
        pieces.collect()
    }

    /// A request for `target`, with more header lines and a body.
    fn request(target: &str, lines: &str, body: &str) -> String {
        format!("GET {target} HTTP/1.1\r\nHost: \"<x>\"\r\n{lines}\r\n{body}")
    }

    #[track_caller]
    fn assert_becomes(bytes: &str, expected: &str) {
        for size in [1, 2, 3, 7, bytes.len()] {
            let passed = passed(bytes.as_bytes(), size);
            assert_eq!(String::from_utf8_lossy(&passed), expected, "in pieces of {size}");
        }
    }

    #[test]
    fn what_may_not_stand_in_a_target_is_encoded() {
        let odd = "/<a>`\"{\u{fc}?f={\"a\":1}&b=<`>\u{fc}";
        let even = "/%3Ca%3E%60\"{\u{fc}?f={%22a%22:1}&b=%3C`%3E\u{fc}";
        assert_becomes(&request(odd, "", ""), &request(even, "", ""));
        // Nothing but the path and the query.
        for other in ["http://<x>/<y>", "*<", "<", "x\"y"] {
            assert_becomes(&request(other, "", ""), &request(other, "", ""));
        }
    }

    #[test]
    fn each_request_of_a_connection_is_found_behind_its_body() {
        let all = |target: &str| {
            [
                request(target, "", ""),
                request(target, "Content-Length: 13\r\n", "GET /<b> HTTP"),
                request(target, "content-length:\t0 \r\n", ""),
                "\r\n\n".to_owned(),
                request(
                    target,
                    "Transfer-Encoding: Chunked\r\n",
                    "c;x=\"<\"\r\nGET /<c> HTT\r\n0\r\nX: <\r\n\r\n",
                ),
                request(target, "", "").replace("\r\n", "\n"),
                request(target, "", ""),
            ]
            .concat()
        };
        assert_becomes(&all("/<a>"), &all("/%3Ca%3E"));
    }

    #[test]
    fn where_a_body_could_end_in_two_places_nothing_is_touched_any_more() {
        for lines in [
            "Content-Length: 5\r\nContent-Length: 5\r\n",
            "Content-Length: +5\r\n",
            "Content-Length: 5, 5\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Upgrade: x\r\n",
            "CONTENT-LENGTH:                                                                5\r\n",
        ] {
            let bytes = request("/a", lines, &request("/<b>", "", ""));
            assert_becomes(&bytes, &bytes);
        }
        let bytes =
            request("/a", "Transfer-Encoding: chunked\r\n", &format!("0\n\n{}", request("/<b>", "", "")));
        assert_becomes(&bytes, &bytes);
        let bytes = format!("CONNECT x:1 HTTP/1.1\r\n\r\n{}", request("/<b>", "", ""));
        assert_becomes(&bytes, &bytes);
    }

    #[test]
    fn a_head_with_two_lengths_is_known_by_its_number() {
        for (lines, expected) in [
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", true),
            ("transfer-encoding:chunked\r\nX: y\r\ncontent-length:5\r\n", true),
            ("Content-Length: 5\r\n", false),
            ("X-Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", false),
        ] {
            let mut heads = Heads::default();
            heads.pass(request("/", "", "").as_bytes());
            heads.pass(request("/", lines, "").as_bytes());
            assert_eq!([heads.mark_request(), heads.mark_request()], [false, expected], "{lines}");
        }
    }

    proptest! {
        #[test]
        fn nothing_but_single_bytes_of_targets_changes(bytes: Vec<u8>, size in 1..64_usize) {
            let passed = passed(&bytes, size);
            let decoded: Vec<u8> = percent_encoding::percent_decode(&passed).collect();
            let expected: Vec<u8> = percent_encoding::percent_decode(&bytes).collect();
            prop_assert_eq!(decoded, expected);
        }

        #[test]
        fn a_body_is_never_touched(body: Vec<u8>, size in 1..64_usize) {
            let head = format!("POST /a HTTP/1.1\r\nContent-Length: {}\r\n\r\n", body.len());
            let all = [head.as_bytes(), &body].concat();
            prop_assert_eq!(passed(&all, size), all);
        }
    }
}
