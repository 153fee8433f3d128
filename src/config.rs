//! Owns the configuration: one file, validated as a whole, immutable. It must not know how a
//! setting is carried out.
//!
//! The file is read as it was written (`raw`), then given its meaning (`resolve`). All mistakes
//! are found in one go.

mod defaults;
pub mod document;
mod error;
mod foreign;
mod hint;
mod raw;
mod resolve;
mod value;
mod words;
mod write;

pub use error::{Error, Errors, Place, Warning};
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
    /// The process itself.
    pub process: Process,
    /// What is written of what happens.
    pub log: telemetry::Settings,
    /// Where the operator may ask; `None`: nowhere.
    pub admin: Option<admin::Settings>,
    /// Where connections come from; one at least.
    pub listeners: Vec<Listen>,
    /// Where they go; one route at least.
    pub plan: Plan,
    /// What is legal in the file but hardly meant so.
    pub warnings: Vec<Warning>,
    /// The files that it names, with where it names them.
    pub files: Vec<(Place, PathBuf)>,
}

/// The process itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Threads that take and open connections, and as many of the engine (nginx `worker_processes`); 0: one of
    /// each a CPU.
    pub workers: usize,
    /// What relays tunnels.
    pub engine: Driver,
    /// From the order to stop to the end of what is still open (nginx `worker_shutdown_timeout`).
    pub shutdown_grace: Duration,
    /// Over how long tunnels are closed after that order, so that their clients do not come back
    /// all at once.
    pub drain_spread: Duration,
    /// A file that holds the process's id (nginx `pid`); `None`: none is written.
    pub pid_file: Option<PathBuf>,
}

/// One listening socket and how requests are taken there (nginx `listen`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The socket.
    pub socket: listener::Settings,
    /// The requests.
    pub http: http::Settings,
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or it holds mistakes.
    pub fn load(path: &Path) -> Result<Self, Errors> {
        let source = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| Error {
            place: Place { source: source.as_str().into(), line: None, path: String::new() },
            found: format!("cannot be read: {error}"),
            remedy: "expected a readable file in UTF-8".to_owned(),
        })?;
        Self::parse(&text, &source)
    }

    /// Reads a text; messages name it `source`.
    ///
    /// # Errors
    /// It holds mistakes: all of them are given.
    pub fn parse(text: &str, source: &str) -> Result<Self, Errors> {
        let reading = raw::File::new(source, text).read(resolve::config);
        let raw::Reading { result, warnings, files, .. } = reading;
        result.map(|config| Self { warnings, files, ..config })
    }

    /// Where a file is named, in the part of the configuration whose key path begins so.
    #[must_use]
    pub fn place_of(&self, part: &str, file: &Path) -> Option<&Place> {
        let named = self.files.iter().find(|(place, path)| path == file && place.path.starts_with(part));
        named.map(|(place, _)| place)
    }

    /// What was probably meant as an address to listen at.
    #[must_use]
    pub fn listen_hint(text: &str) -> Option<String> {
        hint::listen(text)
    }

    /// Where the operator may ask, by a text that has mistakes elsewhere; `None` if its `[admin]` has some too, or if
    /// it has none.
    #[must_use]
    pub fn admin_of_broken(text: &str) -> Option<admin::Settings> {
        raw::File::new("", text).read_part(resolve::admin_alone)
    }

    /// Where the operator may ask, unless it is said otherwise.
    #[must_use]
    pub fn default_admin_address() -> std::net::SocketAddr {
        defaults::ADMIN_ADDRESS
    }

    /// The settings that a text leaves to their defaults, like `route[].ping.client`: those of
    /// every table that it has or that may be left out.
    #[must_use]
    pub fn absent_keys(text: &str) -> Vec<String> {
        raw::File::new("", text).read(resolve::config).absent
    }

    /// The settings in effect, each with whether it is a default.
    #[must_use]
    pub fn document(&self) -> Document {
        let mut document = resolve::document(self);
        // A configuration reads back without mistakes. What counts is the marks.
        let _ = Self::from_document(&mut document);
        document
    }

    /// Reads a document as if it were a file, and marks in it what could be left out.
    ///
    /// # Errors
    /// All mistakes in it. Their lines are those of the document in its full form with its secrets.
    pub fn from_document(document: &mut Document) -> Result<Self, Errors> {
        let text = document.write(Form::Full, Secrets::Shown);
        let reading = raw::File::new("document", &text).read(resolve::config);
        document.mark_defaults(&reading.defaults);
        let raw::Reading { result, warnings, files, .. } = reading;
        result.map(|config| Self { warnings, files, ..config })
    }

    /// The settings in effect as TOML, with every key and the secrets. Read again they are the same.
    #[must_use]
    pub fn to_toml(&self) -> String {
        resolve::document(self).write(Form::Full, Secrets::Shown)
    }
}

/// Alike in what they make the proxy do: the warnings tell of the text.
impl PartialEq for Config {
    fn eq(&self, other: &Self) -> bool {
        let parts = |config: &Self| (config.process.clone(), config.log.clone(), config.listeners.clone());
        parts(self) == parts(other) && self.plan == other.plan && self.admin == other.admin
    }
}
