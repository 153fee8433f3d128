//! Owns which connections and which ends a command asks for, as options and as a query of the endpoint.

use clap::Args;

/// Whose connections and whose ends are shown.
#[derive(Debug, Args)]
struct Scope {
    /// Those of this route
    #[arg(long)]
    route: Option<String>,
    /// Those of this upstream
    #[arg(long)]
    upstream: Option<String>,
    /// Those of this endpoint
    #[arg(long)]
    endpoint: Option<String>,
    /// Those of this client: an address, a network like 10.0.0.0/8, or unix:
    #[arg(long)]
    client: Option<String>,
}

/// Which live connections are shown.
#[derive(Debug, Args)]
pub(super) struct ConnectionFilter {
    #[command(flatten)]
    scope: Scope,
    /// Those with this in id, client, host, path, route or endpoint
    #[arg(short = 'q', long = "search", value_name = "TEXT")]
    q: Option<String>,
    /// Those that have lasted so long at least, like 5m
    #[arg(long, value_name = "SPAN")]
    min_age: Option<String>,
    /// Those that have lasted so long at most
    #[arg(long, value_name = "SPAN")]
    max_age: Option<String>,
    /// Count them by these, with commas between them: route, upstream, endpoint, client, host, path, protocol
    #[arg(long, value_name = "KEYS")]
    pub(super) by: Option<String>,
    /// By what they are sorted
    #[arg(long, value_parser = ["age", "idle", "bytes", "messages", "rtt"])]
    sort: Option<String>,
    /// Which ones come first
    #[arg(long, value_parser = ["asc", "desc"])]
    order: Option<String>,
    /// How many to skip
    #[arg(long)]
    pub(super) offset: Option<usize>,
    /// How many to show [default: 50]
    #[arg(long)]
    pub(super) limit: Option<usize>,
}

/// Which ends are shown.
#[derive(Debug, Args)]
pub(super) struct EndFilter {
    /// Those that this one ended: client, upstream or proxy
    #[arg(long)]
    ended_by: Option<String>,
    /// Those with this cause, like eof
    #[arg(long)]
    cause: Option<String>,
    /// Those with this close code; 3xxx, 4xxx, none
    #[arg(long)]
    code: Option<String>,
    #[command(flatten)]
    scope: Scope,
    /// Those since then: a span back from now like 10m, or a time like 2026-11-28T02:13:00Z
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// Those until then
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
    /// The query that asks for all of it at once.
    pub(super) fn query(&self) -> String {
        self.written(self.offset, self.limit)
    }

    /// The query that asks for a page of it.
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
    /// What was said of a query's parameters: of these and of more.
    fn query(&self, more: &[(&str, &Option<String>)]) -> String {
        let Self { route, upstream, endpoint, client } = self;
        let own = [("route", route), ("upstream", upstream), ("endpoint", endpoint), ("client", client)];
        let written = own.iter().chain(more);
        let written = written.filter_map(|(key, value)| Some(format!("{key}={}", segment(value.as_ref()?))));
        let written: Vec<_> = written.collect();
        if written.is_empty() { String::new() } else { format!("?{}", written.join("&")) }
    }
}

/// A text as one segment of a path, or a value of a query.
pub(super) fn segment(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}
