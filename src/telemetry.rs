//! Owns observation: what is counted and written of what happened. It must not decide anything.

pub mod access_log;
pub mod bursts;
pub mod cause;
pub mod history;
pub mod log;
pub mod metrics;
pub mod process;
pub mod recent;
pub mod report;
mod secrets;
pub mod stamp;
pub mod tally;

use crate::limit::rate::Rate;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
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
    /// What syslog and journald file its lines under.
    pub facility: Facility,
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
    /// Syslog.
    Syslog(SyslogAddr),
    /// journald, by its own protocol.
    Journald,
}

impl fmt::Display for AccessTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("stdout"),
            Self::Stderr => f.write_str("stderr"),
            Self::Off => f.write_str("off"),
            Self::File(path) => path.display().fmt(f),
            Self::Syslog(to) => to.fmt(f),
            Self::Journald => f.write_str("journald"),
        }
    }
}

/// Where syslog takes messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyslogAddr {
    /// A socket of datagrams, of the daemon of this host.
    Unix(PathBuf),
    /// Over UDP.
    Udp(SocketAddr),
}

/// Where the C library's `syslog(3)` sends messages.
const LOCAL: &str = "/dev/log";

/// The text is none of a [`SyslogAddr`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected \"syslog\", \"syslog:unix:/path\", \"syslog:IP:PORT\" or \"syslog:[IPv6]:PORT\"")]
pub struct SyslogAddrError;

impl FromStr for SyslogAddr {
    type Err = SyslogAddrError;
    fn from_str(text: &str) -> Result<Self, SyslogAddrError> {
        if text == "syslog" {
            return Ok(Self::Unix(LOCAL.into()));
        }
        let text = text.strip_prefix("syslog:").ok_or(SyslogAddrError)?;
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(_) => Err(SyslogAddrError),
            None => {
                let to = text.parse().ok().filter(|to: &SocketAddr| to.port() != 0);
                to.map(Self::Udp).ok_or(SyslogAddrError)
            }
        }
    }
}

impl fmt::Display for SyslogAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) if path.as_os_str() == LOCAL => f.write_str("syslog"),
            Self::Unix(path) => write!(f, "syslog:unix:{}", path.display()),
            Self::Udp(to) => write!(f, "syslog:{to}"),
        }
    }
}

/// What a message of syslog is filed under: 0 to 23 (RFC 5424 6.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facility(pub u8);
