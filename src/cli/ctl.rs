//! Owns `holdline ctl`: what the admin endpoint can do, from the command line.

mod client;
mod find;
mod show;

use super::{DEFAULT_CONFIG, fail};
use crate::escape;
use clap::{Args, Subcommand};
use client::{Client, CtlError};
use http::Method;
use serde_json::{Value, json};
use show::Show;
use std::io::{self, ErrorKind, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

/// What is asked of a running proxy, and where it is found.
#[derive(Debug, Args)]
pub(super) struct Ctl {
    #[command(flatten)]
    place: Place,
    /// Print what the endpoint answers, as JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

/// Where the proxy is found.
#[derive(Debug, Args)]
pub(super) struct Place {
    /// The admin endpoint: IP:PORT, HOST:PORT or unix:/path; else [admin] of the configuration says it
    #[arg(short, long, global = true, value_name = "ADDRESS")]
    address: Option<String>,
    /// A file with the token of the endpoint; else [admin] of the configuration says it
    #[arg(short, long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The configuration of the running proxy
    #[arg(short, long, global = true, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The proxy as a whole: reloads, listeners, upstreams with their endpoints, routes
    Status,
    /// Live connections, those that have lasted longest first
    Connections(Filter),
    /// All that is known of one live connection
    Connection {
        /// Its id, as in the access log
        id: String,
    },
    /// Follow the frames of a live connection: time, side, opcode, length; never their payload
    Tail {
        /// Its id, as in the access log
        id: String,
    },
    /// Close one live connection, with a Close frame to both sides
    Close {
        /// Its id, as in the access log
        id: String,
        /// The close code: 1000 to 1003, 1007 to 1014, 3000 to 4999
        #[arg(long, default_value_t = 1012)]
        code: u16,
        /// The text of the Close frame, 123 bytes at most
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// The latest ends of connections: who ended each, why, with which code
    Ends {
        /// How many, 1000 at most
        #[arg(long, default_value_t = 20)]
        limit: usize,
    },
    /// Give an endpoint nothing new, and close what it has with 1012
    Drain(Endpoint),
    /// The same, and leave it unused even when all others fail
    Down(Endpoint),
    /// Take `drain` or `down` back: the configuration counts again
    Up {
        /// The name of its upstream
        upstream: String,
        /// Its address, as `status` shows it
        endpoint: String,
    },
    /// Load the configuration anew, as SIGHUP does, and say what came of it
    Reload,
    /// The metrics, in the text form of OpenMetrics
    Metrics,
}

#[derive(Debug, Args)]
struct Endpoint {
    /// The name of its upstream
    upstream: String,
    /// Its address, as `status` shows it
    endpoint: String,
    /// Over how long its connections are closed, like 30s; 0s: at once; off: they stay [default: drain_timeout of the
    /// upstream, else drain_spread of [process]]
    #[arg(long, value_name = "SPAN")]
    spread: Option<String>,
}

#[derive(Debug, Args)]
struct Filter {
    /// Those of this route
    #[arg(long)]
    route: Option<String>,
    /// Those of this upstream
    #[arg(long)]
    upstream: Option<String>,
    /// Those to this endpoint
    #[arg(long)]
    endpoint: Option<String>,
    /// Those of this client: an address, or a network like 10.0.0.0/8
    #[arg(long)]
    client: Option<String>,
    /// Those with this in id, client, host, path, route or endpoint
    #[arg(short = 'q', long = "search", value_name = "TEXT")]
    q: Option<String>,
    /// Those that have lasted so long at least, like 5m
    #[arg(long, value_name = "SPAN")]
    min_age: Option<String>,
    /// Those that have lasted so long at most
    #[arg(long, value_name = "SPAN")]
    max_age: Option<String>,
    /// By what they are sorted
    #[arg(long, value_parser = ["age", "idle", "bytes", "messages", "rtt"])]
    sort: Option<String>,
    /// Which ones come first
    #[arg(long, value_parser = ["asc", "desc"])]
    order: Option<String>,
    /// How many to skip
    #[arg(long)]
    offset: Option<usize>,
    /// How many to show, 500 at most [default: 50]
    #[arg(long)]
    limit: Option<usize>,
}

pub(super) fn ctl(ctl: &Ctl) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.map_err(CtlError::Output).and_then(|runtime| runtime.block_on(run(ctl)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // `holdline ctl ... | head` has seen enough.
        Err(CtlError::Output(error)) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

async fn run(ctl: &Ctl) -> Result<(), CtlError> {
    let client = find::client(&ctl.place)?;
    match &ctl.command {
        Command::Metrics => print(&client.text("/metrics").await?),
        Command::Tail { id } => tail(ctl, &client, id).await,
        command => {
            let (method, path, body, show) = question(command);
            let answer = client.ask(method, &path, body.as_ref()).await?;
            print(&if ctl.json { format!("{answer:#}\n") } else { show.text(&answer) })
        }
    }
}

/// What a command asks the endpoint, and how the answer is shown.
fn question(command: &Command) -> (Method, String, Option<Value>, Show) {
    let get = |path: String, show| (Method::GET, path, None, show);
    let post = |path: String, body: Value, show| (Method::POST, path, Some(body), show);
    let endpoint = |upstream: &str, endpoint: &str, order: &str, body| {
        let path = format!("/api/upstreams/{}/endpoints/{}/{order}", segment(upstream), segment(endpoint));
        post(path, body, Show::Ordered)
    };
    let spread =
        |order: &Endpoint| order.spread.as_ref().map_or(json!({}), |spread| json!({ "spread": spread }));
    match command {
        Command::Connections(filter) => get(format!("/api/connections{}", filter.query()), Show::Connections),
        Command::Connection { id } => get(format!("/api/connections/{}", segment(id)), Show::Connection),
        Command::Ends { limit } => get(format!("/api/ends?limit={limit}"), Show::Ends),
        Command::Close { id, code, reason } => {
            let body = json!({ "code": code, "reason": reason });
            post(format!("/api/connections/{}/close", segment(id)), body, Show::Closed)
        }
        Command::Drain(order) => endpoint(&order.upstream, &order.endpoint, "drain", spread(order)),
        Command::Down(order) => endpoint(&order.upstream, &order.endpoint, "down", spread(order)),
        Command::Up { upstream, endpoint: address } => endpoint(upstream, address, "up", json!({})),
        Command::Reload => post("/api/reload".to_owned(), json!({}), Show::Reloaded),
        // The other two have no such answer.
        Command::Status | Command::Tail { .. } | Command::Metrics => {
            get("/api/status".to_owned(), Show::Status)
        }
    }
}

async fn tail(ctl: &Ctl, client: &Client, id: &str) -> Result<(), CtlError> {
    let mut events = client.events(&format!("/api/connections/{}/frames", segment(id))).await?;
    while let Some((name, data)) = events.next().await? {
        if ctl.json {
            print(&format!("{}\n", json!({ "event": name, "data": data })))?;
        } else {
            print(&show::frame(&name, &data))?;
        }
    }
    Ok(())
}

/// Prints JSON, or a text that is clean already: in the first peers' texts command no terminal either.
fn print(text: &str) -> Result<(), CtlError> {
    let mut out = io::stdout().lock();
    out.write_all(escape::json(text).as_bytes()).and_then(|()| out.flush()).map_err(CtlError::Output)
}

impl Filter {
    fn query(&self) -> String {
        let number = |number: Option<usize>| number.map(|number| number.to_string());
        let pairs = [
            ("route", self.route.clone()),
            ("upstream", self.upstream.clone()),
            ("endpoint", self.endpoint.clone()),
            ("client", self.client.clone()),
            ("q", self.q.clone()),
            ("min_age", self.min_age.clone()),
            ("max_age", self.max_age.clone()),
            ("sort", self.sort.clone()),
            ("order", self.order.clone()),
            ("offset", number(self.offset)),
            ("limit", number(self.limit)),
        ];
        let written =
            pairs.into_iter().filter_map(|(key, value)| Some(format!("{key}={}", segment(&value?))));
        let written: Vec<_> = written.collect();
        if written.is_empty() { String::new() } else { format!("?{}", written.join("&")) }
    }
}

/// A text as one segment of a path, or a value of a query.
fn segment(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}
