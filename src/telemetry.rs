//! Owns observation: what is counted and written of what happened. It must not decide anything.

pub mod access_log;
pub mod history;
pub mod log;
pub mod metrics;
pub mod process;
pub mod recent;
pub mod report;
pub mod tally;

use crate::limit::rate::Rate;
use std::fmt;
use std::path::PathBuf;
use tracing::level_filters::LevelFilter;

/// What is logged, how, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The least severe events that are logged.
    pub level: LevelFilter,
    /// How the log and the access log are written.
    pub format: Format,
    /// Where the access log goes; the log itself goes to the standard error.
    pub access: AccessTarget,
    /// How many lines of a kind are written before a flood of them is sampled: so many at this rate, and its
    /// burst at once. `None`: all are written.
    pub sample_above: Option<Rate>,
}

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Where the access log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessTarget {
    /// The standard output.
    Stdout,
    /// The standard error.
    Stderr,
    /// Nowhere.
    Off,
    /// A file, opened anew on SIGUSR1.
    File(PathBuf),
}

impl fmt::Display for AccessTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("stdout"),
            Self::Stderr => f.write_str("stderr"),
            Self::Off => f.write_str("off"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}
