//! Owns frames on the wire, as far as an echo and its load need them (RFC 6455 5.2). Nothing is checked that a
//! proxy under test could not get wrong.

/// Binary message.
pub const BINARY: u8 = 0x2;
/// Close.
pub const CLOSE: u8 = 0x8;
/// Ping.
pub const PING: u8 = 0x9;
/// Pong.
pub const PONG: u8 = 0xa;

/// What stands before a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whether a message ends with this frame.
    pub fin: bool,
    /// RFC 6455 11.8.
    pub opcode: u8,
    /// Bytes of payload.
    pub length: u64,
    /// The mask of a client's frame.
    pub mask: Option<[u8; 4]>,
}

impl Header {
    /// Whether its payload is that of a message, not of a control frame.
    pub fn is_data(self) -> bool {
        self.opcode < CLOSE
    }

    /// Appends it as it is sent.
    pub fn write(self, out: &mut Vec<u8>) {
        let masked = if self.mask.is_some() { 0x80 } else { 0 };
        out.push(self.opcode | if self.fin { 0x80 } else { 0 });
        match self.length {
            0..=125 => out.push(masked | self.length as u8),
            126..=0xffff => {
                out.push(masked | 126);
                out.extend_from_slice(&(self.length as u16).to_be_bytes());
            }
            _ => {
                out.push(masked | 127);
                out.extend_from_slice(&self.length.to_be_bytes());
            }
        }
        out.extend_from_slice(self.mask.as_ref().map_or(&[], |mask| mask.as_slice()));
    }

    /// Reads it from its whole bytes, as many as `wanted` says.
    fn read(bytes: &[u8]) -> Self {
        let (length, after) = match bytes[1] & 0x7f {
            126 => (u64::from(u16::from_be_bytes([bytes[2], bytes[3]])), 4),
            127 => (bytes[2..10].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)), 10),
            short => (u64::from(short), 2),
        };
        let mask = (bytes[1] & 0x80 != 0)
            .then(|| [bytes[after], bytes[after + 1], bytes[after + 2], bytes[after + 3]]);
        Self { fin: bytes[0] & 0x80 != 0, opcode: bytes[0] & 0x0f, length, mask }
    }

    /// How long a header is that begins so; of less than two bytes only that there must be two.
    fn wanted(bytes: &[u8]) -> usize {
        let Some(second) = bytes.get(1) else { return 2 };
        let extended = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + extended + if second & 0x80 != 0 { 4 } else { 0 }
    }
}

/// What comes next of a stream of frames.
pub enum Part<'a> {
    /// A frame begins.
    Header(Header),
    /// Some of its payload, without its mask; of each frame there is a last one, perhaps empty.
    Payload {
        /// The bytes.
        bytes: &'a mut [u8],
        /// Whether the frame ends with them.
        last: bool,
    },
}

/// Finds frames in bytes, however they are cut.
#[derive(Default)]
pub struct Decoder {
    held: [u8; 14],
    have: usize,
    frame: Option<(Header, u64)>,
}

impl Decoder {
    /// The next part of the input, which is shortened by it; `None`: more input is needed.
    pub fn next<'a>(&mut self, input: &mut &'a mut [u8]) -> Option<Part<'a>> {
        let Some((header, left)) = self.frame else { return self.header(input).map(Part::Header) };
        if left > 0 && input.is_empty() {
            return None;
        }
        let taken = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
        let (bytes, rest) = std::mem::take(input).split_at_mut(taken);
        *input = rest;
        if let Some(mask) = header.mask {
            apply_mask(bytes, mask, header.length - left);
        }
        let left = left - taken as u64;
        self.frame = (left > 0).then_some((header, left));
        Some(Part::Payload { bytes, last: left == 0 })
    }

    fn header(&mut self, input: &mut &mut [u8]) -> Option<Header> {
        loop {
            let wanted = Header::wanted(&self.held[..self.have]);
            if self.have == wanted {
                let header = Header::read(&self.held);
                self.have = 0;
                self.frame = Some((header, header.length));
                return Some(header);
            }
            let taken = (wanted - self.have).min(input.len());
            if taken == 0 {
                return None;
            }
            let (bytes, rest) = std::mem::take(input).split_at_mut(taken);
            *input = rest;
            self.held[self.have..self.have + taken].copy_from_slice(bytes);
            self.have += taken;
        }
    }
}

/// Masks bytes that stand `offset` bytes behind the beginning of their payload, or unmasks them.
pub fn apply_mask(bytes: &mut [u8], mask: [u8; 4], offset: u64) {
    let turned: [u8; 4] = std::array::from_fn(|at| mask[(offset as usize + at) % 4]);
    let wide = u64::from_ne_bytes(std::array::from_fn(|at| turned[at % 4]));
    let mut words = bytes.chunks_exact_mut(8);
    for word in &mut words {
        let masked = u64::from_ne_bytes(std::array::from_fn(|at| word[at])) ^ wide;
        word.copy_from_slice(&masked.to_ne_bytes());
    }
    for (at, byte) in words.into_remainder().iter_mut().enumerate() {
        *byte ^= turned[at % 4];
    }
}

/// What all messages of this size say.
pub fn payload(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at * 31 + at / 256) as u8).collect()
}

/// A message of a client, as it is sent.
pub fn message(payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let mut out = Vec::with_capacity(14 + payload.len());
    Header { fin: true, opcode: BINARY, length: payload.len() as u64, mask: Some(mask) }.write(&mut out);
    let begin = out.len();
    out.extend_from_slice(payload);
    apply_mask(&mut out[begin..], mask, 0);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The messages in bytes that come in chunks of this size.
    fn decoded(wire: &[u8], chunk: usize) -> Vec<Vec<u8>> {
        let (mut decoder, mut messages, mut message) = (Decoder::default(), Vec::new(), Vec::new());
        for chunk in wire.chunks(chunk) {
            let mut owned = chunk.to_vec();
            let mut input = owned.as_mut_slice();
            while let Some(part) = decoder.next(&mut input) {
                if let Part::Payload { bytes, last } = part {
                    message.extend_from_slice(bytes);
                    if last {
                        messages.push(std::mem::take(&mut message));
                    }
                }
            }
        }
        messages
    }

    #[test]
    fn messages_survive_any_cut() {
        for size in [0, 1, 64, 125, 126, 4096, 65535, 65536, 100_000] {
            let wire = [message(&payload(size)), message(b"end")].concat();
            for chunk in [1, 2, 3, 7, 13, 4096, wire.len()] {
                assert_eq!(decoded(&wire, chunk), [payload(size), b"end".to_vec()], "{size} in {chunk}");
            }
        }
    }

    #[test]
    fn a_frame_of_the_rfc() {
        // RFC 6455 5.7: a masked "Hello".
        let wire = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        assert_eq!(decoded(&wire, wire.len()), [b"Hello"]);
    }

    #[test]
    fn headers_come_back() {
        for length in [0, 125, 126, 65535, 65536, 1 << 40] {
            for mask in [None, Some([1, 2, 3, 4])] {
                let header = Header { fin: length % 2 == 0, opcode: PING, length, mask };
                let mut wire = Vec::new();
                header.write(&mut wire);
                let mut input = wire.as_mut_slice();
                let Some(Part::Header(read)) = Decoder::default().next(&mut input) else { panic!() };
                assert_eq!(read, header);
            }
        }
    }
}
