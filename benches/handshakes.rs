//! Owns what it costs to count a handshake and its end while others read or change all that is counted: with
//! 10,000 open tunnels on 100 routes: alone, beside a thread that shares nothing, beside one scrape after the
//! other, and beside one reload after the other. Ratios of one run are the numbers.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, reason = "benches")]

use holdline::testing::addr::ClientAddr;
use holdline::testing::config::Config;
use holdline::testing::outcome::{Cause, EndedBy, Ending, Outcome, PerSide};
use holdline::testing::proxy::Proxy;
use holdline::testing::proxy::registry::{LiveTunnel, Registration};
use holdline::testing::proxy::snapshot::Snapshot;
use holdline::testing::telemetry::access_log::AccessLog;
use holdline::testing::telemetry::metrics::Format;
use holdline::testing::telemetry::report::{Ended, Kind, Report, RequestInfo};
use holdline::testing::tunnel::control::Control;
use holdline::testing::tunnel::counters::Counters;
use holdline::testing::upstream::Endpoint;
use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

const ROUTES: usize = 100;

/// How much is measured.
struct Scale {
    tunnels: usize,
    /// Each condition is measured so often, in turns.
    rounds: usize,
    handshakes: usize,
}

fn main() {
    // `cargo test` runs each bench once, to see that it works.
    let scale = match std::env::args().any(|argument| argument == "--bench") {
        true => Scale { tunnels: 10_000, rounds: 15, handshakes: 20_000 },
        false => Scale { tunnels: 200, rounds: 1, handshakes: 200 },
    };
    let stage = Stage::new();
    let open: Vec<_> = (0..scale.tunnels).map(|number| stage.open(number)).collect();
    let mut measured: [Vec<Measured>; 4] = Default::default();
    for _ in 0..scale.rounds {
        measured[0].push(stage.measure(&scale, || false));
        measured[1].push(stage.measure(&scale, compute));
        measured[2].push(stage.measure(&scale, || stage.scrape()));
        measured[3].push(stage.measure(&scale, || stage.reload()));
    }
    let median = |of: fn(&Measured) -> Duration, condition: usize| {
        let mut times: Vec<_> = measured[condition].iter().map(of).collect();
        times.sort_unstable();
        times[times.len() / 2]
    };
    for (condition, name) in
        ["alone", "beside work", "beside scrapes", "beside reloads"].into_iter().enumerate()
    {
        let ratio = |of| median(of, condition).as_secs_f64() / median(of, 1).as_secs_f64();
        let beside: u32 = measured[condition].iter().map(|measured| measured.beside).sum();
        println!(
            "{name:<15} mean {:>9.2?} ({:.2} x)  p99.9 {:>9.2?} ({:.2} x)  longest {:>9.2?}  {beside} beside",
            median(|measured| measured.mean, condition),
            ratio(|measured| measured.mean),
            median(|measured| measured.late, condition),
            ratio(|measured| measured.late),
            median(|measured| measured.longest, condition),
        );
    }
    drop(open);
}

/// Takes a processor and no lock: what is slower than beside this waits for something else.
fn compute() -> bool {
    (0..100_000_u64).for_each(|number| _ = black_box(number));
    true
}

struct Measured {
    mean: Duration,
    /// One in a thousand took longer.
    late: Duration,
    longest: Duration,
    /// How often the other thread was done.
    beside: u32,
}

struct Stage {
    proxy: Proxy,
    snapshots: [Arc<Snapshot>; 2],
    endpoint: Arc<Endpoint>,
}

impl Stage {
    fn new() -> Self {
        let snapshots = [60, 90].map(|seconds| Arc::new(Snapshot::new(config(seconds).plan, None)));
        let upstream = snapshots[0].upstreams().next().unwrap();
        let endpoint = Arc::clone(upstream.pick(None, &[]).unwrap().endpoint());
        let log = Arc::new(AccessLog::new());
        Self { proxy: Proxy::new(Arc::clone(&snapshots[0]), log, None), snapshots, endpoint }
    }

    /// What a WebSocket handshake counts once it is answered.
    fn open(&self, number: usize) -> Registration {
        let (client, target) = (ClientAddr::Tcp(([192, 0, 2, 1], 5000).into()), &b"/room"[..]);
        let info = RequestInfo { client, proxied_by: None, method: "GET", host: b"x", target, tls: None };
        let snapshot = self.proxy.snapshot.load();
        let route = snapshot.routes().nth(number % ROUTES).unwrap();
        let mut report = Report::new(self.proxy.tunnels.next_id(), SystemTime::now(), &info);
        report.names = Some(Arc::clone(&route.names));
        report.endpoint = Some(Arc::clone(self.endpoint.shared_address()));
        (report.tries, report.status) = (1, 101);
        self.proxy.metrics.opened(&report, Duration::from_millis(3));
        let round_trips = Arc::clone(self.proxy.metrics.round_trips());
        let control = Arc::new(Control::new(Counters::counting_into(round_trips)));
        let opened = SystemTime::now().into();
        let endpoint = Arc::clone(&self.endpoint);
        self.proxy.tunnels.add(LiveTunnel { report, endpoint, opened, control })
    }

    /// What its end counts.
    fn end(&self, registration: Registration) {
        let report = registration.tunnel.report.clone();
        drop(registration);
        let (traffic, idle) = (PerSide::default(), PerSide::default());
        let ending = Ending::new(EndedBy::Client, Cause::Close);
        let duration = Duration::from_secs(90);
        let outcome = Outcome { ending, traffic, duration, idle, blind: None, ended: None };
        self.proxy.metrics.ended(Kind::Tunnel, &Arc::new(Ended { report, outcome }));
    }

    fn scrape(&self) -> bool {
        black_box(self.proxy.metrics_text(Format::Prometheus));
        true
    }

    /// Gives all tunnels other settings.
    fn reload(&self) -> bool {
        let previous = self.proxy.snapshot.load_full();
        let next = self.snapshots.iter().find(|snapshot| !Arc::ptr_eq(snapshot, &previous)).unwrap();
        self.proxy.snapshot.store(Arc::clone(next));
        self.proxy.apply_snapshot(next, &previous);
        true
    }

    /// Opens and ends tunnels, while another thread repeats `beside` until it has nothing to do.
    fn measure(&self, scale: &Scale, beside: impl Fn() -> bool + Sync) -> Measured {
        let (done, count) = (AtomicBool::new(false), AtomicU32::new(0));
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) && beside() {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
            let mut times: Vec<_> = (0..scale.handshakes).map(|number| self.time(number)).collect();
            done.store(true, Ordering::Relaxed);
            let mean = times.iter().sum::<Duration>() / scale.handshakes as u32;
            times.sort_unstable();
            let late = times[scale.handshakes - 1 - scale.handshakes / 1_000];
            Measured {
                mean,
                late,
                longest: times[scale.handshakes - 1],
                beside: count.load(Ordering::Relaxed),
            }
        })
    }

    fn time(&self, number: usize) -> Duration {
        let began = Instant::now();
        self.end(self.open(number));
        began.elapsed()
    }
}

fn config(idle_seconds: u32) -> Config {
    let mut text =
        "[[listen]]\naddress = \"127.0.0.1:0\"\n[upstream.all]\nservers = [\"127.0.0.1:9\"]\n".to_owned();
    for number in 0..ROUTES {
        let path = format!("/{number}");
        let _ = write!(
            text,
            "\n[[route]]\nname = \"route-{number}\"\npath = \"{path}\"\nupstream = \"all\"\n\
             read_timeout = \"{idle_seconds}s\"\n"
        );
    }
    Config::parse(&text, "bench").unwrap()
}
