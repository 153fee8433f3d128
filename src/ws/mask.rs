//! Owns the masking of frame payloads (RFC 6455 5.3).

/// The 32-bit key that masks the payload of a client's frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaskKey(pub [u8; 4]);

impl MaskKey {
    /// A new key from the thread's cryptographic generator, because nobody may predict it from earlier keys
    /// (RFC 6455 5.3).
    #[must_use]
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// Masks or unmasks `payload` in place. The operation is its own inverse.
    pub fn apply(self, payload: &mut [u8]) {
        for (byte, key) in payload.iter_mut().zip(self.0.iter().cycle()) {
            *byte ^= key;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_as_the_rfc_example_does() {
        let mut payload = *b"Hello";
        MaskKey([0x37, 0xfa, 0x21, 0x3d]).apply(&mut payload);
        assert_eq!(payload, [0x7f, 0x9f, 0x4d, 0x51, 0x58], "RFC 6455 5.7");
    }
}
