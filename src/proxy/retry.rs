//! Owns the tries of one request. Holdline tries one endpoint after another, while nothing has reached the
//! client and the upstream's settings allow it.

use super::failure::{Blame, Failure};
use super::reporting::ReportGuard;
use super::request::InboundRequest;
use super::snapshot::Route;
use crate::addr::{ClientAddr, EndpointAddr};
use crate::capacity::Slot;
use crate::clock::timeout;
use crate::drain::Watch;
use crate::health::Witness;
use crate::http::conn::ClientStream;
use crate::http::headers::{check_framing, settle_length};
use crate::limit::ClientKey;
use crate::telemetry::report::ConnectionId;
use crate::upstream::connect::ConnectError;
use crate::upstream::exchange::{Answer, Body, EndpointConnection, ExchangeError};
use crate::upstream::{Lease, PendingCharge, PrivatePool, Upstream};
use http::{Method, Request, StatusCode};
use std::sync::Arc;
use tokio::time::Instant;

/// The tries of one request.
pub(super) struct Retry<'a> {
    id: ConnectionId,
    route: &'a Route,
    upstream: &'a Arc<Upstream>,
    key: Option<u64>,
    /// The PROXY protocol header that each connection begins with.
    proxy_header: Option<Vec<u8>>,
    /// Whether Holdline may send the request again after it has sent it once.
    is_repeatable: bool,
    /// Identifies the client and path that an endpoint fails for.
    witness: Witness,
    /// The client and its private connections. `None` means that the request may not use one.
    private: Option<(ClientAddr, Arc<PrivatePool>)>,
    /// The client's connection slot, which knows the file descriptors.
    slot: &'a Slot,
    tried: Vec<EndpointAddr>,
    /// How many endpoints the request was sent to.
    sent_to: u32,
    /// How many endpoints had been tried when it was last sent.
    tried_when_sent: usize,
    /// Charges against endpoints that failed over this request, while no endpoint has answered it.
    pending_charges: Vec<PendingCharge>,
    /// The request broke a connection. Holdline does not send it to backups.
    excludes_backups: bool,
    /// The endpoint of the next try. Holdline chooses it when the last try fails.
    next: Option<Lease>,
    /// The endpoint whose idle connection was closed. Holdline opens a new connection to it.
    reconnect: Option<Lease>,
    started: Instant,
}

/// Why Holdline may try again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RetryReason {
    /// No connection.
    NotConnected,
    /// No connection within `connect_timeout`.
    ConnectTimedOut,
    /// The connection broke before a valid response.
    Broken,
    /// The request was sent, and no response came in time.
    NotAnswered,
    /// A response with a status that another endpoint may do better.
    Status(StatusCode),
}

/// What to do with a response.
pub(super) enum ResponseAction {
    /// Forward it to the client.
    Forward(Lease),
    /// Ask another endpoint.
    Retry,
}

/// How many endpoints a request may break. When two fail over it, the request is most likely at fault, and
/// others would break as well.
const MAX_BROKEN: u32 = 2;

impl<'a> Retry<'a> {
    /// Starts without a try. A request with a body cannot be sent twice, because Holdline does not keep the
    /// body.
    #[must_use]
    pub(super) fn new(
        route: &'a Route,
        upstream: &'a Arc<Upstream>,
        inbound: &'a InboundRequest,
        has_body: bool,
    ) -> Self {
        let key = inbound.balance_key(&upstream.settings().balance);
        let proxy_header = upstream.settings().proxy_protocol.map(|version| inbound.proxy_header(version));
        Self {
            id: inbound.id,
            route,
            upstream,
            key,
            proxy_header,
            is_repeatable: !has_body && is_idempotent(&inbound.parts.method),
            witness: Witness::new(ClientKey::from(inbound.origin.client), &inbound.path),
            private: inbound.may_use_private().then(|| (inbound.origin.client, Arc::clone(&inbound.private))),
            slot: &inbound.connection.slot,
            tried: Vec::new(),
            sent_to: 0,
            tried_when_sent: 0,
            pending_charges: Vec::new(),
            excludes_backups: false,
            next: None,
            reconnect: None,
            started: Instant::now(),
        }
    }

    /// Whether Holdline may send the request again after it has sent it once.
    #[must_use]
    pub(super) fn is_repeatable(&self) -> bool {
        self.is_repeatable
    }

    /// Connects to an endpoint, or to the next ones if the first fail. With `reuse`, an idle pooled
    /// connection will do. A private connection of the client comes first in any case, whatever the balance
    /// method says.
    ///
    /// # Errors
    /// Returns [`Failure::NoEndpoint`] if no endpoint is left, or the last failure if no other endpoint may
    /// be tried.
    pub(super) async fn connect(
        &mut self,
        guard: &mut ReportGuard,
        reuse: bool,
        watch: &Watch,
    ) -> Result<(Lease, EndpointConnection), Failure> {
        if let Some((lease, connection)) = self.private().await {
            guard.report().tries += 1;
            guard.report().endpoint = Some(Arc::clone(lease.endpoint().shared_address()));
            self.trace(&lease, "the login's connection is used again");
            return Ok((lease, connection));
        }
        loop {
            let reconnect = self.reconnect.take();
            let reuse = reuse && reconnect.is_none();
            guard.report().tries += u32::from(reconnect.is_none());
            let mut lease = match reconnect.or_else(|| self.next.take()) {
                Some(lease) => lease,
                None => self.pick()?,
            };
            guard.report().endpoint = Some(Arc::clone(lease.endpoint().shared_address()));
            self.trace(&lease, "endpoint picked");
            if let Some(connection) = reuse.then(|| lease.endpoint().pool().take()).flatten() {
                self.trace(&lease, "an idle connection is used again");
                return Ok((lease, connection));
            }
            let (limit, first) = (self.route.connect_timeout, self.proxy_header.as_deref());
            let began = Instant::now();
            let error = match self.upstream.connect(&lease, limit, first, Some(self.slot.slots())).await {
                Ok((stream, taken)) => {
                    guard.connected(began.elapsed());
                    self.trace(&lease, "connected");
                    return Ok((lease, EndpointConnection::new(stream, taken, watch.clone()).await?));
                }
                Err(error) => error,
            };
            self.trace_failure(&lease, &error);
            let reason = match error {
                ConnectError::TimedOut(_) => RetryReason::ConnectTimedOut,
                _ => RetryReason::NotConnected,
            };
            let is_exhausted = error.is_exhausted();
            let failure = Failure::from(error);
            if failure.blame() == Blame::Endpoint {
                lease.failed(&failure);
            }
            drop(lease);
            // If descriptors or memory ran out, no other endpoint can be reached either.
            if is_exhausted || !self.next_endpoint(reason) {
                return Err(failure);
            }
        }
    }

    /// Returns the client's private connection, if it has one to an endpoint of this upstream.
    async fn private(&mut self) -> Option<(Lease, EndpointConnection)> {
        let (client, private) = self.private.take()?;
        let (lease, mut connection) = private.take(client, self.upstream)?;
        self.tried.push(lease.endpoint().address().clone());
        if connection.wait_ready().await {
            return Some((lease, connection));
        }
        // Ask the same endpoint over a new connection.
        self.next = Some(lease);
        None
    }

    /// Sends a request over a connection.
    ///
    /// # Errors
    /// There is no response, or none that Holdline can forward. The caller must call [`Retry::failed`].
    pub(super) async fn exchange(
        &mut self,
        connection: &mut EndpointConnection,
        request: Request<Body>,
    ) -> Result<Answer, Failure> {
        if self.tried_when_sent != self.tried.len() {
            self.sent_to += 1;
            self.tried_when_sent = self.tried.len();
        }
        let answer = connection.exchange(request, self.route.response_timeout).await;
        let mut answer = answer.map_err(Failure::of_exchange)?;
        let status = match &answer {
            Answer::Response(response) => response.status(),
            Answer::Tunnel(head, _) => head.status,
        };
        tracing::debug!(id = %self.id, status = status.as_u16(), "endpoint answered");
        // A 101 has no body, whatever its headers say (RFC 9112 6.3).
        if let Answer::Response(response) = &mut answer {
            check_framing(response.headers(), response.version()).map_err(Failure::AnswerFraming)?;
            settle_length(response.headers_mut()).map_err(Failure::AnswerFraming)?;
        }
        Ok(answer)
    }

    /// Records that a sent request failed, and charges the endpoint if it is to blame. Returns whether to try
    /// again.
    pub(super) fn failed(&mut self, mut lease: Lease, failure: &Failure, was_used: bool) -> bool {
        self.trace_failure(&lease, failure);
        if was_used && matches!(failure, Failure::NoAnswer(ExchangeError::Http(_))) {
            // The endpoint may have closed the idle connection meanwhile. That says nothing about its health.
            self.reconnect = self.is_repeatable.then_some(lease);
            return self.reconnect.is_some();
        }
        let reason = match failure {
            Failure::NoAnswer(ExchangeError::TimedOut(_)) => RetryReason::NotAnswered,
            _ => RetryReason::Broken,
        };
        self.excludes_backups |= !lease.is_backup();
        match failure.blame() {
            Blame::Nobody => return false,
            Blame::Endpoint => lease.failed(failure),
            Blame::Either => self.pending_charges.push(lease.pending_charge(failure)),
        }
        self.next_endpoint(reason)
    }

    /// Records the status of a response.
    pub(super) fn answered(&mut self, mut lease: Lease, status: StatusCode) -> ResponseAction {
        if !self.upstream.settings().retry.on_status.contains(&status) {
            lease.succeeded();
            // The request can be answered, so the endpoints that failed over it are at fault.
            self.pending_charges.drain(..).for_each(|pending| pending.charge(self.witness));
            return ResponseAction::Forward(lease);
        }
        let error = format!("it answered {status}");
        self.trace_failure(&lease, &error);
        self.pending_charges.push(lease.pending_charge(&error));
        if self.next_endpoint(RetryReason::Status(status)) {
            ResponseAction::Retry
        } else {
            ResponseAction::Forward(lease)
        }
    }

    fn trace_failure(&self, lease: &Lease, error: &dyn std::fmt::Display) {
        let upstream = &self.upstream.settings().name;
        let endpoint = lease.endpoint().address();
        tracing::debug!(id = %self.id, %upstream, %endpoint, %error, "try failed");
    }

    fn trace(&self, lease: &Lease, event: &str) {
        let upstream = &self.upstream.settings().name;
        tracing::debug!(id = %self.id, %upstream, endpoint = %lease.endpoint().address(), "{event}");
    }

    /// Chooses the next endpoint, if another try is allowed. Returns whether there is one.
    fn next_endpoint(&mut self, reason: RetryReason) -> bool {
        let retry = &self.upstream.settings().retry;
        let allowed = match reason {
            RetryReason::NotConnected => retry.on_connect,
            RetryReason::ConnectTimedOut => retry.on_timeout,
            RetryReason::Broken => retry.on_connect && self.may_break_again(),
            RetryReason::NotAnswered => retry.on_timeout && self.may_break_again(),
            RetryReason::Status(status) => self.is_repeatable && retry.on_status.contains(&status),
        };
        let in_time = retry.timeout.is_none_or(|limit| self.started.elapsed() < limit);
        let left = retry.tries == 0 || self.tried.len() < retry.tries as usize;
        if allowed && in_time && left {
            self.next = self.pick().ok();
        }
        self.next.is_some()
    }

    fn may_break_again(&self) -> bool {
        self.is_repeatable && self.sent_to < MAX_BROKEN
    }

    fn pick(&mut self) -> Result<Lease, Failure> {
        let lease = match self.excludes_backups {
            true => self.upstream.pick_no_backup(self.key, &self.tried)?,
            false => self.upstream.pick(self.key, &self.tried)?,
        };
        self.tried.push(lease.endpoint().address().clone());
        Ok(lease)
    }
}

impl Drop for Retry<'_> {
    /// If no endpoint answered and exactly one failed, Holdline charges that one. If several failed, the
    /// request is probably at fault.
    fn drop(&mut self) {
        if self.pending_charges.len() == 1 {
            self.pending_charges.drain(..).for_each(|pending| pending.charge(self.witness));
        }
    }
}

/// Waits until there is room for a connection to an endpoint. The first request of a client connection
/// has it at once. Concurrent HTTP/2 requests may have to wait.
///
/// # Errors
/// Returns [`ConnectError::NoRoom`] if no room came free within `connect_timeout`.
pub(super) async fn wait_for_room(
    client: &ClientStream,
    route: &Route,
    inbound: &InboundRequest,
) -> Result<(), Failure> {
    let limit = route.connect_timeout;
    let room = timeout(limit, client.wait_for_room(&inbound.connection.slot)).await;
    room.map_err(|_| ConnectError::NoRoom(limit).into())
}

/// RFC 9110 9.2.2. TRACE is idempotent as well, but never forwarded.
fn is_idempotent(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE].contains(method)
}
