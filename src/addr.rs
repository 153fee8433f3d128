//! Owns addresses with a meaning (of listeners, clients, servers and endpoints), and the one splitter of hosts and
//! ports. It must not know sockets.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

/// Where the proxy listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListenAddr {
    /// An IPv4 or IPv6 address and port.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
    /// A socket that systemd hands over, by its `FileDescriptorName=`.
    Systemd(String),
}

/// The address of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientAddr {
    /// Over TCP.
    Tcp(SocketAddr),
    /// Over a unix socket, whose peers have no address.
    Unix,
}

impl ClientAddr {
    /// Returns the IP address, if there is one. An IPv4-mapped address is returned as IPv4.
    #[must_use]
    pub fn ip(self) -> Option<IpAddr> {
        match self {
            Self::Tcp(address) => Some(address.ip().to_canonical()),
            Self::Unix => None,
        }
    }
}

/// A server in the configuration. A name may have several addresses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ServerAddr {
    /// A DNS name and a port.
    Name(String, u16),
    /// An address.
    Ip(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

/// One address to connect to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EndpointAddr {
    /// TCP.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(Arc<std::path::Path>),
}

/// A host and its port, as in an authority or a `Host` header (RFC 3986 3.2, RFC 9110 7.2). Neither part is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HostPort<'a> {
    /// The host. An IPv6 address keeps its brackets.
    pub host: &'a str,
    /// The text after the colon, which may be empty. `None` means that there is no colon.
    pub port: Option<&'a str>,
}

impl<'a> HostPort<'a> {
    /// Splits a text at its last colon. The colons of a bracketed IPv6 address do not count.
    #[must_use]
    pub(crate) fn split(text: &'a str) -> Self {
        match text.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => Self { host, port: Some(port) },
            _ => Self { host: text, port: None },
        }
    }

    /// Returns the address between the brackets of an IP literal (RFC 3986 3.2.2). `None` means that the host has no
    /// brackets.
    #[must_use]
    pub(crate) fn literal(self) -> Option<&'a str> {
        self.host.strip_prefix('[')?.strip_suffix(']')
    }

    /// Returns the port as a number. `None` means that there is none, or that it is not a number up to 65,535.
    #[must_use]
    pub(crate) fn port_number(self) -> Option<u16> {
        self.port?.parse().ok()
    }
}

/// A text that is not an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddrError {
    /// It is not an address to listen at.
    #[error("expected \"IP:PORT\", \"[IPv6]:PORT\", \"unix:/path\" or \"systemd:NAME\"")]
    Listen,
    /// It is not an address of a server.
    #[error("expected \"host:port\", \"IP:PORT\", \"[IPv6]:PORT\" or \"unix:/path\"")]
    Server,
}

impl FromStr for ListenAddr {
    type Err = AddrError;
    fn from_str(text: &str) -> Result<Self, AddrError> {
        if let Some(path) = unix_path(text) {
            return Ok(Self::Unix(path));
        }
        match text.strip_prefix("systemd:") {
            Some(name) if !name.is_empty() => Ok(Self::Systemd(name.to_owned())),
            Some(_) => Err(AddrError::Listen),
            None => text.parse().map(Self::Tcp).map_err(|_| AddrError::Listen),
        }
    }
}

impl FromStr for ServerAddr {
    type Err = AddrError;
    fn from_str(text: &str) -> Result<Self, AddrError> {
        if let Some(path) = unix_path(text) {
            return Ok(Self::Unix(path));
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return if address.port() == 0 { Err(AddrError::Server) } else { Ok(Self::Ip(address)) };
        }
        let split = HostPort::split(text);
        let name = split.host;
        let label = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let port = split.port_number().filter(|&port| port != 0).ok_or(AddrError::Server)?;
        if name.is_empty() || name.len() > 253 || !name.chars().all(label) {
            return Err(AddrError::Server);
        }
        Ok(Self::Name(name.to_ascii_lowercase(), port))
    }
}

/// Returns the path of "unix:/path". It must be absolute, because a service's working directory is `/`.
fn unix_path(text: &str) -> Option<PathBuf> {
    text.strip_prefix("unix:").filter(|path| path.starts_with('/')).map(PathBuf::from)
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Systemd(name) => write!(f, "systemd:{name}"),
        }
    }
}

impl fmt::Display for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix => f.write_str("unix:"),
        }
    }
}

impl fmt::Display for ServerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name, port) => write!(f, "{name}:{port}"),
            Self::Ip(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl fmt::Display for EndpointAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_port_follows_the_last_colon_outside_of_brackets() {
        for (text, host, port) in [
            ("example.com", "example.com", None),
            ("example.com:80", "example.com", Some("80")),
            ("example.com:", "example.com", Some("")),
            ("[::1]", "[::1]", None),
            ("[::1]:80", "[::1]", Some("80")),
            ("a:b:80", "a:b", Some("80")),
            (":80", "", Some("80")),
            ("", "", None),
        ] {
            assert_eq!(HostPort::split(text), HostPort { host, port }, "{text}");
        }
        assert_eq!(HostPort::split("[::1]:80").literal(), Some("::1"));
        assert_eq!(HostPort::split("[::1").literal(), None);
        assert_eq!(HostPort::split("a:65536").port_number(), None);
    }

    proptest! {
        #[test]
        fn a_host_and_a_port_are_split_as_they_were_joined(
            host in "[a-z0-9.-]{0,20}|\\[[0-9a-f:]{0,20}\\]", port in proptest::option::of("[0-9]{0,6}"),
        ) {
            let text = port.as_ref().map_or(host.clone(), |port| format!("{host}:{port}"));
            let split = HostPort::split(&text);
            prop_assert_eq!((split.host, split.port), (&*host, port.as_deref()));
            prop_assert_eq!(split.literal().is_some(), host.starts_with('['));
            prop_assert_eq!(split.port_number(), port.and_then(|port| port.parse().ok()));
        }

        /// A text loses nothing but the colon. The address and port of a socket are split as the standard library joins
        /// them.
        #[test]
        fn nothing_but_the_colon_is_lost(text in "[\\[\\]:a1.]{0,12}|\\PC{0,12}", ip in any::<IpAddr>(), port in any::<u16>()) {
            let split = HostPort::split(&text);
            let joined = split.port.map_or(split.host.to_owned(), |port| format!("{}:{port}", split.host));
            prop_assert_eq!(joined, text);
            let address = SocketAddr::new(ip, port).to_string();
            let split = HostPort::split(&address);
            prop_assert_eq!(split.literal().unwrap_or(split.host).parse(), Ok(ip));
            prop_assert_eq!(split.port_number(), Some(port));
        }
    }

    #[test]
    fn listen_addresses_read_and_print_alike() {
        for text in ["0.0.0.0:80", "[::1]:8080", "unix:/run/holdline.sock", "systemd:web"] {
            assert_eq!(text.parse::<ListenAddr>().unwrap().to_string(), text);
        }
        for text in ["", "80", "localhost:80", "unix:relative", "systemd:", "1.2.3.4"] {
            assert_eq!(text.parse::<ListenAddr>(), Err(AddrError::Listen), "{text}");
        }
    }

    #[test]
    fn server_addresses_read_and_print_alike() {
        for text in ["10.0.0.1:80", "[::1]:8080", "unix:/run/app.sock", "app_1.internal:8080"] {
            assert_eq!(text.parse::<ServerAddr>().unwrap().to_string(), text);
        }
        for text in
            ["", "app", "app:0", "10.0.0.1:0", "app:70000", ":80", "http://app:80", "a b:80", "::1:80"]
        {
            assert_eq!(text.parse::<ServerAddr>(), Err(AddrError::Server), "{text}");
        }
    }
}
