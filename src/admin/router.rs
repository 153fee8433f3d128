//! Owns the table of admin paths, and the dispatch of requests to their handlers.

use super::access::{self, Requester};
use super::request::{AdminRequest, pairs, read};
use super::response::{AdminResponse, Problem, of, text};
use super::{Admin, connections, endpoints, ends, events, frames, page, reload, stats, status};
use crate::drain::Watch;
use crate::upstream::State;
use bytes::Bytes;
use http::header::ACCEPT;
use http::request::Parts;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use std::sync::Arc;

/// One admin path.
struct Entry {
    method: Method,
    /// A path. `{name}` matches any one segment.
    pattern: &'static str,
    action: Action,
}

/// The handler of a path.
#[derive(Clone, Copy, Debug)]
enum Action {
    Page,
    Health,
    Ready,
    Metrics,
    Status,
    History,
    Connections,
    Connection,
    Frames,
    Close,
    Endpoint(State),
    Reload,
    Ends,
    Events,
    OpenApi,
}

const ENTRIES: &[Entry] = &[
    get("/healthz", Action::Health),
    get("/readyz", Action::Ready),
    get("/metrics", Action::Metrics),
    get("/api/openapi.json", Action::OpenApi),
    get("/api/status", Action::Status),
    get("/api/history", Action::History),
    get("/api/events", Action::Events),
    get("/api/ends", Action::Ends),
    get("/api/connections", Action::Connections),
    get("/api/connections/{id}", Action::Connection),
    get("/api/connections/{id}/frames", Action::Frames),
    post("/api/connections/{id}/close", Action::Close),
    post("/api/upstreams/{name}/endpoints/{address}/drain", Action::Endpoint(State::Drain)),
    post("/api/upstreams/{name}/endpoints/{address}/up", Action::Endpoint(State::Up)),
    post("/api/upstreams/{name}/endpoints/{address}/down", Action::Endpoint(State::Down)),
    post("/api/reload", Action::Reload),
    get("/", Action::Page),
    // Must follow all other paths of one segment.
    get("/{file}", Action::Page),
];

const fn get(pattern: &'static str, action: Action) -> Entry {
    Entry { method: Method::GET, pattern, action }
}

const fn post(pattern: &'static str, action: Action) -> Entry {
    Entry { method: Method::POST, pattern, action }
}

/// The OpenAPI 3.1 description of all paths. The version is filled in when it is served.
pub const OPENAPI: &str = include_str!("openapi.json");

/// Returns the method and pattern of every path.
pub fn routes() -> impl Iterator<Item = (&'static Method, &'static str)> {
    ENTRIES.iter().map(|entry| (&entry.method, entry.pattern))
}

/// Answers a request.
pub(super) async fn answer(
    admin: &Arc<Admin>,
    requester: Requester,
    request: Request<Incoming>,
    watch: Watch,
) -> AdminResponse {
    let (parts, body) = request.into_parts();
    match try_answer(admin, requester, &parts, body, watch).await {
        Ok(answer) => answer,
        Err(problem) => problem.answer(),
    }
}

async fn try_answer(
    admin: &Arc<Admin>,
    requester: Requester,
    parts: &Parts,
    body: Incoming,
    watch: Watch,
) -> Result<AdminResponse, Problem> {
    let found = find(&parts.method, parts.uri.path());
    // An unauthorised requester must not learn which paths exist.
    let is_open = matches!(&found, Ok((action, _)) if action.is_open());
    access::check(parts, requester.transport, admin.token.load().as_deref(), is_open)?;
    let (action, captures) = found?;
    let body = match parts.method {
        Method::POST => read(body).await?,
        _ => Bytes::new(),
    };
    let query = pairs(parts.uri.query().unwrap_or_default());
    let accept =
        parts.headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    action
        .answer(AdminRequest {
            admin: Arc::clone(admin),
            by: requester.name,
            captures,
            query,
            accept,
            body,
            watch,
        })
        .await
}

impl Action {
    /// Whether it needs no token, because it reveals nothing about the traffic.
    fn is_open(self) -> bool {
        matches!(self, Self::Page | Self::Health | Self::Ready)
    }

    async fn answer(self, request: AdminRequest) -> Result<AdminResponse, Problem> {
        match self {
            Self::Page => page::answer(request.captures.first().map_or("", String::as_str)),
            Self::Health => Ok(text(StatusCode::OK, "ok\n")),
            Self::Ready if request.admin.is_draining() => {
                Ok(text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"))
            }
            Self::Ready => Ok(text(StatusCode::OK, "ready\n")),
            Self::Metrics => Ok(stats::metrics(&request)),
            Self::Status => Ok(status::answer(&request)),
            Self::History => Ok(stats::history(&request)),
            Self::Connections => connections::list(&request),
            Self::Connection => connections::one(&request),
            Self::Frames => frames::answer(request),
            Self::Close => connections::close(&request),
            Self::Endpoint(state) => endpoints::set_state(&request, state),
            Self::Reload => reload::answer(&request).await,
            Self::Ends => ends::answer(&request),
            Self::Events => events::answer(request),
            Self::OpenApi => {
                let version = format!("\"version\": \"{}\"", env!("CARGO_PKG_VERSION"));
                let text = OPENAPI.replacen("\"version\": \"\"", &version, 1);
                Ok(of(StatusCode::OK, "application/json", text.into()))
            }
        }
    }
}

/// Finds the handler of a request.
fn find(method: &Method, path: &str) -> Result<(Action, Vec<String>), Problem> {
    // A HEAD is a GET. hyper omits the body.
    let method = if method == Method::HEAD { &Method::GET } else { method };
    let mut allowed = Vec::new();
    for entry in ENTRIES {
        let Some(captures) = captures(entry.pattern, path) else { continue };
        if entry.method == *method {
            return Ok((entry.action, captures));
        }
        allowed.push(if entry.method == Method::GET { "GET, HEAD" } else { entry.method.as_str() });
    }
    if allowed.is_empty() {
        return Err(Problem::not_found(
            "there is nothing of this name; /api/openapi.json tells what there is",
        ));
    }
    Err(Problem::wrong_method(allowed.join(", ")))
}

/// Matches a path with a pattern and returns its captures. `None` means that it does not match.
fn captures(pattern: &str, path: &str) -> Option<Vec<String>> {
    let mut found = Vec::new();
    let (mut wanted, mut given) = (pattern.split('/'), path.split('/'));
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return Some(found),
            (Some(place), Some(segment)) if place.starts_with('{') && !segment.is_empty() => {
                found.push(percent_decode_str(segment).decode_utf8().ok()?.into_owned());
            }
            (Some(fixed), Some(segment)) if fixed == segment => {}
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_taken_apart_before_it_is_decoded() {
        let found = captures(
            "/api/upstreams/{name}/endpoints/{address}/drain",
            "/api/upstreams/a%2Fb%20c/endpoints/unix%3A%2Frun%2Fapp.sock/drain",
        );
        assert_eq!(found.unwrap(), ["a/b c", "unix:/run/app.sock"]);
        assert_eq!(captures("/a/{x}", "/a/"), None);
        assert_eq!(captures("/a/{x}", "/a/b/c"), None);
        assert_eq!(captures("/a/{x}", "/a/%ff"), None, "no UTF-8");
        assert_eq!(captures("/", "/"), Some(vec![]));
    }

    #[test]
    fn no_two_entries_are_the_same() {
        let mut all: Vec<_> = routes().map(|(method, pattern)| (method.as_str(), pattern)).collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
