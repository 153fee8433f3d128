//! A client of tokio-rustls at the other end: records in pieces, altered records, ends.

use super::*;
use crate::tls::certs::Pair;
use crate::tls::client;
use crate::tls::server::{self, ClientAuth, ClientCa, HandshakeError, accept};
use crate::tls::{MinVersion, ServerName};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::fs;
use tempfile::TempDir;
use tokio::io::{AsyncWriteExt as _, DuplexStream, duplex, split};

/// A listener and a client that trust each other.
struct Pairing {
    server: server::Config,
    client: client::Config,
    _folder: TempDir,
}

impl Pairing {
    /// The client shows its certificate with so many others behind it.
    fn new(min_version: MinVersion, others: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        fs::write(at("ca.pem"), authority.pem()).unwrap();
        let pair = |name: &str, others: usize| {
            let key = KeyPair::generate().unwrap();
            let own = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
            let (cert, path) = (at(&format!("{name}.pem")), at(&format!("{name}.key")));
            fs::write(&cert, own.pem() + &authority.pem().repeat(others)).unwrap();
            fs::write(&path, key.serialize_pem()).unwrap();
            Pair { cert, key: path }
        };
        let ca = ClientCa { ca: at("ca.pem"), crls: Vec::new() };
        let server = server::Settings {
            default: pair("a.test", 0),
            others: Vec::new(),
            client_auth: ClientAuth::Optional(ca),
            min_version: MinVersion::Tls12,
            alpn: Vec::new(),
        };
        let client = client::Settings {
            ca: Some(at("ca.pem")),
            identity: (others > 0).then(|| pair("joe.test", others)),
            min_version,
            ..client::Settings::default()
        };
        Self {
            server: server::Config::load(&server, None).unwrap(),
            client: client::Config::load(&client).unwrap(),
            _folder: folder,
        }
    }

    /// Both ends of a stream, over one that takes so many bytes at once.
    async fn shake(
        &self,
        room: usize,
    ) -> (tokio_rustls::client::TlsStream<DuplexStream>, TlsStream<DuplexStream>) {
        let (near, far) = duplex(room);
        let name = ServerName::try_from("a.test").unwrap();
        let accepted = async { accept(far, &self.server).await.map_err(|(error, _)| error) };
        let (near, far) = tokio::join!(client::connect(near, &name, &self.client), accepted);
        let far = far.unwrap();
        (near.unwrap(), far)
    }
}

#[tokio::test]
async fn every_byte_passes_however_it_is_cut() {
    let pairing = Pairing::new(MinVersion::Tls12, 0);
    let data: Vec<u8> = (0..20_000_u32).map(|number| (number % 251) as u8).collect();
    for room in [1, 7, 5000, 1 << 20] {
        let (near, mut far) = pairing.shake(room).await;
        assert_eq!(far.server_name(), Some("a.test"));
        let (mut from, mut to) = split(near);
        let sent = async {
            to.write_all(&data).await.unwrap();
            to.shutdown().await.unwrap();
        };
        let echoed = async {
            // Small reads leave something unread, large ones fetch several records.
            let mut buffer = vec![0; if room == 7 { 100 } else { 70_000 }];
            loop {
                let count = far.read(&mut buffer).await.unwrap();
                if count == 0 {
                    break far.shutdown().await.unwrap();
                }
                far.write_all(&buffer[..count]).await.unwrap();
                far.flush().await.unwrap();
            }
        };
        let mut back = Vec::new();
        let (_, _, read) = tokio::join!(sent, echoed, from.read_to_end(&mut back));
        read.expect("a close_notify at the end");
        assert!(back == data, "{room}");
    }
}

#[tokio::test]
async fn nothing_is_buffered_while_nothing_is_under_way() {
    let (mut near, mut far) = Pairing::new(MinVersion::Tls12, 0).shake(1 << 20).await;
    let mut buffer = [0; 4];
    for _ in 0..3 {
        near.write_all(b"ping").await.unwrap();
        far.read_exact(&mut buffer).await.unwrap();
        far.write_all(b"pong").await.unwrap();
        near.read_exact(&mut buffer).await.unwrap();
    }
    assert_eq!([far.partial.capacity(), far.unread.bytes.capacity(), far.unsent.bytes.capacity()], [0; 3]);
}

#[tokio::test]
async fn a_certificate_may_come_in_several_records() {
    let pairing = Pairing::new(MinVersion::Tls13, 100);
    let (mut near, mut far) = pairing.shake(3000).await;
    assert_eq!(far.session().peer_certificates().unwrap().len(), 101);
    let (read, _) = tokio::join!(far.read_u8(), async {
        near.write_all(b"x").await.unwrap();
        near.flush().await.unwrap();
    });
    assert_eq!(read.unwrap(), b'x');
}

/// A stream of which one byte that is read is another.
struct Altered {
    io: DuplexStream,
    left: usize,
}

impl AsyncRead for Altered {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = into.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, into))?;
        let fresh = &mut into.filled_mut()[before..];
        if let Some(byte) = fresh.get_mut(this.left) {
            *byte ^= 0x55;
        }
        this.left = this.left.checked_sub(fresh.len()).unwrap_or(usize::MAX);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Altered {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn one_altered_byte_ends_it_wherever_it_stands() {
    let pairing = Pairing::new(MinVersion::Tls12, 1);
    let mut met = [0; 3];
    for left in (0..4000).step_by(13) {
        let (near, far) = duplex(300);
        let name = ServerName::try_from("a.test").unwrap();
        let sent = async {
            let mut near = client::connect(near, &name, &pairing.client).await.map_err(io::Error::other)?;
            near.write_all(&[7; 100]).await?;
            near.shutdown().await?;
            // The alert, or the end.
            near.read_to_end(&mut Vec::new()).await
        };
        let received = async {
            let mut far =
                accept(Altered { io: far, left }, &pairing.server).await.map_err(|(error, _)| error)?;
            let mut bytes = Vec::new();
            let read = far.read_to_end(&mut bytes).await;
            assert!(read.is_err() || bytes == [7; 100], "{left}");
            // Whatever came, there may be an attempt to say something.
            let _ = far.write_all(b"x").await;
            let _ = far.shutdown().await;
            Ok::<_, HandshakeError>(read.is_ok())
        };
        match tokio::join!(sent, received).1 {
            Err(_) => met[0] += 1,
            Ok(false) => met[1] += 1,
            Ok(true) => met[2] += 1,
        }
    }
    assert!(met.iter().all(|&count| count > 0), "in the handshake, behind it, nowhere: {met:?}");
}
