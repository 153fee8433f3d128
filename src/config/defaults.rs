//! Owns each default with its reason. It must not know how a setting is written.
//!
//! `proxy.toml.example` shows each of them, which `tests/config.rs` checks.

use super::words::{ClientAuthMode, RetryOn};
use crate::balance::Method;
use crate::health::{EarlyEnd, Percent};
use crate::http::{Forwarded, Protocols, Via};
use crate::io::Keepalive;
use crate::limit::Limits;
use crate::limit::rate::Rate;
use crate::outcome::PerSide;
use crate::proxy::snapshot::RejectWith;
use crate::proxy_protocol::Version;
use crate::telemetry::{AccessTarget, Facility, Format};
use crate::tls::MinVersion;
use crate::tunnel::{self, CloseCodes, Driver, OnViolation, Pong};
use crate::upstream::State;
use crate::ws::origin::AllowedOrigin;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;
use tracing::level_filters::LevelFilter;

// [process]

/// One for each CPU, because no tunnel keeps a CPU busy for long.
pub(super) const WORKERS: usize = 0;

/// It takes less memory and CPU.
pub(super) const ENGINE: Driver = Driver::Epoll;

/// The usual measure: Kubernetes gives a pod 30 s between SIGTERM and SIGKILL, systemd gives 90 s.
pub(super) const SHUTDOWN_GRACE: Duration = secs(30);

/// Clients reconnect at once. Over 20 s, the other proxies get 5 % of them each second. The grace leaves 10 s
/// for the last ones, which is one `close_timeout`.
pub(super) const DRAIN_SPREAD: Duration = secs(20);

/// systemd and containers know the process without a file.
pub(super) const PID_FILE: Option<PathBuf> = None;

// [log]

/// Ends of connections are in the access log. What is left is what an operator acts on.
pub(super) const LOG_LEVEL: LevelFilter = LevelFilter::INFO;

/// A person reads the first lines; a collector that wants JSON is set up later.
pub(super) const LOG_FORMAT: Format = Format::Text;

/// Containers and systemd collect it there.
pub(super) const LOG_ACCESS: AccessTarget = AccessTarget::Stdout;

/// `local7`, as for nginx's `syslog:`.
pub(super) const FACILITY: Facility = Facility(23);

/// 1,000 lines are 300 KB a second, which a disk and journald can take. Nobody reads more.
pub(super) fn sample_above() -> Option<Rate> {
    let lines = NonZeroU32::new(1000)?;
    let second = secs(1);
    Rate::new(lines, second, sampling_burst(lines, second))
}

/// Lines for ten seconds, so that a short burst is written whole: a deployment, or a server that failed with
/// all its tunnels.
pub(super) fn sampling_burst(lines: NonZeroU32, per: Duration) -> NonZeroU32 {
    let worth = u128::from(lines.get()) * secs(10).as_nanos() / per.as_nanos().max(1);
    u32::try_from(worth)
        .ok()
        .map_or(NonZeroU32::MAX, |worth| NonZeroU32::new(worth).unwrap_or(NonZeroU32::MIN))
}

// [admin]

/// Only this host can connect.
pub(super) const ADMIN_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9109);

// [[listen]]

/// The kernel's cap (`net.core.somaxconn`) since Linux 5.4. Clients that all reconnect at once wait there
/// instead of being refused. nginx asks for 511.
pub(super) const BACKLOG: u32 = 4096;

/// A second proxy on the same address is mostly a mistake.
pub(super) const REUSE_PORT: bool = false;

/// Holdline cannot know the sites of its upstreams.
pub(super) const ALLOWED_ORIGINS: Option<Vec<AllowedOrigin>> = None;

/// Holdline streams a body, so it costs no memory. nginx buffers it and stops at 1 MiB.
pub(super) const MAX_BODY_SIZE: Option<u64> = None;

/// nginx verifies upstreams only if told to.
pub(super) const INSECURE_SKIP_VERIFY: bool = false;

/// Over TLS a client says what it speaks (ALPN), and browsers speak both.
pub(super) const PROTOCOLS_OVER_TLS: Protocols = Protocols { http1: true, http2: true };

/// TLS 1.2 is still secure (RFC 9325 3.1.1), and older clients need it.
pub(super) const MIN_VERSION: MinVersion = MinVersion::Tls12;

/// A handshake is two round trips and two signatures. Lost packets are sent again after about 1, 3 and 7 s.
pub(super) const HANDSHAKE_TIMEOUT: Duration = secs(15);

/// A handshake takes 15 KiB, so all take 15 MiB. Each lasts a round trip: with clients 200 ms away, 5,000 are
/// done in a second. That keeps half a CPU busy with ECDSA (100 us), and more than one with RSA of 2048 bits
/// (240 us). HAProxy's `maxsslconn` and nginx's `worker_connections` also count open connections.
pub(super) const MAX_HANDSHAKES: u32 = 1024;

/// A browser asks its user for a certificate if a server asks for one.
pub(super) const CLIENT_AUTH: ClientAuthMode = ClientAuthMode::Off;

/// A client that may send the header can claim any address.
pub(super) const ACCEPT_PROXY_PROTOCOL: bool = false;

/// A server that does not expect the header takes it for a bad request.
pub(super) const SEND_PROXY_PROTOCOL: Option<Version> = None;

/// The limit is descriptors and memory.
pub(super) const MAX_CONNECTIONS: Option<u32> = None;

/// How many connections an address may have depends on how many clients share it.
pub(super) const LIMITS: Limits =
    Limits { connections: None, connections_per_ip: None, openings_per_ip: None };

/// The count of the rate may come at once, as when a page opens its WebSockets.
pub(super) fn burst(events: NonZeroU32) -> NonZeroU32 {
    events
}

/// Walks the list of addresses from its end to the first that is not trusted. nginx takes the last address by
/// default, which is wrong behind two proxies.
pub(super) const REAL_IP_RECURSIVE: bool = true;

/// Without TLS a client speaks HTTP/2 only if told to.
pub(super) const PROTOCOLS: Protocols = Protocols { http1: true, http2: false };

/// A head is a few packets. Lost ones are sent again after about 1, 3 and 7 s. nginx waits 60 s, which helps
/// only attackers that hold connections open.
pub(super) const HEADER_TIMEOUT: Duration = secs(15);

/// As in nginx.
pub(super) const KEEPALIVE_TIMEOUT: Duration = secs(75);

/// As in nginx, for both directions (`client_body_timeout`, `send_timeout`).
pub(super) const BODY_TIMEOUT: Option<Duration> = Some(secs(60));

/// Cookies and tokens of real sites fit. nginx takes 4 buffers of 8 KiB.
pub(super) const MAX_HEADER_SIZE: usize = 16 * 1024;

/// As in nginx. CGI, WSGI, Rack and PHP take `X_Real_IP` for `X-Real-IP` (RFC 3875 4.1.18).
pub(super) const UNDERSCORES_IN_HEADERS: bool = false;

/// It finds a peer whose host is gone after 60 + 6 * 10 = 120 s; with `tcp_user_timeout`, at the second
/// probe. The kernel's own numbers make it 2 hours and 11 minutes.
pub(super) const TCP_KEEPALIVE: Keepalive = Keepalive { time: secs(60), interval: secs(10), probes: 6 };

/// Bytes that the peer's kernel has not acknowledged by then will not arrive. Without a limit the kernel
/// retries for about 15 minutes.
pub(super) const TCP_USER_TIMEOUT: Option<Duration> = Some(secs(30));

// [[route]]

/// A lost SYN is sent again after 1 and 3 s. nginx waits 60 s before it tries another endpoint.
pub(super) const CONNECT_TIMEOUT: Duration = secs(5);

/// As in nginx (`proxy_read_timeout`, until the head of the response).
pub(super) const RESPONSE_TIMEOUT: Option<Duration> = Some(secs(60));

pub(super) const TUNNEL: tunnel::Settings = tunnel::Settings {
    // Idle limits on the way start at 55 s (Heroku) and 60 s (nginx, AWS ALB). At 25 s, two pings fit into
    // each of them, so one may be lost.
    ping: PerSide { client: Some(secs(25)), upstream: Some(secs(25)) },
    // A phone needs seconds to wake its radio. 25 + 20 s are below the 55 s.
    ping_timeout: secs(20),
    // RFC 6455 5.5.2 obliges every endpoint to answer.
    pong: Pong::Required,
    // Pings find dead peers, and an idle peer that lives may stay. nginx closes it after 60 s.
    read_timeout: None,
    // As in nginx. A peer that takes nothing for so long wastes memory.
    send_timeout: Some(secs(60)),
    // A peer answers a Close within a round trip. 10 s leave room for what is queued before the answer.
    close_timeout: secs(10),
    // Its peers decide when a tunnel ends.
    max_lifetime: None,
    // Peers that break the rules worked with each other before there was a proxy.
    on_violation: OnViolation::Blind,
    // The peers know how much they can take.
    max_message_size: None,
    // 1012 and 1013 tell a client that it may reconnect.
    close_codes: CloseCodes::Registered,
};

/// Logs and load balancers understand a status.
pub(super) const REJECT_WITH: RejectWith = RejectWith::Http;

/// Operators turn it off for health checks, for example.
pub(super) const ACCESS_LOG: bool = true;

/// Most applications read these headers.
pub(super) const FORWARDED: Forwarded = Forwarded::X;

/// RFC 9110 7.6.3 requires it of a proxy. nginx adds none. Behind Holdline, nginx does not compress responses
/// to requests that have it (`gzip_proxied off`).
pub(super) const VIA: Via = Via::On;

/// As in nginx, a regex wins over a prefix without `^~`.
pub(super) const PRIORITY: bool = false;

/// The path goes on unchanged, as with nginx's `proxy_pass` without a URI.
pub(super) const STRIP_PREFIX: bool = false;

// [upstream.NAME]

/// Connections that live for hours become unevenly spread unless they are counted.
pub(super) const BALANCE: Method = Method::LeastConn;

/// As in nginx.
pub(super) const MAX_FAILS: u32 = 1;

/// As in nginx.
pub(super) const FAIL_TIMEOUT: Duration = secs(10);

/// As in nginx: a full share at once.
pub(super) const SLOW_START: Duration = Duration::ZERO;

/// With half of the servers ejected, none of the others gets more than twice its share.
pub(super) const MAX_EJECTED: Percent = Percent(50);

/// A broken process accepts connections and ends them within seconds. Five in a row, with none that lasted
/// between them, are not caused by clients.
pub(super) const EARLY_END: EarlyEnd = EarlyEnd { within: secs(5), max: 5 };

/// No limit but the number of endpoints.
pub(super) const RETRY_TRIES: u32 = 0;

/// Two connect timeouts, because the client is waiting.
pub(super) const RETRY_TIMEOUT: Option<Duration> = Some(secs(10));

/// As in nginx (`proxy_next_upstream error timeout`). No application answers like that on purpose.
pub(super) const RETRY_ON: &[RetryOn] = &[RetryOn::Connect, RetryOn::Timeout];

/// The time to live in DNS of clusters: 30 s in CoreDNS of Kubernetes, 60 s at AWS.
pub(super) const RESOLVE_INTERVAL: Option<Duration> = Some(secs(30));

/// As in nginx since 1.29.7.
pub(super) const KEEPALIVE: usize = 32;

/// As in nginx. Most servers wait longer, 75 s or more.
pub(super) const UPSTREAM_KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(60);

/// Tunnels stay open until their peers end them.
pub(super) const DRAIN_TIMEOUT: Option<Duration> = None;

// servers = [{ ... }]

/// An equal share.
pub(super) const WEIGHT: u32 = 1;

/// The server refuses connections itself.
pub(super) const MAX_CONNS: Option<u32> = None;

/// Each server takes part.
pub(super) const BACKUP: bool = false;

/// Each server serves from the start.
pub(super) const STATE: State = State::Up;

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}
