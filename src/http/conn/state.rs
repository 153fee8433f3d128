//! Owns the judgement of a connection's timeouts, as a pure function of its state and the time.
//!
//! The idle time of a connection runs from the end of its last request. Only a request stops it, not any
//! other bytes.

use super::super::Settings;
use std::time::Duration;

/// A moment, in milliseconds since the connection was accepted. It begins with 1.
pub(super) type Moment = u64;

/// The state of a connection, as far as its timeouts need it.
#[derive(Clone, Copy, Debug)]
pub(super) struct State {
    /// HTTP/1 heads follow one another, so the first byte of one ends the idle time. In HTTP/2 no byte does,
    /// because not every byte belongs to a request.
    pub(super) is_http1: bool,
    /// How many requests are active.
    pub(super) active_requests: u32,
    /// HTTP/1: since when Holdline waits for the client to accept response data, or when the client last
    /// accepted some. `None` means that it does not wait.
    pub(super) waiting_since: Option<Moment>,
    /// When an incomplete head, or an incomplete HTTP/2 frame other than DATA, began. An HTTP/2 client can
    /// restart it with each frame.
    pub(super) head_started: Option<Moment>,
    /// When the last request ended. `None` means that there was none yet.
    pub(super) idle_since: Option<Moment>,
    /// HTTP/2: since when the socket accepts no data. `None` means that it does.
    pub(super) blocked_since: Option<Moment>,
}

/// What the timeouts say of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// No timeout has expired.
    Fine,
    /// There was no request for `keepalive_timeout`, or none for `header_timeout` since the start.
    Idle,
    /// A head was not complete within `header_timeout`.
    TooSlow,
    /// The client accepted nothing of the response for `body_timeout`. Over HTTP/2, it accepted nothing at
    /// all, and no request is active.
    Stalled,
}

/// Judges a connection at the moment `now`.
pub(super) fn verdict(state: &State, now: Moment, settings: &Settings) -> Verdict {
    let since = |moment: Moment| now.saturating_sub(moment);
    let is_over = |moment: Option<Moment>, limit: Option<Duration>| match (moment, limit) {
        (Some(moment), Some(limit)) => since(moment) >= millis(limit),
        _ => false,
    };
    if is_over(state.head_started, Some(settings.header_timeout)) {
        return Verdict::TooSlow;
    }
    if state.active_requests > 0 {
        return match is_over(state.waiting_since, settings.body_timeout) {
            true => Verdict::Stalled,
            false => Verdict::Fine,
        };
    }
    if is_over(state.blocked_since, settings.body_timeout) {
        return Verdict::Stalled;
    }
    let is_asking = state.is_http1 && state.head_started.is_some();
    let is_idle = match state.idle_since {
        Some(ended) => since(ended) >= millis(settings.keepalive_timeout),
        None => now >= millis(settings.header_timeout),
    };
    if is_idle && !is_asking { Verdict::Idle } else { Verdict::Fine }
}

/// Returns how long Holdline has waited for a request, and for nothing else. `None` means that a request is
/// active.
pub(super) fn waited(state: &State, now: Moment) -> Option<Duration> {
    let head = state.head_started.filter(|_| state.is_http1);
    let since = head.or(state.idle_since).unwrap_or(0);
    (state.active_requests == 0).then(|| Duration::from_millis(now.saturating_sub(since)))
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Protocols;
    use proptest::option;
    use proptest::prelude::*;

    const HEADER: Moment = 60_000;
    const KEEPALIVE: Moment = 75_000;
    const BODY: Moment = 30_000;

    fn settings() -> Settings {
        Settings {
            protocols: Protocols { http1: true, http2: true },
            header_timeout: Duration::from_millis(HEADER),
            keepalive_timeout: Duration::from_millis(KEEPALIVE),
            body_timeout: Some(Duration::from_millis(BODY)),
            max_header_size: 32 * 1024,
            underscores_in_headers: false,
        }
    }

    /// A connection that has been accepted, and nothing else.
    fn fresh(is_http1: bool) -> State {
        State {
            is_http1,
            active_requests: 0,
            waiting_since: None,
            head_started: None,
            idle_since: None,
            blocked_since: None,
        }
    }

    fn at(now: Moment, state: State) -> Verdict {
        verdict(&state, now, &settings())
    }

    #[test]
    fn a_silent_client_has_header_timeout_for_its_first_request() {
        for is_http1 in [true, false] {
            assert_eq!(at(HEADER - 1, fresh(is_http1)), Verdict::Fine);
            assert_eq!(at(HEADER, fresh(is_http1)), Verdict::Idle);
        }
    }

    #[test]
    fn between_requests_keepalive_timeout_counts_from_the_end_of_the_last() {
        let state = State { idle_since: Some(10), ..fresh(true) };
        assert_eq!(at(10 + KEEPALIVE - 1, state), Verdict::Fine);
        assert_eq!(at(10 + KEEPALIVE, state), Verdict::Idle);
    }

    #[test]
    fn an_incomplete_head_ends_the_idle_time_of_http1_only() {
        let now = 10 + KEEPALIVE;
        let of = |is_http1| State { idle_since: Some(10), head_started: Some(now - 1), ..fresh(is_http1) };
        assert_eq!((at(now, of(true)), at(now, of(false))), (Verdict::Fine, Verdict::Idle));
        assert_eq!(at(now - 1 + HEADER, of(true)), Verdict::TooSlow);
    }

    #[test]
    fn an_active_request_is_judged_by_what_its_client_accepts() {
        let waiting = State { active_requests: 1, waiting_since: Some(100), ..fresh(true) };
        assert_eq!(at(100 + BODY - 1, waiting), Verdict::Fine);
        assert_eq!(at(100 + BODY, waiting), Verdict::Stalled);
        let upstream_is_slow = State { waiting_since: None, ..waiting };
        assert_eq!(at(Moment::MAX, upstream_is_slow), Verdict::Fine);
        let never = Settings { body_timeout: None, ..settings() };
        assert_eq!(verdict(&waiting, Moment::MAX, &never), Verdict::Fine);
    }

    #[test]
    fn a_socket_that_accepts_nothing_counts_once_no_request_is_active() {
        let blocked = State { idle_since: Some(5), blocked_since: Some(7), ..fresh(false) };
        assert_eq!(at(7 + BODY, blocked), Verdict::Stalled);
        assert_eq!(at(7 + BODY, State { active_requests: 1, ..blocked }), Verdict::Fine);
    }

    #[test]
    fn the_wait_for_a_request_is_counted_from_what_came_last() {
        let waited_at = |state, now| waited(&state, now).map(|wait| wait.as_millis());
        assert_eq!(waited_at(fresh(true), 50), Some(50));
        assert_eq!(waited_at(State { idle_since: Some(20), ..fresh(true) }, 50), Some(30));
        let head = |is_http1| State { idle_since: Some(20), head_started: Some(40), ..fresh(is_http1) };
        assert_eq!((waited_at(head(true), 50), waited_at(head(false), 50)), (Some(10), Some(30)));
        assert_eq!(waited_at(State { active_requests: 1, ..fresh(true) }, 50), None);
    }

    proptest! {
        /// Once a timeout has expired, only an event changes that, not the time.
        #[test]
        fn time_alone_makes_no_connection_fine_again(
            is_http1: bool, active_requests in 0_u32..3,
            waiting_since in option::of(1_u64..200_000), head_started in option::of(1_u64..200_000),
            idle_since in option::of(1_u64..200_000), blocked_since in option::of(1_u64..200_000),
            now in 1_u64..400_000, later in 0_u64..400_000,
        ) {
            let state =
                State { is_http1, active_requests, waiting_since, head_started, idle_since, blocked_since };
            if at(now, state) != Verdict::Fine {
                prop_assert_ne!(at(now + later, state), Verdict::Fine);
            }
        }
    }
}
