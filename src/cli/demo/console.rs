//! Owns the demo's page and what it asks for: the state of the proxy, and stopping and starting the
//! upstreams.

use super::server::{Answer, Asked, Server};
use crate::health::Availability;
use crate::http::body::{Body, full};
use crate::http::respond::plain;
use crate::outcome::Side;
use crate::proxy::Proxy;
use crate::proxy::registry::LiveTunnel;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::{Bytes, Incoming};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

const PAGE: &str = include_str!("page.html");
/// Ends that the page shows.
const ENDS: usize = 50;

pub(super) struct Console {
    pub(super) chat: Arc<Server>,
    pub(super) echo: Arc<Server>,
    /// There as soon as the proxy runs.
    proxy: OnceLock<(Arc<Proxy>, String)>,
    ends: Mutex<VecDeque<Value>>,
}

impl Console {
    pub(super) fn new(chat: Arc<Server>, echo: Arc<Server>) -> Self {
        Self { chat, echo, proxy: OnceLock::new(), ends: Mutex::default() }
    }

    pub(super) fn connect(&self, proxy: Arc<Proxy>, config: String) {
        // There is one proxy in a demo.
        let _ = self.proxy.set((proxy, config));
    }

    fn server(&self, name: &str) -> Option<&Arc<Server>> {
        match name {
            "chat" => Some(&self.chat),
            "echo" => Some(&self.echo),
            _ => None,
        }
    }

    fn state(&self) -> Value {
        let Some((proxy, config)) = self.proxy.get() else { return json!({}) };
        let upstreams = ["chat", "echo"].map(|name| self.upstream(name, proxy));
        let connections: Vec<_> = proxy.tunnels.all().iter().map(|tunnel| connection(tunnel)).collect();
        let ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        json!({ "config": config, "upstreams": upstreams, "connections": connections, "ends": *ends })
    }

    fn upstream(&self, name: &str, proxy: &Proxy) -> Value {
        let snapshot = proxy.snapshot.load();
        let endpoint = snapshot.upstream(name).and_then(|upstream| upstream.endpoints().into_iter().next());
        let standing = match endpoint.as_ref().map(|endpoint| endpoint.availability()) {
            Some(Availability::Up) => "up",
            Some(Availability::Trial) => "trial",
            _ => "out",
        };
        json!({
            "name": name,
            "id": name,
            "address": self.server(name).map(|server| server.address().to_string()),
            "running": self.server(name).is_some_and(|server| server.is_running()),
            "standing": standing,
            "active": endpoint.map_or(0, |endpoint| endpoint.active()),
        })
    }
}

fn connection(tunnel: &LiveTunnel) -> Value {
    let LiveTunnel { report, endpoint, control, .. } = tunnel;
    let side = |side: Side| {
        let traffic = control.counters().traffic(side);
        let rtt = traffic.last_rtt.map(|rtt| rtt.as_secs_f64());
        json!({ "pings": traffic.pings, "pongs": traffic.pongs, "last_rtt": rtt })
    };
    json!({
        "id": report.id.to_string(),
        "path": report.target_text(),
        "route": tunnel.route(),
        "endpoint": endpoint.address().to_string(),
        "age": control.now().elapsed().as_secs_f64(),
        "client": side(Side::Client),
        "upstream": side(Side::Upstream),
    })
}

/// Keeps the latest ends of WebSockets for the page.
pub(super) async fn collect_ends(console: Arc<Console>) {
    let Some((proxy, _)) = console.proxy.get() else { return };
    let mut ends = proxy.log.subscribe();
    loop {
        let end = match ends.recv().await {
            Ok(end) => end,
            Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => continue,
            Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
        };
        if end.report.route().is_some_and(|name| **name == *"page") {
            continue;
        }
        let end: Value = serde_json::from_str(&end.json(0)).unwrap_or_default();
        let mut shown = console.ends.lock().unwrap_or_else(PoisonError::into_inner);
        shown.push_front(end);
        shown.truncate(ENDS);
    }
}

pub(super) fn answer(console: &Arc<Console>, (request, _): Asked) -> Answer {
    let console = Arc::clone(console);
    Box::pin(async move { console.answer(&request).await })
}

impl Console {
    async fn answer(&self, request: &Request<Incoming>) -> Response<Body> {
        let path: Vec<&str> = request.uri().path().trim_matches('/').split('/').collect();
        match (request.method(), path.as_slice()) {
            (&Method::GET, [""]) => typed("text/html; charset=utf-8", PAGE.into()),
            (&Method::GET, ["demo", "state"]) => typed("application/json", self.state().to_string().into()),
            (&Method::POST, ["demo", "upstreams", name, order @ ("stop" | "start")]) => {
                self.order(name, order).await
            }
            _ => plain(StatusCode::NOT_FOUND, "There is only the page at / here."),
        }
    }

    async fn order(&self, name: &str, order: &str) -> Response<Body> {
        let Some(server) = self.server(name) else {
            return plain(StatusCode::NOT_FOUND, "The upstreams are \"chat\" and \"echo\".");
        };
        if order == "stop" {
            server.stop();
        } else if let Err(error) = server.restart().await {
            return plain(StatusCode::CONFLICT, &error.to_string());
        }
        let mut response = Response::new(full(Bytes::new()));
        *response.status_mut() = StatusCode::NO_CONTENT;
        response
    }
}

fn typed(kind: &'static str, body: Bytes) -> Response<Body> {
    let mut response = Response::new(full(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
