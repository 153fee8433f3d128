//! What keeps a configuration from taking effect: the same at a start and at a reload, and nothing is left of
//! the attempt.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use holdline::testing::app::{Running, Startup};
use holdline::testing::config::Config;
use holdline::testing::listener::socket::Inherited;
use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use support::operator::Operator;
use support::{PATIENCE, Raw, echo, ws_request};
use tempfile::TempDir;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::sleep;

/// Held by the test that runs, because the tests count what this process has open.
static ALONE: Mutex<()> = Mutex::new(());

/// Runs a test while no other does, and waits until everything that it opened is closed.
fn alone(test: impl Future<Output = ()>) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // The first one opens what all runtimes of a process share.
    drop(runtime());
    let before = opened();
    let runtime = runtime();
    runtime.block_on(test);
    drop(runtime);
    let began = Instant::now();
    while opened() != before {
        assert!(began.elapsed() < PATIENCE, "{before:?} became {:?}", opened());
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A part of the configuration that cannot be used.
struct Failure {
    /// What replaces which part of the good configuration.
    change: (&'static str, String),
    /// How the message begins.
    place: String,
    /// What the message also says.
    reason: &'static str,
}

/// Every failure that a start and a reload have in common. `taken` is an address in use.
fn failures(taken: SocketAddr) -> Vec<Failure> {
    let failure = |part, new: &str, place: &str, reason| Failure {
        change: (part, new.to_owned()),
        place: place.to_owned(),
        reason,
    };
    let listen = |address: &str| format!("[[listen]]\naddress = \"{address}\"\n");
    let taken = &taken.to_string();
    let tls = "[[listen]]\naddress = \"[::1]:0\"\n\
               tls = { certificates = [{ cert = \"/no/such/cert.pem\", key = \"/no/such/key.pem\" }] }\n";
    let (missing, no_file) = ("/no/such/x.sock", "No such file");
    vec![
        failure(MORE, &listen(taken), &format!("listen: {taken}: "), "another process listens there"),
        failure(MORE, &listen("192.0.2.1:0"), "listen: 192.0.2.1:0: ", "no interface of this host"),
        failure(MORE, &listen(&format!("unix:{missing}")), &format!("listen: unix:{missing}: "), no_file),
        failure(MORE, &listen("systemd:web"), "listen: systemd:web: ", "set FileDescriptorName=web"),
        failure(MORE, tls, "test:", "/no/such/cert.pem: "),
        failure("unix:FOLDER/admin.sock", taken, &format!("admin: {taken}: "), "another process"),
        failure("unix:FOLDER/admin.sock", "systemd:web", "admin: systemd:web: ", "set FileDescriptorName"),
        failure("FOLDER/token", "/no/such/token", "admin.token_file: /no/such/token: ", no_file),
        failure(
            "FOLDER/access.log",
            "/no/such/access.log",
            "log.access: /no/such/access.log: ",
            "(os error 2); its folder must exist",
        ),
        failure(
            UPSTREAM,
            "tls = { ca = \"/no/such/ca.pem\" }\n",
            "test:",
            "upstream.up.tls.ca: /no/such/ca.pem: ",
        ),
        failure(
            UPSTREAM,
            "source = [\"192.0.2.1\"]\n",
            "upstream up: source 192.0.2.1: ",
            "no interface of this",
        ),
    ]
}

/// Where a failure adds a listener.
const MORE: &str = "# more listeners\n";
/// Where a failure adds a setting of the upstream.
const UPSTREAM: &str = "# more settings\n";

/// A folder with a configuration's files and sockets.
struct Site {
    folder: TempDir,
    upstream: SocketAddr,
}

impl Site {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("token"), "0123456789abcdef").unwrap();
        fs::write(folder.path().join("other-token"), "another-0123456789").unwrap();
        Self { folder, upstream: echo().await }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The good configuration.
    fn text(&self) -> String {
        format!(
            "[process]\nworkers = 2\npid_file = \"FOLDER/pid\"\n\
             [log]\naccess = \"FOLDER/access.log\"\n\
             [admin]\naddress = \"unix:FOLDER/admin.sock\"\ntoken_file = \"FOLDER/token\"\n\
             [[listen]]\naddress = \"127.0.0.1:0\"\n\
             [[listen]]\naddress = \"unix:FOLDER/listen.sock\"\n{MORE}\
             [[route]]\npath = \"/which\"\nrespond = {{ status = 200, body = \"first\" }}\n\
             [[route]]\nname = \"all\"\npath = \"/\"\nupstream = \"up\"\n\
             [upstream.up]\n{UPSTREAM}servers = [\"{}\"]\n",
            self.upstream
        )
    }

    /// The good configuration with one failure, and with other changes that could take effect.
    fn broken(&self, failure: &Failure) -> Config {
        let (part, new) = &failure.change;
        let text = self.text();
        assert!(text.contains(part), "{part}");
        let added = format!("[[listen]]\naddress = \"unix:FOLDER/added.sock\"\n{MORE}");
        // Only the last step of a failing configuration differs, so that everything before it was opened.
        let text = text.replace(MORE, &added).replace(part, new).replace("\"first\"", "\"second\"");
        self.parse(&text.replace("FOLDER/token", "FOLDER/other-token"))
    }

    fn parse(&self, text: &str) -> Config {
        let text = text.replace("FOLDER", &self.path().display().to_string());
        Config::parse(&text, "test").unwrap_or_else(|errors| panic!("{errors}\n{text}"))
    }

    /// The names of the files in the folder.
    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// What this process has open: how many descriptors of each kind, and threads of each name of ours.
fn opened() -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    let links =
        fs::read_dir("/proc/self/fd").unwrap().filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
    let kinds = links.map(|link| link.display().to_string().split('[').next().unwrap().to_owned());
    let threads = fs::read_dir("/proc/self/task").unwrap();
    let names = threads.filter_map(|task| fs::read_to_string(task.unwrap().path().join("comm")).ok());
    let names =
        names.map(|name| name.trim().to_owned()).filter(|name| ["relay", "access-log"].contains(&&**name));
    for what in kinds.chain(names).filter(|what| !what.starts_with("/proc")) {
        *found.entry(what).or_default() += 1;
    }
    found
}

/// Waits until this process has open what it had before: threads end by themselves.
async fn until_opened(before: &BTreeMap<String, usize>, what: &str) {
    let began = Instant::now();
    while opened() != *before {
        assert!(began.elapsed() < PATIENCE, "{what}: {before:?} became {:?}", opened());
        sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn a_failed_start_names_the_place_and_leaves_nothing_behind() {
    alone(async {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let site = Site::new().await;
        let before = opened();
        for failure in failures(taken.local_addr().unwrap()) {
            let error =
                Startup::prepare(site.broken(&failure), Inherited::default()).await.unwrap_err().to_string();
            assert!(error.starts_with(&failure.place) && error.contains(failure.reason), "{error}");
            until_opened(&before, &error).await;
            // The access log is appended to, so its file is created and kept.
            let files: Vec<_> = site.files().into_iter().filter(|name| name != "access.log").collect();
            assert_eq!(files, ["other-token", "token"], "{error}");
        }
    });
}

#[test]
fn a_start_without_its_pid_file_leaves_nothing_behind() {
    alone(async {
        let site = Site::new().await;
        let before = opened();
        let text = site.text().replace("FOLDER/pid", "/no/such/folder/pid");
        let error = Startup::prepare(site.parse(&text), Inherited::default()).await.unwrap_err().to_string();
        assert!(error.starts_with("process.pid_file: /no/such/folder/pid: No such file"), "{error}");
        assert!(error.ends_with("; its folder must exist"), "{error}");
        until_opened(&before, &error).await;
        assert_eq!(site.files(), ["access.log", "other-token", "token"]);

        // So does a start that is ready and then given up.
        let ready = Startup::prepare(site.parse(&site.text()), Inherited::default()).await.unwrap();
        assert!(site.path().join("pid").exists());
        drop(ready);
        until_opened(&before, "given up").await;
        assert_eq!(site.files(), ["access.log", "other-token", "token"]);
    });
}

/// A running proxy with a tunnel through it.
struct Scene {
    site: Site,
    running: Running,
    address: SocketAddr,
    tunnel: Raw,
}

impl Scene {
    async fn new() -> Self {
        let site = Site::new().await;
        let startup = Startup::prepare(site.parse(&site.text()), Inherited::default()).await.unwrap();
        let running = startup.run(None).await;
        let address = running.local_addrs()[0].unwrap();
        let tunnel = open(address).await;
        Self { site, running, address, tunnel }
    }

    /// Checks that everything still serves as the first configuration says.
    async fn check(&mut self, what: &str) {
        self.tunnel.echo(what).await;
        open(self.address).await.echo(what).await;
        let answer = ask(UnixStream::connect(self.site.path().join("listen.sock")).await.unwrap()).await;
        assert!(answer.ends_with("first"), "{what}: {answer}");
        let operator = Operator::on(self.site.path().join("admin.sock"));
        let status = async |token| {
            operator
                .with(&format!("Host: x\r\nAuthorization: Bearer {token}\r\n"))
                .get("/api/status")
                .await
                .status
        };
        assert_eq!(status("0123456789abcdef").await, 200, "{what}");
        assert_eq!(status("another-0123456789").await, 401, "{what}");
    }

    /// How many lines the access log has, once it has `expected`.
    async fn await_lines(&self, expected: usize) {
        let began = Instant::now();
        let lines = || fs::read_to_string(self.site.path().join("access.log")).unwrap().lines().count();
        while lines() != expected {
            assert!(began.elapsed() < PATIENCE, "{} lines", lines());
            sleep(Duration::from_millis(1)).await;
        }
    }
}

async fn open(address: SocketAddr) -> Raw {
    let mut raw = Raw::new(TcpStream::connect(address).await.unwrap());
    let head = raw.ask(&ws_request("/", "")).await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    raw
}

async fn ask(stream: UnixStream) -> String {
    let mut raw = Raw::new(stream);
    raw.write("GET /which HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    String::from_utf8(raw.rest().await).unwrap()
}

#[test]
fn a_failed_reload_names_the_place_and_changes_nothing() {
    alone(async {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut scene = Scene::new().await;
        scene.check("before").await;
        // The tunnel that was closed again, and the request on the unix socket.
        scene.await_lines(2).await;
        for (index, failure) in failures(taken.local_addr().unwrap()).into_iter().enumerate() {
            let (before, files) = (opened(), scene.site.files());
            let error = scene.running.reload(scene.site.broken(&failure)).await.unwrap_err().to_string();
            assert!(error.starts_with(&failure.place) && error.contains(failure.reason), "{error}");
            until_opened(&before, &error).await;
            assert_eq!(scene.site.files(), files, "{error}");
            assert_eq!(scene.running.local_addrs(), [Some(scene.address), None], "{error}");
            scene.check(&error).await;
            scene.await_lines(2 * (index + 2)).await;
        }
    });
}

#[test]
fn listeners_are_in_the_order_of_the_file_after_a_reload_too() {
    alone(async {
        let mut scene = Scene::new().await;
        let first = "[[listen]]\naddress = \"127.0.0.1:0\"\n";
        let text = scene.site.text().replace(first, &format!("[[listen]]\naddress = \"[::1]:0\"\n{first}"));
        scene.running.reload(scene.site.parse(&text)).await.unwrap();
        let addresses = scene.running.local_addrs();
        assert!(addresses[0].is_some_and(|added| added.is_ipv6()), "{addresses:?}");
        assert_eq!(addresses[1..], [Some(scene.address), None]);
        scene.check("kept").await;
    });
}
