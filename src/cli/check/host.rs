//! Owns what of this host does not fit a configuration: folders, names, addresses and ports. It must not know
//! mistakes, which no host mends.

use crate::addr::{ListenAddr, ServerAddr};
use crate::config::Config;
use crate::telemetry::AccessTarget;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs as _, UdpSocket};
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// What keeps the configuration from being run here, or from doing what it is for.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let names = names(config);
    let looked_up = look_up(&names);
    let missing = names.iter().filter(|name| looked_up.get(name).is_none_or(Result::is_err));
    let missing = missing.map(|(name, port)| {
        let why = match looked_up.get(&(name.clone(), *port)) {
            Some(Err(error)) => error.to_string(),
            _ => format!("no answer within {} s", PATIENCE.as_secs()),
        };
        format!("{name}:{port}: cannot be looked up from here: {why}; Holdline starts all the same, and tries again")
    });
    access_log(config).into_iter().chain(missing).chain(loops(config, &looked_up)).collect()
}

/// Where the access log cannot be written: `run` fails then.
fn access_log(config: &Config) -> Option<String> {
    let AccessTarget::File(path) = &config.log.access else { return None };
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.clone());
    let folder = whole.parent().unwrap_or(Path::new("/"));
    let place = config.place_of("log", path).map(ToString::to_string).unwrap_or_default();
    let fault = match std::fs::metadata(folder) {
        Err(error) => format!("{}: {error}", folder.display()),
        Ok(found) if !found.is_dir() => format!("{} is no folder", folder.display()),
        Ok(_) if whole.is_dir() => format!("{} is a folder", whole.display()),
        Ok(_) => return None,
    };
    Some(format!("{place}{fault}: `holdline run` would fail"))
}

type Name = (String, u16);
type Found = BTreeMap<Name, io::Result<Vec<SocketAddr>>>;

fn names(config: &Config) -> Vec<Name> {
    let servers = config.plan.upstreams.iter().flat_map(|upstream| &upstream.servers);
    let names = servers.filter_map(|server| match &server.address {
        ServerAddr::Name(name, port) => Some((name.clone(), *port)),
        ServerAddr::Ip(_) | ServerAddr::Unix(_) => None,
    });
    let mut names: Vec<Name> = names.collect();
    names.sort();
    names.dedup();
    names
}

/// Looks all of them up side by side. What takes longer than [`PATIENCE`] is missing.
fn look_up(names: &[Name]) -> Found {
    let (sender, answers) = mpsc::channel();
    for (name, port) in names.iter().cloned() {
        let sender = sender.clone();
        std::thread::spawn(move || {
            let found = (name.as_str(), port).to_socket_addrs().map(Iterator::collect);
            // Nobody waits for it any more.
            let _ = sender.send(((name, port), found));
        });
    }
    drop(sender);
    let end = Instant::now() + PATIENCE;
    let next = || answers.recv_timeout(end.saturating_duration_since(Instant::now())).ok();
    std::iter::from_fn(next).collect()
}

/// A resolver that answers at all does so sooner.
const PATIENCE: Duration = Duration::from_secs(5);

/// Upstreams whose server is a listener of this very configuration.
fn loops(config: &Config, looked_up: &Found) -> Vec<String> {
    let mut found = Vec::new();
    for upstream in &config.plan.upstreams {
        for server in &upstream.servers {
            let addresses = match &server.address {
                ServerAddr::Ip(address) => vec![*address],
                ServerAddr::Name(name, port) => match looked_up.get(&(name.clone(), *port)) {
                    Some(Ok(addresses)) => addresses.clone(),
                    _ => Vec::new(),
                },
                ServerAddr::Unix(_) => Vec::new(),
            };
            let is_own = |listen: &ListenAddr| match (listen, &server.address) {
                (ListenAddr::Unix(path), ServerAddr::Unix(server)) => path == server,
                (ListenAddr::Tcp(listen), _) => addresses.iter().any(|address| reaches(*address, *listen)),
                _ => false,
            };
            if let Some(listen) = config.listeners.iter().find(|listen| is_own(&listen.socket.address)) {
                found.push(format!(
                    "upstream.{}.servers: {} is where Holdline itself listens, {}: requests would go round and round",
                    upstream.name, server.address, listen.socket.address
                ));
            }
        }
    }
    found
}

/// Whether connecting to `address` leads to who listens at `listen`.
fn reaches(address: SocketAddr, listen: SocketAddr) -> bool {
    let (to, at) = (address.ip().to_canonical(), listen.ip().to_canonical());
    // A socket of IPv6 that takes any address takes those of IPv4 too.
    let takes_family = at.is_ipv6() || to.is_ipv4();
    let is_same = to == at || (at.is_unspecified() && takes_family && is_of_this_host(to));
    address.port() == listen.port() && (is_same || (to.is_unspecified() && at.is_loopback()))
}

fn is_of_this_host(address: IpAddr) -> bool {
    address.is_loopback() || address.is_unspecified() || UdpSocket::bind((address, 0)).is_ok()
}

/// Notes addresses that are in use. It is only a note, because Holdline itself may be running.
pub(super) fn taken(config: &Config) -> Vec<String> {
    // Systemd runs `check` before each reload of a running proxy.
    if std::env::var_os("MAINPID").is_some() {
        return Vec::new();
    }
    let taken = config.listeners.iter().filter_map(|listen| {
        let ListenAddr::Tcp(address) = listen.socket.address else { return None };
        let error = TcpListener::bind(address).err()?;
        match error.kind() {
            io::ErrorKind::AddrInUse => Some(format!(
                "{address} is in use now, by a running Holdline or another process: `ss -ltnp` names it"
            )),
            io::ErrorKind::AddrNotAvailable => Some(format!("{address} is no address of this host")),
            _ => None,
        }
    });
    taken.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_leads_to_who_listens_there() {
        let reaches = |to: &str, at: &str| reaches(to.parse().unwrap(), at.parse().unwrap());
        assert!(reaches("127.0.0.1:80", "127.0.0.1:80"));
        assert!(reaches("127.0.0.1:80", "0.0.0.0:80"));
        assert!(reaches("127.0.0.5:80", "[::]:80"));
        assert!(reaches("[::1]:80", "[::]:80"));
        assert!(reaches("0.0.0.0:80", "127.0.0.1:80"));
        assert!(!reaches("127.0.0.1:81", "0.0.0.0:80"));
        assert!(!reaches("[::1]:80", "0.0.0.0:80"));
        assert!(!reaches("192.0.2.1:80", "0.0.0.0:80"), "an address of nobody (RFC 5737)");
    }
}
