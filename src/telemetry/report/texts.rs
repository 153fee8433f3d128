//! Owns the texts of a request, in one piece of memory: every tunnel keeps them to its end.

/// What a request says of itself, in words.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Its method.
    pub method: &'a str,
    /// The host asked for.
    pub host: &'a str,
    /// The path and query asked for, secrets removed.
    pub target: &'a str,
    /// The version of TLS; `None`: there was none.
    pub tls: Option<&'a str>,
}

/// What [`Asked`] holds, and what was agreed on: a line for each. None of them has a line feed in it, as
/// nothing in the head of a request can (RFC 9110 5.5, RFC 9112 3).
#[derive(Clone, Debug)]
pub(super) struct Texts(Box<str>);

/// The lines of those that are always there.
const METHOD: usize = 0;
const HOST: usize = 1;
const TARGET: usize = 2;
/// The lines of those that may be missing: begun by [`THERE`], or empty.
const TLS: usize = 3;
const SUBPROTOCOL: usize = 4;
const EXTENSIONS: usize = 5;
/// Tells an empty text from none.
const THERE: char = '+';

impl Texts {
    pub(super) fn new(asked: &Asked<'_>, subprotocol: Option<&str>, extensions: Option<&str>) -> Self {
        let Asked { method, host, target, tls } = *asked;
        let some = [method, host, target];
        let perhaps = [tls, subprotocol, extensions];
        let length = |text: &str| text.len() + 2;
        let lengths = some.into_iter().chain(perhaps.into_iter().flatten()).map(length);
        let mut lines = String::with_capacity(lengths.sum::<usize>() + perhaps.len());
        for text in some {
            debug_assert!(!text.contains('\n'), "{text:?}");
            lines.push_str(text);
            lines.push('\n');
        }
        for text in perhaps {
            if let Some(text) = text {
                lines.push(THERE);
                lines.push_str(text);
            }
            lines.push('\n');
        }
        // A request has mostly none of the last.
        lines.truncate(lines.trim_end_matches('\n').len());
        Self(lines.into_boxed_str())
    }

    /// The same, with what was agreed on.
    pub(super) fn with(&self, subprotocol: Option<&str>, extensions: Option<&str>) -> Self {
        let (method, host, target, tls) = (self.method(), self.host(), self.target(), self.tls());
        Self::new(&Asked { method, host, target, tls }, subprotocol, extensions)
    }

    pub(super) fn method(&self) -> &str {
        self.line(METHOD)
    }

    pub(super) fn host(&self) -> &str {
        self.line(HOST)
    }

    pub(super) fn target(&self) -> &str {
        self.line(TARGET)
    }

    pub(super) fn tls(&self) -> Option<&str> {
        self.line(TLS).strip_prefix(THERE)
    }

    pub(super) fn subprotocol(&self) -> Option<&str> {
        self.line(SUBPROTOCOL).strip_prefix(THERE)
    }

    pub(super) fn extensions(&self) -> Option<&str> {
        self.line(EXTENSIONS).strip_prefix(THERE)
    }

    /// Their size in bytes.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Those at the end that are missing have none.
    fn line(&self, number: usize) -> &str {
        self.0.split('\n').nth(number).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_written_is_read(
            method in "[A-Z-]{0,7}",
            host in "[ -~]{0,20}",
            target in "[^\n]{0,20}",
            tls in proptest::option::of("TLSv1.[23]"),
            subprotocol in proptest::option::of("[ -~\t]{0,9}"),
            extensions in proptest::option::of("[ -~\t]{0,9}"),
        ) {
            let asked = Asked { method: &method, host: &host, target: &target, tls: tls.as_deref() };
            let texts = Texts::new(&asked, None, None);
            prop_assert_eq!((texts.method(), texts.host(), texts.target()), (&*method, &*host, &*target));
            prop_assert_eq!((texts.tls(), texts.subprotocol(), texts.extensions()), (tls.as_deref(), None, None));
            let texts = texts.with(subprotocol.as_deref(), extensions.as_deref());
            prop_assert_eq!((texts.method(), texts.host(), texts.target()), (&*method, &*host, &*target));
            let rest = (tls.as_deref(), subprotocol.as_deref(), extensions.as_deref());
            prop_assert_eq!((texts.tls(), texts.subprotocol(), texts.extensions()), rest);
        }
    }
}
