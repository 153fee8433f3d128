//! Owns the settings of a server in `[upstream.NAME]`. It must not know the rest of an upstream.

use crate::addr::ServerAddr;
use crate::config::document::{InlineTable, Item};
use crate::config::raw::{Table, Value};
use crate::config::value::{duration, integer, list, off_or, parsed_or_hint, word, word_for};
use crate::config::{defaults, hint, words};
use crate::upstream::Server;
use std::time::Duration;

/// Reads `servers`, with the defaults of their upstream. `None` means that there is no list.
pub(super) fn all(table: &Table<'_>, max_fails: u32, fail_timeout: Duration) -> Option<Vec<Server>> {
    let remedy = "expected a list of servers, like [\"10.0.0.1:8080\"]";
    let read = |value: &Value<'_>| {
        let server = server(value, max_fails, fail_timeout);
        Some((value.place.clone(), server))
    };
    let found = table.require("servers", remedy, list(remedy, read))?;
    if found.is_empty() {
        table.error(table.place_of("servers"), "found an empty list", "expected one server at least");
    }
    let mut servers: Vec<Server> = Vec::new();
    for (place, server) in found {
        let Some(server) = server else { continue };
        if servers.iter().any(|known| known.address == server.address) {
            let found = format!("found \"{}\" a second time", server.address);
            table.error(place, found, "expected each server once; a larger share is a weight");
        }
        servers.push(server);
    }
    Some(servers)
}

fn server(value: &Value<'_>, max_fails: u32, fail_timeout: Duration) -> Option<Server> {
    let read = |table: &Table<'_>| {
        let address = table.require("address", "expected an address like \"10.0.0.1:8080\"", address);
        let most = off_or(integer(1..=u32::MAX));
        let server = Server {
            weight: table.get_or("weight", integer(1..=MOST_WEIGHT), defaults::WEIGHT),
            max_conns: table.get_or("max_conns", most, defaults::MAX_CONNS),
            max_fails: table.get_or("max_fails", integer(0..=u32::MAX), max_fails),
            fail_timeout: table.get_or("fail_timeout", duration, fail_timeout),
            backup: table.get_or("backup", Value::boolean, defaults::BACKUP),
            state: table.get_or("state", word(words::STATE), defaults::STATE),
            ..plain(ServerAddr::Name(String::new(), 0), max_fails, fail_timeout)
        };
        Some(Server { address: address?, ..server })
    };
    if value.is_table() {
        return value.table(read).flatten();
    }
    if value.as_str().is_none() {
        return value.wrong("expected \"host:port\" or a table with an address");
    }
    Some(plain(address(value)?, max_fails, fail_timeout))
}

fn address(value: &Value<'_>) -> Option<ServerAddr> {
    parsed_or_hint(hint::server)(value)
}

/// A server with an address and defaults.
fn plain(address: ServerAddr, max_fails: u32, fail_timeout: Duration) -> Server {
    Server {
        address,
        weight: defaults::WEIGHT,
        max_conns: defaults::MAX_CONNS,
        max_fails,
        fail_timeout,
        backup: defaults::BACKUP,
        state: defaults::STATE,
    }
}

/// The table for a server. It has numbers of its own: those of the upstream are only their defaults.
pub(super) fn write(server: &Server) -> Item {
    let table = InlineTable::default()
        .with("address", Item::text(&server.address))
        .with("weight", server.weight)
        .with("max_conns", Item::or_off(server.max_conns))
        .with("max_fails", server.max_fails)
        .with("fail_timeout", server.fail_timeout)
        .with("backup", server.backup)
        .with("state", word_for(words::STATE, &server.state));
    table.or_short("address").into()
}

/// As in nginx, whose weights have 16 bits.
const MOST_WEIGHT: u32 = 65_535;
