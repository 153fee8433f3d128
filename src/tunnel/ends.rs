//! Owns the list of all possible ends of a tunnel, so that metrics can count each from 0. `relay` decides which end
//! it is. `tests/ends` compares this list with what happens.

use super::CloseCodes;
use crate::outcome::{Side, Who, Why};
use crate::ws::close::CloseCode;
use std::collections::BTreeSet;

/// Every end of a tunnel whose route sends these close codes: who, why, and the code. Codes of libraries, codes of
/// applications and codes that may not be sent are each listed as one.
#[must_use]
pub fn possible_ends(codes: CloseCodes) -> Vec<(Who, Why, Option<CloseCode>)> {
    let mut ends = Vec::new();
    for side in Side::BOTH {
        let codes_of_frames = SENDABLE.into_iter().chain([UNSENDABLE]).map(|code| Some(CloseCode(code)));
        ends.extend(codes_of_frames.chain([None]).map(|code| (side.into(), Why::Close, code)));
        for (why, code) in ends_of(side) {
            ends.extend(with_and_without(side.into(), why, codes.apply(code)));
        }
    }
    for (why, code) in ENDS_OF_PROXY {
        ends.extend(with_and_without(Who::Proxy, why, codes.apply(code)));
    }
    // The operator may choose the code. The default is 1012.
    let chosen: BTreeSet<_> = SENDABLE.iter().map(|code| codes.apply(CloseCode(*code))).collect();
    let chosen = chosen.into_iter().map(Some).chain([None]);
    ends.extend(chosen.map(|code| (Who::Proxy, Why::Operator, code)));
    // The last: the body of the request broke off, or was over a limit, before the tunnel had it.
    ends.extend([Why::Aborted, Why::Eof, Why::Refused].map(|why| (Who::Proxy, why, None)));
    ends
}

/// A blind tunnel ends without a Close frame, and so does one inside a frame.
fn with_and_without(who: Who, why: Why, code: CloseCode) -> [(Who, Why, Option<CloseCode>); 2] {
    [(who, why, Some(code)), (who, why, None)]
}

/// Codes that a Close frame may carry (IANA registry), with one code of a library and one of an application.
const SENDABLE: [u16; 14] =
    [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4000];
/// A code that peers send although they may not.
const UNSENDABLE: u16 = 0;

/// How a side ends a tunnel other than by a Close frame, and the code that Holdline then sends.
fn ends_of(side: Side) -> [(Why, CloseCode); 5] {
    let gone = match side {
        Side::Client => CloseCode::GOING_AWAY,
        Side::Upstream => CloseCode::BAD_GATEWAY,
    };
    let taken = CloseCode::GOING_AWAY;
    [
        (Why::Eof, gone),
        (Why::Reset, gone),
        (Why::Unresponsive, gone),
        (Why::TcpTimeout, gone),
        (Why::SendTimeout, taken),
    ]
}

const ENDS_OF_PROXY: [(Why, CloseCode); 7] = [
    (Why::ReadTimeout, CloseCode::GOING_AWAY),
    (Why::Lifetime, CloseCode::GOING_AWAY),
    (Why::Shutdown, CloseCode::GOING_AWAY),
    (Why::Drain, CloseCode::SERVICE_RESTART),
    (Why::EndpointRemoved, CloseCode::SERVICE_RESTART),
    (Why::TooBig, CloseCode::TOO_BIG),
    (Why::Violation, CloseCode::PROTOCOL_ERROR),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_end_is_listed_twice() {
        for codes in [CloseCodes::Registered, CloseCodes::Rfc6455] {
            let ends = possible_ends(codes);
            assert_eq!(ends.iter().collect::<HashSet<_>>().len(), ends.len());
        }
    }
}
