//! Owns what messages say about addresses and hosts that are nearly right. It must not know which setting has
//! them.

use crate::addr::HostPort;
use regex_syntax::hir::{Class, Hir, HirKind};
use std::net::{IpAddr, Ipv6Addr};

/// What the operator probably meant by an address to listen at.
pub(super) fn listen(text: &str) -> Option<String> {
    let text = text.trim();
    let bare = without_scheme(text).unwrap_or(text);
    let bare = bare.split(['/', ' ']).next().unwrap_or_default();
    if let Some(path) = text.strip_prefix("unix:") {
        return (!path.starts_with('/'))
            .then(|| "expected an absolute path, \"unix:/run/holdline/web.sock\"".to_owned());
    }
    if let Ok(port) = bare.parse::<u16>() {
        return Some(everywhere(port));
    }
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Some(format!("expected a port too, \"{}\"", with_port(address, 80)));
    }
    let split = HostPort::split(bare);
    let port = split.port_number()?;
    match split.host {
        "" | "*" => Some(everywhere(port)),
        "localhost" => {
            Some(format!("expected an IP address: \"127.0.0.1:{port}\", or \"0.0.0.0:{port}\" for all"))
        }
        host => match host.parse::<IpAddr>() {
            Ok(address) => Some(format!("expected \"{}\"", with_port(address, port))),
            Err(_) => {
                Some(format!("expected an IP address in place of the name: \"0.0.0.0:{port}\" for all"))
            }
        },
    }
}

fn everywhere(port: u16) -> String {
    format!("expected an IP address too: \"0.0.0.0:{port}\", or \"[::]:{port}\" for IPv6")
}

fn with_port(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

/// What the operator probably meant by the address of a server.
pub(super) fn server(text: &str) -> Option<String> {
    let text = text.trim();
    if text.strip_prefix("unix:").is_some_and(|path| !path.starts_with('/')) {
        return Some("expected an absolute path, \"unix:/run/app.sock\"".to_owned());
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        let is_tls = matches!(scheme, "https" | "wss");
        let (address, path) = rest.split_once('/').map_or((rest, ""), |(address, path)| (address, path));
        let port = if is_tls { 443 } else { 80 };
        let address = if has_port(address) { address.to_owned() } else { format!("{address}:{port}") };
        let tls = if is_tls { ", and TLS by [upstream.NAME.tls]" } else { "" };
        let path = if path.is_empty() { "" } else { "; the path goes into `rewrite` of the route" };
        return Some(format!("expected it without {scheme}://: \"{address}\"{tls}{path}"));
    }
    if let Some((address, parameters)) = text.split_once(char::is_whitespace) {
        let parameters = parameters.trim().trim_end_matches(';');
        return Some(format!(
            "expected a table: {{ address = \"{address}\", ... }} with {parameters:?} as its keys"
        ));
    }
    if text.contains('/') {
        return Some(
            "expected an address without a path; a path goes into `rewrite` of the route".to_owned(),
        );
    }
    if let Ok(address) = text.parse::<Ipv6Addr>() {
        return Some(format!("expected brackets and a port, \"[{address}]:80\""));
    }
    if has_port(text) || text.is_empty() {
        return None;
    }
    let name = text.trim_end_matches(':');
    Some(format!("expected a port too, \"{name}:80\""))
}

/// Whether an address has a port, and not only a colon.
fn has_port(address: &str) -> bool {
    HostPort::split(address).port.is_some_and(|port| !port.is_empty())
}

fn without_scheme(text: &str) -> Option<&str> {
    text.split_once("://").map(|(_, rest)| rest)
}

/// What the operator probably meant by a host of a route. Some hosts that could be read match no request; they get a
/// hint too.
pub(super) fn host(text: &str) -> Option<String> {
    if let Some(regex) = text.strip_prefix('~') {
        return needs_port(regex).then(|| {
            "expected it without a port: hosts are matched without theirs, so this never matches".to_owned()
        });
    }
    if matches!(text, "*" | "_" | "" | "default" | "*:*") {
        return Some("expected no `hosts` at all, to take every host that no other route takes".to_owned());
    }
    if let Some(rest) = without_scheme(text) {
        return Some(format!(
            "expected \"{}\", without the scheme",
            HostPort::split(rest.split('/').next().unwrap_or_default()).host
        ));
    }
    if text.contains('/') {
        return Some("expected a host without a path; the path goes into `path`".to_owned());
    }
    if text.contains([' ', ',']) {
        return Some("expected a text for each host: [\"a.example\", \"b.example\"]".to_owned());
    }
    if text.contains('$') {
        return Some("expected a host: Holdline has no variables".to_owned());
    }
    if !text.is_ascii() {
        return Some("expected it as it is in DNS, \"xn--...\" (RFC 5890)".to_owned());
    }
    let HostPort { host: name, port } = HostPort::split(text);
    let port = port?;
    let is_port = port == "*" || (!port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()));
    let is_address = text.parse::<Ipv6Addr>().is_ok();
    match (is_port, is_address) {
        (_, true) => Some(format!("expected it in brackets, \"[{text}]\"")),
        (true, _) => Some(format!("expected \"{name}\", without the port: hosts are matched without theirs")),
        _ => None,
    }
}

/// Whether each match of a regex has a `:` in it. A host without its port has one only in an IPv6 address, which
/// begins with `[`. Says false of a text that is no regex.
fn needs_port(regex: &str) -> bool {
    regex_syntax::parse(regex).is_ok_and(|parsed| has_always(&parsed, ':') && !has_always(&parsed, '['))
}

/// Whether each match has this character, an ASCII one.
fn has_always(regex: &Hir, c: char) -> bool {
    match regex.kind() {
        HirKind::Literal(literal) => literal.0.contains(&(c as u8)),
        HirKind::Class(Class::Unicode(class)) => {
            class.ranges().iter().all(|r| (r.start(), r.end()) == (c, c))
        }
        HirKind::Class(Class::Bytes(_)) | HirKind::Empty | HirKind::Look(_) => false,
        HirKind::Repetition(repetition) => repetition.min > 0 && has_always(&repetition.sub, c),
        HirKind::Capture(capture) => has_always(&capture.sub, c),
        HirKind::Concat(parts) => parts.iter().any(|part| has_always(part, c)),
        HirKind::Alternation(ways) => ways.iter().all(|way| has_always(way, c)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use regex::Regex;

    #[test]
    fn an_address_to_listen_at_is_an_ip_and_a_port() {
        for (text, part) in [
            (":9090", "\"0.0.0.0:9090\", or \"[::]:9090\""),
            ("*:80", "\"0.0.0.0:80\", or \"[::]:80\""),
            ("8099", "\"0.0.0.0:8099\""),
            ("80 default_server", "\"0.0.0.0:80\""),
            ("localhost:80", "\"127.0.0.1:80\", or \"0.0.0.0:80\""),
            ("127.0.0.1", "\"127.0.0.1:80\""),
            ("::1", "\"[::1]:80\""),
            ("::1:8080", "\"[::1:8080]:80\""),
            ("fe80::1%eth0:80", "\"0.0.0.0:80\""),
            ("http://0.0.0.0:80/", "\"0.0.0.0:80\""),
            ("example.com:443", "\"0.0.0.0:443\""),
            ("unix:web.sock", "\"unix:/run"),
        ] {
            let said = listen(text).unwrap_or_default();
            assert!(said.starts_with("expected ") && said.contains(part), "{text}: {said}");
        }
        assert_eq!(listen("web"), None);
        assert_eq!(listen("0.0.0.0:99999"), None);
    }

    #[test]
    fn a_server_has_no_scheme_and_a_port() {
        for (text, part) in [
            ("http://app:80", "without http://: \"app:80\""),
            ("http://app", "\"app:80\""),
            ("https://app/ws", "\"app:443\", and TLS by [upstream.NAME.tls]; the path goes into `rewrite`"),
            ("wss://app:8443", "\"app:8443\", and TLS"),
            ("ws://[::1]:80", "\"[::1]:80\""),
            ("app:80/ws", "`rewrite`"),
            ("app", "\"app:80\""),
            ("10.0.0.1:80 weight=2;", "{ address = \"10.0.0.1:80\", ... } with \"weight=2\""),
            ("::1", "\"[::1]:80\""),
            ("unix:app.sock", "absolute"),
        ] {
            let said = server(text).unwrap_or_default();
            assert!(said.starts_with("expected ") && said.contains(part), "{text}: {said}");
        }
        assert_eq!(server("10.0.0.1:0"), None);
    }

    #[test]
    fn hosts_have_no_port() {
        for (text, part) in [
            ("example.com:80", "\"example.com\", without the port"),
            ("*.example.com:*", "\"*.example.com\", without the port"),
            ("~^localhost:9080$", "without a port"),
            ("~^(.+):\\d+$", "without a port"),
            ("~^(a:1|b:2)$", "without a port"),
            ("https://example.com/x", "\"example.com\""),
            ("https://[::1]:80/x", "\"[::1]\""),
            ("example.com/x", "`path`"),
            ("a.com b.com", "each host"),
            ("_", "no `hosts`"),
            ("*", "no `hosts`"),
            ("::1", "\"[::1]\""),
            ("$host", "no variables"),
            ("bücher.example", "xn--"),
        ] {
            let said = host(text).unwrap_or_default();
            assert!(said.starts_with("expected ") && said.contains(part), "{text}: {said}");
        }
        for text in [
            "example.com",
            "*.example.com",
            "~^a(:\\d+)?$",
            "~^a:?b",
            "~a:1|b",
            "~^\\[::1\\]$",
            "~^(?:a|b)$",
            "~[:a]b",
            "~:+*",
            "~:{0}{1}",
            "~(a|b:)c",
            "[::1]",
        ] {
            assert_eq!(host(text), None, "{text}");
        }
    }

    proptest! {
        /// A regex that is refused matches no host without a colon.
        #[test]
        fn a_regex_that_needs_a_port_matches_no_host(text in "[ab:.?*|()\\\\\\[\\]{}0d+^$]{0,12}", host in "[ab.0d]{0,8}") {
            if let Ok(regex) = Regex::new(&text) {
                prop_assert!(!(needs_port(&text) && regex.is_match(&host)), "{:?} matches {:?}", text, host);
            }
        }
    }
}
