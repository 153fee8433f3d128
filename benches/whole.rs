//! Owns the cost of the whole over loopback, through the proxy and without it, side by side in one
//! run: the ratio is the number.
#![allow(missing_docs, clippy::unwrap_used, reason = "benches")]

use criterion::{Criterion, criterion_group, criterion_main};
use holdline::testing::app::{Running, Startup};
use holdline::testing::config::Config;
use holdline::testing::listener::socket::Inherited;
use holdline::testing::ws::frame::{OpCode, encode};
use holdline::testing::ws::mask::MaskKey;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use tokio::runtime::{Builder, Runtime};

const HANDSHAKE: &str = "GET /ws HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\n\
                       Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                       Sec-WebSocket-Version: 13\r\n\r\n";
const ACCEPTED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                        Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || stream.map(echo_one));
        }
    });
    address
}

/// Answers each message of 64 bytes with one.
fn echo_one(mut stream: TcpStream) {
    stream.set_nodelay(true).unwrap();
    head(&mut stream);
    if stream.write_all(ACCEPTED.as_bytes()).is_err() {
        return;
    }
    let (asked, answer) = (message(true).len(), message(false));
    let mut buffer = vec![0; asked];
    while stream.read_exact(&mut buffer).is_ok() && stream.write_all(&answer).is_ok() {}
}

/// Reads up to an empty line, and not further.
fn head(stream: &mut TcpStream) {
    let (mut read, mut buffer) = (Vec::new(), [0; 1024]);
    while !read.ends_with(b"\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(length) if length > 0 => read.extend_from_slice(&buffer[..length]),
            _ => return,
        }
    }
}

fn message(masked: bool) -> Vec<u8> {
    encode(OpCode::Binary, &[7; 64], masked.then_some(MaskKey([1, 2, 3, 4])))
}

/// A WebSocket that is open.
fn open(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.write_all(HANDSHAKE.as_bytes()).unwrap();
    head(&mut stream);
    stream
}

/// A proxy before an echo; it lives as long as the runtime.
fn proxy(runtime: &Runtime, upstream: SocketAddr) -> (Running, SocketAddr) {
    let text = format!(
        "[log]\naccess = \"off\"\nlevel = \"off\"\n[[listen]]\naddress = \"127.0.0.1:0\"\n\
         [[route]]\npath = \"/\"\nupstream = \"up\"\n[upstream.up]\nservers = [\"{upstream}\"]\n"
    );
    let config = Config::parse(&text, "bench").unwrap_or_else(|errors| panic!("{errors}"));
    runtime.block_on(async {
        let running = Startup::prepare(config, Inherited::default()).await.unwrap().run(None).await;
        let address = running.local_addrs()[0].unwrap();
        (running, address)
    })
}

fn whole(c: &mut Criterion) {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let direct = echo();
    let (_running, through) = proxy(&runtime, direct);
    let ways = [("direct", direct), ("through", through)];

    let mut group = c.benchmark_group("round_trip_64");
    for (name, address) in ways {
        group.bench_function(name, |b| {
            let (mut stream, asked) = (open(address), message(true));
            let mut answer = message(false);
            b.iter(|| {
                stream.write_all(&asked).unwrap();
                stream.read_exact(&mut answer).unwrap();
            });
        });
    }
    group.finish();

    let mut group = c.benchmark_group("handshake");
    // Every handshake leaves a port in TIME_WAIT: few enough that none is lacking.
    group.sample_size(20).measurement_time(std::time::Duration::from_secs(2));
    for (name, address) in ways {
        group.bench_function(name, |b| b.iter(|| open(address)));
    }
    group.finish();
}

criterion_group!(benches, whole);
criterion_main!(benches);
