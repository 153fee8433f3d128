//! Owns a request on its way: what it asks for, and the form in which an upstream gets it.

use super::failure::Failure;
use super::snapshot::{Route, Target};
use crate::addr::ClientAddr;
use crate::balance::{Method as Balance, Source, key_of, key_of_ip};
use crate::http::headers::{
    add_forwarding, add_via, check_framing, remove_expect, remove_hop_by_hop, set_client_certificate,
};
use crate::listener::connection::Connection;
use crate::proxy_protocol;
use crate::real_ip::Origin;
use crate::route::normalise;
use crate::upstream::Private;
use crate::upstream::login::has_credentials;
use crate::ws::origin::{AllowedOrigin, is_allowed};
use http::header::{CONNECTION, CONTENT_LENGTH, COOKIE, HOST, ORIGIN, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Uri, Version};
use std::sync::Arc;

/// A request, without its body.
#[derive(Debug)]
pub(super) struct Inbound {
    /// As it came.
    pub(super) parts: Parts,
    /// Who asked.
    pub(super) origin: Origin,
    /// What it came over.
    pub(super) connection: Arc<Connection>,
    /// Connections to endpoints that belong to it.
    pub(super) private: Arc<Private>,
    /// The host asked for, without port.
    pub(super) host: String,
    /// The path asked for, in normal form.
    pub(super) path: String,
}

impl Inbound {
    /// Reads what a request asks for.
    ///
    /// # Errors
    /// It is not one that can be passed on unambiguously.
    pub(super) fn read(
        mut parts: Parts,
        origin: Origin,
        connection: Arc<Connection>,
        private: Arc<Private>,
    ) -> Result<Self, Failure> {
        if parts.method == Method::CONNECT {
            return Err(Failure::Connect);
        }
        check_framing(&parts.headers, parts.version).map_err(Failure::Framing)?;
        // The authority of an absolute form is the host asked for (RFC 9112 3.2.2).
        let authority = parts.uri.authority().map(|authority| HeaderValue::from_str(authority.as_str()));
        if let Some(Ok(host)) = authority {
            parts.headers.insert(HOST, host);
        }
        let mut hosts = parts.headers.get_all(HOST).iter();
        let host = match (hosts.next(), hosts.next()) {
            (Some(host), None) => host.to_str().ok().filter(|host| is_host(host)),
            (None, _) if parts.version < Version::HTTP_11 => Some(""),
            _ => None,
        };
        let Some(host) = host.map(without_port) else { return Err(Failure::Host) };
        let path = normalise(parts.uri.path())?.into_owned();
        Ok(Self { host, path, origin, connection, private, parts })
    }

    /// Whether its page, if there is one, may open a WebSocket.
    ///
    /// # Errors
    /// It may not.
    pub(super) fn check_origin(&self, allowed: &[AllowedOrigin]) -> Result<(), Failure> {
        let headers = &self.parts.headers;
        let mut origins = headers.get_all(ORIGIN).iter();
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let origin = origins.next().map(text);
        let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        if origins.next().is_none() && is_allowed(allowed, origin.as_deref(), host) {
            return Ok(());
        }
        Err(Failure::Origin(origin.unwrap_or_default()))
    }

    /// Whether any success would open a tunnel, as it does in answer to HTTP/2's CONNECT (RFC 8441 5),
    /// where HTTP/1.1 knows the 101 alone. The opening is in the form of HTTP/1.1 here, whose `Upgrade`
    /// no request of HTTP/2 has else.
    #[must_use]
    pub(super) fn opens_by_success(&self) -> bool {
        self.parts.version == Version::HTTP_2 && self.parts.headers.contains_key(UPGRADE)
    }

    /// The same with the path and query to ask the upstream for.
    ///
    /// # Errors
    /// The route's rewrite leads elsewhere than it says.
    pub(super) fn aimed(mut self, route: &Route) -> Result<Self, Failure> {
        let query = self.parts.uri.query();
        let path = match &route.rewrite {
            Some(rewrite) => rewrite.apply(&route.rule.path, &self.path)?,
            None => self.parts.uri.path().to_owned(),
        };
        let target = query.map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
        // The parts come from a URI, or percent-encoded.
        self.parts.uri = target.parse().unwrap_or_else(|_| Uri::from_static("/"));
        Ok(self)
    }

    /// The request as the upstream gets it; `upgrade` names the protocol that is asked for.
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
        // How the client spelt the names of its headers travels here.
        *request.extensions_mut() = self.parts.extensions.clone();
        let headers = request.headers_mut();
        headers.clone_from(&self.parts.headers);
        if headers.contains_key(TRANSFER_ENCODING) {
            // The body is framed anew, and by one of them only (RFC 9112 6.3).
            headers.remove(CONTENT_LENGTH);
        }
        remove_hop_by_hop(headers);
        remove_expect(headers);
        add_via(headers, self.parts.version);
        if let (false, Target::Upstream(name)) = (headers.contains_key(HOST), &route.target) {
            // An HTTP/1.0 client may leave it out, HTTP/1.1 to the upstream may not (nginx, `$proxy_host`).
            headers.extend(HeaderValue::from_str(name).map(|name| (HOST, name)));
        }
        add_forwarding(
            headers,
            route.forwarded,
            &self.origin,
            if self.connection.tls.is_some() { "https" } else { "http" },
        );
        let client = self.connection.tls.as_ref().and_then(|tls| tls.client.as_ref());
        set_client_certificate(headers, client);
        for name in &route.remove_headers {
            headers.remove(name);
        }
        for (name, value) in &route.set_headers {
            headers.insert(name.clone(), value.clone());
        }
        if let Some(protocol) = upgrade {
            headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(UPGRADE, protocol.clone());
        }
        request
    }

    /// The header of the PROXY protocol that tells an upstream whom a connection is for.
    #[must_use]
    pub(super) fn announcement(&self, version: proxy_protocol::Version) -> Vec<u8> {
        let addresses = match (self.origin.client, self.connection.local) {
            (ClientAddr::Tcp(client), Some(local)) => Some((client, local)),
            _ => None,
        };
        proxy_protocol::encode(version, addresses)
    }

    /// Whether it may go over a connection with a login bound to it. Over one connection of a proxy come several
    /// people, perhaps of one address: there only a login that is under way goes on, by the next step's own
    /// credentials.
    #[must_use]
    pub(super) fn may_use_private(&self) -> bool {
        !self.origin.trusted || has_credentials(&self.parts.headers)
    }

    /// What an upstream's method of balancing goes by.
    #[must_use]
    pub(super) fn balance_key(&self, method: &Balance) -> Option<u64> {
        let Balance::Hash(source) = method else {
            return (*method == Balance::IpHash).then(|| self.origin.client.ip().map_or(0, key_of_ip));
        };
        let headers = &self.parts.headers;
        let value = match source {
            Source::Path => Some(self.path.as_str()),
            Source::Header(name) => headers.get(name).and_then(|value| value.to_str().ok()),
            Source::Query(name) => self.parts.uri.query().and_then(|query| pair(query, '&', name)),
            Source::Cookie(name) => {
                let mut lines = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
                lines.find_map(|line| pair(line, ';', name))
            }
        };
        value.filter(|value| !value.is_empty()).map(|value| key_of(value.as_bytes()))
    }
}

/// The value of `name` among `name=value` pairs.
fn pair<'a>(list: &'a str, separator: char, name: &str) -> Option<&'a str> {
    let mut pairs = list.split(separator).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// A host and perhaps a port, as RFC 3986 3.2.2 and 3.2.3 write them.
fn is_host(text: &str) -> bool {
    let (host, port) = split_port(text);
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(&b);
    let is_good = match inner {
        Some(literal) => !literal.is_empty() && literal.bytes().all(|b| b == b':' || allowed(b)),
        None => !host.is_empty() && host.bytes().all(allowed),
    };
    is_good && port.bytes().all(|b| b.is_ascii_digit())
}

/// The host, and the port or nothing.
fn split_port(text: &str) -> (&str, &str) {
    match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (text, ""),
    }
}

fn without_port(host: &str) -> String {
    split_port(host).0.to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener::slots::Slots;

    fn inbound(request: http::request::Builder) -> Result<Inbound, Failure> {
        let client = ClientAddr::Tcp("192.0.2.1:5000".parse().unwrap());
        let slot = Slots::new(1, "").try_take().unwrap();
        let connection = Arc::new(Connection { peer: client, local: None, tls: None, slot: Arc::new(slot) });
        let parts = request.body(()).unwrap().into_parts().0;
        Inbound::read(parts, Origin::direct(client), connection, Arc::default())
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
        assert!(matches!(host(Request::get("/").header("host", "a/b")), Err(Failure::Host)));
    }

    #[test]
    fn keys_are_found_where_the_method_looks() {
        let request = Request::get("/ws//room?a=1&room=7")
            .header("host", "x")
            .header("cookie", "a=b; sid=abc")
            .header("x-room", "9");
        let inbound = inbound(request).unwrap();
        let key = |source| inbound.balance_key(&Balance::Hash(source));
        assert_eq!(key(Source::Query("room".into())), Some(key_of(b"7")));
        assert_eq!(key(Source::Cookie("sid".into())), Some(key_of(b"abc")));
        assert_eq!(key(Source::Header("x-room".parse().unwrap())), Some(key_of(b"9")));
        assert_eq!(key(Source::Path), Some(key_of(b"/ws/room")));
        assert_eq!(key(Source::Query("none".into())), None);
        assert_eq!(inbound.balance_key(&Balance::IpHash), Some(key_of(&[192, 0, 2])));
        assert_eq!(inbound.balance_key(&Balance::LeastConn), None);
    }
}
