//! Owns the tries of one request: endpoint after endpoint, as long as nothing has reached the client
//! and the upstream's settings allow.

use super::failure::Failure;
use super::request::Inbound;
use super::session::Guard;
use super::snapshot::Route;
use crate::addr::EndpointAddr;
use crate::drain::Watch;
use crate::io::Stream;
use crate::upstream::client::{Body, ExchangeError, exchange};
use crate::upstream::connect::{ConnectError, connect};
use crate::upstream::{Lease, Upstream};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use std::sync::Arc;
use tokio::time::Instant;

/// The tries of one request.
pub(super) struct Attempts<'a> {
    route: &'a Route,
    upstream: &'a Arc<Upstream>,
    key: Option<u64>,
    tried: Vec<EndpointAddr>,
    /// The endpoint of the next try, chosen when the last one had failed.
    next: Option<Lease>,
    started: Instant,
}

/// What a try came to that may be tried again.
#[derive(Clone, Copy)]
pub(super) enum Miss {
    /// No connection, or one that broke before a valid answer.
    Broken,
    /// Nothing in time.
    TimedOut,
    /// An answer that may be better elsewhere.
    Status(StatusCode),
}

impl<'a> Attempts<'a> {
    /// None made yet.
    #[must_use]
    pub(super) fn new(route: &'a Route, upstream: &'a Arc<Upstream>, inbound: &Inbound) -> Self {
        let key = inbound.balance_key(&upstream.settings().balance);
        Self { route, upstream, key, tried: Vec::new(), next: None, started: Instant::now() }
    }

    /// Connects to an endpoint, to the next ones where the first fail.
    ///
    /// # Errors
    /// No endpoint is left, or the last failure where no other may be tried.
    pub(super) async fn connect(&mut self, guard: &mut Guard) -> Result<(Lease, Stream), Failure> {
        loop {
            let mut lease = match self.next.take() {
                Some(lease) => lease,
                None => self.pick()?,
            };
            let report = guard.report();
            report.endpoint = Some(lease.endpoint().address().clone());
            report.tries += 1;
            let options = &self.upstream.settings().tcp;
            let error = match connect(lease.endpoint().address(), self.route.connect_timeout, options).await {
                Ok(stream) => return Ok((lease, stream)),
                Err(error) => error,
            };
            self.miss(&mut lease, &error);
            let miss = if matches!(error, ConnectError::TimedOut(_)) { Miss::TimedOut } else { Miss::Broken };
            if !self.go_on(miss) {
                return Err(error.into());
            }
        }
    }

    /// Sends a request over a connection; on a failure, the endpoint is charged with it.
    ///
    /// # Errors
    /// There is no answer.
    pub(super) async fn exchange(
        &self,
        lease: &mut Lease,
        stream: Stream,
        request: Request<Body>,
        watch: Watch,
    ) -> Result<Response<Incoming>, ExchangeError> {
        let answer = exchange(stream, request, self.route.response_timeout, watch).await;
        answer.inspect_err(|error| self.miss(lease, error))
    }

    /// Charges an endpoint with a failure.
    pub(super) fn miss(&self, lease: &mut Lease, error: &dyn std::fmt::Display) {
        let upstream = &self.upstream.settings().name;
        tracing::debug!(%upstream, endpoint = %lease.endpoint().address(), %error, "try failed");
        lease.failed();
    }

    /// Whether another endpoint is to be tried; it is chosen then.
    pub(super) fn go_on(&mut self, miss: Miss) -> bool {
        let retry = &self.upstream.settings().retry;
        let allowed = match miss {
            Miss::Broken => retry.on_connect,
            Miss::TimedOut => retry.on_timeout,
            Miss::Status(status) => retry.on_status.contains(&status),
        };
        let in_time = retry.timeout.is_none_or(|limit| self.started.elapsed() < limit);
        let left = retry.tries == 0 || self.tried.len() < retry.tries as usize;
        if allowed && in_time && left {
            self.next = self.pick().ok();
        }
        self.next.is_some()
    }

    /// Whether a status counts as a failure of the endpoint.
    #[must_use]
    pub(super) fn is_failure(&self, status: StatusCode) -> bool {
        self.upstream.settings().retry.on_status.contains(&status)
    }

    fn pick(&mut self) -> Result<Lease, Failure> {
        let lease = self.upstream.pick(self.key, &self.tried)?;
        self.tried.push(lease.endpoint().address().clone());
        Ok(lease)
    }
}

impl From<&ExchangeError> for Miss {
    fn from(error: &ExchangeError) -> Self {
        match error {
            ExchangeError::TimedOut(_) => Self::TimedOut,
            ExchangeError::Http(_) => Self::Broken,
        }
    }
}
