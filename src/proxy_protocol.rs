//! Owns the header of the PROXY protocol, versions 1 and 2, as bytes and as addresses (HAProxy,
//! `doc/proxy-protocol.txt`). It must not know sockets, or whom to trust.
//!
//! The TLVs of version 2 are skipped, `PP2_TYPE_CRC32C` too: it is for receivers that support it
//! (2.2.3), and TCP has its own checksum.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;

/// The most bytes that a header has: [`decode`] never wants more.
pub const MAX_LENGTH: usize = V2_HEAD + V2_MAX_REST;

/// What a header says of the connection it opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// The socket's own addresses are right, or nothing better is known: a health check of the proxy
    /// in front (LOCAL), or a family other than TCP over IP (UNKNOWN, UNSPEC, UNIX, DGRAM), where a
    /// receiver falls back to UNSPEC (2.2).
    Local,
    /// The connection is relayed. IPv4-mapped IPv6 addresses are given as IPv4.
    Proxied {
        /// The client.
        source: SocketAddr,
        /// Whom the client connected to.
        destination: SocketAddr,
    },
}

/// How a header is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A line of text (2.1).
    V1,
    /// Binary (2.2).
    V2,
}

/// Why bytes are not a header. The receiver must close the connection (section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// They begin like neither version 1 nor version 2.
    #[error("no PROXY protocol header")]
    Signature,
    /// The line of version 1 is malformed (section 2.1), or has no CRLF in its first 107 bytes.
    #[error("a PROXY protocol line that is not valid")]
    Line,
    /// The 13th byte of version 2: version and command.
    #[error("a PROXY protocol header of unknown version and command {0:#04x}")]
    Command(u8),
    /// The 14th byte of version 2: family and transport.
    #[error("a PROXY protocol header of unknown family and transport {0:#04x}")]
    Family(u8),
    /// The length that version 2 announces: too short for its addresses, or over 4,096.
    #[error("a PROXY protocol header that announces {0} bytes")]
    Length(u16),
}

/// Reads the header that a connection begins with, of either version, and how many bytes it takes.
/// `None`: more bytes are needed. What it says of some bytes holds for whatever follows them.
///
/// # Errors
/// The bytes are no header and no beginning of one.
pub fn decode(bytes: &[u8]) -> Result<Option<(Header, usize)>, Malformed> {
    let shared = bytes.len().min(SIGNATURE.len());
    if bytes[..shared] == SIGNATURE[..shared] { decode_v2(bytes) } else { decode_v1(bytes) }
}

/// Writes a header for a connection between `(source, destination)`. `None` means LOCAL, or UNKNOWN in version 1. If
/// one of the addresses is IPv6, the other is mapped to it.
#[must_use]
pub fn encode(version: Version, addresses: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    let Some((source, destination)) = addresses else {
        return match version {
            Version::V1 => b"PROXY UNKNOWN\r\n".to_vec(),
            Version::V2 => binary(LOCAL, UNSPEC, &[]),
        };
    };
    let ports = (source.port(), destination.port());
    match (version, source.ip().to_canonical(), destination.ip().to_canonical()) {
        (Version::V1, IpAddr::V4(source), IpAddr::V4(destination)) => {
            line("TCP4", &source.to_string(), &destination.to_string(), ports)
        }
        (Version::V1, source, destination) => {
            line("TCP6", &mapped(source).to_string(), &mapped(destination).to_string(), ports)
        }
        (Version::V2, IpAddr::V4(source), IpAddr::V4(destination)) => {
            binary(PROXY, TCP4, &block(&source.octets(), &destination.octets(), ports))
        }
        (Version::V2, source, destination) => {
            binary(PROXY, TCP6, &block(&mapped(source).octets(), &mapped(destination).octets(), ports))
        }
    }
}

// === version 1 ===

fn decode_v1(bytes: &[u8]) -> Result<Option<(Header, usize)>, Malformed> {
    let window = &bytes[..bytes.len().min(V1_MAX_LENGTH)];
    let end = window.iter().position(|byte| matches!(byte, b'\r' | b'\n')).unwrap_or(window.len());
    let (line, rest) = window.split_at(end);
    let keyword = KEYWORDS.into_iter().find(|keyword| line.starts_with(keyword));
    let header = match (keyword, rest) {
        (None, []) if KEYWORDS.iter().any(|keyword| keyword.starts_with(line)) => return Ok(None),
        (None, _) if line.starts_with(b"PROXY ") => return Err(Malformed::Line),
        (None, _) => return Err(Malformed::Signature),
        (Some(V1_UNKNOWN), _) => unknown(&line[V1_UNKNOWN.len()..]),
        (Some(V1_TCP4), []) => could_be::<Ipv4Addr>(&line[V1_TCP4.len()..]),
        (Some(_), []) => could_be::<Ipv6Addr>(&line[V1_TCP6.len()..]),
        (Some(V1_TCP4), _) => proxied::<Ipv4Addr>(&line[V1_TCP4.len()..]),
        (Some(_), _) => proxied::<Ipv6Addr>(&line[V1_TCP6.len()..]),
    };
    match (header.ok_or(Malformed::Line)?, rest) {
        (header, [b'\r', b'\n', ..]) => Ok(Some((header, end + 2))),
        (_, [] | [b'\r']) if window.len() < V1_MAX_LENGTH => Ok(None),
        _ => Err(Malformed::Line),
    }
}

/// "The receiver must ignore anything presented before the CRLF" (2.1).
fn unknown(rest: &[u8]) -> Option<Header> {
    matches!(rest, [] | [b' ', ..]).then_some(Header::Local)
}

/// An address of version 1.
trait Address: FromStr + Into<IpAddr> {
    /// The most characters that one takes.
    const MAX_LENGTH: usize;
}

impl Address for Ipv4Addr {
    const MAX_LENGTH: usize = "255.255.255.255".len();
}

impl Address for Ipv6Addr {
    /// Mapped ones are often written with dots, as `inet_ntop` does.
    const MAX_LENGTH: usize = "ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255".len();
}

/// Whether the addresses and ports so far may be continued to valid ones: those that a space ends
/// are read, the last may be cut anywhere. The header in the answer means nothing yet.
fn could_be<A: Address>(fields: &[u8]) -> Option<Header> {
    let fields: Vec<&str> = std::str::from_utf8(fields).ok()?.split(' ').collect();
    let (last, whole) = fields.split_last()?;
    let good = whole.iter().enumerate().all(|(place, field)| match place {
        0 | 1 => field.parse::<A>().is_ok(),
        _ => port(field).is_some(),
    });
    let good_last = match whole.len() {
        0 | 1 => {
            last.len() <= A::MAX_LENGTH
                && last.bytes().all(|b| b.is_ascii_hexdigit() || matches!(b, b'.' | b':'))
        }
        2 | 3 => last.is_empty() || port(last).is_some(),
        _ => false,
    };
    (good && good_last).then_some(Header::Local)
}

fn proxied<A: Address>(fields: &[u8]) -> Option<Header> {
    let mut fields = std::str::from_utf8(fields).ok()?.split(' ');
    let source: A = fields.next()?.parse().ok()?;
    let destination: A = fields.next()?.parse().ok()?;
    let (source_port, destination_port) = (port(fields.next()?)?, port(fields.next()?)?);
    let header = Header::Proxied {
        source: address(source, source_port),
        destination: address(destination, destination_port),
    };
    fields.next().is_none().then_some(header)
}

/// A port without leading zeroes, which might be taken for octal (2.1).
fn port(text: &str) -> Option<u16> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let has_zero = text.len() > 1 && text.starts_with('0');
    text.parse().ok().filter(|_| is_number && !has_zero)
}

fn line(family: &str, source: &str, destination: &str, (from, to): (u16, u16)) -> Vec<u8> {
    format!("PROXY {family} {source} {destination} {from} {to}\r\n").into_bytes()
}

// === version 2 ===

fn decode_v2(bytes: &[u8]) -> Result<Option<(Header, usize)>, Malformed> {
    let Some(&command) = bytes.get(12) else { return Ok(None) };
    if command != LOCAL && command != PROXY {
        return Err(Malformed::Command(command));
    }
    let Some(&family) = bytes.get(13) else { return Ok(None) };
    // LOCAL discards "the protocol block including the family which is ignored" (2.2).
    let family = if command == LOCAL { UNSPEC } else { family };
    if !FAMILIES.contains(&(family >> 4)) || !TRANSPORTS.contains(&(family & 0x0f)) {
        return Err(Malformed::Family(family));
    }
    let Some(length) = bytes.get(14..V2_HEAD) else { return Ok(None) };
    let length = u16::from_be_bytes([length[0], length[1]]);
    let addresses = match family {
        TCP4 => 12,
        TCP6 => 36,
        _ => 0,
    };
    let rest = usize::from(length);
    if rest < addresses || rest > V2_MAX_REST {
        return Err(Malformed::Length(length));
    }
    let Some(block) = bytes.get(V2_HEAD..V2_HEAD + rest) else { return Ok(None) };
    let header = match family {
        TCP4 => read_block::<4>(block),
        TCP6 => read_block::<16>(block),
        _ => None,
    };
    Ok(Some((header.unwrap_or(Header::Local), V2_HEAD + rest)))
}

/// Reads two addresses of `N` bytes and their ports. `None` means that the block is too short.
fn read_block<const N: usize>(block: &[u8]) -> Option<Header>
where
    IpAddr: From<[u8; N]>,
{
    let (source, rest) = block.split_first_chunk::<N>()?;
    let (destination, rest) = rest.split_first_chunk::<N>()?;
    let (source_port, rest) = rest.split_first_chunk()?;
    let (destination_port, _) = rest.split_first_chunk()?;
    Some(Header::Proxied {
        source: address(*source, u16::from_be_bytes(*source_port)),
        destination: address(*destination, u16::from_be_bytes(*destination_port)),
    })
}

fn block(source: &[u8], destination: &[u8], (from, to): (u16, u16)) -> Vec<u8> {
    [source, destination, &from.to_be_bytes(), &to.to_be_bytes()].concat()
}

fn binary(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).expect("two addresses and ports take 36 bytes at most");
    [&SIGNATURE[..], &[command, family], &length.to_be_bytes(), block].concat()
}

// === addresses ===

fn address(ip: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(ip.into().to_canonical(), port)
}

fn mapped(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

const V1_TCP4: &[u8] = b"PROXY TCP4 ";
const V1_TCP6: &[u8] = b"PROXY TCP6 ";
const V1_UNKNOWN: &[u8] = b"PROXY UNKNOWN";
const KEYWORDS: [&[u8]; 3] = [V1_TCP4, V1_TCP6, V1_UNKNOWN];
/// "If the CRLF sequence is not found in the first 107 characters, the receiver should declare the
/// line invalid" (2.1).
const V1_MAX_LENGTH: usize = 107;

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const UNSPEC: u8 = 0x00;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;
/// UNSPEC, INET, INET6, UNIX.
const FAMILIES: RangeInclusive<u8> = 0..=3;
/// UNSPEC, STREAM, DGRAM.
const TRANSPORTS: RangeInclusive<u8> = 0..=2;
/// Signature, command, family, length.
const V2_HEAD: usize = 16;
/// Addresses and TLVs. A whole chain of certificates is never sent: the largest TLVs known are names
/// and the endpoint IDs of clouds, of some hundred bytes.
const V2_MAX_REST: usize = 4096;

#[cfg(test)]
mod tests;
