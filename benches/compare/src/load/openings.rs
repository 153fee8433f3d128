//! Owns openings one after the other: connect, shake hands, be accepted, send a Close, see the end.

use super::rounds::Span;
use super::{Counts, Fleet, PATIENCE, Then, say};
use crate::client::News;
use crate::cpu::{Reading, Watched};
use crate::latency::Latencies;
use serde_json::json;
use std::io;
use std::time::{Duration, Instant};

/// How long a wait may be before the clock is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// So many failures are enough to know.
const ENOUGH: u64 = 1000;

/// Runs it, `at_once` at any time, and says what came of it.
pub fn run(mut fleet: Fleet, at_once: usize, span: Span, watched: &[Watched]) -> io::Result<()> {
    let mut all = Openings { begun: vec![Instant::now(); at_once], ..Openings::default() };
    for slot in 0..at_once {
        all.begin(&mut fleet, slot)?;
    }
    all.go(&mut fleet, span.warm_up)?;
    (all.opened, all.latencies) = (0, Latencies::default());
    let before = Reading::take(watched);
    all.go(&mut fleet, span.counted)?;
    let (cpu, user) = (before.since(watched), before.user_since(watched));
    let (opened, latency) = (all.opened, all.latencies.json());
    all.rest(&mut fleet)?;
    say(
        "result",
        json!({
            "opened": opened, "failures": all.failures.json(), "ended": all.ends.json(),
            "latency": latency, "cpu": cpu, "user": user,
        }),
    );
    Ok(())
}

#[derive(Default)]
struct Openings {
    begun: Vec<Instant>,
    open: Vec<bool>,
    again: Vec<usize>,
    opened: u64,
    /// Ends before a connection was open.
    failures: Counts,
    /// Ends after that.
    ends: Counts,
    latencies: Latencies,
}

impl Openings {
    fn begin(&mut self, fleet: &mut Fleet, slot: usize) -> io::Result<()> {
        self.open.resize(self.begun.len(), false);
        (self.begun[slot], self.open[slot]) = (Instant::now(), false);
        fleet.begin(slot)
    }

    /// Opens for so long, each anew where one has ended.
    fn go(&mut self, fleet: &mut Fleet, length: Duration) -> io::Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < length && self.failures.sum() < ENOUGH {
            fleet.turn(Some(LOOK), |slot, news| self.hear(slot, news))?;
            while let Some(slot) = self.again.pop() {
                self.begin(fleet, slot)?;
            }
        }
        Ok(())
    }

    /// Waits for the end of those that are left.
    fn rest(&mut self, fleet: &mut Fleet) -> io::Result<()> {
        let mut left = fleet.live().len();
        let mut last = Instant::now();
        while left > 0 && last.elapsed() < PATIENCE {
            fleet.turn(Some(PATIENCE), |slot, news| {
                left -= usize::from(news.ended.is_some());
                last = Instant::now();
                self.hear(slot, news)
            })?;
        }
        (0..left).for_each(|_| self.ends.add("stays open"));
        Ok(())
    }

    fn hear(&mut self, slot: usize, news: &News) -> Then {
        if news.opened {
            self.open[slot] = true;
            self.opened += 1;
            self.latencies.add(self.begun[slot].elapsed());
        }
        if let Some(end) = &news.ended {
            if self.open[slot] {
                self.ends.add(end)
            } else {
                self.failures.add(end)
            }
            self.again.push(slot);
        }
        if news.opened { Then::Close } else { Then::Nothing }
    }
}
