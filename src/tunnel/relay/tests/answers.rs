//! Owns the tests of how peers answer Holdline's Pings: correctly, late, or incorrectly.

use super::*;

/// The bytes of a frame, valid or not.
fn raw(first: u8, masked: bool, payload: &[u8], size_of_length: usize) -> Vec<u8> {
    let mask = if masked { 0x80 } else { 0 };
    let mut wire = vec![first];
    match size_of_length {
        1 => wire.push(mask | payload.len() as u8),
        2 => {
            wire.push(mask | 126);
            wire.extend((payload.len() as u16).to_be_bytes());
        }
        _ => {
            wire.push(mask | 127);
            wire.extend((payload.len() as u64).to_be_bytes());
        }
    }
    let key = MaskKey([9, 8, 7, 6]);
    let start = wire.len() + if masked { 4 } else { 0 };
    wire.extend(key.0.iter().filter(|_| masked));
    wire.extend(payload);
    if masked {
        key.apply(&mut wire[start..]);
    }
    wire
}

/// Answers to a Ping that RFC 6455 does not allow.
fn bad_pongs(side: Side, ping: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let good = side == CLIENT;
    let (first, last) = ping.split_at(ping.len() / 2);
    vec![
        ("mask", raw(0x8a, !good, ping, 1)),
        ("mask, no payload", raw(0x8a, !good, b"", 1)),
        ("mask, another payload", raw(0x8a, !good, b"other", 1)),
        ("no FIN", raw(0x0a, good, ping, 1)),
        ("no FIN, no payload", raw(0x0a, good, b"", 1)),
        ("no FIN, mask", raw(0x0a, !good, ping, 1)),
        ("RSV1", raw(0xca, good, ping, 1)),
        ("RSV2", raw(0xaa, good, ping, 1)),
        ("RSV3", raw(0x9a, good, ping, 1)),
        ("all of RSV, no FIN, mask", raw(0x7a, !good, ping, 1)),
        ("another payload", raw(0x8a, good, b"other", 1)),
        ("no payload", raw(0x8a, good, b"", 1)),
        ("half the payload", raw(0x8a, good, first, 1)),
        ("length in 2 bytes", raw(0x8a, good, ping, 2)),
        ("length in 8 bytes", raw(0x8a, good, ping, 8)),
        ("length in 8 bytes, mask", raw(0x8a, !good, ping, 8)),
        ("126 bytes", raw(0x8a, good, &[7; 126], 2)),
        ("70,000 bytes", raw(0x8a, !good, &[7; 70_000], 8)),
        ("two fragments", [raw(0x0a, good, first, 1), raw(0x80, good, last, 1)].concat()),
        ("two fragments, mask", [raw(0x0a, !good, first, 1), raw(0x80, !good, last, 1)].concat()),
        (
            "three fragments",
            [raw(0x0a, good, &first[..1], 1), raw(0x00, good, &first[1..], 1), raw(0x80, good, last, 1)]
                .concat(),
        ),
        ("two fragments, both Pongs", [raw(0x0a, good, first, 1), raw(0x8a, good, last, 1)].concat()),
        ("twice, mask", [raw(0x8a, !good, ping, 1), raw(0x8a, !good, ping, 1)].concat()),
        ("twice, once well", [raw(0x8a, good, ping, 1), raw(0x8a, !good, ping, 1)].concat()),
        ("the Ping itself", raw(0x89, good, ping, 1)),
    ]
}

fn pings_to(side: Side) -> Settings {
    let mut ping = PerSide::default();
    ping[side] = Some(seconds(25));
    Settings { ping, ..settings() }
}

/// The payload of the Ping that is due next.
fn pinged(relay: &mut Relay, side: Side, out: &mut Sent) -> (TunnelTime, Vec<u8>) {
    let due = relay.next_deadline().expect("a ping is due");
    relay.on_timer(due, out);
    let (opcode, payload) = out.frames(side).pop().expect("a ping");
    assert_eq!(opcode, OpCode::Ping);
    (due, payload)
}

fn feed(relay: &mut Relay, from: Side, wire: &[u8], chunk: usize, now: TunnelTime, out: &mut Sent) {
    for chunk in wire.chunks(chunk) {
        relay.on_bytes(from, chunk, now, out);
    }
}

#[test]
fn no_answer_to_a_ping_of_the_proxy_passes_or_ends_or_blinds() {
    for side in Side::BOTH {
        for on_violation in [OnViolation::Blind, OnViolation::Close] {
            for max_message_size in [None, Some(100_000)] {
                for chunk in [1, 7, 100_000] {
                    for number in 0..bad_pongs(side, &[0; 8]).len() {
                        let settings = Settings { on_violation, max_message_size, ..pings_to(side) };
                        let (mut relay, mut out) = (relay(settings), Sent::default());
                        let data = frame(side, OpCode::Binary, b"data");
                        let mut expected = Vec::new();
                        for round in 1..=3 {
                            let (now, ping) = pinged(&mut relay, side, &mut out);
                            let (name, answer) = bad_pongs(side, &ping).swap_remove(number);
                            let wire = [&data[..], &answer, &data].concat();
                            feed(&mut relay, side, &wire, chunk, now, &mut out);
                            expected.extend([&data[..], &data].concat());
                            let is = format!("{side:?}, {on_violation:?}, in {chunk}s: {name}, {round}");
                            assert_eq!(out.0[side.other()], expected, "{is}");
                            let outcome = relay.outcome(now);
                            assert_eq!((outcome.blind, outcome.ending.cause), (None, Cause::Aborted), "{is}");
                            assert_eq!(outcome.traffic[side].pongs, round, "{is}");
                            assert_eq!(out.2.len(), 1, "told once: {is}");
                            assert_eq!(out.2[0].side, side);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn without_a_ping_of_the_proxy_a_bad_pong_is_the_peers_own_affair() {
    for side in Side::BOTH {
        let wire = raw(0x8a, side != CLIENT, b"app", 1);
        let (mut lax, mut out) = (relay(pings_to(side)), Sent::default());
        lax.on_bytes(side, &wire, at(1), &mut out);
        assert_eq!(out.0[side.other()], wire);
        assert!(lax.outcome(at(1)).blind.is_some() && out.2.is_empty());
        let strict = Settings { on_violation: OnViolation::Close, ..pings_to(side) };
        let (mut strict, mut out) = (relay(strict), Sent::default());
        strict.on_bytes(side, &wire, at(1), &mut out);
        assert_eq!(ended(&strict, at(1)), (EndedBy::Proxy, Cause::Violation, Some(1002)));
        // This side has answered all Pings correctly, so an invalid Pong is no answer.
        let (mut answered, mut out) = (relay(pings_to(side)), Sent::default());
        let (now, ping) = pinged(&mut answered, side, &mut out);
        answered.on_bytes(side, &frame(side, OpCode::Pong, &ping), now, &mut out);
        feed(&mut answered, side, &wire, 1, now, &mut out);
        assert_eq!(out.0[side.other()], wire);
        assert!(answered.outcome(now).blind.is_some() && out.2.is_empty());
    }
}

#[test]
fn other_frames_that_break_a_rule_are_no_answer() {
    let (mut relay, mut out) = (relay(pings_to_client()), Sent::default());
    let (now, _) = pinged(&mut relay, CLIENT, &mut out);
    relay.on_bytes(CLIENT, &[0x81, 0x01, b'x'], now, &mut out);
    assert_eq!(relay.outcome(now).blind, Some("client frame not masked"));
}

#[test]
fn a_late_answer_goes_no_further_either() {
    for number in 0..bad_pongs(CLIENT, &[0; 8]).len() {
        let (mut relay, mut out) = (relay(pings_to_client()), Sent::default());
        let (first_sent, first) = pinged(&mut relay, CLIENT, &mut out);
        let data = frame(CLIENT, OpCode::Text, b"alive");
        relay.on_bytes(CLIENT, &data, first_sent, &mut out);
        let (now, second) = pinged(&mut relay, CLIENT, &mut out);
        for ping in [first, second] {
            let (name, answer) = bad_pongs(CLIENT, &ping).swap_remove(number);
            relay.on_bytes(CLIENT, &answer, now, &mut out);
            assert_eq!(out.0.upstream, data, "{name}");
        }
        assert_eq!(relay.outcome(now).blind, None);
    }
}

#[test]
fn a_pong_that_the_other_side_waits_for_passes_while_the_proxy_waits_for_its_own() {
    for app in [&b"app"[..], b""] {
        let (mut relay, mut out) = (relay(pings_to_client()), Sent::default());
        let (now, ping) = pinged(&mut relay, CLIENT, &mut out);
        relay.on_bytes(UPSTREAM, &frame(UPSTREAM, OpCode::Ping, app), now, &mut out);
        relay.on_bytes(CLIENT, &frame(CLIENT, OpCode::Pong, &ping), now, &mut out);
        relay.on_bytes(CLIENT, &frame(CLIENT, OpCode::Pong, app), now, &mut out);
        assert_eq!(out.frames(UPSTREAM), [(OpCode::Pong, app.to_vec())]);
        assert!(out.2.is_empty());
    }
}

#[test]
fn a_ping_of_the_other_side_that_is_answered_badly_is_answered_well_once() {
    // After Holdline's own Ping, before it, and long after it.
    for behind in [true, false] {
        for number in 0..3 {
            let (mut relay, mut out) = (relay(pings_to_client()), Sent::default());
            let app = frame(UPSTREAM, OpCode::Ping, b"app");
            if !behind {
                relay.on_bytes(UPSTREAM, &app, at(1), &mut out);
            }
            let (now, ours) = pinged(&mut relay, CLIENT, &mut out);
            if behind {
                relay.on_bytes(UPSTREAM, &app, now, &mut out);
            }
            let order = if behind { [&ours[..], b"app"] } else { [b"app", &ours[..]] };
            for payload in order {
                let (_, answer) = bad_pongs(CLIENT, payload).swap_remove(number);
                relay.on_bytes(CLIENT, &answer, now, &mut out);
            }
            assert_eq!(out.frames(UPSTREAM), [(OpCode::Pong, b"app".to_vec())], "behind: {behind}, {number}");
            out.frames(CLIENT);
            relay.on_bytes(UPSTREAM, &frame(UPSTREAM, OpCode::Ping, b"later"), now, &mut out);
            let (_, answer) = bad_pongs(CLIENT, b"later").swap_remove(number);
            relay.on_bytes(CLIENT, &answer, now, &mut out);
            assert_eq!(out.frames(UPSTREAM), [(OpCode::Pong, b"later".to_vec())]);
            assert_eq!((relay.outcome(now).blind, out.2.len()), (None, 1));
        }
    }
}

#[test]
fn a_side_that_answers_badly_is_pinged_on_and_found_when_it_is_dead() {
    let (mut relay, mut out) = (relay(pings_to_client()), Sent::default());
    let (mut now, mut ping) = pinged(&mut relay, CLIENT, &mut out);
    for _ in 0..5 {
        relay.on_bytes(CLIENT, &raw(0x8a, false, &ping, 1), now, &mut out);
        (now, ping) = pinged(&mut relay, CLIENT, &mut out);
    }
    let due = relay.next_deadline().unwrap();
    assert_eq!(due, now + seconds(20));
    relay.on_timer(due, &mut out);
    assert_eq!(relay.outcome(due).ending.cause, Cause::Unresponsive);
}

#[test]
fn fragments_of_a_message_are_not_taken_for_those_of_a_pong() {
    let (mut relay, mut out) = (relay(pings_to(UPSTREAM)), Sent::default());
    let (now, ping) = pinged(&mut relay, UPSTREAM, &mut out);
    let parts = [vec![0x01, 1, b'a'], vec![0x00, 1, b'b'], vec![0x80, 1, b'c']];
    relay.on_bytes(UPSTREAM, &parts[0], now, &mut out);
    relay.on_bytes(UPSTREAM, &raw(0x0a, false, &ping, 1), now, &mut out);
    relay.on_bytes(UPSTREAM, &parts[1], now, &mut out);
    relay.on_bytes(UPSTREAM, &parts[2], now, &mut out);
    assert_eq!(out.0.client, parts.concat());
    assert_eq!(relay.outcome(now).traffic.upstream.messages, 1);
}
