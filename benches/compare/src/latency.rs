//! Owns times taken, many of them, and what is said of them.

use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::time::Duration;

/// The longest that is told apart; longer ones count as this long.
const LONGEST_NS: u64 = 60_000_000_000;

/// A histogram of times, each to three digits.
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, LONGEST_NS, 3).expect("bounds that fit"))
    }
}

impl Latencies {
    /// Adds one.
    pub fn add(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_nanos()).unwrap_or(LONGEST_NS).clamp(1, LONGEST_NS));
    }

    /// Count, mean and percentiles, in microseconds; an empty one has none.
    pub fn json(&self) -> Value {
        if self.0.is_empty() {
            return Value::Null;
        }
        let at = |percentile| self.0.value_at_percentile(percentile) as f64 / 1e3;
        json!({
            "count": self.0.len(), "mean": self.0.mean() / 1e3, "max": self.0.max() as f64 / 1e3,
            "p50": at(50.0), "p90": at(90.0), "p99": at(99.0), "p99.9": at(99.9),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_what_was_added() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.json(), Value::Null);
        (1..=1000).for_each(|micros| latencies.add(Duration::from_micros(micros)));
        let told = latencies.json();
        for (name, expected) in [("p50", 500.0), ("p99", 990.0), ("p99.9", 999.0), ("max", 1000.0)] {
            let found = told[name].as_f64().unwrap();
            assert!((found / expected - 1.0).abs() < 0.002, "{name}: {found}");
        }
    }
}
