//! Owns `holdline ctl`: what the admin endpoint can do, from the command line.
#![allow(rustdoc::broken_intra_doc_links, reason = "help texts name tables of the configuration")]

mod client;
mod filter;
mod find;
mod show;

use super::{DEFAULT_CONFIG, fail};
use crate::escape;
use clap::{Args, Subcommand};
use client::{Client, CtlError};
use filter::{ConnectionFilter, EndFilter, segment};
use http::Method;
use serde_json::{Value, json};
use show::Show;
use std::collections::HashSet;
use std::io::{self, ErrorKind, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

/// What is asked of a running proxy, and where it is found.
#[derive(Debug, Args)]
pub(super) struct Ctl {
    #[command(flatten)]
    place: Place,
    /// Print what the endpoint answers, as JSON
    #[arg(long, global = true, help_heading = WHERE)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

/// Where the proxy is found.
#[derive(Debug, Args)]
pub(super) struct Place {
    /// The admin endpoint: IP:PORT, HOST:PORT or unix:/path [default: that of [admin] in the configuration]
    #[arg(short, long, global = true, value_name = "ADDRESS", help_heading = WHERE)]
    address: Option<String>,
    /// A file with the token of the endpoint [default: that of [admin] in the configuration]
    #[arg(short, long, global = true, value_name = "FILE", help_heading = WHERE)]
    token_file: Option<PathBuf>,
    /// The configuration of the running proxy. Only its [admin] is read
    #[arg(short, long, global = true, value_name = "FILE", default_value = DEFAULT_CONFIG, help_heading = WHERE)]
    config: PathBuf,
}

/// The heading of the options that all commands have.
const WHERE: &str = "Where the proxy is, and how it is shown";

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the proxy as a whole: reloads, listeners, upstreams with their endpoints, routes
    Status,
    /// List live connections, the oldest first, or count them by a key
    #[command(after_help = CONNECTIONS_EXAMPLES)]
    Connections(Box<ConnectionFilter>),
    /// Show everything about one live connection
    Connection {
        /// Its id, as in the access log
        id: String,
    },
    /// Follow the frames of a live connection: time, side, opcode and length, but not the payload
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
    /// List the latest ends of connections (when, by whom, why, with which close code), or count them by a key
    #[command(after_help = ENDS_EXAMPLES)]
    Ends(Box<EndFilter>),
    /// Send an endpoint no new connections, and close those it has with 1012
    #[command(after_help = DRAIN_EXAMPLES)]
    Drain(Endpoint),
    /// Like drain, but leave the endpoint unused even if all others fail
    ///
    /// A drained endpoint is used again if no other endpoint of its upstream is available.
    Down(Endpoint),
    /// Undo `drain` or `down`: the state in the configuration counts again
    Up {
        /// The name of its upstream
        upstream: String,
        /// Its address, as `status` shows it
        endpoint: String,
        /// The reason, for the log
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Reload the configuration, as SIGHUP does, and report the result
    Reload {
        /// The reason, for the log
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Show the metrics in the text format of OpenMetrics
    Metrics,
}

const ENDS_EXAMPLES: &str = "\
Examples:
  holdline ctl ends --since 10m --by endpoint,end    which server dropped whom, and how
  holdline ctl ends --since 1h --by minute,end       when it was
  holdline ctl ends --ended-by upstream --cause eof           one by one";

const CONNECTIONS_EXAMPLES: &str = "\
Examples:
  holdline ctl connections --by client --limit 10      who has most connections
  holdline ctl connections --by path --sort bytes      which room is hot
  holdline ctl connections --endpoint 10.0.0.7:8080 --limit 5000 --json";

const DRAIN_EXAMPLES: &str = "\
Example:
  holdline ctl drain chat 10.0.0.7:8080 --spread 5m --reason \"kernel update\"";

#[derive(Debug, Args)]
struct Endpoint {
    /// The name of its upstream
    upstream: String,
    /// Its address, as `status` shows it
    endpoint: String,
    /// Close its connections over this time, like 30s. 0s closes them at once, and off keeps them [default: the
    /// upstream's drain_timeout, else drain_spread of [process]]
    #[arg(long, value_name = "SPAN")]
    spread: Option<String>,
    /// The reason, for the log
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
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
        Command::Connections(filter) if filter.by.is_none() => {
            let answer = pages(&client, filter).await?;
            show(ctl, Show::Connections, &answer)
        }
        command => {
            let (method, path, body, form) = question(command);
            let answer = client.ask(method, &path, body.as_ref()).await?;
            show(ctl, form, &answer)
        }
    }
}

fn show(ctl: &Ctl, form: Show, answer: &Value) -> Result<(), CtlError> {
    if let Some(unknown) = answer["unknown"].as_str() {
        return Err(CtlError::Unknown(unknown.to_owned()));
    }
    print(&if ctl.json { format!("{answer:#}\n") } else { form.text(answer) })
}

/// What a command asks the endpoint, and how the answer is shown.
fn question(command: &Command) -> (Method, String, Option<Value>, Show) {
    let get = |path: String, show| (Method::GET, path, None, show);
    let post = |path: String, body: Value, show| (Method::POST, path, Some(body), show);
    let endpoint = |upstream: &str, endpoint: &str, order: &str, body| {
        let path = format!("/api/upstreams/{}/endpoints/{}/{order}", segment(upstream), segment(endpoint));
        post(path, body, Show::Ordered)
    };
    let body = |order: &Endpoint| said(&[("spread", &order.spread), ("reason", &order.reason)]);
    match command {
        Command::Connections(filter) => get(format!("/api/connections{}", filter.query()), Show::Groups),
        Command::Connection { id } => get(format!("/api/connections/{}", segment(id)), Show::Connection),
        Command::Ends(filter) => {
            let show = if filter.by.is_some() { Show::Groups } else { Show::Ends };
            get(format!("/api/ends{}", filter.query()), show)
        }
        Command::Close { id, code, reason } => {
            let body = json!({ "code": code, "reason": reason });
            post(format!("/api/connections/{}/close", segment(id)), body, Show::Closed)
        }
        Command::Drain(order) => endpoint(&order.upstream, &order.endpoint, "drain", body(order)),
        Command::Down(order) => endpoint(&order.upstream, &order.endpoint, "down", body(order)),
        Command::Up { upstream, endpoint: address, reason } => {
            endpoint(upstream, address, "up", said(&[("reason", reason)]))
        }
        Command::Reload { reason } => {
            post("/api/reload".to_owned(), said(&[("reason", reason)]), Show::Reloaded)
        }
        // The other two have no such answer.
        Command::Status | Command::Tail { .. } | Command::Metrics => {
            get("/api/status".to_owned(), Show::Status)
        }
    }
}

/// An object of what was said.
fn said(fields: &[(&str, &Option<String>)]) -> Value {
    let said =
        fields.iter().filter_map(|(name, value)| Some(((*name).to_owned(), Value::from((*value).clone()?))));
    Value::Object(said.collect())
}

/// Connections one by one, over as many pages of the endpoint as it takes.
async fn pages(client: &Client, filter: &ConnectionFilter) -> Result<Value, CtlError> {
    let limit = filter.limit.unwrap_or(CONNECTIONS);
    let mut all: Option<Value> = None;
    let mut found: Vec<Value> = Vec::new();
    while all.is_none() || found.len() < limit {
        let page = (limit - found.len()).clamp(1, PAGE);
        let query = filter.page(filter.offset.unwrap_or_default() + found.len(), page);
        let mut answer = client.ask(Method::GET, &format!("/api/connections{query}"), None).await?;
        let Value::Array(rows) = answer["connections"].take() else { break };
        let is_last = rows.len() < page;
        // One that ended meanwhile moves the others up: none is shown twice for it.
        let known: HashSet<String> = found.iter().filter_map(id_of).collect();
        found.extend(rows.into_iter().filter(|row| id_of(row).is_none_or(|id| !known.contains(&id))));
        all.get_or_insert(answer);
        if is_last {
            break;
        }
    }
    let mut all = all.unwrap_or_default();
    all["connections"] = Value::Array(found);
    Ok(all)
}

fn id_of(row: &Value) -> Option<String> {
    row["id"].as_str().map(str::to_owned)
}

/// Connections that are shown unless it is said otherwise.
const CONNECTIONS: usize = 50;

/// Connections of a page of the endpoint.
const PAGE: usize = 500;

async fn tail(ctl: &Ctl, client: &Client, id: &str) -> Result<(), CtlError> {
    let mut events = client.events(&format!("/api/connections/{}/frames", segment(id))).await?;
    if !ctl.json {
        // At once: on a quiet connection nothing else comes.
        print(&show::frames_header(id))?;
    }
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
