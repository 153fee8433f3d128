//! Owns the metrics' names, help and labels. The table of `docs/metrics.md` is this file's.

use super::Metrics;
use super::encode::{Family, Labels, Values, counters, gauges, histograms};
use super::tallies::{Route, Tallies};
use crate::outcome::{Cause, EndedBy, PerSide, Side};
use crate::telemetry::process::Process;
use crate::telemetry::tally::{Missing, Totals};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

/// The live state, collected for each scrape.
#[derive(Clone, Debug, Default)]
pub struct Live {
    /// The tunnels of each route.
    pub routes: BTreeMap<Arc<str>, Totals>,
    /// Endpoints.
    pub endpoints: Vec<EndpointState>,
    /// Lines that are missing in the access log.
    pub missing_lines: Missing,
}

/// The current state of an endpoint.
#[derive(Clone, Debug)]
pub struct EndpointState {
    /// Its upstream's name.
    pub upstream: Arc<str>,
    /// Its address.
    pub endpoint: String,
    /// One of [`STANDINGS`].
    pub standing: &'static str,
    /// Connections, including those being opened.
    pub active: u32,
    /// Failures ever charged to it.
    pub failures: u64,
    /// How its tunnels ended.
    pub ends: Vec<(EndedBy, Cause, u64)>,
}

/// The words for an endpoint's health: `available` takes connections, `failed` only if no other endpoint can, `trial`
/// takes one connection as a test.
pub(crate) const STANDINGS: [&str; 3] = ["available", "failed", "trial"];

pub(super) fn families(metrics: &Metrics, live: &Live, process: &Process) -> Vec<Family> {
    let tallies = metrics.tallies();
    let mut all = of_tunnels(live);
    all.extend(of_ends(&tallies));
    all.extend(of_handshakes(&tallies));
    all.push(histograms(
        "websocket_round_trip_seconds",
        "Time from a Ping of the proxy to the Pong that answers it, by the side pinged.",
        Side::BOTH.into_iter().map(|side| (vec![("side", side_name(side))], metrics.round_trips.of(side))),
    ));
    all.extend(of_upstreams(&tallies, live));
    all.extend(of_proxy(metrics, &tallies, live));
    all.extend(of_process(metrics, process));
    all
}

fn of_tunnels(live: &Live) -> Vec<Family> {
    let each = |value: fn(&Totals) -> u64| {
        live.routes.iter().map(move |(name, totals)| (of_route(name), value(totals)))
    };
    let sided = |value: fn(&Totals, Side) -> u64| {
        live.routes.iter().flat_map(move |(name, totals)| {
            Side::BOTH.map(|side| {
                let labels = vec![("route", name.to_string()), ("side", side_name(side))];
                (labels, value(totals, side))
            })
        })
    };
    let active = each(|totals| totals.live).map(|(labels, value)| (labels, value as f64));
    vec![
        gauges("websocket_connections_active", "Tunnels that are open.", active),
        counters("websocket_connections_total", "Tunnels that were opened.", each(|totals| totals.opened)),
        counters(
            "websocket_messages_received_total",
            "Messages received whole from clients.",
            each(|totals| totals.traffic.client.messages),
        ),
        counters(
            "websocket_messages_sent_total",
            "Messages for clients, received whole from upstreams.",
            each(|totals| totals.traffic.upstream.messages),
        ),
        counters(
            "websocket_bytes_received_total",
            "Bytes received from clients on open tunnels.",
            each(|totals| totals.traffic.client.bytes),
        ),
        counters(
            "websocket_bytes_sent_total",
            "Bytes for clients, received from upstreams on open tunnels.",
            each(|totals| totals.traffic.upstream.bytes),
        ),
        counters(
            "websocket_pings_total",
            "Pings that the proxy sent of its own, by the side pinged.",
            sided(|totals, side| totals.traffic[side].pings),
        ),
        counters(
            "websocket_pongs_total",
            "Pings of the proxy that were answered, by the side pinged.",
            sided(|totals, side| totals.traffic[side].pongs),
        ),
    ]
}

fn of_ends(tallies: &Tallies) -> Vec<Family> {
    let ends = tallies.routes.iter().flat_map(|(name, route)| {
        route.ends.iter().map(move |(key, count)| {
            let labels = vec![
                ("cause", key.cause.to_string()),
                ("code", key.code.label()),
                ("ended_by", key.ended_by.to_string()),
                ("route", name.to_string()),
            ];
            (labels, *count)
        })
    });
    let at_limits = Side::BOTH.into_iter().flat_map(|side| {
        tallies.at_limits[side].iter().map(move |(seconds, count)| {
            (vec![("seconds", seconds.to_string()), ("side", side_name(side))], *count)
        })
    });
    let lasted = tallies.routes.iter().filter(|(_, route)| !route.ends.is_empty());
    vec![
        histograms(
            "websocket_connection_duration_seconds",
            "How long tunnels lasted that have ended.",
            lasted.map(|(name, route)| (of_route(name), route.durations.clone())),
        ),
        counters(
            "websocket_ends_total",
            "Tunnels that ended, by who ended them, why, and with which close code.",
            ends,
        ),
        histograms(
            "websocket_silence_before_end_seconds",
            "Silence of a side before ends without a Close frame that nobody ordered.",
            by_side(&tallies.silence),
        ),
        counters(
            "websocket_ends_at_idle_limit_total",
            "Ends by eof, reset or tcp_timeout after a silence of that side that a known idle limit would explain.",
            at_limits,
        ),
    ]
}

fn of_handshakes(tallies: &Tallies) -> Vec<Family> {
    fn with_status(
        tallies: &Tallies,
        of: fn(&Route) -> &[(u16, u64)],
    ) -> impl Iterator<Item = (Labels, u64)> {
        tallies.routes.iter().flat_map(move |(name, route)| {
            let labels = |status: &u16| vec![("route", name.to_string()), ("status", status.to_string())];
            of(route).iter().map(move |(status, count)| (labels(status), *count))
        })
    }
    fn by_class(tallies: &Tallies, of: fn(&Route) -> &[(u16, u64)]) -> impl Iterator<Item = (Labels, u64)> {
        let counted = tallies.routes.iter().filter(move |(_, route)| !of(route).is_empty());
        counted.flat_map(move |(name, route)| {
            (1..=5).map(move |class| {
                let labels = vec![("class", format!("{class}xx")), ("route", name.to_string())];
                let counts = of(route).iter().filter(|(status, _)| *status / 100 == class);
                (labels, counts.map(|(_, count)| count).sum())
            })
        })
    }
    let asked = || tallies.routes.iter().filter(|(_, route)| !route.handshakes.is_empty());
    let refusals = tallies.routes.iter().flat_map(|(name, route)| {
        let labels = |limit: &str| vec![("limit", limit.to_owned()), ("route", name.to_string())];
        route.refusals.iter().map(move |(limit, count)| (labels(limit), *count))
    });
    vec![
        counters(
            "websocket_openings_total",
            "WebSocket handshakes by the status that answered them; 499: the client left before.",
            with_status(tallies, |route| &route.handshakes),
        ),
        counters(
            "websocket_openings_by_class_total",
            "WebSocket handshakes by the class of the status that answered them.",
            by_class(tallies, |route| &route.handshakes),
        ),
        histograms(
            "websocket_opening_duration_seconds",
            "From the request for a tunnel to its answer.",
            asked().map(|(name, route)| (of_route(name), route.handshake_times.clone())),
        ),
        histograms(
            "websocket_opening_tries",
            "Endpoints tried for a WebSocket handshake.",
            asked().map(|(name, route)| (of_route(name), route.tries.clone())),
        ),
        counters("holdline_refusals_total", "WebSocket handshakes that a limit refused.", refusals),
        counters(
            "holdline_http_requests_total",
            "Plain HTTP requests by the status that answered them.",
            with_status(tallies, |route| &route.requests),
        ),
        counters(
            "holdline_http_requests_by_class_total",
            "Plain HTTP requests by the class of the status that answered them.",
            by_class(tallies, |route| &route.requests),
        ),
    ]
}

fn of_upstreams(tallies: &Tallies, live: &Live) -> Vec<Family> {
    let endpoints = || {
        let labels = |of: &EndpointState| {
            vec![("endpoint", of.endpoint.clone()), ("upstream", of.upstream.to_string())]
        };
        live.endpoints.iter().map(move |of| (labels(of), of))
    };
    let standings = endpoints().flat_map(|(labels, of)| {
        STANDINGS.map(|standing| {
            let mut labels = labels.clone();
            labels.push(("standing", standing.to_owned()));
            (labels, f64::from(u8::from(of.standing == standing)))
        })
    });
    let ends = endpoints().flat_map(|(labels, of)| {
        of.ends.iter().map(move |(ended_by, cause, count)| {
            let mut labels = labels.clone();
            labels.insert(0, ("cause", cause.to_string()));
            labels.insert(1, ("ended_by", ended_by.to_string()));
            (labels, *count)
        })
    });
    let connects = tallies.connects.iter();
    vec![
        gauges(
            "holdline_endpoint_active",
            "Connections of an endpoint, including those being opened.",
            endpoints().map(|(labels, of)| (labels, f64::from(of.active))),
        ),
        gauges("holdline_endpoint_standing", "1 for the standing that an endpoint has.", standings),
        counters(
            "holdline_endpoint_failures_total",
            "Failures that an endpoint was charged with.",
            endpoints().map(|(labels, of)| (labels, of.failures)),
        ),
        counters(
            "holdline_endpoint_ends_total",
            "Tunnels of an endpoint that ended, by who ended them and why.",
            ends,
        ),
        histograms(
            "holdline_upstream_connect_duration_seconds",
            "From the beginning of a connect to an endpoint to the end of its handshakes.",
            connects.map(|(name, histogram)| (vec![("upstream", name.to_string())], histogram.clone())),
        ),
    ]
}

fn of_proxy(metrics: &Metrics, tallies: &Tallies, live: &Live) -> Vec<Family> {
    let one = |value: f64| std::iter::once((Labels::new(), value));
    let count = |value: u64| std::iter::once((Labels::new(), value));
    let Missing { sampled, queue, target } = live.missing_lines;
    let missing = [("sampled", sampled), ("queue", queue), ("target", target)];
    let reloads = &tallies.reloads;
    let results = [("succeeded", reloads.succeeded), ("failed", reloads.failed)];
    let certificates = tallies.certificates.iter().map(|certificate| {
        let labels = vec![("listen", certificate.listen.clone()), ("path", certificate.path.clone())];
        (labels, seconds(certificate.not_after))
    });
    let draining = metrics.draining.load(Ordering::Relaxed);
    let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
    vec![
        histograms(
            "holdline_tls_handshake_duration_seconds",
            "TLS handshakes of clients that succeeded.",
            std::iter::once((Labels::new(), tallies.tls_handshakes.clone())),
        ),
        counters(
            "holdline_tls_handshake_failures_total",
            "TLS handshakes of clients that failed.",
            count(tallies.tls_failures),
        ),
        counters(
            "holdline_reloads_total",
            "Reloads of the configuration by their result.",
            results.into_iter().map(|(result, count)| (vec![("result", result.to_owned())], count)),
        ),
        gauges(
            "holdline_last_reload_successful",
            "0 while the file on disk could not be taken over.",
            one(f64::from(u8::from(reloads.last_error.is_none()))),
        ),
        gauges(
            "holdline_last_reload_success_timestamp_seconds",
            "When the configuration in force was loaded.",
            one(reloads.last_success.map_or(0.0, seconds)),
        ),
        gauges(
            "holdline_certificate_expiry_timestamp_seconds",
            "Until when a certificate is valid.",
            certificates,
        ),
        gauges(
            "holdline_connection_capacity",
            "Client connections that the limit of open files allows.",
            one(metrics.connection_capacity() as f64),
        ),
        gauges(
            "holdline_draining",
            "1 from the first moment of a shutdown.",
            one(f64::from(u8::from(draining))),
        ),
        counters(
            "holdline_access_log_lost_lines_total",
            "Lines that are missing in the access log: left out under a flood, or lost as its target was too slow or failed.",
            missing.into_iter().map(|(reason, lines)| (vec![("reason", reason.to_owned())], lines)),
        ),
        gauges("holdline_build_info", "The version that runs.", std::iter::once((version, 1.0))),
    ]
}

fn of_process(metrics: &Metrics, process: &Process) -> Vec<Family> {
    let gauge = |name, help, value: Option<u64>| {
        gauges(name, help, value.map(|value| (Labels::new(), value as f64)).into_iter())
    };
    let cpu = process.cpu_seconds.map(|seconds| (Labels::new(), seconds)).into_iter().collect();
    let started = std::iter::once((Labels::new(), seconds(metrics.started)));
    vec![
        Family {
            name: "process_cpu_seconds_total",
            help: "Processor time used.",
            values: Values::Counters(cpu),
        },
        gauges("process_start_time_seconds", "When the process began to serve.", started),
        gauge("process_resident_memory_bytes", "Resident memory.", process.resident_bytes),
        gauge("process_virtual_memory_bytes", "Address space.", process.virtual_bytes),
        gauge("process_threads", "Threads.", process.threads),
        gauge("process_open_fds", "Descriptors that are open.", process.open_fds),
        gauge("process_max_fds", "Most descriptors that may be open.", process.max_fds),
    ]
}

fn of_route(name: &Arc<str>) -> Labels {
    vec![("route", name.to_string())]
}

fn side_name(side: Side) -> String {
    match side {
        Side::Client => "client".to_owned(),
        Side::Upstream => "upstream".to_owned(),
    }
}

fn by_side<T: Clone>(of: &PerSide<T>) -> impl Iterator<Item = (Labels, T)> {
    Side::BOTH.map(|side| (vec![("side", side_name(side))], of[side].clone())).into_iter()
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
