//! Owns the escaping of peers' bytes in lines of logs and in terminals. It must not know what the bytes mean.
//!
//! The only escape is that of nginx's access log: `\x` and two upper-case hexadecimal digits for a byte. A
//! backslash is always escaped, so a reader recovers the bytes if it replaces each `\xXX` by its byte.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

/// One field of a line with blanks between its fields. It is written in ASCII, without blanks or quotes. An empty
/// field is written as `-`, so a lone `-` is escaped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Token<'a>(pub &'a [u8]);

impl fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            b"" => f.write_str("-"),
            b"-" => write_escaped(f, b'-'),
            bytes => write_all(f, bytes, |byte| byte.is_ascii_graphic() && !is_mark(byte)),
        }
    }
}

/// A text between quotes, which keeps its blanks. A `=` is escaped, so that a reader that splits the line at blanks
/// finds no `key=value` in the text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quoted<'a>(pub &'a [u8]);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        let is_plain = |byte: u8| (byte.is_ascii_graphic() && byte != b'=') || byte == b' ';
        write_all(f, self.0, |byte| is_plain(byte) && !is_mark(byte))?;
        f.write_char('"')
    }
}

/// A host and a request target as one field. The target begins at the first `/`, `?` or `*`, because these are
/// escaped in a host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HostAndTarget<'a> {
    /// The host. It is empty if the request names none.
    pub host: &'a [u8],
    /// The path and query. They are empty for a CONNECT.
    pub target: &'a [u8],
}

impl fmt::Display for HostAndTarget<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of_host = |byte: u8| byte.is_ascii_graphic() && !is_mark(byte) && !b"/?*".contains(&byte);
        match (self.host, self.target) {
            (b"", target) => write!(f, "{}", Token(target)),
            (b"-", b"") => write_escaped(f, b'-'),
            (host, b"") => write_all(f, host, of_host),
            (host, target) => {
                write_all(f, host, of_host)?;
                write!(f, "{}", Token(target))
            }
        }
    }
}

/// Returns bytes as text. Bytes that are not UTF-8 are escaped, and all others stay as they are.
#[must_use]
pub(crate) fn text(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return text.into();
    }
    let mut shown = String::with_capacity(bytes.len() + 3);
    for chunk in bytes.utf8_chunks() {
        shown.push_str(chunk.valid());
        chunk.invalid().iter().for_each(|&byte| push_escaped(&mut shown, byte));
    }
    shown.into()
}

/// Returns a text for a terminal. Characters that would control the terminal or reorder its text are escaped, and
/// so are backslashes.
#[must_use]
pub(crate) fn terminal(text: &str) -> Cow<'_, str> {
    replace(text, |c| c == '\\' || is_unprintable(c), push_bytes)
}

/// Returns a log line for a terminal. Unlike [`terminal`], it keeps backslashes and the line feed at the end. With
/// `colours` it keeps ESC too, because the writer of the line has escaped those of peers.
#[must_use]
pub(crate) fn line(text: &str, colours: bool) -> Cow<'_, str> {
    let Some(body) = text.strip_suffix('\n') else { return line_body(text, colours) };
    match line_body(body, colours) {
        Cow::Borrowed(_) => text.into(),
        Cow::Owned(body) => (body + "\n").into(),
    }
}

fn line_body(text: &str, colours: bool) -> Cow<'_, str> {
    let stays = |c| c == '\t' || (c == '\u{1b}' && colours);
    replace(text, |c| is_unprintable(c) && !stays(c), push_bytes)
}

/// Returns a JSON document whose control characters are written as `\u` (RFC 8259 7). Only strings can contain them.
#[must_use]
pub(crate) fn json(document: &str) -> Cow<'_, str> {
    let in_string = |c| is_unprintable(c) && c != '\n' && c != '\r' && c != '\t';
    replace(document, in_string, |shown, c| {
        for unit in c.encode_utf16(&mut [0; 2]) {
            // Writing to a string cannot fail.
            let _ = write!(shown, "\\u{unit:04x}");
        }
    })
}

/// Replaces characters. Returns the same text if there are none to replace.
fn replace(text: &str, is_bad: impl Fn(char) -> bool, push: impl Fn(&mut String, char)) -> Cow<'_, str> {
    let Some(first) = text.find(&is_bad) else { return text.into() };
    let mut shown = String::with_capacity(text.len() + 16);
    shown.push_str(&text[..first]);
    for c in text[first..].chars() {
        if is_bad(c) { push(&mut shown, c) } else { shown.push(c) }
    }
    shown.into()
}

fn push_bytes(shown: &mut String, c: char) {
    c.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| push_escaped(shown, byte));
}

fn push_escaped(shown: &mut String, byte: u8) {
    // Writing to a string cannot fail.
    let _ = write_escaped(shown, byte);
}

fn write_escaped(f: &mut impl fmt::Write, byte: u8) -> fmt::Result {
    write!(f, "\\x{byte:02X}")
}

fn write_all(f: &mut fmt::Formatter<'_>, bytes: &[u8], is_plain: impl Fn(u8) -> bool) -> fmt::Result {
    bytes.iter().try_for_each(|&byte| match is_plain(byte) {
        true => f.write_char(char::from(byte)),
        false => write_escaped(f, byte),
    })
}

/// Whether a byte is part of quotes or escapes.
fn is_mark(byte: u8) -> bool {
    matches!(byte, b'"' | b'\\')
}

/// Whether a character is a control (C0, DEL, C1), a separator of lines or paragraphs, or a format character
/// (Unicode's Cf). Format characters are invisible or change the direction of the text.
fn is_unprintable(c: char) -> bool {
    c.is_control() || (!c.is_ascii() && FORMAT.iter().any(|range| range.contains(&c)))
}

/// Unicode 16, general category Cf, and U+2028, U+2029.
const FORMAT: [std::ops::RangeInclusive<char>; 21] = [
    '\u{ad}'..='\u{ad}',
    '\u{600}'..='\u{605}',
    '\u{61c}'..='\u{61c}',
    '\u{6dd}'..='\u{6dd}',
    '\u{70f}'..='\u{70f}',
    '\u{890}'..='\u{891}',
    '\u{8e2}'..='\u{8e2}',
    '\u{180e}'..='\u{180e}',
    '\u{200b}'..='\u{200f}',
    '\u{2028}'..='\u{202e}',
    '\u{2060}'..='\u{2064}',
    '\u{2066}'..='\u{206f}',
    '\u{feff}'..='\u{feff}',
    '\u{fff9}'..='\u{fffb}',
    '\u{110bd}'..='\u{110bd}',
    '\u{110cd}'..='\u{110cd}',
    '\u{13430}'..='\u{1343f}',
    '\u{1bca0}'..='\u{1bca3}',
    '\u{1d173}'..='\u{1d17a}',
    '\u{e0001}'..='\u{e0001}',
    '\u{e0020}'..='\u{e007f}',
];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As a reader of the log does it: `sed`-like, from left to right.
    fn unescaped(text: &str) -> Vec<u8> {
        let (mut bytes, mut rest) = (Vec::new(), text);
        while let Some(c) = rest.chars().next() {
            let escaped = rest.strip_prefix("\\x").map(|more| u8::from_str_radix(&more[..2], 16).unwrap());
            match escaped {
                Some(byte) => (bytes.push(byte), rest = &rest[4..]).1,
                None => {
                    bytes.extend_from_slice(&rest.as_bytes()[..c.len_utf8()]);
                    rest = &rest[c.len_utf8()..];
                }
            }
        }
        bytes
    }

    #[test]
    fn what_a_terminal_obeys_is_escaped_everywhere() {
        let odd = "a\u{1b}[2J\u{7f}\u{9b}31m\u{2028}\u{202e}\u{200b}\n\\ä";
        assert_eq!(
            terminal(odd),
            "a\\x1B[2J\\x7F\\xC2\\x9B31m\\xE2\\x80\\xA8\\xE2\\x80\\xAE\\xE2\\x80\\x8B\\x0A\\x5Cä"
        );
        let document = serde_json::to_string(odd).unwrap();
        let hardened = json(&document);
        assert_eq!(
            hardened, "\"a\\u001b[2J\\u007f\\u009b31m\\u2028\\u202e\\u200b\\n\\\\ä\"",
            "what serde escapes stays as it is"
        );
        assert_eq!(serde_json::from_str::<String>(&hardened).unwrap(), odd);
        assert_eq!(line("\u{1b}[1ma\nb\u{202e}\n", true), "\u{1b}[1ma\\x0Ab\\xE2\\x80\\xAE\n");
        assert_eq!(line("\u{1b}[1m\n", false), "\\x1B[1m\n");
    }

    #[test]
    fn ordinary_texts_stay_as_they_are() {
        let shown = HostAndTarget { host: b"example.com:8080", target: b"/ws?room=1&a=%20" }.to_string();
        assert_eq!(shown, "example.com:8080/ws?room=1&a=%20");
        assert_eq!(Token(b"GET").to_string(), "GET");
        assert_eq!(Quoted(b"client left, it's gone").to_string(), "\"client left, it's gone\"");
        assert_eq!(terminal("Tschüss, 再见"), "Tschüss, 再见");
        assert!(matches!(json("{\"a\":\"ä\"}"), Cow::Borrowed(_)));
        assert!(matches!(line("a line\n", false), Cow::Borrowed("a line\n")));
    }

    #[test]
    fn what_is_missing_is_a_dash_and_a_dash_is_none() {
        let shown = |host, target| HostAndTarget { host, target }.to_string();
        assert_eq!([Token(b"").to_string(), Token(b"-").to_string()], ["-", "\\x2D"]);
        assert_eq!([shown(b"", b""), shown(b"-", b"")], ["-", "\\x2D"]);
        assert_eq!([shown(b"x", b"*"), shown(b"x*/", b"")], ["x*", "x\\x2A\\x2F"]);
    }

    #[test]
    fn bytes_that_are_no_text_are_shown() {
        assert_eq!(text(b"a\xffb\xc3"), "a\\xFFb\\xC3");
        assert_eq!(text("ä\\".as_bytes()), "ä\\");
    }

    proptest! {
        #[test]
        fn a_token_is_one_field_and_gives_back_what_was_put_in(bytes: Vec<u8>) {
            let shown = Token(&bytes).to_string();
            prop_assert!(shown.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"'), "{}", shown);
            let back = if shown == "-" { Vec::new() } else { unescaped(&shown) };
            prop_assert_eq!(back, bytes);
        }

        #[test]
        fn a_quoted_text_ends_where_it_ends(bytes: Vec<u8>) {
            let shown = Quoted(&bytes).to_string();
            let inner = shown.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap();
            prop_assert!(inner.bytes().all(|byte| (0x20..0x7f).contains(&byte) && byte != b'"' && byte != b'='));
            prop_assert_eq!(unescaped(inner), bytes);
        }

        #[test]
        fn a_host_is_told_from_its_target(host: Vec<u8>, target in "(/[^\n]{0,20})?") {
            let shown = HostAndTarget { host: &host, target: target.as_bytes() }.to_string();
            prop_assert!(!shown.is_empty() && shown.bytes().all(|byte| byte.is_ascii_graphic()));
            let end = shown.find('/').unwrap_or(shown.len());
            let (first, second) = if shown == "-" { ("", "") } else { shown.split_at(end) };
            prop_assert_eq!((unescaped(first), unescaped(second)), (host, target.into_bytes()));
        }

        #[test]
        fn a_hardened_document_says_the_same(text: String) {
            let document = serde_json::to_string(&text).unwrap();
            let hardened = json(&document);
            prop_assert!(!hardened.chars().any(is_unprintable));
            prop_assert_eq!(serde_json::from_str::<String>(&hardened).unwrap(), text);
        }

        #[test]
        fn a_line_stays_one(text: String) {
            let shown = line(&text, false).into_owned();
            let body = shown.strip_suffix('\n').unwrap_or(&shown);
            prop_assert!(body.chars().all(|c| c == '\t' || !is_unprintable(c)));
        }
    }
}
