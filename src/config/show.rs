//! Owns the writing of a configuration as TOML. It must not know defaults: every key is written.

use super::foreign::written;
use super::raw::is_bare;
use super::value::{word_for, write_duration, write_size};
use super::words::{self, Ask, Protocol, RetryOn};
use super::{Config, Listen, Process};
use crate::admin::{self, Secret};
use crate::balance::Method;
use crate::io::TcpOptions;
use crate::limit::Limits;
use crate::limit::rate::Rate;
use crate::proxy::snapshot::{Route, Target};
use crate::route::{PathPattern, Rule};
use crate::telemetry;
use crate::tls::certs::Pair;
use crate::tls::server::ClientAuth;
use crate::upstream::{RetryPolicy, Server, Settings};
use crate::{health, listener, real_ip, tunnel, upstream};
use http::{HeaderName, HeaderValue};
use std::fmt::Display;
use std::path::Path;
use std::time::Duration;

/// Stands for a secret that is not shown.
const HIDDEN: &str = "***";

/// The whole configuration; its secrets only if it `is_whole`.
pub(super) fn config(config: &Config, is_whole: bool) -> String {
    let mut out = Out { text: String::new(), is_whole };
    process(&mut out, &config.process, config.plan.max_connections);
    log(&mut out, &config.log);
    config.admin.iter().for_each(|one| admin(&mut out, one));
    real_ip(&mut out, &config.plan.real_ip);
    config.listeners.iter().for_each(|one| listen(&mut out, one));
    config.plan.routes.iter().for_each(|one| route(&mut out, one));
    config.plan.upstreams.iter().for_each(|one| upstream(&mut out, one));
    out.text
}

fn process(out: &mut Out, process: &Process, max_connections: Option<u32>) {
    out.table("[process]");
    out.set("workers", process.workers);
    out.set("engine", text(word_for(words::ENGINE, &process.engine)));
    out.set("shutdown_grace", time(process.shutdown_grace));
    out.set("drain_spread", time(process.drain_spread));
    out.set("max_connections", or_off(max_connections, |most| most.to_string()));
    out.set("pid_file", or_off(process.pid_file.as_deref(), path));
}

fn log(out: &mut Out, log: &telemetry::Settings) {
    out.table("[log]");
    out.set("level", text(word_for(words::LEVEL, &log.level)));
    out.set("format", text(word_for(words::FORMAT, &log.format)));
    out.set("access", text(&log.access));
    out.set("facility", text(word_for(words::FACILITY, &log.facility)));
    out.set("sample_above", or_off(log.sample_above, |above| text(rate(above))));
}

fn admin(out: &mut Out, admin: &admin::Settings) {
    let (token, file) = match &admin.token {
        Some(Secret::Given(token)) => (out.secret(token.expose()), text("off")),
        Some(Secret::File(file)) => (text("off"), path(file)),
        None => (text("off"), text("off")),
    };
    out.table("[admin]");
    out.set("address", text(&admin.address));
    out.set("token", token);
    out.set("token_file", file);
}

fn real_ip(out: &mut Out, real_ip: &real_ip::Settings) {
    out.table("[real_ip]");
    out.set("trusted", list(real_ip.trusted.iter().map(text)));
    out.set("header", text(&real_ip.source));
    out.set("recursive", real_ip.recursive);
}

fn listen(out: &mut Out, listen: &Listen) {
    out.table("[[listen]]");
    out.set("address", text(listen.socket.address.to_string()));
    out.set("backlog", listen.socket.backlog);
    out.set("reuse_port", listen.socket.reuse_port);
    out.set("proxy_protocol", text(word_for(words::PROXY_PROTOCOL, &listen.socket.proxy_protocol)));
    let spoken =
        [(listen.http.protocols.http1, Protocol::Http1), (listen.http.protocols.http2, Protocol::Http2)];
    let spoken = spoken.into_iter().filter(|&(speaks, _)| speaks);
    out.set("protocols", list(spoken.map(|(_, protocol)| text(word_for(words::PROTOCOL, &protocol)))));
    out.set("header_timeout", time(listen.http.header_timeout));
    out.set("keepalive_timeout", time(listen.http.keepalive_timeout));
    out.set("body_timeout", or_off(listen.http.body_timeout, time));
    out.set("max_header_size", text(write_size(listen.http.max_header_size as u64)));
    out.set("underscores_in_headers", listen.http.underscores_in_headers);
    tcp(out, &listen.socket.tcp);
    match &listen.socket.tls {
        Some(settings) => tls(out, settings),
        None => out.set("tls", text("off")),
    }
}

fn tls(out: &mut Out, tls: &listener::Tls) {
    let server = &tls.server;
    let pair = |pair: &Pair| format!("{{ cert = {}, key = {} }}", path(&pair.cert), path(&pair.key));
    let pairs = std::iter::once(&server.default).chain(&server.others).map(pair);
    let (asked, ca) = match &server.client_auth {
        ClientAuth::Off => (Ask::No, None),
        ClientAuth::Optional(ca) => (Ask::Optional, Some(ca)),
        ClientAuth::Required(ca) => (Ask::Required, Some(ca)),
    };
    out.table("[listen.tls]");
    out.set("certificates", list(pairs));
    out.set("client_auth", text(word_for(words::CLIENT_AUTH, &asked)));
    if let Some(ca) = ca {
        out.set("client_ca", path(&ca.ca));
        out.set("client_crls", list(ca.crls.iter().map(|crl| path(crl))));
    }
    out.set("min_version", text(word_for(words::MIN_VERSION, &server.min_version)));
    out.set("handshake_timeout", time(tls.handshake_timeout));
    out.set("max_handshakes", tls.max_handshakes);
}

fn tcp(out: &mut Out, tcp: &TcpOptions) {
    out.set(
        "tcp_keepalive",
        or_off(tcp.keepalive, |keepalive| {
            let [idle, interval] = [keepalive.time, keepalive.interval].map(time);
            format!("{{ time = {idle}, interval = {interval}, probes = {} }}", keepalive.probes)
        }),
    );
    out.set("tcp_user_timeout", or_off(tcp.user_timeout, time));
}

fn route(out: &mut Out, route: &Route) {
    out.table("[[route]]");
    out.set("name", text(&**route.name()));
    rule(out, &route.rule);
    target(out, route);
    out.set("connect_timeout", time(route.connect_timeout));
    out.set("response_timeout", or_off(route.response_timeout, time));
    tunnel(out, &route.tunnel);
    out.set("limits", limits(&route.limits));
    out.set(
        "allowed_origins",
        or_off(route.allowed_origins.as_ref(), |origins| list(origins.iter().map(text))),
    );
    out.set("max_body_size", or_off(route.max_body_size, |size| text(write_size(size))));
    out.set("reject_with", text(word_for(words::REJECT_WITH, &route.reject_with)));
    out.set("access_log", route.access_log);
    let removed = list(route.remove_headers.iter().map(text));
    out.set("headers", format!("{{ set = {}, remove = {removed} }}", fields(&route.set_headers)));
    out.set("response_headers", fields(&route.response_headers));
    out.set("forwarded", text(word_for(words::FORWARDED, &route.forwarded)));
    out.set("via", text(word_for(words::VIA, &route.via)));
}

fn limits(limits: &Limits) -> String {
    let number = |most: u32| most.to_string();
    let openings =
        |openings: Rate| format!("{{ rate = {}, burst = {} }}", text(rate(openings)), openings.burst());
    format!(
        "{{ connections = {}, connections_per_ip = {}, openings_per_ip = {} }}",
        or_off(limits.connections, number),
        or_off(limits.connections_per_ip, number),
        or_off(limits.openings_per_ip, openings)
    )
}

fn rule(out: &mut Out, rule: &Rule) {
    out.set("hosts", list(rule.hosts.iter().map(text)));
    let pattern = &rule.path;
    match pattern {
        PathPattern::Exact(_) => out.set("path_exact", text(pattern.as_str())),
        PathPattern::Regex(_) => out.set("path_regex", text(pattern.as_str())),
        PathPattern::Prefix { priority, .. } => {
            out.set("path", text(pattern.as_str()));
            out.set("priority", priority);
        }
    }
}

fn target(out: &mut Out, route: &Route) {
    match &route.target {
        Target::Upstream(name) => out.set("upstream", text(&**name)),
        Target::Respond { status, body } => {
            out.set("respond", format!("{{ status = {}, body = {} }}", status.as_u16(), text(body)));
        }
    }
    // strip_prefix is a rewrite to "/".
    if let Some(rewrite) = &route.rewrite {
        let is_regex = matches!(route.rule.path, PathPattern::Regex(_));
        out.set("rewrite", text(if is_regex { rewrite.0.clone() } else { written(&rewrite.0) }));
    }
}

fn tunnel(out: &mut Out, tunnel: &tunnel::Settings) {
    out.set("read_timeout", or_off(tunnel.read_timeout, time));
    out.set("send_timeout", or_off(tunnel.send_timeout, time));
    out.set("close_timeout", time(tunnel.close_timeout));
    out.set("max_lifetime", or_off(tunnel.max_lifetime, time));
    let [client, upstream] = [tunnel.ping.client, tunnel.ping.upstream].map(|side| or_off(side, time));
    let (timeout, pong) = (time(tunnel.ping_timeout), text(word_for(words::PONG, &tunnel.pong)));
    let ping = format!("{{ client = {client}, upstream = {upstream}, timeout = {timeout}, pong = {pong} }}");
    out.set("ping", ping);
    out.set("on_violation", text(word_for(words::ON_VIOLATION, &tunnel.on_violation)));
    out.set("max_message_size", or_off(tunnel.max_message_size, |size| text(write_size(size))));
    out.set("close_codes", text(word_for(words::CLOSE_CODES, &tunnel.close_codes)));
}

fn upstream(out: &mut Out, upstream: &Settings) {
    out.table(&format!("[upstream.{}]", key(&upstream.name)));
    out.set("balance", balance(&upstream.balance));
    let servers: String = upstream.servers.iter().map(|one| format!("  {},\n", server(one))).collect();
    out.set("servers", format!("[\n{servers}]"));
    out.set("slow_start", time(upstream.slow_start));
    out.set("max_ejected", text(format!("{}%", upstream.max_ejected.0)));
    out.set(
        "early_end",
        or_off(upstream.early_end, |health::EarlyEnd { within, max }| {
            format!("{{ within = {}, max = {max} }}", time(within))
        }),
    );
    out.set("retry", retry(&upstream.retry));
    out.set("resolve", format!("{{ interval = {} }}", or_off(upstream.resolve_interval, time)));
    out.set("keepalive", upstream.keepalive.connections);
    out.set("keepalive_timeout", time(upstream.keepalive.timeout));
    out.set("drain_timeout", or_off(upstream.drain_timeout, time));
    tcp(out, &upstream.tcp);
    let version = |version| text(word_for(words::SEND_PROXY_PROTOCOL, &version));
    out.set("proxy_protocol", or_off(upstream.proxy_protocol, version));
    out.set("source", list(upstream.source.iter().map(|address| text(address.to_string()))));
    match &upstream.tls {
        Some(settings) => upstream_tls(out, &upstream.name, settings),
        None => out.set("tls", text("off")),
    }
}

fn upstream_tls(out: &mut Out, name: &str, tls: &upstream::Tls) {
    let client = &tls.client;
    out.table(&format!("[upstream.{}.tls]", key(name)));
    tls.server_name.iter().for_each(|name| out.set("server_name", text(name)));
    client.ca.iter().for_each(|ca| out.set("ca", path(ca)));
    if let Some(Pair { cert, key }) = &client.identity {
        out.set("client_cert", path(cert));
        out.set("client_key", path(key));
    }
    out.set("min_version", text(word_for(words::MIN_VERSION, &client.min_version)));
    out.set("insecure_skip_verify", client.insecure_skip_verify);
}

fn balance(method: &Method) -> String {
    let Method::Hash(source) = method else { return text(word_for(words::BALANCE, method)) };
    format!("{{ hash = {} }}", text(source))
}

/// Every number of a server is its own here: `max_fails` and `fail_timeout` of the upstream are
/// nothing but their defaults.
fn server(server: &Server) -> String {
    format!(
        "{{ address = {}, weight = {}, max_conns = {}, max_fails = {}, fail_timeout = {}, backup = {}, state = {} }}",
        text(server.address.to_string()),
        server.weight,
        or_off(server.max_conns, |most| most.to_string()),
        server.max_fails,
        time(server.fail_timeout),
        server.backup,
        text(word_for(words::STATE, &server.state)),
    )
}

fn retry(retry: &RetryPolicy) -> String {
    let fixed = [(retry.on_connect, RetryOn::Connect), (retry.on_timeout, RetryOn::Timeout)];
    let fixed = fixed.into_iter().filter(|&(on, _)| on).map(|(_, reason)| reason);
    let reasons = fixed.chain(retry.on_status.iter().map(|&status| RetryOn::Status(status)));
    let on = list(reasons.map(|reason| text(word_for(words::RETRY_ON, &reason))));
    format!("{{ tries = {}, timeout = {}, on = {on} }}", retry.tries, or_off(retry.timeout, time))
}

fn fields(fields: &[(HeaderName, HeaderValue)]) -> String {
    let each = fields.iter().map(|(name, value)| {
        // Values come from TOML, where only ASCII was let in.
        format!("{} = {}", key(name.as_str()), text(written(value.to_str().unwrap_or_default())))
    });
    let all: Vec<String> = each.collect();
    if all.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", all.join(", ")) }
}

// Values, each as TOML.

fn key(name: &str) -> String {
    if is_bare(name) { name.to_owned() } else { text(name) }
}

fn text(text: impl Display) -> String {
    toml::Value::String(text.to_string()).to_string()
}

fn path(path: &Path) -> String {
    text(path.display())
}

fn time(duration: Duration) -> String {
    text(write_duration(duration))
}

fn rate(rate: Rate) -> String {
    format!("{}/{}", rate.openings(), word_for(words::PER, &rate.per()))
}

fn or_off<T>(value: Option<T>, write: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| text("off"), write)
}

fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

/// TOML under way.
struct Out {
    text: String,
    /// Secrets are written too.
    is_whole: bool,
}

impl Out {
    /// Begins a table by its header.
    fn table(&mut self, header: &str) {
        let gap = if self.text.is_empty() { "" } else { "\n" };
        self.text += &format!("{gap}{header}\n");
    }

    /// A secret, or what stands for it.
    fn secret(&self, secret: &str) -> String {
        text(if self.is_whole { secret } else { HIDDEN })
    }

    fn set(&mut self, key: &str, value: impl Display) {
        self.text += &format!("{key} = {value}\n");
    }
}
