//! Owns frame headers on the wire (RFC 6455 5.2).

use super::mask::MaskKey;
use std::fmt;

/// The longest frame header: 2 bytes, 8 of extended length, 4 of mask key.
pub(crate) const MAX_HEADER: usize = 14;
/// The longest payload of a control frame (RFC 6455 5.5).
pub(crate) const MAX_CONTROL_PAYLOAD: usize = 125;
/// The longest control frame on the wire.
pub const MAX_CONTROL_FRAME: usize = MAX_HEADER + MAX_CONTROL_PAYLOAD;

/// The opcode of a frame (RFC 6455 11.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpCode {
    /// 0x0: continues a fragmented message.
    Continuation,
    /// 0x1: begins a text message.
    Text,
    /// 0x2: begins a binary message.
    Binary,
    /// 0x8
    Close,
    /// 0x9
    Ping,
    /// 0xA
    Pong,
}

impl OpCode {
    /// Whether this is a control frame, which may come between the fragments of a message.
    #[must_use]
    pub fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }

    fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xa => Self::Pong,
            _ => return None,
        })
    }

    fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0x0,
            Self::Text => 0x1,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xa,
        }
    }
}

/// A breach of framing, found in a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// A reserved bit is set, and no agreed extension uses it (RFC 6455 5.2).
    ReservedBits,
    /// An opcode without a meaning.
    ReservedOpCode(u8),
    /// A client must mask (RFC 6455 5.1).
    Unmasked,
    /// A server must not mask (RFC 6455 5.1).
    Masked,
    /// A control frame's payload is over 125 bytes (RFC 6455 5.5).
    ControlTooLong,
    /// A control frame without FIN (RFC 6455 5.5).
    ControlFragmented,
    /// The length uses more bytes than it needs (RFC 6455 5.2).
    LengthNotMinimal,
    /// The most significant bit of a 64-bit length is set (RFC 6455 5.2).
    LengthTooLarge,
    /// A continuation outside of a message (RFC 6455 5.4).
    NothingToContinue,
    /// A new message inside a fragmented one (RFC 6455 5.4).
    MessageInsideMessage,
}

impl Violation {
    /// The violation in words, for logs and Close frames.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ReservedBits => "reserved bits set",
            Self::ReservedOpCode(_) => "reserved opcode",
            Self::Unmasked => "client frame not masked",
            Self::Masked => "server frame masked",
            Self::ControlTooLong => "control frame over 125 bytes",
            Self::ControlFragmented => "control frame fragmented",
            Self::LengthNotMinimal => "length not minimal",
            Self::LengthTooLarge => "length over 63 bits",
            Self::NothingToContinue => "continuation outside a message",
            Self::MessageInsideMessage => "message inside a fragmented message",
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A frame header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whether this is the last fragment of its message.
    pub fin: bool,
    /// The bit that permessage-deflate uses (RFC 7692 6).
    pub rsv1: bool,
    /// The opcode.
    pub opcode: OpCode,
    /// The key that masks the payload. `None` means that it is not masked.
    pub mask: Option<MaskKey>,
    /// The length of the payload in bytes, at most 2^63 - 1.
    pub length: u64,
}

impl Header {
    /// Reads a header from the start of `bytes`. Returns the header and its size. `None` means that it needs more bytes.
    ///
    /// # Errors
    /// [`Violation`] if the header itself is invalid. The [scanner](super::scanner::Scanner) finds violations that
    /// depend on earlier frames.
    #[inline]
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, Violation> {
        let &[first, second, ..] = bytes else { return Ok(None) };
        if first & 0x30 != 0 {
            return Err(Violation::ReservedBits);
        }
        let opcode = OpCode::from_bits(first & 0x0f).ok_or(Violation::ReservedOpCode(first & 0x0f))?;
        let (fin, rsv1) = (first & 0x80 != 0, first & 0x40 != 0);
        if opcode.is_control() {
            check_control(fin, rsv1)?;
        }
        let size = header_size(second);
        if bytes.len() < size {
            return Ok(None);
        }
        let (length, least) = decode_length(&bytes[1..]);
        check_length(opcode, length, least)?;
        Ok(Some((Self { fin, rsv1, opcode, mask: decode_mask(bytes, size), length }, size)))
    }

    /// Reads a header with a known opcode, and ignores all other violations. `None` means that it needs more bytes, or
    /// that the opcode is unknown.
    #[must_use]
    pub fn decode_leniently(bytes: &[u8]) -> Option<(Self, usize)> {
        let &[first, second, ..] = bytes else { return None };
        let opcode = OpCode::from_bits(first & 0x0f)?;
        let (fin, rsv1) = (first & 0x80 != 0, first & 0x40 != 0);
        let size = header_size(second);
        (bytes.len() >= size).then(|| {
            let (length, _) = decode_length(&bytes[1..]);
            (Self { fin, rsv1, opcode, mask: decode_mask(bytes, size), length }, size)
        })
    }

    /// Appends the header in wire format.
    pub fn encode(&self, to: &mut Vec<u8>) {
        to.push(u8::from(self.fin) << 7 | u8::from(self.rsv1) << 6 | self.opcode.bits());
        let masked = u8::from(self.mask.is_some()) << 7;
        match self.length {
            0..=125 => to.push(masked | self.length as u8),
            126..=0xffff => {
                to.push(masked | 126);
                to.extend_from_slice(&(self.length as u16).to_be_bytes());
            }
            _ => {
                to.push(masked | 127);
                to.extend_from_slice(&self.length.to_be_bytes());
            }
        }
        if let Some(MaskKey(key)) = self.mask {
            to.extend_from_slice(&key);
        }
    }
}

/// Encodes a single frame: a whole message, or a control frame.
///
/// # Panics
/// If the payload of a control frame is over 125 bytes. Callers only pass payloads that fit.
#[must_use]
pub fn encode(opcode: OpCode, payload: &[u8], mask: Option<MaskKey>) -> Vec<u8> {
    assert!(
        !opcode.is_control() || payload.len() <= MAX_CONTROL_PAYLOAD,
        "control payloads are at most 125 bytes"
    );
    let mut frame = Vec::with_capacity(MAX_HEADER + payload.len());
    Header { fin: true, rsv1: false, opcode, mask, length: payload.len() as u64 }.encode(&mut frame);
    let start = frame.len();
    frame.extend_from_slice(payload);
    if let Some(key) = mask {
        key.apply(&mut frame[start..]);
    }
    frame
}

#[inline]
fn check_control(fin: bool, rsv1: bool) -> Result<(), Violation> {
    if rsv1 {
        Err(Violation::ReservedBits)
    } else if !fin {
        Err(Violation::ControlFragmented)
    } else {
        Ok(())
    }
}

/// Checks a length against its opcode, and against `least`, the least length that needs so many bytes.
#[inline]
fn check_length(opcode: OpCode, length: u64, least: u64) -> Result<(), Violation> {
    if length >> 63 != 0 {
        Err(Violation::LengthTooLarge)
    } else if opcode.is_control() && length > MAX_CONTROL_PAYLOAD as u64 {
        Err(Violation::ControlTooLong)
    } else if length < least {
        Err(Violation::LengthNotMinimal)
    } else {
        Ok(())
    }
}

/// The key in a header of `size` bytes.
#[inline]
fn decode_mask(bytes: &[u8], size: usize) -> Option<MaskKey> {
    (bytes[1] & 0x80 != 0).then(|| {
        let mut key = [0; 4];
        key.copy_from_slice(&bytes[size - 4..size]);
        MaskKey(key)
    })
}

/// The size of a header, told by its second byte.
#[inline]
pub(super) fn header_size(second: u8) -> usize {
    let extended = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    2 + extended + if second & 0x80 != 0 { 4 } else { 0 }
}

/// Reads the payload length from the second byte on, and the least that is written in so many bytes.
#[inline]
fn decode_length(bytes: &[u8]) -> (u64, u64) {
    match bytes[0] & 0x7f {
        126 => (u64::from(u16::from_be_bytes([bytes[1], bytes[2]])), 126),
        127 => {
            let mut wide = [0; 8];
            wide.copy_from_slice(&bytes[1..9]);
            (u64::from_be_bytes(wide), 0x1_0000)
        }
        short => (u64::from(short), 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn header()(fin: bool, kind in 0..5_u8, length in prop_oneof![0..130_u64, 65530..65540_u64, 0..1_u64 << 20],
            mask in proptest::option::of(any::<[u8; 4]>())) -> Header
        {
            let opcode = [OpCode::Text, OpCode::Binary, OpCode::Ping, OpCode::Pong, OpCode::Close][usize::from(kind)];
            let control = opcode.is_control();
            Header { fin: fin || control, rsv1: false, opcode, mask: mask.map(MaskKey),
                length: if control { length % 126 } else { length } }
        }
    }

    proptest! {
        #[test]
        fn a_header_reads_back(header in header()) {
            let mut wire = Vec::new();
            header.encode(&mut wire);
            prop_assert_eq!(Header::decode(&wire).unwrap(), Some((header, wire.len())));
            for short in 0..wire.len() {
                prop_assert_eq!(Header::decode(&wire[..short]).unwrap(), None);
            }
        }
    }
}
