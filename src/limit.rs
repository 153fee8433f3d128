//! Owns admission: the limits on connections and on the rate of WebSocket handshakes. It must not know HTTP statuses.

pub(crate) mod connections;
pub(crate) mod rate;

use crate::addr::ClientAddr;
use connections::{Connections, Permit};
use rate::{ClientRates, Rate};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

/// The limits of a route. `None` means without limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Open connections of all clients together. 0 admits none.
    pub connections: Option<u32>,
    /// Open connections of one client (nginx, `limit_conn` with `$binary_remote_addr`).
    pub connections_per_ip: Option<u32>,
    /// Rate of the WebSocket handshakes of one client (nginx, `limit_req` with `nodelay`).
    pub openings_per_ip: Option<Rate>,
}

/// A limit, by its name in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    /// `process.max_connections`: open connections of all routes together.
    MaxConnections,
    /// `connections`.
    Connections,
    /// `connections_per_ip`.
    ConnectionsPerIp,
    /// `openings_per_ip`.
    OpeningsPerIp,
}

impl Limit {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::MaxConnections, Self::Connections, Self::ConnectionsPerIp, Self::OpeningsPerIp];

    /// The name in the configuration and in logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MaxConnections => "max_connections",
            Self::Connections => "connections",
            Self::ConnectionsPerIp => "connections_per_ip",
            Self::OpeningsPerIp => "openings_per_ip",
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A connection would exceed a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("over the limit {limit}")]
pub struct LimitExceeded {
    /// The limit.
    pub limit: Limit,
    /// The client is admitted after this time, if it sends nothing else meanwhile (`Retry-After`, rounded up). `None`
    /// means that other connections must end first.
    pub retry_after: Option<Duration>,
}

impl LimitExceeded {
    fn by_count(limit: Limit) -> Self {
        Self { limit, retry_after: None }
    }
}

/// Identifies a client to the limits: an IPv4 address, an IPv6 /64, or all clients over unix sockets. Every subscriber
/// gets at least a /64 (RFC 6177 2), and can use any address in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientKey(Key);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    V4(Ipv4Addr),
    /// The upper half of the address.
    V6(u64),
    Unix,
}

impl From<IpAddr> for ClientKey {
    /// IPv4-mapped IPv6 addresses count as IPv4.
    fn from(ip: IpAddr) -> Self {
        Self(match ip.to_canonical() {
            IpAddr::V4(v4) => Key::V4(v4),
            IpAddr::V6(v6) => Key::V6((v6.to_bits() >> 64) as u64),
        })
    }
}

impl From<ClientAddr> for ClientKey {
    fn from(client: ClientAddr) -> Self {
        client.ip().map_or(Self(Key::Unix), Self::from)
    }
}

impl fmt::Display for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Key::V4(v4) => v4.fmt(f),
            Key::V6(upper) => write!(f, "{}/64", Ipv6Addr::from_bits(u128::from(upper) << 64)),
            Key::Unix => f.write_str("unix:"),
        }
    }
}

/// Admits connections of a route. It outlives a reload, which may change the limits.
#[derive(Debug, Default)]
pub struct Limiter {
    connections: Arc<Connections>,
    rates: ClientRates,
}

impl Limiter {
    /// Admits a handshake and its connection, which counts until the permit is dropped. `now` is the time since any
    /// fixed moment.
    ///
    /// A handshake over the rate does not count towards the rate. A handshake over a number of connections does, so
    /// that a client that keeps trying learns how long to wait.
    ///
    /// # Errors
    /// [`LimitExceeded`] names the first limit that is reached. The connection does not count then.
    pub fn admit(&self, client: ClientKey, limits: &Limits, now: Duration) -> Result<Permit, LimitExceeded> {
        self.admit_handshake(client, limits, now)?;
        self.connections.admit(client, limits).map_err(LimitExceeded::by_count)
    }

    /// Admits a handshake that another limiter has admitted before. The permit then counts in both.
    ///
    /// # Errors
    /// [`LimitExceeded`] names the first limit that is reached. The permit then counts only in the other limiter.
    pub fn admit_also(
        &self,
        permit: &mut Permit,
        limits: &Limits,
        now: Duration,
    ) -> Result<(), LimitExceeded> {
        self.admit_handshake(permit.client(), limits, now)?;
        self.connections.admit_also(permit, limits).map_err(LimitExceeded::by_count)
    }

    fn admit_handshake(
        &self,
        client: ClientKey,
        limits: &Limits,
        now: Duration,
    ) -> Result<(), LimitExceeded> {
        if let Some(rate) = limits.openings_per_ip {
            self.rates
                .admit(client, rate, now)
                .map_err(|wait| LimitExceeded { limit: Limit::OpeningsPerIp, retry_after: Some(wait) })?;
        }
        Ok(())
    }

    /// Returns the counts of open connections.
    #[must_use]
    pub fn connections(&self) -> &Connections {
        &self.connections
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    fn key(ip: &str) -> ClientKey {
        ClientKey::from(ip.parse::<IpAddr>().unwrap())
    }

    #[test]
    fn a_client_is_an_ipv4_address_or_an_ipv6_subnet() {
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
        assert_eq!(key("192.0.2.1"), key("::ffff:192.0.2.1"));
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:0:0:2"));
        assert_ne!(key("2001:db8:0:1::1"), key("2001:db8:0:2::1"));
        let tcp = ClientAddr::Tcp("[2001:db8:0:1::1]:443".parse().unwrap());
        assert_eq!(ClientKey::from(tcp).to_string(), "2001:db8:0:1::/64");
        assert_eq!(key("::ffff:192.0.2.1").to_string(), "192.0.2.1");
        assert_eq!(ClientKey::from(ClientAddr::Unix).to_string(), "unix:");
    }

    #[test]
    fn a_refusal_names_its_limit() {
        let limiter = Limiter::default();
        let one = NonZeroU32::MIN;
        let limits = Limits {
            connections: Some(2),
            connections_per_ip: Some(1),
            openings_per_ip: Rate::new(one, Duration::from_secs(1), one),
        };
        let refused = |client: &str, millis| {
            let refused = limiter.admit(key(client), &limits, Duration::from_millis(millis)).unwrap_err();
            (refused.limit.as_str(), refused.retry_after.map(|wait| wait.as_millis()))
        };
        let first = limiter.admit(key("192.0.2.1"), &limits, Duration::ZERO).unwrap();
        assert_eq!(refused("192.0.2.1", 300), ("openings_per_ip", Some(700)));
        assert_eq!(refused("192.0.2.1", 1000), ("connections_per_ip", None));
        let second = limiter.admit(key("192.0.2.2"), &limits, Duration::ZERO).unwrap();
        assert_eq!(refused("192.0.2.3", 0), ("connections", None));
        drop((first, second));
        assert_eq!(limiter.connections().total(), 0);
        let none = Limits::default();
        let many: Vec<_> =
            (0..9).map(|_| limiter.admit(key("192.0.2.1"), &none, Duration::ZERO).unwrap()).collect();
        assert_eq!(limiter.connections().of(key("192.0.2.1")), many.len() as u32);
    }
}
