//! Who is chosen, in life's order: connections, failures, trials, reloads.

use super::*;
use crate::health::Witness;
use crate::outcome::{Cause, EndedBy, Ending, Outcome, PerSide, Side};

const SECOND: Duration = Duration::from_secs(1);

pub(crate) fn server(port: u16) -> Server {
    Server {
        address: ServerAddr::Ip(([127, 0, 0, 1], port).into()),
        weight: 1,
        max_conns: None,
        max_fails: 1,
        fail_timeout: 10 * SECOND,
        backup: false,
        state: State::Up,
    }
}

fn settings(servers: Vec<Server>) -> Settings {
    Settings {
        name: "chat".into(),
        balance: Method::LeastConn,
        servers,
        slow_start: Duration::ZERO,
        max_ejected: Percent(50),
        early_end: Some(EarlyEnd { within: 5 * SECOND, max: 2 }),
        retry: RetryPolicy { tries: 0, timeout: None, on_connect: true, on_timeout: true, on_status: vec![] },
        resolve_interval: None,
        keepalive: pool::Limits { connections: 2, timeout: 60 * SECOND },
        drain_timeout: None,
        tcp: TcpOptions::default(),
        proxy_protocol: None,
        source: vec![],
        tls: None,
    }
}

pub(crate) fn upstream(servers: Vec<Server>) -> Upstream {
    Upstream::new(settings(servers), None)
}

fn port(lease: &Lease) -> u16 {
    match lease.endpoint().address() {
        EndpointAddr::Tcp(address) => address.port(),
        EndpointAddr::Unix(_) => 0,
    }
}

fn pick(upstream: &Upstream) -> Lease {
    upstream.pick(None, &[]).unwrap()
}

#[tokio::test(start_paused = true)]
async fn connections_that_are_being_opened_count() {
    let upstream = upstream(vec![server(1), server(2)]);
    let (first, second) = (pick(&upstream), pick(&upstream));
    assert_ne!(port(&first), port(&second));
    assert_eq!(first.endpoint().active(), 1);
    let freed = port(&first);
    drop(first);
    assert_eq!(port(&pick(&upstream)), freed);
}

#[tokio::test(start_paused = true)]
async fn a_failed_endpoint_is_left_out_and_tried_once() {
    let upstream = upstream(vec![server(1), server(2)]);
    let mut first = pick(&upstream);
    let bad = port(&first);
    first.failed(&"refused");
    drop(first);
    let others: Vec<_> = (0..5).map(|_| pick(&upstream)).collect();
    assert!(others.iter().all(|lease| port(lease) != bad));
    tokio::time::advance(10 * SECOND).await;
    let mut trial = pick(&upstream);
    assert_eq!(port(&trial), bad, "the emptiest, and its time is over");
    assert_ne!(port(&pick(&upstream)), bad, "one trial at a time");
    trial.succeeded();
    assert_eq!(port(&pick(&upstream)), bad);
}

#[tokio::test(start_paused = true)]
async fn a_trial_that_the_client_broke_off_decides_nothing() {
    let upstream = upstream(vec![server(1), server(2)]);
    let mut first = pick(&upstream);
    let bad = port(&first);
    first.failed(&"refused");
    drop(first);
    let _busy = pick(&upstream);
    tokio::time::advance(10 * SECOND).await;
    let trial = pick(&upstream);
    assert_eq!(port(&trial), bad);
    drop(trial);
    assert_eq!(port(&pick(&upstream)), bad, "the next one decides");
}

#[tokio::test(start_paused = true)]
async fn when_all_are_out_they_are_tried_all_the_same() {
    let upstream = upstream(vec![server(1), Server { backup: true, ..server(2) }]);
    pick(&upstream).failed(&"refused");
    let mut backup = pick(&upstream);
    assert_eq!(port(&backup), 2, "the backup serves when no other can");
    backup.failed(&"refused");
    assert_eq!(port(&pick(&upstream)), 1);
}

#[tokio::test(start_paused = true)]
async fn limits_and_states_are_kept() {
    let full = Server { max_conns: Some(1), ..server(1) };
    let upstream_full = upstream(vec![full]);
    let kept = pick(&upstream_full);
    assert_eq!(upstream_full.pick(None, &[]).unwrap_err(), NoEndpoint::AllFull);
    assert_eq!(
        upstream_full.pick(None, &[kept.endpoint().address().clone()]).unwrap_err(),
        NoEndpoint::AllTried
    );
    let drained = upstream(vec![Server { state: State::Drain, ..server(1) }, server(2)]);
    assert!((0..3).all(|_| port(&pick(&drained)) == 2));
    let none = upstream(vec![Server { state: State::Down, ..server(1) }]);
    assert_eq!(none.pick(None, &[]).unwrap_err(), NoEndpoint::None);
}

#[tokio::test(start_paused = true)]
async fn a_reload_keeps_counts_and_standing() {
    let before = upstream(vec![server(1), server(2)]);
    let mut lease = pick(&before);
    let (kept, bad) = (pick(&before), port(&lease));
    lease.failed(&"refused");
    let after = Upstream::new(settings(vec![server(1), server(2), server(3)]), Some(&before));
    let known = after.endpoints();
    assert!(known.iter().any(|endpoint| Arc::ptr_eq(endpoint, kept.endpoint())));
    assert!((0..4).all(|_| port(&pick(&after)) != bad), "it is still out");
    assert!(!Upstream::new(settings(vec![server(3)]), Some(&after)).serves(kept.endpoint().address()));
}

#[tokio::test(start_paused = true)]
async fn names_bring_endpoints_and_a_lost_answer_keeps_them() {
    let name = ServerAddr::Name("app".into(), 80);
    let upstream = upstream(vec![Server { address: name.clone(), ..server(0) }]);
    assert_eq!(upstream.pick(None, &[]).unwrap_err(), NoEndpoint::None);
    let address = |host| EndpointAddr::Tcp(([10, 0, 0, host], 80).into());
    let found = |host| Discovered::of(&server(0), address(host));
    upstream.set_discovered(&HashMap::from([(name.clone(), vec![found(1), found(2)])]));
    let lease = upstream.pick(None, &[address(2)]).unwrap();
    upstream.set_discovered(&HashMap::from([(name.clone(), vec![found(1), found(3)])]));
    assert!(upstream.endpoints().iter().any(|endpoint| Arc::ptr_eq(endpoint, lease.endpoint())));
    let after = Upstream::new(upstream.settings().clone(), Some(&upstream));
    assert_eq!(after.discovered(&name), [found(1), found(3)], "a reload asks nobody");
}

/// A client's view of an endpoint.
fn met_by(client: u32) -> Witness {
    Witness::new(client, "/")
}

fn outcome(ended_by: EndedBy, cause: Cause, lived: Duration) -> Outcome {
    Outcome {
        ending: Ending::new(ended_by, cause),
        traffic: PerSide::default(),
        duration: lived,
        idle: PerSide::default(),
        blind: None,
        ended: None,
    }
}

#[tokio::test(start_paused = true)]
async fn tunnels_that_are_broken_off_young_count_against_it() {
    let upstream = upstream(vec![server(1), server(2)]);
    let mut lease = pick(&upstream);
    let bad = port(&lease);
    let young = outcome(EndedBy::Upstream, Cause::Reset, SECOND);
    lease.ended(&young, || met_by(1));
    lease.ended(&outcome(EndedBy::Upstream, Cause::Eof, 60 * SECOND), || met_by(1));
    lease.ended(&young, || met_by(2));
    lease.ended(&outcome(EndedBy::Client, Cause::Reset, SECOND), || met_by(1));
    let held: Vec<_> = (0..4).map(|_| pick(&upstream)).collect();
    assert!(held.iter().any(|lease| port(lease) == bad), "one that lasted stands between them");
    drop(held);
    lease.ended(&young, || met_by(1));
    drop(lease);
    let held: Vec<_> = (0..4).map(|_| pick(&upstream)).collect();
    assert!(held.iter().all(|lease| port(lease) != bad));
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_never_answered_a_ping_was_silent_from_the_start() {
    let upstream = upstream(vec![server(1), server(2)]);
    let mut lease = pick(&upstream);
    let bad = port(&lease);
    let mut silent = outcome(EndedBy::Upstream, Cause::Unresponsive, 45 * SECOND);
    silent.idle[Side::Upstream] = 45 * SECOND;
    lease.ended(&silent, || met_by(1));
    lease.ended(&silent, || met_by(2));
    drop(lease);
    let held: Vec<_> = (0..4).map(|_| pick(&upstream)).collect();
    assert!(held.iter().all(|lease| port(lease) != bad));
}

#[tokio::test]
async fn names_are_looked_up_again_and_again_as_long_as_they_are_used() {
    let mut settings =
        settings(vec![Server { address: ServerAddr::Name("localhost".into(), 80), ..server(0) }]);
    settings.resolve_interval = Some(Duration::from_millis(10));
    let upstream = Arc::new(Upstream::new(settings, None));
    let (_trigger, watch) = crate::drain::channel();
    let keeper = tokio::spawn(discovery::dns::keep_fresh(Arc::downgrade(&upstream), watch));
    let mut seen = Vec::new();
    while seen.len() < 3 {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let last = *upstream.looked_up();
        if last.is_some() && seen.last() != Some(&last) {
            seen.push(last);
        }
    }
    assert!(upstream.pick(None, &[]).is_ok());
    drop(upstream);
    tokio::time::timeout(Duration::from_secs(5), keeper).await.expect("it ends with its upstream").unwrap();
}

#[tokio::test]
async fn local_names_are_looked_up() {
    let name = ServerAddr::Name("localhost".into(), 80);
    let unknown = ServerAddr::Name("unknown.invalid".into(), 80);
    let servers =
        vec![Server { address: name, ..server(0) }, Server { address: unknown.clone(), ..server(0) }];
    let upstream = upstream(servers);
    let failed = discovery::dns::refresh(&upstream).await;
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].0, unknown);
    assert!(upstream.pick(None, &[]).is_ok());
    // A name that was found once and is not found now keeps its last answer.
    let last = vec![Discovered::of(&server(0), EndpointAddr::Tcp(([10, 0, 0, 1], 80).into()))];
    upstream.set_discovered(&HashMap::from([(unknown.clone(), last.clone())]));
    assert_eq!(discovery::dns::refresh(&upstream).await.len(), 1);
    assert_eq!(upstream.discovered(&unknown), last);
    // Reloads, however frequent, do not put look-ups off.
    let mut every_minute = upstream.settings().clone();
    every_minute.resolve_interval = Some(Duration::from_secs(60));
    let last = *upstream.looked_up();
    assert!(last.is_some());
    assert_eq!(*Upstream::new(every_minute, Some(&upstream)).looked_up(), last);
    // Where there is no interval, each reload asks once.
    assert_eq!(*Upstream::new(upstream.settings().clone(), Some(&upstream)).looked_up(), None);
}

#[test]
fn what_is_discovered_has_a_weight_and_a_priority() {
    let name = ServerAddr::Name("app".into(), 80);
    let upstream = upstream(vec![Server { address: name.clone(), ..server(0) }]);
    let found = |host, weight, priority| Discovered {
        address: EndpointAddr::Tcp(([10, 0, 0, host], 80).into()),
        weight,
        priority,
    };
    upstream.set_discovered(&HashMap::from([(name, vec![found(1, 1, 7), found(2, 9, 3), found(3, 1, 3)])]));
    let mut leases: Vec<_> = (0..100).map(|_| pick(&upstream)).collect();
    let of = |leases: &[Lease], host| {
        leases.iter().filter(|lease| *lease.endpoint().address() == found(host, 1, 1).address).count()
    };
    assert_eq!([1, 2, 3].map(|host| of(&leases, host)), [0, 90, 10], "the first priority, by weight");
    for lease in leases.iter_mut().filter(|lease| *lease.endpoint().address() != found(1, 1, 1).address) {
        lease.failed(&"refused");
    }
    assert_eq!(of(&[pick(&upstream)], 1), 1, "the next priority, once all of the first are out");
}
