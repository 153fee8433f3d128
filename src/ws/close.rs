//! Owns close codes and the payload of Close frames (RFC 6455 5.5.1 and 7.4, IANA registry).

use std::fmt;

/// The status code of a Close frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CloseCode(pub u16);

impl CloseCode {
    /// 1000: the purpose of the connection is fulfilled.
    pub const NORMAL: Self = Self(1000);
    /// 1001: a peer goes away.
    pub const GOING_AWAY: Self = Self(1001);
    /// 1002: the peer broke the protocol.
    pub const PROTOCOL_ERROR: Self = Self(1002);
    /// 1005: what APIs report for a Close frame without a code; never on the wire.
    pub const NO_STATUS: Self = Self(1005);
    /// 1006: what APIs report when the connection ended without a Close frame; never on the wire.
    pub const ABNORMAL: Self = Self(1006);
    /// 1009: a message was too big.
    pub const TOO_BIG: Self = Self(1009);
    /// 1011: the server met an unexpected condition.
    pub const INTERNAL_ERROR: Self = Self(1011);
    /// 1012: the service restarts. Clients should reconnect after a random 5 to 30 s (IANA registry).
    pub const SERVICE_RESTART: Self = Self(1012);
    /// 1013: the service is overloaded. Clients should try again later (IANA registry).
    pub const TRY_AGAIN_LATER: Self = Self(1013);
    /// 1014: a gateway got an invalid response from its upstream (IANA registry).
    pub const BAD_GATEWAY: Self = Self(1014);

    /// Whether a Close frame may carry the code (RFC 6455 7.4, IANA registry). Not 1004 to 1006 and 1015, which are for
    /// APIs only, and not unregistered codes below 3000.
    #[must_use]
    pub fn may_be_sent(self) -> bool {
        matches!(self.0, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }

    /// The nearest code that RFC 6455 itself defines, for clients that reject the younger ones:
    /// 1012 and 1013 become 1001, 1014 becomes 1011.
    #[must_use]
    pub fn to_rfc6455(self) -> Self {
        match self {
            Self::SERVICE_RESTART | Self::TRY_AGAIN_LATER => Self::GOING_AWAY,
            Self::BAD_GATEWAY => Self::INTERNAL_ERROR,
            other => other,
        }
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The longest reason in a Close frame: 125 bytes of control payload less 2 of the code.
pub(crate) const MAX_REASON: usize = 123;

/// The code and text of a Close frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseReason {
    /// The code, or [`CloseCode::NO_STATUS`] when the frame carried none.
    pub code: CloseCode,
    /// The text. Bytes that are not UTF-8 are replaced.
    pub text: Box<str>,
}

impl CloseReason {
    /// Reads the unmasked payload of a Close frame. A payload of one byte is malformed, and reads as one without a code.
    /// [`check`] rejects it.
    #[must_use]
    pub fn parse(payload: &[u8]) -> Self {
        match payload {
            [high, low, text @ ..] => Self {
                code: CloseCode(u16::from_be_bytes([*high, *low])),
                text: String::from_utf8_lossy(text).into(),
            },
            _ => Self { code: CloseCode::NO_STATUS, text: "".into() },
        }
    }
}

/// What is wrong with the payload of a Close frame (RFC 6455 5.5.1, 7.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InvalidClose {
    /// Half a code.
    OneByte,
    /// A code that may not be sent.
    Code(CloseCode),
    /// A reason that is not UTF-8.
    Text,
}

impl fmt::Display for InvalidClose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OneByte => f.write_str("close payload of one byte"),
            Self::Code(code) => write!(f, "close code {code} is reserved"),
            Self::Text => f.write_str("close reason is not UTF-8"),
        }
    }
}

/// Checks the unmasked payload of a Close frame against RFC 6455.
///
/// # Errors
/// [`InvalidClose`] tells the first fault of the payload.
pub(crate) fn check(payload: &[u8]) -> Result<(), InvalidClose> {
    match payload {
        [] => Ok(()),
        [_] => Err(InvalidClose::OneByte),
        [high, low, text @ ..] => {
            let code = CloseCode(u16::from_be_bytes([*high, *low]));
            if !code.may_be_sent() {
                return Err(InvalidClose::Code(code));
            }
            std::str::from_utf8(text).map(drop).map_err(|_| InvalidClose::Text)
        }
    }
}

/// Makes the payload of a Close frame. A reason that is too long is cut at a character.
#[must_use]
pub fn payload(code: CloseCode, reason: &str) -> Vec<u8> {
    let end = (0..=reason.len().min(MAX_REASON)).rev().find(|&i| reason.is_char_boundary(i)).unwrap_or(0);
    let mut payload = code.0.to_be_bytes().to_vec();
    payload.extend_from_slice(&reason.as_bytes()[..end]);
    payload
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_apis_are_not_sent() {
        for code in [1000, 1001, 1003, 1007, 1012, 1014, 3000, 4999] {
            assert!(CloseCode(code).may_be_sent(), "{code}");
        }
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, u16::MAX] {
            assert!(!CloseCode(code).may_be_sent(), "{code}");
        }
    }

    #[test]
    fn a_payload_reads_back() {
        let read = CloseReason::parse(&payload(CloseCode::BAD_GATEWAY, "upstream gone"));
        assert_eq!(read, CloseReason { code: CloseCode(1014), text: "upstream gone".into() });
        assert_eq!(CloseReason::parse(&[]).code, CloseCode::NO_STATUS);
        assert_eq!(CloseReason::parse(&[3]).code, CloseCode::NO_STATUS);
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let cut = payload(CloseCode::NORMAL, &"ü".repeat(100));
        assert_eq!(cut.len(), 2 + 122, "123 bytes would split a two-byte character");
        assert!(std::str::from_utf8(&cut[2..]).is_ok());
    }

    #[test]
    fn younger_codes_have_an_rfc6455_form() {
        assert_eq!(CloseCode::SERVICE_RESTART.to_rfc6455(), CloseCode::GOING_AWAY);
        assert_eq!(CloseCode::TRY_AGAIN_LATER.to_rfc6455(), CloseCode::GOING_AWAY);
        assert_eq!(CloseCode::BAD_GATEWAY.to_rfc6455(), CloseCode::INTERNAL_ERROR);
        assert_eq!(CloseCode::TOO_BIG.to_rfc6455(), CloseCode::TOO_BIG);
    }
}
