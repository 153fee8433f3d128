//! Owns what one request sees: routes and upstreams, swapped whole. The next snapshot is built from
//! the previous one, so endpoints keep their counts and standing.

use crate::http::Forwarded;
use crate::route::{Rewrite, Rule};
use crate::{tunnel, upstream};
use http::{HeaderName, HeaderValue, StatusCode};
use std::sync::Arc;
use std::time::Duration;

/// Routes and upstreams as configured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// In the order of the file.
    pub routes: Vec<Route>,
    /// Every one that a route names.
    pub upstreams: Vec<upstream::Settings>,
}

/// One route, as configured.
#[derive(Clone, Debug)]
pub struct Route {
    /// Its name in logs.
    pub name: Arc<str>,
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
    /// How openings are refused.
    pub reject_with: RejectWith,
    /// Request headers that are set, over what came.
    pub set_headers: Vec<(HeaderName, HeaderValue)>,
    /// Request headers that are removed.
    pub remove_headers: Vec<HeaderName>,
    /// Response headers that are set, over what came.
    pub response_headers: Vec<(HeaderName, HeaderValue)>,
    /// Which headers tell the upstream whence a request came.
    pub forwarded: Forwarded,
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

/// How openings are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectWith {
    /// With an HTTP status, which a browser's script cannot see.
    Http,
    /// By accepting the opening and closing it with 1013 or 1014 and a reason.
    Close,
}
