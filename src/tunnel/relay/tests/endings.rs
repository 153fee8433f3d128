//! Owns the tests of how tunnels end: which Close each side gets, and what the relay waits for.

use super::*;

#[test]
fn the_close_handshake_passes_and_is_the_end() {
    let (mut relay, mut out) = (relay(settings()), Sent::default());
    relay.on_bytes(CLIENT, &close_frame(CLIENT, 4000), at(3), &mut out);
    assert_eq!(close_code(&out.frames(UPSTREAM)), Some(4000));
    relay.on_bytes(UPSTREAM, &close_frame(UPSTREAM, 4000), at(4), &mut out);
    assert_eq!(close_code(&out.frames(CLIENT)), Some(4000));
    assert_eq!(ended(&relay, at(4)), (EndedBy::Client, Cause::Close, Some(4000)));
    assert!(!relay.is_settled(), "the server closes the stream first, RFC 6455 7.1.1");
    relay.on_eof(UPSTREAM, at(4), &mut out);
    assert!(relay.wants_shutdown(CLIENT));
    relay.on_eof(CLIENT, at(5), &mut out);
    assert!(relay.is_settled());
    assert_eq!((out.frames(CLIENT), out.frames(UPSTREAM)), (vec![], vec![]));
}

#[test]
fn an_unfinished_close_handshake_is_cut_in_the_end() {
    let (mut relay, mut out) = (relay(settings()), Sent::default());
    relay.on_bytes(CLIENT, &close_frame(CLIENT, 1000), at(3), &mut out);
    assert_eq!(relay.next_deadline(), Some(at(13)));
    assert!(!relay.is_expired(at(12)));
    assert!(relay.is_expired(at(13)));
}

#[test]
fn an_upstream_gone_without_a_word_is_told_as_1014() {
    let (mut relay, mut out) = (relay(settings()), Sent::default());
    relay.on_eof(UPSTREAM, at(9), &mut out);
    assert_eq!(close_code(&out.frames(CLIENT)), Some(1014));
    assert_eq!(ended(&relay, at(9)), (EndedBy::Upstream, Cause::Eof, Some(1014)));
    assert!(relay.wants_shutdown(CLIENT) && !relay.is_settled());
    relay.on_bytes(CLIENT, &close_frame(CLIENT, 1014), at(10), &mut out);
    assert_eq!(close_code(&out.frames(UPSTREAM)), Some(1014), "the other half still passes");
    assert!(relay.is_settled());
}

#[test]
fn a_client_gone_without_a_word_is_told_as_1001() {
    let (mut relay, mut out) = (relay(settings()), Sent::default());
    relay.on_gone(CLIENT, Cause::Reset, at(9), &mut out);
    assert_eq!(close_code(&out.frames(UPSTREAM)), Some(1001));
    assert_eq!(ended(&relay, at(9)), (EndedBy::Client, Cause::Reset, Some(1001)));
    relay.on_eof(UPSTREAM, at(9), &mut out);
    assert!(relay.is_settled());
}

#[test]
fn in_the_middle_of_a_frame_no_close_is_possible() {
    let (mut relay, mut out) = (relay(settings()), Sent::default());
    let message = frame(UPSTREAM, OpCode::Binary, &[7; 100]);
    relay.on_bytes(UPSTREAM, &message[..50], at(1), &mut out);
    relay.on_gone(UPSTREAM, Cause::Reset, at(2), &mut out);
    assert_eq!(out.0.client, message[..50]);
    assert_eq!(ended(&relay, at(2)), (EndedBy::Upstream, Cause::Reset, None));
    assert!(relay.is_settled(), "nothing to wait for");
}

#[test]
fn half_a_header_is_dropped_so_that_a_close_fits() {
    let (mut relay, mut out) = (relay(settings()), Sent::default());
    relay.on_bytes(UPSTREAM, &[0x82], at(1), &mut out);
    relay.on_eof(UPSTREAM, at(2), &mut out);
    assert_eq!(close_code(&out.frames(CLIENT)), Some(1014));
}

#[test]
fn orders_and_timeouts_tell_both_sides() {
    let orders = [(Cause::Shutdown, 1001), (Cause::Drain, 1012), (Cause::EndpointRemoved, 1012)];
    for (cause, code) in orders {
        let (mut relay, mut out) = (relay(settings()), Sent::default());
        relay.request_close(CloseRequest { at: at(8), cause, reason: None });
        relay.request_close(CloseRequest { at: at(5), cause, reason: None });
        assert_eq!(relay.next_deadline(), Some(at(5)));
        relay.on_timer(at(5), &mut out);
        assert_eq!(close_code(&out.frames(CLIENT)), Some(code));
        assert_eq!(close_code(&out.frames(UPSTREAM)), Some(code));
        assert_eq!(ended(&relay, at(5)), (EndedBy::Proxy, cause, Some(code)));
    }
    let idle = Settings { read_timeout: Some(seconds(10)), max_lifetime: Some(seconds(15)), ..settings() };
    let (mut quiet, mut out) = (relay(idle.clone()), Sent::default());
    quiet.on_timer(at(10), &mut out);
    assert_eq!(ended(&quiet, at(10)), (EndedBy::Proxy, Cause::ReadTimeout, Some(1001)));
    let mut busy = relay(idle);
    busy.on_bytes(CLIENT, &frame(CLIENT, OpCode::Text, b"x"), at(9), &mut out);
    busy.on_timer(at(15), &mut out);
    assert_eq!(ended(&busy, at(15)), (EndedBy::Proxy, Cause::Lifetime, Some(1001)));
}

#[test]
fn after_the_proxys_close_nothing_passes_but_the_answer_is_heard() {
    let (mut relay, mut out) = (relay(settings()), Sent::default());
    relay.request_close(CloseRequest { at: at(5), cause: Cause::Drain, reason: None });
    relay.on_timer(at(5), &mut out);
    out.0 = PerSide::default();
    relay.on_bytes(CLIENT, &frame(CLIENT, OpCode::Text, b"late"), at(5), &mut out);
    relay.on_bytes(CLIENT, &close_frame(CLIENT, 1012), at(6), &mut out);
    assert!(!relay.is_settled());
    relay.on_bytes(UPSTREAM, &close_frame(UPSTREAM, 1012), at(6), &mut out);
    assert!(relay.is_settled());
    assert_eq!(out.0, PerSide::default());
}

#[test]
fn a_close_waits_for_the_end_of_the_frame_and_the_frame_arrives() {
    let (mut relay, mut out) = (relay(settings()), Sent::default());
    let message = frame(UPSTREAM, OpCode::Binary, &[7; 100]);
    relay.on_bytes(UPSTREAM, &message[..50], at(1), &mut out);
    relay.request_close(CloseRequest { at: at(5), cause: Cause::Shutdown, reason: None });
    relay.on_timer(at(5), &mut out);
    assert_eq!(close_code(&out.frames(UPSTREAM)), Some(1001));
    relay.on_bytes(UPSTREAM, &[&message[50..], &message[..]].concat(), at(6), &mut out);
    let frames = out.frames(CLIENT);
    assert_eq!(frames.len(), 2, "the frame, the close, and not the frame behind it");
    assert_eq!(close_code(&frames), Some(1001));
}

#[test]
fn bytes_that_nobody_takes_end_by_the_send_timeout() {
    let (mut relay, mut out) = (relay(settings()), Sent::default());
    relay.on_blocked(CLIENT, at(10));
    relay.on_progress(CLIENT, at(50));
    relay.on_timer(at(109), &mut out);
    assert_eq!(relay.outcome(at(109)).ending.cause, Cause::Aborted);
    relay.on_timer(at(110), &mut out);
    assert_eq!(ended(&relay, at(110)), (EndedBy::Client, Cause::SendTimeout, Some(1001)));
    assert!(relay.is_dead(CLIENT));
    assert_eq!(close_code(&out.frames(UPSTREAM)), Some(1001));
}

#[test]
fn a_blind_tunnel_passes_all_and_half_closes() {
    let mut relay = Relay::new(Arc::new(settings()), Framing::Blind(Blind::Protocol), TAGS);
    let mut out = Sent::default();
    relay.on_bytes(CLIENT, b"SELECT 1", at(1), &mut out);
    relay.on_eof(CLIENT, at(2), &mut out);
    assert!(relay.wants_shutdown(UPSTREAM) && !relay.is_settled());
    relay.on_bytes(UPSTREAM, b"1", at(3), &mut out);
    relay.on_eof(UPSTREAM, at(3), &mut out);
    assert!(relay.is_settled());
    assert_eq!((&out.0.upstream[..], &out.0.client[..]), (&b"SELECT 1"[..], &b"1"[..]));
    assert_eq!(ended(&relay, at(3)), (EndedBy::Client, Cause::Eof, None));
}

#[test]
fn the_other_half_of_what_is_no_websocket_lives_on() {
    let mut relay = Relay::new(Arc::new(settings()), Framing::Blind(Blind::Protocol), TAGS);
    let mut out = Sent::default();
    relay.on_eof(CLIENT, at(2), &mut out);
    for second in [10, 18, 26] {
        assert!(!relay.is_expired(at(second)));
        relay.on_bytes(UPSTREAM, b"more", at(second), &mut out);
    }
    assert!(!relay.is_expired(at(3600)), "nobody knows what an end of stream means there");
}

fn foreign(settings: Settings) -> Relay {
    Relay::new(Arc::new(settings), Framing::Blind(Blind::Protocol), TAGS)
}

#[test]
fn a_half_that_is_left_ends_as_a_whole_tunnel_does() {
    for side in Side::BOTH {
        let limited =
            Settings { read_timeout: Some(seconds(100)), max_lifetime: Some(seconds(1000)), ..settings() };
        let mut out = Sent::default();
        let mut idle = foreign(limited.clone());
        idle.on_eof(side, at(2), &mut out);
        idle.on_bytes(side.other(), b"more", at(50), &mut out);
        assert_eq!(idle.next_deadline(), Some(at(150)));
        idle.on_timer(at(150), &mut out);
        assert_eq!(ended(&idle, at(150)), (EndedBy::Proxy, Cause::ReadTimeout, None));
        assert!(idle.is_settled() && idle.has_no_close_frames());

        let mut old = foreign(Settings { read_timeout: None, ..limited.clone() });
        old.on_eof(side, at(2), &mut out);
        old.on_timer(at(1000), &mut out);
        assert_eq!(ended(&old, at(1000)).1, Cause::Lifetime);

        let mut stuck = foreign(limited.clone());
        stuck.on_eof(side, at(2), &mut out);
        stuck.on_blocked(side, at(3));
        stuck.on_timer(at(63), &mut out);
        assert_eq!(ended(&stuck, at(63)), (side.into(), Cause::SendTimeout, None));

        let mut ordered = foreign(limited.clone());
        ordered.on_eof(side, at(2), &mut out);
        ordered.request_close(CloseRequest { at: at(5), cause: Cause::Drain, reason: None });
        ordered.on_timer(at(5), &mut out);
        assert!(ordered.is_settled());

        let mut gone = foreign(limited);
        gone.on_eof(side, at(2), &mut out);
        assert!(gone.awaits_reset(side) && !gone.awaits_reset(side.other()));
        gone.on_gone(side, Cause::Reset, at(9), &mut out);
        assert_eq!(ended(&gone, at(9)), (side.into(), Cause::Reset, None));
        assert!(gone.is_settled());
    }
}

#[test]
fn a_websocket_keeps_its_close_timeout_though_it_is_blind() {
    let (mut relay, mut out) = (relay(settings()), Sent::default());
    relay.on_bytes(CLIENT, &[0x83, 0x80, 1, 2, 3, 4], at(1), &mut out);
    relay.on_eof(CLIENT, at(2), &mut out);
    assert!(!relay.is_expired(at(11)) && relay.is_expired(at(12)));
}

#[test]
fn no_byte_now_and_then_puts_the_end_off_for_ever() {
    let (mut relay, mut out) = (relay(settings()), Sent::default());
    relay.on_blocked(CLIENT, at(1));
    relay.on_eof(UPSTREAM, at(2), &mut out);
    for second in (2..60).step_by(5) {
        relay.on_progress(CLIENT, at(second));
        assert!(!relay.is_expired(at(second)), "what moves is waited for");
    }
    relay.on_progress(CLIENT, at(61));
    assert!(relay.is_expired(at(62)));
}
