//! Whom the client trusts.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt;

use super::error::ClientError;

/// Where the certificates come from that a server's must lead up to.
pub(super) enum Trust<'a> {
    /// The certificates of this PEM text, and no others.
    Pem(&'a [u8]),
    /// The machine's own.
    System,
    /// None, for connections without TLS: reading the machine's certificates
    /// takes time, and fails on machines that have none.
    Nobody,
}

/// A configuration with the ring provider, whatever the process has as default.
pub(super) fn config(trust: &Trust<'_>) -> Result<ClientConfig, ClientError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(ClientError::Tls)?;
    Ok(match trust {
        Trust::Pem(pem) => builder.with_root_certificates(roots(pem)?).with_no_client_auth(),
        Trust::System => builder
            .with_platform_verifier()
            .map_err(ClientError::Tls)?
            .with_no_client_auth(),
        Trust::Nobody => builder
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth(),
    })
}

fn roots(pem: &[u8]) -> Result<RootCertStore, ClientError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|_| ClientError::CaFile)?;
        roots.add(certificate).map_err(ClientError::Tls)?;
    }
    if roots.is_empty() {
        return Err(ClientError::CaFile);
    }
    Ok(roots)
}
