//! Owns the key by which metrics count ends: who ended it, the cause, and a group of close codes. There are few
//! keys, whatever peers send.

use crate::outcome::{Cause, EndedBy, Ending};
use crate::ws::close::CloseCode;

/// How a tunnel ended, for the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndKey {
    /// Who ended it.
    pub ended_by: EndedBy,
    /// Why.
    pub cause: Cause,
    /// With which close code.
    pub code: Code,
}

impl From<&Ending> for EndKey {
    fn from(ending: &Ending) -> Self {
        Self { ended_by: ending.ended_by, cause: ending.cause, code: ending.code.into() }
    }
}

/// A close code for the metrics. Peers may send any, so most are grouped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Code {
    /// No close code.
    None,
    /// One of 1000 to 1015.
    Registered(u16),
    /// 3000 to 3999, for libraries.
    Library,
    /// 4000 to 4999, for applications.
    Application,
    /// A code that must not be sent.
    Other,
}

impl From<Option<CloseCode>> for Code {
    fn from(code: Option<CloseCode>) -> Self {
        match code {
            None => Self::None,
            Some(CloseCode(code @ 1000..=1015)) => Self::Registered(code),
            Some(CloseCode(3000..=3999)) => Self::Library,
            Some(CloseCode(4000..=4999)) => Self::Application,
            Some(_) => Self::Other,
        }
    }
}

impl Code {
    /// Returns its label.
    #[must_use]
    pub fn label(self) -> String {
        match self {
            Self::None => "none".to_owned(),
            Self::Registered(code) => code.to_string(),
            Self::Library => "3xxx".to_owned(),
            Self::Application => "4xxx".to_owned(),
            Self::Other => "other".to_owned(),
        }
    }
}
