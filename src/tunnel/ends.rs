//! Owns the list of all possible ends of a tunnel, so that metrics can count each from 0. `relay` decides which end
//! it is. `tests/ends` compares this list with what happens.

use super::CloseCodes;
use crate::outcome::{Cause, EndedBy, Side};
use crate::ws::close::CloseCode;
use std::collections::BTreeSet;

/// Every end of a tunnel whose route sends these close codes: who ended it, the cause, and the code. Codes of libraries, codes of
/// applications and codes that may not be sent are each listed as one.
#[must_use]
pub(crate) fn possible_ends(codes: CloseCodes) -> Vec<(EndedBy, Cause, Option<CloseCode>)> {
    let mut ends = Vec::new();
    for side in Side::BOTH {
        let codes_of_frames = SENDABLE.into_iter().chain([UNSENDABLE]).map(|code| Some(CloseCode(code)));
        ends.extend(codes_of_frames.chain([None]).map(|code| (side.into(), Cause::Close, code)));
        for (cause, code) in ends_of(side) {
            ends.extend(with_and_without(side.into(), cause, codes.apply(code)));
        }
    }
    for (cause, code) in ENDS_OF_PROXY {
        ends.extend(with_and_without(EndedBy::Proxy, cause, codes.apply(code)));
    }
    // The operator may choose the code. The default is 1012.
    let chosen: BTreeSet<_> = SENDABLE.iter().map(|code| codes.apply(CloseCode(*code))).collect();
    let chosen = chosen.into_iter().map(Some).chain([None]);
    ends.extend(chosen.map(|code| (EndedBy::Proxy, Cause::Operator, code)));
    // The last: the body of the request broke off, or was over a limit, before the tunnel had it.
    ends.extend([Cause::Aborted, Cause::Eof, Cause::Refused].map(|cause| (EndedBy::Proxy, cause, None)));
    ends
}

/// A blind tunnel ends without a Close frame, and so does one inside a frame.
fn with_and_without(
    ended_by: EndedBy,
    cause: Cause,
    code: CloseCode,
) -> [(EndedBy, Cause, Option<CloseCode>); 2] {
    [(ended_by, cause, Some(code)), (ended_by, cause, None)]
}

/// Codes that a Close frame may carry (IANA registry), with one code of a library and one of an application.
const SENDABLE: [u16; 14] =
    [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4000];
/// A code that peers send although they may not.
const UNSENDABLE: u16 = 0;

/// How a side ends a tunnel other than by a Close frame, and the code that Holdline then sends.
fn ends_of(side: Side) -> [(Cause, CloseCode); 5] {
    let gone = match side {
        Side::Client => CloseCode::GOING_AWAY,
        Side::Upstream => CloseCode::BAD_GATEWAY,
    };
    let taken = CloseCode::GOING_AWAY;
    [
        (Cause::Eof, gone),
        (Cause::Reset, gone),
        (Cause::Unresponsive, gone),
        (Cause::TcpTimeout, gone),
        (Cause::SendTimeout, taken),
    ]
}

const ENDS_OF_PROXY: [(Cause, CloseCode); 7] = [
    (Cause::ReadTimeout, CloseCode::GOING_AWAY),
    (Cause::Lifetime, CloseCode::GOING_AWAY),
    (Cause::Shutdown, CloseCode::GOING_AWAY),
    (Cause::Drain, CloseCode::SERVICE_RESTART),
    (Cause::EndpointRemoved, CloseCode::SERVICE_RESTART),
    (Cause::TooBig, CloseCode::TOO_BIG),
    (Cause::Violation, CloseCode::PROTOCOL_ERROR),
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
