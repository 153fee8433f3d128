//! Owns the command line: its commands and exit codes.

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

/// The command failed. The last line on standard error says why.
const EXIT_FAILURE: u8 = 1;
/// The configuration is not valid (sysexits.h, EX_CONFIG).
const EXIT_CONFIG: u8 = 78;

/// The example, as the package installs it.
const EXAMPLE: &str = "/usr/share/doc/holdline/examples/proxy.toml.example";

/// The default path of the configuration.
const DEFAULT_CONFIG: &str = "/etc/holdline/proxy.toml";

/// A WebSocket-aware reverse proxy: no connection dies by its hand, and none dies unexplained.
#[derive(Debug, Parser)]
#[command(name = "holdline", version = VERSION, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// The version. A release built from a checkout also names its commit and date.
const VERSION: &str = env!("HOLDLINE_VERSION");

const AFTER_HELP: &str = "\
Examples:
  holdline demo                                 try it, with a page at http://127.0.0.1:8080/
  holdline check --config proxy.toml            every mistake in a configuration
  holdline ctl ends --since 10m --by endpoint   which server dropped whom

Exit codes:
  0    success; after SIGTERM or SIGINT: everything was closed, or cut after shutdown_grace
  1    failure, for instance an address in use; the message says why
  2    invalid arguments
  78   the configuration is not valid
  130  a second SIGTERM or SIGINT cut everything at once

Signals:
  SIGHUP           reload the configuration; no connection is dropped
  SIGUSR1          reopen the access log after it was moved
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
    /// Inspect and control a running proxy through its admin endpoint
    #[command(disable_help_subcommand = true)]
    Ctl(Box<ctl::Ctl>),
    /// Run the proxy with a chat and an echo server of its own, and a page to try them
    Demo {
        /// The address to listen on
        #[arg(short, long, value_name = "IP:PORT", default_value = "127.0.0.1:8080", value_parser = listen_address)]
        listen: SocketAddr,
    },
    /// Print completions for a shell: `holdline completion bash > /etc/bash_completion.d/holdline`
    Completion {
        /// The shell
        #[arg(value_name = "SHELL")]
        shell: Shell,
    },
    /// Write the manual pages and shell completions for packages
    #[command(hide = true)]
    Generate {
        /// The folder to write to
        #[arg(value_name = "FOLDER")]
        folder: PathBuf,
    },
}

/// Runs the command that the arguments name.
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

/// Returns the definition of the command line. Tests check the manual against it.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Reads a configuration.
///
/// # Errors
/// Returns the exit code. The mistakes are on standard error.
fn load(path: &Path) -> Result<Config, ExitCode> {
    Config::load(path).map_err(|errors| {
        eprintln!("{errors}");
        if !path.exists() {
            eprintln!("name another file with --config FILE, or start from a copy of {EXAMPLE} or of the source's proxy.toml.example");
        }
        ExitCode::from(EXIT_CONFIG)
    })
}

/// Parses an address to listen on.
///
/// # Errors
/// Returns what the text should be.
fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let remedy = || Config::listen_hint(text).unwrap_or_else(|| "expected \"IP:PORT\"".to_owned());
    text.parse().map_err(|_| remedy())
}

/// Prints an error and returns its exit code.
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
