//! Owns how a listener verifies certificates of clients. It must not know what their names are used for.

use super::{ClientAuth, ClientCa};
use crate::tls::certs::RevocationList;
use crate::tls::certs::load::{read_crls, read_roots};
use crate::tls::problem::{Fault, Part, Problem};
use crate::tls::provider;
use crate::tls::sources::Sources;
use aws_lc_rs::digest;
use rustls::RootCertStore;
use rustls::pki_types::CertificateRevocationListDer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use std::path::Path;
use std::sync::Arc;

/// How clients are verified.
pub(super) struct Clients {
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
    pub(super) crls: Vec<RevocationList>,
    /// A digest of everything that decides which clients are accepted.
    pub(super) verification: digest::Digest,
}

impl Clients {
    pub(super) fn read(auth: &ClientAuth, sources: &mut Sources) -> Result<Self, Vec<Problem>> {
        match auth {
            ClientAuth::Off => Ok(Self {
                verifier: WebPkiClientVerifier::no_client_auth(),
                crls: Vec::new(),
                verification: digest::digest(&digest::SHA256, b"off"),
            }),
            ClientAuth::Optional(ca) => Self::verified(ca, true, sources),
            ClientAuth::Required(ca) => Self::verified(ca, false, sources),
        }
    }

    fn verified(ca: &ClientCa, optional: bool, sources: &mut Sources) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let roots = read_roots(&ca.ca, sources).map_err(|problem| problems.push(problem));
        let mut lists = Vec::new();
        for (index, path) in ca.crls.iter().enumerate() {
            let list = read_crls(path, index, sources).and_then(|(told, list)| match &roots {
                Ok((roots, _)) => check(roots, path, index, &list).map(|()| (told, list)),
                Err(()) => Ok((told, list)),
            });
            lists.extend(list.map_err(|problem| problems.push(problem)));
        }
        let (Ok((roots, authorities)), true) = (roots, problems.is_empty()) else { return Err(problems) };
        let (crls, lists): (Vec<_>, Vec<_>) = lists.into_iter().unzip();
        let lists: Vec<_> = lists.into_iter().flatten().collect();
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(if optional { b"optional" } else { b"required" });
        authorities.iter().for_each(|authority| hash.update(authority));
        lists.iter().for_each(|list| hash.update(list));
        let verifier = verifier(&roots, lists, optional);
        let verifier = verifier.expect("there are authorities, and each list was tried");
        Ok(Self { verifier, crls, verification: hash.finish() })
    }
}

fn verifier(
    roots: &Arc<RootCertStore>,
    crls: Vec<CertificateRevocationListDer<'static>>,
    optional: bool,
) -> Result<Arc<dyn ClientCertVerifier>, VerifierBuilderError> {
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), provider());
    // As in OpenSSL for nginx, an overdue list is not valid.
    let builder = builder.with_crls(crls).enforce_revocation_expiration();
    if optional { builder.allow_unauthenticated() } else { builder }.build()
}

/// Checks that rustls accepts the lists of a file.
fn check(
    roots: &Arc<RootCertStore>,
    path: &Path,
    index: usize,
    crls: &[CertificateRevocationListDer<'static>],
) -> Result<(), Problem> {
    match verifier(roots, crls.to_vec(), false) {
        Err(VerifierBuilderError::InvalidCrl(error)) => {
            Err(Problem { part: Part::Crl(index), path: path.to_owned(), fault: Fault::BadCrl(error) })
        }
        // A file that could be read has at least one authority.
        _ => Ok(()),
    }
}
