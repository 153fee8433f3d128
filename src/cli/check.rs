//! Owns `holdline check`.

use super::EXIT_CONFIG;
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
        println!("{}: ok", path.display());
    }
    ExitCode::SUCCESS
}
