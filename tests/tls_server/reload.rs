//! What a reload does to new connections, open ones and sessions.

use crate::support::certificates::{of, provider};
use crate::{Site, shake};
use holdline::testing::tls::server::{ClientAuth, ClientCa, Server};
use holdline::testing::tls::session::Session;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::rustls::{ClientConfig, version};

#[tokio::test]
async fn a_swap_changes_new_connections_and_leaves_open_ones() {
    let site = Site::new();
    let server = Server::new(site.load());
    let (open, client) = shake(&server.current(), &site.client(), "a.test").await;
    let (mut open, mut client) = (open.unwrap(), client.unwrap());
    assert!(!server.current().sources().changed());

    let renewed = site.ca.issue(of(&["a.test"]));
    site.folder.pair("default", &renewed);
    assert!(server.current().sources().changed());
    server.swap(server.load(&site.settings).unwrap());
    assert!(!server.current().sources().changed());
    assert_eq!(site.shown(&server.current(), &site.client(), "a.test").await, renewed.der().to_vec());

    client.write_all(b"still here").await.unwrap();
    let mut heard = [0; 10];
    open.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"still here");
}

#[tokio::test]
async fn a_broken_file_leaves_what_was_and_is_tried_again_when_it_changes() {
    let site = Site::new();
    let server = Server::new(site.load());
    // The certificate is replaced, its key comes a moment later.
    let renewed = site.ca.issue(of(&["a.test"]));
    site.folder.write("default.pem", &renewed.cert);
    assert!(server.current().sources().changed());
    let tried = site.settings.sources();
    assert_eq!(server.load(&site.settings).unwrap_err().len(), 1);
    assert!(!tried.changed(), "nothing new to complain of");
    let (still, _) = shake(&server.current(), &site.client(), "a.test").await;
    still.unwrap();
    site.folder.write("default.key", &renewed.key);
    assert!(tried.changed());
    server.swap(server.load(&site.settings).unwrap());
    assert_eq!(site.shown(&server.current(), &site.client(), "a.test").await, renewed.der().to_vec());
}

/// Whether the second connection of a client, after a swap, resumes the session of the first.
async fn resumes(site: &mut Site, client: &Arc<ClientConfig>, change: impl FnOnce(&mut Site)) -> bool {
    let server = Server::new(site.load());
    let (first, near) = shake(&server.current(), client, "a.test").await;
    let (mut first, mut near) = (first.unwrap(), near.unwrap());
    assert!(!Session::of_client(&first).resumed);
    // Tickets of TLS 1.3 come with the first bytes.
    first.write_all(b"x").await.unwrap();
    near.read_u8().await.unwrap();
    change(site);
    server.swap(server.load(&site.settings).unwrap());
    let (second, near) = shake(&server.current(), client, "a.test").await;
    let session = Session::of_client(&second.unwrap());
    assert_eq!(Session::of_upstream(&near.unwrap()).resumed, session.resumed);
    session.resumed
}

#[tokio::test]
async fn sessions_are_resumed_across_a_swap() {
    for versions in [[&version::TLS13], [&version::TLS12]] {
        let mut site = Site::new();
        let builder =
            ClientConfig::builder_with_provider(provider()).with_protocol_versions(&versions).unwrap();
        let client = builder.with_root_certificates(site.ca.roots()).with_no_client_auth();
        let renew = |site: &mut Site| {
            site.folder.pair("default", &site.ca.issue(of(&["a.test"])));
        };
        assert!(resumes(&mut site, &Arc::new(client), renew).await, "{versions:?}");
    }
}

#[tokio::test]
async fn sessions_are_not_resumed_when_clients_are_verified_otherwise() {
    let mut site = Site::new();
    let client = site.ca.issue(of(&[]).common_name("joe").serial(7));
    let client = site.client_with(&client);
    let ca = site.folder.write("ca.pem", site.ca.pem());
    site.settings.client_auth = ClientAuth::Required(ClientCa { ca: ca.clone(), crls: Vec::new() });
    let renew = |site: &mut Site| drop(site.folder.pair("default", &site.ca.issue(of(&["a.test"]))));
    assert!(resumes(&mut site, &client, renew).await, "the same verification");
    let revoke = |site: &mut Site| {
        let crls = vec![site.folder.write("crl.pem", site.ca.revoke(&[1], 2100))];
        site.settings.client_auth = ClientAuth::Required(ClientCa { ca, crls });
    };
    assert!(!resumes(&mut site, &client, revoke).await, "another list");
}
