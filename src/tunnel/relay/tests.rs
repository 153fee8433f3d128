//! Tests of the relay without sockets, one for each rule.

mod answers;
mod chunks;
mod endings;
mod silence;
mod violations;

use super::*;
use crate::outcome::{EndedBy, Outcome};
use crate::tunnel::{Blind, CloseCodes, Pong};
use crate::ws::frame::{OpCode, encode};
use std::time::Duration;

const CLIENT: Side = Side::Client;
const UPSTREAM: Side = Side::Upstream;
const TAGS: PerSide<u32> = PerSide { client: 0xc11e_0001, upstream: 0x5e2f_0001 };

/// All bytes sent to each side, all frame events, and all bad Pongs.
#[derive(Default)]
struct Sent(PerSide<Vec<u8>>, Vec<FrameEvent>, Vec<BadPong>);

impl Output for Sent {
    fn send(&mut self, to: Side, bytes: &[u8]) {
        self.0[to].extend_from_slice(bytes);
    }

    fn mask_key(&mut self) -> MaskKey {
        MaskKey([5, 6, 7, 8])
    }

    fn on_frame(&mut self, seen: FrameEvent) {
        self.1.push(seen);
    }

    fn report_bad_pong(&mut self, how: BadPong) {
        self.2.push(how);
    }
}

impl Sent {
    /// The frame events since the last call.
    fn seen(&mut self) -> Vec<(Side, OpCode, bool, u64, Disposition)> {
        let seen = std::mem::take(&mut self.1).into_iter();
        seen.map(|seen| (seen.side, seen.opcode, seen.fin, seen.length, seen.disposition)).collect()
    }

    /// The frames sent to a side since the last call, with unmasked payloads.
    fn frames(&mut self, to: Side) -> Vec<(OpCode, Vec<u8>)> {
        let bytes = std::mem::take(&mut self.0[to]);
        let mut rest = &bytes[..];
        let mut frames = Vec::new();
        while !rest.is_empty() {
            let (header, size) = Header::decode(rest).expect("a good header").expect("a whole header");
            let end = size + header.length as usize;
            let mut payload = rest[size..end].to_vec();
            if let Some(key) = header.mask {
                key.apply(&mut payload);
            }
            assert_eq!(header.mask.is_some(), to == UPSTREAM, "only what goes upstream is masked");
            frames.push((header.opcode, payload));
            rest = &rest[end..];
        }
        frames
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn at(s: u64) -> TunnelTime {
    TunnelTime::after(seconds(s))
}

fn settings() -> Settings {
    let ping = PerSide { client: Some(seconds(25)), upstream: Some(seconds(25)) };
    Settings { ping, ..Settings::of_tests() }
}

/// Settings with Pings to the client only, so that each test sees one effect.
fn pings_to_client() -> Settings {
    Settings { ping: PerSide { client: Some(seconds(25)), upstream: None }, ..settings() }
}

fn relay(settings: Settings) -> Relay {
    Relay::new(Arc::new(settings), Framing::WebSocket { deflate: false }, TAGS)
}

/// A frame as `from` would send it.
fn frame(from: Side, opcode: OpCode, payload: &[u8]) -> Vec<u8> {
    encode(opcode, payload, (from == CLIENT).then_some(MaskKey([1, 2, 3, 4])))
}

fn close_frame(from: Side, code: u16) -> Vec<u8> {
    frame(from, OpCode::Close, &code.to_be_bytes())
}

fn close_code(frames: &[(OpCode, Vec<u8>)]) -> Option<u16> {
    match frames.last() {
        Some((OpCode::Close, payload)) => Some(CloseReason::parse(payload).code.0),
        _ => None,
    }
}

fn ended(relay: &Relay, now: TunnelTime) -> (EndedBy, Cause, Option<u16>) {
    let Outcome { ending, .. } = relay.outcome(now);
    (ending.ended_by, ending.cause, ending.code.map(|code| code.0))
}

#[test]
fn each_frame_is_seen_once_whatever_becomes_of_it() {
    let (mut relay, mut out) =
        (relay(Settings { max_message_size: Some(9), ..pings_to_client() }), Sent::default());
    let mut part = frame(CLIENT, OpCode::Text, b"abc");
    part[0] &= 0x7f;
    let mut wire = part;
    wire.extend(frame(CLIENT, OpCode::Ping, b"p"));
    wire.extend(frame(CLIENT, OpCode::Continuation, b"defg"));
    let expected = [
        (CLIENT, OpCode::Text, false, 3, Disposition::Forwarded),
        (CLIENT, OpCode::Ping, true, 1, Disposition::Forwarded),
        (CLIENT, OpCode::Continuation, true, 4, Disposition::Forwarded),
    ];
    relay.on_bytes(CLIENT, &wire, at(1), &mut out);
    assert_eq!(out.seen(), expected);
    for byte in &wire {
        relay.on_bytes(CLIENT, &[*byte], at(2), &mut out);
    }
    assert_eq!(out.seen(), expected, "byte by byte too");

    let due = relay.next_deadline().unwrap();
    relay.on_timer(due, &mut out);
    let ping = out.frames(CLIENT).remove(0).1;
    assert_eq!(out.seen(), [(CLIENT, OpCode::Ping, true, 8, Disposition::Injected)]);
    relay.on_bytes(CLIENT, &frame(CLIENT, OpCode::Pong, &ping), due, &mut out);
    assert_eq!(out.seen(), [(CLIENT, OpCode::Pong, true, 8, Disposition::Consumed)]);

    relay.on_bytes(UPSTREAM, &frame(UPSTREAM, OpCode::Binary, &[0; 10]), due, &mut out);
    let reason = 2 + "message over 9 bytes from the upstream".len() as u64;
    let close = |to| (to, OpCode::Close, true, reason, Disposition::Injected);
    assert_eq!(
        out.seen(),
        [(UPSTREAM, OpCode::Binary, true, 10, Disposition::Consumed), close(UPSTREAM), close(CLIENT)]
    );
}

#[test]
fn a_silent_side_is_pinged_and_its_pong_goes_no_further() {
    let (mut relay, mut out) = (relay(pings_to_client()), Sent::default());
    let due = relay.next_deadline().unwrap();
    assert!(due > at(22) && due <= at(25), "{due:?}");
    relay.on_timer(due, &mut out);
    let pings = out.frames(CLIENT);
    assert!(matches!(&pings[..], [(OpCode::Ping, _)]));
    let later = due + Duration::from_millis(30);
    relay.on_bytes(CLIENT, &frame(CLIENT, OpCode::Pong, &pings[0].1), later, &mut out);
    assert_eq!(out.frames(UPSTREAM), []);
    let traffic = relay.outcome(later).traffic.client;
    assert_eq!((traffic.pings, traffic.pongs), (1, 1));
    assert_eq!(traffic.last_rtt, Some(Duration::from_millis(30)));
    assert!(relay.next_deadline().unwrap() > later + seconds(22), "silence counts from the pong");
}

#[test]
fn traffic_puts_pings_off() {
    let (mut relay, mut out) = (relay(pings_to_client()), Sent::default());
    relay.on_bytes(CLIENT, &frame(CLIENT, OpCode::Text, b"x"), at(20), &mut out);
    relay.on_timer(at(26), &mut out);
    assert_eq!(out.frames(CLIENT), []);
    relay.on_timer(at(45), &mut out);
    assert_eq!(out.frames(CLIENT).len(), 1);
}

#[test]
fn without_any_byte_after_a_ping_the_side_is_dead() {
    let (mut relay, mut out) = (relay(pings_to_client()), Sent::default());
    relay.on_timer(at(25), &mut out);
    relay.on_bytes(UPSTREAM, &frame(UPSTREAM, OpCode::Text, b"news"), at(30), &mut out);
    relay.on_timer(at(44), &mut out);
    assert!(!relay.is_settled());
    relay.on_timer(at(45), &mut out);
    assert_eq!(ended(&relay, at(45)), (EndedBy::Client, Cause::Unresponsive, Some(1001)));
    assert_eq!(close_code(&out.frames(UPSTREAM)), Some(1001));
    assert_eq!(close_code(&out.frames(CLIENT)), Some(1001), "it may be asleep: on waking it reads this");
    assert_eq!(relay.outcome(at(45)).idle.client, seconds(45));
    assert!(!relay.is_settled(), "the upstream may still answer");
    relay.on_bytes(UPSTREAM, &close_frame(UPSTREAM, 1001), at(46), &mut out);
    assert!(relay.is_settled());
}

#[test]
fn any_byte_is_a_sign_of_life() {
    let (mut relay, mut out) = (relay(pings_to_client()), Sent::default());
    relay.on_timer(at(25), &mut out);
    relay.on_bytes(CLIENT, &frame(CLIENT, OpCode::Text, b"busy"), at(44), &mut out);
    relay.on_timer(at(46), &mut out);
    assert_eq!(relay.outcome(at(46)).ending.cause, Cause::Aborted, "still open");
}

#[test]
fn an_optional_pong_never_kills() {
    let (mut relay, mut out) =
        (relay(Settings { pong: Pong::Optional, ..pings_to_client() }), Sent::default());
    for minute in 1..60 {
        relay.on_timer(at(minute * 60), &mut out);
    }
    assert_eq!(relay.outcome(at(3600)).ending.cause, Cause::Aborted, "still open");
    assert_eq!(relay.outcome(at(3600)).traffic.client.pings, 59);
}

#[test]
fn an_upstream_that_does_not_answer_costs_1014() {
    let only_upstream = PerSide { client: None, upstream: Some(seconds(25)) };
    let (mut relay, mut out) = (relay(Settings { ping: only_upstream, ..settings() }), Sent::default());
    relay.on_timer(at(25), &mut out);
    relay.on_timer(at(45), &mut out);
    assert_eq!(ended(&relay, at(45)), (EndedBy::Upstream, Cause::Unresponsive, Some(1014)));
    assert_eq!(close_code(&out.frames(CLIENT)), Some(1014));
}

#[test]
fn an_interval_shorter_than_the_timeout_still_finds_the_dead() {
    let often = PerSide { client: Some(seconds(5)), upstream: None };
    let (mut relay, mut out) = (relay(Settings { ping: often, ..settings() }), Sent::default());
    for second in 1..25 {
        relay.on_timer(at(second), &mut out);
    }
    assert_eq!(out.frames(CLIENT).len(), 1, "one ping decides");
    relay.on_timer(at(25), &mut out);
    assert_eq!(relay.outcome(at(25)).ending.cause, Cause::Unresponsive);
}

#[test]
fn a_ping_waits_for_the_end_of_the_frame() {
    let (mut relay, mut out) = (relay(pings_to_client()), Sent::default());
    let message = frame(UPSTREAM, OpCode::Binary, &[7; 100]);
    relay.on_bytes(UPSTREAM, &message[..50], at(1), &mut out);
    relay.on_timer(at(25), &mut out);
    assert_eq!(out.0.client, message[..50], "no ping inside a frame");
    relay.on_bytes(UPSTREAM, &[&message[50..], &message[..]].concat(), at(26), &mut out);
    let kinds: Vec<_> = out.frames(CLIENT).into_iter().map(|(opcode, _)| opcode).collect();
    assert_eq!(kinds, [OpCode::Binary, OpCode::Ping, OpCode::Binary]);
}

#[test]
fn a_ping_of_the_other_side_holds_ours_back() {
    let (mut relay, mut out) = (relay(pings_to_client()), Sent::default());
    relay.on_bytes(UPSTREAM, &frame(UPSTREAM, OpCode::Ping, b"app"), at(20), &mut out);
    relay.on_timer(at(26), &mut out);
    assert_eq!(out.frames(CLIENT), [(OpCode::Ping, b"app".to_vec())]);
    relay.on_timer(at(40), &mut out);
    assert_eq!(out.frames(CLIENT).len(), 1, "one that stays unanswered holds it back no longer");
}

#[test]
fn the_pong_that_ours_has_swallowed_is_given_once() {
    let (mut relay, mut out) = (relay(pings_to_client()), Sent::default());
    relay.on_bytes(UPSTREAM, &frame(UPSTREAM, OpCode::Ping, b"app"), at(4), &mut out);
    relay.on_timer(at(25), &mut out);
    let ours = out.frames(CLIENT).remove(1).1;
    relay.on_bytes(CLIENT, &frame(CLIENT, OpCode::Pong, &ours), at(27), &mut out);
    assert_eq!(out.frames(UPSTREAM), [(OpCode::Pong, b"app".to_vec())]);
    relay.on_bytes(CLIENT, &frame(CLIENT, OpCode::Pong, b"app"), at(28), &mut out);
    assert_eq!(out.frames(UPSTREAM), [], "the real one comes too late to be of use");
}

#[test]
fn no_pong_is_given_before_its_turn() {
    let (mut relay, mut out) = (relay(pings_to_client()), Sent::default());
    relay.on_timer(at(25), &mut out);
    let ours = out.frames(CLIENT).remove(0).1;
    let pings = [frame(UPSTREAM, OpCode::Ping, b"one"), frame(UPSTREAM, OpCode::Ping, b"two")];
    relay.on_bytes(UPSTREAM, &pings.concat(), at(26), &mut out);
    for payload in [&ours[..], b"one", b"two"] {
        relay.on_bytes(CLIENT, &frame(CLIENT, OpCode::Pong, payload), at(27), &mut out);
    }
    let pongs = [(OpCode::Pong, b"one".to_vec()), (OpCode::Pong, b"two".to_vec())];
    assert_eq!(out.frames(UPSTREAM), pongs, "each once, in order");
}

#[test]
fn bytes_that_wait_for_a_side_suspend_its_pings() {
    let (mut relay, mut out) = (relay(pings_to_client()), Sent::default());
    relay.on_timer(at(25), &mut out);
    relay.on_blocked(CLIENT, at(26));
    relay.on_timer(at(50), &mut out);
    assert_eq!(relay.outcome(at(50)).ending.cause, Cause::Aborted, "slow is not dead");
    relay.on_drained(CLIENT, at(60));
    relay.on_timer(at(79), &mut out);
    assert_eq!(relay.outcome(at(79)).ending.cause, Cause::Aborted);
    relay.on_timer(at(80), &mut out);
    assert_eq!(relay.outcome(at(80)).ending.cause, Cause::Unresponsive);
}

#[test]
fn a_side_that_is_not_read_from_is_pinged_but_not_judged() {
    let (mut relay, mut out) = (relay(pings_to_client()), Sent::default());
    relay.on_blocked(UPSTREAM, at(1));
    for now in [25, 50, 75] {
        relay.on_progress(UPSTREAM, at(now));
        relay.on_timer(at(now), &mut out);
        assert_eq!(out.frames(CLIENT).len(), 1, "its path stays warm");
    }
    relay.on_drained(UPSTREAM, at(99));
    relay.on_timer(at(118), &mut out);
    assert_eq!(relay.outcome(at(118)).ending.cause, Cause::Aborted);
    relay.on_timer(at(119), &mut out);
    assert_eq!(relay.outcome(at(119)).ending.cause, Cause::Unresponsive);
}

#[test]
fn a_message_that_is_too_big_never_begins() {
    let (mut relay, mut out) =
        (relay(Settings { max_message_size: Some(100), ..settings() }), Sent::default());
    relay.on_bytes(CLIENT, &frame(CLIENT, OpCode::Text, &[b'x'; 100]), at(1), &mut out);
    assert_eq!(out.frames(UPSTREAM).len(), 1);
    relay.on_bytes(CLIENT, &frame(CLIENT, OpCode::Text, &[b'x'; 101]), at(2), &mut out);
    assert_eq!(close_code(&out.frames(CLIENT)), Some(1009));
    let upstream = out.frames(UPSTREAM);
    assert_eq!((upstream.len(), close_code(&upstream)), (1, Some(1001)));
    assert_eq!(ended(&relay, at(2)), (EndedBy::Proxy, Cause::TooBig, Some(1009)));
}

#[test]
fn fragments_add_up_to_a_message() {
    let (mut relay, mut out) =
        (relay(Settings { max_message_size: Some(100), ..settings() }), Sent::default());
    let mut first = frame(CLIENT, OpCode::Text, &[b'x'; 60]);
    first[0] &= 0x7f;
    relay.on_bytes(CLIENT, &first, at(1), &mut out);
    relay.on_bytes(CLIENT, &frame(CLIENT, OpCode::Continuation, &[b'x'; 60]), at(1), &mut out);
    assert_eq!(relay.outcome(at(1)).ending.cause, Cause::TooBig);
    assert_eq!(out.frames(UPSTREAM).len(), 2, "the first fragment had passed");
}

#[test]
fn old_clients_are_sent_old_codes() {
    let (mut relay, mut out) =
        (relay(Settings { close_codes: CloseCodes::Rfc6455, ..settings() }), Sent::default());
    relay.on_eof(UPSTREAM, at(1), &mut out);
    assert_eq!(close_code(&out.frames(CLIENT)), Some(1011));
    assert_eq!(ended(&relay, at(1)), (EndedBy::Upstream, Cause::Eof, Some(1011)));
}

#[test]
fn new_settings_reach_an_open_tunnel() {
    let (mut relay, mut out) = (relay(settings()), Sent::default());
    relay.set_settings(Arc::new(Settings { read_timeout: Some(seconds(5)), ..settings() }));
    assert_eq!(relay.next_deadline(), Some(at(5)));
    relay.on_timer(at(5), &mut out);
    assert_eq!(relay.outcome(at(5)).ending.cause, Cause::ReadTimeout);
}

#[test]
fn a_tunnel_without_frames_is_small() {
    assert!(size_of::<Relay>() <= 200, "{} bytes", size_of::<Relay>());
}
