//! Owns `holdline check`.

mod host;

use super::{EXIT_CONFIG, load};
use crate::admin::{Secret, TokenError};
use crate::app::certificates::{Ready, secure};
use crate::app::descriptors;
use crate::config::Config;
use crate::proxy::snapshot::Snapshot;
use crate::upstream::ports;
use std::path::Path;
use std::process::ExitCode;

pub(super) fn check(path: &Path, show: bool) -> ExitCode {
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
        match Ready::read(listen, None) {
            Ok(ready) => certificates.extend(ready.certificates()),
            Err(error) => {
                eprintln!("{}", error.placed(&config));
                is_good = false;
            }
        }
    }
    let snapshot = Snapshot::new(config.plan.clone(), None);
    if let Err(error) = secure(&snapshot, None) {
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
    if show {
        print!("{}", config.to_toml());
    } else {
        for (_, text) in certificates.iter().filter(|(doubtful, _)| !doubtful) {
            println!("{text}");
        }
        descriptors::raise();
        let (files, fit) = (descriptors::open_files(), descriptors::slots(&config.process).all());
        println!(
            "room for {fit} connections, started from here: a limit of {files} open files, two for each"
        );
        println!(
            "{} local ports to each endpoint of an upstream, from each of its source addresses",
            ports::a_source()
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
