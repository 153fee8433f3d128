//! Owns the responses about live connections: a list, the details of one, and closing one.

mod query;

use super::filter::{Groups, Names};
use super::request::AdminRequest;
use super::response::{AdminResponse, Problem, Seconds, Time, json, json_with};
use crate::outcome::{Cause, PerSide, Side, Traffic};
use crate::proxy::registry::LiveTunnel;
use crate::telemetry::report::ConnectionId;
use crate::telemetry::tally::Sums;
use crate::tunnel::{self, Pong};
use crate::ws::close::{CloseCode, CloseReason, MAX_REASON};
use http::StatusCode;
use query::Query;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A live tunnel at one moment.
struct Live<'a> {
    tunnel: &'a LiveTunnel,
    age: Duration,
    idle: PerSide<Duration>,
    traffic: PerSide<Traffic>,
}

impl<'a> Live<'a> {
    fn at(now: Instant, tunnel: &'a LiveTunnel) -> Self {
        let (control, now) = (&tunnel.control, tunnel.control.time_at(now));
        let counters = control.counters();
        let idle = |side| now.since(counters.last_read(side));
        Self {
            tunnel,
            age: now.elapsed(),
            idle: PerSide { client: idle(Side::Client), upstream: idle(Side::Upstream) },
            traffic: PerSide {
                client: counters.traffic(Side::Client),
                upstream: counters.traffic(Side::Upstream),
            },
        }
    }
}

#[derive(Serialize)]
struct Page<'a> {
    total: usize,
    matched: usize,
    offset: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    unknown: Option<String>,
    connections: Vec<Row<'a>>,
}

/// A group of connections.
#[derive(Serialize)]
struct Group {
    /// In the order of `by`.
    keys: Vec<Option<String>>,
    count: u64,
    bytes_client: u64,
    bytes_upstream: u64,
    messages_client: u64,
    messages_upstream: u64,
}

#[derive(Serialize)]
struct Grouped {
    by: Vec<&'static str>,
    groups: Vec<Group>,
    /// Connections of groups that are left out.
    others: u64,
    matched: usize,
    total: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    unknown: Option<String>,
}

/// The size of a group, and what its members sent.
#[derive(Default)]
struct Sum {
    count: u64,
    traffic: PerSide<Sums>,
}

/// The field names are those of the access log.
#[derive(Serialize)]
struct Row<'a> {
    id: String,
    client: String,
    peer: String,
    host: Cow<'a, str>,
    path: Cow<'a, str>,
    route: &'a str,
    upstream: Option<&'a str>,
    endpoint: String,
    protocol: &'static str,
    tls: bool,
    opened: Time,
    age: Seconds,
    idle_client: Seconds,
    idle_upstream: Seconds,
    bytes_client: u64,
    bytes_upstream: u64,
    messages_client: u64,
    messages_upstream: u64,
    rtt_client: Option<Seconds>,
    rtt_upstream: Option<Seconds>,
    blind: Option<&'static str>,
}

#[derive(Serialize)]
struct Detail<'a> {
    #[serde(flatten)]
    row: Row<'a>,
    tls_version: Option<&'a str>,
    subprotocol: Option<&'a str>,
    extensions: Option<&'a str>,
    tries: u32,
    pings_client: u32,
    pongs_client: u32,
    pings_upstream: u32,
    pongs_upstream: u32,
    rtt_worst_client: Option<Seconds>,
    rtt_worst_upstream: Option<Seconds>,
    /// `None` means that its route is gone. The tunnel keeps its settings.
    settings: Option<Settings>,
}

#[derive(Serialize)]
struct Settings {
    ping_client: Option<Seconds>,
    ping_upstream: Option<Seconds>,
    ping_timeout: Seconds,
    pong: &'static str,
    read_timeout: Option<Seconds>,
    send_timeout: Option<Seconds>,
    close_timeout: Seconds,
    max_lifetime: Option<Seconds>,
    max_message_size: Option<u64>,
}

impl<'a> Row<'a> {
    fn of(live: &Live<'a>) -> Self {
        let Live { tunnel, traffic, .. } = live;
        let report = &tunnel.report;
        Self {
            id: report.id.to_string(),
            client: report.client().to_string(),
            peer: report.peer().to_string(),
            host: report.host_text(),
            path: report.target_text(),
            route: tunnel.route(),
            upstream: report.upstream().map(|name| &**name),
            endpoint: tunnel.endpoint.address().to_string(),
            protocol: report.protocol(),
            tls: report.tls().is_some(),
            opened: Time(tunnel.opened.into()),
            age: Seconds(live.age),
            idle_client: Seconds(live.idle.client),
            idle_upstream: Seconds(live.idle.upstream),
            bytes_client: traffic.client.bytes,
            bytes_upstream: traffic.upstream.bytes,
            messages_client: traffic.client.messages,
            messages_upstream: traffic.upstream.messages,
            rtt_client: traffic.client.last_rtt.map(Seconds),
            rtt_upstream: traffic.upstream.last_rtt.map(Seconds),
            blind: tunnel.control.counters().blind(),
        }
    }
}

impl From<&tunnel::Settings> for Settings {
    fn from(settings: &tunnel::Settings) -> Self {
        Self {
            ping_client: settings.ping.client.map(Seconds),
            ping_upstream: settings.ping.upstream.map(Seconds),
            ping_timeout: Seconds(settings.ping_timeout),
            pong: match settings.pong {
                Pong::Required => "required",
                Pong::Optional => "optional",
            },
            read_timeout: settings.read_timeout.map(Seconds),
            send_timeout: settings.send_timeout.map(Seconds),
            close_timeout: Seconds(settings.close_timeout),
            max_lifetime: settings.max_lifetime.map(Seconds),
            max_message_size: settings.max_message_size,
        }
    }
}

/// `GET /api/connections`.
pub(super) fn list(request: &AdminRequest) -> Result<AdminResponse, Problem> {
    let query = Query::read(&request.query)?;
    let tunnels = request.admin.proxy.tunnels.all();
    // One time for all, because the page is sorted by it.
    let now = Instant::now();
    let mut found: Vec<Live<'_>> = tunnels.iter().map(|tunnel| Live::at(now, tunnel)).collect();
    let unknown = query.unknown(Names::in_use(&request.admin), &found);
    found.retain(|live| query.matches(live));
    let matched = found.len();
    if !query.by.is_empty() {
        return Ok(json(&Grouped { unknown, ..grouped(&query, &found, tunnels.len()) }));
    }
    query.sort(&mut found);
    let shown = found.iter().skip(query.offset).take(query.limit);
    let connections = shown.map(Row::of).collect();
    Ok(json(&Page { total: tunnels.len(), matched, offset: query.offset, unknown, connections }))
}

fn grouped(query: &Query, found: &[Live<'_>], total: usize) -> Grouped {
    let add = |sum: &mut Sum, live: &&Live<'_>| {
        sum.count += 1;
        for side in Side::BOTH {
            sum.traffic[side].add(&live.traffic[side]);
        }
    };
    let groups = Groups::of(found.iter(), |live| query.key(live), add);
    let both = |sum: &Sum, of: fn(&Sums) -> u64| of(&sum.traffic.client) + of(&sum.traffic.upstream);
    let size =
        |sum: &Sum| query.size(sum.count, both(sum, |sums| sums.bytes), both(sum, |sums| sums.messages));
    let mut groups = groups.sorted(size);
    let shown: Vec<_> = groups.drain(..groups.len().min(query.limit)).collect();
    let group = |(keys, Sum { count, traffic }): (Vec<_>, Sum)| Group {
        keys,
        count,
        bytes_client: traffic.client.bytes,
        bytes_upstream: traffic.upstream.bytes,
        messages_client: traffic.client.messages,
        messages_upstream: traffic.upstream.messages,
    };
    Grouped {
        by: query.by.iter().map(|(word, _)| *word).collect(),
        groups: shown.into_iter().map(group).collect(),
        others: groups.iter().map(|(_, sum)| sum.count).sum(),
        matched: found.len(),
        total,
        unknown: None,
    }
}

/// `GET /api/connections/{id}`.
pub(super) fn one(request: &AdminRequest) -> Result<AdminResponse, Problem> {
    let tunnel = find(request)?;
    let live = Live::at(Instant::now(), &tunnel);
    let snapshot = request.admin.proxy.snapshot.load();
    let route = snapshot.route_named(tunnel.route());
    let (report, traffic) = (&tunnel.report, &live.traffic);
    Ok(json(&Detail {
        row: Row::of(&live),
        tls_version: report.tls(),
        subprotocol: report.subprotocol(),
        extensions: report.extensions(),
        tries: report.tries,
        pings_client: traffic.client.pings,
        pongs_client: traffic.client.pongs,
        pings_upstream: traffic.upstream.pings,
        pongs_upstream: traffic.upstream.pongs,
        rtt_worst_client: traffic.client.worst_rtt.map(Seconds),
        rtt_worst_upstream: traffic.upstream.worst_rtt.map(Seconds),
        settings: route.map(|route| Settings::from(&*route.tunnel)),
    }))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Close {
    code: Option<u16>,
    #[serde(default)]
    reason: String,
}

/// `POST /api/connections/{id}/close`.
pub(super) fn close(request: &AdminRequest) -> Result<AdminResponse, Problem> {
    let tunnel = find(request)?;
    let Close { code, reason } = request.parse_body()?;
    let code = CloseCode(code.unwrap_or(CloseCode::SERVICE_RESTART.0));
    if !code.may_be_sent() {
        let error =
            format!("the code {code} may not be sent (RFC 6455 7.4); 1012 and 4000 to 4999 are good ones");
        return Err(Problem::refused(error));
    }
    if reason.len() > MAX_REASON {
        return Err(Problem::refused(format!(
            "the reason has {} bytes; a Close frame holds 123",
            reason.len()
        )));
    }
    tracing::info!(id = %tunnel.report.id, %code, reason, by = &*request.by, "the operator closes a connection");
    let words = CloseReason { code, text: reason.into() };
    tunnel.control.close_with(Cause::Operator, words);
    Ok(json_with(StatusCode::ACCEPTED, &json!({ "id": tunnel.report.id.to_string() })))
}

/// Returns the requested connection.
pub(super) fn find(request: &AdminRequest) -> Result<Arc<LiveTunnel>, Problem> {
    let id = request.captures.first().filter(|id| id.len() <= 16);
    let id = id.and_then(|id| u64::from_str_radix(id, 16).ok()).map(ConnectionId);
    id.and_then(|id| request.admin.proxy.tunnels.find(id)).ok_or_else(|| {
        Problem::not_found(
            "no live connection has this id; if it has ended, /api/ends or the access log has it",
        )
    })
}
