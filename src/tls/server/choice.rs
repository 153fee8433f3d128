//! Owns how a certificate is chosen for a client. It must not know files.

use crate::tls::certs::{Certificate, KeyType};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::collections::HashMap;
use std::sync::Arc;

/// The certificates of a listener, by name.
#[derive(Debug)]
pub(super) struct Choice {
    /// By host name in lower case, or by `*.example.com` for a wildcard.
    by_name: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// Never empty.
    default: Vec<Arc<CertifiedKey>>,
}

impl Choice {
    /// The first certificate is the default; there must be one. Others with the same first name serve clients
    /// that cannot verify the default.
    pub(super) fn new<'a>(certificates: impl Iterator<Item = (&'a Certificate, CertifiedKey)>) -> Self {
        let mut by_name: HashMap<String, Vec<(&KeyType, Arc<CertifiedKey>)>> = HashMap::new();
        let mut first: Option<(Option<&str>, Arc<CertifiedKey>)> = None;
        for (certificate, key) in certificates {
            let key = Arc::new(key);
            first.get_or_insert_with(|| (certificate.names.first().map(String::as_str), Arc::clone(&key)));
            for name in &certificate.names {
                by_name.entry(name.clone()).or_default().push((&certificate.key, Arc::clone(&key)));
            }
        }
        let by_name = by_name.into_iter().map(|(name, mut keys)| {
            // RSA takes ten times as long to sign, and its chains are longer.
            keys.sort_by_key(|(kind, _)| **kind == KeyType::Rsa);
            (name, keys.into_iter().map(|(_, key)| key).collect())
        });
        let by_name: HashMap<String, Vec<Arc<CertifiedKey>>> = by_name.collect();
        let (name, key) = first.expect("there is a default");
        let default = name.and_then(|name| by_name.get(name)).cloned().unwrap_or_else(|| vec![key]);
        Self { by_name, default }
    }

    fn by_name(&self, host: &str) -> Option<&Vec<Arc<CertifiedKey>>> {
        // A host in SNI has no final dot (RFC 6066 section 3), but some clients send one.
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        self.by_name.get(&host).or_else(|| {
            // RFC 9525 section 6.3: a wildcard is the whole first label, and stands for one label.
            let (_, parent) = host.split_once('.')?;
            self.by_name.get(&format!("*.{parent}"))
        })
    }
}

impl ResolvesServerCert for Choice {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let keys = hello.server_name().and_then(|host| self.by_name(host)).unwrap_or(&self.default);
        // Rustls has removed the schemes that fit no cipher suite of the client.
        let fits = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        // If none fits, rustls says with the first one what is missing.
        keys.iter().find(fits).or_else(|| keys.first()).cloned()
    }
}
