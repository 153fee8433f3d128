//! Which certificate is shown, and which files can be used.

use crate::support::certificates::{Issued, of, provider};
use crate::{Site, shake};
use holdline::testing::tls::certs::Expiry;
use holdline::testing::tls::server::{ClientAuth, ClientCa, HandshakeError};
use std::sync::Arc;
use std::time::SystemTime;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::{ClientConfig, SignatureAlgorithm, SignatureScheme};

#[tokio::test]
async fn sni_chooses_exact_names_then_wildcards_then_the_default() {
    let mut site = Site::new();
    let default = site.ca.issue(of(&["a.test", "10.0.0.1", "x.b.example.com", "example.com"]));
    let exact = site.ca.issue(of(&["one.example.com"]));
    let wildcard = site.ca.issue(of(&["*.example.com"]));
    site.settings.default = site.folder.pair("default", &default);
    site.settings.others = vec![site.folder.pair("wildcard", &wildcard), site.folder.pair("exact", &exact)];
    let (config, client) = (site.load(), site.client());
    for (name, expected) in [
        ("one.example.com", &exact),
        ("ONE.example.com", &exact),
        ("two.example.com", &wildcard),
        ("x.b.example.com", &default),
        ("example.com", &default),
        ("10.0.0.1", &default),
    ] {
        assert_eq!(site.shown(&config, &client, name).await, expected.der().to_vec(), "{name}");
    }
    let (_, refused) = shake(&config, &client, "unknown.test").await;
    let text = format!("{:?}", refused.unwrap_err());
    assert!(text.contains("x.b.example.com"), "the default for names that nobody has: {text}");
}

/// A client that can verify only signatures with one kind of key.
fn verifying(site: &Site, algorithm: SignatureAlgorithm) -> Arc<ClientConfig> {
    let mut provider = (*provider()).clone();
    let is_of = |scheme: &SignatureScheme| match algorithm {
        SignatureAlgorithm::RSA => format!("{scheme:?}").starts_with("RSA"),
        _ => format!("{scheme:?}").starts_with("ECDSA"),
    };
    let mapping = provider.signature_verification_algorithms.mapping;
    let mapping: Vec<_> = mapping.iter().copied().filter(|(scheme, _)| is_of(scheme)).collect();
    provider.signature_verification_algorithms.mapping = Vec::leak(mapping);
    let provider = Arc::new(provider);
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(site.ca.roots()), Arc::clone(&provider)).build();
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier.unwrap());
    Arc::new(builder.with_no_client_auth())
}

#[tokio::test]
async fn of_two_keys_for_a_name_the_one_that_the_client_can_verify_is_used() {
    let mut site = Site::new();
    let rsa = site.ca.issue(of(&["a.test"]).rsa());
    let ecdsa = site.ca.issue(of(&["a.test"]));
    site.settings.default = site.folder.pair("rsa", &rsa);
    site.settings.others = vec![site.folder.pair("ecdsa", &ecdsa)];
    let config = site.load();
    let kinds: Vec<_> = config.certificates().iter().map(|certificate| certificate.key.to_string()).collect();
    assert_eq!(kinds, ["RSA", "ECDSA"]);
    assert_eq!(site.shown(&config, &site.client(), "a.test").await, ecdsa.der().to_vec());
    let old = verifying(&site, SignatureAlgorithm::RSA);
    assert_eq!(site.shown(&config, &old, "a.test").await, rsa.der().to_vec());
    let new = verifying(&site, SignatureAlgorithm::ECDSA);
    assert_eq!(site.shown(&config, &new, "a.test").await, ecdsa.der().to_vec());

    site.settings.others.clear();
    let (server, _) = shake(&site.load(), &new, "a.test").await;
    assert!(matches!(server, Err(HandshakeError::NoSharedCipher(_))), "{server:?}");
}

#[tokio::test]
async fn a_common_name_counts_only_without_alternative_names() {
    let mut site = Site::new();
    let old = site.ca.issue(of(&[]).common_name("Old.test"));
    let new = site.ca.issue(of(&["new.test"]).common_name("cn.test"));
    site.settings.others = vec![site.folder.pair("old", &old), site.folder.pair("new", &new)];
    let config = site.load();
    let names: Vec<_> = config.certificates().iter().map(|certificate| certificate.names.clone()).collect();
    assert_eq!(names, [["a.test"], ["old.test"], ["new.test"]]);
}

#[test]
fn certificates_out_of_time_are_taken_and_told_of() {
    let mut site = Site::new();
    let expired = site.ca.issue(of(&["old.test"]).years(2000, 2001));
    let early = site.ca.issue(of(&["early.test"]).years(3000, 3001));
    site.settings.others = vec![site.folder.pair("expired", &expired), site.folder.pair("early", &early)];
    let config = site.load();
    let warnings = |index: usize| config.certificates()[index].warning(SystemTime::now());
    assert_eq!(warnings(0), None);
    assert!(matches!(warnings(1), Some(Expiry::Expired { .. })));
    assert!(matches!(warnings(2), Some(Expiry::NotYetValid { .. })));
    assert!(config.certificates()[1].days_left(SystemTime::now()) < -8000);
}

#[test]
fn all_files_that_cannot_be_used_are_told_of_at_once() {
    let mut site = Site::new();
    let one = site.ca.issue(of(&["one.test"]));
    let two = site.ca.issue(of(&["two.test"]));
    let mut swapped = site.folder.pair("swapped", &one);
    std::mem::swap(&mut swapped.cert, &mut swapped.key);
    let chain = Issued { cert: site.ca.pem() + &one.cert, key: one.key.clone() };
    let pairs = [
        swapped,
        site.folder.pair("mixed", &Issued { cert: one.cert.clone(), key: two.key.clone() }),
        site.folder.pair("order", &chain),
        site.folder.pair("empty", &Issued { cert: String::new(), key: one.key.clone() }),
        site.folder
            .pair("cut", &Issued { cert: one.cert[..one.cert.len() - 30].to_owned(), key: one.key.clone() }),
    ];
    site.settings.others = pairs.into();
    let missing =
        ClientCa { ca: site.folder.path("missing.pem"), crls: vec![site.folder.write("crl.pem", &one.cert)] };
    site.settings.client_auth = ClientAuth::Required(missing);
    let expected = [
        "swapped.key: no certificate found; it holds 1 private key: are cert and key swapped?",
        "swapped.pem: no private key found; it holds 1 certificate: are cert and key swapped?",
        "mixed.key: the private key does not belong to the certificate in mixed.pem: \
         was only one of the two files replaced?",
        "order.pem: the private key belongs to certificate 2 of the file, not to the first: \
         put the server's certificate first, below it those that issued it",
        "empty.pem: the file is empty: is it still being written, or was the disk full?",
        "cut.pem: broken PEM: the line \"-----END CERTIFICATE-----\" is missing: copy the file again, whole",
        "missing.pem: cannot be read: No such file or directory (os error 2): check the path",
        "crl.pem: no revocation list found; it holds 1 certificate: expected -----BEGIN X509 CRL-----",
    ];
    assert_eq!(site.problems(), expected);
}

#[test]
fn what_is_no_certificate_or_key_inside_is_told_of() {
    let mut site = Site::new();
    let rubbish = |label: &str| format!("-----BEGIN {label}-----\nMAMCAQA=\n-----END {label}-----\n");
    let pair = Issued { cert: rubbish("CERTIFICATE"), key: rubbish("PRIVATE KEY") };
    site.settings.default = site.folder.pair("bad", &pair);
    let problems = site.problems();
    assert!(problems[0].starts_with("bad.key: the private key is not usable"), "{problems:?}");
    let good = site.ca.issue(of(&["a.test"])).key;
    site.settings.default = site.folder.pair("bad", &Issued { key: good, ..pair });
    let problems = site.problems();
    assert!(problems[0].starts_with("bad.pem: certificate 1 of the file is not usable"), "{problems:?}");
    site.settings = Site::new().settings;
    let ca = site.folder.write("ca.pem", site.ca.pem());
    let crls = vec![site.folder.write("crl.pem", rubbish("X509 CRL"))];
    site.settings.client_auth = ClientAuth::Required(ClientCa { ca, crls });
    let problems = site.problems();
    assert!(
        problems.iter().any(|text| text.contains("crl.pem: the revocation list is not usable")),
        "{problems:?}"
    );
}

#[test]
fn the_example_of_an_encrypted_key_is_told_of() {
    let mut site = Site::new();
    let mut pair = site.ca.issue(of(&["a.test"]));
    pair.key = pair.key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    site.settings.default = site.folder.pair("secret", &pair);
    let problems = site.problems();
    assert!(
        problems[0].starts_with("secret.key: the private key is encrypted: write it without"),
        "{problems:?}"
    );
}
