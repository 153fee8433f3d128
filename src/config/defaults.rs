//! Owns every default with its reason. It must not know how a setting is written.
//!
//! `proxy.toml.example` shows each of them; `tests/config.rs` holds it to that.

use super::words::{Ask, RetryOn};
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

/// One a CPU: a tunnel at work keeps no CPU for long.
pub(super) const WORKERS: usize = 0;

/// The one that takes less of memory and CPU.
pub(super) const ENGINE: Driver = Driver::Epoll;

/// The usual measure: Kubernetes gives a pod 30 s between SIGTERM and SIGKILL, systemd gives 90 s.
pub(super) const SHUTDOWN_GRACE: Duration = secs(30);

/// Clients that are closed come back at once: over 20 s, the others take 5 % of them a second.
/// The 10 s that the grace leaves are one `close_timeout`, for the last of them.
pub(super) const DRAIN_SPREAD: Duration = secs(20);

/// systemd and containers know the process without one.
pub(super) const PID_FILE: Option<PathBuf> = None;

// [log]

/// The ends of connections are in the access log; this leaves what an operator acts on.
pub(super) const LOG_LEVEL: LevelFilter = LevelFilter::INFO;

/// A person reads the first lines. Collectors that want JSON are set up once.
pub(super) const LOG_FORMAT: Format = Format::Text;

/// Where containers and systemd look for it.
pub(super) const LOG_ACCESS: AccessTarget = AccessTarget::Stdout;

/// `local7`, as nginx's `syslog:`.
pub(super) const FACILITY: Facility = Facility(23);

/// 1,000 a second are 300 KB of text; a disk and journald take that, and nobody reads more.
pub(super) fn sample_above() -> Option<Rate> {
    let lines = NonZeroU32::new(1000)?;
    let second = secs(1);
    Rate::new(lines, second, sampling_burst(lines, second))
}

/// Ten seconds' worth, so that what is short is written whole: a deployment, a server that fell, with all of
/// its tunnels.
pub(super) fn sampling_burst(lines: NonZeroU32, per: Duration) -> NonZeroU32 {
    let worth = u128::from(lines.get()) * secs(10).as_nanos() / per.as_nanos().max(1);
    u32::try_from(worth)
        .ok()
        .map_or(NonZeroU32::MAX, |worth| NonZeroU32::new(worth).unwrap_or(NonZeroU32::MIN))
}

// [admin]

/// Only this host can ask, until it is said otherwise.
pub(super) const ADMIN_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9109);

// [[listen]]

/// The kernel's own cap (`net.core.somaxconn`) since Linux 5.4: a wave of clients that come back
/// together waits there and is not refused. nginx asks for 511.
pub(super) const BACKLOG: u32 = 4096;

/// A second proxy on the same address is more often a mistake than a plan.
pub(super) const REUSE_PORT: bool = false;

/// A proxy cannot know the sites of its servers.
pub(super) const ALLOWED_ORIGINS: Option<Vec<AllowedOrigin>> = None;

/// A body is passed on as it comes and costs no memory here; nginx, which keeps it, stops at 1 MiB.
pub(super) const MAX_BODY_SIZE: Option<u64> = None;

/// Unlike nginx, which does not verify upstreams unless told to.
pub(super) const INSECURE_SKIP_VERIFY: bool = false;

/// Over TLS a client says what it speaks, and browsers know both.
pub(super) const PROTOCOLS_OVER_TLS: Protocols = Protocols { http1: true, http2: true };

/// RFC 9325 3.1.1: 1.2 is still good, and older clients than that are not.
pub(super) const MIN_VERSION: MinVersion = MinVersion::Tls12;

/// A handshake is two round trips and two signatures; lost packets are sent again within about 1, 3 and 7 s.
pub(super) const HANDSHAKE_TIMEOUT: Duration = secs(15);

/// One under way takes 15 KiB, so that all take 15 MiB. Each needs its place for a round trip: of clients
/// that are 200 ms away 5,000 are done in a second, which keeps half a CPU busy with ECDSA (100 us) and
/// more than one with RSA of 2048 bits (240 us). HAProxy's `maxsslconn` and nginx's `worker_connections`
/// count connections that are open as well.
pub(super) const MAX_HANDSHAKES: u32 = 1024;

/// Browsers ask their users for a certificate wherever a server asks for one.
pub(super) const CLIENT_AUTH: Ask = Ask::No;

/// Whoever is believed what the header says can be anybody.
pub(super) const ACCEPT_PROXY_PROTOCOL: bool = false;

/// A server that does not expect it takes it for a bad request.
pub(super) const SEND_PROXY_PROTOCOL: Option<Version> = None;

/// Descriptors and memory are the limit.
pub(super) const MAX_CONNECTIONS: Option<u32> = None;

/// How many connections a client may have depends on who hides behind its address.
pub(super) const LIMITS: Limits =
    Limits { connections: None, connections_per_ip: None, openings_per_ip: None };

/// A second's worth of a rate may come at once: a page that opens its WebSockets.
pub(super) fn burst(openings: NonZeroU32) -> NonZeroU32 {
    openings
}

/// Nobody is trusted who is not named. Lists with several trusted proxies are walked to the first that
/// is not: nginx takes the last one without looking, which serves nobody with two proxies in front.
pub(super) const REAL_IP_RECURSIVE: bool = true;

/// Without TLS nobody speaks HTTP/2 who was not told to.
pub(super) const PROTOCOLS: Protocols = Protocols { http1: true, http2: false };

/// A head is a few packets; lost ones are sent again within about 1, 3 and 7 s. nginx waits 60 s,
/// which serves whoever holds connections open on purpose.
pub(super) const HEADER_TIMEOUT: Duration = secs(15);

/// As nginx.
pub(super) const KEEPALIVE_TIMEOUT: Duration = secs(75);

/// As nginx, of both directions (`client_body_timeout`, `send_timeout`).
pub(super) const BODY_TIMEOUT: Option<Duration> = Some(secs(60));

/// Cookies and tokens of real sites fit; nginx takes 4 buffers of 8 KiB.
pub(super) const MAX_HEADER_SIZE: usize = 16 * 1024;

/// As nginx. CGI, WSGI, Rack and PHP take `X_Real_IP` for `X-Real-IP` (RFC 3875 4.1.18).
pub(super) const UNDERSCORES_IN_HEADERS: bool = false;

/// A peer whose host is gone is noticed after 60 + 6 * 10 = 120 s where nothing else asks, and with
/// `tcp_user_timeout` at the second probe. The kernel's own numbers make it 2 hours and 11 minutes.
pub(super) const TCP_KEEPALIVE: Keepalive = Keepalive { time: secs(60), interval: secs(10), probes: 6 };

/// Bytes that a peer's kernel does not acknowledge for so long will not arrive. Without it the
/// kernel goes on for about 15 minutes.
pub(super) const TCP_USER_TIMEOUT: Option<Duration> = Some(secs(30));

// [[route]]

/// A lost SYN is sent again after 1 and 3 s. nginx waits 60 s, in which nothing else is tried.
pub(super) const CONNECT_TIMEOUT: Duration = secs(5);

/// As nginx (`proxy_read_timeout`, before the head).
pub(super) const RESPONSE_TIMEOUT: Option<Duration> = Some(secs(60));

/// How tunnels behave.
pub(super) const TUNNEL: tunnel::Settings = tunnel::Settings {
    // Idle limits on the way begin at 55 s (Heroku) and 60 s (nginx, AWS ALB). A Ping that is due
    // at 25 s is sent twice in each of them, so one may be lost.
    ping: PerSide { client: Some(secs(25)), upstream: Some(secs(25)) },
    // A phone that wakes its radio takes seconds; 25 + 20 s is still below the 55 s.
    ping_timeout: secs(20),
    // RFC 6455 5.5.2 obliges every endpoint to answer.
    pong: Pong::Required,
    // Pings find dead peers; one that is idle and lives needs no killing. nginx kills it at 60 s.
    read_timeout: None,
    // As nginx. A peer that takes nothing for so long holds memory for nobody.
    send_timeout: Some(secs(60)),
    // A peer that means to answer a Close does so within a round trip; 10 s leave room for what is
    // queued before it.
    close_timeout: secs(10),
    // A connection ends when its peers want.
    max_lifetime: None,
    // Peers that broke the rules before the proxy came worked with one another.
    on_violation: OnViolation::Blind,
    // The peers know what they can take.
    max_message_size: None,
    // 1012 and 1013 tell a client that it may come back.
    close_codes: CloseCodes::Registered,
};

/// A status is what logs and load balancers understand.
pub(super) const REJECT_WITH: RejectWith = RejectWith::Http;

/// Every request has its line, unless the operator knows better: health checks, say.
pub(super) const ACCESS_LOG: bool = true;

/// What most applications read.
pub(super) const FORWARDED: Forwarded = Forwarded::X;

/// RFC 9110 7.6.3 wants it of a proxy. nginx adds none, and where it stands behind, it compresses nothing
/// for requests that have it (`gzip_proxied off`).
pub(super) const VIA: Via = Via::On;

/// A prefix without `^~` gives way to a regex, as in nginx.
pub(super) const PRIORITY: bool = false;

/// The path goes on as it came, as nginx's `proxy_pass` without a URI.
pub(super) const STRIP_PREFIX: bool = false;

// [upstream.NAME]

/// Connections that live for hours pile up where they were first put unless they are counted.
pub(super) const BALANCE: Method = Method::LeastConn;

/// As nginx.
pub(super) const MAX_FAILS: u32 = 1;

/// As nginx.
pub(super) const FAIL_TIMEOUT: Duration = secs(10);

/// As nginx: a full share at once.
pub(super) const SLOW_START: Duration = Duration::ZERO;

/// Half: whatever clients cause, no server has more than twice its share of the load.
pub(super) const MAX_EJECTED: Percent = Percent(50);

/// A process that accepts and then dies does so within its first seconds; five in a row, with none
/// that lasted between them, are no accident of clients.
pub(super) const EARLY_END: EarlyEnd = EarlyEnd { within: secs(5), max: 5 };

/// Every endpoint there is.
pub(super) const RETRY_TRIES: u32 = 0;

/// The client waits meanwhile: two connect timeouts.
pub(super) const RETRY_TIMEOUT: Option<Duration> = Some(secs(10));

/// As nginx (`proxy_next_upstream error timeout`): what no application can have meant.
pub(super) const RETRY_ON: &[RetryOn] = &[RetryOn::Connect, RetryOn::Timeout];

/// What DNS servers of clusters give as a time to live: Kubernetes' CoreDNS 30 s, AWS 60 s.
pub(super) const RESOLVE_INTERVAL: Option<Duration> = Some(secs(30));

/// As many as nginx keeps since 1.29.7.
pub(super) const KEEPALIVE: usize = 32;

/// nginx's: less than most servers' own, which are 75s and more.
pub(super) const UPSTREAM_KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(60);

/// Tunnels stay until their peers end them.
pub(super) const DRAIN_TIMEOUT: Option<Duration> = None;

// servers = [{ ... }]

/// An equal share.
pub(super) const WEIGHT: u32 = 1;

/// The server refuses for itself.
pub(super) const MAX_CONNS: Option<u32> = None;

/// Every server serves.
pub(super) const BACKUP: bool = false;

/// It serves from the start.
pub(super) const STATE: State = State::Up;

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}
