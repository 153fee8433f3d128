//! Owns the reports of connections and bytes that never became a request.

use super::Proxy;
use super::reporting::ReportGuard;
use crate::addr::ClientAddr;
use crate::drain::Watch;
use crate::http::conn::{BadRequestKind, PartialRequest};
use crate::listener::establish::{ClientConnection, EstablishError};
use crate::outcome::{Cause, EndedBy, Ending, PerSide};
use crate::telemetry::report::{ConnectionId, RequestInfo, redact_bytes};
use http::StatusCode;

impl Proxy {
    /// Reports a connection that was closed before its first request.
    pub(super) fn report_unestablished(
        &self,
        id: ConnectionId,
        error: &EstablishError,
        client: ClientAddr,
        watch: Watch,
    ) {
        let status = match error {
            // Scanners connect all the time and send nothing. There is nothing to report.
            EstablishError::Silent => return,
            EstablishError::Untrusted => StatusCode::FORBIDDEN,
            EstablishError::TooSlow | EstablishError::HandshakeTooSlow | EstablishError::Evicted => {
                StatusCode::REQUEST_TIMEOUT
            }
            EstablishError::ProxyHeader(_) | EstablishError::Handshake(_) | EstablishError::Io(_) => {
                StatusCode::BAD_REQUEST
            }
        };
        self.report_unreadable(id, status, &error.to_string(), client, watch);
    }

    /// Reports bytes that did not become a request, and what Holdline could read of them.
    pub(super) fn report_bad_request(
        &self,
        kind: BadRequestKind,
        partial: Option<PartialRequest>,
        connection: &ClientConnection,
        watch: Watch,
    ) {
        let (client, id) = (connection.peer, connection.next_request_id(|| self.tunnels.next_id()));
        let (status, reason) = match kind {
            BadRequestKind::Malformed => (StatusCode::BAD_REQUEST, "no valid HTTP request"),
            BadRequestKind::TooLarge => {
                (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "request head over max_header_size")
            }
            BadRequestKind::TooSlow => {
                (StatusCode::REQUEST_TIMEOUT, "request head not complete within header_timeout")
            }
            BadRequestKind::Evicted => {
                (StatusCode::REQUEST_TIMEOUT, "idle while another connection needed its slot")
            }
        };
        let Some(partial) = partial else { return self.report_unreadable(id, status, reason, client, watch) };
        let is_answered = matches!(kind, BadRequestKind::Malformed | BadRequestKind::TooLarge);
        let (status, reason) = match StatusCode::from_u16(partial.status) {
            Ok(status) if is_answered => (status, &*partial.reason),
            _ => (status, reason),
        };
        let target = partial.target.as_deref().map(redact_bytes).unwrap_or_default();
        let method = partial.method.as_deref().unwrap_or_default();
        self.report_no_request(
            id,
            status,
            reason,
            RequestInfo { target: &target, method, ..unknown_request(client) },
            watch,
        );
    }

    /// Reports a connection that sent nothing readable.
    fn report_unreadable(
        &self,
        id: ConnectionId,
        status: StatusCode,
        reason: &str,
        client: ClientAddr,
        watch: Watch,
    ) {
        self.report_no_request(id, status, reason, unknown_request(client), watch);
    }

    /// Reports a connection or bytes that never became a request.
    fn report_no_request(
        &self,
        id: ConnectionId,
        status: StatusCode,
        reason: &str,
        info: RequestInfo<'_>,
        watch: Watch,
    ) {
        let mut guard = ReportGuard::new(self, id, &info, watch, None);
        guard.mark_no_request();
        guard.report().status = status.as_u16();
        let ending = Ending { reason: reason.into(), ..Ending::new(EndedBy::Proxy, Cause::Refused) };
        guard.finish(ending, PerSide::default());
    }
}

/// Describes a client that sent no request. Text logs print a dash for an empty field.
fn unknown_request<'a>(client: ClientAddr) -> RequestInfo<'a> {
    RequestInfo { client, proxied_by: None, method: "", host: b"", target: b"", tls: None }
}
