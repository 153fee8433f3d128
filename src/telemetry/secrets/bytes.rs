//! Owns the redaction of targets that need not be UTF-8. [`redact`] reads text, so other bytes pass it as
//! characters that stand for them.

use super::redact;

/// The first of the characters that stand for a byte beyond ASCII. They are for private use and no letters, so
/// they are part of no name.
const PRIVATE_USE: u32 = 0xe000;

/// Redacts a target that need not be UTF-8, such as that of a refused request.
#[must_use]
pub(crate) fn redact_bytes(target: &[u8]) -> Vec<u8> {
    if let Ok(target) = std::str::from_utf8(target) {
        return redact(target).into_bytes();
    }
    let stand_in = |&byte: &u8| match byte {
        ..0x80 => char::from(byte),
        _ => char::from_u32(PRIVATE_USE + u32::from(byte)).unwrap_or(char::REPLACEMENT_CHARACTER),
    };
    let shown = redact(&target.iter().map(stand_in).collect::<String>());
    shown.chars().map(|c| u8::try_from(c).unwrap_or((u32::from(c) & 0xff) as u8)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_that_are_no_text_are_redacted_too() {
        assert_eq!(redact_bytes(b"/\xff\xc3\xbc?\xfe=1&\xc3\xbc=2"), b"/\xff\xc3\xbc?\xfe=1&\xc3\xbc=2");
        assert_eq!(redact_bytes(b"/\xff?a=\xfe&pin=\xfd&b"), b"/\xff?a=\xfe&pin=***&b");
        assert_eq!(redact_bytes(b"/?\xffpin=1;\xfe"), b"/?\xffpin=***");
        assert_eq!(redact_bytes(b"/\xff/token/\xfe/x"), b"/\xff/token/***/x");
        assert_eq!(redact_bytes("/\u{e0ff}?pin=1".as_bytes()), "/\u{e0ff}?pin=***".as_bytes());
    }
}
