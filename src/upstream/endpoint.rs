//! Owns one endpoint: its address, what it has open, its standing; and the lease that counts one
//! connection to it and reports what came of it.

use super::pool::Pool;
use super::ports::Ports;
use super::{Server, State};
use crate::addr::EndpointAddr;
use crate::balance::{Candidate, key_of};
use crate::health::{Availability, Rules, Standing};
use crate::outcome::{Outcome, Side, Who, Why};
use crate::telemetry::tally::EndCounts;
use crate::tls::ServerName;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;

/// One address that connections go to. It outlives reloads and look-ups, with all that is known
/// of it.
#[derive(Debug)]
pub struct Endpoint {
    address: Arc<EndpointAddr>,
    upstream: Arc<str>,
    /// Connections, opening ones among them.
    active: AtomicU32,
    /// Failures it was charged with.
    failures: AtomicU64,
    ends: EndCounts,
    /// Its place in the round.
    turn: AtomicI64,
    standing: Mutex<Standing>,
    pool: Arc<Pool>,
    pub(super) ports: Ports,
}

impl Endpoint {
    pub(super) fn new(upstream: &Arc<str>, address: EndpointAddr, under_way: bool) -> Self {
        let now = Instant::now().into_std();
        let standing = if under_way { Standing::newcomer(now) } else { Standing::default() };
        Self {
            address: Arc::new(address),
            upstream: Arc::clone(upstream),
            active: AtomicU32::new(0),
            failures: AtomicU64::new(0),
            ends: EndCounts::default(),
            turn: AtomicI64::new(0),
            standing: Mutex::new(standing),
            pool: Arc::default(),
            ports: Ports::default(),
        }
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> &EndpointAddr {
        &self.address
    }

    /// Its address, for whoever keeps it.
    #[must_use]
    pub fn shared_address(&self) -> &Arc<EndpointAddr> {
        &self.address
    }

    /// The name of its upstream.
    #[must_use]
    pub fn upstream(&self) -> &Arc<str> {
        &self.upstream
    }

    /// Connections it has, opening ones among them.
    #[must_use]
    pub fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    /// Failures it was ever charged with, tunnels broken off young among them.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// How its tunnels ended.
    #[must_use]
    pub fn ends(&self) -> &EndCounts {
        &self.ends
    }

    /// Whether it may be given connections.
    #[must_use]
    pub fn availability(&self) -> Availability {
        self.standing().availability(Instant::now().into_std())
    }

    /// Its idle HTTP connections.
    #[must_use]
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    pub(super) fn set_turn(&self, turn: i64) {
        self.turn.store(turn, Ordering::Relaxed);
    }

    pub(super) fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An endpoint in its place in the configuration.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) server: Server,
    pub(super) terms: Arc<Terms>,
    id: u64,
}

/// What holds for connections to an endpoint.
#[derive(Debug)]
pub(super) struct Terms {
    pub(super) rules: Rules,
    /// Who its certificate must be of.
    pub(super) name: Option<ServerName<'static>>,
}

impl Member {
    pub(super) fn new(endpoint: Arc<Endpoint>, server: &Server, terms: Terms) -> Self {
        // The address, not the name: proxies that resolve the same name choose alike.
        let id = key_of(endpoint.address.to_string().as_bytes());
        Self { endpoint, server: server.clone(), terms: Arc::new(terms), id }
    }

    pub(super) fn is_full(&self) -> bool {
        self.server.max_conns.is_some_and(|max| self.endpoint.active() >= max)
    }

    pub(super) fn candidate(&self, now: std::time::Instant) -> Candidate {
        debug_assert!(self.server.state == State::Up);
        let share = self.endpoint.standing().share(&self.terms.rules, now);
        Candidate {
            id: self.id,
            weight: self.server.weight.saturating_mul(share).max(1),
            active: self.endpoint.active(),
            turn: self.endpoint.turn.load(Ordering::Relaxed),
        }
    }
}

/// One connection to an endpoint: it is counted as long as this lives.
#[derive(Debug)]
pub struct Lease {
    endpoint: Arc<Endpoint>,
    terms: Arc<Terms>,
    /// It is the one that decides, and it has not yet.
    on_trial: bool,
}

impl Lease {
    pub(super) fn new(member: &Member, now: std::time::Instant) -> Self {
        let endpoint = Arc::clone(&member.endpoint);
        endpoint.active.fetch_add(1, Ordering::Relaxed);
        let mut standing = endpoint.standing();
        let on_trial = standing.availability(now) == Availability::Trial;
        if on_trial {
            standing.begin_trial();
        }
        drop(standing);
        Self { endpoint, terms: Arc::clone(&member.terms), on_trial }
    }

    /// The endpoint.
    #[must_use]
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Who its certificate must be of; `None`: it has none.
    pub(super) fn server_name(&self) -> Option<&ServerName<'static>> {
        self.terms.name.as_ref()
    }

    /// The endpoint answered.
    pub fn succeeded(&mut self) {
        self.on_trial = false;
        self.endpoint.standing().succeeded(Instant::now().into_std());
    }

    /// The endpoint refused, timed out or answered wrongly.
    pub fn failed(&mut self) {
        self.on_trial = false;
        self.endpoint.failures.fetch_add(1, Ordering::Relaxed);
        let out = self.endpoint.standing().failed(&self.terms.rules, Instant::now().into_std());
        self.warn_if(out, "endpoint taken out after failures");
    }

    /// A tunnel to the endpoint ended; one that it broke off early counts against it.
    pub fn ended(&mut self, outcome: &Outcome) {
        self.endpoint.ends.add(&outcome.ending);
        let Some(early) = self.terms.rules.early_end else { return };
        let heard = outcome.duration.saturating_sub(outcome.idle[Side::Upstream]);
        let by_upstream = outcome.ending.who == Who::Upstream && outcome.blind.is_none();
        let broke_off = by_upstream
            && match outcome.ending.why {
                Why::Eof | Why::Reset => outcome.duration < early.within,
                // It can be known only a ping later that the endpoint had fallen silent.
                Why::Unresponsive | Why::TcpTimeout => heard < early.within,
                _ => false,
            };
        if broke_off {
            self.endpoint.failures.fetch_add(1, Ordering::Relaxed);
            let out = self.endpoint.standing().ended_early(&self.terms.rules, Instant::now().into_std());
            self.warn_if(out, "endpoint taken out after breaking off young connections");
        } else if outcome.duration >= early.within || outcome.ending.why == Why::Close {
            self.endpoint.standing().lasted();
        }
    }

    fn warn_if(&self, out: bool, message: &str) {
        if out {
            let Endpoint { upstream, address, .. } = &*self.endpoint;
            let fail_timeout = self.terms.rules.fail_timeout;
            tracing::warn!(%upstream, endpoint = %address, ?fail_timeout, "{message}");
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.endpoint.active.fetch_sub(1, Ordering::Relaxed);
        if self.on_trial {
            self.endpoint.standing().cancel_trial();
        }
    }
}
