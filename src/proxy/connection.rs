//! Owns one client connection from accept to its end, or until it becomes a tunnel. It must not know how
//! certificates are read or when they change.

use super::{Proxy, exchange};
use crate::drain::Watch;
use crate::http::conn::serve;
use crate::http::{self, Protocols};
use crate::listener::establish::{ClientConnection, establish};
use crate::listener::handshakes::Handshakes;
use crate::listener::{self, Accepted};
use crate::telemetry::report::ConnectionId;
use crate::tls::{Alpn, server};
use crate::upstream::PrivatePool;
use std::sync::Arc;
use tracing::Instrument as _;

/// What a listener's new connections need: its settings, and its certificates in memory.
#[derive(Debug)]
pub(crate) struct ListenerConfig {
    /// The settings of the socket, and of what comes before HTTP.
    pub socket: listener::Settings,
    /// The settings of HTTP.
    pub http: http::Settings,
    /// The certificates and settings of TLS. `None` means no TLS.
    pub tls: Option<Arc<server::Config>>,
    /// Limits concurrent TLS handshakes.
    pub handshakes: Handshakes,
}

/// Serves one accepted connection until it ends or becomes a tunnel. Its first request shares its id, and later ones
/// have their own within the same span.
pub(crate) async fn serve_connection(
    accepted: Accepted,
    config: Arc<ListenerConfig>,
    proxy: Arc<Proxy>,
    watch: Watch,
) {
    let id = proxy.tunnels.next_id();
    let span = tracing::debug_span!("connection", %id, peer = %accepted.client);
    serve_in_span(id, accepted, config, proxy, watch).instrument(span).await;
}

async fn serve_in_span(
    id: ConnectionId,
    accepted: Accepted,
    config: Arc<ListenerConfig>,
    proxy: Arc<Proxy>,
    watch: Watch,
) {
    let client = accepted.client;
    tracing::debug!("connection accepted");
    let snapshot = proxy.snapshot.load_full();
    let ListenerConfig { socket, http, tls, handshakes } = &*config;
    let tls = tls.as_deref().map(|tls| (tls, handshakes));
    let limit = http.header_timeout;
    let established = establish(id, accepted, socket, tls, &snapshot.real_ip, &proxy.metrics, limit);
    let (stream, connection) = match established.await {
        Ok((stream, connection)) => (stream, Arc::new(connection)),
        Err(error) => return proxy.report_unestablished(id, &error, client, watch),
    };
    let private = Arc::<PrivatePool>::default();
    let answer = |request| {
        let (proxy, connection, watch) = (Arc::clone(&proxy), Arc::clone(&connection), watch.clone());
        let private = Arc::clone(&private);
        async move { exchange::answer(&proxy, request, &connection, &private, watch).await }
    };
    let on_bad_request = |kind, partial| proxy.report_bad_request(kind, partial, &connection, watch.clone());
    let http = http::Settings { protocols: protocols(&connection, http.protocols), ..http.clone() };
    // Do not hold old certificates as long as the connection lasts.
    drop(config);
    serve(stream, &http, watch.clone(), answer, on_bad_request, &connection.slot).await;
}

/// Returns the HTTP versions that a connection may use. Over TLS it is the negotiated one (RFC 7301). Without
/// negotiation it is HTTP/1.1, if that is enabled.
fn protocols(connection: &ClientConnection, enabled: Protocols) -> Protocols {
    let Some(tls) = &connection.tls else { return enabled };
    let http2 = match tls.session.alpn {
        Some(alpn) => alpn == Alpn::H2,
        None => !enabled.http1,
    };
    Protocols { http1: !http2, http2 }
}
