//! Owns the texts of a request in one allocation, because every tunnel keeps them to its end.

use crate::addr::ClientAddr;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// What a request says, and who sent it.
#[derive(Clone, Copy, Debug)]
pub struct RequestInfo<'a> {
    /// The client.
    pub client: ClientAddr,
    /// The trusted proxy that sent the request for the client. `None` means the client itself.
    pub proxied_by: Option<ClientAddr>,
    /// Its method.
    pub method: &'a str,
    /// The requested host, as sent.
    pub host: &'a [u8],
    /// The requested path and query, secrets removed.
    pub target: &'a [u8],
    /// The TLS version. `None` means no TLS.
    pub tls: Option<&'a str>,
}

/// The content of [`RequestInfo`] and the negotiated texts: both addresses, as [`put`] writes them, then one
/// line for each text. No text has a line feed, because the head of a request cannot (RFC 9110 5.5, RFC 9112
/// 3).
#[derive(Clone, Debug)]
pub(super) struct PackedText(Box<[u8]>);

/// Lines of the texts that always exist.
const METHOD: usize = 0;
const HOST: usize = 1;
const TARGET: usize = 2;
/// Lines of the optional texts: they begin with [`PRESENT`], or are empty.
const TLS: usize = 3;
const SUBPROTOCOL: usize = 4;
const EXTENSIONS: usize = 5;
/// Distinguishes an empty text from a missing one.
const PRESENT: &str = "+";

impl PackedText {
    pub(super) fn new(info: &RequestInfo<'_>, subprotocol: Option<&str>, extensions: Option<&str>) -> Self {
        let RequestInfo { client, proxied_by, method, host, target, tls } = *info;
        let always = [method.as_bytes(), host, target].map(|text| ("", text));
        let perhaps = [tls, subprotocol, extensions];
        // Most requests lack the last ones.
        let there = perhaps.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        let perhaps = perhaps.map(|text| text.map_or(("", &b""[..]), |text| (PRESENT, text.as_bytes())));
        let lines = || always.iter().chain(&perhaps[..there]);
        let length = lines().map(|(mark, text)| mark.len() + text.len() + 1).sum::<usize>() - 1;
        let room = size(Some(client)) + size(proxied_by) + length;
        // Reserve the exact size, or the boxed slice would be a copy.
        let mut bytes = Vec::with_capacity(room);
        put(&mut bytes, Some(client));
        put(&mut bytes, proxied_by);
        for (number, (mark, text)) in lines().enumerate() {
            debug_assert!(!text.contains(&b'\n'), "{text:?}");
            if number > 0 {
                bytes.push(b'\n');
            }
            bytes.extend_from_slice(mark.as_bytes());
            bytes.extend_from_slice(text);
        }
        debug_assert_eq!(bytes.len(), room);
        Self(bytes.into())
    }

    /// Returns a copy with the negotiated texts.
    pub(super) fn with(&self, subprotocol: Option<&str>, extensions: Option<&str>) -> Self {
        let info = RequestInfo {
            client: self.client(),
            proxied_by: self.proxied_by(),
            method: self.method(),
            host: self.host(),
            target: self.target(),
            tls: self.tls(),
        };
        Self::new(&info, subprotocol, extensions)
    }

    pub(super) fn client(&self) -> ClientAddr {
        take(&mut &*self.0).unwrap_or(ClientAddr::Unix)
    }

    pub(super) fn proxied_by(&self) -> Option<ClientAddr> {
        let mut rest = &*self.0;
        take(&mut rest);
        take(&mut rest)
    }

    pub(super) fn method(&self) -> &str {
        self.line(METHOD)
    }

    pub(super) fn host(&self) -> &[u8] {
        self.bytes(HOST)
    }

    pub(super) fn target(&self) -> &[u8] {
        self.bytes(TARGET)
    }

    pub(super) fn tls(&self) -> Option<&str> {
        self.line(TLS).strip_prefix(PRESENT)
    }

    pub(super) fn subprotocol(&self) -> Option<&str> {
        self.line(SUBPROTOCOL).strip_prefix(PRESENT)
    }

    pub(super) fn extensions(&self) -> Option<&str> {
        self.line(EXTENSIONS).strip_prefix(PRESENT)
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn line(&self, number: usize) -> &str {
        // Only whole texts were written.
        std::str::from_utf8(self.bytes(number)).unwrap_or_default()
    }

    /// Missing texts at the end have no line.
    fn bytes(&self, number: usize) -> &[u8] {
        let mut rest = &*self.0;
        take(&mut rest);
        take(&mut rest);
        rest.split(|&byte| byte == b'\n').nth(number).unwrap_or_default()
    }
}

impl From<&[u8]> for PackedText {
    /// From what [`PackedText::as_bytes`] gave.
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

/// The first byte of an address.
const NONE: u8 = 0;
const UNIX: u8 = 1;
const V4: u8 = 4;
const V6: u8 = 6;
/// With flow and scope, which are rare.
const SCOPED_V6: u8 = 7;

/// Returns how many bytes an address takes.
fn size(address: Option<ClientAddr>) -> usize {
    match address {
        None | Some(ClientAddr::Unix) => 1,
        Some(ClientAddr::Tcp(SocketAddr::V4(_))) => 1 + 4 + 2,
        Some(ClientAddr::Tcp(SocketAddr::V6(address))) if is_scoped(&address) => 1 + 16 + 2 + 4 + 4,
        Some(ClientAddr::Tcp(SocketAddr::V6(_))) => 1 + 16 + 2,
    }
}

fn is_scoped(address: &SocketAddrV6) -> bool {
    (address.flowinfo(), address.scope_id()) != (0, 0)
}

fn put(bytes: &mut Vec<u8>, address: Option<ClientAddr>) {
    match address {
        None => bytes.push(NONE),
        Some(ClientAddr::Unix) => bytes.push(UNIX),
        Some(ClientAddr::Tcp(SocketAddr::V4(address))) => {
            bytes.push(V4);
            bytes.extend_from_slice(&address.ip().octets());
            bytes.extend_from_slice(&address.port().to_ne_bytes());
        }
        Some(ClientAddr::Tcp(SocketAddr::V6(address))) => {
            bytes.push(if is_scoped(&address) { SCOPED_V6 } else { V6 });
            bytes.extend_from_slice(&address.ip().octets());
            bytes.extend_from_slice(&address.port().to_ne_bytes());
            if is_scoped(&address) {
                bytes.extend_from_slice(&address.flowinfo().to_ne_bytes());
                bytes.extend_from_slice(&address.scope_id().to_ne_bytes());
            }
        }
    }
}

/// Reads the address at the start of `bytes`.
fn take(bytes: &mut &[u8]) -> Option<ClientAddr> {
    let [kind] = array(bytes)?;
    match kind {
        UNIX => Some(ClientAddr::Unix),
        V4 => {
            let (ip, port) = (Ipv4Addr::from(array::<4>(bytes)?), u16::from_ne_bytes(array(bytes)?));
            Some(ClientAddr::Tcp(SocketAddrV4::new(ip, port).into()))
        }
        V6 | SCOPED_V6 => {
            let (ip, port) = (Ipv6Addr::from(array::<16>(bytes)?), u16::from_ne_bytes(array(bytes)?));
            let mut number = || (kind == SCOPED_V6).then(|| array(bytes).map(u32::from_ne_bytes)).flatten();
            let (flow, scope) = (number().unwrap_or(0), number().unwrap_or(0));
            Some(ClientAddr::Tcp(SocketAddrV6::new(ip, port, flow, scope).into()))
        }
        _ => None,
    }
}

fn array<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn addresses() -> impl Strategy<Value = ClientAddr> {
        let scopes = prop_oneof![Just((0, 0)), any::<(u32, u32)>()];
        prop_oneof![
            Just(ClientAddr::Unix),
            any::<SocketAddrV4>().prop_map(|address| ClientAddr::Tcp(address.into())),
            (any::<(Ipv6Addr, u16)>(), scopes).prop_map(|((ip, port), (flow, scope))| {
                ClientAddr::Tcp(SocketAddrV6::new(ip, port, flow, scope).into())
            }),
        ]
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            client in addresses(),
            proxied_by in proptest::option::of(addresses()),
            method in "[A-Z-]{0,7}",
            host in prop::collection::vec(any::<u8>().prop_filter("a line", |byte| *byte != b'\n'), 0..20),
            target in prop::collection::vec(any::<u8>().prop_filter("a line", |byte| *byte != b'\n'), 0..20),
            tls in proptest::option::of("TLSv1.[23]"),
            subprotocol in proptest::option::of("[ -~\t]{0,9}"),
            extensions in proptest::option::of("[ -~\t]{0,9}"),
        ) {
            let (method, host, target, tls) = (&*method, &*host, &*target, tls.as_deref());
            let agreed = (subprotocol.as_deref(), extensions.as_deref());
            let first = PackedText::new(&RequestInfo { client, proxied_by, method, host, target, tls }, None, None);
            for (packed_text, agreed) in [(&first, (None, None)), (&first.with(agreed.0, agreed.1), agreed)] {
                prop_assert_eq!((packed_text.client(), packed_text.proxied_by()), (client, proxied_by));
                prop_assert_eq!((packed_text.method(), packed_text.host(), packed_text.target()), (method, host, target));
                prop_assert_eq!((packed_text.tls(), (packed_text.subprotocol(), packed_text.extensions())), (tls, agreed));
            }
        }
    }
}
