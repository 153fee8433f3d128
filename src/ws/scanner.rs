//! Owns a scanner that finds frame boundaries in a stream of arbitrary chunks, without touching payloads. It must not
//! know what happens to the frames.

use super::frame::{Header, MAX_CONTROL_FRAME, MAX_CONTROL_PAYLOAD, OpCode, Violation, header_size};

/// What the scanner found next.
#[derive(Debug)]
pub struct Event {
    /// What it is.
    pub found: Found,
    /// How many bytes of the input it took.
    pub taken: usize,
    /// All its bytes, if some of them came with an earlier input.
    held: Option<Box<Held>>,
}

impl Event {
    /// The bytes of the event as they came. `input` is the input in which it was found.
    #[must_use]
    pub fn bytes<'a>(&'a self, input: &'a [u8]) -> &'a [u8] {
        self.held.as_ref().map_or(&input[..self.taken], |held| held.bytes())
    }

    /// Whether all bytes of the event are in the input.
    #[must_use]
    pub fn is_contiguous(&self) -> bool {
        self.held.is_none()
    }
}

/// The kinds of event.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// The header of a data frame. When its length is 0, the frame ends with it.
    Data(Header),
    /// A part of a data frame's payload.
    Payload {
        /// The frame ends here.
        ends_frame: bool,
        /// And its message with it.
        ends_message: bool,
    },
    /// A whole control frame.
    Control(Header),
    /// An invalid Pong, or a continuation of one, after [`Scanner::tolerate_pongs`]. It covers the whole frame for payloads
    /// up to 125 bytes, and the header alone for longer ones.
    BadPong(Header, Violation),
    /// A part of the payload that follows such a header.
    BadPayload,
}

/// The data that [`Scanner::take_data`] took.
#[derive(Debug, PartialEq, Eq)]
pub struct Data {
    /// The header of the frame, if the frame begins here.
    pub header: Option<Header>,
    /// How many bytes of the input it took.
    pub taken: usize,
    /// The frame ends here.
    pub ends_frame: bool,
    /// And its message with it.
    pub ends_message: bool,
}

/// Finds frame boundaries in one direction of a connection.
///
/// Payloads of data frames pass chunk by chunk. The scanner holds back headers and whole control frames until they are
/// complete: at most 139 bytes, in a buffer that exists only while one is split over two reads. So a direction is
/// between two frames whenever no payload is owed.
#[derive(Debug)]
pub struct Scanner {
    /// Payload bytes of the current data frame that are still to come.
    owed: u64,
    /// Payload bytes that the headers of the current message have announced so far.
    message: u64,
    held: Option<Box<Held>>,
    rules: Rules,
    in_message: bool,
    last_fragment: bool,
    any_length: bool,
    bad_pongs: bool,
    /// Whether the last invalid Pong announced that more of it follows.
    in_bad_pong: bool,
    /// Whether the owed bytes are the payload of an invalid Pong.
    owes_bad_payload: bool,
}

/// The rules for the headers of a direction.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Whether frames must be masked: true from a client, false from a server.
    pub masked: bool,
    /// Whether the handshake agreed on permessage-deflate, so that RSV1 may mark the first frame of a message.
    pub deflate: bool,
}

impl Scanner {
    /// A scanner at the beginning of a stream.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self {
            owed: 0,
            message: 0,
            held: None,
            rules,
            in_message: false,
            last_fragment: true,
            any_length: false,
            bad_pongs: false,
            in_bad_pong: false,
            owes_bad_payload: false,
        }
    }

    /// Sets whether lengths that are not minimal are accepted from now on.
    pub fn tolerate_lengths(&mut self, tolerate: bool) {
        self.any_length = tolerate;
    }

    /// Reports Pongs that break a rule as [`Found::BadPong`] from now on, because they may answer one of Holdline's
    /// Pings.
    pub fn tolerate_pongs(&mut self) {
        self.bad_pongs = true;
    }

    /// Returns whether the last [`Found::BadPong`] announced that more of it follows, and clears that.
    pub fn take_unfinished_pong(&mut self) -> bool {
        std::mem::take(&mut self.in_bad_pong)
    }

    /// Whether no data frame is incomplete, so that a frame may be injected here.
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        self.owed == 0 || self.owes_bad_payload
    }

    /// Whether the scanner holds a part of a header or of a control frame.
    #[must_use]
    pub fn holds_back(&self) -> bool {
        self.held.is_some()
    }

    /// Payload bytes that the headers of the current message have announced so far. A compressed message counts
    /// compressed.
    #[must_use]
    pub fn message_size(&self) -> u64 {
        self.message
    }

    /// Takes the held bytes of an incomplete header or control frame. Callers need them when the stream ends, or when
    /// they stop reading frames.
    pub fn take_held(&mut self) -> Option<Box<Held>> {
        self.held.take()
    }

    /// Takes the data at the start of `input`: the rest of a frame, or a frame as far as it has come. `None` means that
    /// the next event is something else, breaks a rule, or makes a message longer than `most`.
    #[inline]
    pub fn take_data(&mut self, input: &[u8], most: u64) -> Option<Data> {
        let (mut header, mut size) = (None, 0);
        if self.owed == 0 {
            let (next, length) = Header::decode(input).ok()??;
            if self.held.is_some() || next.opcode.is_control() || self.check(&next).is_err() {
                return None;
            }
            let before = if self.in_message { self.message } else { 0 };
            if before.saturating_add(next.length) > most {
                return None;
            }
            self.begin_data(&next);
            (header, size) = (Some(next), length);
        } else if self.owes_bad_payload || input.is_empty() {
            return None;
        }
        let payload = self.owed.min((input.len() - size) as u64);
        self.owed -= payload;
        let ends_frame = self.owed == 0;
        let taken = size + payload as usize;
        Some(Data { header, taken, ends_frame, ends_message: ends_frame && self.last_fragment })
    }

    /// Finds the next event in `input`. `None` means that `input` is empty, or that the scanner holds all of it.
    ///
    /// # Errors
    /// [`Violation`] if the next header breaks a rule. The scanner has taken nothing of `input` then. The offending
    /// header is still in the held bytes and in `input`.
    pub fn next(&mut self, input: &[u8]) -> Result<Option<Event>, Violation> {
        if input.is_empty() {
            return Ok(None);
        }
        if self.owed > 0 {
            return Ok(Some(self.payload(input)));
        }
        if self.held.is_some() {
            return self.resume(input);
        }
        let Some(unit) = self.identify(input)? else { return Ok(self.hold(input)) };
        if input.len() < unit.size {
            return Ok(self.hold(input));
        }
        let found = self.begin(&unit);
        Ok(Some(Event { found, taken: unit.size, held: None }))
    }

    fn payload(&mut self, input: &[u8]) -> Event {
        let taken = usize::try_from(self.owed).unwrap_or(usize::MAX).min(input.len());
        self.owed -= taken as u64;
        let ends_frame = self.owed == 0;
        if self.owes_bad_payload {
            self.owes_bad_payload = !ends_frame;
            return Event { found: Found::BadPayload, taken, held: None };
        }
        let found = Found::Payload { ends_frame, ends_message: ends_frame && self.last_fragment };
        Event { found, taken, held: None }
    }

    fn hold(&mut self, input: &[u8]) -> Option<Event> {
        let mut held = Box::new(Held { len: 0, bytes: [0; MAX_CONTROL_FRAME] });
        held.push(input);
        self.held = Some(held);
        None
    }

    /// Continues a header or control frame that an earlier input began. It works on a copy, so that an error does not
    /// change the held bytes.
    fn resume(&mut self, input: &[u8]) -> Result<Option<Event>, Violation> {
        let mut unit = self.held.clone().expect("only called while something is held");
        let mut taken = 0;
        loop {
            let known = self.identify(unit.bytes())?;
            let needed = known.as_ref().map_or_else(|| unit.header_needs(), |known| known.size);
            let step = needed.saturating_sub(unit.bytes().len()).min(input.len() - taken);
            unit.push(&input[taken..taken + step]);
            taken += step;
            if unit.bytes().len() < needed {
                self.held = Some(unit);
                return Ok(None);
            }
            let Some(known) = known else { continue };
            self.held = None;
            return Ok(Some(Event { found: self.begin(&known), taken, held: Some(unit) }));
        }
    }

    /// Reads what begins here. `None` means that the header is incomplete.
    fn identify(&self, bytes: &[u8]) -> Result<Option<Unit>, Violation> {
        let (header, size) = match Header::decode(bytes) {
            Ok(None) => return Ok(None),
            Ok(Some(found)) => found,
            Err(violation) => return self.tolerate(bytes, violation),
        };
        if let Err(violation) = self.check(&header) {
            return self.tolerate(bytes, violation);
        }
        let payload = if header.opcode.is_control() { header.length as usize } else { 0 };
        Ok(Some(Unit { header, size: size + payload, broken: None }))
    }

    /// Reads what begins here in spite of a violation, if the scanner tolerates that.
    #[cold]
    fn tolerate(&self, bytes: &[u8], violation: Violation) -> Result<Option<Unit>, Violation> {
        let opcode = bytes[0] & 0x0f;
        let goes_on = opcode == 0x0 && self.in_bad_pong && !self.in_message;
        let is_pong = self.bad_pongs && (opcode == 0xa || goes_on);
        let is_readable = self.any_length && violation == Violation::LengthNotMinimal;
        if !is_pong && !is_readable {
            return Err(violation);
        }
        let Some((header, mut size)) = Header::decode_leniently(bytes) else { return Ok(None) };
        if !is_pong {
            self.check(&header)?;
        }
        if header.opcode.is_control() || is_pong {
            size += if header.length <= MAX_CONTROL_PAYLOAD as u64 { header.length as usize } else { 0 };
        }
        Ok(Some(Unit { header, size, broken: is_pong.then_some(violation) }))
    }

    /// Checks the rules that depend on earlier frames.
    fn check(&self, header: &Header) -> Result<(), Violation> {
        let first = matches!(header.opcode, OpCode::Text | OpCode::Binary);
        if header.mask.is_some() != self.rules.masked {
            return Err(if self.rules.masked { Violation::Unmasked } else { Violation::Masked });
        }
        if header.rsv1 && !(self.rules.deflate && first) {
            return Err(Violation::ReservedBits);
        }
        match header.opcode {
            OpCode::Continuation if !self.in_message => Err(Violation::NothingToContinue),
            OpCode::Text | OpCode::Binary if self.in_message => Err(Violation::MessageInsideMessage),
            _ => Ok(()),
        }
    }

    fn begin(&mut self, unit: &Unit) -> Found {
        let Unit { header, broken, .. } = unit;
        if let Some(violation) = broken {
            self.in_bad_pong = !header.fin;
            if header.length > MAX_CONTROL_PAYLOAD as u64 {
                (self.owed, self.owes_bad_payload) = (header.length, true);
            }
            return Found::BadPong(*header, *violation);
        }
        if header.opcode.is_control() {
            return Found::Control(*header);
        }
        self.begin_data(header);
        Found::Data(*header)
    }

    #[inline]
    fn begin_data(&mut self, header: &Header) {
        if !self.in_message {
            self.message = 0;
        }
        self.owed = header.length;
        self.message = self.message.saturating_add(header.length);
        self.in_message = !header.fin;
        self.last_fragment = header.fin;
        self.in_bad_pong = false;
    }
}

/// A header, or a whole control frame.
#[derive(Debug)]
struct Unit {
    header: Header,
    /// Its bytes.
    size: usize,
    /// The rule that it breaks. `None` means that it is valid.
    broken: Option<Violation>,
}

/// Bytes of an unfinished header or control frame.
#[derive(Clone, Debug)]
pub struct Held {
    len: u8,
    bytes: [u8; MAX_CONTROL_FRAME],
}

impl Held {
    /// The bytes so far.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    fn push(&mut self, more: &[u8]) {
        let at = usize::from(self.len);
        self.bytes[at..at + more.len()].copy_from_slice(more);
        self.len += more.len() as u8;
    }

    /// How many bytes the header has in all, as far as its bytes tell.
    fn header_needs(&self) -> usize {
        self.bytes().get(1).map_or(2, |&second| header_size(second))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CLIENT: Rules = Rules { masked: true, deflate: false };
    const SERVER: Rules = Rules { masked: false, deflate: false };

    /// Scans `wire` in chunks of `chunk` bytes, both ways; the headers found, and all bytes as they were taken.
    fn scan(wire: &[u8], chunk: usize, rules: Rules) -> Result<(Vec<Header>, Vec<u8>), Violation> {
        let (events, shortly) =
            (scan_one_way(wire, chunk, rules, false), scan_one_way(wire, chunk, rules, true));
        assert_eq!(events, shortly);
        shortly
    }

    /// By [`Scanner::take_data`] where it takes something, or without it.
    fn scan_one_way(
        wire: &[u8],
        chunk: usize,
        rules: Rules,
        short: bool,
    ) -> Result<(Vec<Header>, Vec<u8>), Violation> {
        let mut scanner = Scanner::new(rules);
        let (mut headers, mut bytes) = (Vec::new(), Vec::new());
        for mut input in wire.chunks(chunk) {
            loop {
                if short && let Some(data) = scanner.take_data(input, u64::MAX) {
                    bytes.extend_from_slice(&input[..data.taken]);
                    headers.extend(data.header);
                    input = &input[data.taken..];
                    continue;
                }
                let Some(event) = scanner.next(input)? else { break };
                bytes.extend_from_slice(event.bytes(input));
                input = &input[event.taken..];
                if let Found::Data(header) | Found::Control(header) = event.found {
                    headers.push(header);
                }
            }
        }
        Ok((headers, bytes))
    }

    fn violation(wire: &[u8], rules: Rules) -> Violation {
        let whole = scan(wire, wire.len(), rules).expect_err("a violation");
        assert_eq!(scan(wire, 1, rules).expect_err("byte by byte too"), whole);
        whole
    }

    #[test]
    fn reads_the_examples_of_the_rfc() {
        let masked_hello = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        let (headers, _) = scan(&masked_hello, 3, CLIENT).unwrap();
        assert_eq!(headers.len(), 1);
        assert_eq!((headers[0].opcode, headers[0].length), (OpCode::Text, 5));
        let fragments = [0x01, 0x03, 0x48, 0x65, 0x6c, 0x80, 0x02, 0x6c, 0x6f];
        let (headers, _) = scan(&fragments, 1, SERVER).unwrap();
        assert_eq!(headers.iter().map(|h| h.fin).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn names_every_violation() {
        assert_eq!(violation(&[0xc1, 0x00], SERVER), Violation::ReservedBits);
        assert_eq!(violation(&[0xa1, 0x00], SERVER), Violation::ReservedBits);
        assert_eq!(violation(&[0xc9, 0x00], Rules { masked: false, deflate: true }), Violation::ReservedBits);
        assert_eq!(violation(&[0x83, 0x00], SERVER), Violation::ReservedOpCode(3));
        assert_eq!(violation(&[0x81, 0x00], CLIENT), Violation::Unmasked);
        assert_eq!(violation(&[0x81, 0x80, 0, 0, 0, 0], SERVER), Violation::Masked);
        assert_eq!(violation(&[0x89, 0x7e, 0x00, 0x7e], SERVER), Violation::ControlTooLong);
        assert_eq!(violation(&[0x09, 0x00], SERVER), Violation::ControlFragmented);
        assert_eq!(violation(&[0x82, 0x7e, 0x00, 0x7d], SERVER), Violation::LengthNotMinimal);
        assert_eq!(
            violation(&[0x82, 0x7f, 0, 0, 0, 0, 0, 0, 0xff, 0xff], SERVER),
            Violation::LengthNotMinimal
        );
        assert_eq!(violation(&[0x82, 0x7f, 0x80, 0, 0, 0, 0, 0, 0, 0], SERVER), Violation::LengthTooLarge);
        assert_eq!(violation(&[0x80, 0x00], SERVER), Violation::NothingToContinue);
        assert_eq!(violation(&[0x01, 0x00, 0x81, 0x00], SERVER), Violation::MessageInsideMessage);
    }

    #[test]
    fn deflate_allows_rsv1_on_the_first_frame_only() {
        let rules = Rules { masked: false, deflate: true };
        assert!(scan(&[0xc1, 0x00], 2, rules).is_ok());
        assert_eq!(violation(&[0x41, 0x00, 0xc0, 0x00], rules), Violation::ReservedBits);
    }

    #[test]
    fn what_is_held_survives_a_violation() {
        let mut scanner = Scanner::new(SERVER);
        assert!(scanner.next(&[0x82, 0x7e, 0x00]).unwrap().is_none());
        assert_eq!(scanner.next(&[0x01, 0xff]).unwrap_err(), Violation::LengthNotMinimal);
        assert_eq!(scanner.take_held().unwrap().bytes(), [0x82, 0x7e, 0x00]);
    }

    #[test]
    fn a_partial_header_leaves_the_direction_at_a_boundary() {
        let mut scanner = Scanner::new(SERVER);
        assert!(scanner.next(&[0x82]).unwrap().is_none());
        assert!(scanner.at_boundary());
        let event = scanner.next(&[0x02, 1]).unwrap().unwrap();
        assert!(matches!(event.found, Found::Data(Header { length: 2, .. })));
        assert!(!scanner.at_boundary());
    }

    #[test]
    fn data_is_taken_up_to_the_size_of_a_message() {
        let mut scanner = Scanner::new(SERVER);
        let first = scanner.take_data(&[0x01, 2, 7, 7], 3).unwrap();
        assert_eq!((first.taken, first.ends_frame, first.ends_message), (4, true, false));
        assert_eq!(scanner.take_data(&[0x80, 2, 7, 7], 3), None, "a message of 4 bytes");
        let last = scanner.take_data(&[0x80, 2, 7], 4).unwrap();
        assert_eq!((last.taken, last.ends_frame, last.ends_message), (3, false, false));
        let rest = Data { header: None, taken: 1, ends_frame: true, ends_message: true };
        assert_eq!(scanner.take_data(&[7, 0x89, 0], 0), Some(rest));
        assert_eq!(scanner.take_data(&[0x89, 0], 4), None, "a Ping");
        assert!(scanner.next(&[0x82]).unwrap().is_none());
        assert_eq!(scanner.take_data(&[0x82, 0], 4), None, "something is held back");
    }

    proptest! {
        #[test]
        fn chunking_changes_nothing(frames in proptest::collection::vec((0..4_u8, 0..300_usize), 1..12), chunk in 1..64_usize) {
            let mut wire = Vec::new();
            for (kind, length) in frames {
                let opcode = [OpCode::Text, OpCode::Binary, OpCode::Ping, OpCode::Pong][usize::from(kind)];
                let length = if opcode.is_control() { length % 126 } else { length };
                let header = Header { fin: true, rsv1: false, opcode, mask: None, length: length as u64 };
                header.encode(&mut wire);
                wire.extend(std::iter::repeat_n(7, length));
            }
            let whole = scan(&wire, wire.len(), SERVER).unwrap();
            prop_assert_eq!(&whole.1, &wire);
            prop_assert_eq!(scan(&wire, chunk, SERVER).unwrap(), whole);
        }
    }
}
