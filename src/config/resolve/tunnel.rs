//! Owns the settings of tunnels, in `[defaults]` and `[[route]]`. It must not know routes.

use crate::config::document::{InlineTable, Item, Section};
use crate::config::raw::Table;
use crate::config::value::{duration, off_or, size, word, word_for, write_duration};
use crate::config::words;
use crate::outcome::PerSide;
use crate::tunnel::{self, OnViolation, Pong};
use std::time::Duration;

/// Reads the settings of a table. Those of `base` are its defaults.
pub(super) fn read(table: &Table<'_>, base: &tunnel::Settings) -> tunnel::Settings {
    let limit = |key, base| table.get_or(key, off_or(duration), base);
    let (read_timeout, send_timeout) =
        (limit("read_timeout", base.read_timeout), limit("send_timeout", base.send_timeout));
    let close_timeout = table.get_or("close_timeout", duration, base.close_timeout);
    let max_lifetime = limit("max_lifetime", base.max_lifetime);
    let off = (PerSide { client: None, upstream: None }, base.ping_timeout, base.pong);
    let ping = table.section_or_off("ping", |table| ping(table, base));
    let (ping, ping_timeout, pong) = ping.unwrap_or(off);
    let on_violation = table.get("on_violation", word(words::ON_VIOLATION));
    let settings = tunnel::Settings {
        ping,
        ping_timeout,
        pong,
        read_timeout,
        send_timeout,
        close_timeout,
        max_lifetime,
        on_violation: table.or_default("on_violation", on_violation, base.on_violation),
        max_message_size: table.get_or("max_message_size", off_or(size), base.max_message_size),
        close_codes: table.get_or("close_codes", word(words::CLOSE_CODES), base.close_codes),
    };
    if (settings.ping, settings.read_timeout) != (base.ping, base.read_timeout) {
        warn_about_pings(table, &settings);
    }
    if settings.max_message_size.is_some() && on_violation == Some(OnViolation::Blind) {
        let text =
            "with max_message_size Holdline has to read frames, so a violation closes the tunnel with 1002";
        table.warn(table.place_of("on_violation"), text);
    }
    settings
}

fn ping(table: &Table<'_>, base: &tunnel::Settings) -> (PerSide<Option<Duration>>, Duration, Pong) {
    let interval = |key, base| table.get_or(key, off_or(duration), base);
    let (client, upstream) = (interval("client", base.ping.client), interval("upstream", base.ping.upstream));
    let timeout = table.get_or("timeout", duration, base.ping_timeout);
    let pong = table.get_or("pong", word(words::PONG), base.pong);
    (PerSide { client, upstream }, timeout, pong)
}

/// Warns of pings that come too seldom to keep a tunnel open.
fn warn_about_pings(table: &Table<'_>, settings: &tunnel::Settings) {
    let intervals = [settings.ping.client, settings.ping.upstream].into_iter().flatten();
    let place = table.place_of("ping");
    if let (Some(first), Some(limit)) = (intervals.clone().min(), settings.read_timeout)
        && first >= limit
    {
        let [first, limit] = [first, limit].map(write_duration);
        let text =
            format!("read_timeout ends an idle tunnel after {limit}, before the first ping at {first}");
        table.warn(place.clone(), text);
    }
    if let Some(longest) = intervals.max().filter(|&longest| longest > HALF_OF_USUAL_LIMIT) {
        let text =
            "above half of 60s, the default idle limit of nginx and AWS ALB: one lost ping can end a tunnel";
        table.warn(place, format!("{} is {text}", write_duration(longest)));
    }
}

/// Sets the settings of tunnels.
pub(super) fn write(section: &mut Section, tunnel: &tunnel::Settings) {
    section.set("read_timeout", Item::or_off(tunnel.read_timeout));
    section.set("send_timeout", Item::or_off(tunnel.send_timeout));
    section.set("close_timeout", tunnel.close_timeout);
    section.set("max_lifetime", Item::or_off(tunnel.max_lifetime));
    let ping = InlineTable::default()
        .with("client", Item::or_off(tunnel.ping.client))
        .with("upstream", Item::or_off(tunnel.ping.upstream))
        .with("timeout", tunnel.ping_timeout)
        .with("pong", word_for(words::PONG, &tunnel.pong));
    section.set("ping", ping);
    section.set("on_violation", word_for(words::ON_VIOLATION, &tunnel.on_violation));
    section.set("max_message_size", Item::or_off(tunnel.max_message_size.map(Item::Size)));
    section.set("close_codes", word_for(words::CLOSE_CODES, &tunnel.close_codes));
}

/// Of pings at half of an idle limit, one may be lost.
const HALF_OF_USUAL_LIMIT: Duration = Duration::from_secs(30);
