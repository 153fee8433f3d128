//! Owns `holdline check`.

use super::EXIT_CONFIG;
use crate::app::descriptors;
use crate::config::Config;
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
    if show {
        print!("{}", config.to_toml());
    } else {
        descriptors::raise();
        let (files, fit) = (descriptors::open_files(), descriptors::slots().all());
        println!(
            "room for {fit} connections, started from here: a limit of {files} open files, two for each"
        );
        println!("{}: ok", path.display());
    }
    ExitCode::SUCCESS
}
