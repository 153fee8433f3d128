//! Owns the causes of ends as far as they are counted: few, whatever peers send.

use crate::outcome::{Ending, Who, Why};
use crate::ws::close::CloseCode;

/// How a tunnel ended, as far as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cause {
    /// Who ended it.
    pub who: Who,
    /// Why.
    pub why: Why,
    /// With which close code.
    pub code: Code,
}

impl From<&Ending> for Cause {
    fn from(ending: &Ending) -> Self {
        Self { who: ending.who, why: ending.why, code: ending.code.into() }
    }
}

/// A close code as far as it is counted: peers may send any, and counts are few.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Code {
    /// There was none.
    None,
    /// One of 1000 to 1015.
    Registered(u16),
    /// One of 3000 to 3999: a library's.
    Library,
    /// One of 4000 to 4999: an application's.
    Application,
    /// One that may not be sent.
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
    /// The label of it.
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
