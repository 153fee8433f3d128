//! Which clients may come, by their certificates.

use crate::support::certificates::{Authority, of};
use crate::{Site, shake};
use holdline::testing::tls::server::{ClientAuth, ClientCa, HandshakeError};
use holdline::testing::tls::session::ClientCertificate;
use holdline::testing::tls::{Cause, cause};
use std::time::SystemTime;
use tokio::io::AsyncReadExt as _;

#[tokio::test]
async fn clients_are_asked_for_a_certificate_as_configured() {
    let mut site = Site::new();
    let ca = ClientCa { ca: site.folder.write("ca.pem", site.ca.pem()), crls: Vec::new() };
    let joe = site.ca.issue(of(&["joe.test"]).common_name("joe").serial(0xab));
    let (anonymous, joe) = (site.client(), site.client_with(&joe));
    let stranger = Authority::new("Other CA").issue(of(&[]).common_name("joe"));
    let stranger = site.client_with(&stranger);

    let (server, _) = shake(&site.load(), &joe, "a.test").await;
    assert_eq!(ClientCertificate::of(&server.unwrap()), None, "off: nobody asks");

    for (auth, missing_is_fine) in
        [(ClientAuth::Optional(ca.clone()), true), (ClientAuth::Required(ca), false)]
    {
        site.settings.client_auth = auth;
        let config = site.load();
        let (server, client) = shake(&config, &anonymous, "a.test").await;
        match server {
            Ok(server) => assert!(missing_is_fine && ClientCertificate::of(&server).is_none()),
            Err(error) => {
                assert!(
                    !missing_is_fine && matches!(error, HandshakeError::ClientCertificateMissing),
                    "{error}"
                );
                let error = client.unwrap().read_u8().await.unwrap_err();
                let Some(Cause::Alert(alert)) = cause(&error) else { panic!("{error}") };
                assert_eq!(alert.to_string(), "certificate_required (116)");
            }
        }
        let (server, _) = shake(&config, &joe, "a.test").await;
        let shown = ClientCertificate::of(&server.unwrap()).unwrap();
        assert_eq!((shown.subject.as_str(), shown.issuer.as_str()), ("CN=joe", "CN=Test CA"));
        assert_eq!(shown.serial, "AB");
        assert_eq!(shown.names.iter().map(ToString::to_string).collect::<Vec<_>>(), ["DNS:joe.test"]);
        assert_eq!((shown.sha256.len(), shown.sha1.len()), (64, 40));
        let (server, _) = shake(&config, &stranger, "a.test").await;
        let error = server.unwrap_err();
        assert_eq!(error.as_str(), "client_certificate_refused");
        assert_eq!(
            error.to_string(),
            "the client's certificate is refused: invalid peer certificate: UnknownIssuer"
        );
    }
}

#[tokio::test]
async fn revoked_clients_are_refused_and_so_are_all_with_an_overdue_list() {
    let mut site = Site::new();
    let ca = site.folder.write("ca.pem", site.ca.pem());
    let client = |serial| site.client_with(&site.ca.issue(of(&[]).common_name("joe").serial(serial)));
    let (one, two) = (client(1), client(2));
    let crls = vec![site.folder.write("crl.pem", site.ca.revoke(&[1], 2100))];
    site.settings.client_auth = ClientAuth::Required(ClientCa { ca, crls });
    let config = site.load();
    assert_eq!(config.revocation_lists()[0].warning(SystemTime::now()), None);
    let (server, _) = shake(&config, &one, "a.test").await;
    assert!(server.unwrap_err().to_string().contains("Revoked"));
    let (server, _) = shake(&config, &two, "a.test").await;
    server.unwrap();

    site.folder.write("crl.pem", site.ca.revoke(&[], 2021));
    assert!(config.sources().changed());
    let config = site.load();
    assert!(config.revocation_lists()[0].warning(SystemTime::now()).is_some());
    let (server, _) = shake(&config, &two, "a.test").await;
    let error = server.unwrap_err();
    assert!(matches!(error, HandshakeError::ClientCertificateRefused(_)), "{error}");
}
