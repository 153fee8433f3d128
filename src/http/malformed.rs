//! Owns the distinction between a malformed body and one that broke off. hyper reports both as an error.

use std::error::Error;
use std::io::{self, ErrorKind};

/// How a body violates its framing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// The body is complete, but its trailer section exceeds the read limit.
    Trailers(String),
    /// The end of the body cannot be determined.
    Framing(String),
}

impl Malformed {
    /// Returns the violation that a body's error reports. `None` means that the sender left or its connection
    /// broke.
    #[must_use]
    pub(crate) fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut cause = error.source();
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<io::Error>() {
                return of_chunks(error);
            }
            cause = error.source();
        }
        None
    }
}

/// The error kind tells whether bytes were wrong or missing (RFC 9112 7.1).
fn of_chunks(error: &io::Error) -> Option<Malformed> {
    let text = error.to_string();
    let is_chunks = text.to_ascii_lowercase().contains("chunk");
    match error.kind() {
        ErrorKind::InvalidData if text.starts_with("chunk trailers") => Some(Malformed::Trailers(text)),
        ErrorKind::InvalidData | ErrorKind::InvalidInput if is_chunks => Some(Malformed::Framing(text)),
        // All other messages concern the lines after the last chunk.
        ErrorKind::InvalidInput if text.contains("trailer") => Some(Malformed::Framing(text)),
        ErrorKind::InvalidInput => Some(Malformed::Framing(format!("Invalid trailer: {text}"))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_told_from_what_is_missing() {
        let of = |kind, text: &'static str| of_chunks(&io::Error::new(kind, text));
        let framing = |text: &str| Some(Malformed::Framing(text.to_owned()));
        let overflow = "invalid chunk size: overflow";
        assert_eq!(of(ErrorKind::InvalidData, overflow), framing(overflow));
        assert_eq!(
            of(ErrorKind::InvalidInput, "invalid header name"),
            framing("Invalid trailer: invalid header name")
        );
        let over = "chunk trailers bytes over limit";
        assert_eq!(of(ErrorKind::InvalidData, over), Some(Malformed::Trailers(over.to_owned())));
        assert_eq!(of(ErrorKind::UnexpectedEof, "unexpected EOF during chunk size line"), None);
        assert_eq!(of(ErrorKind::ConnectionReset, "connection reset"), None);
        // A record of TLS that does not decrypt is no chunk.
        assert_eq!(of(ErrorKind::InvalidData, "cannot decrypt peer's message"), None);
    }
}
