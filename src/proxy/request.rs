//! Owns a request between client and upstream: what it asks for, and the form in which an upstream receives
//! it.

use super::failure::Failure;
use super::snapshot::Route;
use crate::addr::{ClientAddr, HostPort};
use crate::balance::{Method as Balance, Source, key_of, key_of_ip};
use crate::http::headers::{
    add_forwarding, add_via, check_framing, connection_options, remove_expect, remove_hop_by_hop,
    set_client_certificate, settle_length,
};
use crate::http::names::{is_alike, remove_alike};
use crate::listener::establish::ClientConnection;
use crate::proxy_protocol;
use crate::real_ip::Origin;
use crate::route::{HostPattern, normalise};
use crate::telemetry::report::ConnectionId;
use crate::upstream::PrivatePool;
use crate::upstream::bound_login::has_credentials;
use crate::ws::origin::{AllowedOrigin, is_allowed};
use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, HOST, MAX_FORWARDS, ORIGIN, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderName, HeaderValue, Method, Request, Uri, Version};
use std::sync::Arc;

/// A request, without its body.
#[derive(Debug)]
pub(super) struct InboundRequest {
    /// The head as the client sent it.
    pub(super) parts: Parts,
    /// The id of its report.
    pub(super) id: ConnectionId,
    /// The client, and what trusted proxies say about it.
    pub(super) origin: Origin,
    /// The connection that it came over.
    pub(super) connection: Arc<ClientConnection>,
    /// The private endpoint connections of the client's connection.
    pub(super) private: Arc<PrivatePool>,
    /// The requested host, without its port.
    pub(super) host: String,
    /// The requested path, in normal form.
    pub(super) path: Vec<u8>,
}

/// The target of an OPTIONS that asks about the server as a whole (RFC 9112 3.2.4).
const ASTERISK: &str = "*";

impl InboundRequest {
    /// Reads and checks a request.
    ///
    /// # Errors
    /// Returns the reason why the request cannot be forwarded unambiguously.
    pub(super) fn read(
        id: ConnectionId,
        mut parts: Parts,
        origin: Origin,
        connection: Arc<ClientConnection>,
        private: Arc<PrivatePool>,
    ) -> Result<Self, Failure> {
        // Some servers ignore the case of methods.
        if [Method::CONNECT, Method::TRACE].iter().any(|m| is_method(&parts.method, m)) {
            return Err(Failure::Method(parts.method));
        }
        if parts.uri.scheme_str().is_some_and(str::is_empty) {
            return Err(Failure::Scheme);
        }
        check_framing(&parts.headers, parts.version).map_err(Failure::Framing)?;
        settle_length(&mut parts.headers).map_err(Failure::Framing)?;
        // In the absolute form, the authority is the requested host (RFC 9112 3.2.2).
        let authority = parts.uri.authority().map(|authority| HeaderValue::from_str(authority.as_str()));
        if let Some(Ok(host)) = authority {
            parts.headers.insert(HOST, host);
        }
        let mut hosts = parts.headers.get_all(HOST).iter();
        let host = match (hosts.next(), hosts.next()) {
            (Some(host), None) => std::str::from_utf8(host.as_bytes())
                .ok()
                .filter(|host| is_host(host))
                .ok_or(Failure::BadHost)?,
            (None, _) if parts.version < Version::HTTP_11 => "",
            _ => return Err(Failure::Host),
        };
        let host = HostPort::split(host).host.to_ascii_lowercase();
        // A request about the whole server goes to the route for `/`.
        let is_of_server = parts.method == Method::OPTIONS && parts.uri.path() == ASTERISK;
        let path = if is_of_server { b"/".to_vec() } else { normalise(parts.uri.path())?.into_owned() };
        Ok(Self { id, host, path, origin, connection, private, parts })
    }

    /// Decrements the `Max-Forwards` of an OPTIONS request (RFC 9110 7.6.2). Returns whether Holdline may
    /// forward the request. If not, it must answer it itself.
    #[must_use]
    pub(super) fn count_hop(&mut self) -> bool {
        let headers = &mut self.parts.headers;
        let left = headers.get(MAX_FORWARDS).filter(|_| self.parts.method == Method::OPTIONS);
        let left = left.filter(|left| left.as_bytes().iter().all(u8::is_ascii_digit));
        let left = left.and_then(|left| std::str::from_utf8(left.as_bytes()).ok()?.parse::<u64>().ok());
        match left {
            Some(0) => false,
            Some(left) => {
                headers.insert(MAX_FORWARDS, (left - 1).into());
                true
            }
            None => true,
        }
    }

    /// Returns the headers that Holdline does not forward on this route, so that trailers cannot carry them.
    #[must_use]
    pub(super) fn barred_trailers(&self, route: &Route) -> Vec<HeaderName> {
        let set = route.set_headers.iter().map(|(name, _)| name);
        let named = connection_options(&self.parts.headers);
        route.remove_headers.iter().chain(set).cloned().chain(named).collect()
    }

    /// Returns the client's scheme: what the operator or a trusted proxy says, or else the connection's.
    fn scheme<'a>(&'a self, route: &'a Route) -> &'a str {
        let set = route.set_headers.iter().find(|(name, _)| is_alike(name, &X_FORWARDED_PROTO));
        let set = set.and_then(|(_, scheme)| std::str::from_utf8(scheme.as_bytes()).ok());
        set.or(self.origin.proto.as_ref().map(Scheme::as_str)).unwrap_or(self.own_scheme())
    }

    fn own_scheme(&self) -> &'static str {
        if self.connection.tls.is_some() { "https" } else { "http" }
    }

    /// Checks whether the request's page, if it has one, may open a WebSocket.
    ///
    /// # Errors
    /// Returns [`Failure::Origin`] if it may not.
    pub(super) fn check_origin(&self, route: &Route, allowed: &[AllowedOrigin]) -> Result<(), Failure> {
        let headers = &self.parts.headers;
        let mut origins = headers.get_all(ORIGIN).iter();
        // The escaped form of a non-ASCII value matches no origin.
        let origin = origins.next().map(|value| value.as_bytes().escape_ascii().to_string());
        let (scheme, host) = (self.scheme(route), headers.get(HOST).map_or(&b""[..], HeaderValue::as_bytes));
        // An accepted `Host` is ASCII. HTTP/1.0 may have none, but cannot open a WebSocket.
        let host = std::str::from_utf8(host).map_err(|_| Failure::BadHost)?;
        if origins.next().is_none() && is_allowed(allowed, origin.as_deref(), scheme, host) {
            return Ok(());
        }
        let own = allowed.contains(&AllowedOrigin::Own).then(|| format!("{scheme}://{host}"));
        Err(Failure::Origin { origin: origin.unwrap_or_default(), own })
    }

    /// Whether any 2xx status would open a tunnel, as for a CONNECT over HTTP/2 (RFC 8441 5). HTTP/1.1 knows
    /// only the 101. Such a CONNECT is a GET with `Upgrade` here, and its version stays HTTP/2. No other HTTP/2
    /// request has an `Upgrade` header.
    #[must_use]
    pub(super) fn opens_by_success(&self) -> bool {
        self.parts.version == Version::HTTP_2 && self.parts.headers.contains_key(UPGRADE)
    }

    /// Returns the request with the path and query that the upstream will receive.
    ///
    /// # Errors
    /// Returns [`Failure::Path`] if the rewritten path leaves its prefix, or [`Failure::TargetTooLong`].
    pub(super) fn with_target(mut self, route: &Route) -> Result<Self, Failure> {
        if self.parts.uri.path() == ASTERISK {
            self.parts.uri = Uri::from_static(ASTERISK);
            return Ok(self);
        }
        let query = self.parts.uri.query();
        let path = match &route.rewrite {
            Some(rewrite) => rewrite.apply(&route.rule.path, &self.path)?,
            None => self.parts.uri.path().to_owned(),
        };
        let target = query.map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
        // The parts come from a URI or are percent-encoded, so only the length can be wrong.
        let target = PathAndQuery::try_from(target).map_err(|_| Failure::TargetTooLong)?;
        self.parts.uri = target.into();
        Ok(self)
    }

    /// Returns the request as the upstream receives it. `upgrade` names the requested protocol.
    #[must_use]
    pub(super) fn for_upstream<B>(
        &self,
        route: &Route,
        upgrade: Option<&HeaderValue>,
        body: B,
    ) -> Request<B> {
        let mut request = Request::new(body);
        *request.method_mut() = self.parts.method.clone();
        *request.uri_mut() = self.parts.uri.clone();
        // The extensions carry the client's spelling of header names.
        *request.extensions_mut() = self.parts.extensions.clone();
        let headers = request.headers_mut();
        headers.clone_from(&self.parts.headers);
        if headers.contains_key(TRANSFER_ENCODING) {
            // hyper frames the body again, and only one of the two may be present (RFC 9112 6.3).
            headers.remove(CONTENT_LENGTH);
        }
        remove_hop_by_hop(headers);
        remove_expect(headers);
        if route.via.is_on_requests() {
            add_via(headers, self.parts.version);
        }
        add_forwarding(headers, route.forwarded, &self.origin, self.own_scheme());
        if !headers.contains_key(HOST) {
            // HTTP/1.0 clients may omit it. HTTP/1.1 towards the upstream requires it.
            headers.extend(self.default_host(route).map(|name| (HOST, name)));
        }
        let client = self.connection.tls.as_ref().and_then(|tls| tls.client.as_ref());
        set_client_certificate(headers, client);
        for name in &route.remove_headers {
            remove_alike(headers, name);
        }
        for (name, value) in &route.set_headers {
            remove_alike(headers, name);
            headers.insert(name.clone(), value.clone());
        }
        if let Some(protocol) = upgrade {
            headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(UPGRADE, protocol.clone());
        }
        request
    }

    /// Returns the host for a client that sends none: the route's first name (nginx, `$host`), or else the
    /// address it connected to (RFC 9112 3.3).
    fn default_host(&self, route: &Route) -> Option<HeaderValue> {
        let named = route.rule.hosts.iter().find_map(|host| match host {
            HostPattern::Exact(host) if !host.starts_with('.') => Some(host.clone()),
            _ => None,
        });
        let default = if self.connection.tls.is_some() { 443 } else { 80 };
        let address = || {
            let local = self.connection.local?;
            let ip = if local.is_ipv6() { format!("[{}]", local.ip()) } else { local.ip().to_string() };
            Some(if local.port() == default { ip } else { format!("{ip}:{}", local.port()) })
        };
        let name = named.or_else(address).unwrap_or_else(|| "localhost".to_owned());
        HeaderValue::try_from(name).ok()
    }

    /// Returns the PROXY protocol header that names the client to the upstream.
    #[must_use]
    pub(super) fn proxy_header(&self, version: proxy_protocol::Version) -> Vec<u8> {
        let addresses = match (self.origin.client, self.connection.local) {
            (ClientAddr::Tcp(client), Some(local)) => Some((client, local)),
            _ => None,
        };
        proxy_protocol::encode(version, addresses)
    }

    /// Whether the request may use a connection that a login is bound to. A trusted proxy's connection
    /// carries several people, perhaps with one address. There, only a request with credentials may continue
    /// a login in progress.
    #[must_use]
    pub(super) fn may_use_private(&self) -> bool {
        !self.origin.trusted || has_credentials(&self.parts.headers)
    }

    /// Returns the key that the upstream's balance method hashes.
    #[must_use]
    pub(super) fn balance_key(&self, method: &Balance) -> Option<u64> {
        let Balance::Hash(source) = method else {
            return (*method == Balance::IpHash).then(|| self.origin.client.ip().map_or(0, key_of_ip));
        };
        let headers = &self.parts.headers;
        let value = match source {
            Source::Path => Some(&*self.path),
            Source::Header(name) => headers.get(name).map(HeaderValue::as_bytes),
            Source::Query(name) => {
                self.parts.uri.query().and_then(|query| pair(query.as_bytes(), b'&', name))
            }
            Source::Cookie(name) => {
                let mut lines = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes);
                lines.find_map(|line| pair(line, b';', name))
            }
        };
        value.filter(|value| !value.is_empty()).map(key_of)
    }
}

/// Returns the value of `name` in a list of `name=value` pairs.
fn pair<'a>(list: &'a [u8], separator: u8, name: &str) -> Option<&'a [u8]> {
    let pairs = list.split(|&byte| byte == separator).map(<[u8]>::trim_ascii);
    let mut values = pairs.filter_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
    values.next()
}

fn is_method(method: &Method, named: &Method) -> bool {
    method.as_str().eq_ignore_ascii_case(named.as_str())
}

const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Whether the text is a host with an optional port (RFC 3986 3.2.2, 3.2.3).
fn is_host(text: &str) -> bool {
    let split = HostPort::split(text);
    let HostPort { host, port } = split;
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(&b);
    let is_good = match split.literal() {
        Some(literal) => !literal.is_empty() && literal.bytes().all(|b| b == b':' || allowed(b)),
        None => !host.is_empty() && host.bytes().all(allowed),
    };
    is_good && port.unwrap_or_default().bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capacity::Slots;

    fn inbound(request: http::request::Builder) -> Result<InboundRequest, Failure> {
        let client = ClientAddr::Tcp("192.0.2.1:5000".parse().unwrap());
        let slot = Slots::new(1, "").try_take().unwrap();
        let id = ConnectionId(1);
        let connection = Arc::new(ClientConnection::new(id, client, None, slot));
        let parts = request.body(()).unwrap().into_parts().0;
        InboundRequest::read(id, parts, Origin::direct(client), connection, Arc::default())
    }

    #[test]
    fn the_host_is_read_from_where_rfc_9112_says() {
        let host = |request| inbound(request).map(|inbound| inbound.host);
        assert_eq!(host(Request::get("/").header("host", "Example.COM:8080")).unwrap(), "example.com");
        assert_eq!(host(Request::get("/").header("host", "[::1]:80")).unwrap(), "[::1]");
        assert_eq!(host(Request::get("/").header("host", "[::1]")).unwrap(), "[::1]");
        assert_eq!(host(Request::get("http://a.example/x").header("host", "b")).unwrap(), "a.example");
        assert_eq!(host(Request::get("/").version(Version::HTTP_10)).unwrap(), "");
        assert!(matches!(host(Request::get("/")), Err(Failure::Host)));
        assert!(matches!(
            host(Request::get("/").header("host", "a").header("host", "b")),
            Err(Failure::Host)
        ));
        assert!(matches!(host(Request::get("/").header("host", "a/b")), Err(Failure::BadHost)));
        assert!(matches!(host(Request::get("/").header("host", "user:secret@x")), Err(Failure::BadHost)));
        assert!(matches!(host(Request::get("http://user:secret@x/")), Err(Failure::BadHost)));
    }

    #[test]
    fn keys_are_found_where_the_method_looks() {
        let request = Request::get("/ws//room?a=1&room=7")
            .header("host", "x")
            .header("cookie", "a=b; sid=abc; raw=\u{fc}1")
            .header("x-raw", HeaderValue::from_bytes(b"\xff2").unwrap())
            .header("x-room", "9");
        let inbound = inbound(request).unwrap();
        let key = |source| inbound.balance_key(&Balance::Hash(source));
        assert_eq!(key(Source::Query("room".into())), Some(key_of(b"7")));
        assert_eq!(key(Source::Cookie("sid".into())), Some(key_of(b"abc")));
        assert_eq!(key(Source::Header("x-room".parse().unwrap())), Some(key_of(b"9")));
        assert_eq!(key(Source::Cookie("raw".into())), Some(key_of("\u{fc}1".as_bytes())));
        assert_eq!(key(Source::Header("x-raw".parse().unwrap())), Some(key_of(b"\xff2")));
        assert_eq!(key(Source::Path), Some(key_of(b"/ws/room")));
        assert_eq!(key(Source::Query("none".into())), None);
        assert_eq!(inbound.balance_key(&Balance::IpHash), Some(key_of(&[192, 0, 2])));
        assert_eq!(inbound.balance_key(&Balance::LeastConn), None);
    }
}
