//! Owns the cost of the parts by themselves: scanner, relay, routes, balancing. No socket, no clock.
#![allow(missing_docs, clippy::unwrap_used, reason = "benches")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use holdline::testing::balance::{Candidate, Method, Source, key_of, pick};
use holdline::testing::outcome::{PerSide, Side};
use holdline::testing::route::{PathPattern, Rule, Table, normalise};
use holdline::testing::tunnel::relay::{Output, Relay};
use holdline::testing::tunnel::timer::TunnelTime;
use holdline::testing::tunnel::{CloseCodes, Framing, OnViolation, Pong, Settings};
use holdline::testing::ws::frame::{OpCode, encode};
use holdline::testing::ws::mask::MaskKey;
use holdline::testing::ws::scanner::{Rules, Scanner};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

/// What a driver reads at once.
const CHUNK: usize = 64 * 1024;

/// Frames as a client sends them, one behind the other, `length` bytes in all or a little less.
fn frames(payload: usize, length: usize) -> (Vec<u8>, usize) {
    let frame = encode(OpCode::Binary, &vec![7; payload], Some(MaskKey([1, 2, 3, 4])));
    let count = (length / frame.len()).max(1);
    (frame.repeat(count), count)
}

fn scan(scanner: &mut Scanner, mut input: &[u8]) -> usize {
    let mut events = 0;
    while let Some(event) = scanner.next(input).unwrap() {
        input = &input[event.taken..];
        events += 1;
    }
    events
}

fn scanner(c: &mut Criterion) {
    let mut group = c.benchmark_group("scanner");
    for payload in [8, 64, 1024] {
        let (wire, count) = frames(payload, CHUNK);
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new("frames", payload), |b| {
            let mut scanner = Scanner::new(Rules { masked: true, deflate: false });
            b.iter(|| scan(&mut scanner, black_box(&wire)));
        });
    }
    // A frame over many chunks: its bytes are counted and never looked at, so this is no speed of
    // memory but the cost of a chunk, told in bytes.
    let (wire, _) = frames(1 << 20, 1 << 20);
    group.throughput(Throughput::Bytes(wire.len() as u64));
    group.bench_function("large", |b| {
        let mut scanner = Scanner::new(Rules { masked: true, deflate: false });
        b.iter(|| black_box(&wire).chunks(CHUNK).map(|chunk| scan(&mut scanner, chunk)).sum::<usize>());
    });
    group.finish();
}

/// Counts, so that what is measured is the relay.
#[derive(Default)]
struct Count(usize);

impl Output for Count {
    fn send(&mut self, _: Side, bytes: &[u8]) {
        self.0 += black_box(bytes).len();
    }

    fn mask_key(&mut self) -> MaskKey {
        MaskKey([1, 2, 3, 4])
    }
}

fn relay_with_defaults() -> Relay {
    let often = Some(Duration::from_secs(25));
    let settings = Settings {
        ping: PerSide { client: often, upstream: often },
        ping_timeout: Duration::from_secs(20),
        pong: Pong::Required,
        read_timeout: None,
        send_timeout: Some(Duration::from_secs(60)),
        close_timeout: Duration::from_secs(10),
        max_lifetime: None,
        on_violation: OnViolation::Blind,
        max_message_size: None,
        close_codes: CloseCodes::Registered,
    };
    Relay::new(Arc::new(settings), Framing::WebSocket { deflate: false }, PerSide::default())
}

fn relay(c: &mut Criterion) {
    let mut group = c.benchmark_group("relay");
    let mut run = |name: &str, wire: &[u8], throughput| {
        group.throughput(throughput);
        group.bench_function(name, |b| {
            let (mut relay, mut out) = (relay_with_defaults(), Count::default());
            b.iter(|| relay.on_bytes(Side::Client, black_box(wire), TunnelTime::ZERO, &mut out));
            assert!(out.0 > 0);
        });
    };
    let (message, _) = frames(64, 1);
    run("message_64", &message, Throughput::Elements(1));
    let (chunk, _) = frames(64, CHUNK);
    run("chunk_64k_of_64", &chunk, Throughput::Bytes(chunk.len() as u64));
    let (chunk, _) = frames(CHUNK - 14, 1);
    run("chunk_64k_of_one", &chunk, Throughput::Bytes(chunk.len() as u64));
    group.finish();
}

/// 20 routes, as a site has them: hosts of each kind, prefixes, exact paths, two regexes.
fn table() -> Table {
    let prefix = |path: &str| PathPattern::prefix(path, false).unwrap();
    let mut rules: Vec<Rule> = (0..12)
        .map(|n| Rule { hosts: vec!["app.example.com".parse().unwrap()], path: prefix(&format!("/ws/{n}/")) })
        .collect();
    let regexes = [r"^/rooms/([0-9]+)$", r"(?i)\.(gif|jpg|jpeg)$"];
    rules.extend(regexes.map(|regex| Rule {
        hosts: vec!["app.example.com".parse().unwrap()],
        path: PathPattern::regex(regex).unwrap(),
    }));
    let hosts = ["*.example.com", ".example.org", "mail.*", "~^img[0-9]+\\.example\\.net$"];
    rules.extend(hosts.map(|host| Rule { hosts: vec![host.parse().unwrap()], path: prefix("/") }));
    rules.push(Rule { hosts: vec![], path: PathPattern::exact("/healthz").unwrap() });
    rules.push(Rule { hosts: vec![], path: prefix("/") });
    assert_eq!(rules.len(), 20);
    Table::new(&rules)
}

fn route(c: &mut Criterion) {
    let (mut group, table) = (c.benchmark_group("route_of_20"), table());
    let asked = [
        ("prefix", "app.example.com", "/ws/7/room", 7),
        ("regex", "app.example.com", "/rooms/1234", 12),
        ("wildcard", "a.b.example.org", "/", 15),
        ("fallback", "elsewhere.test", "/healthz", 18),
    ];
    for (name, host, path, expected) in asked {
        assert_eq!(table.find(host, path), Some(expected), "{name}");
        group.bench_function(name, |b| {
            b.iter(|| table.find(black_box(host), normalise(black_box(path)).unwrap()));
        });
    }
    group.finish();
}

fn balance(c: &mut Criterion) {
    let mut group = c.benchmark_group("balance");
    let methods = [
        ("least_conn", Method::LeastConn),
        ("ip_hash", Method::IpHash),
        ("round_robin", Method::RoundRobin),
        ("random_two", Method::RandomTwo),
        ("hash", Method::Hash(Source::Path)),
    ];
    for (name, method) in methods {
        for count in [3_u32, 100] {
            group.bench_function(BenchmarkId::new(name, count), |b| {
                let candidate = |id: u32| Candidate {
                    id: key_of(&id.to_be_bytes()),
                    weight: 1 + id % 3,
                    active: id * 7 % 11,
                    turn: 0,
                };
                let mut candidates: Vec<_> = (0..count).map(candidate).collect();
                let mut key = 0_u64;
                b.iter(|| {
                    key = key.wrapping_add(0x9e37_79b9_7f4a_7c15);
                    pick(&method, black_box(&mut candidates), Some(key), |below| key % below)
                });
            });
        }
    }
    group.finish();
}

criterion_group!(parts, scanner, relay, route, balance);
criterion_main!(parts);
