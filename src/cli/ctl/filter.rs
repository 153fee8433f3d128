//! Owns which connections and which ends a command asks for, as options and as a query of the endpoint.

use clap::Args;

/// The filters that connections and ends share.
#[derive(Debug, Args)]
struct Scope {
    /// Only those of this route
    #[arg(long)]
    route: Option<String>,
    /// Only those of this upstream
    #[arg(long)]
    upstream: Option<String>,
    /// Only those of this endpoint
    #[arg(long)]
    endpoint: Option<String>,
    /// Only those of this client: an address, a network like 10.0.0.0/8, or unix:
    #[arg(long)]
    client: Option<String>,
}

/// The options for live connections.
#[derive(Debug, Args)]
pub(super) struct ConnectionFilter {
    #[command(flatten)]
    scope: Scope,
    /// Only those with this text in their id, client, host, path, route or endpoint
    #[arg(short = 'q', long = "search", value_name = "TEXT")]
    q: Option<String>,
    /// Only those that are at least this old, like 5m
    #[arg(long, value_name = "SPAN")]
    min_age: Option<String>,
    /// Only those that are at most this old
    #[arg(long, value_name = "SPAN")]
    max_age: Option<String>,
    /// Count them by these, with commas between them: route, upstream, endpoint, client, host, path, protocol
    #[arg(long, value_name = "KEYS")]
    pub(super) by: Option<String>,
    /// The key to sort by
    #[arg(long, value_parser = ["age", "idle", "bytes", "messages", "rtt"])]
    sort: Option<String>,
    /// The order
    #[arg(long, value_parser = ["asc", "desc"])]
    order: Option<String>,
    /// How many to skip
    #[arg(long)]
    pub(super) offset: Option<usize>,
    /// How many to show [default: 50]
    #[arg(long)]
    pub(super) limit: Option<usize>,
}

/// The options for ends.
#[derive(Debug, Args)]
pub(super) struct EndFilter {
    /// Only those that this one ended: client, upstream or proxy
    #[arg(long)]
    ended_by: Option<String>,
    /// Only those with this cause, like eof
    #[arg(long)]
    cause: Option<String>,
    /// Only those with this close code, or with 3xxx, 4xxx or none
    #[arg(long)]
    code: Option<String>,
    #[command(flatten)]
    scope: Scope,
    /// Only those since this time: a span like 10m, back from now, or a time like 2026-11-28T02:13:00Z
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// Only those until this time
    #[arg(long, value_name = "WHEN")]
    until: Option<String>,
    /// Count them by these, with commas between them: endpoint, end (ended_by and cause), ended_by, cause, code,
    /// minute, route, upstream, client, host, path, status
    #[arg(long, value_name = "KEYS")]
    pub(super) by: Option<String>,
    /// How many to show, 1000 at most
    #[arg(long, default_value_t = 20)]
    limit: usize,
}

impl ConnectionFilter {
    /// Returns the query for everything at once.
    pub(super) fn query(&self) -> String {
        self.written(self.offset, self.limit)
    }

    /// Returns the query for one page.
    pub(super) fn page(&self, offset: usize, limit: usize) -> String {
        self.written(Some(offset), Some(limit))
    }

    fn written(&self, offset: Option<usize>, limit: Option<usize>) -> String {
        let number = |number: Option<usize>| number.map(|number| number.to_string());
        self.scope.query(&[
            ("q", &self.q),
            ("min_age", &self.min_age),
            ("max_age", &self.max_age),
            ("by", &self.by),
            ("sort", &self.sort),
            ("order", &self.order),
            ("offset", &number(offset)),
            ("limit", &number(limit)),
        ])
    }
}

impl EndFilter {
    pub(super) fn query(&self) -> String {
        self.scope.query(&[
            ("ended_by", &self.ended_by),
            ("cause", &self.cause),
            ("code", &self.code),
            ("since", &self.since),
            ("until", &self.until),
            ("by", &self.by),
            ("limit", &Some(self.limit.to_string())),
        ])
    }
}

impl Scope {
    /// Returns the query of these parameters, and of `more`.
    fn query(&self, more: &[(&str, &Option<String>)]) -> String {
        let Self { route, upstream, endpoint, client } = self;
        let own = [("route", route), ("upstream", upstream), ("endpoint", endpoint), ("client", client)];
        let written = own.iter().chain(more);
        let written = written.filter_map(|(key, value)| Some(format!("{key}={}", segment(value.as_ref()?))));
        let written: Vec<_> = written.collect();
        if written.is_empty() { String::new() } else { format!("?{}", written.join("&")) }
    }
}

/// Encodes a text as one segment of a path, or as a value of a query.
pub(super) fn segment(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}
