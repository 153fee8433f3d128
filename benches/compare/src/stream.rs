//! Owns a client's byte stream: a socket that never blocks, with TLS or without.

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::cipher_suite::{TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS13_AES_128_GCM_SHA256};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use socket2::{Domain, Socket, Type};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;

/// The version of TLS that clients speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum TlsVersion {
    /// TLS 1.2.
    #[value(name = "1.2")]
    Tls12,
    /// TLS 1.3.
    #[value(name = "1.3")]
    Tls13,
}

/// How clients speak TLS: one version with AES-128-GCM only, so that every proxy does the same work, and without
/// resuming, so that each handshake is a whole one.
pub fn tls_config(ca: &Path, version: TlsVersion) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in
        CertificateDer::pem_file_iter(ca).map_err(|error| format!("{}: {error}", ca.display()))?
    {
        let certificate = certificate.map_err(|error| format!("{}: {error}", ca.display()))?;
        roots.add(certificate).map_err(|error| format!("{}: {error}", ca.display()))?;
    }
    let (suite, version) = match version {
        TlsVersion::Tls12 => (TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, &TLS12),
        TlsVersion::Tls13 => (TLS13_AES_128_GCM_SHA256, &TLS13),
    };
    let provider = CryptoProvider { cipher_suites: vec![suite], ..default_provider() };
    let builder = ClientConfig::builder_with_provider(Arc::new(provider)).with_protocol_versions(&[version]);
    let builder = builder.map_err(|error| error.to_string())?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// One connection's stream.
pub struct Stream {
    tcp: TcpStream,
    tls: Option<Box<ClientConnection>>,
}

impl Stream {
    /// Begins to connect; that it has connected, or has failed to, shows in that there is room to write.
    pub fn connect(
        to: SocketAddr,
        tls: Option<(&Arc<ClientConfig>, &ServerName<'static>)>,
    ) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM.nonblocking().cloexec(), None)?;
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&to.into()) {
            Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
                return Err(error);
            }
            _ => {}
        }
        let session = tls.map(|(config, name)| ClientConnection::new(config.clone(), name.clone()));
        let session = session.transpose().map_err(io::Error::other)?;
        Ok(Self { tcp: socket.into(), tls: session.map(Box::new) })
    }

    /// Why it could not connect.
    pub fn error(&self) -> io::Result<Option<io::Error>> {
        self.tcp.take_error()
    }

    /// Whether a read that did not fill its buffer took all there was.
    pub fn short_read_is_all(&self) -> bool {
        self.tls.is_none()
    }

    /// Reads; 0 is the end of the stream.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(session) = &mut self.tls else { return self.tcp.read(buffer) };
        loop {
            match session.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // Without a close_notify, as many servers end.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(0),
                other => return other,
            }
            if session.read_tls(&mut self.tcp)? > 0 {
                session
                    .process_new_packets()
                    .map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
            } else if session.is_handshaking() {
                return Ok(0);
            }
        }
    }

    /// Writes some of the bytes.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(session) = &mut self.tls else { return self.tcp.write(bytes) };
        let taken = session.writer().write(bytes)?;
        self.flush()?;
        if taken == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(taken) }
    }

    /// Sends what TLS itself has to say.
    pub fn flush(&mut self) -> io::Result<()> {
        let Some(session) = &mut self.tls else { return Ok(()) };
        while session.wants_write() {
            match session.write_tls(&mut self.tcp) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                other => other?,
            };
        }
        Ok(())
    }

    /// Whether TLS has something to send.
    pub fn wants_write(&self) -> bool {
        self.tls.as_ref().is_some_and(|session| session.wants_write())
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tcp.as_fd()
    }
}
