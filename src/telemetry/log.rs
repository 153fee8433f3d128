//! Owns the log for the operator, on standard error.

use super::{Format, Settings};
use crate::escape;
use std::io::{self, IsTerminal};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry, fmt, reload};

type Output = Box<dyn Layer<Registry> + Send + Sync>;

/// Changes the log's settings at run time.
#[derive(Clone)]
pub struct LogControl {
    level: reload::Handle<Targets, FullRegistry>,
    output: reload::Handle<Output, Registry>,
}

type FullRegistry = tracing_subscriber::layer::Layered<reload::Layer<Output, Registry>, Registry>;

/// Starts the log of this process. Call it once.
#[must_use]
pub(crate) fn start(settings: &Settings) -> LogControl {
    let (output, output_handle) = reload::Layer::new(output(settings.format));
    let (level, level_handle) = reload::Layer::new(filter(settings.level));
    // A second start, as in tests, keeps the first.
    let _ = tracing_subscriber::registry().with(output).with(level).try_init();
    LogControl { level: level_handle, output: output_handle }
}

impl std::fmt::Debug for LogControl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogControl").finish_non_exhaustive()
    }
}

impl LogControl {
    /// Applies new settings.
    pub fn set(&self, settings: &Settings) {
        // They fail only if the log is gone, at the end of the process.
        let _ = self.level.reload(filter(settings.level));
        let _ = self.output.reload(output(settings.format));
    }
}

/// Returns the filter for a level. Libraries warn of what peers send, as often as they send it (h2: each
/// answer to a PING that was never sent). Above "debug" peers must not be able to fill the log.
fn filter(level: LevelFilter) -> Targets {
    let all = Targets::new().with_default(level);
    match level >= LevelFilter::DEBUG {
        true => all,
        false => {
            all.with_targets(["h2", "hyper", "hyper_util", "rustls"].map(|name| (name, LevelFilter::OFF)))
        }
    }
}

fn output(format: Format) -> Output {
    let colours = io::stderr().is_terminal();
    let to = move || Guarded { to: io::stderr(), format, colours };
    let layer = fmt::layer().with_writer(to).with_target(false);
    match format {
        Format::Text => Box::new(layer.with_ansi(colours)),
        Format::Json => Box::new(layer.json().flatten_event(true)),
    }
}

/// Writes each event in one piece, without terminal control codes: events contain text from peers. The crate
/// escapes ESC in their fields.
struct Guarded<T> {
    to: T,
    format: Format,
    colours: bool,
}

impl<T: io::Write> io::Write for Guarded<T> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = escape::text(event);
        let safe = match self.format {
            Format::Text => escape::line(&text, self.colours),
            Format::Json => escape::json(&text),
        };
        self.to.write_all(safe.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use tracing::Level;

    #[test]
    fn what_peers_send_does_not_fill_the_log() {
        let says = |level, target| filter(level).would_enable(target, &Level::WARN);
        assert!(says(LevelFilter::INFO, "holdline::listener::accept"));
        assert!(!says(LevelFilter::ERROR, "holdline::listener::accept"));
        assert!(!says(LevelFilter::INFO, "h2::proto::ping_pong"));
        assert!(says(LevelFilter::DEBUG, "h2::proto::ping_pong"));
    }

    /// What is kept of the events of a test.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_peers_wrote_is_one_line_that_commands_no_terminal() {
        for (format, escaped) in
            [(Format::Text, "a\\x0AERROR\\xE2\\x80\\xAE"), (Format::Json, "a\\nERROR\\u202e")]
        {
            let kept = Kept::default();
            let to = kept.clone();
            let layer = fmt::layer().with_writer(move || Guarded { to: to.clone(), format, colours: false });
            let layer: Output = match format {
                Format::Text => Box::new(layer.with_ansi(false)),
                Format::Json => Box::new(layer.json()),
            };
            let error = "a\nERROR\u{202e}";
            tracing::subscriber::with_default(Registry::default().with(layer), || {
                tracing::warn!(%error, "try failed");
            });
            let written = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
            assert!(written.contains(escaped) && written.lines().count() == 1, "{written}");
        }
    }
}
