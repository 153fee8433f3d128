//! Owns what is held of the scanner: the same events for every chunking of the same bytes, all bytes
//! in the events or held, and little held; and the same by the short way of data.
//!
//! The first byte of an input chooses the rules, the second says how many of the following are the
//! lengths of chunks (used in turn, 0 standing for the rest); what is left is the wire.

#![no_main]

use holdline::testing::ws::frame::{Header, MAX_CONTROL_FRAME, Violation};
use holdline::testing::ws::scanner::{Data, Found, Rules, Scanner};
use libfuzzer_sys::fuzz_target;

/// What a scan found, payload by payload joined: chunks split those, and nothing else.
#[derive(Debug, Default, PartialEq)]
struct Scan {
    frames: Vec<Frame>,
    violation: Option<Violation>,
    /// The bytes of all events, then what was held, then what a violation left.
    bytes: Vec<u8>,
    /// How far the events went.
    taken: usize,
}

#[derive(Debug, PartialEq)]
struct Frame {
    header: Header,
    payload: usize,
    ended: bool,
    ends_message: bool,
    message_size: u64,
}

fn scan(wire: &[u8], lengths: &[u8], rules: Rules, shortly: bool) -> Scan {
    let mut scanner = Scanner::new(rules);
    let (mut scan, mut rest, mut turn) = (Scan::default(), wire, 0);
    while !rest.is_empty() && scan.violation.is_none() {
        let length = lengths.get(turn % lengths.len().max(1)).map_or(0, |&length| usize::from(length));
        turn += 1;
        let chunk = &rest[..if length == 0 { rest.len() } else { length.min(rest.len()) }];
        rest = &rest[chunk.len()..];
        let mut input = chunk;
        loop {
            if shortly && let Some(data) = scanner.take_data(input, u64::MAX) {
                assert!(data.taken > 0 && data.taken <= input.len(), "data takes some input");
                scan.bytes.extend_from_slice(&input[..data.taken]);
                note_data(&mut scan, &scanner, &data);
                input = &input[data.taken..];
                continue;
            }
            match scanner.next(input) {
                Ok(Some(event)) => {
                    assert!(event.taken > 0 && event.taken <= input.len(), "an event takes some input");
                    let bytes = event.bytes(input);
                    assert!(!event.is_contiguous() || bytes == &input[..event.taken]);
                    scan.bytes.extend_from_slice(bytes);
                    note(&mut scan, &scanner, &event.found, bytes.len());
                    input = &input[event.taken..];
                }
                Ok(None) => break,
                Err(violation) => {
                    scan.violation = Some(violation);
                    scan.taken = scan.bytes.len();
                    let held = scanner.take_held();
                    scan.bytes.extend_from_slice(held.as_ref().map_or(&[], |held| held.bytes()));
                    scan.bytes.extend_from_slice(input);
                    scan.bytes.extend_from_slice(rest);
                    break;
                }
            }
        }
    }
    if scan.violation.is_none() {
        scan.taken = scan.bytes.len();
        if let Some(held) = scanner.take_held() {
            assert!(scanner.at_boundary(), "what is held stands between two frames");
            assert!(held.bytes().len() < MAX_CONTROL_FRAME, "what is complete is not held");
            scan.bytes.extend_from_slice(held.bytes());
        }
    }
    scan
}

fn note_data(scan: &mut Scan, scanner: &Scanner, data: &Data) {
    assert_eq!(data.ends_frame, scanner.at_boundary());
    let mut payload = data.taken;
    if let Some(header) = data.header {
        let mut wire = Vec::new();
        header.encode(&mut wire);
        payload -= wire.len();
        let message_size = scanner.message_size();
        scan.frames.push(Frame { header, payload: 0, ended: false, ends_message: false, message_size });
    }
    let frame = scan.frames.last_mut().expect("a payload stands behind its header");
    assert!(!frame.ended && !frame.header.opcode.is_control());
    frame.payload += payload;
    (frame.ended, frame.ends_message) = (data.ends_frame, data.ends_message);
}

fn note(scan: &mut Scan, scanner: &Scanner, found: &Found, length: usize) {
    match *found {
        Found::Data(header) => {
            let ended = header.length == 0;
            assert_eq!(ended, scanner.at_boundary());
            scan.frames.push(Frame {
                header,
                payload: 0,
                ended,
                ends_message: ended && header.fin,
                message_size: scanner.message_size(),
            });
        }
        Found::Payload { ends_frame, ends_message } => {
            let frame = scan.frames.last_mut().expect("a payload stands behind its header");
            assert!(!frame.ended && !frame.header.opcode.is_control());
            frame.payload += length;
            (frame.ended, frame.ends_message) = (ends_frame, ends_message);
            assert_eq!(ends_frame, frame.payload as u64 == frame.header.length);
            assert_eq!(ends_message, ends_frame && frame.header.fin);
        }
        Found::Control(header) => {
            assert!(scanner.at_boundary() && length <= MAX_CONTROL_FRAME);
            let ended = true;
            scan.frames.push(Frame { header, payload: 0, ended, ends_message: false, message_size: 0 });
        }
        Found::BadPong(..) | Found::BadPayload => panic!("nobody asked for Pongs that break a rule"),
    }
}

fuzz_target!(|input: &[u8]| {
    let [rules, count, rest @ ..] = input else { return };
    let rules = Rules { masked: rules & 1 != 0, deflate: rules & 2 != 0 };
    let (lengths, wire) = rest.split_at(usize::from(*count).min(rest.len()));
    let whole = scan(wire, &[], rules, false);
    assert_eq!(whole.bytes, wire, "bytes out are bytes in");
    for shortly in [false, true] {
        for lengths in [lengths, &[], &[1]] {
            assert_eq!(scan(wire, lengths, rules, shortly), whole);
        }
    }
});
