//! Owns one endpoint: its address, its connections, its health. It must not know the other endpoints.

use super::pool::Pool;
use super::ports::Ports;
use crate::addr::EndpointAddr;
use crate::health::{Availability, Standing};
use crate::telemetry::tally::EndCounts;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;

/// One address to connect to. It outlives reloads and look-ups, with its counts and health.
#[derive(Debug)]
pub struct Endpoint {
    pub(super) address: Arc<EndpointAddr>,
    pub(super) upstream: Arc<str>,
    /// Connections, including those being opened.
    pub(super) active: AtomicU32,
    /// Failures charged to it.
    pub(super) failures: AtomicU64,
    pub(super) ends: EndCounts,
    /// Its state in the weighted round robin.
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

    /// Returns its address.
    #[must_use]
    pub fn address(&self) -> &EndpointAddr {
        &self.address
    }

    /// Returns its address for sharing.
    #[must_use]
    pub fn shared_address(&self) -> &Arc<EndpointAddr> {
        &self.address
    }

    /// Returns the name of its upstream.
    #[must_use]
    pub fn upstream(&self) -> &Arc<str> {
        &self.upstream
    }

    /// Returns the number of its connections, including those being opened.
    #[must_use]
    pub fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    /// Returns the failures ever charged to it, including early ends of tunnels.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Returns how its tunnels ended.
    #[must_use]
    pub fn ends(&self) -> &EndCounts {
        &self.ends
    }

    /// Returns whether its health allows connections.
    #[must_use]
    pub fn availability(&self) -> Availability {
        self.standing().availability(Instant::now().into_std())
    }

    /// Returns its idle HTTP connections.
    #[must_use]
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Returns its state in the weighted round robin.
    pub(super) fn turn(&self) -> i64 {
        self.turn.load(Ordering::Relaxed)
    }

    pub(super) fn set_turn(&self, turn: i64) {
        self.turn.store(turn, Ordering::Relaxed);
    }

    pub(super) fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
