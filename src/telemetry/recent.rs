//! Owns the last ends, for whoever looks at them: so many, and so many bytes of them.

use super::report::Report;
use crate::outcome::Outcome;
use std::collections::VecDeque;
use std::sync::Arc;

/// The end of a connection: what was known of it, and what became of it.
pub type End = Arc<(Report, Outcome)>;

/// The last ends.
#[derive(Debug, Default)]
pub struct Recent {
    ends: VecDeque<End>,
    bytes: usize,
    /// How many there ever were: the number of the next one.
    count: u64,
}

impl Recent {
    /// Most ends that are kept: a mass disconnect of a few thousand clients is to be told whole.
    pub const MOST: usize = 10_000;
    /// Most bytes of them, for paths may be long.
    pub const MOST_BYTES: usize = 6 << 20;

    /// Adds one; the oldest go if there are too many.
    pub fn add(&mut self, end: End) {
        self.bytes += size(&end);
        self.count += 1;
        self.ends.push_back(end);
        while self.ends.len() > Self::MOST || self.bytes > Self::MOST_BYTES {
            let Some(oldest) = self.ends.pop_front() else { return };
            self.bytes -= size(&oldest);
        }
    }

    /// The last `most` of them, the newest first.
    #[must_use]
    pub fn newest(&self, most: usize) -> Vec<End> {
        self.ends.iter().rev().take(most).cloned().collect()
    }

    /// How many there ever were; to be asked for what came since.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }
}

fn size(end: &End) -> usize {
    let (report, outcome) = &**end;
    size_of::<(Report, Outcome)>() + report.text_size() + outcome.ending.reason.len()
}
