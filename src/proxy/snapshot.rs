//! Owns what one request sees: routes and upstreams, swapped whole. The next snapshot is built from
//! the previous one, so endpoints keep their counts and standing.

use crate::http::{Forwarded, Via};
use crate::limit::{Door, Limits};
use crate::route::{Rewrite, Rule, Table};
use crate::telemetry::report::Names;
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
    /// Every one that a route names.
    pub upstreams: Vec<upstream::Settings>,
    /// Whose word counts on who a client is.
    pub real_ip: real_ip::Settings,
    /// Tunnels open at once; `None`: any number.
    pub max_connections: Option<u32>,
}

/// One route, as configured.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Its name in logs, and its upstream's.
    pub names: Arc<Names>,
    /// The requests it serves.
    pub rule: Rule,
    /// What becomes of them.
    pub target: Target,
    /// What becomes of the path; `None`: it goes on as it came.
    pub rewrite: Option<Rewrite>,
    /// From the beginning of a connect to its end (nginx, `proxy_connect_timeout`).
    pub connect_timeout: Duration,
    /// From the sending of a request to the head of its answer (nginx, `proxy_read_timeout` before
    /// the header); `None`: any time.
    pub response_timeout: Option<Duration>,
    /// How its tunnels behave.
    pub tunnel: Arc<tunnel::Settings>,
    /// What is admitted.
    pub limits: Limits,
    /// The pages that may open a WebSocket; `None`: any.
    pub allowed_origins: Option<Vec<AllowedOrigin>>,
    /// Largest body of a request, in bytes (nginx, `client_max_body_size`); `None`: any.
    pub max_body_size: Option<u64>,
    /// How openings are refused.
    pub reject_with: RejectWith,
    /// Whether its requests have lines in the access log (nginx, `access_log off`).
    pub access_log: bool,
    /// Request headers that are set, over what came.
    pub set_headers: Vec<(HeaderName, HeaderValue)>,
    /// Request headers that are removed.
    pub remove_headers: Vec<HeaderName>,
    /// Response headers that are set, over what came.
    pub response_headers: Vec<(HeaderName, HeaderValue)>,
    /// Which headers tell the upstream whence a request came.
    pub forwarded: Forwarded,
    /// Which messages say that they came through here.
    pub via: Via,
}

impl Route {
    /// Its name in logs.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.names.route
    }

    /// Sets the response headers that the route wants, over what came.
    pub fn set_response_headers(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.response_headers {
            headers.insert(name.clone(), value.clone());
        }
    }
}

/// What becomes of a route's requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// They go to the upstream of this name.
    Upstream(Arc<str>),
    /// They are answered here.
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

/// How openings are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectWith {
    /// With an HTTP status, which a browser's script cannot see.
    Http,
    /// By accepting the opening and closing it with 1013 or 1014 and a reason.
    Close,
}

/// Routes and upstreams as requests see them.
#[derive(Debug)]
pub struct Snapshot {
    routes: Vec<Arc<Route>>,
    table: Table,
    upstreams: HashMap<Arc<str>, Arc<Upstream>>,
    /// What each route has admitted.
    doors: HashMap<Arc<str>, Arc<Door>>,
    /// Whose word counts on who a client is.
    pub real_ip: real_ip::Settings,
    /// What all routes together admit.
    pub limits: Limits,
}

impl Snapshot {
    /// What requests see from now on. Upstreams that `previous` had keep their endpoints.
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
            // What has not changed stays the same thing: then no open tunnel has to be told.
            let before = previous.and_then(|previous| previous.route_named(route.name()));
            if let Some(before) = before.filter(|before| before.tunnel == route.tunnel) {
                route.tunnel = Arc::clone(&before.tunnel);
            }
        }
        let door = |route: &Route| {
            let before = previous.and_then(|previous| previous.doors.get(route.name()));
            (Arc::clone(route.name()), before.cloned().unwrap_or_default())
        };
        let doors = routes.iter().map(door).collect();
        let routes = routes.into_iter().map(Arc::new).collect();
        let limits = Limits { connections: plan.max_connections, ..Limits::default() };
        Self { table: Table::new(&rules), upstreams, routes, doors, real_ip: plan.real_ip, limits }
    }

    /// The route for a host and a normalised path.
    #[must_use]
    pub fn route(&self, host: &str, path: impl AsRef<[u8]>) -> Option<&Arc<Route>> {
        self.table.find(host, path).map(|index| &self.routes[index])
    }

    /// All routes, in the order of the file.
    pub fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.routes.iter()
    }

    /// The route of this name.
    #[must_use]
    pub fn route_named(&self, name: &str) -> Option<&Arc<Route>> {
        self.routes.iter().find(|route| **route.name() == *name)
    }

    /// What a route has admitted; its counts outlive reloads.
    #[must_use]
    pub fn door(&self, route: &Route) -> Option<&Arc<Door>> {
        self.doors.get(route.name())
    }

    /// The upstream of this name.
    #[must_use]
    pub fn upstream(&self, name: &str) -> Option<&Arc<Upstream>> {
        self.upstreams.get(name)
    }

    /// All upstreams.
    pub fn upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.upstreams.values()
    }
}
