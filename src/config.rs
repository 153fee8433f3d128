//! Owns the configuration: one file, validated as a whole, immutable. It must not know how a setting is
//! carried out.
//!
//! `raw` reads the file as it was written, and `resolve` gives it a meaning. Both go on after a mistake, so
//! the operator sees all mistakes at once. On the way back, `resolve` makes a `document` of the settings, and
//! `write` makes TOML of that.

mod defaults;
pub(crate) mod document;
mod error;
mod foreign;
mod hint;
mod raw;
mod resolve;
mod value;
mod words;
mod write;

pub(crate) use error::Place;
pub(crate) use error::{Error, Errors, Warning};
pub use write::{Form, Secrets};

use crate::proxy::snapshot::Plan;
use crate::tunnel::Driver;
use crate::{admin, http, listener, telemetry};
use document::Document;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A configuration that can be run.
#[derive(Clone, Debug)]
pub struct Config {
    /// `[process]`.
    pub(crate) process: Process,
    /// The log and the access log.
    pub(crate) log: telemetry::Settings,
    /// The admin endpoint. `None` means that there is none.
    pub(crate) admin: Option<admin::Settings>,
    /// At least one.
    pub(crate) listeners: Vec<Listen>,
    /// Routes, at least one, and upstreams.
    pub plan: Plan,
    /// What is valid but probably a mistake.
    pub warnings: Vec<Warning>,
    /// The files that the configuration names, each with its place there.
    pub(crate) files: Vec<(Place, PathBuf)>,
}

/// `[process]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    /// Threads that accept connections, and as many that relay tunnels (nginx `worker_processes`). 0 means
    /// one of each for each CPU.
    pub(crate) workers: usize,
    /// What relays tunnels.
    pub(crate) engine: Driver,
    /// From the signal to stop until Holdline cuts what is still open (nginx `worker_shutdown_timeout`).
    pub(crate) shutdown_grace: Duration,
    /// Over how long Holdline closes tunnels after that signal, so that clients do not all reconnect at once.
    pub(crate) drain_spread: Duration,
    /// A file for the process id (nginx `pid`). `None` means that Holdline writes none.
    pub(crate) pid_file: Option<PathBuf>,
}

/// A listening socket, and how it takes requests (nginx `listen`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listen {
    /// The socket with its TLS.
    pub(crate) socket: listener::Settings,
    /// Protocols, timeouts and sizes of requests.
    pub(crate) http: http::Settings,
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// The file cannot be read, or all the mistakes in it.
    pub fn load(path: &Path) -> Result<Self, Errors> {
        let source = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| Error {
            place: Place { source: source.as_str().into(), line: None, path: String::new() },
            found: format!("cannot be read: {error}"),
            remedy: "expected a readable file in UTF-8".to_owned(),
        })?;
        Self::parse(&text, &source)
    }

    /// Reads a text, which messages call `source`.
    ///
    /// # Errors
    /// All the mistakes in it.
    pub fn parse(text: &str, source: &str) -> Result<Self, Errors> {
        let reading = raw::File::new(source, text).read(resolve::config);
        let raw::Reading { result, warnings, files, .. } = reading;
        result.map(|config| Self { warnings, files, ..config })
    }

    /// The place that names this file, among the keys whose path begins with `part`.
    #[must_use]
    pub(crate) fn place_of(&self, part: &str, file: &Path) -> Option<&Place> {
        let named = self.files.iter().find(|(place, path)| path == file && place.path.starts_with(part));
        named.map(|(place, _)| place)
    }

    /// What the operator probably meant by an address to listen at. `None` means that nothing comes near.
    #[must_use]
    pub(crate) fn listen_hint(text: &str) -> Option<String> {
        hint::listen(text)
    }

    /// The admin endpoint of a text that may have mistakes elsewhere. `None` means that `[admin]` is missing
    /// or has mistakes too.
    #[must_use]
    pub(crate) fn admin_of_broken(text: &str) -> Option<admin::Settings> {
        raw::File::new("", text).read_part(resolve::admin_alone)
    }

    /// The address of an `[admin]` that names none.
    #[must_use]
    pub(crate) fn default_admin_address() -> std::net::SocketAddr {
        defaults::ADMIN_ADDRESS
    }

    /// The settings that a text leaves to their defaults, like `route[].ping.client`. They are those of each
    /// table that the text has or may leave out.
    #[must_use]
    pub fn absent_keys(text: &str) -> Vec<String> {
        raw::File::new("", text).read(resolve::config).absent
    }

    /// The settings in effect, in which those that could be left out are marked.
    #[must_use]
    pub fn document(&self) -> Document {
        let mut document = resolve::document(self);
        // Only the marks count here: a valid configuration reads back without mistakes.
        let _ = Self::from_document(&mut document);
        document
    }

    /// Reads a document as if it were a file, and marks the entries and sections that could be left out.
    ///
    /// # Errors
    /// All the mistakes in it. Their lines are those of its full form with secrets. The marks are set even
    /// then.
    pub fn from_document(document: &mut Document) -> Result<Self, Errors> {
        let text = document.write(Form::Full, Secrets::Shown);
        let reading = raw::File::new("document", &text).read(resolve::config);
        document.mark_defaults(&reading.defaults);
        let raw::Reading { result, warnings, files, .. } = reading;
        result.map(|config| Self { warnings, files, ..config })
    }

    /// The settings in effect as TOML, with every key and the secrets. It reads back as the same
    /// configuration.
    #[must_use]
    pub fn to_toml(&self) -> String {
        resolve::document(self).write(Form::Full, Secrets::Shown)
    }
}

/// Compares what Holdline does. Warnings and places belong to the text.
impl PartialEq for Config {
    fn eq(&self, other: &Self) -> bool {
        let parts = |config: &Self| (config.process.clone(), config.log.clone(), config.listeners.clone());
        parts(self) == parts(other) && self.plan == other.plan && self.admin == other.admin
    }
}
