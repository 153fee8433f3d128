//! The program in a process of its own, which ends with the test.

use super::Raw;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use tokio::net::TcpStream;

pub struct Process {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
    /// What it has written to standard error so far.
    pub log: Arc<Mutex<String>>,
    _folder: tempfile::TempDir,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    /// Starts it on the whole of a configuration, with `files` as its limit of open files if there is one.
    pub fn start(text: &str, files: Option<u32>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("proxy.toml");
        std::fs::write(&config, text).unwrap();
        let limit = files.map(|files| format!("ulimit -n {files}; ")).unwrap_or_default();
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("{limit}exec \"$0\" run --config \"$1\""));
        command.arg(env!("CARGO_BIN_EXE_holdline")).arg(&config).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let mut started = String::new();
        while !started.contains("serving") {
            started += &lines.next().expect("it starts");
            started += "\n";
        }
        let address = local_of(&started, "listening");
        let log = Arc::new(Mutex::new(started));
        let more = Arc::clone(&log);
        std::thread::spawn(move || lines.for_each(|line| *more.lock().unwrap() += &(line + "\n")));
        Self { child, address, log, _folder: folder }
    }

    /// Where its admin endpoint listens.
    pub fn admin(&self) -> SocketAddr {
        local_of(&self.log.lock().unwrap(), "admin endpoint")
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// A connection to it.
    pub async fn connect(&self) -> Raw {
        Raw::new(TcpStream::connect(self.address).await.unwrap())
    }
}

/// The bound address in the first line of the log that holds `what`.
fn local_of(log: &str, what: &str) -> SocketAddr {
    let line = log.lines().find(|line| line.contains(what)).unwrap();
    line.split("local=").nth(1).unwrap().split_whitespace().next().unwrap().parse().unwrap()
}
