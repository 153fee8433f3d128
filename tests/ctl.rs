//! `holdline ctl` beside a proxy that runs, as a shell sees both.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;
use support::{PATIENCE, Raw, echo, ws_request};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;

/// A proxy in a process of its own, with its admin endpoint on a unix socket.
struct Site {
    folder: TempDir,
    process: Child,
    server: std::net::SocketAddr,
}

impl Site {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = echo().await;
        let config = folder.path().join("proxy.toml");
        std::fs::write(&config, text(&folder, server, "")).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_holdline"))
            .args(["run", "--config", config.to_str().unwrap()])
            .stderr(std::fs::File::create(folder.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let site = Self { folder, process, server };
        let socket = site.folder.path().join("admin.sock");
        tokio::time::timeout(PATIENCE, async {
            while tokio::net::UnixStream::connect(&socket).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("it starts");
        site
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("proxy.toml")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdline"));
        command.arg("ctl").arg("--config").arg(self.config()).args(args);
        command
    }

    async fn ctl(&self, args: &[&str]) -> Output {
        // The echo lives on this thread.
        let mut command = self.command(args);
        spawn_blocking(move || command.output()).await.unwrap().unwrap()
    }

    /// What is printed by one that succeeds.
    async fn said(&self, args: &[&str]) -> String {
        let output = self.ctl(args).await;
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    async fn value(&self, args: &[&str]) -> Value {
        let all = [args, &["--json"]].concat();
        serde_json::from_str(&self.said(&all).await).unwrap()
    }

    /// What is complained of by one that fails.
    async fn complaint(&self, args: &[&str]) -> String {
        let output = self.ctl(args).await;
        assert_eq!(output.status.code(), Some(1), "{args:?}: {output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    async fn open(&self) -> Raw {
        let status = self.value(&["status"]).await;
        let local = status["listeners"][0]["local"].as_str().unwrap().to_owned();
        let mut raw = Raw::new(TcpStream::connect(local).await.unwrap());
        assert!(raw.ask(&ws_request("/room", "")).await.starts_with("HTTP/1.1 101"));
        raw
    }

    /// The line of the log that has this in it.
    fn logged(&self, what: &str) -> String {
        let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap();
        let found = log.lines().find(|line| line.contains(what));
        found.unwrap_or_else(|| panic!("no {what} in {log}")).to_owned()
    }

    async fn stop(mut self) -> ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        spawn_blocking(move || self.process.wait()).await.unwrap().unwrap()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // It is gone already where the test came to its end.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn text(folder: &TempDir, server: std::net::SocketAddr, more: &str) -> String {
    format!(
        "[process]\nshutdown_grace = \"5s\"\ndrain_spread = \"0s\"\n[log]\naccess = \"off\"\n\
         [admin]\naddress = \"unix:{}/admin.sock\"\n\
         [[listen]]\naddress = \"127.0.0.1:0\"\n[[route]]\nname = \"all\"\npath = \"/\"\nupstream = \"up\"\n{more}\n\
         [upstream.up]\nservers = [\"{server}\"]\n",
        folder.path().display()
    )
}

#[tokio::test]
async fn it_shows_what_runs() {
    let site = Site::start().await;
    let mut client = site.open().await;
    client.echo("hello").await;
    let status = site.said(&["status"]).await;
    assert!(status.starts_with(&format!("holdline {}, serving, up ", env!("CARGO_PKG_VERSION"))), "{status}");
    assert!(status.contains("1 tunnels, 1 of "), "{status}");
    let row = status.lines().find(|line| line.starts_with("up ")).unwrap();
    let cells: Vec<&str> = row.split_whitespace().collect();
    let server = site.server.to_string();
    assert_eq!(cells, ["up", &server, "up", "configuration", "available", "1", "1", "0"]);
    let list =
        site.said(&["connections", "--route", "all", "-q", "/room", "--sort", "bytes", "--limit", "5"]).await;
    assert!(
        list.contains("example.com/room") && list.ends_with("1 of 1 that match, of 1 in all\n"),
        "{list}"
    );
    let none = site.said(&["connections", "--client", "10.0.0.0/8"]).await;
    assert!(none.ends_with("0 of 0 that match, of 1 in all\n"), "{none}");
    let id = site.value(&["connections"]).await["connections"][0]["id"].as_str().unwrap().to_owned();
    let one = site.said(&["connection", &id]).await;
    assert!(one.lines().any(|line| line.split_whitespace().eq(["messages_client", "1"])), "{one}");
    assert!(one.lines().any(|line| line.split_whitespace().eq(["settings.ping_client", "25.0s"])), "{one}");
    assert!(
        one.lines().any(|line| line.split_whitespace().eq(["settings.max_message_size", "off"])),
        "{one}"
    );
    assert!(one.lines().any(|line| line.split_whitespace().eq(["bytes_client", "11B"])), "{one}");
    drop(client);
    assert!(site.stop().await.success());
}

#[tokio::test]
async fn it_gives_orders() {
    let site = Site::start().await;
    let mut client = site.open().await;
    let server = site.server.to_string();
    assert_eq!(site.said(&["drain", "up", &server]).await, "drain, 1 connection will be closed\n");
    assert_eq!(client.close().await.code.0, 1012);
    drop(client);
    assert_eq!(site.value(&["status"]).await["upstreams"][0]["endpoints"][0]["state"], "drain");
    assert_eq!(
        site.said(&["down", "up", &server, "--spread", "off"]).await,
        "down, 0 connections will be closed\n"
    );
    assert_eq!(site.said(&["up", "up", &server]).await, "up, 0 connections will be closed\n");
    let unknown = site.complaint(&["drain", "up", "10.0.0.1:1"]).await;
    assert_eq!(unknown, format!("holdline: no endpoint 10.0.0.1:1 in upstream \"up\"; there is {server}\n"));

    assert_eq!(site.said(&["reload"]).await, "reloaded\n");
    let broken = text(&site.folder, site.server, "read_timout = \"1s\"");
    std::fs::write(site.config(), &broken).unwrap();
    let failed = site.complaint(&["reload"]).await;
    assert!(failed.contains("route[0].read_timout: unknown key, did you mean"), "{failed}");
    assert!(failed.contains("the running configuration stays"), "{failed}");
    let status = site.said(&["status"]).await;
    assert!(
        status.contains("1 reloads and 1 that failed") && status.contains("the last reload failed: "),
        "{status}"
    );
    assert!(site.stop().await.success());
}

/// The file on disk is not what runs; where the proxy is can nearly always be read of it.
#[tokio::test]
async fn it_reaches_the_proxy_however_broken_the_file_is() {
    let site = Site::start().await;
    let good = text(&site.folder, site.server, "");
    for (what, broken) in [
        ("a wrong name", good.replace("upstream = \"up\"", "upstream = \"pu\"")),
        ("no TOML behind it", format!("{good}[route\n")),
        ("no TOML before it", format!("[process\n{good}")),
        ("a value that is none", good.replace("\"5s\"", "5 seconds")),
    ] {
        std::fs::write(site.config(), &broken).unwrap();
        let output = site.ctl(&["status"]).await;
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{what}: {said}");
        assert!(said.contains("has mistakes, but its [admin] can be read"), "{what}: {said}");
        let failed = site.complaint(&["reload", "--reason", "a try"]).await;
        assert!(failed.contains("the running configuration stays"), "{what}: {failed}");
    }
    // The address is a guess then, and nobody is there.
    for broken in ["[admin]\naddress = nowhere\n", "\u{0}", ""] {
        std::fs::write(site.config(), broken).unwrap();
        let lost = site.complaint(&["status", "--token-file", "/no/such/file"]).await;
        assert!(lost.contains("/no/such/file"), "{lost}");
        let output = site.ctl(&["status"]).await;
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("asking at 127.0.0.1:9109, the default"), "{broken:?}: {said}");
    }
    assert!(site.stop().await.success());
}

#[tokio::test]
async fn it_counts_ends_and_connections_together() {
    let site = Site::start().await;
    let server = site.server.to_string();
    for code in [1000_u16, 1000, 4001] {
        let mut client = site.open().await;
        client.send(holdline::testing::ws::frame::OpCode::Close, &code.to_be_bytes()).await;
        client.close().await;
    }
    let open = [site.open().await, site.open().await];
    let counted = async |args: &[&str]| {
        let answer = site.value(args).await;
        let groups = answer["groups"].as_array().unwrap().clone();
        groups
            .into_iter()
            .map(|group| (group["keys"].to_string(), group["count"].as_u64().unwrap()))
            .collect()
    };
    let two = |a: (&str, u64), b: (&str, u64)| vec![(a.0.to_owned(), a.1), (b.0.to_owned(), b.1)];
    let by_code: Vec<_> = counted(&["ends", "--by", "code"]).await;
    assert_eq!(by_code, two(("[\"1000\"]", 2), ("[\"4001\"]", 1)));
    let by_two: Vec<_> = counted(&["ends", "--by", "endpoint,end", "--since", "1m"]).await;
    assert_eq!(by_two, [(format!("[\"{server}\",\"client/close\"]"), 3)]);
    let by_client: Vec<_> = counted(&["connections", "--by", "client"]).await;
    assert_eq!(by_client, [("[\"127.0.0.1\"]".to_owned(), 2)]);

    let listed = site.said(&["ends", "--code", "4001"]).await;
    assert!(listed.contains("client/close  4001 by client"), "{listed}");
    assert!(listed.contains(&server) && listed.ends_with("1 of 1 that match, of the last 3\n"), "{listed}");
    let none = site.said(&["ends", "--ended-by", "upstream"]).await;
    assert!(none.ends_with("0 of 0 that match, of the last 3\n"), "{none}");
    let shown = site.said(&["ends", "--by", "endpoint,end"]).await;
    assert!(
        shown.starts_with("COUNT  ENDPOINT") && shown.ends_with("3 that match, of the last 3\n"),
        "{shown}"
    );
    let shown = site.said(&["connections", "--by", "endpoint"]).await;
    assert!(shown.lines().any(|line| line.starts_with("2 ") && line.contains(&server)), "{shown}");
    for (args, said) in [
        (&["ends", "--route", "nope"][..], "no route \"nope\"; there is all"),
        (&["connections", "--route", "nope"], "no route \"nope\"; there is all"),
        (&["ends", "--endpoint", "10.0.0.1:1"], &format!("no endpoint \"10.0.0.1:1\"; there is {server}")),
        (&["ends", "--cause", "nope"], "expected one of done, close, eof"),
        (&["ends", "--by", "nope"], "expected one or several of ended_by, cause, end"),
        (&["ends", "--since", "nope"], "expected seconds, or a span"),
    ] {
        let complaint = site.complaint(args).await;
        assert!(complaint.contains(said), "{args:?}: {complaint}");
    }
    // More than a page of the endpoint holds.
    let many = site.value(&["connections", "--limit", "501"]).await;
    assert_eq!(many["connections"].as_array().unwrap().len(), 2);
    drop(open);
    assert!(site.stop().await.success());
}

#[tokio::test]
async fn the_log_says_who_ordered_what_and_why() {
    let mut site = Site::start().await;
    let clients = [site.open().await, site.open().await];
    let server = site.server.to_string();
    // By whom is what the kernel knows of a unix socket: these processes are children of this one.
    let by = format!("by=\"unix: uid {} pid ", rustix::process::getuid().as_raw());
    site.said(&["drain", "up", &server, "--spread", "1h", "--reason", "a \"new\"\nkernel"]).await;
    let drained = site.logged("changed the state of an endpoint");
    assert!(drained.contains(&by) && drained.contains(r#"reason="a \"new\"\nkernel""#), "{drained}");
    assert!(drained.contains("state=\"drain\"") && drained.contains("closing=2"), "{drained}");
    site.said(&["up", "up", &server]).await;
    site.said(&["reload", "--reason", "a try"]).await;
    let reloaded = site.logged("reloaded");
    assert!(reloaded.contains(&by) && reloaded.contains("reason=\"a try\""), "{reloaded}");
    let pid = rustix::process::Pid::from_child(&site.process);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    for mut client in clients {
        assert_eq!(client.close().await.code.0, 1001);
    }
    let ended = tokio::time::timeout(PATIENCE, async {
        loop {
            // The echo lives on this thread.
            match site.process.try_wait().unwrap() {
                Some(status) => break status,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    });
    assert!(ended.await.expect("it ends").success());
    assert!(site.logged("received a signal to stop").contains("by=\"SIGTERM\""));
    let log = std::fs::read_to_string(site.folder.path().join("log")).unwrap();
    let last = log.lines().last().unwrap();
    assert!(last.contains("stopped") && last.contains("closed=2 cut=0"), "{last}");
}

/// One line for all of them: the access log, which has a line for each, is off here.
#[tokio::test]
async fn a_burst_of_ends_is_summed_up_in_the_log() {
    let site = Site::start().await;
    let mut clients = Vec::new();
    for _ in 0..30 {
        clients.push(site.open().await);
    }
    drop(clients);
    let line = format!("30 tunnels of {} ended client/eof within 1 s", site.server);
    tokio::time::timeout(PATIENCE, async {
        while !std::fs::read_to_string(site.folder.path().join("log")).unwrap().contains(&line) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("a line in time");
    let log = std::fs::read_to_string(site.folder.path().join("log")).unwrap();
    assert_eq!(log.matches(" ended client/eof").count(), 1, "{log}");
    assert!(site.stop().await.success());
}

#[tokio::test]
async fn it_follows_one_connection_to_its_end() {
    let site = Site::start().await;
    let mut client = site.open().await;
    client.echo("hello").await;
    let id = site.value(&["connections"]).await["connections"][0]["id"].as_str().unwrap().to_owned();
    let mut tail = site.command(&["tail", &id]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    let header =
        spawn_blocking(move || (lines.next().unwrap().unwrap(), lines.next().unwrap().unwrap(), lines));
    // Before anything has come to pass.
    let (following, columns, mut lines) = header.await.unwrap();
    assert!(following.contains(&id) && columns.starts_with("TIME "), "{following}\n{columns}");
    let first = spawn_blocking(move || (lines.next().unwrap().unwrap(), lines));
    while !first.is_finished() {
        client.echo("again").await;
    }
    let (first, lines) = first.await.unwrap();
    assert!(first.contains(" text ") && first.contains(" 5 bytes"), "{first}");
    let said = site.said(&["close", &id, "--code", "4001", "--reason", "enough"]).await;
    assert_eq!(said, format!("{id} is being closed\n"));
    assert_eq!(client.close().await.code.0, 4001);
    drop(client);
    let last = spawn_blocking(move || lines.map(Result::unwrap).last().unwrap()).await.unwrap();
    assert_eq!(last, "end proxy/operator code 4001 enough");
    assert!(tail.wait().unwrap().success());
    let ends = site.said(&["ends"]).await;
    assert!(ends.contains(&id) && ends.contains("proxy/operator  4001"), "{ends}");
    let metrics = site.said(&["metrics"]).await;
    assert!(metrics.contains("cause=\"operator\""), "{metrics}");
    assert!(site.stop().await.success());
}

#[tokio::test]
async fn it_says_what_is_missing() {
    let site = Site::start().await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let refused = site.complaint(&["status", "--address", &nobody]).await;
    assert!(
        refused.contains(&format!("cannot connect to {nobody}: ")) && refused.contains("[admin]"),
        "{refused}"
    );
    let bad = site.complaint(&["status", "--address", "nowhere"]).await;
    assert!(bad.contains("expected \"IP:PORT\""), "{bad}");
    let none = text(&site.folder, site.server, "").replace("[admin]\naddress", "[admin2]\naddress");
    std::fs::write(
        site.config(),
        none.split("[admin2]").next().unwrap().to_owned() + none.split("admin.sock\"\n").nth(1).unwrap(),
    )
    .unwrap();
    let none = site.complaint(&["status"]).await;
    assert!(none.contains("has no [admin] table"), "{none}");
    let usage = site.ctl(&["frobnicate"]).await;
    assert_eq!(usage.status.code(), Some(2));
    let missing = site
        .complaint(&[
            "connection",
            "0",
            "--address",
            &format!("unix:{}/admin.sock", site.folder.path().display()),
        ])
        .await;
    assert!(missing.contains("no live connection has this id"), "{missing}");
    assert!(site.stop().await.success());
}

#[tokio::test]
async fn it_finds_the_token_where_the_proxy_does() {
    let site = Site::start().await;
    let secret = site.folder.path().join("token");
    std::fs::write(&secret, "0123456789abcdef0123456789abcdef\n").unwrap();
    let with_token = text(&site.folder, site.server, "")
        .replace("[admin]\n", &format!("[admin]\ntoken_file = \"{}\"\n", secret.display()));
    std::fs::write(site.config(), with_token).unwrap();
    // The running one has none yet, and takes no notice of what is sent.
    assert_eq!(site.said(&["reload"]).await, "reloaded\n");
    assert!(site.said(&["status"]).await.contains("serving"));
    let address = format!("unix:{}/admin.sock", site.folder.path().display());
    let refused = site.complaint(&["status", "--address", &address]).await;
    assert!(refused.contains("a token is needed") && refused.contains("--token-file"), "{refused}");
    let token = ["status", "--address", &address, "--token-file", secret.to_str().unwrap()];
    assert!(site.said(&token).await.contains("serving"));
    assert!(site.stop().await.success());
}

#[tokio::test]
async fn what_peers_wrote_commands_no_terminal_in_either_form() {
    let site = Site::start().await;
    let status = site.value(&["status"]).await;
    let local = status["listeners"][0]["local"].as_str().unwrap().to_owned();
    let mut raw = Raw::new(TcpStream::connect(local).await.unwrap());
    let odd = "/\u{9b}31m\u{202e}x\u{2028}";
    assert!(raw.ask(&ws_request(odd, "")).await.starts_with("HTTP/1.1 101"));
    let table = site.said(&["connections"]).await;
    assert!(table.contains("/\\xC2\\x9B31m\\xE2\\x80\\xAEx\\xE2\\x80\\xA8"), "{table}");
    let document = site.said(&["connections", "--json"]).await;
    assert!(document.contains("/\\u009b31m\\u202ex\\u2028"), "{document}");
    let read: Value = serde_json::from_str(&document).unwrap();
    assert_eq!(read["connections"][0]["path"], odd);
}
