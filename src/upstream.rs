//! Owns a named group of endpoints: who may be chosen, who is, and what came of it. It must not
//! know HTTP routes or what a connection is used for.

pub mod client;
pub mod connect;
mod endpoint;
mod lease;
pub mod login;
mod members;
mod order;
pub mod pool;
pub mod ports;
mod private;
pub mod resolve;
mod view;

pub use endpoint::Endpoint;
pub use lease::{Lease, Suspect};
pub use order::By;
pub use private::Private;
pub use view::View;

use crate::addr::{EndpointAddr, ServerAddr};
use crate::balance::{self, Candidate, Method};
use crate::health::{Availability, EarlyEnd, Percent, Rules};
use crate::io::TcpOptions;
use crate::proxy_protocol;
use crate::tls::problem::Problem;
use crate::tls::{self, ServerName};
use endpoint::{Member, Terms};
use members::Members;
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
    /// How an endpoint is chosen.
    pub balance: Method,
    /// The servers, each of which may stand for several endpoints.
    pub servers: Vec<Server>,
    /// From an endpoint's return to its full weight; zero: at once.
    pub slow_start: Duration,
    /// The part of the endpoints that may be out by what clients may have caused.
    pub max_ejected: Percent,
    /// When ends of young tunnels count as failures.
    pub early_end: Option<EarlyEnd>,
    /// What is tried again elsewhere.
    pub retry: Retry,
    /// From one look-up of names to the next; `None`: only at start and reload.
    pub resolve_interval: Option<Duration>,
    /// Idle HTTP connections that are kept.
    pub keepalive: pool::Limits,
    /// Over how long the tunnels of a removed or drained endpoint are closed; `None`: they stay.
    pub drain_timeout: Option<Duration>,
    /// Options of its connections.
    pub tcp: TcpOptions,
    /// Each connection begins with a header of the PROXY protocol that names the client (nginx,
    /// `proxy_protocol on` of `stream`; HAProxy, `send-proxy`). Such connections are not kept.
    pub proxy_protocol: Option<proxy_protocol::Version>,
    /// Addresses of this machine that its connections come from, each its share of them (nginx,
    /// `proxy_bind`); none: the kernel chooses, as it does for endpoints of the other family.
    pub source: Vec<IpAddr>,
    /// Connections are TLS (nginx, `proxy_pass https://`).
    pub tls: Option<Tls>,
}

/// TLS to endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Who vouches for them, and what is shown to them.
    pub client: tls::client::Settings,
    /// The name that their certificates must be for, which is sent along (nginx, `proxy_ssl_name`);
    /// `None`: the host of each server.
    pub server_name: Option<String>,
}

impl Settings {
    /// Idle connections that are kept for any client: none, where each is one client's.
    #[must_use]
    pub fn kept(&self) -> pool::Limits {
        let connections = if self.proxy_protocol.is_some() { 0 } else { self.keepalive.connections };
        pool::Limits { connections, ..self.keepalive }
    }
}

impl Tls {
    /// The name that a server's certificate must be for; `None`: there is none, as for a unix socket.
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
    /// Its share, 1 to 65535.
    pub weight: u32,
    /// Most connections to each of its endpoints; `None`: any number.
    pub max_conns: Option<u32>,
    /// See [`Rules`].
    pub max_fails: u32,
    /// See [`Rules`].
    pub fail_timeout: Duration,
    /// It serves only when no other can.
    pub backup: bool,
    /// What the operator wants of it.
    pub state: State,
}

/// What the operator wants of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It serves.
    Up,
    /// It takes nothing new; what it has is closed over `drain_timeout` if that is set.
    Drain,
    /// It takes nothing new.
    Down,
}

/// What is tried again elsewhere, as long as nothing has reached the client (nginx,
/// `proxy_next_upstream`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Endpoints tried in all; 0: each there is.
    pub tries: u32,
    /// No new try is begun after this; `None`: whenever.
    pub timeout: Option<Duration>,
    /// After a failed connect or a connection that broke before an answer.
    pub on_connect: bool,
    /// After a timeout.
    pub on_timeout: bool,
    /// After one of these statuses; they count as failures then.
    pub on_status: Vec<http::StatusCode>,
}

/// A named group of endpoints.
#[derive(Debug)]
pub struct Upstream {
    settings: Settings,
    members: Arc<Members>,
    /// What its handshakes are made with; none until [`Upstream::secure`].
    tls: OnceLock<Arc<tls::client::Config>>,
    /// How many ports each source address has to an endpoint.
    ports_a_source: u32,
    /// When its names were last looked up.
    looked_up: Mutex<Option<Instant>>,
}

/// Why there is nobody to connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoEndpoint {
    /// Each has been tried.
    #[error("every endpoint was tried")]
    AllTried,
    /// Those that are left are at `max_conns`.
    #[error("every endpoint is at its max_conns")]
    AllFull,
    /// Names that were not found, or `state`s that allow nothing.
    #[error("no endpoint is in use: none was found, or all are set to \"down\" or \"drain\"")]
    None,
}

impl Upstream {
    /// A group whose endpoints are the servers given as addresses; names follow by
    /// [`resolve`]. Endpoints that `previous` had keep their counts and standing.
    #[must_use]
    pub fn new(settings: Settings, previous: Option<&Self>) -> Self {
        let orders = previous.map(|previous| Arc::clone(&previous.members.orders)).unwrap_or_default();
        let upstream = Self {
            settings,
            members: Arc::new(Members::new(orders)),
            tls: OnceLock::new(),
            ports_a_source: ports::a_source(),
            looked_up: Mutex::default(),
        };
        // Reloads do not put look-ups off; where there is no interval, a reload asks for one.
        let last = previous.filter(|_| upstream.settings.resolve_interval.is_some());
        *upstream.looked_up() = last.and_then(|previous| *previous.looked_up());
        let known = previous.map(|previous| previous.members.list.load_full());
        let mut found = HashMap::new();
        for member in known.iter().flat_map(|members| members.iter()) {
            found
                .entry(member.server.address.clone())
                .or_insert_with(Vec::new)
                .push(member.endpoint.address().clone());
        }
        upstream.set_members(&found, known.as_deref().map_or(&[][..], Vec::as_slice), previous.is_some());
        upstream
    }

    /// Reads the files of its TLS, if it has any, once. Those that have not changed since `previous`
    /// read them stay as they are, and sessions with endpoints can be resumed. It blocks for as long
    /// as files take to read.
    ///
    /// # Errors
    /// Files that cannot be used.
    pub fn secure(&self, previous: Option<&Self>) -> Result<(), Vec<Problem>> {
        let Some(settings) = &self.settings.tls else { return Ok(()) };
        let same = previous.filter(|previous| {
            previous.settings.tls.as_ref().is_some_and(|before| before.client == settings.client)
        });
        let kept = same.and_then(|previous| previous.tls.get()).filter(|kept| !kept.sources().changed());
        let config = match kept {
            Some(kept) => Arc::clone(kept),
            None => Arc::new(tls::client::Config::load(&settings.client)?),
        };
        // Whoever came first has read the same files.
        let _ = self.tls.set(config);
        Ok(())
    }

    /// Its settings.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The endpoints there are now.
    #[must_use]
    pub fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.members.list.load().iter().map(|member| Arc::clone(&member.endpoint)).collect()
    }

    /// Whether an endpoint's open tunnels may stay: it is one of this upstream's, and not drained.
    #[must_use]
    pub fn serves(&self, address: &EndpointAddr) -> bool {
        let members = self.members.list.load();
        members.iter().any(|m| m.endpoint.address() == address && m.server.state != State::Drain)
    }

    /// Whether the address is one of this upstream, in whatever state.
    #[must_use]
    pub fn knows(&self, address: &EndpointAddr) -> bool {
        self.members.list.load().iter().any(|member| member.endpoint.address() == address)
    }

    /// The addresses that a server stands for now.
    fn addresses_of(&self, server: &ServerAddr) -> Vec<EndpointAddr> {
        let members = self.members.list.load();
        let own = members.iter().filter(|member| member.server.address == *server);
        own.map(|member| member.endpoint.address().clone()).collect()
    }

    /// Takes over the answer of a look-up. Endpoints that stay keep their counts and standing,
    /// new ones start slowly.
    pub fn set_addresses(&self, found: &HashMap<ServerAddr, Vec<EndpointAddr>>) {
        let known = self.members.list.load_full();
        self.set_members(found, &known, !known.is_empty());
    }

    fn set_members(&self, found: &HashMap<ServerAddr, Vec<EndpointAddr>>, known: &[Member], under_way: bool) {
        let mut members: Vec<Member> = Vec::new();
        for server in &self.settings.servers {
            let fixed = match &server.address {
                ServerAddr::Ip(address) => vec![EndpointAddr::Tcp(*address)],
                ServerAddr::Unix(path) => vec![EndpointAddr::Unix(path.as_path().into())],
                ServerAddr::Name(..) => found.get(&server.address).cloned().unwrap_or_default(),
            };
            for address in fixed {
                if members.iter().any(|member| *member.endpoint.address() == address) {
                    continue;
                }
                let old = known.iter().find(|member| *member.endpoint.address() == address);
                let endpoint = old.map_or_else(
                    || Arc::new(Endpoint::new(&self.settings.name, address, under_way)),
                    |old| Arc::clone(&old.endpoint),
                );
                let name = self.settings.tls.as_ref().and_then(|tls| tls.name_of(server));
                let terms = Terms {
                    rules: self.rules(server),
                    name,
                    backup: server.backup,
                    members: Arc::downgrade(&self.members),
                };
                members.push(Member::new(endpoint, server, terms));
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

    /// Chooses an endpoint that is not among `tried` and counts the connection that follows.
    ///
    /// # Errors
    /// There is none.
    pub fn pick(&self, key: Option<u64>, tried: &[EndpointAddr]) -> Result<Lease, NoEndpoint> {
        self.choose(key, tried, false)
    }

    /// The same for a request that broke where it was sent before: the backups are not for it.
    ///
    /// # Errors
    /// There is none.
    pub fn pick_no_backup(&self, key: Option<u64>, tried: &[EndpointAddr]) -> Result<Lease, NoEndpoint> {
        self.choose(key, tried, true)
    }

    /// Counts one more connection to an endpoint that was chosen before; `None` if it takes none.
    #[must_use]
    pub fn lease_on(&self, endpoint: &Arc<Endpoint>) -> Option<Lease> {
        let members = self.members.list.load();
        let _choosing = self.members.choosing();
        let member = members.iter().find(|member| Arc::ptr_eq(&member.endpoint, endpoint))?;
        let is_open = member.state(&self.members.orders.lock()).0 == State::Up && !member.is_full();
        is_open.then(|| Lease::new(member, Instant::now().into_std()))
    }

    fn choose(
        &self,
        key: Option<u64>,
        tried: &[EndpointAddr],
        spare_backups: bool,
    ) -> Result<Lease, NoEndpoint> {
        let now = Instant::now().into_std();
        let members = self.members.list.load();
        let _choosing = self.members.choosing();
        let orders = self.members.orders.lock();
        let is_up = |member: &&Member| member.state(&orders).0 == State::Up;
        let open: Vec<&Member> = members.iter().filter(is_up).collect();
        drop(orders);
        let is_untried = |m: &&Member| !tried.contains(m.endpoint.address());
        let is_for_it = |m: &&Member| !spare_backups || !m.server.backup;
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

/// Those among whom is chosen: backups only where no other can serve. When all are out, they are tried all the
/// same, as nginx does.
fn first_tier<'a>(free: &[&'a Member], now: std::time::Instant) -> Option<Vec<&'a Member>> {
    let tier = |backup: bool, out: bool| -> Vec<&'a Member> {
        let serves = |m: &&&Member| {
            m.server.backup == backup && (out || m.endpoint.standing().availability(now) != Availability::Out)
        };
        free.iter().filter(serves).copied().collect()
    };
    let tiers = [(false, false), (true, false), (false, true), (true, true)];
    tiers.into_iter().map(|(backup, out)| tier(backup, out)).find(|tier| !tier.is_empty())
}

#[cfg(test)]
pub(crate) mod tests;
