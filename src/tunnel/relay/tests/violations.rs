//! Owns the tests of what follows when a peer breaks a rule of framing, or of Close frames.

use super::*;

#[test]
fn a_violation_makes_the_tunnel_blind() {
    let (mut relay, mut out) = (relay(settings()), Sent::default());
    relay.on_bytes(UPSTREAM, &[0x81], at(1), &mut out);
    relay.on_bytes(CLIENT, &[0x83, 0x00, 1, 2], at(1), &mut out);
    assert_eq!(out.0.upstream, [0x83, 0x00, 1, 2]);
    assert_eq!(out.0.client, [0x81], "what was held back passes");
    relay.on_timer(at(60), &mut out);
    assert_eq!(out.0.client, [0x81], "nothing is injected any more");
    assert_eq!(relay.outcome(at(60)).blind, Some("reserved opcode"));
}

#[test]
fn a_violation_closes_where_that_is_wanted() {
    let (mut relay, mut out) =
        (relay(Settings { on_violation: OnViolation::Close, ..settings() }), Sent::default());
    let bad = [frame(CLIENT, OpCode::Text, b"good"), vec![0x83, 0x80, 0, 0, 0, 0]].concat();
    relay.on_bytes(CLIENT, &bad, at(1), &mut out);
    assert_eq!(close_code(&out.frames(CLIENT)), Some(1002));
    let upstream = out.frames(UPSTREAM);
    assert_eq!((upstream.len(), close_code(&upstream)), (2, Some(1002)));
    assert_eq!(ended(&relay, at(1)), (EndedBy::Proxy, Cause::Violation, Some(1002)));
}

#[test]
fn a_length_that_is_not_minimal_is_read_and_counted() {
    let long = [[0x82, 0xfe, 0, 2, 1, 2, 3, 4, 5, 6].to_vec(), {
        let mut frame = vec![0x82, 0xff, 0, 0, 0, 0, 0, 0, 0, 2, 1, 2, 3, 4];
        frame.extend([5, 6]);
        frame
    }]
    .concat();
    let control = [0x89, 0xfe, 0, 1, 1, 2, 3, 4, 5];
    for max_message_size in [None, Some(100)] {
        for chunk in [1, 1000] {
            let (mut relay, mut out) = (relay(Settings { max_message_size, ..settings() }), Sent::default());
            let wire = [&long[..], &control, &frame(CLIENT, OpCode::Text, b"x")].concat();
            for chunk in wire.chunks(chunk) {
                relay.on_bytes(CLIENT, chunk, at(1), &mut out);
            }
            assert_eq!(out.0.upstream, wire, "as it came");
            let outcome = relay.outcome(at(1));
            assert_eq!((outcome.blind, outcome.traffic.client.messages), (None, 3));
        }
    }
}

#[test]
fn a_length_that_is_not_minimal_is_held_to_the_limit() {
    let limited = Settings { max_message_size: Some(1024), ..settings() };
    let mut big = vec![0x82, 0xff, 0, 0, 0, 0, 0, 0, 0x10, 0, 1, 2, 3, 4];
    big.resize(big.len() + 4096, 7);
    let (mut relay, mut out) = (relay(limited), Sent::default());
    relay.on_bytes(CLIENT, &[0x82, 0xfe, 0, 2, 1, 2, 3, 4, 5, 6], at(1), &mut out);
    relay.on_bytes(CLIENT, &big, at(1), &mut out);
    assert_eq!(close_code(&out.frames(CLIENT)), Some(1009));
    assert_eq!(ended(&relay, at(1)), (EndedBy::Proxy, Cause::TooBig, Some(1009)));
}

#[test]
fn a_length_that_is_not_minimal_closes_where_that_is_wanted_and_after_a_reload_too() {
    let strict = || Settings { on_violation: OnViolation::Close, ..settings() };
    for reloaded in [false, true] {
        let mut relay = relay(if reloaded { settings() } else { strict() });
        let mut out = Sent::default();
        relay.set_settings(Arc::new(strict()));
        relay.on_bytes(CLIENT, &[0x82, 0xfe, 0, 2, 1, 2, 3, 4, 5, 6], at(1), &mut out);
        assert_eq!(ended(&relay, at(1)), (EndedBy::Proxy, Cause::Violation, Some(1002)));
        assert_eq!(&*relay.outcome(at(1)).ending.reason, "length not minimal from the client");
    }
}

/// One frame for each violation by a client after which frames cannot be read.
const UNREADABLE: [&[u8]; 8] = [
    &[0xa1, 0x80, 1, 2, 3, 4],
    &[0x83, 0x80, 1, 2, 3, 4],
    &[0x82, 0x01, 7],
    &[0x89, 0xfe, 0, 126, 1, 2, 3, 4],
    &[0x08, 0x80, 1, 2, 3, 4],
    &[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4],
    &[0x80, 0x80, 1, 2, 3, 4],
    &[0x01, 0x80, 1, 2, 3, 4, 0x81, 0x80, 1, 2, 3, 4],
];

#[test]
fn no_breach_leaves_the_limit_behind() {
    for wire in UNREADABLE {
        for chunk in [1, 1000] {
            let limited = Settings { max_message_size: Some(1024), ..settings() };
            let (mut relay, mut out) = (relay(limited), Sent::default());
            for chunk in wire.chunks(chunk) {
                relay.on_bytes(CLIENT, chunk, at(1), &mut out);
            }
            relay.on_bytes(CLIENT, &[7; 5000], at(1), &mut out);
            assert_eq!(ended(&relay, at(1)), (EndedBy::Proxy, Cause::Violation, Some(1002)), "{wire:x?}");
            assert_eq!(close_code(&out.frames(CLIENT)), Some(1002));
            assert_eq!(close_code(&out.frames(UPSTREAM)), Some(1002), "and nothing behind it");
        }
        let (mut relay, mut out) = (relay(settings()), Sent::default());
        relay.on_bytes(CLIENT, wire, at(1), &mut out);
        assert_eq!(out.0.upstream, wire, "without a limit it passes");
        assert!(relay.outcome(at(1)).blind.is_some());
    }
}

/// Payloads of Close frames that RFC 6455 forbids, with the text of the fault.
fn bad_closes() -> Vec<(Vec<u8>, String)> {
    let codes = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, u16::MAX];
    let reserved = codes.map(|code| (code.to_be_bytes().to_vec(), format!("close code {code} is reserved")));
    let mut all = reserved.to_vec();
    all.push((vec![3], "close payload of one byte".to_owned()));
    all.push((vec![3, 0xe8, 0xff, 0xfe], "close reason is not UTF-8".to_owned()));
    all.push((vec![3, 0xe8, 0xc3], "close reason is not UTF-8".to_owned()));
    all
}

#[test]
fn a_close_frame_that_is_forbidden_ends_as_a_violation_where_that_is_wanted() {
    for side in Side::BOTH {
        for (payload, words) in bad_closes() {
            let strict = Settings { on_violation: OnViolation::Close, ..settings() };
            let (mut relay, mut out) = (relay(strict), Sent::default());
            let before = frame(side, OpCode::Text, b"good");
            let wire = [before.clone(), frame(side, OpCode::Close, &payload)].concat();
            relay.on_bytes(side, &wire, at(1), &mut out);
            assert_eq!(ended(&relay, at(1)), (EndedBy::Proxy, Cause::Violation, Some(1002)), "{payload:x?}");
            let reason = relay.outcome(at(1)).ending.reason;
            assert_eq!(&*reason, &format!("{words}, sent by the {}", EndedBy::from(side)));
            let frames = out.frames(side.other());
            assert_eq!((frames.len(), close_code(&frames)), (2, Some(1002)));
            assert_eq!(close_code(&out.frames(side)), Some(1002));
            assert!(!relay.is_settled());
            let answer = close_frame(side.other(), 1002);
            relay.on_bytes(side.other(), &answer, at(1), &mut out);
            assert!(relay.is_settled(), "both have closed");
        }
    }
}

#[test]
fn a_close_frame_that_is_forbidden_passes_otherwise_and_is_told_as_it_was() {
    for (payload, _) in bad_closes() {
        let (mut relay, mut out) = (relay(settings()), Sent::default());
        let wire = frame(UPSTREAM, OpCode::Close, &payload);
        relay.on_bytes(UPSTREAM, &wire, at(1), &mut out);
        assert_eq!(out.0.client, wire);
        let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
        assert_eq!(ended(&relay, at(1)), (EndedBy::Upstream, Cause::Close, code), "{payload:x?}");
    }
    let (mut relay, mut out) = (relay(settings()), Sent::default());
    relay.on_bytes(UPSTREAM, &frame(UPSTREAM, OpCode::Close, &[3]), at(1), &mut out);
    assert_eq!(&*relay.outcome(at(1)).ending.reason, "close payload of one byte");
}

#[test]
fn a_close_frame_that_is_in_order_passes_where_violations_close() {
    let codes =
        [1000_u16, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999];
    let mut payloads: Vec<_> = codes.iter().map(|code| code.to_be_bytes().to_vec()).collect();
    payloads.push(vec![]);
    payloads.push([&[3, 0xe8], "grüße".as_bytes()].concat());
    for payload in payloads {
        let strict = Settings { on_violation: OnViolation::Close, ..settings() };
        let (mut relay, mut out) = (relay(strict), Sent::default());
        relay.on_bytes(CLIENT, &frame(CLIENT, OpCode::Close, &payload), at(1), &mut out);
        assert_eq!(out.frames(UPSTREAM), [(OpCode::Close, payload.clone())]);
        assert_eq!(relay.outcome(at(1)).ending.cause, Cause::Close);
    }
}
