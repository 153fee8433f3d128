//! Owns the closed loop: each connection has one message under way, or one plain request, and sends the next when it
//! is back. So the load goes as fast as the slowest of load, proxy and upstream.

use super::{Counts, Fleet, Then, say};
use crate::cpu::{Reading, Watched};
use serde_json::json;
use std::io;
use std::time::{Duration, Instant};

/// How long a wait may be before the clock is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// How long a load goes.
#[derive(Clone, Copy)]
pub struct Span {
    /// Before anything is counted.
    pub warm_up: Duration,
    /// While it is counted.
    pub counted: Duration,
}

/// Opens the connections and says so; runs it and says what came of it.
pub fn run(mut fleet: Fleet, count: usize, span: Span, watched: &[Watched]) -> io::Result<()> {
    let opened = fleet.open(count)?;
    say("opened", json!({ "opened": opened.opened }));
    let (mut received, mut ends) = (0_u64, Counts::default());
    for slot in fleet.live() {
        if let Some(end) = fleet.order(slot, Then::Send)? {
            ends.add(&end);
        }
    }
    go(&mut fleet, span.warm_up, &mut received, &mut ends)?;
    received = 0;
    let before = Reading::take(watched);
    go(&mut fleet, span.counted, &mut received, &mut ends)?;
    let cpu = before.since(watched);
    say(
        "result",
        json!({
            "opened": opened.opened, "failures": opened.failures.json(), "ended": ends.json(),
            "received": received, "cpu": cpu,
        }),
    );
    Ok(())
}

fn go(fleet: &mut Fleet, length: Duration, received: &mut u64, ends: &mut Counts) -> io::Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < length {
        fleet.turn(Some(LOOK), |_, news| {
            *received += u64::from(news.received);
            news.ended.iter().for_each(|end| ends.add(end));
            if news.received > 0 { Then::Send } else { Then::Nothing }
        })?;
    }
    Ok(())
}
