//! Owns the reasons why the relay reads no frames of a tunnel.

use crate::ws::frame::Violation;

/// Why the relay reads no frames of a tunnel. It injects none either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blind {
    /// The connection is no WebSocket.
    Protocol,
    /// The peers agreed on an extension that Holdline does not know.
    Extension,
    /// A peer broke the framing, so later frame boundaries are unknown.
    Violation(Violation),
}

impl Blind {
    /// The reason in words, for logs and the admin endpoint.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Protocol => "another protocol",
            Self::Extension => "unknown extension",
            Self::Violation(violation) => violation.as_str(),
        }
    }

    /// The number of the reason, from 1. One byte instead of a pointer and a length.
    pub(super) fn number(self) -> u8 {
        match self {
            Self::Protocol => 1,
            Self::Extension => 2,
            Self::Violation(violation) => match violation {
                Violation::ReservedBits => 3,
                Violation::ReservedOpCode(_) => 4,
                Violation::Unmasked => 5,
                Violation::Masked => 6,
                Violation::ControlTooLong => 7,
                Violation::ControlFragmented => 8,
                Violation::LengthNotMinimal => 9,
                Violation::LengthTooLarge => 10,
                Violation::NothingToContinue => 11,
                Violation::MessageInsideMessage => 12,
            },
        }
    }

    /// The reason of this number, without its opcode. `None` means that no reason has it.
    pub(super) fn numbered(number: u8) -> Option<Self> {
        ALL.get(usize::from(number).checked_sub(1)?).copied()
    }
}

/// In the order of their numbers.
const ALL: [Blind; 12] = [
    Blind::Protocol,
    Blind::Extension,
    Blind::Violation(Violation::ReservedBits),
    Blind::Violation(Violation::ReservedOpCode(0)),
    Blind::Violation(Violation::Unmasked),
    Blind::Violation(Violation::Masked),
    Blind::Violation(Violation::ControlTooLong),
    Blind::Violation(Violation::ControlFragmented),
    Blind::Violation(Violation::LengthNotMinimal),
    Blind::Violation(Violation::LengthTooLarge),
    Blind::Violation(Violation::NothingToContinue),
    Blind::Violation(Violation::MessageInsideMessage),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::counters::Counters;

    /// Leads through all violations. A new one does not compile until it has its place here.
    fn following(violation: Violation) -> Option<Violation> {
        Some(match violation {
            Violation::ReservedBits => Violation::ReservedOpCode(11),
            Violation::ReservedOpCode(_) => Violation::Unmasked,
            Violation::Unmasked => Violation::Masked,
            Violation::Masked => Violation::ControlTooLong,
            Violation::ControlTooLong => Violation::ControlFragmented,
            Violation::ControlFragmented => Violation::LengthNotMinimal,
            Violation::LengthNotMinimal => Violation::LengthTooLarge,
            Violation::LengthTooLarge => Violation::NothingToContinue,
            Violation::NothingToContinue => Violation::MessageInsideMessage,
            Violation::MessageInsideMessage => return None,
        })
    }

    #[test]
    fn each_reason_is_reported_in_its_own_words() {
        let violations = std::iter::successors(Some(Violation::ReservedBits), |last| following(*last));
        for reason in [Blind::Protocol, Blind::Extension].into_iter().chain(violations.map(Blind::Violation))
        {
            let counters = Counters::default();
            assert_eq!(counters.blind(), None);
            counters.go_blind(reason);
            assert_eq!(counters.blind(), Some(reason.as_str()));
        }
    }
}
