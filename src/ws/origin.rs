//! Owns which pages may open a WebSocket: it checks the `Origin` of a browser against a list (RFC 6454, RFC 6455 10.2).
//! Browsers send cookies with a WebSocket request from any site, so a server that trusts cookies needs this check.

use crate::addr::HostPort;
use std::fmt;
use std::str::FromStr;

/// Pages that may open a WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedOrigin {
    /// Pages of the scheme, host and port to which the WebSocket request is sent.
    Own,
    /// `null`: pages of no site, such as local files and sandboxed frames.
    Null,
    /// Pages of one site.
    Exact(Site),
    /// Pages of all sites below this one, `https://*.example.com`, but not of the site itself.
    Below(Site),
}

/// The site of a page, in lower case and without the default port of its scheme.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    scheme: String,
    host: String,
    port: Option<u16>,
}

/// The text is no origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected an origin like \"https://example.com\" or \"https://*.example.com\", \"self\" or \"null\"")]
pub struct OriginError;

/// Whether a WebSocket request may come from `origin`, the only value of its header. `scheme` is the client's scheme,
/// and `host` its `Host` header (RFC 6454 4). A request without `Origin` is allowed, because browsers always send it.
#[must_use]
pub(crate) fn is_allowed(allowed: &[AllowedOrigin], origin: Option<&str>, scheme: &str, host: &str) -> bool {
    let Some(origin) = origin else { return true };
    if origin == "null" {
        return allowed.contains(&AllowedOrigin::Null);
    }
    let Some(site) = Site::read(origin) else { return false };
    allowed.iter().any(|allowed| match allowed {
        AllowedOrigin::Null => false,
        AllowedOrigin::Own => Site::read(&format!("{scheme}://{host}")).as_ref() == Some(&site),
        AllowedOrigin::Exact(exact) => *exact == site,
        AllowedOrigin::Below(above) => {
            let below = site.host.strip_suffix(&*above.host).and_then(|below| below.strip_suffix('.'));
            (above.scheme == site.scheme && above.port == site.port) && below.is_some_and(|b| !b.is_empty())
        }
    })
}

impl Site {
    /// RFC 6454 6.2: scheme, host and an optional port, and nothing after them.
    fn read(text: &str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let is_scheme = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
        let split = HostPort::split(authority);
        let host = split.host;
        let port = if split.port.is_some() { Some(split.port_number()?) } else { None };
        let is_good = match split.literal() {
            Some(literal) => literal.bytes().all(|b| b.is_ascii_hexdigit() || b":.".contains(&b)),
            None => host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._*".contains(&b)),
        };
        if scheme.is_empty() || !is_scheme(scheme) || host.is_empty() || !is_good {
            return None;
        }
        let (scheme, host) = (scheme.to_ascii_lowercase(), host.to_ascii_lowercase());
        let of_scheme = match &*scheme {
            "http" => Some(80),
            "https" => Some(443),
            _ => None,
        };
        Some(Self { scheme, host, port: port.filter(|port| Some(*port) != of_scheme) })
    }
}

impl FromStr for AllowedOrigin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        match text {
            "self" => return Ok(Self::Own),
            "null" => return Ok(Self::Null),
            _ => {}
        }
        let site = Site::read(text).ok_or(OriginError)?;
        match site.host.strip_prefix("*.").map(str::to_owned) {
            Some(host) if !host.is_empty() && !host.contains('*') => Ok(Self::Below(Site { host, ..site })),
            None if !site.host.contains('*') => Ok(Self::Exact(site)),
            _ => Err(OriginError),
        }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.host)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl fmt::Display for AllowedOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => f.write_str("self"),
            Self::Null => f.write_str("null"),
            Self::Exact(site) => site.fmt(f),
            Self::Below(Site { scheme, host, port }) => {
                Site { scheme: scheme.clone(), host: format!("*.{host}"), port: *port }.fmt(f)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use regex::Regex;

    fn allows(list: &[&str], origin: &str) -> bool {
        let list: Vec<AllowedOrigin> = list.iter().map(|text| text.parse().unwrap()).collect();
        is_allowed(&list, Some(origin), "https", "app.example.com:8443")
    }

    #[test]
    fn a_site_is_scheme_host_and_port() {
        let list = ["https://example.com", "http://localhost:3000", "https://[::1]"];
        for origin in
            ["https://example.com", "https://EXAMPLE.com:443", "http://localhost:3000", "https://[::1]"]
        {
            assert!(allows(&list, origin), "{origin}");
        }
        for origin in [
            "http://example.com",
            "https://example.com:8443",
            "https://example.com.evil.test",
            "https://evil-example.com",
            "https://www.example.com",
            "http://localhost",
            "https://example.com/",
            "https://user@example.com",
            "example.com",
            "null",
            "",
        ] {
            assert!(!allows(&list, origin), "{origin}");
        }
    }

    #[test]
    fn a_wildcard_is_for_what_is_below() {
        let list = ["https://*.example.com"];
        assert!(allows(&list, "https://a.example.com") && allows(&list, "https://a.b.example.com"));
        for origin in [
            "https://example.com",
            "https://.example.com",
            "http://a.example.com",
            "https://a.example.com:8443",
            "https://aexample.com",
            "https://a.example.com.evil.test",
        ] {
            assert!(!allows(&list, origin), "{origin}");
        }
    }

    #[test]
    fn a_page_of_the_host_itself_and_of_none() {
        assert!(allows(&["self"], "https://app.example.com:8443"));
        assert!(!allows(&["self"], "https://app.example.com"));
        assert!(!allows(&["self"], "null") && allows(&["null"], "null"));
        for scheme in ["http", "ftp", "wss", "chrome-extension"] {
            assert!(!allows(&["self"], &format!("{scheme}://app.example.com:8443")), "{scheme}");
        }
        let own = ["self".parse().unwrap()];
        assert!(is_allowed(&own, Some("http://a.test:80"), "http", "a.test"));
        assert!(is_allowed(&own, Some("https://A.test"), "https", "a.test:443"));
        assert!(!is_allowed(&own, Some("http://a.test:443"), "https", "a.test"));
        assert!(is_allowed(&[], None, "http", "a.test"), "no browser, no page");
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for text in
            ["", "*", "example.com", "https://", "https://*", "https://a.*.com", "https://*.*", "https://a/b"]
        {
            assert_eq!(text.parse::<AllowedOrigin>(), Err(OriginError), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_list_reads_as_it_was_written(text in "(https?|app)://(\\*\\.)?[a-zA-Z0-9-]{1,9}(\\.[a-z]{2,5})?(:[0-9]{1,4})?") {
            let origin: AllowedOrigin = text.parse().unwrap();
            prop_assert_eq!(origin.to_string().parse(), Ok(origin));
        }

        #[test]
        fn an_origin_is_allowed_only_where_the_list_says_so(origin in odd_origin()) {
            let list = ["self", "https://*.example.com"].map(|text| text.parse().unwrap());
            let expected = Regex::new(
                r"(?i-u)\Ahttps://(self\.test|[a-z0-9._*-]+\.example\.com)(:\+?0*443)?\z"
            ).unwrap();
            let found = is_allowed(&list, Some(&origin), "https", "self.test");
            prop_assert_eq!(found, expected.is_match(&origin), "{}", origin);
        }
    }

    /// Any text, and more often one that is nearly an origin of the list.
    fn odd_origin() -> impl Strategy<Value = String> {
        prop_oneof![
            "\\PC*",
            "(https?|HTTPS|wss)://([a-zA-Z0-9.*-]{0,8}\\.)?(example|EXAMPLE|an-example)\\.com(:[0-9+]{0,4})?.?",
            "https://(user@)?self\\.test\\.?(:(443|0443|80|))?/?",
        ]
    }
}
