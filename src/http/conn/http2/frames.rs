//! Owns the position between the frames of an HTTP/2 connection, as far as timeouts need it. It reads bytes
//! and knows no clock. h2 interprets the frames. RFC 9113 and h2 disagree on two of them: Holdline changes
//! their type before h2 sees them.

/// The position in the client's byte stream.
#[derive(Debug)]
pub(super) struct Frames {
    /// Missing bytes of the preface (RFC 9113 3.4), which must come first.
    preface: usize,
    /// The received part of the current frame header.
    head: [u8; HEAD],
    read: usize,
    /// Missing bytes of its payload.
    left: usize,
    /// A header block has begun and is not complete (RFC 9113 4.3).
    block: bool,
    /// The first frame has begun.
    opened: bool,
}

impl Default for Frames {
    fn default() -> Self {
        Self { preface: PREFACE, head: [0; HEAD], read: 0, left: 0, block: false, opened: false }
    }
}

impl Frames {
    /// Processes received bytes. Returns whether nothing was incomplete at some moment within them or at
    /// their end.
    pub(super) fn pass(&mut self, mut bytes: &mut [u8]) -> bool {
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
                if let Some(kind) = KIND.checked_sub(self.read).and_then(|at| bytes[..taken].get_mut(at)) {
                    *kind = self.kind_for_h2();
                }
                self.read += taken;
                if self.read == HEAD {
                    self.begin();
                }
            }
            bytes = &mut bytes[taken..];
            was_whole |= !self.is_half();
        }
        was_whole
    }

    /// Whether something other than DATA is incomplete.
    pub(super) fn is_half(&self) -> bool {
        let is_data = self.left > 0 && self.head[KIND] == DATA;
        self.preface > 0 || self.block || (self.read > 0 && !is_data)
    }

    /// Returns the type that h2 sees for a frame whose length and type are known.
    fn kind_for_h2(&mut self) -> u8 {
        let is_first = !std::mem::replace(&mut self.opened, true);
        match self.head[KIND] {
            // h2 accepts any frame as the first one. It answers this type with PROTOCOL_ERROR (RFC 9113 3.4).
            kind if is_first && kind != SETTINGS => CONTINUATION,
            // It is a stream error (RFC 9113 6.3), but h2 ends the connection. Endpoints ignore priorities
            // (5.3.2) and unknown frame types (4.1).
            PRIORITY if self.length() != PRIORITY_LENGTH => UNKNOWN,
            kind => kind,
        }
    }

    fn length(&self) -> usize {
        let [high, middle, low, ..] = self.head;
        usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low)
    }

    fn begin(&mut self) {
        let [_, _, _, kind, flags, ..] = self.head;
        self.left = self.length();
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
/// Offset of the type, after the length.
const KIND: usize = 3;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
/// RFC 9113 6.3.
const PRIORITY_LENGTH: usize = 5;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;
/// A type that is reserved for experiments (RFC 9113 11.2).
const UNKNOWN: u8 = 0xf0;
const END_HEADERS: u8 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// Passes a copy.
    fn pass(frames: &mut Frames, bytes: &[u8]) -> bool {
        frames.pass(&mut bytes.to_vec())
    }

    fn opened() -> Frames {
        let mut frames = Frames::default();
        assert!(frames.is_half());
        assert!(pass(&mut frames, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"));
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
                assert_eq!(pass(&mut frames, bytes), passed, "up to {end}");
                assert_eq!(frames.is_half(), !ends.contains(&end), "up to {end}");
            }
        }
    }

    #[test]
    fn a_block_without_its_last_frame_is_half_there() {
        let mut frames = opened();
        assert!(!pass(&mut frames, &frame(1, 0, b"abc")));
        for _ in 0..3 {
            assert!(!pass(&mut frames, &frame(9, 0, b"")));
        }
        assert!(frames.is_half());
        assert!(pass(&mut frames, &frame(9, 4, b"d")) && !frames.is_half());
    }

    #[test]
    fn data_may_take_its_time() {
        let mut frames = opened();
        let data = frame(0, 0, &[7; 300]);
        assert!(!pass(&mut frames, &data[..5]) && frames.is_half());
        assert!(pass(&mut frames, &data[5..100]) && !frames.is_half());
        assert!(pass(&mut frames, &data[100..]) && !frames.is_half());
    }

    /// What h2 gets of these frames, in pieces of this size.
    fn passed(frames: &[Vec<u8>], step: usize) -> Vec<u8> {
        let mut bytes = frames.concat();
        let mut state = opened();
        for piece in bytes.chunks_mut(step) {
            state.pass(piece);
        }
        bytes
    }

    #[test]
    fn a_priority_of_another_length_reaches_h2_as_a_type_that_it_ignores() {
        let (settings, headers) = (frame(4, 0, b""), frame(1, 5, &[2; 9]));
        for step in [1, 2, 3, 4, 7, 100] {
            for length in [0, 1, 4, 6, 300] {
                let sent = [settings.clone(), frame(2, 0, &[2; 300][..length]), headers.clone()];
                let expected = [settings.clone(), frame(0xf0, 0, &[2; 300][..length]), headers.clone()];
                assert_eq!(passed(&sent, step), expected.concat(), "{length} in pieces of {step}");
            }
            let good = [settings.clone(), frame(2, 0, &[2; 5]), headers.clone()];
            assert_eq!(passed(&good, step), good.concat(), "in pieces of {step}");
        }
    }

    #[test]
    fn a_first_frame_that_is_no_settings_reaches_h2_as_one_that_it_refuses() {
        for step in [1, 3, 4, 100] {
            for kind in [0, 1, 2, 6, 8, 77] {
                let (first, next) = (frame(kind, 0, &[7; 8]), frame(6, 0, &[7; 8]));
                let expected = [frame(9, 0, &[7; 8]), next.clone()].concat();
                assert_eq!(passed(&[first, next], step), expected, "{kind} in pieces of {step}");
            }
        }
    }
}
