//! Owns how mistakes in a configuration are described: their place, what was found and what is expected. It
//! must not know what any key means.

use std::fmt;
use std::sync::Arc;

/// A place in a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The file, as the operator named it.
    pub(crate) source: Arc<str>,
    /// The line, from 1. `None` means that something is missing, or that the whole file is meant.
    pub(crate) line: Option<usize>,
    /// The key path, like `route[0].read_timeout`. Empty means the whole file.
    pub(crate) path: String,
}

/// A mistake.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}{found}, {remedy}")]
pub struct Error {
    /// Where it is.
    pub(crate) place: Place,
    /// What was found there.
    pub found: String,
    /// What is expected instead.
    pub remedy: String,
}

/// All the mistakes in a file, at least one, in the order of their lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errors(Vec<Error>);

/// Something valid that is probably a mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Where it is.
    pub(crate) place: Place,
    /// What is doubtful, and what follows from it.
    pub(crate) text: String,
}

impl Errors {
    /// Sorts the mistakes by their lines; those without one come last. `None` means that there are none.
    pub(super) fn new(mut errors: Vec<Error>) -> Option<Self> {
        errors.sort_by_key(|error| error.place.line.unwrap_or(usize::MAX));
        (!errors.is_empty()).then_some(Self(errors))
    }

    /// In the order of their lines.
    pub fn iter(&self) -> std::slice::Iter<'_, Error> {
        self.0.iter()
    }
}

impl From<Error> for Errors {
    fn from(error: Error) -> Self {
        Self(vec![error])
    }
}

impl<'a> IntoIterator for &'a Errors {
    type Item = &'a Error;
    type IntoIter = std::slice::Iter<'a, Error>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl std::error::Error for Errors {}

/// Writes one mistake on each line.
impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let end = if index == 0 { "" } else { "\n" };
            write!(f, "{end}{error}")?;
        }
        Ok(())
    }
}

/// Writes `proxy.toml:12: route[0].read_timeout: `, the beginning of a message.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        f.write_str(": ")?;
        if self.path.is_empty() { Ok(()) } else { write!(f, "{}: ", self.path) }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.place, self.text)
    }
}

/// Returns the known word that was probably meant: at most a third of its letters differ.
pub(super) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let word = word.to_lowercase().replace('-', "_");
    let distances = known.iter().map(|&known| (strsim::damerau_levenshtein(&word, known), known));
    let (distance, known) = distances.min_by_key(|&(distance, _)| distance)?;
    (distance < known.len() && distance * 3 <= known.len().max(3)).then_some(known)
}

/// "a, b or c".
pub(super) fn any_of<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let mut words: Vec<&str> = words.into_iter().collect();
    let last = words.pop().unwrap_or_default();
    if words.is_empty() { last.to_owned() } else { format!("{} or {last}", words.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_word_is_suggested_and_a_far_one_is_not() {
        let known = ["read_timeout", "send_timeout", "path"];
        assert_eq!(nearest("read_timout", &known), Some("read_timeout"));
        assert_eq!(nearest("Read-Timeout", &known), Some("read_timeout"));
        assert_eq!(nearest("paht", &known), Some("path"));
        assert_eq!(nearest("tls", &known), None);
        assert_eq!(nearest("x", &[]), None);
    }

    #[test]
    fn an_error_says_where_what_and_what_instead() {
        let place =
            Place { source: "proxy.toml".into(), line: Some(12), path: "route[0].read_timeout".into() };
        let error = Error { place, found: "found \"60\"".into(), remedy: "expected a duration".into() };
        let text = "proxy.toml:12: route[0].read_timeout: found \"60\", expected a duration";
        assert_eq!(error.to_string(), text);
        let twice = Errors::new(vec![error.clone(), error]).unwrap();
        assert_eq!(twice.to_string(), format!("{text}\n{text}"));
        assert_eq!(Errors::new(Vec::new()), None);
    }

    #[test]
    fn words_are_listed_with_or() {
        assert_eq!(any_of(["a", "b", "c"]), "a, b or c");
        assert_eq!(any_of(["a"]), "a");
    }
}
