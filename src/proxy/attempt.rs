//! Owns the tries of one request: endpoint after endpoint, as long as nothing has reached the client
//! and the upstream's settings allow.

use super::failure::Failure;
use super::guard::Guard;
use super::request::Inbound;
use super::snapshot::Route;
use crate::addr::EndpointAddr;
use crate::drain::Watch;
use crate::http::headers::check_framing;
use crate::upstream::client::{Body, Connection, ExchangeError};
use crate::upstream::connect::ConnectError;
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
    /// What a connection begins with.
    announcement: Option<Vec<u8>>,
    tried: Vec<EndpointAddr>,
    /// The endpoint of the next try, chosen when the last one had failed.
    next: Option<Lease>,
    /// The endpoint whose idle connection turned out to be closed.
    afresh: Option<Lease>,
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
        let announcement = upstream.settings().proxy_protocol.map(|version| inbound.announcement(version));
        let (tried, started) = (Vec::new(), Instant::now());
        Self { route, upstream, key, announcement, tried, next: None, afresh: None, started }
    }

    /// Connects to an endpoint, to the next ones where the first fail. An idle connection may do
    /// where `reuse` says so.
    ///
    /// # Errors
    /// No endpoint is left, or the last failure where no other may be tried.
    pub(super) async fn connect(
        &mut self,
        guard: &mut Guard,
        reuse: bool,
        watch: &Watch,
    ) -> Result<(Lease, Connection), Failure> {
        loop {
            let afresh = self.afresh.take();
            let reuse = reuse && afresh.is_none();
            guard.report().tries += u32::from(afresh.is_none());
            let mut lease = match afresh.or_else(|| self.next.take()) {
                Some(lease) => lease,
                None => self.pick()?,
            };
            guard.report().endpoint = Some(Arc::clone(lease.endpoint().shared_address()));
            if let Some(connection) = reuse.then(|| lease.endpoint().pool().take()).flatten() {
                return Ok((lease, connection));
            }
            let (limit, first) = (self.route.connect_timeout, self.announcement.as_deref());
            let began = Instant::now();
            let error = match self.upstream.connect(&lease, limit, first).await {
                Ok((stream, port)) => {
                    guard.metrics().connected(&self.upstream.settings().name, began.elapsed());
                    return Ok((lease, Connection::new(stream, port, watch.clone()).await?));
                }
                Err(error) => error,
            };
            self.note(&lease, &error);
            if !error.is_own() {
                lease.failed();
            }
            let miss = if matches!(error, ConnectError::TimedOut(_)) { Miss::TimedOut } else { Miss::Broken };
            if !self.go_on(miss) {
                return Err(error.into());
            }
        }
    }

    /// Sends a request over a connection; on a failure, the endpoint is charged with it.
    ///
    /// # Errors
    /// There is no answer, or none that can be passed on.
    pub(super) async fn exchange(
        &self,
        lease: &mut Lease,
        connection: &mut Connection,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, Failure> {
        let fresh = !connection.used;
        let answer = connection.exchange(request, self.route.response_timeout).await;
        let checked = answer.map_err(Failure::of_exchange).and_then(|response| {
            let framing = check_framing(response.headers(), response.version());
            framing.map(|()| response).map_err(Failure::AnswerFraming)
        });
        checked.inspect_err(|failure| {
            // One that was used before may have been closed meanwhile: that is nobody's fault.
            let is_nobodys = !fresh && matches!(failure, Failure::NoAnswer(ExchangeError::Http(_)));
            if !is_nobodys && !failure.is_of_client() {
                self.miss(lease, failure);
            }
        })
    }

    /// The next try goes to the same endpoint, over a new connection.
    pub(super) fn again_afresh(&mut self, lease: Lease) {
        self.afresh = Some(lease);
    }

    /// Charges an endpoint with a failure.
    pub(super) fn miss(&self, lease: &mut Lease, error: &dyn std::fmt::Display) {
        self.note(lease, error);
        lease.failed();
    }

    fn note(&self, lease: &Lease, error: &dyn std::fmt::Display) {
        let upstream = &self.upstream.settings().name;
        tracing::debug!(%upstream, endpoint = %lease.endpoint().address(), %error, "try failed");
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

impl From<&Failure> for Miss {
    fn from(failure: &Failure) -> Self {
        match failure {
            Failure::NoAnswer(ExchangeError::TimedOut(_)) => Self::TimedOut,
            _ => Self::Broken,
        }
    }
}
