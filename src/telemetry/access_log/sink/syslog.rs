//! Owns syslog as the access log's target: datagrams, and a socket that reconnects after the daemon restarts.

use super::Severity;
use crate::telemetry::{Facility, SyslogAddr};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant, SystemTime};
use syslog_fmt::v5424::{Config, Formatter, Timestamp};

/// The APP-NAME of RFC 5424.
const NAME: &str = "holdline";
/// The MSGID of RFC 5424.
const MESSAGE_ID: &str = "access";
/// Minimum time between two attempts to reconnect a failed socket.
const AGAIN: Duration = Duration::from_secs(1);
/// The most that UDP carries over IPv6: 65,535 bytes less the header of UDP, less that of IPv4 to be sure.
const MOST_UDP: usize = 65_507;
/// Holdline cuts no message below this size, which every receiver accepts (RFC 5424 6.1).
const LEAST: usize = 480;

/// A local or remote syslog daemon.
pub(super) struct Syslog {
    to: SyslogAddr,
    form: Form,
    socket: Option<Socket>,
    /// When it last tried to connect.
    tried: Option<Instant>,
    message: Vec<u8>,
}

enum Socket {
    Unix(UnixDatagram),
    Udp(UdpSocket),
}

/// The format of messages.
enum Form {
    /// As local programs write: RFC 3164 without TIMESTAMP and HOSTNAME, which the daemon adds (4.3). Most
    /// daemons ignore them anyway, and a timestamp without a zone is wrong if the daemon's zone differs.
    Local { facility: Facility, process: u32 },
    /// RFC 5424.
    Remote(Formatter),
}

impl Syslog {
    /// Logs a warning if it cannot connect, and tries again later, because the daemon may start later.
    pub(super) fn new(to: SyslogAddr, facility: Facility) -> Self {
        let process = std::process::id();
        let form = match &to {
            SyslogAddr::Unix(_) => Form::Local { facility, process },
            SyslogAddr::Udp(_) => Form::Remote(remote(facility, process)),
        };
        let mut syslog = Self { to, form, socket: None, tried: None, message: Vec::new() };
        if let Err(error) = syslog.connect() {
            let to = &syslog.to;
            tracing::error!(%to, %error, "cannot reach syslog; lines of the access log are lost until it is there");
        }
        syslog
    }

    pub(super) fn send(&mut self, severity: Severity, text: &str) -> io::Result<()> {
        self.write(severity, text)?;
        if let Some(socket) = &self.socket {
            match socket.send(&mut self.message) {
                Ok(()) => return Ok(()),
                Err(error) => {
                    self.socket = None;
                    if self.tried.is_some_and(|tried| tried.elapsed() < AGAIN) {
                        return Err(error);
                    }
                }
            }
        }
        if self.tried.is_some_and(|tried| tried.elapsed() < AGAIN) {
            return Err(io::ErrorKind::NotConnected.into());
        }
        self.connect()?;
        let sent = self.socket.as_ref().map_or(Ok(()), |socket| socket.send(&mut self.message));
        if sent.is_err() {
            self.socket = None;
        }
        sent
    }

    fn connect(&mut self) -> io::Result<()> {
        self.tried = Some(Instant::now());
        self.socket = Some(match &self.to {
            SyslogAddr::Unix(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(path)?;
                Socket::Unix(socket)
            }
            SyslogAddr::Udp(to) => {
                let any: SocketAddr = match to {
                    SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                    SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
                };
                let socket = UdpSocket::bind(any)?;
                socket.connect(to)?;
                Socket::Udp(socket)
            }
        });
        Ok(())
    }

    fn write(&mut self, severity: Severity, text: &str) -> io::Result<()> {
        self.message.clear();
        match &self.form {
            Form::Local { facility, process } => {
                let priority = facility.0 * 8 + severity.number() as u8;
                write!(self.message, "<{priority}>{NAME}[{process}]: {text}")
            }
            Form::Remote(form) => {
                let time = humantime::format_rfc3339_micros(SystemTime::now()).to_string();
                let time = Timestamp::PreformattedString(time);
                // Arguments are written unchanged. A text would begin with a byte order mark, which receivers
                // show.
                let text = format_args!("{text}");
                form.write_without_data(&mut self.message, severity.number(), time, text, Some(MESSAGE_ID))
            }
        }
    }
}

fn remote(facility: Facility, process: u32) -> Formatter {
    let name = rustix::system::uname();
    let is_name = |name: &&str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
    let process = process.to_string();
    Config {
        // Every configurable facility is valid.
        facility: syslog_fmt::Facility::try_from(facility.0).unwrap_or_default(),
        hostname: name.nodename().to_str().ok().filter(is_name),
        app_name: Some(NAME),
        proc_id: Some(&process),
    }
    .into_formatter()
}

impl Severity {
    fn number(self) -> syslog_fmt::Severity {
        match self {
            Self::Error => syslog_fmt::Severity::Err,
            Self::Warning => syslog_fmt::Severity::Warning,
            Self::Notice => syslog_fmt::Severity::Notice,
            Self::Info => syslog_fmt::Severity::Info,
        }
    }
}

impl Socket {
    /// Sends a message, cut to the size that the socket accepts.
    fn send(&self, message: &mut Vec<u8>) -> io::Result<()> {
        if matches!(self, Self::Udp(_)) {
            cut(message, MOST_UDP);
        }
        loop {
            let sent = match self {
                Self::Unix(socket) => socket.send(message),
                Self::Udp(socket) => socket.send(message),
            };
            match sent {
                Err(error) if is_too_long(&error) && message.len() / 2 >= LEAST => {
                    let half = message.len() / 2;
                    cut(message, half);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                sent => return sent.map(drop),
            }
        }
    }
}

fn is_too_long(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error())
}

/// Cuts a text to at most this many bytes, not within a character.
fn cut(text: &mut Vec<u8>, most: usize) {
    let mut length = text.len().min(most);
    while text.get(length).is_some_and(|byte| byte & 0xC0 == 0x80) {
        length -= 1;
    }
    text.truncate(length);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A receiver at a path, which is removed with it.
    fn receiver(path: &std::path::Path) -> UnixDatagram {
        let _ = std::fs::remove_file(path);
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        socket
    }

    fn received(receive: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> String {
        let mut buffer = vec![0; 300_000];
        let length = receive(&mut buffer).unwrap();
        buffer.truncate(length);
        String::from_utf8(buffer).unwrap()
    }

    #[test]
    fn a_local_message_is_as_the_c_library_writes_it_but_for_the_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let daemon = receiver(&path);
        let mut syslog = Syslog::new(SyslogAddr::Unix(path), Facility(23));
        syslog.send(Severity::Warning, "a line").unwrap();
        let expected = format!("<{}>holdline[{}]: a line", 23 * 8 + 4, std::process::id());
        assert_eq!(received(|buffer| daemon.recv(buffer)), expected);
    }

    #[test]
    fn a_message_to_another_host_is_that_of_rfc_5424() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let daemon = UdpSocket::bind(address).unwrap();
            daemon.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let mut syslog = Syslog::new(SyslogAddr::Udp(daemon.local_addr().unwrap()), Facility(16));
            syslog.send(Severity::Info, "ä line").unwrap();
            let message = received(|buffer| daemon.recv(buffer));
            let fields: Vec<&str> = message.splitn(8, ' ').collect();
            assert_eq!(fields[0], "<134>1");
            assert!(humantime::parse_rfc3339(fields[1]).is_ok() && fields[1].len() == 27, "{message}");
            assert!(!fields[2].is_empty());
            let process = std::process::id().to_string();
            assert_eq!(fields[3..], ["holdline", &process, "access", "-", "ä line"]);
        }
    }

    #[test]
    fn it_comes_back_after_the_daemon_was_restarted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut syslog = Syslog::new(SyslogAddr::Unix(path.clone()), Facility(23));
        assert!(syslog.send(Severity::Info, "nobody is there").is_err());
        let daemon = receiver(&path);
        assert!(syslog.send(Severity::Info, "too soon").is_err());
        let later = |syslog: &mut Syslog| syslog.tried = Instant::now().checked_sub(AGAIN);
        later(&mut syslog);
        syslog.send(Severity::Info, "1").unwrap();
        drop(daemon);
        later(&mut syslog);
        assert!(syslog.send(Severity::Info, "its socket is still there").is_err());
        let daemon = receiver(&path);
        assert!(syslog.send(Severity::Info, "too soon").is_err());
        later(&mut syslog);
        syslog.send(Severity::Info, "2").unwrap();
        assert!(received(|buffer| daemon.recv(buffer)).ends_with(": 2"));
        // Restarted between two lines, it costs none.
        drop(daemon);
        let daemon = receiver(&path);
        later(&mut syslog);
        syslog.send(Severity::Info, "3").unwrap();
        assert!(received(|buffer| daemon.recv(buffer)).ends_with(": 3"));
    }

    #[test]
    fn what_is_too_long_is_cut() {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        udp.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut syslog = Syslog::new(SyslogAddr::Udp(udp.local_addr().unwrap()), Facility(23));
        syslog.send(Severity::Info, &"ä".repeat(100_000)).unwrap();
        let message = received(|buffer| udp.recv(buffer));
        assert!((MOST_UDP - 1..=MOST_UDP).contains(&message.len()), "{}", message.len());

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let daemon = receiver(&path);
        let mut syslog = Syslog::new(SyslogAddr::Unix(path), Facility(23));
        syslog.send(Severity::Info, &"ä".repeat(1_000_000)).unwrap();
        let message = received(|buffer| daemon.recv(buffer));
        assert!(message.len() > 10_000 && message.ends_with('ä'), "{}", message.len());
    }

    proptest! {
        #[test]
        fn a_text_is_cut_between_two_characters(text: String, most in 0..100_usize) {
            let mut bytes = text.clone().into_bytes();
            cut(&mut bytes, most);
            let kept = String::from_utf8(bytes).unwrap();
            prop_assert!(text.starts_with(&kept) && kept.len() <= most);
            prop_assert!(kept.len() == text.len() || kept.len() + 4 > most);
        }
    }
}
