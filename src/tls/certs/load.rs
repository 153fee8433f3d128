//! Owns how certificates, keys, authorities and revocation lists are read from their files. It must not know
//! which handshakes use them.

use super::{Certificate, KeyType, Pair, RevocationList};
use crate::tls::pem::Pem;
use crate::tls::problem::{Fault, Part, Problem};
use crate::tls::sources::Sources;
use crate::tls::{provider, x509};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore, SignatureAlgorithm};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

/// Reads a chain and its key, and checks that they are a pair. `index` is the position in the list.
///
/// # Errors
/// All the problems of both files.
pub(in crate::tls) fn read_pair(
    pair: &Pair,
    index: usize,
    sources: &mut Sources,
) -> Result<(Certificate, CertifiedKey), Vec<Problem>> {
    let at_cert = |fault| Problem { part: Part::Cert(index), path: pair.cert.clone(), fault };
    let at_key = |fault| Problem { part: Part::Key(index), path: pair.key.clone(), fault };
    let chain = Pem::read(&pair.cert, sources).and_then(Pem::certificates).map_err(at_cert);
    let key = Pem::read(&pair.key, sources).and_then(Pem::key).map_err(at_key);
    // If both are broken, the operator sees both problems.
    let (chain, key) = match (chain, key) {
        (Ok(chain), Ok(key)) => (chain, key),
        (chain, key) => return Err([chain.err(), key.err()].into_iter().flatten().collect()),
    };
    let signing = provider().key_provider.load_private_key(key);
    let signing = signing.map_err(|error| vec![at_key(Fault::BadKey(error))])?;
    let certified = CertifiedKey::new(chain, signing);
    check_match(&certified, pair).map_err(|fault| match fault {
        Fault::Mismatch { .. } => vec![at_key(fault)],
        _ => vec![at_cert(fault)],
    })?;
    let kind = match certified.key.algorithm() {
        SignatureAlgorithm::RSA => KeyType::Rsa,
        SignatureAlgorithm::ECDSA => KeyType::Ecdsa,
        _ => KeyType::Other,
    };
    let told = Certificate::read(&pair.cert, &certified.cert[0], kind);
    let told =
        told.map_err(|_| vec![at_cert(bad_certificate(0, rustls::CertificateError::BadEncoding.into()))])?;
    Ok((told, certified))
}

fn check_match(certified: &CertifiedKey, pair: &Pair) -> Result<(), Fault> {
    match certified.keys_match() {
        // Each kind of key that rustls loads here has its public half.
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => {
            let below = certified.cert.iter().skip(1).position(|certificate| {
                let alone = CertifiedKey::new(vec![certificate.clone()], Arc::clone(&certified.key));
                alone.keys_match().is_ok()
            });
            Err(match below {
                Some(index) => Fault::LeafNotFirst { position: index + 2 },
                None => Fault::Mismatch { cert: pair.cert.clone() },
            })
        }
        Err(error) => Err(bad_certificate(0, error)),
    }
}

/// Reads authorities to trust. Their bytes are returned too, so that a caller can see whether they have
/// changed.
pub(in crate::tls) fn read_roots(
    path: &Path,
    sources: &mut Sources,
) -> Result<(Arc<RootCertStore>, Vec<CertificateDer<'static>>), Problem> {
    let problem = |fault| Problem { part: Part::Ca, path: path.to_owned(), fault };
    let certificates = Pem::read(path, sources).and_then(Pem::certificates).map_err(problem)?;
    let mut roots = RootCertStore::empty();
    for (index, certificate) in certificates.iter().enumerate() {
        roots.add(certificate.clone()).map_err(|error| problem(bad_certificate(index, error)))?;
    }
    Ok((Arc::new(roots), certificates))
}

/// The authorities that the system trusts. Some systems have authorities that rustls cannot read; these are
/// skipped.
pub(in crate::tls) fn system_roots() -> Result<Arc<RootCertStore>, Problem> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(Problem { part: Part::Ca, path: "/etc/ssl/certs".into(), fault: Fault::NoSystemRoots });
    }
    Ok(Arc::new(roots))
}

/// Reads the revocation lists of one file.
pub(in crate::tls) fn read_crls(
    path: &Path,
    index: usize,
    sources: &mut Sources,
) -> Result<(RevocationList, Vec<CertificateRevocationListDer<'static>>), Problem> {
    let problem = |fault| Problem { part: Part::Crl(index), path: path.to_owned(), fault };
    let crls = Pem::read(path, sources).and_then(Pem::crls).map_err(problem)?;
    let mut next_update: Option<SystemTime> = None;
    for crl in &crls {
        let next = x509::next_update(crl);
        let next = next.map_err(|_| problem(Fault::BadCrl(rustls::CertRevocationListError::ParseError)))?;
        next_update = [next_update, next].into_iter().flatten().min();
    }
    Ok((RevocationList { path: path.to_owned(), next_update }, crls))
}

fn bad_certificate(index: usize, error: rustls::Error) -> Fault {
    Fault::BadCertificate { position: index + 1, error }
}
