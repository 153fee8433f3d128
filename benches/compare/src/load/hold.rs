//! Owns idle connections: opened, held, looked at, closed, as the standard input says.

use super::{Counts, Fleet, PATIENCE, Then, say};
use serde_json::json;
use std::io::{self, Read};
use std::time::Instant;

/// Opens `count` and says so; then obeys, one letter each: `m` sends a message on each and waits for the echoes, `c`
/// closes all. Ends when the standard input does.
pub fn run(mut fleet: Fleet, count: usize) -> io::Result<()> {
    let opened = fleet.open(count)?;
    say(
        "opened",
        json!({ "opened": opened.opened, "failures": opened.failures.json(), "seconds": opened.seconds }),
    );
    fleet.heed_input()?;
    let mut ends = Counts::default();
    loop {
        let woken = fleet.turn(None, |_, news| {
            news.ended.iter().for_each(|end| ends.add(end));
            Then::Nothing
        })?;
        let mut order = [0];
        if !woken.input {
            continue;
        } else if io::stdin().read(&mut order)? == 0 {
            return Ok(());
        }
        match order[0] {
            b'm' => {
                let received = message_each(&mut fleet, &mut ends)?;
                say("messages", json!({ "received": received, "ended": ends.json() }));
            }
            b'c' => {
                let closed = fleet.close()?;
                say("closed", json!({ "ended": ends.json(), "closed": closed.json() }));
            }
            _ => {}
        }
    }
}

/// How many messages came back.
fn message_each(fleet: &mut Fleet, ends: &mut Counts) -> io::Result<usize> {
    let (mut left, mut received, mut last) = (0, 0, Instant::now());
    for slot in fleet.live() {
        match fleet.order(slot, Then::Send)? {
            Some(end) => ends.add(&end),
            None => left += 1,
        }
    }
    while left > 0 && last.elapsed() < PATIENCE {
        fleet.turn(Some(PATIENCE), |_, news| {
            received += news.received as usize;
            left -= (news.received > 0 || news.ended.is_some()) as usize;
            news.ended.iter().for_each(|end| ends.add(end));
            last = Instant::now();
            Then::Nothing
        })?;
    }
    Ok(received)
}
