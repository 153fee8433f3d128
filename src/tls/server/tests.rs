use super::*;
use crate::io::{Readiness as _, Stream};
use crate::tls::session::{ClientCertificate, Session};
use crate::tls::stream::TlsStream;
use crate::tls::{ServerName, client};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, IsCa, KeyIdMethod,
    KeyPair, RevokedCertParams, SerialNumber, date_time_ymd,
};
use std::fs;
use std::path::Path;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::net::UnixStream;

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pair(&self, folder: &Path, name: &str) -> Pair {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.serial_number = Some(SerialNumber::from(7));
        let (cert_path, key_path) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
        fs::write(&cert_path, params.signed_by(&key, &self.0).unwrap().pem()).unwrap();
        fs::write(&key_path, key.serialize_pem()).unwrap();
        Pair { cert: cert_path, key: key_path }
    }

    fn revocation_list(&self) -> String {
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(7),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2100, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.0).unwrap().pem().unwrap()
    }
}

type Accepted = Result<TlsStream<DuplexStream>, (HandshakeError, DuplexStream)>;

/// A handshake, and a byte for the client, with which tickets come.
async fn shake(config: &Config, near: &client::Config) -> Accepted {
    let (here, there) = duplex(64 * 1024);
    let name = ServerName::try_from("a.test").unwrap();
    let (near, far) = tokio::join!(client::connect(here, &name, near), accept(there, config));
    let (mut near, mut far) = (near.unwrap(), far?);
    far.write_all(b"x").await.unwrap();
    near.read_u8().await.unwrap();
    Ok(far)
}

#[tokio::test]
async fn the_certificate_of_a_session_that_is_resumed_is_verified_again() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let authority = Authority::new();
    fs::write(at("ca.pem"), authority.0.pem()).unwrap();
    fs::write(at("crl.pem"), authority.revocation_list()).unwrap();
    let settings = |crls| Settings {
        default: authority.pair(folder.path(), "a.test"),
        others: Vec::new(),
        client_auth: ClientAuth::Required(ClientCa { ca: at("ca.pem"), crls }),
        min_version: MinVersion::Tls12,
        alpn: Vec::new(),
    };
    let before = Config::load(&settings(Vec::new()), None).unwrap();
    // A reload gives new keys for tickets. This test keeps the old ones, to check tickets
    // whose certificate has become invalid. Revocation is quicker than expiry.
    let mut after = Config::load(&settings(vec![at("crl.pem")]), None).unwrap();
    let mut rustls = (*after.rustls).clone();
    rustls.ticketer = Arc::clone(&before.resumption.ticketer);
    after.rustls = Arc::new(rustls);
    let near = client::Settings {
        ca: Some(at("ca.pem")),
        identity: Some(authority.pair(folder.path(), "joe.test")),
        ..client::Settings::default()
    };
    let near = client::Config::load(&near).unwrap();
    for resumed in [false, true] {
        let far = shake(&before, &near).await.map_err(|(error, _)| error).unwrap();
        assert_eq!(Session::of_client(&far).resumed, resumed);
        assert_eq!(ClientCertificate::of(&far).unwrap().serial, "07");
    }
    let refused = shake(&after, &near).await.map_err(|(error, _)| error.to_string()).unwrap_err();
    assert!(refused.contains("Revoked"), "{refused}");
}

#[tokio::test]
async fn what_has_arrived_below_is_known_above() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    fs::write(folder.path().join("ca.pem"), authority.0.pem()).unwrap();
    let far = Settings {
        default: authority.pair(folder.path(), "a.test"),
        others: Vec::new(),
        client_auth: ClientAuth::Off,
        min_version: MinVersion::Tls12,
        alpn: Vec::new(),
    };
    let far = Config::load(&far, None).unwrap();
    let near = client::Settings { ca: Some(folder.path().join("ca.pem")), ..client::Settings::default() };
    let near = client::Config::load(&near).unwrap();
    let (here, there) = UnixStream::pair().unwrap();
    let name = ServerName::try_from("a.test").unwrap();
    let (near, far) =
        tokio::join!(client::connect(Stream::Unix(here), &name, &near), accept(Stream::Unix(there), &far));
    let (mut near, far) =
        (near.unwrap(), Stream::Layered(Box::new(far.map_err(|(error, _)| error).unwrap())));
    assert_eq!(far.has_pending(), Some(false));
    near.write_all(b"x").await.unwrap();
    near.flush().await.unwrap();
    assert_eq!(far.has_pending(), Some(true), "unread, and of that the runtime has not heard");
}
