//! Owns the tests of how the relay detects silence, whatever the other side sends and whatever waits.

use super::*;
use proptest::prelude::*;

/// An action of the other side, and the time since its last action.
#[derive(Clone, Debug)]
enum Doing {
    Ping(Vec<u8>),
    Data(usize),
    Pong,
    /// Bytes wait for the silent side from now on, and it takes none.
    Fill,
}

fn doing() -> impl Strategy<Value = Doing> {
    let payload = prop_oneof![Just(vec![]), Just(b"hb".to_vec()), any::<[u8; 4]>().prop_map(|p| p.to_vec())];
    prop_oneof![
        8 => payload.prop_map(Doing::Ping),
        4 => (0..400_usize).prop_map(Doing::Data),
        2 => Just(Doing::Pong),
        1 => Just(Doing::Fill),
    ]
}

/// Runs a schedule of the other side and all timers that are due. Returns when the tunnel ended.
fn end_of(
    mut relay: Relay,
    silent: Side,
    since: TunnelTime,
    schedule: &[(u64, Doing)],
) -> Option<TunnelTime> {
    let (other, mut out, mut now) = (silent.other(), Sent::default(), since);
    for (pause, doing) in schedule {
        let next = now + Duration::from_millis(*pause);
        while let Some(due) = relay.next_deadline().filter(|due| *due <= next) {
            now = now.max(due);
            relay.on_timer(now, &mut out);
            if relay.outcome(now).ending.cause != Cause::Aborted {
                return Some(now);
            }
        }
        now = next;
        let wire = match doing {
            Doing::Ping(payload) => frame(other, OpCode::Ping, payload),
            Doing::Data(length) => frame(other, OpCode::Binary, &vec![7; *length]),
            Doing::Pong => frame(other, OpCode::Pong, b""),
            Doing::Fill => {
                relay.on_blocked(silent, now);
                continue;
            }
        };
        relay.on_bytes(other, &wire, now, &mut out);
    }
    None
}

proptest! {
    /// Whatever the other side sends: the relay detects a side that sends and takes no bytes within the interval plus
    /// twice the timeout.
    #[test]
    fn the_dead_are_found_whatever_the_other_side_does(
        interval in 1..60_u64,
        timeout in 1..60_u64,
        is_client in any::<bool>(),
        heard in 0..100_000_u64,
        max_pause in 1..30_000_u64,
        tags in any::<[u32; 2]>(),
        schedule in proptest::collection::vec((any::<u64>(), doing()), 400),
    ) {
        let silent = if is_client { CLIENT } else { UPSTREAM };
        let mut ping = PerSide::default();
        ping[silent] = Some(seconds(interval));
        let settings = Settings { ping, ping_timeout: seconds(timeout), send_timeout: None, ..settings() };
        let tags = PerSide { client: tags[0], upstream: tags[1] };
        let mut relay = Relay::new(Arc::new(settings), Framing::WebSocket { deflate: false }, tags);
        let since = TunnelTime::after(Duration::from_millis(heard.min(interval * 900)));
        relay.on_bytes(silent, &frame(silent, OpCode::Text, b"last"), since, &mut Sent::default());
        let limit = since + seconds(interval + 2 * timeout);
        let mut schedule: Vec<_> = schedule.into_iter().map(|(pause, doing)| (pause % max_pause, doing)).collect();
        // The time is long enough for any schedule.
        schedule.push((1000 * (interval + 2 * timeout + 1), Doing::Pong));
        let end = end_of(relay, silent, since, &schedule);
        prop_assert!(end.is_some_and(|end| end <= limit), "{end:?}, not by {limit:?}");
    }
}

#[test]
fn heartbeats_of_the_other_side_do_not_hide_the_dead() {
    for (silent, every) in [(CLIENT, 15), (UPSTREAM, 15), (CLIENT, 1), (UPSTREAM, 19)] {
        let beats: Vec<_> = (0..200).map(|_| (every * 1000, Doing::Ping(b"hb".to_vec()))).collect();
        let end = end_of(relay(settings()), silent, TunnelTime::ZERO, &beats);
        assert!(end.is_some_and(|end| end <= at(65)), "{silent:?}, every {every} s: {end:?}");
    }
}

#[test]
fn a_side_that_takes_bytes_is_not_dead() {
    let patient = Settings { send_timeout: None, ..pings_to_client() };
    let (mut relay, mut out) = (relay(patient), Sent::default());
    relay.on_blocked(CLIENT, at(1));
    for now in [60, 120, 180] {
        relay.on_timer(at(now), &mut out);
        relay.on_progress(CLIENT, at(now));
    }
    relay.on_timer(at(244), &mut out);
    assert_eq!(relay.outcome(at(244)).ending.cause, Cause::Aborted, "slow is not dead");
    relay.on_timer(at(245), &mut out);
    assert_eq!(relay.outcome(at(245)).ending.cause, Cause::Unresponsive);
}
