//! Listeners: unix sockets, sockets of systemd, running out of descriptors.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};

const ASK: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

/// A proxy in a process of its own; ended with the test.
struct Process {
    child: Child,
    log: BufReader<ChildStderr>,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    fn start(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        Self { child, log }
    }

    /// Reads the log up to a line that holds `text`.
    fn wait_for(&mut self, text: &str) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.log.read_line(&mut line).unwrap() > 0, "the log ended before {text:?}");
            if line.contains(text) {
                return line;
            }
        }
    }
}

fn write_config(folder: &Path, listen: &str) -> std::path::PathBuf {
    let path = folder.join("proxy.toml");
    let text = format!(
        "[log]\naccess = \"off\"\n[[listen]]\naddress = \"{listen}\"\n\
         [[route]]\npath = \"/\"\nrespond = {{ status = 200, body = \"here\" }}\n"
    );
    std::fs::write(&path, text).unwrap();
    path
}

fn answer(mut stream: impl Read + Write) -> String {
    stream.write_all(ASK).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_unix_socket_is_listened_on() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("holdline.sock");
    let config = write_config(folder.path(), &format!("unix:{}", socket.display()));
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdline"));
    command.arg("run").arg("--config").arg(config);
    let mut process = Process::start(command);
    process.wait_for("serving");
    assert!(answer(UnixStream::connect(&socket).unwrap()).ends_with("here"));
}

#[test]
fn a_socket_of_systemd_is_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // Somebody connects before the proxy runs: that is what socket activation is for.
    let early = TcpStream::connect(address).unwrap();
    let config = write_config(folder.path(), "systemd:web");
    // The shell puts the socket where systemd would: descriptor 3, and says so in the environment.
    let mut command = Command::new("sh");
    let script = "exec 3<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=web exec \"$0\" run --config \"$1\"";
    command.arg("-c").arg(script).arg(env!("CARGO_BIN_EXE_holdline")).arg(config);
    command.stdin(Stdio::from(OwnedFd::from(listener)));
    let mut process = Process::start(command);
    process.wait_for("serving");
    assert!(answer(early).ends_with("here"));
    assert!(answer(TcpStream::connect(address).unwrap()).ends_with("here"));
}

#[test]
fn running_out_of_descriptors_pauses_accepting_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let config = write_config(folder.path(), "127.0.0.1:0");
    // The room depends on the number of threads.
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{text}\n[process]\nworkers = 1\n")).unwrap();
    let mut command = Command::new("sh");
    command.arg("-c").arg("ulimit -n 40; exec \"$0\" run --config \"$1\"");
    command.arg(env!("CARGO_BIN_EXE_holdline")).arg(&config);
    // The port is read from the kernel: the log names the address of the file.
    let mut process = Process::start(command);
    process.wait_for("serving");
    let address = listening_address(process.child.id());
    // There is room for 14; the fifteenth waits in the kernel's queue.
    let mut crowd: Vec<TcpStream> = (0..15).map(|_| TcpStream::connect(&address).unwrap()).collect();
    let line = process.wait_for("accepting pauses");
    assert!(line.contains("LimitNOFILE") && line.contains("connections=14"), "{line}");
    let last = crowd.pop().unwrap();
    drop(crowd.pop());
    assert!(answer(last).ends_with("here"), "its turn comes as one ends");
    drop(crowd);
    assert!(
        answer(TcpStream::connect(&address).unwrap()).ends_with("here"),
        "it goes on when there are some"
    );
}

/// The address of the one TCP socket that a process listens on, from `/proc`.
fn listening_address(pid: u32) -> String {
    let inodes: Vec<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap();
    let listening = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let own =
        listening.into_iter().find(|f| f[3] == "0A" && inodes.iter().any(|inode| inode == f[9])).unwrap();
    let port = u16::from_str_radix(own[1].split(':').next_back().unwrap(), 16).unwrap();
    format!("127.0.0.1:{port}")
}
