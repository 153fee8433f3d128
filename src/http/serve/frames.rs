//! Owns where a client's stream of HTTP/2 stands between its frames, as far as timeouts want to know:
//! bytes in, no clock. What frames say is hyper's affair.

/// The stream so far.
#[derive(Debug)]
pub(super) struct Frames {
    /// Bytes that are missing of the preface (RFC 9113 3.4), which nothing can come before.
    preface: usize,
    /// The head of the frame that comes, as far as it is there.
    head: [u8; HEAD],
    read: usize,
    /// Bytes that are missing of its payload.
    left: usize,
    /// A block of header fields has begun, and its last frame has not come (RFC 9113 4.3).
    block: bool,
}

impl Default for Frames {
    fn default() -> Self {
        Self { preface: PREFACE, head: [0; HEAD], read: 0, left: 0, block: false }
    }
}

impl Frames {
    /// Takes what came. Whether in it, or at its end, there was a moment at which nothing was half there.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) -> bool {
        let mut was_whole = false;
        while !bytes.is_empty() {
            let taken;
            if self.preface > 0 {
                taken = self.preface.min(bytes.len());
                self.preface -= taken;
            } else if self.left > 0 {
                taken = self.left.min(bytes.len());
                self.left -= taken;
                self.read = if self.left > 0 { HEAD } else { 0 };
            } else {
                taken = (HEAD - self.read).min(bytes.len());
                self.head[self.read..self.read + taken].copy_from_slice(&bytes[..taken]);
                self.read += taken;
                if self.read == HEAD {
                    self.begin();
                }
            }
            bytes = &bytes[taken..];
            was_whole |= !self.is_half();
        }
        was_whole
    }

    /// Whether something is half there that takes no time: anything but data.
    pub(super) fn is_half(&self) -> bool {
        let is_data = self.left > 0 && self.head[3] == DATA;
        self.preface > 0 || self.block || (self.read > 0 && !is_data)
    }

    fn begin(&mut self) {
        let [high, middle, low, kind, flags, ..] = self.head;
        self.left = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        if matches!(kind, HEADERS | CONTINUATION) {
            self.block = flags & END_HEADERS == 0;
        }
        if self.left == 0 {
            self.read = 0;
        }
    }
}

/// `PRI * HTTP/2.0`, two empty lines and `SM` between them.
const PREFACE: usize = 24;
/// RFC 9113 4.1.
const HEAD: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    fn opened() -> Frames {
        let mut frames = Frames::default();
        assert!(frames.is_half());
        assert!(frames.pass(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"));
        frames
    }

    #[test]
    fn what_is_half_there_is_known_however_bytes_are_cut() {
        let whole = [frame(4, 0, b""), frame(1, 4, b"abc"), frame(6, 0, b"12345678")].concat();
        let ends = [9, 21, 38];
        for step in [1, 2, 5, 38] {
            let mut frames = opened();
            let mut end = 0;
            for bytes in whole.chunks(step) {
                let begun = end;
                end += bytes.len();
                let passed = ends.iter().any(|at| (begun + 1..=end).contains(at));
                assert_eq!(frames.pass(bytes), passed, "up to {end}");
                assert_eq!(frames.is_half(), !ends.contains(&end), "up to {end}");
            }
        }
    }

    #[test]
    fn a_block_without_its_last_frame_is_half_there() {
        let mut frames = opened();
        assert!(!frames.pass(&frame(1, 0, b"abc")));
        for _ in 0..3 {
            assert!(!frames.pass(&frame(9, 0, b"")));
        }
        assert!(frames.is_half());
        assert!(frames.pass(&frame(9, 4, b"d")) && !frames.is_half());
    }

    #[test]
    fn data_may_take_its_time() {
        let mut frames = opened();
        let data = frame(0, 0, &[7; 300]);
        assert!(!frames.pass(&data[..5]) && frames.is_half());
        assert!(frames.pass(&data[5..100]) && !frames.is_half());
        assert!(frames.pass(&data[100..]) && !frames.is_half());
    }
}
