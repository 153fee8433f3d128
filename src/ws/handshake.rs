//! Owns the WebSocket handshake: the checks of the client's request and of the server's 101 (RFC 6455 4.1, 4.2;
//! RFC 9110 7.8).

use super::extensions::{self, ExtensionError};
use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::STANDARD as BASE64;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::header::{
    CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use sha1::{Digest, Sha1};

/// The only version of the protocol (RFC 6455 4.1).
pub(crate) const VERSION: &str = "13";

/// Whether a request asks for an upgrade, and to which protocol.
#[derive(Debug, PartialEq, Eq)]
pub enum UpgradeKind {
    /// None: an ordinary request.
    None,
    /// A valid WebSocket request.
    WebSocket,
    /// An upgrade to another protocol, with the tokens of the `Upgrade` header.
    Other(HeaderValue),
}

/// Why a request with `Upgrade: websocket` is not a valid WebSocket request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpgradeError {
    /// The method is not GET (RFC 6455 4.1 point 2).
    #[error("a WebSocket handshake is a GET")]
    Method,
    /// The version is older than HTTP/1.1 (RFC 6455 4.1 point 2).
    #[error("a WebSocket handshake needs HTTP/1.1")]
    HttpVersion,
    /// `Connection` does not name `Upgrade` (RFC 6455 4.1 point 6).
    #[error("\"Upgrade: websocket\" came without \"Connection: Upgrade\"")]
    Connection,
    /// There is no `Sec-WebSocket-Key` (RFC 6455 4.1 point 7).
    #[error("Sec-WebSocket-Key is missing")]
    NoKey,
    /// There are several `Sec-WebSocket-Key` headers (RFC 6455 11.3.1).
    #[error("Sec-WebSocket-Key stands more than once")]
    Keys,
    /// The key is not base64 (RFC 6455 4.1 point 7).
    #[error("Sec-WebSocket-Key is not base64")]
    Key,
    /// There is no `Sec-WebSocket-Version` (RFC 6455 4.1 point 9).
    #[error("Sec-WebSocket-Version is missing")]
    NoVersion,
    /// The version is not 13. The response is a 426 that names 13 (RFC 6455 4.4).
    #[error("only Sec-WebSocket-Version 13 is spoken")]
    Version,
    /// It has a body. The bytes after it are frames, so a body would be read as frames (RFC 9112 6.3).
    #[error("a WebSocket handshake has no body")]
    Body,
}

impl UpgradeError {
    /// The status of the response.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::Version => StatusCode::UPGRADE_REQUIRED,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

/// Classifies a request by its upgrade. It ignores `h2c`, which RFC 9113 3.1 made obsolete.
///
/// # Errors
/// [`UpgradeError`] if the request names `websocket` in `Upgrade` but is not a valid WebSocket request.
pub fn classify(method: &Method, version: Version, headers: &HeaderMap) -> Result<UpgradeKind, UpgradeError> {
    let asks = list_names(headers, &CONNECTION, "upgrade");
    if list_names(headers, &UPGRADE, "websocket") {
        return check_request(method, version, headers, asks).map(|()| UpgradeKind::WebSocket);
    }
    if !asks || version < Version::HTTP_11 {
        return Ok(UpgradeKind::None);
    }
    let others: Vec<&str> =
        tokens(headers, &UPGRADE).filter(|token| !token.eq_ignore_ascii_case("h2c")).collect();
    match HeaderValue::from_str(&others.join(", ")) {
        Ok(value) if !value.is_empty() => Ok(UpgradeKind::Other(value)),
        _ => Ok(UpgradeKind::None),
    }
}

fn check_request(
    method: &Method,
    version: Version,
    headers: &HeaderMap,
    asks: bool,
) -> Result<(), UpgradeError> {
    if method != Method::GET {
        return Err(UpgradeError::Method);
    }
    if version < Version::HTTP_11 {
        return Err(UpgradeError::HttpVersion);
    }
    if !asks {
        return Err(UpgradeError::Connection);
    }
    match sole(headers, &SEC_WEBSOCKET_VERSION) {
        Some(value) if value == VERSION => {}
        None if !headers.contains_key(SEC_WEBSOCKET_VERSION) => return Err(UpgradeError::NoVersion),
        _ => return Err(UpgradeError::Version),
    }
    check_key(headers)?;
    if has_body(headers) { Err(UpgradeError::Body) } else { Ok(()) }
}

/// RFC 6455 requires 16 bytes. Some charging stations send 32, and nginx and HAProxy pass any length. The server only
/// hashes the text of the key, so its length, padding and last bits do not matter.
fn check_key(headers: &HeaderMap) -> Result<(), UpgradeError> {
    let Some(key) = sole(headers, &SEC_WEBSOCKET_KEY) else {
        let is_there = headers.contains_key(SEC_WEBSOCKET_KEY);
        return Err(if is_there { UpgradeError::Keys } else { UpgradeError::NoKey });
    };
    match LENIENT.decode(key.as_bytes()) {
        Ok(nonce) if nonce.is_empty() => Err(UpgradeError::NoKey),
        Ok(_) => Ok(()),
        Err(_) => Err(UpgradeError::Key),
    }
}

/// Accepts base64 without padding, or with trailing bits that are not zero.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Whether every server can answer the request's key: 16 bytes in base64 (RFC 6455 4.1 point 7).
fn has_standard_key(request: &HeaderMap) -> bool {
    let key = sole(request, &SEC_WEBSOCKET_KEY).and_then(|key| BASE64.decode(key.as_bytes()).ok());
    key.is_some_and(|nonce| nonce.len() == 16)
}

fn has_body(headers: &HeaderMap) -> bool {
    headers.contains_key(TRANSFER_ENCODING)
        || headers.get_all(CONTENT_LENGTH).iter().any(|length| length != "0")
}

/// Returns a random key for a WebSocket request of Holdline itself (RFC 6455 4.1 point 7).
#[must_use]
pub(crate) fn new_key() -> String {
    BASE64.encode(rand::random::<[u8; 16]>())
}

/// Returns the `Sec-WebSocket-Accept` that answers `key` (RFC 6455 4.2.2 point 5.4).
#[must_use]
pub fn accept(key: &[u8]) -> String {
    let mut hash = Sha1::new();
    hash.update(key);
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    BASE64.encode(hash.finalize())
}

/// Why a 101 does not accept the client's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// `Upgrade` or `Connection` is missing or names something else (RFC 6455 4.1, client requirements 2 and 3).
    #[error("its 101 does not say \"Upgrade: websocket\" and \"Connection: Upgrade\"")]
    NotUpgraded,
    /// `Sec-WebSocket-Accept` is wrong, so the server did not read the request (RFC 6455 4.1, client requirement 4).
    #[error("its Sec-WebSocket-Accept does not answer the key")]
    Accept,
    /// `Sec-WebSocket-Accept` is wrong, but not every server can answer this key.
    #[error(
        "its Sec-WebSocket-Accept does not answer the key, which is not 16 bytes in base64 as RFC 6455 wants"
    )]
    AcceptOddKey,
    /// It chose a subprotocol that the client did not offer (RFC 6455 4.1, client requirement 6).
    #[error("it chose a subprotocol that was not offered")]
    Protocol,
    /// It named several subprotocols (RFC 6455 11.3.4).
    #[error("it named more than one subprotocol")]
    Protocols,
    /// It named extensions that the client did not offer (RFC 6455 4.1, client requirement 5).
    #[error("{0}")]
    Extension(#[from] ExtensionError),
    /// The server switched to a protocol that the client did not ask for (RFC 9110 7.8).
    #[error("it switched to a protocol that was not asked for")]
    WrongToken,
}

impl AnswerError {
    /// Whether the request may have caused the error: the server read it, but chose something that it does not
    /// offer. Such an error does not count against the server. Another server would answer the same.
    #[must_use]
    pub fn is_caused_by_request(self) -> bool {
        matches!(self, Self::AcceptOddKey | Self::Protocol | Self::Protocols | Self::Extension(_))
    }
}

/// Checks a 101 against its WebSocket request.
///
/// # Errors
/// [`AnswerError`] tells why the 101 does not accept this request.
pub fn check_answer(request: &HeaderMap, answer: &HeaderMap) -> Result<(), AnswerError> {
    if !list_names(answer, &UPGRADE, "websocket") || !list_names(answer, &CONNECTION, "upgrade") {
        return Err(AnswerError::NotUpgraded);
    }
    let key = request.get(SEC_WEBSOCKET_KEY).map_or(&b""[..], HeaderValue::as_bytes);
    if sole(answer, &SEC_WEBSOCKET_ACCEPT).is_none_or(|value| value.as_bytes() != accept(key).as_bytes()) {
        return Err(if has_standard_key(request) { AnswerError::Accept } else { AnswerError::AcceptOddKey });
    }
    check_subprotocol(request, answer)?;
    Ok(extensions::check(request, answer)?)
}

fn check_subprotocol(request: &HeaderMap, answer: &HeaderMap) -> Result<(), AnswerError> {
    let mut lines = answer.get_all(SEC_WEBSOCKET_PROTOCOL).iter().map(HeaderValue::as_bytes);
    let Some(chosen) = lines.next() else { return Ok(()) };
    if lines.next().is_some() || chosen.contains(&b',') {
        return Err(AnswerError::Protocols);
    }
    let offers = request.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    let mut offers = offers.flat_map(|line| line.as_bytes().split(|&byte| byte == b','));
    let chosen = chosen.trim_ascii();
    let is_offered = !chosen.is_empty() && offers.any(|offer| offer.trim_ascii() == chosen);
    if is_offered { Ok(()) } else { Err(AnswerError::Protocol) }
}

/// Checks a 101 to an upgrade to a protocol other than WebSocket.
///
/// # Errors
/// [`AnswerError::WrongToken`] if the answer switches to something else.
pub fn check_other_answer(asked: &HeaderValue, answer: &HeaderMap) -> Result<(), AnswerError> {
    let asked = asked.to_str().unwrap_or_default();
    let offered = |token: &str| asked.split(',').any(|offer| offer.trim().eq_ignore_ascii_case(token));
    let mut chosen = tokens(answer, &UPGRADE).peekable();
    if chosen.peek().is_some() && chosen.all(offered) { Ok(()) } else { Err(AnswerError::WrongToken) }
}

/// The extensions that a 101 agrees to, as far as they change frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extensions {
    /// No extensions, so RSV bits have no meaning.
    None,
    /// permessage-deflate alone (RFC 7692): RSV1 marks compressed messages.
    Deflate,
    /// An extension whose effect on frames Holdline does not know.
    Unknown,
}

/// Reads the extensions from an answer's headers.
#[must_use]
pub fn extensions(answer: &HeaderMap) -> Extensions {
    // A header that is not text may name any extension.
    let mut lines = answer.get_all(SEC_WEBSOCKET_EXTENSIONS).iter();
    if lines.any(|line| line.to_str().is_err()) {
        return Extensions::Unknown;
    }
    let mut found = Extensions::None;
    for token in tokens(answer, &SEC_WEBSOCKET_EXTENSIONS) {
        let name = token.split(';').next().unwrap_or_default().trim();
        if !name.eq_ignore_ascii_case("permessage-deflate") {
            return Extensions::Unknown;
        }
        found = Extensions::Deflate;
    }
    found
}

/// Whether a comma-separated list header names `token`, in any of its lines and in any case.
#[must_use]
pub fn list_names(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|found| found.eq_ignore_ascii_case(token))
}

/// Returns the members of a comma-separated list header, over all its lines (RFC 9110 5.6.1). It leaves out members
/// that are not ASCII, because they cannot be tokens.
pub(crate) fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .filter_map(|token| std::str::from_utf8(token).ok().filter(|token| token.is_ascii()))
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

fn sole<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> HeaderMap {
        headers(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-protocol", "chat, superchat"),
        ])
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|&(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    fn kind_of(headers: &HeaderMap) -> Result<UpgradeKind, UpgradeError> {
        classify(&Method::GET, Version::HTTP_11, headers)
    }

    fn without(name: &str) -> HeaderMap {
        let mut headers = request();
        headers.remove(name);
        headers
    }

    fn with(name: &'static str, value: &'static str) -> HeaderMap {
        let mut headers = request();
        headers.insert(name, HeaderValue::from_static(value));
        headers
    }

    #[test]
    fn requests_of_firefox_and_chromium_are_recognised() {
        assert_eq!(kind_of(&request()), Ok(UpgradeKind::WebSocket));
        assert_eq!(kind_of(&with("connection", "Upgrade")), Ok(UpgradeKind::WebSocket));
        let mut twice = with("connection", "keep-alive");
        twice.append("connection", HeaderValue::from_static("upgrade"));
        assert_eq!(kind_of(&twice), Ok(UpgradeKind::WebSocket), "the list may stand on several lines");
    }

    #[test]
    fn an_invalid_handshake_is_told_what_is_wrong() {
        assert_eq!(classify(&Method::POST, Version::HTTP_11, &request()), Err(UpgradeError::Method));
        assert_eq!(classify(&Method::GET, Version::HTTP_10, &request()), Err(UpgradeError::HttpVersion));
        assert_eq!(kind_of(&without("connection")), Err(UpgradeError::Connection));
        assert_eq!(kind_of(&without("sec-websocket-key")), Err(UpgradeError::NoKey));
        assert_eq!(kind_of(&with("sec-websocket-key", "")), Err(UpgradeError::NoKey));
        assert_eq!(kind_of(&without("sec-websocket-version")), Err(UpgradeError::NoVersion));
        assert_eq!(kind_of(&with("sec-websocket-version", "8")), Err(UpgradeError::Version));
        assert_eq!(UpgradeError::Version.status(), StatusCode::UPGRADE_REQUIRED);
        assert_eq!(kind_of(&with("content-length", "5")), Err(UpgradeError::Body));
        assert_eq!(kind_of(&with("content-length", "0")), Ok(UpgradeKind::WebSocket));
        assert_eq!(kind_of(&with("transfer-encoding", "chunked")), Err(UpgradeError::Body));
        let mut two_keys = request();
        two_keys.append("sec-websocket-key", HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
        assert_eq!(kind_of(&two_keys), Err(UpgradeError::Keys));
    }

    #[test]
    fn keys_of_any_length_are_keys() {
        let of = |key| kind_of(&with("sec-websocket-key", key));
        let long = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
        for key in [long, "c2hvcnQ=", "c2hvcnQ", "dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZSBub25jZR=="] {
            assert_eq!(of(key), Ok(UpgradeKind::WebSocket), "{key}");
            assert!(!has_standard_key(&with("sec-websocket-key", key)), "{key}");
        }
        assert!(has_standard_key(&request()));
        for key in ["dGhl!", "dGhl IHNh", "x", "dGhlIHNhbXBsZSBub25jZQ==, dGhlIHNhbXBsZSBub25jZQ==", "-_-_"] {
            assert_eq!(of(key), Err(UpgradeError::Key), "{key}");
        }
    }

    #[test]
    fn other_tokens_pass_and_h2c_is_dropped() {
        let other = with("upgrade", "h2c, tcp");
        assert_eq!(kind_of(&other), Ok(UpgradeKind::Other(HeaderValue::from_static("tcp"))));
        assert_eq!(kind_of(&with("upgrade", "h2c")), Ok(UpgradeKind::None));
        assert_eq!(
            kind_of(&headers(&[("upgrade", "tcp")])),
            Ok(UpgradeKind::None),
            "Connection does not name it"
        );
        // It may have a body (RFC 9110 7.8).
        let body = headers(&[("connection", "upgrade"), ("upgrade", "tcp"), ("content-length", "5")]);
        assert_eq!(kind_of(&body), Ok(UpgradeKind::Other(HeaderValue::from_static("tcp"))));
    }

    #[test]
    fn the_accept_of_the_rfc() {
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn the_101_is_checked_against_the_request() {
        let good = headers(&[
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        ]);
        assert_eq!(check_answer(&request(), &good), Ok(()));
        let changed = |name: &'static str, value: &'static str| {
            let mut answer = good.clone();
            answer.insert(name, HeaderValue::from_static(value));
            check_answer(&request(), &answer)
        };
        assert_eq!(changed("upgrade", "tcp"), Err(AnswerError::NotUpgraded));
        assert_eq!(changed("connection", "close"), Err(AnswerError::NotUpgraded));
        assert_eq!(changed("sec-websocket-accept", "bm8="), Err(AnswerError::Accept));
        assert_eq!(
            check_answer(&with("sec-websocket-key", "c2hvcnQ="), &good),
            Err(AnswerError::AcceptOddKey)
        );
        assert_eq!(changed("sec-websocket-protocol", "superchat"), Ok(()));
        assert_eq!(changed("sec-websocket-protocol", "mqtt"), Err(AnswerError::Protocol));
        assert_eq!(changed("sec-websocket-protocol", ""), Err(AnswerError::Protocol));
        assert_eq!(changed("sec-websocket-protocol", "chat, superchat"), Err(AnswerError::Protocols));
        let unasked = AnswerError::Extension(ExtensionError::NotOffered);
        assert_eq!(changed("sec-websocket-extensions", "permessage-deflate"), Err(unasked));
        assert!(unasked.is_caused_by_request() && !AnswerError::Accept.is_caused_by_request());
    }

    #[test]
    fn other_answers_must_name_what_was_asked() {
        let asked = HeaderValue::from_static("tcp, spdy/3");
        assert_eq!(check_other_answer(&asked, &headers(&[("upgrade", "SPDY/3")])), Ok(()));
        assert_eq!(check_other_answer(&asked, &headers(&[("upgrade", "foo")])), Err(AnswerError::WrongToken));
        assert_eq!(check_other_answer(&asked, &headers(&[])), Err(AnswerError::WrongToken));
    }

    #[test]
    fn extensions_are_told_apart() {
        let of = |value| extensions(&headers(&[("sec-websocket-extensions", value)]));
        assert_eq!(extensions(&headers(&[])), Extensions::None);
        assert_eq!(of("permessage-deflate; client_max_window_bits=15"), Extensions::Deflate);
        assert_eq!(of("x-webkit-deflate-frame"), Extensions::Unknown);
        assert_eq!(of("permessage-deflate, bbf-usp-protocol"), Extensions::Unknown);
    }
}
