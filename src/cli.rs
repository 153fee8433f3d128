//! Owns the commands and the exit codes.

mod check;
mod ctl;
mod demo;
mod generate;
mod run;

use crate::config::Config;
use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The command did not do what it was asked for; the last line of the log says why.
const EXIT_FAILURE: u8 = 1;
/// The configuration is not valid: EX_CONFIG of sysexits.h.
const EXIT_CONFIG: u8 = 78;

/// Where the package puts the example.
const EXAMPLE: &str = "/usr/share/doc/holdline/examples/proxy.toml.example";

/// Where the configuration is, unless it is said otherwise.
const DEFAULT_CONFIG: &str = "/etc/holdline/proxy.toml";

/// A WebSocket-aware reverse proxy: no connection dies by its hand, and none dies unexplained.
#[derive(Debug, Parser)]
#[command(name = "holdline", version = VERSION, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// The version, and of a release that was built in a checkout the commit and its day.
const VERSION: &str = env!("HOLDLINE_VERSION");

const AFTER_HELP: &str = "\
Examples:
  holdline demo                                 try it, with a page at http://127.0.0.1:8080/
  holdline check --config proxy.toml            every mistake in a configuration
  holdline ctl ends --since 10m --by endpoint   which server dropped whom

Exit codes:
  0    done; after SIGTERM or SIGINT: closed, or cut at the end of the grace
  1    failed, for instance an address in use; the message says why
  2    wrong usage of the command line
  78   the configuration is not valid
  130  a second SIGTERM or SIGINT ended the process at once

Signals:
  SIGHUP           load the configuration anew; no connection is dropped
  SIGUSR1          open the access log anew, after it was moved away
  SIGTERM, SIGINT  close everything within process.shutdown_grace";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the proxy
    Run {
        /// The configuration
        #[arg(short, long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
        config: PathBuf,
    },
    /// Check a configuration and print every mistake in it
    Check {
        /// The configuration
        #[arg(short, long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
        config: PathBuf,
        /// Print the configuration in effect
        #[arg(long, value_name = "FORM", num_args = 0..=1, require_equals = true, default_missing_value = "full")]
        show: Option<check::Show>,
    },
    /// Ask a running proxy, and give it orders, over its admin endpoint
    #[command(disable_help_subcommand = true)]
    Ctl(Box<ctl::Ctl>),
    /// Run the proxy before a chat and an echo of its own, with a page to try them
    Demo {
        /// Where to listen
        #[arg(short, long, value_name = "IP:PORT", default_value = "127.0.0.1:8080", value_parser = listen_address)]
        listen: SocketAddr,
    },
    /// Print the completions for a shell: `holdline completion bash > /etc/bash_completion.d/holdline`
    Completion {
        /// The shell
        #[arg(value_name = "SHELL")]
        shell: Shell,
    },
    /// Write manual pages and completions for shells, as packages want them
    #[command(hide = true)]
    Generate {
        /// Where to
        #[arg(value_name = "FOLDER")]
        folder: PathBuf,
    },
}

/// Does what the command line asks for.
#[must_use]
pub fn execute() -> ExitCode {
    match Cli::parse().command {
        Command::Run { config } => run::run(&config),
        Command::Check { config, show } => check::check(&config, show),
        Command::Ctl(ctl) => ctl::ctl(&ctl),
        Command::Demo { listen } => demo::demo(listen),
        Command::Completion { shell } => generate::completion(&Cli::command(), shell),
        Command::Generate { folder } => generate::generate(&Cli::command(), &folder),
    }
}

/// The command line, with which the manual is checked.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Reads a configuration.
///
/// # Errors
/// The exit code; what is wrong has been said.
fn load(path: &Path) -> Result<Config, ExitCode> {
    Config::load(path).map_err(|errors| {
        eprintln!("{errors}");
        if !path.exists() {
            eprintln!("name another file with --config FILE; to begin with, copy {EXAMPLE}, or proxy.toml.example of the source");
        }
        ExitCode::from(EXIT_CONFIG)
    })
}

/// An address as the command line names it.
fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let remedy = || Config::listen_hint(text).unwrap_or_else(|| "expected \"IP:PORT\"".to_owned());
    text.parse().map_err(|_| remedy())
}

/// Says what went wrong and ends with it.
fn fail(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("holdline: {error}");
    ExitCode::from(EXIT_FAILURE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
