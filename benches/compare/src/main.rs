//! Owns the two ends of a comparison of proxies, an echo behind them and a load before them, and its floor. `run`, beside this
//! package, starts both and the proxies.
//!
//! | module | owns |
//! |---|---|
//! | [`echo`] | the upstream |
//! | [`bare`] | a relay that looks at nothing: the floor |
//! | [`load`] | the load: idle connections, closed loop, open loop, openings |
//! | [`client`] | one connection of the load |
//! | [`stream`] | its bytes, with TLS or without |
//! | [`frame`], [`handshake`] | RFC 6455, as far as both need it |
//! | [`poll`], [`cpu`], [`latency`] | waiting, processor time, times taken |

mod bare;
mod client;
mod cpu;
mod echo;
mod frame;
mod handshake;
mod latency;
mod load;
mod poll;
mod stream;

use clap::{Args, Parser, Subcommand};
use client::Plan;
use cpu::Watched;
use load::rate::Rates;
use load::rounds::Span;
use load::{Fleet, hold, openings, rate, rounds};
use rustls::pki_types::ServerName;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use stream::TlsVersion;

/// The two ends of a comparison of proxies: an echo behind them and a load before them. What comes of it is said on
/// the standard output, an object of JSON a line.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serves: WebSockets are echoed, plain requests answered. Ends when the standard input does.
    Echo {
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
    },
    /// Relays bytes without a look at them. Ends when the standard input does.
    Bare {
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
        /// Where to connect to for each connection.
        #[arg(long)]
        to: SocketAddr,
    },
    /// Loads a server, or a proxy before it.
    #[command(subcommand)]
    Load(Load),
}

#[derive(Subcommand)]
enum Load {
    /// Opens connections and holds them; on the standard input `m` sends a message on each, `c` closes all.
    Hold {
        #[command(flatten)]
        target: Target,
    },
    /// Closed loop: the next message when the last is back.
    Rounds {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        times: Times,
    },
    /// Plain requests in a closed loop.
    Http {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        times: Times,
    },
    /// Openings, each closed at once.
    Openings {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        times: Times,
    },
    /// Open loop: messages at their times, whatever became of those before.
    Rate {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        times: Times,
        /// Messages a second, of all connections together.
        #[arg(long)]
        rate: f64,
        /// Openings a second beside them, each with a message and a Close.
        #[arg(long, default_value_t = 0.0)]
        openings: f64,
    },
}

#[derive(Args)]
struct Target {
    /// Where to connect to.
    #[arg(long)]
    to: SocketAddr,
    /// Speaks TLS; the certificates to trust, as PEM.
    #[arg(long)]
    ca: Option<PathBuf>,
    /// The version of TLS.
    #[arg(long, default_value = "1.3")]
    tls: TlsVersion,
    /// The host that is asked for.
    #[arg(long, default_value = "localhost")]
    host: String,
    #[arg(long, default_value = "/")]
    path: String,
    /// Connections; of openings, how many at once.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Bytes of payload of a message.
    #[arg(long, default_value_t = 64)]
    size: usize,
}

#[derive(Args)]
struct Times {
    /// How long before anything is counted, in seconds.
    #[arg(long, default_value_t = 0.5)]
    warm_up: f64,
    /// How long it is counted, in seconds.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Processes whose time is told: NAME=PID,PID. That of the load itself is always told, as "load".
    #[arg(long)]
    watch: Vec<Watched>,
}

impl Target {
    fn fleet(&self, plain: bool) -> Result<Fleet, String> {
        let tls = match &self.ca {
            Some(ca) => {
                let name = ServerName::try_from(self.host.clone()).map_err(|error| error.to_string())?;
                Some((stream::tls_config(ca, self.tls)?, name))
            }
            None => None,
        };
        let payload = frame::payload(self.size);
        let sent =
            if plain { handshake::plain_request(&self.host, &self.path) } else { frame::message(&payload) };
        let opening = (!plain).then(|| handshake::request(&self.host, &self.path));
        Fleet::new(Plan { to: self.to, tls, opening, sent, payload }).map_err(|error| error.to_string())
    }
}

impl Times {
    fn span(&self) -> Span {
        Span {
            warm_up: Duration::from_secs_f64(self.warm_up),
            counted: Duration::from_secs_f64(self.seconds),
        }
    }

    fn watched(&self) -> Vec<Watched> {
        let mut all = self.watch.clone();
        all.push(Watched::this("load"));
        all
    }
}

fn main() -> Result<(), String> {
    let done = match Cli::parse().command {
        Command::Echo { listen } => echo::run(listen),
        Command::Bare { listen, to } => bare::run(listen, to),
        Command::Load(Load::Hold { target }) => hold::run(target.fleet(false)?, target.connections),
        Command::Load(Load::Rounds { target, times }) => {
            rounds::run(target.fleet(false)?, target.connections, times.span(), &times.watched())
        }
        Command::Load(Load::Http { target, times }) => {
            rounds::run(target.fleet(true)?, target.connections, times.span(), &times.watched())
        }
        Command::Load(Load::Openings { target, times }) => {
            openings::run(target.fleet(false)?, target.connections, times.span(), &times.watched())
        }
        Command::Load(Load::Rate { target, times, rate, openings }) => {
            let rates = Rates { messages: rate, openings };
            rate::run(target.fleet(false)?, target.connections, rates, times.span(), &times.watched())
        }
    };
    done.map_err(|error| error.to_string())
}
