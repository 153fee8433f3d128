//! Names, values, targets and methods of requests: what reaches the upstream, and in which form.

#![allow(clippy::unwrap_used, reason = "tests")]

mod framing;
mod host;
mod names;
#[path = "../support/mod.rs"]
mod support;
mod target;

use std::net::SocketAddr;
use support::{Proxy, Raw, route, upstream, with_listen};

/// A proxy with more settings of its listener and of its route.
async fn with(listen: &str, rest: &str, settings: &str, server: SocketAddr) -> Proxy {
    let rest = format!("{rest}\n{}\n{}", route(settings), upstream(&[server], ""));
    let listen = format!("address = \"127.0.0.1:0\"\n{listen}");
    Proxy::with(&with_listen(&rest).replace("address = \"127.0.0.1:0\"", &listen)).await
}

fn value<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = head.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

/// Reads the head of the one request that reaches the upstream, as bytes.
async fn head_bytes(server: &mut Raw) -> Vec<u8> {
    server.until_or_end(b"\r\n\r\n").await.unwrap()
}

fn has_line(head: &[u8], line: &[u8]) -> bool {
    head.split(|&byte| byte == b'\n').any(|found| found.trim_ascii().eq_ignore_ascii_case(line))
}
