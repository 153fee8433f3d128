//! Owns observation: the metrics, the log and the access log. It must not decide anything.

pub(crate) mod access_log;
pub(crate) mod bursts;
pub(crate) mod end_key;
pub(crate) mod history;
pub(crate) mod idle_limits;
pub(crate) mod log;
pub(crate) mod metrics;
pub(crate) mod process;
pub(crate) mod recent;
pub(crate) mod report;
mod secrets;
pub(crate) mod tally;
pub(crate) mod unix_micros;

use crate::limit::rate::Rate;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use tracing::level_filters::LevelFilter;

/// The settings of the log and the access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The least severe level that Holdline logs.
    pub level: LevelFilter,
    /// The format of the log and the access log.
    pub format: Format,
    /// The target of the access log. The log itself goes to standard error.
    pub access: AccessTarget,
    /// The facility of its lines in syslog and journald.
    pub facility: Facility,
    /// The rate of lines of one class above which Holdline samples them, and the burst before that. `None`
    /// means that it writes all lines.
    pub sample_above: Option<Rate>,
}

/// The format of lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The target of the access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessTarget {
    /// The standard output.
    Stdout,
    /// The standard error.
    Stderr,
    /// Nowhere.
    Off,
    /// A file, which SIGUSR1 reopens.
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

/// The address of syslog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyslogAddr {
    /// The datagram socket of this host's daemon.
    Unix(PathBuf),
    /// Over UDP.
    Udp(SocketAddr),
}

/// The socket that the C library's `syslog(3)` uses.
const LOCAL: &str = "/dev/log";

/// The text is no [`SyslogAddr`].
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

/// A syslog facility, 0 to 23 (RFC 5424 6.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facility(pub u8);
