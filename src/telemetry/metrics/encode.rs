//! Owns the text formats that Prometheus reads. It must not know which metrics exist.

use crate::telemetry::tally::Histogram;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use std::fmt;

/// A text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus' own format 0.0.4, the default.
    Prometheus,
}

impl Format {
    /// Returns the format for a scraper's `Accept` header.
    #[must_use]
    pub fn wanted(accept: &str) -> Self {
        match accept.contains("application/openmetrics-text") {
            true => Self::OpenMetrics,
            false => Self::Prometheus,
        }
    }

    /// Returns its `Content-Type`.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

pub(super) fn encode(families: Vec<Family>, format: Format) -> String {
    let mut text = String::with_capacity(16 * 1024);
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Collected(families)));
    // Writing to a string does not fail.
    let _ = encode_registry(&mut text, &registry).and_then(|()| encode_eof(&mut text));
    match format {
        Format::OpenMetrics => text,
        Format::Prometheus => as_prometheus(&text),
    }
}

/// In Prometheus' own format, the metadata of a counter also has the suffix, and there are no units.
fn as_prometheus(text: &str) -> String {
    let mut converted = String::with_capacity(text.len());
    let (mut help, mut name) = ("", "");
    for line in text.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(described), said) => {
                (name, help) = (described, said.unwrap_or(""))
            }
            (Some("#"), Some("TYPE"), Some(_), Some(kind)) => {
                let suffix = if kind == "counter" { "_total" } else { "" };
                converted.push_str(&format!("# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}\n"));
            }
            (Some("#"), ..) => {}
            _ => {
                converted.push_str(line);
                converted.push('\n');
            }
        }
    }
    converted
}

pub(super) type Labels = Vec<(&'static str, String)>;

/// A metric and its series.
#[derive(Debug)]
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) values: Values,
}

#[derive(Debug)]
pub(super) enum Values {
    Counters(Vec<(Labels, f64)>),
    Gauges(Vec<(Labels, f64)>),
    Histograms(Vec<(Labels, Histogram)>),
}

#[derive(Debug)]
struct Collected(Vec<Family>);

impl Collector for Collected {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|family| family.encode(&mut encoder))
    }
}

impl Family {
    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let kind = match &self.values {
            Values::Counters(_) => MetricType::Counter,
            Values::Gauges(_) => MetricType::Gauge,
            Values::Histograms(_) => MetricType::Histogram,
        };
        // The encoder adds a counter's suffix itself.
        let name = self.name.trim_end_matches("_total");
        let metric = encoder.encode_descriptor(name, self.help, None, kind)?;
        match &self.values {
            Values::Counters(values) => each(metric, values, |metric, value| {
                metric.encode_counter::<NoLabelSet, f64, f64>(value, None)
            }),
            Values::Gauges(values) => each(metric, values, |metric, value| metric.encode_gauge(value)),
            Values::Histograms(values) => each(metric, values, |metric, histogram| {
                let edges = histogram.edges().iter().copied().chain([f64::INFINITY]);
                let buckets: Vec<_> = edges.zip(histogram.counts().iter().copied()).collect();
                let count = histogram.counts().iter().sum();
                metric.encode_histogram::<NoLabelSet>(histogram.sum(), count, &buckets, None)
            }),
        }
    }
}

fn each<T>(
    mut metric: MetricEncoder<'_>,
    values: &[(Labels, T)],
    mut encode: impl FnMut(&mut MetricEncoder<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    values.iter().try_for_each(|(labels, value)| match labels.is_empty() {
        true => encode(&mut metric, value),
        false => encode(&mut metric.encode_family(labels)?, value),
    })
}

pub(super) fn counters(
    name: &'static str,
    help: &'static str,
    values: impl Iterator<Item = (Labels, u64)>,
) -> Family {
    let values = sorted(values.map(|(labels, value)| (labels, value as f64)));
    Family { name, help, values: Values::Counters(values) }
}

pub(super) fn gauges(
    name: &'static str,
    help: &'static str,
    values: impl Iterator<Item = (Labels, f64)>,
) -> Family {
    Family { name, help, values: Values::Gauges(sorted(values)) }
}

pub(super) fn histograms(
    name: &'static str,
    help: &'static str,
    values: impl Iterator<Item = (Labels, Histogram)>,
) -> Family {
    Family { name, help, values: Values::Histograms(sorted(values)) }
}

fn sorted<T>(values: impl Iterator<Item = (Labels, T)>) -> Vec<(Labels, T)> {
    let mut values: Vec<_> = values.collect();
    values.sort_by(|a, b| a.0.cmp(&b.0));
    values
}
