//! Owns how Holdline finds the address of a client behind trusted proxies (nginx, `ngx_http_realip_module`). It
//! must not know sockets.

mod forwarded;

use crate::addr::{ClientAddr, HostPort};
use forwarded::Element;
use http::header::FORWARDED;
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderName};
use ipnet::{IpNet, Ipv4Net};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// Which peers are trusted, and where they name the client. By default, no peer is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The trusted peers (nginx, `set_real_ip_from`).
    pub trusted: Vec<Network>,
    /// Where they name the client (nginx, `real_ip_header`).
    pub source: Source,
    /// Whether to skip trusted addresses at the end of the list (nginx, `real_ip_recursive`).
    pub recursive: bool,
}

/// Peers that are trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// The peers of a network. IPv4-mapped IPv6 addresses count as IPv4.
    Ip(IpNet),
    /// All peers over unix sockets.
    Unix,
}

/// Where trusted peers name the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A header with a list of addresses, the last hop last. Several lines are one list.
    Header(HeaderName),
    /// The `for` of `Forwarded` (RFC 7239 5.2).
    Forwarded,
    /// The header of the PROXY protocol.
    ProxyProtocol,
}

impl Default for Source {
    /// `X-Forwarded-For`.
    fn default() -> Self {
        Self::Header(X_FORWARDED_FOR)
    }
}

/// Where a request came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The HTTP peer, which Holdline appends to `X-Forwarded-For`.
    pub peer: ClientAddr,
    /// The client, as limits, balancing and logs see it. Port 0 means that the port is unknown.
    pub client: ClientAddr,
    /// Whether Holdline believes all forwarding headers of the peer. A trusted peer must set or remove those of
    /// its own clients.
    pub trusted: bool,
    /// The scheme that the client used, as the trusted peers say.
    pub proto: Option<Scheme>,
    /// The host that the client asked for, as the trusted peers say.
    pub host: Option<Authority>,
}

impl Origin {
    /// Returns the origin of a request that comes from the client itself.
    #[must_use]
    pub fn direct(peer: ClientAddr) -> Self {
        Self { peer, client: peer, trusted: false, proto: None, host: None }
    }
}

impl Settings {
    /// Whether an address is trusted.
    #[must_use]
    pub fn trusts(&self, address: ClientAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(address))
    }

    /// Returns the HTTP peer of a connection: the address in the PROXY protocol header if the socket's peer is
    /// trusted, otherwise the socket's peer. The sender of a PROXY header writes no HTTP headers. Those of the
    /// HTTP peer count if it is trusted too (HAProxy, `accept-proxy`). nginx needs `real_ip_header
    /// proxy_protocol` for this, and then reads no HTTP header.
    #[must_use]
    pub fn peer(&self, socket: ClientAddr, announced: Option<SocketAddr>) -> ClientAddr {
        let announced = announced.filter(|_| self.trusts(socket));
        announced.map_or(socket, |source| ClientAddr::Tcp(canonical(source)))
    }

    /// Returns where a request of an HTTP peer came from. Holdline reads the list from its end. The client is the
    /// last address. With `recursive` it is the last address that is not trusted, or the first if all are. The
    /// search ends before an entry that is not an address. If that is the last entry, the peer is the client.
    ///
    /// A port in the list is the client's. Without one, the port is 0, as in nginx. `proto` and `host` are those
    /// of the hop where the search ended.
    ///
    /// nginx differs in two points. It reads only the first line of a header other than `X-Forwarded-For`. After
    /// a line that ends with something other than an address, it continues with the previous line.
    #[must_use]
    pub fn origin(&self, peer: ClientAddr, headers: &HeaderMap) -> Origin {
        let direct = Origin::direct(peer);
        let origin = match &self.source {
            _ if !self.trusts(peer) => return direct,
            // The HTTP headers are the client's own.
            Source::ProxyProtocol => return direct,
            Source::Header(name) => {
                let hops = addresses(headers, name).map(|text| node(text, false).map(Element::of));
                let (found, place) = self.walk(hops);
                Origin {
                    client: found.and_then(|hop| hop.node).map_or(peer, ClientAddr::Tcp),
                    proto: value_at(headers, &X_FORWARDED_PROTO, place).and_then(text).and_then(scheme),
                    host: value_at(headers, &X_FORWARDED_HOST, place).and_then(text).and_then(authority),
                    ..direct
                }
            }
            Source::Forwarded => {
                let found = self.walk(forwarded::elements(headers).map(Element::parse)).0;
                let found = found.unwrap_or_default();
                let client = found.node.map_or(peer, ClientAddr::Tcp);
                Origin { client, proto: found.proto, host: found.host, ..direct }
            }
        };
        Origin { trusted: true, ..origin }
    }

    /// Searches hops, the last first. Returns the hop where the search ended, and its distance from the end.
    fn walk(&self, hops: impl Iterator<Item = Option<Element>>) -> (Option<Element>, usize) {
        let mut found = (None, 0);
        for (place, hop) in hops.enumerate() {
            match hop {
                // A hop that hides its client may still tell the scheme (RFC 7239 6.2, 6.3).
                Some(hop) if hop.node.is_some() || place == 0 => {
                    let goes_on = hop.node.is_some_and(|node| self.trusts(ClientAddr::Tcp(node)));
                    found = (Some(hop), place);
                    if !self.recursive || !goes_on {
                        break;
                    }
                }
                _ => break,
            }
        }
        found
    }
}

// === impl Network ===

/// A text that is not a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a network like \"10.0.0.0/8\", an address or \"unix:\"")]
pub struct BadNetwork;

impl Network {
    /// Whether the network contains an address.
    #[must_use]
    pub fn contains(&self, address: ClientAddr) -> bool {
        match self {
            Self::Ip(network) => address.ip().is_some_and(|ip| network.contains(&ip)),
            Self::Unix => address == ClientAddr::Unix,
        }
    }
}

impl FromStr for Network {
    type Err = BadNetwork;
    /// An address without a prefix is a network of one address. Bits after the prefix are cleared, as in nginx.
    fn from_str(text: &str) -> Result<Self, BadNetwork> {
        if text == "unix:" {
            return Ok(Self::Unix);
        }
        let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        let network = network.map_err(|_| BadNetwork)?.trunc();
        Ok(Self::Ip(mapped_v4(network).map_or(network, IpNet::V4)))
    }
}

/// Returns the IPv4 network of an IPv4-mapped one.
fn mapped_v4(network: IpNet) -> Option<Ipv4Net> {
    let IpNet::V6(v6) = network else { return None };
    let prefix = v6.prefix_len().checked_sub(96)?;
    Ipv4Net::new(v6.addr().to_ipv4_mapped()?, prefix).ok()
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(network) => network.fmt(f),
            Self::Unix => f.write_str("unix:"),
        }
    }
}

// === impl Source ===

/// A text that is not a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected the name of a header or \"proxy_protocol\"")]
pub struct BadSource;

impl FromStr for Source {
    type Err = BadSource;
    fn from_str(text: &str) -> Result<Self, BadSource> {
        match text {
            "proxy_protocol" => Ok(Self::ProxyProtocol),
            _ if text.eq_ignore_ascii_case(FORWARDED.as_str()) => Ok(Self::Forwarded),
            _ => text.parse().map(Self::Header).map_err(|_| BadSource),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => name.fmt(f),
            Self::Forwarded => FORWARDED.fmt(f),
            Self::ProxyProtocol => f.write_str("proxy_protocol"),
        }
    }
}

// === reading lists ===

/// Returns the elements of a list of addresses, the last first. Commas and blanks separate them, as in nginx.
fn addresses<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let between = |byte: &u8| matches!(byte, b',' | b' ' | b'\t');
    let lines = headers.get_all(name).iter().rev();
    lines.flat_map(move |line| line.as_bytes().rsplit(between)).filter(|text| !text.is_empty())
}

/// Returns the value of a header for the hop that is `place` hops from the end. In a shorter list this is the
/// first value, because most proxies set one value and do not append. Malformed values count as places too.
fn value_at<'a>(headers: &'a HeaderMap, name: &HeaderName, place: usize) -> Option<&'a [u8]> {
    let lines = headers.get_all(name).iter().rev();
    let values = lines.flat_map(|line| line.as_bytes().rsplit(|&byte| byte == b',')).map(<[u8]>::trim_ascii);
    values.filter(|value| !value.is_empty()).take(place + 1).last()
}

/// Text that is not UTF-8 cannot name a scheme or a host.
fn text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value).ok()
}

/// Parses an address with an optional port. Port 0 means that there is none. `obfuscated` means that the port may
/// be obfuscated (RFC 7239 6.3).
fn node(text: &[u8], obfuscated: bool) -> Option<SocketAddr> {
    // An IPv6 zone has a meaning only on its own host.
    let text = self::text(text).filter(|text| !text.contains('%'))?;
    let bracketed = |text: &str| text.strip_prefix('[')?.strip_suffix(']')?.parse().ok().map(IpAddr::V6);
    let ip = |text: &str| text.parse().ok().or_else(|| bracketed(text));
    if let Some(ip) = ip(text) {
        return Some(canonical(SocketAddr::new(ip, 0)));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(canonical(address)).filter(|address| address.port() != 0);
    }
    let HostPort { host: name, port } = HostPort::split(text);
    let port = port.filter(|_| obfuscated)?;
    let is_hidden = port.len() > 1 && port.starts_with('_') && port.bytes().all(is_obfuscated);
    // An IPv6 address with a port has brackets.
    let ip = ip(name).filter(|ip| is_hidden && (ip.is_ipv4() || name.starts_with('[')))?;
    Some(canonical(SocketAddr::new(ip, 0)))
}

/// RFC 7239 6.3, `obfport`.
fn is_obfuscated(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Parses a scheme into its normal form, lower case (RFC 3986 3.1).
fn scheme(text: &str) -> Option<Scheme> {
    let begins = text.starts_with(|first: char| first.is_ascii_alphabetic());
    text.to_ascii_lowercase().parse().ok().filter(|_| begins)
}

/// Parses a host and an optional port. User names are not allowed.
fn authority(text: &str) -> Option<Authority> {
    text.parse().ok().filter(|_| !text.contains('@'))
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

#[cfg(test)]
mod tests;
