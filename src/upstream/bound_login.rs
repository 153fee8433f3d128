//! Owns the detection of logins that are bound to a connection: NTLM, Negotiate and the like (RFC 4559). RFC
//! 9110 16.4.1 calls them flawed, because the next user of the connection inherits the login.

use http::header::{AUTHORIZATION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName};

const PERSISTENT_AUTH: HeaderName = HeaderName::from_static("persistent-auth");

const SCHEMES: [&str; 4] = ["ntlm", "negotiate", "nego2", "kerberos"];

/// Whether a request carries credentials of such a login.
#[must_use]
pub(crate) fn has_credentials(request: &HeaderMap) -> bool {
    name(request, &[AUTHORIZATION, PROXY_AUTHORIZATION])
}

/// Whether a response asks for such a login, or confirms one.
#[must_use]
pub(super) fn has_challenge(answer: &HeaderMap) -> bool {
    answer.contains_key(PERSISTENT_AUTH) || name(answer, &[WWW_AUTHENTICATE, PROXY_AUTHENTICATE])
}

/// Whether one of the headers names such a scheme, in any of its lines and members. It also looks inside
/// quotes: a connection that is private without need does no harm.
fn name(headers: &HeaderMap, names: &[HeaderName]) -> bool {
    let values = names.iter().flat_map(|name| headers.get_all(name));
    let mut members = values.flat_map(|value| value.as_bytes().split(|&byte| byte == b','));
    members.any(|member| {
        let member = member.trim_ascii();
        let end = member.iter().position(|&byte| byte == b'=' || byte.is_ascii_whitespace());
        let scheme = &member[..end.unwrap_or(member.len())];
        SCHEMES.iter().any(|known| scheme.eq_ignore_ascii_case(known.as_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: HeaderName, values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn schemes_are_found_wherever_they_stand() {
        for value in
            ["NTLM", "ntlm TlRMTVNTUAAB", "Negotiate YII=", "NEGO2 x", "Kerberos\tx", "  Negotiate  "]
        {
            assert!(has_credentials(&one(AUTHORIZATION, &[value])), "{value}");
            assert!(has_credentials(&one(PROXY_AUTHORIZATION, &[value])), "{value}");
            assert!(has_challenge(&one(WWW_AUTHENTICATE, &[value])), "{value}");
            assert!(has_challenge(&one(PROXY_AUTHENTICATE, &[value])), "{value}");
        }
        for values in
            [&["Basic realm=\"x\"", "NTLM"][..], &["Basic realm=\"x, y\",Negotiate"], &["Bearer , NTLM"]]
        {
            assert!(has_challenge(&one(WWW_AUTHENTICATE, values)), "{values:?}");
        }
        assert!(has_challenge(&one(PERSISTENT_AUTH, &["true"])));
    }

    #[test]
    fn other_logins_are_none() {
        for value in ["Basic TlRMTQ==", "Bearer ntlm", "Digest username=\"negotiate\"", "NTLMv9", ""] {
            assert!(!has_credentials(&one(AUTHORIZATION, &[value])), "{value}");
            assert!(!has_challenge(&one(WWW_AUTHENTICATE, &[value])), "{value}");
        }
        assert!(!has_challenge(&HeaderMap::new()));
    }
}
