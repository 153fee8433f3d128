//! Owns the configuration that one request sees: routes and upstreams. A reload swaps it as a whole. It
//! builds the next snapshot from the previous one, so that endpoints keep their counts and health.

use crate::http::{Forwarded, Via};
use crate::limit::{Limiter, Limits};
use crate::route::{Rewrite, Rule, Table};
use crate::telemetry::report::RouteNames;
use crate::upstream::Upstream;
use crate::ws::origin::AllowedOrigin;
use crate::{real_ip, tunnel, upstream};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Routes and upstreams as configured.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// In the order of the file.
    pub routes: Vec<Route>,
    /// Every upstream that a route names.
    pub upstreams: Vec<upstream::Settings>,
    /// The proxies that may say who the client is.
    pub real_ip: real_ip::Settings,
    /// Maximum number of open tunnels. `None` means no limit.
    pub max_connections: Option<u32>,
}

/// One route, as configured.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// The names of the route and its upstream in logs.
    pub names: Arc<RouteNames>,
    /// The requests it serves.
    pub rule: Rule,
    /// What Holdline does with them.
    pub target: Target,
    /// How Holdline rewrites the path. `None` means that it forwards the path unchanged.
    pub rewrite: Option<Rewrite>,
    /// Time limit for connecting (nginx, `proxy_connect_timeout`).
    pub connect_timeout: Duration,
    /// Time limit from sending a request to the head of its response (nginx, `proxy_read_timeout` before the
    /// header). `None` means no limit.
    pub response_timeout: Option<Duration>,
    /// The settings of its tunnels.
    pub tunnel: Arc<tunnel::Settings>,
    /// Its admission limits.
    pub limits: Limits,
    /// The origins that may open a WebSocket. `None` means any.
    pub allowed_origins: Option<Vec<AllowedOrigin>>,
    /// Maximum size of a request body, in bytes (nginx, `client_max_body_size`). `None` means no limit.
    pub max_body_size: Option<u64>,
    /// How Holdline refuses WebSocket handshakes.
    pub reject_with: RejectWith,
    /// Whether the access log has lines for its requests (nginx, `access_log off`).
    pub access_log: bool,
    /// Request headers that Holdline sets, replacing the client's.
    pub set_headers: Vec<(HeaderName, HeaderValue)>,
    /// Request headers that Holdline removes.
    pub remove_headers: Vec<HeaderName>,
    /// Response headers that Holdline sets, replacing the upstream's.
    pub response_headers: Vec<(HeaderName, HeaderValue)>,
    /// The headers that tell the upstream where a request came from.
    pub forwarded: Forwarded,
    /// The messages that get a `Via` header.
    pub via: Via,
}

impl Route {
    /// Returns its name in logs.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.names.route
    }

    /// Sets the route's response headers, replacing the upstream's.
    pub fn set_response_headers(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.response_headers {
            headers.insert(name.clone(), value.clone());
        }
    }
}

/// What Holdline does with a route's requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Forward them to the upstream with this name.
    Upstream(Arc<str>),
    /// Answer them directly.
    Respond {
        /// The status.
        status: StatusCode,
        /// The body, as `text/plain` unless `response_headers` say otherwise.
        body: String,
    },
}

impl Target {
    /// The name of the upstream.
    #[must_use]
    pub fn upstream(&self) -> Option<&Arc<str>> {
        match self {
            Self::Upstream(name) => Some(name),
            Self::Respond { .. } => None,
        }
    }
}

/// How Holdline refuses WebSocket handshakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectWith {
    /// With an HTTP status, which a browser's script cannot see.
    Http,
    /// By accepting the handshake and closing it with 1013 or 1014 and a reason.
    Close,
}

/// Routes and upstreams as requests see them.
#[derive(Debug)]
pub struct Snapshot {
    routes: Vec<Arc<Route>>,
    /// Where each route stands in `routes`.
    by_name: HashMap<Arc<str>, usize>,
    table: Table,
    upstreams: HashMap<Arc<str>, Arc<Upstream>>,
    /// Counts what each route has admitted.
    limiters: HashMap<Arc<str>, Arc<Limiter>>,
    /// The proxies that may say who the client is.
    pub real_ip: real_ip::Settings,
    /// The limits of all routes together.
    pub limits: Limits,
}

impl Snapshot {
    /// Builds a snapshot. Upstreams that `previous` had keep their endpoints.
    #[must_use]
    pub fn new(plan: Plan, previous: Option<&Self>) -> Self {
        let rules: Vec<Rule> = plan.routes.iter().map(|route| route.rule.clone()).collect();
        let upstreams = plan.upstreams.into_iter().map(|settings| {
            let name = Arc::clone(&settings.name);
            let before = previous.and_then(|previous| previous.upstream(&name));
            (name, Arc::new(Upstream::new(settings, before.map(|before| &**before))))
        });
        let upstreams = upstreams.collect();
        let mut routes = plan.routes;
        for route in &mut routes {
            // Unchanged settings keep their `Arc`, so that no open tunnel needs an update.
            let before = previous.and_then(|previous| previous.route_named(route.name()));
            if let Some(before) = before.filter(|before| before.tunnel == route.tunnel) {
                route.tunnel = Arc::clone(&before.tunnel);
            }
            // Names know where their requests are counted, so no two proxies may share them.
            route.names = match before.filter(|before| before.names == route.names) {
                Some(before) => Arc::clone(&before.names),
                None => Arc::new(RouteNames::new(Arc::clone(route.name()), route.names.upstream.clone())),
            };
        }
        let limiter = |route: &Route| {
            let before = previous.and_then(|previous| previous.limiters.get(route.name()));
            (Arc::clone(route.name()), before.cloned().unwrap_or_default())
        };
        let limiters = routes.iter().map(limiter).collect();
        let routes: Vec<_> = routes.into_iter().map(Arc::new).collect();
        let names = routes.iter().enumerate().map(|(index, route)| (Arc::clone(route.name()), index));
        let by_name = names.collect();
        let limits = Limits { connections: plan.max_connections, ..Limits::default() };
        Self {
            table: Table::new(&rules),
            upstreams,
            routes,
            by_name,
            limiters,
            real_ip: plan.real_ip,
            limits,
        }
    }

    /// Returns the route for a host and a normalised path.
    #[must_use]
    pub fn route(&self, host: &str, path: impl AsRef<[u8]>) -> Option<&Arc<Route>> {
        self.table.find(host, path).map(|index| &self.routes[index])
    }

    /// Returns all routes, in the order of the file.
    pub fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.routes.iter()
    }

    /// Returns the route with this name.
    #[must_use]
    pub fn route_named(&self, name: &str) -> Option<&Arc<Route>> {
        self.by_name.get(name).map(|index| &self.routes[*index])
    }

    /// Returns the limiter of a route. Its counts outlive reloads.
    #[must_use]
    pub fn limiter(&self, route: &Route) -> Option<&Arc<Limiter>> {
        self.limiters.get(route.name())
    }

    /// Returns the upstream with this name.
    #[must_use]
    pub fn upstream(&self, name: &str) -> Option<&Arc<Upstream>> {
        self.upstreams.get(name)
    }

    /// Returns all upstreams.
    pub fn upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.upstreams.values()
    }
}
