//! Owns a named group of endpoints: which may be chosen, which is chosen, and how its connections went. It
//! must not know routes, nor of clients more than whose private connections are whose.

pub(crate) mod bound_login;
pub(crate) mod connect;
pub(crate) mod discovery;
mod endpoint;
pub(crate) mod exchange;
mod lease;
mod members;
mod overrides;
pub(crate) mod pool;
pub(crate) mod ports;
mod private_pool;
mod resources;
mod status;

pub use endpoint::Endpoint;
pub(crate) use lease::{Lease, PendingCharge};
pub(crate) use overrides::StateSource;
pub(crate) use private_pool::PrivatePool;
pub(crate) use resources::ConnectionResources;
pub(crate) use status::EndpointStatus;

use crate::addr::{EndpointAddr, ServerAddr};
use crate::balance::{self, Candidate, Method};
use crate::health::{EarlyEnd, Percent, Rules};
use crate::io::TcpOptions;
use crate::proxy_protocol;
use crate::tls::problem::Problem;
use crate::tls::{self, ServerName};
use discovery::Discovered;
use members::{Member, Members, Terms, first_tier};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// One upstream, as configured (nginx, `upstream`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Its name.
    pub name: Arc<str>,
    /// How Holdline chooses an endpoint.
    pub balance: Method,
    /// The servers. Each may resolve to several endpoints.
    pub servers: Vec<Server>,
    /// How long an endpoint that returns takes to reach its full weight. Zero means at once.
    pub slow_start: Duration,
    /// The share of endpoints that failures which clients may have caused can take out.
    pub max_ejected: Percent,
    /// When early ends of tunnels count as failures.
    pub early_end: Option<EarlyEnd>,
    /// When Holdline tries another endpoint.
    pub retry: RetryPolicy,
    /// Interval between name look-ups. `None` means only at start and reload.
    pub resolve_interval: Option<Duration>,
    /// Limits of the idle HTTP connections.
    pub keepalive: pool::Limits,
    /// Time over which Holdline closes the tunnels of a removed or drained endpoint. `None` means that they
    /// stay open.
    pub drain_timeout: Option<Duration>,
    /// Options of its connections.
    pub tcp: TcpOptions,
    /// Each connection begins with a PROXY protocol header that names the client (nginx, `proxy_protocol on`
    /// of `stream`; HAProxy, `send-proxy`). Holdline does not pool such connections.
    pub proxy_protocol: Option<proxy_protocol::Version>,
    /// Local addresses that its connections come from, in equal shares (nginx, `proxy_bind`). Without any,
    /// and for endpoints of the other family, the kernel chooses.
    pub source: Vec<IpAddr>,
    /// Connections are TLS (nginx, `proxy_pass https://`).
    pub tls: Option<Tls>,
}

/// TLS to endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The trusted authorities, and the certificate that Holdline presents.
    pub client: tls::client::Settings,
    /// The name that their certificates must match, also sent as SNI (nginx, `proxy_ssl_name`). `None` means
    /// the host of each server.
    pub server_name: Option<String>,
}

impl Settings {
    /// Returns the limits of shared idle connections. There are none if each connection belongs to one
    /// client.
    #[must_use]
    pub fn kept(&self) -> pool::Limits {
        let connections = if self.proxy_protocol.is_some() { 0 } else { self.keepalive.connections };
        pool::Limits { connections, ..self.keepalive }
    }
}

impl Tls {
    /// Returns the name that a server's certificate must match. `None` means that there is none, as for a
    /// unix socket.
    #[must_use]
    pub fn name_of(&self, server: &Server) -> Option<ServerName<'static>> {
        match (&self.server_name, &server.address) {
            (Some(name), _) | (None, ServerAddr::Name(name, _)) => name.clone().try_into().ok(),
            (None, ServerAddr::Ip(address)) => Some(address.ip().into()),
            (None, ServerAddr::Unix(_)) => None,
        }
    }
}

/// One server of an upstream (nginx, `server`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its address.
    pub address: ServerAddr,
    /// Its weight, 1 to 65535.
    pub weight: u32,
    /// Maximum number of connections to each of its endpoints. `None` means no limit.
    pub max_conns: Option<u32>,
    /// See [`Rules`].
    pub max_fails: u32,
    /// See [`Rules`].
    pub fail_timeout: Duration,
    /// It serves only if no other can.
    pub backup: bool,
    /// Its configured state.
    pub state: State,
}

/// The state of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It takes connections.
    Up,
    /// It takes no new connections. Holdline closes its tunnels within `drain_timeout`, if that is set.
    Drain,
    /// It takes no new connections.
    Down,
}

impl State {
    /// All of them, in the order of their declaration.
    pub const ALL: [Self; 3] = [Self::Up, Self::Drain, Self::Down];

    /// Returns the word for it, in the configuration and in the status.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Drain => "drain",
            Self::Down => "down",
        }
    }
}

/// When Holdline tries another endpoint, while nothing has reached the client (nginx, `proxy_next_upstream`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Maximum number of endpoints tried. 0 means every endpoint.
    pub tries: u32,
    /// Holdline starts no new try after this time. `None` means no limit.
    pub timeout: Option<Duration>,
    /// After a failed connect, or a connection that broke before a response.
    pub on_connect: bool,
    /// After a timeout.
    pub on_timeout: bool,
    /// After one of these statuses, which then count as failures.
    pub on_status: Vec<http::StatusCode>,
}

/// A named group of endpoints.
#[derive(Debug)]
pub struct Upstream {
    settings: Settings,
    members: Arc<Members>,
    /// TLS configuration of its connections. Empty until [`Upstream::load_tls`].
    tls: OnceLock<Arc<tls::client::Config>>,
    /// How many ports each source address has for one endpoint.
    ports_per_source: u32,
    /// When its names were last looked up.
    looked_up: Mutex<Option<Instant>>,
}

/// Why there is no endpoint to connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoEndpoint {
    /// Every endpoint has been tried.
    #[error("every endpoint was tried")]
    AllTried,
    /// The remaining endpoints are at `max_conns`.
    #[error("every endpoint is at its max_conns")]
    AllFull,
    /// No name resolved, or no `state` allows connections.
    #[error("no endpoint is in use: none was found, or all are set to \"down\" or \"drain\"")]
    None,
}

impl Upstream {
    /// Creates a group with the endpoints of servers given as addresses. [`discovery::dns`] adds those of names.
    /// Endpoints that `previous` had keep their counts and health.
    #[must_use]
    pub fn new(settings: Settings, previous: Option<&Self>) -> Self {
        let overrides = previous.map(|previous| Arc::clone(&previous.members.overrides)).unwrap_or_default();
        let upstream = Self {
            settings,
            members: Arc::new(Members::new(overrides)),
            tls: OnceLock::new(),
            ports_per_source: ports::ports_per_source(),
            looked_up: Mutex::default(),
        };
        // A reload keeps the time of the last look-up, so the next is not put off. Without `resolve_interval` it
        // forgets the time, so a look-up is due at once.
        let last = previous.filter(|_| upstream.settings.resolve_interval.is_some());
        *upstream.looked_up() = last.and_then(|previous| *previous.looked_up());
        let known = previous.map(|previous| previous.members.list.load_full());
        let mut found = HashMap::new();
        for server in &upstream.settings.servers {
            let own = known.iter().flat_map(|members| members.iter());
            let own = own.filter(|member| member.server.address == server.address);
            let again = own.map(|member| Discovered::of(server, member.endpoint.address().clone()));
            found.insert(server.address.clone(), again.collect());
        }
        upstream.set_members(&found, known.as_deref().map_or(&[][..], Vec::as_slice), previous.is_some());
        upstream
    }

    /// Reads its TLS files once, if it has any. Files unchanged since `previous` read them are not read
    /// again, and TLS sessions can still be resumed. It blocks while it reads.
    ///
    /// # Errors
    /// Returns every file that Holdline cannot use.
    pub fn load_tls(&self, previous: Option<&Self>) -> Result<(), Vec<Problem>> {
        let Some(settings) = &self.settings.tls else { return Ok(()) };
        let same = previous.filter(|previous| {
            previous.settings.tls.as_ref().is_some_and(|before| before.client == settings.client)
        });
        let kept = same.and_then(|previous| previous.tls.get()).filter(|kept| !kept.sources().changed());
        let config = match kept {
            Some(kept) => Arc::clone(kept),
            None => Arc::new(tls::client::Config::load(&settings.client)?),
        };
        // A caller that came first has read the same files.
        let _ = self.tls.set(config);
        Ok(())
    }

    /// Returns its settings.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Returns its current endpoints.
    #[must_use]
    pub fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.members.list.load().iter().map(|member| Arc::clone(&member.endpoint)).collect()
    }

    /// Whether an endpoint's open tunnels may stay: it belongs to this upstream and is not drained.
    #[must_use]
    pub fn serves(&self, address: &EndpointAddr) -> bool {
        let members = self.members.list.load();
        members.iter().any(|m| m.endpoint.address() == address && m.server.state != State::Drain)
    }

    /// Whether this upstream has the address, in any state.
    #[must_use]
    pub fn has_endpoint(&self, address: &EndpointAddr) -> bool {
        self.members.list.load().iter().any(|member| member.endpoint.address() == address)
    }

    /// Returns what a server resolves to now.
    fn discovered(&self, server: &ServerAddr) -> Vec<Discovered> {
        let members = self.members.list.load();
        let own = members.iter().filter(|member| member.server.address == *server);
        own.map(|member| member.discovered.clone()).collect()
    }

    /// Applies the result of a look-up. Known endpoints keep their counts and health. New ones start slowly.
    pub fn set_discovered(&self, found: &HashMap<ServerAddr, Vec<Discovered>>) {
        let known = self.members.list.load_full();
        self.set_members(found, &known, !known.is_empty());
    }

    fn set_members(
        &self,
        found: &HashMap<ServerAddr, Vec<Discovered>>,
        known: &[Member],
        starts_slowly: bool,
    ) {
        let mut members: Vec<Member> = Vec::new();
        for server in &self.settings.servers {
            let addresses = || found.get(&server.address).cloned().unwrap_or_default();
            for discovered in discovery::fixed(server).map_or_else(addresses, |fixed| vec![fixed]) {
                let is_it = |member: &&Member| *member.endpoint.address() == discovered.address;
                if members.iter().any(|member| is_it(&member)) {
                    continue;
                }
                let endpoint = known.iter().find(is_it).map_or_else(
                    || {
                        Arc::new(Endpoint::new(
                            &self.settings.name,
                            discovered.address.clone(),
                            starts_slowly,
                        ))
                    },
                    |known| Arc::clone(&known.endpoint),
                );
                let terms = Terms {
                    rules: self.rules(server),
                    name: self.settings.tls.as_ref().and_then(|tls| tls.name_of(server)),
                    backup: server.backup,
                    members: Arc::downgrade(&self.members),
                };
                members.push(Member::new(endpoint, server, discovered, terms));
            }
        }
        self.members.list.store(Arc::new(members));
    }

    fn looked_up(&self) -> MutexGuard<'_, Option<Instant>> {
        self.looked_up.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rules(&self, server: &Server) -> Rules {
        Rules {
            max_fails: server.max_fails,
            fail_timeout: server.fail_timeout,
            slow_start: self.settings.slow_start,
            max_ejected: self.settings.max_ejected,
            early_end: self.settings.early_end,
        }
    }

    /// Chooses an endpoint that is not in `tried`, and counts the connection to it. `key` is what `hash` and
    /// `ip_hash` choose by. `None` means that the request has none.
    ///
    /// # Errors
    /// Returns [`NoEndpoint`] if none can be chosen.
    pub fn pick(&self, key: Option<u64>, tried: &[EndpointAddr]) -> Result<Lease, NoEndpoint> {
        self.choose(key, tried, false)
    }

    /// Like [`Self::pick`], but without backups, for a request that broke a connection before.
    ///
    /// # Errors
    /// Returns [`NoEndpoint`] if none can be chosen.
    pub fn pick_no_backup(&self, key: Option<u64>, tried: &[EndpointAddr]) -> Result<Lease, NoEndpoint> {
        self.choose(key, tried, true)
    }

    /// Counts another connection to an endpoint that was chosen before. `None` means that it takes none.
    #[must_use]
    pub fn lease_on(&self, endpoint: &Arc<Endpoint>) -> Option<Lease> {
        let members = self.members.list.load();
        let _choosing = self.members.choosing();
        let member = members.iter().find(|member| Arc::ptr_eq(&member.endpoint, endpoint))?;
        let is_open = member.state(&self.members.overrides.lock()).0 == State::Up && !member.is_full();
        is_open.then(|| Lease::new(member, Instant::now().into_std()))
    }

    fn choose(
        &self,
        key: Option<u64>,
        tried: &[EndpointAddr],
        exclude_backups: bool,
    ) -> Result<Lease, NoEndpoint> {
        let now = Instant::now().into_std();
        let members = self.members.list.load();
        let _choosing = self.members.choosing();
        let overrides = self.members.overrides.lock();
        let is_up = |member: &&Member| member.state(&overrides).0 == State::Up;
        let open: Vec<&Member> = members.iter().filter(is_up).collect();
        drop(overrides);
        let is_untried = |m: &&Member| !tried.contains(m.endpoint.address());
        let is_for_it = |m: &&Member| !exclude_backups || !m.server.backup;
        let untried: Vec<&Member> = open.iter().copied().filter(is_untried).filter(is_for_it).collect();
        let free: Vec<&Member> = untried.iter().copied().filter(|m| !m.is_full()).collect();
        let tier = first_tier(&free, now).ok_or(match (open.is_empty(), untried.is_empty()) {
            (true, _) => NoEndpoint::None,
            (false, true) => NoEndpoint::AllTried,
            (false, false) => NoEndpoint::AllFull,
        })?;
        let mut candidates: Vec<Candidate> = tier.iter().map(|member| member.candidate(now)).collect();
        let chosen = balance::pick(&self.settings.balance, &mut candidates, key, |below| {
            rand::random_range(0..below.max(1))
        });
        for (member, candidate) in tier.iter().zip(&candidates) {
            member.endpoint.set_turn(candidate.turn);
        }
        let chosen = chosen.ok_or(NoEndpoint::None)?;
        Ok(Lease::new(tier[chosen], now))
    }
}

#[cfg(test)]
pub(crate) mod tests;
