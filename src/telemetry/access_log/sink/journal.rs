//! Owns journald as the access log's target. Each line has fields that can be queried.

use super::{QueuedLine, Severity};
use crate::escape::Token;
use crate::telemetry::Facility;
use crate::telemetry::report::Ended;
use log::kv::{ToValue, Value};
use log::{Level, Record};
use std::io;
use systemd_journal_logger::JournalLog;

/// The identifier for `journalctl -t`.
const NAME: &str = "holdline";
/// The socket that the crate uses.
const SOCKET: &str = "/run/systemd/journal/socket";

/// The daemon of this host. Each message names its socket, so that a restarted daemon is found.
pub(super) struct Journal(JournalLog);

impl Journal {
    /// Checks that it is there.
    pub(super) fn connect(facility: Facility) -> io::Result<Self> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{SOCKET}: {error}"));
        let log = JournalLog::empty().map_err(named)?.with_syslog_identifier(NAME.to_owned());
        Ok(Self(log.add_extra_field("SYSLOG_FACILITY", facility.0.to_string())))
    }

    pub(super) fn send(&self, line: &QueuedLine, text: &str) -> io::Result<()> {
        let Ended { report, outcome } = &*line.end;
        let ending = &outcome.ending;
        let code = ending.code.map(|code| code.0);
        let endpoint = report.endpoint.as_ref().map(ToString::to_string);
        let (id, client) = (report.id.to_string(), report.client().to_string());
        let host = Token(report.host()).to_string();
        let path = Token(report.target()).to_string();
        let left_out = Some(line.left_out).filter(|&lines| lines > 0);
        let fields: [(&str, Option<Value<'_>>); 12] = [
            ("HOLDLINE_ENDED_BY", Some(ending.ended_by.as_str().to_value())),
            ("HOLDLINE_CAUSE", Some(ending.cause.as_str().to_value())),
            ("HOLDLINE_CODE", code.as_ref().map(ToValue::to_value)),
            ("HOLDLINE_STATUS", Some(report.status.to_value())),
            ("HOLDLINE_CLIENT", Some(client.to_value())),
            ("HOLDLINE_ROUTE", report.route().map(|name| Value::from(&**name))),
            ("HOLDLINE_UPSTREAM", report.upstream().map(|name| Value::from(&**name))),
            ("HOLDLINE_ENDPOINT", endpoint.as_deref().map(Value::from)),
            ("HOLDLINE_ID", Some(id.to_value())),
            ("HOLDLINE_HOST", Some(Value::from(&*host))),
            ("HOLDLINE_PATH", Some(Value::from(&*path))),
            ("HOLDLINE_LEFT_OUT", left_out.as_ref().map(ToValue::to_value)),
        ];
        let fields: Vec<_> = fields.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let mut record = Record::builder();
        record.level(Severity::of(ending).level()).target("access").key_values(&fields);
        self.0.journal_send(&record.args(format_args!("{text}")).build())
    }
}

impl Severity {
    /// Returns the level that the crate maps to this priority. It sends `Info` as NOTICE, and `Debug` as INFO.
    fn level(self) -> Level {
        match self {
            Self::Error => Level::Error,
            Self::Warning => Level::Warn,
            Self::Notice => Level::Info,
            Self::Info => Level::Debug,
        }
    }
}
