//! Owns `holdline check`.

use super::EXIT_CONFIG;
use crate::app::certificates::{Ready, secure};
use crate::app::descriptors;
use crate::config::Config;
use crate::proxy::snapshot::Snapshot;
use std::path::Path;
use std::process::ExitCode;

pub(super) fn check(path: &Path, show: bool) -> ExitCode {
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("{errors}");
            return ExitCode::from(EXIT_CONFIG);
        }
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
                eprintln!("{error}");
                is_good = false;
            }
        }
    }
    if let Err(error) = secure(&Snapshot::new(config.plan.clone(), None), None) {
        eprintln!("{error}");
        is_good = false;
    }
    if !is_good {
        return ExitCode::from(EXIT_CONFIG);
    }
    for (_, text) in certificates.iter().filter(|(doubtful, _)| *doubtful) {
        eprintln!("warning: {text}");
    }
    if show {
        print!("{}", config.to_toml());
    } else {
        for (_, text) in certificates.iter().filter(|(doubtful, _)| !doubtful) {
            println!("{text}");
        }
        descriptors::raise();
        let (files, fit) = (descriptors::open_files(), descriptors::slots().all());
        println!(
            "room for {fit} connections, started from here: a limit of {files} open files, two for each"
        );
        println!("{}: ok", path.display());
    }
    ExitCode::SUCCESS
}
