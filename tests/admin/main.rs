//! The admin endpoint (`docs/admin-api.md`): what is told, who may ask, what is ordered.
#![allow(clippy::unwrap_used, reason = "tests")]

mod access;
mod connections;
mod endpoints;
mod ends;
mod health;
mod reload;
mod status;
mod streams;
#[path = "../support/mod.rs"]
mod support;

use serde_json::json;
use std::net::SocketAddr;
use support::operator::Operator;
use support::{Proxy, route, upstream};

const ADMIN: &str = "[admin]\naddress = \"127.0.0.1:0\"\n";

/// A proxy with an admin endpoint, and its operator. `rest` is the configuration but for what each has.
async fn start(rest: &str) -> (Proxy, Operator) {
    let proxy = Proxy::start(&format!("{ADMIN}{rest}")).await;
    let operator = Operator::at(proxy.running.admin_addr().unwrap());
    (proxy, operator)
}

/// The same before one upstream with these servers.
async fn before(servers: &[SocketAddr]) -> (Proxy, Operator) {
    start(&format!("{}\n{}", route(""), upstream(servers, ""))).await
}

/// The id of the one live connection.
async fn only(operator: &Operator) -> String {
    let list = operator.value("/api/connections").await;
    assert_eq!(list["total"], json!(1));
    list["connections"][0]["id"].as_str().unwrap().to_owned()
}
