//! Owns a pattern of a route: its syntax and what it matches.

use regex::{Regex, bytes};
use std::fmt;
use std::str::FromStr;

/// A host or a family of hosts (nginx, `server_name`), in lower case.
#[derive(Clone, Debug)]
pub enum HostPattern {
    /// `www.example.org`
    Exact(String),
    /// `*.example.org`, kept as `.example.org`.
    Leading(String),
    /// `mail.*`, kept as `mail.`.
    Trailing(String),
    /// `~^img[0-9]+\.example\.org$`
    Regex(Regex),
}

/// A path or a family of paths (nginx, `location`).
#[derive(Clone, Debug)]
pub enum PathPattern {
    /// This path alone (`=`).
    Exact(String),
    /// Every path with this beginning.
    Prefix {
        /// The beginning.
        prefix: String,
        /// Whether it takes precedence over any regex (`^~`).
        priority: bool,
    },
    /// Every path with a match (`~`; `(?i)` for `~*`).
    Regex(PathRegex),
}

/// A regex for paths. In a path that is not UTF-8, each byte counts as a character, as in nginx.
#[derive(Clone, Debug)]
pub struct PathRegex {
    text: Regex,
    bytes: bytes::Regex,
}

impl PathRegex {
    fn new(regex: &str) -> Result<Self, PatternError> {
        let text = compile(regex)?;
        let of_bytes = bytes::RegexBuilder::new(regex).unicode(false).build();
        // Character classes beyond ASCII cannot match bytes.
        let bytes = of_bytes.or_else(|_| bytes::Regex::new(regex)).map_err(|error| unreadable(&error))?;
        Ok(Self { text, bytes })
    }

    /// Whether it has a match.
    #[must_use]
    pub fn is_match(&self, path: &[u8]) -> bool {
        std::str::from_utf8(path).map_or_else(|_| self.bytes.is_match(path), |path| self.text.is_match(path))
    }

    /// Returns the path with `with` in place of the first match. In it, `$1` stands for the first group.
    pub(super) fn replace(&self, path: &[u8], with: &str) -> Vec<u8> {
        match std::str::from_utf8(path) {
            Ok(path) => self.text.replace(path, with).into_owned().into_bytes(),
            Err(_) => self.bytes.replace(path, with.as_bytes()).into_owned(),
        }
    }

    /// Whether it has a group of this number or name.
    #[must_use]
    pub fn has_group(&self, name: &str) -> bool {
        name.parse::<usize>().map_or_else(
            |_| self.text.capture_names().flatten().any(|known| known == name),
            |number| number < self.text.captures_len(),
        )
    }

    pub(super) fn as_str(&self) -> &str {
        self.text.as_str()
    }
}

/// Why a text is no pattern.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PatternError {
    /// Not a host.
    #[error("expected a host without port, \"*.example.com\", \".example.com\", \"mail.*\" or \"~regex\"")]
    Host,
    /// Not a path.
    #[error("expected a path that begins with \"/\"")]
    Path,
    /// Not a regular expression.
    #[error("not a regular expression: {0}")]
    Regex(String),
}

impl FromStr for HostPattern {
    type Err = PatternError;
    fn from_str(text: &str) -> Result<Self, PatternError> {
        // It may name the route in logs.
        if text.contains(char::is_control) {
            return Err(PatternError::Host);
        }
        if let Some(regex) = text.strip_prefix('~') {
            return compile(&format!("{ANY_CASE}{regex}")).map(Self::Regex);
        }
        let lower = text.trim_end_matches('.').to_ascii_lowercase();
        let (pattern, fixed): (fn(String) -> Self, &str) = if let Some(rest) = lower.strip_prefix("*.") {
            (|rest| Self::Leading(format!(".{rest}")), rest)
        } else if let Some(rest) = lower.strip_suffix(".*") {
            (|rest| Self::Trailing(format!("{rest}.")), rest)
        } else {
            (Self::Exact, lower.strip_prefix('.').unwrap_or(&lower))
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '[' | ']' | ':');
        let port = if fixed.starts_with('[') { !fixed.ends_with(']') } else { fixed.contains(':') };
        if fixed.is_empty() || fixed.starts_with('.') || port || !fixed.chars().all(plain) {
            return Err(PatternError::Host);
        }
        Ok(pattern(if lower.starts_with('.') { lower } else { fixed.to_owned() }))
    }
}

/// As it is written in the configuration.
impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => f.write_str(host),
            Self::Leading(suffix) => write!(f, "*{suffix}"),
            Self::Trailing(prefix) => write!(f, "{prefix}*"),
            Self::Regex(regex) => {
                write!(f, "~{}", regex.as_str().strip_prefix(ANY_CASE).unwrap_or(regex.as_str()))
            }
        }
    }
}

/// Patterns are equal if their texts are, because regexes cannot be compared.
impl PartialEq for HostPattern {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl PartialEq for PathPattern {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) => a == b,
            (Self::Prefix { prefix, priority }, Self::Prefix { prefix: other, priority: p }) => {
                (prefix, priority) == (other, p)
            }
            (Self::Regex(a), Self::Regex(b)) => a.as_str() == b.as_str(),
            _ => false,
        }
    }
}

impl HostPattern {
    /// The patterns of a list: `.example.org` stands for `example.org` and `*.example.org`.
    #[must_use]
    pub fn expand(self) -> Vec<Self> {
        match self {
            Self::Exact(host) if host.starts_with('.') => {
                vec![Self::Exact(host[1..].to_owned()), Self::Leading(host)]
            }
            other => vec![other],
        }
    }
}

impl PathPattern {
    /// The path or the regex, as it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Exact(path) | Self::Prefix { prefix: path, .. } => path,
            Self::Regex(regex) => regex.as_str(),
        }
    }

    /// This path alone.
    ///
    /// # Errors
    /// It does not begin with a slash.
    pub fn exact(path: &str) -> Result<Self, PatternError> {
        absolute(path).map(Self::Exact)
    }

    /// Every path with this beginning.
    ///
    /// # Errors
    /// It does not begin with a slash.
    pub fn prefix(prefix: &str, priority: bool) -> Result<Self, PatternError> {
        absolute(prefix).map(|prefix| Self::Prefix { prefix, priority })
    }

    /// Every path with a match.
    ///
    /// # Errors
    /// Not a regular expression.
    pub fn regex(regex: &str) -> Result<Self, PatternError> {
        PathRegex::new(regex).map(Self::Regex)
    }
}

fn absolute(path: &str) -> Result<String, PatternError> {
    path.starts_with('/').then(|| path.to_owned()).ok_or(PatternError::Path)
}

fn compile(regex: &str) -> Result<Regex, PatternError> {
    Regex::new(regex).map_err(|error| unreadable(&error))
}

/// The library draws the place over several lines; the last one says what is wrong.
fn unreadable(error: &regex::Error) -> PatternError {
    let text = error.to_string();
    PatternError::Regex(text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned())
}

/// Hosts have no case.
const ANY_CASE: &str = "(?i)";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_that_mean_nothing_are_refused() {
        for host in ["", "*", "a b", "example.com:80", "*.", "[::1]:80", "a.*.b", "~(", "..a", ".a.*"] {
            assert!(host.parse::<HostPattern>().is_err(), "{host:?}");
        }
        assert!(matches!(PathPattern::exact("ws"), Err(PatternError::Path)));
        assert!(matches!(PathPattern::regex("["), Err(PatternError::Regex(_))));
    }
    #[test]
    fn hosts_are_printed_as_they_are_written() {
        for host in ["example.com", ".example.com", "*.example.com", "mail.*", "~^img[0-9]+$", "[::1]"] {
            let pattern: HostPattern = host.parse().unwrap();
            assert_eq!(pattern.to_string(), host);
            assert_eq!(pattern, host.parse().unwrap());
        }
    }
}
