//! Owns `holdline check`.

mod host;

use super::{EXIT_CONFIG, load};
use crate::admin::{Secret, Settings, TokenError};
use crate::app::certificates::{ListenerConfig, load_tls};
use crate::app::descriptors;
use crate::config::{Config, Form, Secrets};
use crate::proxy::snapshot::Snapshot;
use crate::upstream::ports;
use clap::ValueEnum;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::ExitCode;

/// What `--show` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Show {
    /// Every setting, with every default
    Full,
    /// Only what differs from the defaults
    Changed,
}

pub(super) fn check(path: &Path, show: Option<Show>) -> ExitCode {
    let config = match load(path) {
        Ok(config) => config,
        Err(code) => return code,
    };
    for warning in &config.warnings {
        eprintln!("warning: {warning}");
    }
    let mut certificates = Vec::new();
    let mut is_good = true;
    for listen in &config.listeners {
        match ListenerConfig::read(listen, None) {
            Ok(ready) => certificates.extend(ready.certificates()),
            Err(error) => {
                eprintln!("{}", error.placed(&config));
                is_good = false;
            }
        }
    }
    let snapshot = Snapshot::new(config.plan.clone(), None);
    if let Err(error) = load_tls(&snapshot, None) {
        eprintln!("{}", error.placed(&config));
        is_good = false;
    }
    if let Some(secret) = config.admin.as_ref().and_then(|admin| admin.token.as_ref())
        && let Err(error) = secret.token()
    {
        eprintln!("{}", token_fault(&config, secret, &error));
        is_good = false;
    }
    if !is_good {
        return ExitCode::from(EXIT_CONFIG);
    }
    for (_, text) in certificates.iter().filter(|(doubtful, _)| *doubtful) {
        eprintln!("warning: {text}");
    }
    // The file may be meant for another machine than this.
    for text in host::warnings(&config) {
        eprintln!("warning: {text}");
    }
    for text in host::taken(&config) {
        eprintln!("note: {text}");
    }
    for error in snapshot.upstreams().filter_map(|upstream| upstream.settings().check_sources().err()) {
        eprintln!("warning: {error}");
    }
    if let Some(warning) = config.admin.as_ref().and_then(|admin| open_secret(path, admin)) {
        eprintln!("warning: {warning}");
    }
    if let Some(show) = show {
        let form = if show == Show::Full { Form::Full } else { Form::Changed };
        print!("{}", config.document().write(form, Secrets::Hidden));
    } else {
        for (_, text) in certificates.iter().filter(|(doubtful, _)| !doubtful) {
            println!("{text}");
        }
        descriptors::raise();
        let (files, fit) = (descriptors::open_files(), descriptors::capacity_for(&config.process).total());
        println!(
            "room for {fit} connections, started from here: a limit of {files} open files, two for each"
        );
        println!(
            "{} local ports to each endpoint of an upstream, from each of its source addresses",
            ports::ports_per_source()
        );
        println!("{}: ok", path.display());
    }
    ExitCode::SUCCESS
}

/// What is said of a token that cannot be read, with the line of its file and where that was looked for.
fn token_fault(config: &Config, secret: &Secret, error: &TokenError) -> String {
    let Secret::File(path) = secret else { return format!("admin.token: {error}") };
    let place =
        config.place_of("admin", path).map_or_else(|| "admin.token_file: ".to_owned(), ToString::to_string);
    match std::path::absolute(path) {
        Ok(whole) if path.is_relative() => {
            format!("{place}{error}; it was looked for at {}", whole.display())
        }
        _ => format!("{place}{error}"),
    }
}

/// Returns a warning if others on this host may read the token.
fn open_secret(config: &Path, admin: &Settings) -> Option<String> {
    let is_open = |path: &Path| path.metadata().is_ok_and(|found| found.mode() & EVERYBODY_READS != 0);
    match admin.token.as_ref()? {
        Secret::Given(_) if is_open(config) => Some(format!(
            "{}: admin.token: everybody on this host may read this file, and so the token; give it a file of its own, \
             admin.token_file, that only the proxy's user may read",
            config.display()
        )),
        Secret::File(file) if is_open(file) => Some(format!(
            "admin.token_file: everybody on this host may read {0}, and so the token; `chmod o-r {0}`",
            file.display()
        )),
        _ => None,
    }
}

/// The permission bit of inode(7).
const EVERYBODY_READS: u32 = 0o004;
