//! Owns the open loop: messages have times to be sent at, whatever became of those before. A latency counts from the
//! intended time, so a proxy that stalls is charged for every message that it kept from being sent.

use super::rounds::Span;
use super::{Counts, Fleet, Opened, PATIENCE, Then, say};
use crate::client::News;
use crate::cpu::{Reading, Watched};
use crate::latency::Latencies;
use serde_json::json;
use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

/// How much of what comes a second.
#[derive(Clone, Copy)]
pub struct Rates {
    /// Messages, in turn on all connections.
    pub messages: f64,
    /// Openings beside them, each with a message and a Close; may be 0.
    pub openings: f64,
}

/// Runs it; says when all are open, and what came of it.
pub fn run(mut fleet: Fleet, count: usize, rates: Rates, span: Span, watched: &[Watched]) -> io::Result<()> {
    let opened = fleet.open(count)?;
    say("opened", json!({ "opened": opened.opened }));
    let mut load = Load::new(count, span.warm_up);
    let begun = Instant::now();
    let (mut messages, mut openings) = (Ticks::new(begun, rates.messages), Ticks::new(begun, rates.openings));
    let (counted_from, until) = (begun + span.warm_up, begun + span.warm_up + span.counted);
    let mut reading = None;
    loop {
        let now = Instant::now();
        if reading.is_none() && now >= counted_from {
            reading = Some(Reading::take(watched));
        }
        if now >= until {
            break;
        }
        while let Some(intended) = messages.due(now) {
            load.send(&mut fleet, intended)?;
        }
        while openings.due(now).is_some() {
            load.begin(&mut fleet)?;
        }
        let next = [messages.next, openings.next].into_iter().flatten().fold(until, Instant::min);
        fleet.wake_after(next.saturating_duration_since(Instant::now()))?;
        fleet.turn(None, |slot, news| load.hear(slot, news))?;
    }
    let cpu = reading.map(|reading| reading.since(watched));
    load.rest(&mut fleet)?;
    load.tell(&opened, json!(cpu));
    Ok(())
}

/// Times at even distances.
struct Ticks {
    begun: Instant,
    a_second: f64,
    passed: u64,
    next: Option<Instant>,
}

impl Ticks {
    fn new(begun: Instant, a_second: f64) -> Self {
        Self { begun, a_second, passed: 0, next: (a_second > 0.0).then_some(begun) }
    }

    /// The next one, if it is due.
    fn due(&mut self, now: Instant) -> Option<Instant> {
        let due = self.next.filter(|next| *next <= now)?;
        self.passed += 1;
        self.next = Some(self.begun + Duration::from_secs_f64(self.passed as f64 / self.a_second));
        Some(due)
    }
}

struct Load {
    /// The intended times of what is under way, by slot.
    under_way: Vec<VecDeque<Instant>>,
    /// Whose turn it is.
    turn: usize,
    counted_from: Instant,
    latencies: Latencies,
    /// How late messages were sent: the generator's own part.
    lateness: Latencies,
    /// Messages whose connection had ended.
    unsent: u64,
    ends: Counts,
    short: Short,
}

/// Connections that are opened for one message each.
struct Short {
    /// The first slot of them.
    first: usize,
    free: Vec<usize>,
    /// Whether each was answered.
    answered: Vec<bool>,
    begun: u64,
    done: u64,
    failures: Counts,
}

impl Load {
    fn new(count: usize, warm_up: Duration) -> Self {
        Self {
            under_way: vec![VecDeque::with_capacity(8); count],
            turn: 0,
            counted_from: Instant::now() + warm_up,
            latencies: Latencies::default(),
            lateness: Latencies::default(),
            unsent: 0,
            ends: Counts::default(),
            short: Short {
                first: count,
                free: Vec::new(),
                answered: Vec::new(),
                begun: 0,
                done: 0,
                failures: Counts::default(),
            },
        }
    }

    fn send(&mut self, fleet: &mut Fleet, intended: Instant) -> io::Result<()> {
        let slot = self.turn;
        self.turn = (self.turn + 1) % self.under_way.len();
        if !fleet.is_live(slot) {
            self.unsent += 1;
            return Ok(());
        }
        if intended >= self.counted_from {
            self.lateness.add(intended.elapsed());
        }
        self.under_way[slot].push_back(intended);
        if let Some(end) = fleet.order(slot, Then::Send)? {
            self.ends.add(&end);
        }
        Ok(())
    }

    /// Begins an opening.
    fn begin(&mut self, fleet: &mut Fleet) -> io::Result<()> {
        let short = &mut self.short;
        let at = short.free.pop().unwrap_or(short.answered.len());
        if at == short.answered.len() {
            short.answered.push(false);
        }
        short.answered[at] = false;
        short.begun += 1;
        fleet.begin(short.first + at)
    }

    fn hear(&mut self, slot: usize, news: &News) -> Then {
        if slot >= self.short.first {
            return self.short.hear(slot - self.short.first, news);
        }
        for _ in 0..news.received {
            match self.under_way[slot].pop_front() {
                Some(intended) if intended >= self.counted_from => self.latencies.add(intended.elapsed()),
                _ => {}
            }
        }
        news.ended.iter().for_each(|end| self.ends.add(end));
        Then::Nothing
    }

    fn missing(&self) -> u64 {
        self.under_way.iter().map(|queue| queue.len() as u64).sum()
    }

    /// Waits for what is under way.
    fn rest(&mut self, fleet: &mut Fleet) -> io::Result<()> {
        let mut last = Instant::now();
        while self.missing() + self.short.under_way() > 0 && last.elapsed() < PATIENCE {
            fleet.turn(Some(PATIENCE), |slot, news| {
                last = Instant::now();
                self.hear(slot, news)
            })?;
        }
        Ok(())
    }

    fn tell(&self, opened: &Opened, cpu: serde_json::Value) {
        let short = &self.short;
        say(
            "result",
            json!({
                "opened": opened.opened, "failures": opened.failures.json(), "ended": self.ends.json(),
                "latency": self.latencies.json(), "lateness": self.lateness.json(), "cpu": cpu,
                "lost": self.missing() + self.unsent,
                "openings": { "begun": short.begun, "done": short.done, "failures": short.failures.json() },
            }),
        );
    }
}

impl Short {
    fn under_way(&self) -> u64 {
        self.begun - self.done - self.failures.sum()
    }

    fn hear(&mut self, at: usize, news: &News) -> Then {
        if let Some(end) = &news.ended {
            if self.answered[at] {
                self.done += 1
            } else {
                self.failures.add(end)
            }
            self.free.push(at);
        } else if news.opened {
            return Then::Send;
        } else if news.received > 0 {
            self.answered[at] = true;
            return Then::Close;
        }
        Then::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_keep_to_their_times() {
        let begun = Instant::now();
        let mut ticks = Ticks::new(begun, 1000.0);
        assert_eq!(ticks.due(begun), Some(begun));
        assert_eq!(ticks.due(begun), None);
        // After a stall all that were due come, each with its own time.
        let late = begun + Duration::from_millis(3);
        let due: Vec<_> = std::iter::from_fn(|| ticks.due(late)).map(|time| time - begun).collect();
        assert_eq!(due, [1, 2, 3].map(Duration::from_millis));
    }

    #[test]
    fn no_rate_is_never_due() {
        let begun = Instant::now();
        assert_eq!(Ticks::new(begun, 0.0).due(begun + Duration::from_secs(9)), None);
    }
}
