//! Owns the token of the admin endpoint. It must not know how requests carry it.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The token that a request must show. It never appears in logs.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token(Box<str>);

/// The source of the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Secret {
    /// The configuration.
    Given(Token),
    /// A file whose only line is the token.
    File(PathBuf),
}

/// Why Holdline cannot read the token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It cannot read the file.
    #[error("{}: {error}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The text is no valid token.
    #[error("{}: {NO_TOKEN}", .0.display())]
    Malformed(PathBuf),
}

/// Why a text is no valid token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{NO_TOKEN}")]
pub(crate) struct NoToken;

const NO_TOKEN: &str =
    "expected 16 to 512 characters, letters and digits or -._~+/=, as `openssl rand -hex 32` gives";

impl Token {
    /// Compares a text with the token. The time it takes reveals only the length.
    #[must_use]
    pub(crate) fn is(&self, text: &[u8]) -> bool {
        verify_slices_are_equal(self.0.as_bytes(), text).is_ok()
    }

    /// Returns the token, for sending it.
    #[must_use]
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// Reads a token from a file.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read or holds no valid token.
    pub(crate) fn read(path: &Path) -> Result<Self, TokenError> {
        let text =
            std::fs::read_to_string(path).map_err(|error| TokenError::Io { path: path.to_owned(), error })?;
        text.trim_end_matches(['\r', '\n']).parse().map_err(|NoToken| TokenError::Malformed(path.to_owned()))
    }
}

impl Secret {
    /// Returns the token. It blocks while it reads a file.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read or holds no valid token.
    pub(crate) fn token(&self) -> Result<Token, TokenError> {
        match self {
            Self::Given(token) => Ok(token.clone()),
            Self::File(path) => Token::read(path),
        }
    }
}

impl FromStr for Token {
    type Err = NoToken;
    /// What `Authorization: Bearer` can carry (RFC 6750 2.1).
    fn from_str(text: &str) -> Result<Self, NoToken> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "-._~+/=".contains(c);
        let good = (16..=512).contains(&text.len()) && text.chars().all(fits);
        good.then(|| Self(text.into())).ok_or(NoToken)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_long_and_does_not_show() {
        let token: Token = "0123456789abcdef".parse().unwrap();
        assert!(token.is(b"0123456789abcdef") && !token.is(b"0123456789abcdee") && !token.is(b"0123"));
        assert_eq!(format!("{token:?}"), "Token(***)");
        for text in ["", "short", "0123456789abcde\n", "0123456789 abcdef", &"x".repeat(513)] {
            assert!(text.parse::<Token>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_token_is_the_only_line_of_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "0123456789abcdef\n").unwrap();
        assert!(Token::read(&path).unwrap().is(b"0123456789abcdef"));
        std::fs::write(&path, "0123456789abcdef\nmore\n").unwrap();
        assert!(Token::read(&path).unwrap_err().to_string().contains("openssl rand"));
        assert!(Token::read(&folder.path().join("none")).unwrap_err().to_string().contains("none: No such"));
    }
}
