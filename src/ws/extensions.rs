//! Owns the check of the extensions in a 101 against the offered ones (RFC 6455 9.1, RFC 7692 7.1). It must not know
//! frames.

use http::HeaderMap;
use http::header::SEC_WEBSOCKET_EXTENSIONS;

/// Why a client would reject the extensions of a 101.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExtensionError {
    /// RFC 6455 4.1, client requirement 5.
    #[error("it chose an extension that was not offered")]
    NotOffered,
    /// The 101 names an extension more often than the request. For permessage-deflate: RFC 7692 5.1.
    #[error("it chose an extension more often than it was offered")]
    Repeated,
    /// RFC 7692 7.1: the parameter is unknown or repeated, has an invalid value, or was not offered.
    #[error("it chose a parameter of permessage-deflate that was not offered")]
    Parameter,
}

/// One member of the extension list.
struct Extension<'a> {
    name: &'a [u8],
    parameters: Vec<(&'a [u8], Option<&'a [u8]>)>,
}

const DEFLATE: &[u8] = b"permessage-deflate";

/// Checks the extensions of a 101 against those of the request. Unknown extensions pass with any parameters if they
/// were offered.
///
/// # Errors
/// [`ExtensionError`] if the client would have to fail the connection.
pub(crate) fn check(request: &HeaderMap, answer: &HeaderMap) -> Result<(), ExtensionError> {
    if !answer.contains_key(SEC_WEBSOCKET_EXTENSIONS) {
        return Ok(());
    }
    let (offered, chosen) = (list(request), list(answer));
    for extension in &chosen {
        let times = |list: &[Extension<'_>]| list.iter().filter(|other| other.is(extension.name)).count();
        let most = if extension.is(DEFLATE) { 1 } else { times(&offered) };
        if times(&offered) == 0 {
            return Err(ExtensionError::NotOffered);
        }
        if times(&chosen) > most {
            return Err(ExtensionError::Repeated);
        }
        if extension.is(DEFLATE) && !extension.answers(&offered) {
            return Err(ExtensionError::Parameter);
        }
    }
    Ok(())
}

impl Extension<'_> {
    fn is(&self, name: &[u8]) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }

    fn has(&self, name: &[u8]) -> bool {
        self.parameters.iter().any(|(found, _)| found.eq_ignore_ascii_case(name))
    }

    /// Whether a server may choose these parameters of permessage-deflate. It may choose `client_max_window_bits` only
    /// if the client offered it (RFC 7692 7.1.2.2), and the others always (7.1.1.1, 7.1.2.1).
    fn answers(&self, offered: &[Extension<'_>]) -> bool {
        let may_limit_client =
            || offered.iter().any(|offer| offer.is(DEFLATE) && offer.has(b"client_max_window_bits"));
        let is_good = |&(name, value): &(&[u8], Option<&[u8]>)| match name.to_ascii_lowercase().as_slice() {
            b"server_no_context_takeover" | b"client_no_context_takeover" => value.is_none(),
            b"server_max_window_bits" => value.is_some_and(is_window),
            b"client_max_window_bits" => value.is_some_and(is_window) && may_limit_client(),
            _ => false,
        };
        let once = |name: &[u8]| {
            self.parameters.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name)).count() == 1
        };
        self.parameters.iter().all(|parameter| is_good(parameter) && once(parameter.0))
    }
}

/// 8 to 15, as a token or a quoted string (RFC 7692 7.1.2).
fn is_window(value: &[u8]) -> bool {
    let bare = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
    matches!(bare, b"8" | b"9" | b"10" | b"11" | b"12" | b"13" | b"14" | b"15")
}

/// The members of the header, over all its lines. A name need not be ASCII, because it is only compared.
fn list(headers: &HeaderMap) -> Vec<Extension<'_>> {
    let lines = headers.get_all(SEC_WEBSOCKET_EXTENSIONS).iter();
    let members = lines.flat_map(|line| split(line.as_bytes(), b','));
    members.filter(|member| !member.is_empty()).map(extension).collect()
}

fn extension(member: &[u8]) -> Extension<'_> {
    let mut parts = split(member, b';').into_iter();
    let name = parts.next().unwrap_or_default();
    let parameter = |part: &'_ [u8]| -> (usize, bool) {
        let end = part.iter().position(|&byte| byte == b'=');
        (end.unwrap_or(part.len()), end.is_some())
    };
    let parameters = parts.map(|part| {
        let (end, has_value) = parameter(part);
        (part[..end].trim_ascii(), has_value.then(|| part[end + 1..].trim_ascii()))
    });
    Extension { name, parameters: parameters.collect() }
}

/// Splits at separators outside of quoted strings (RFC 9110 5.6.4), and trims the parts.
fn split(text: &[u8], separator: u8) -> Vec<&[u8]> {
    let (mut parts, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (at, &byte) in text.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if byte == separator && !quoted => {
                parts.push(text[start..at].trim_ascii());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text[start..].trim_ascii());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(lines: &[&str]) -> HeaderMap {
        let values = lines.iter().map(|line| HeaderValue::from_bytes(line.as_bytes()).unwrap());
        values.map(|value| (SEC_WEBSOCKET_EXTENSIONS, value)).collect()
    }

    fn verdict(offered: &[&str], chosen: &[&str]) -> Result<(), ExtensionError> {
        check(&headers(offered), &headers(chosen))
    }

    #[test]
    fn what_servers_may_choose_passes() {
        let browser = ["permessage-deflate; client_max_window_bits"];
        for chosen in [
            "permessage-deflate",
            "Permessage-Deflate; server_no_context_takeover; client_no_context_takeover",
            "permessage-deflate;server_max_window_bits=15;client_max_window_bits=\"9\"",
            "permessage-deflate; client_max_window_bits=15",
            "",
        ] {
            assert_eq!(verdict(&browser, &[chosen]), Ok(()), "{chosen}");
        }
        assert_eq!(
            verdict(&["permessage-deflate"], &["permessage-deflate; server_max_window_bits=10"]),
            Ok(())
        );
        let twice = ["permessage-deflate; server_max_window_bits=10", "permessage-deflate"];
        assert_eq!(verdict(&twice, &["permessage-deflate"]), Ok(()), "a client may offer it in two forms");
        assert_eq!(
            verdict(&["x-a, x-b"], &["x-b; any=thing; other=\"a, x-c; b\""]),
            Ok(()),
            "one that is not known"
        );
        assert_eq!(verdict(&["x-a"], &[]), Ok(()));
    }

    #[test]
    fn what_was_not_offered_does_not() {
        use ExtensionError::{NotOffered, Parameter, Repeated};
        let cases: [(&[&str], &[&str], ExtensionError); 14] = [
            (&[], &["permessage-deflate"], NotOffered),
            (&["x-a"], &["x-a, permessage-deflate"], NotOffered),
            (&["x-a"], &["x-a", "x-b"], NotOffered),
            (&["x-a; b=\"c, x-b\""], &["x-b"], NotOffered),
            (&["x-a"], &["x-\u{e4}"], NotOffered),
            (&["permessage-deflate"], &["permessage-deflate, permessage-deflate"], Repeated),
            (
                &["permessage-deflate, permessage-deflate"],
                &["permessage-deflate", "permessage-deflate"],
                Repeated,
            ),
            (&["x-a"], &["x-a, x-a"], Repeated),
            (&["permessage-deflate"], &["permessage-deflate; foo=1"], Parameter),
            (&["permessage-deflate; foo"], &["permessage-deflate; foo"], Parameter),
            (&["permessage-deflate"], &["permessage-deflate; client_max_window_bits=15"], Parameter),
            (&["permessage-deflate"], &["permessage-deflate; server_max_window_bits=16"], Parameter),
            (&["permessage-deflate"], &["permessage-deflate; server_max_window_bits"], Parameter),
            (
                &["permessage-deflate"],
                &["permessage-deflate; server_no_context_takeover; server_no_context_takeover"],
                Parameter,
            ),
        ];
        for (offered, chosen, error) in cases {
            assert_eq!(verdict(offered, chosen), Err(error), "{offered:?} <- {chosen:?}");
        }
    }
}
