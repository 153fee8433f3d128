//! A new configuration under open connections.

mod support;

use holdline::testing::app::Startup;
use holdline::testing::config::Config;
use holdline::testing::outcome::{Cause, EndedBy};
use holdline::testing::ws::frame::OpCode;
use support::{Proxy, Puppet, echo, nobody, route, upstream, with_listen, ws_request};
use tokio::net::TcpStream;

#[tokio::test]
async fn open_tunnels_stay_and_take_their_routes_new_settings() {
    let server = echo().await;
    let with = |settings| format!("{}\n{}", route(settings), upstream(&[server], ""));
    let mut proxy = Proxy::start(&with("")).await;
    let mut client = proxy.open("/").await;
    proxy.reload(&with("read_timeout = \"1h\"")).await;
    client.echo("still here").await;
    proxy.reload(&with("ping = { client = \"10ms\", upstream = \"off\", timeout = \"20s\" }")).await;
    assert_eq!(client.frame().await.0, OpCode::Ping);
}

#[tokio::test]
async fn a_tunnel_that_was_opening_takes_them_too() {
    let puppet = Puppet::new().await;
    let with = |settings| format!("{}\n{}", route(settings), upstream(&[puppet.address()], ""));
    let mut proxy = Proxy::start(&with("")).await;
    let mut client = proxy.connect().await;
    client.write(ws_request("/", "")).await;
    let mut server = puppet.accept().await;
    server.head().await;
    proxy.reload(&with("ping = { client = \"10ms\", upstream = \"off\", timeout = \"20s\" }")).await;
    server.write(support::accepted("")).await;
    client.head().await;
    assert_eq!(client.frame().await.0, OpCode::Ping);
}

#[tokio::test]
async fn endpoints_keep_their_counts_and_standing() {
    let (dead, alive) = (nobody().await, echo().await);
    let config = format!("{}\n{}", route(""), upstream(&[dead, alive], "fail_timeout = \"1h\""));
    let mut proxy = Proxy::start(&config).await;
    let _open = proxy.open("/").await;
    let _more = proxy.open("/").await;
    proxy.reload(&config.replace("name = \"all\"", "name = \"other\"")).await;
    let snapshot = proxy.running.proxy.snapshot.load();
    let endpoints = snapshot.upstream("up").unwrap().endpoints();
    let active: Vec<_> = endpoints.iter().map(|endpoint| endpoint.active()).collect();
    assert_eq!(active, [0, 2]);
    assert_ne!(endpoints[0].availability(), holdline::testing::health::Availability::Up, "it is still out");
}

#[tokio::test]
async fn a_removed_endpoint_keeps_its_tunnels_or_closes_them_in_time() {
    let (old, new) = (echo().await, echo().await);
    let with = |server, settings| format!("{}\n{}", route(""), upstream(&[server], settings));
    let mut proxy = Proxy::start(&with(old, "")).await;
    let mut client = proxy.open("/").await;
    proxy.reload(&with(new, "")).await;
    client.echo("it stays until it ends").await;
    proxy.open("/").await.echo("new ones go elsewhere").await;
    proxy.reload(&with(old, "")).await;
    proxy.reload(&with(new, "drain_timeout = \"1ms\"")).await;
    let close = client.close().await;
    assert_eq!((close.code.0, &*close.text), (1012, "upstream server is being removed"));
    client.send(OpCode::Close, &1012_u16.to_be_bytes()).await;
    let ended = loop {
        let ended = proxy.ended().await;
        if ended.outcome.ending.ended_by == EndedBy::Proxy {
            break ended;
        }
    };
    assert_eq!(ended.outcome.ending.cause, Cause::EndpointRemoved);
}

#[tokio::test]
async fn a_drained_endpoint_is_told_apart() {
    let (one, two) = (echo().await, echo().await);
    let drained = format!(
        "{}\n[upstream.up]\ndrain_timeout = \"1ms\"\nservers = [{{ address = \"{one}\", state = \"drain\" }}, \"{two}\"]",
        route("")
    );
    let mut proxy = Proxy::before(&[one]).await;
    let mut client = proxy.open("/").await;
    proxy.reload(&drained).await;
    assert_eq!(client.close().await.code.0, 1012);
    drop(client);
    assert_eq!(proxy.ended().await.outcome.ending.cause, Cause::Drain);
    proxy.open("/").await.echo("the other one serves").await;
}

#[tokio::test]
async fn a_reload_that_fails_changes_nothing() {
    let mut proxy = Proxy::before(&[echo().await]).await;
    let mut client = proxy.open("/").await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let other = format!(
        "{}\n[[listen]]\naddress = \"{}\"\n",
        with_listen("[[route]]\npath = \"/\"\nrespond = { status = 204 }"),
        taken.local_addr().unwrap()
    );
    let error = proxy.running.reload(Config::parse(&other, "test").unwrap()).await.unwrap_err();
    assert!(error.to_string().contains("another process listens there"), "{error}");
    client.echo("still here").await;
    proxy.open("/").await.echo("the old route serves").await;
    let log = other.replace("access = \"off\"", "access = \"/no/such/folder/access.log\"");
    let log = log.split("[[listen]]\naddress = \"127.0.0.1:").next().unwrap().to_owned()
        + "[[listen]]\naddress = \"127.0.0.1:0\"\n[[route]]\npath = \"/\"\nrespond = { status = 204 }";
    let error = proxy.running.reload(Config::parse(&log, "test").unwrap()).await.unwrap_err();
    assert!(error.to_string().starts_with("log.access:"), "{error}");
    proxy.open("/").await.echo("the old route serves").await;
}

#[tokio::test]
async fn listeners_come_and_go() {
    let answer = "[[route]]\npath = \"/\"\nrespond = { status = 200, body = \"here\" }";
    let two = |first: &str, second: &str| {
        let listen = |address: &str| format!("[[listen]]\naddress = \"{address}\"\n");
        let text = format!("[log]\naccess = \"off\"\n{}{}{answer}", listen(first), listen(second));
        Config::parse(&text, "test").unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    let unix = format!("unix:{}/a.sock", folder.path().display());
    let startup = Startup::prepare(two("127.0.0.1:0", &unix), Default::default()).await.unwrap();
    let mut running = startup.run(None).await;
    let address = running.local_addrs()[0].unwrap();
    let ask = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut kept = support::Raw::new(TcpStream::connect(address).await.unwrap());
    kept.ask(ask).await;
    kept.bytes(4).await;
    let moved = format!("unix:{}/b.sock", folder.path().display());
    running.reload(two("127.0.0.1:0", &moved)).await.unwrap();
    assert_eq!(running.local_addrs()[0].unwrap(), address, "the same socket goes on");
    assert!(kept.ask(ask).await.starts_with("HTTP/1.1 200"), "an open connection too");
    assert!(tokio::net::UnixStream::connect(folder.path().join("b.sock")).await.is_ok());
    // The removed one ends as soon as its task has seen it.
    while tokio::net::UnixStream::connect(folder.path().join("a.sock")).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn connections_that_wait_to_be_accepted_are_served() {
    // One thread: the accept loop cannot run before the listener is removed.
    let mut proxy =
        Proxy::start("[[route]]\npath = \"/\"\nrespond = { status = 200, body = \"here\" }").await;
    let mut queued = std::net::TcpStream::connect(proxy.address).unwrap();
    let other =
        with_listen("[[route]]\npath = \"/\"\nrespond = { status = 204 }").replace("127.0.0.1:0", "[::1]:0");
    let config = Config::parse(&other, "test").unwrap();
    proxy.running.reload(config).await.unwrap();
    use std::io::Write as _;
    queued.write_all(ws_request("/", "").as_bytes()).unwrap();
    queued.set_nonblocking(true).unwrap();
    let mut raw = support::Raw::new(TcpStream::from_std(queued).unwrap());
    assert!(raw.head().await.starts_with("HTTP/1.1 2"), "it was connected: it is served");
}
