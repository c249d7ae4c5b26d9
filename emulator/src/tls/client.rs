//! Client certificates in the handshake: asked for, never required, and taken
//! whatever they say as long as the client has the private key.
//!
//! Refusing a certificate here would kill the connection with a TLS alert; the
//! service answers in MQTT or HTTP instead. So chains, dates, usages and
//! versions are looked at later, and only if it is a certificate that counts.

use hub_core::limits;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerMisbehaved, SignatureScheme,
};

use super::ALGORITHMS;
use super::der::Pieces;

/// Takes every client certificate whose holder proves to have its key.
#[derive(Debug)]
pub(super) struct AnyClient;

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Clients would keep certificates of other issuers to themselves.
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let bytes = leaf.len() + others.iter().map(|other| other.len()).sum::<usize>();
        if others.len() >= limits::CERTIFICATE_CHAIN || bytes > limits::CERTIFICATE_CHAIN_BYTES {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify(message, certificate, signed, Curve::OfTheKey)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if !is_of_tls13(signed.scheme) {
            return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
        }
        verify(message, certificate, signed, Curve::OfTheScheme)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ALGORITHMS.supported_schemes()
    }
}

/// Which curve an ECDSA signature may be on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Curve {
    /// TLS 1.2 names the hash only.
    OfTheKey,
    /// TLS 1.3 names both (RFC 8446, section 4.2.3).
    OfTheScheme,
}

/// Signature schemes that TLS 1.3 forbids in handshakes are still offered,
/// because they are for certificates and for TLS 1.2.
fn is_of_tls13(scheme: SignatureScheme) -> bool {
    matches!(
        scheme,
        SignatureScheme::ECDSA_NISTP256_SHA256
            | SignatureScheme::ECDSA_NISTP384_SHA384
            | SignatureScheme::ECDSA_NISTP521_SHA512
            | SignatureScheme::RSA_PSS_SHA256
            | SignatureScheme::RSA_PSS_SHA384
            | SignatureScheme::RSA_PSS_SHA512
            | SignatureScheme::ED25519
            | SignatureScheme::ED448
    )
}

/// Proves that the client has the private key of `certificate`.
fn verify(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
    curve: Curve,
) -> Result<HandshakeSignatureValid, Error> {
    let pieces = Pieces::of(certificate).ok_or(CertificateError::BadEncoding)?;
    let (_, candidates) = ALGORITHMS
        .mapping
        .iter()
        .find(|(scheme, _)| *scheme == signed.scheme)
        .ok_or(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)?;
    // The first of several is the one with the curve in the scheme's name.
    let candidates = match curve {
        Curve::OfTheKey => candidates,
        Curve::OfTheScheme => &candidates[..candidates.len().min(1)],
    };
    candidates
        .iter()
        .find(|algorithm| algorithm.public_key_alg_id().as_ref() == pieces.key_algorithm)
        .and_then(|algorithm| {
            algorithm
                .verify_signature(pieces.key, message, signed.signature())
                .ok()
        })
        .map(|()| HandshakeSignatureValid::assertion())
        .ok_or_else(|| CertificateError::BadSignature.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::Authority;
    use crate::tls::testing::{self, Holder, client, meet};
    use rustls::version::{TLS12, TLS13};
    use rustls::{HandshakeKind, ServerConfig, SupportedProtocolVersion};
    use std::sync::Arc;

    const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

    fn server() -> Arc<ServerConfig> {
        Authority::in_memory()
            .unwrap()
            .server_config("localhost")
            .unwrap()
    }

    #[tokio::test]
    async fn clients_need_no_certificate() {
        let server = server();
        for version in VERSIONS {
            let met = meet(&server, &client(None, version)).await.unwrap();
            assert!(met.certificate.is_none());
        }
    }

    #[tokio::test]
    async fn certificates_of_all_sorts_are_taken_and_handed_on() {
        let p256 = &rcgen::PKCS_ECDSA_P256_SHA256;
        let server = server();
        for (what, holder) in [
            ("P-256", Holder::self_signed("d")),
            (
                "P-384",
                Holder::of(&testing::named("d"), &rcgen::PKCS_ECDSA_P384_SHA384),
            ),
            ("Ed25519", Holder::of(&testing::named("d"), &rcgen::PKCS_ED25519)),
            ("RSA", testing::rsa()),
            ("expired", Holder::of(&testing::expired("d"), p256)),
            ("for servers", Holder::of(&testing::for_servers("d"), p256)),
            ("an authority", Holder::of(&testing::authority("d"), p256)),
            ("version 1", testing::version_1()),
        ] {
            for version in VERSIONS {
                let met = meet(&server, &client(Some(&holder), version)).await;
                let met = met.unwrap_or_else(|e| panic!("{what}, {:?}: {e}", version.version));
                let read = met.certificate.unwrap().read().unwrap();
                assert_eq!(
                    read.sha256,
                    crate::tls::certificate::Fingerprints::of(&holder.leaf()).sha256,
                    "{what}"
                );
            }
        }
    }

    #[tokio::test]
    async fn a_certificate_without_its_key_is_refused() {
        let server = server();
        let p384 = Holder::of(&testing::named("d"), &rcgen::PKCS_ECDSA_P384_SHA384);
        for (what, victim, thief) in [
            (
                "the same kind of key",
                Holder::self_signed("d"),
                Holder::self_signed("d"),
            ),
            ("another curve", Holder::self_signed("d"), p384),
            ("another kind of key", testing::rsa(), Holder::self_signed("d")),
            ("version 1", testing::version_1(), Holder::self_signed("d")),
        ] {
            let stolen = Holder {
                chain: victim.chain,
                key: thief.key,
            };
            for version in VERSIONS {
                let met = meet(&server, &client(Some(&stolen), version)).await;
                let error = met
                    .err()
                    .unwrap_or_else(|| panic!("{what}, {:?}", version.version));
                assert!(error.to_string().contains("BadSignature"), "{what}: {error}");
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_certificate_is_refused() {
        let server = server();
        let holder = Holder {
            chain: vec![vec![7; 100].into()],
            ..Holder::self_signed("d")
        };
        for version in VERSIONS {
            assert!(meet(&server, &client(Some(&holder), version)).await.is_err());
        }
    }

    #[tokio::test]
    async fn chains_are_bounded() {
        let server = server();
        let holder = Holder::self_signed("d");
        let with = |others: Vec<CertificateDer<'static>>| Holder {
            chain: std::iter::once(holder.leaf()).chain(others).collect(),
            key: holder.key.clone_key(),
        };
        for (others, taken) in [
            (vec![holder.leaf(); limits::CERTIFICATE_CHAIN - 1], true),
            (vec![holder.leaf(); limits::CERTIFICATE_CHAIN], false),
            (vec![vec![0; limits::CERTIFICATE_CHAIN_BYTES].into()], false),
        ] {
            for version in VERSIONS {
                let met = meet(&server, &client(Some(&with(others.clone())), version)).await;
                assert_eq!(met.is_ok(), taken, "{} others", others.len());
            }
        }
    }

    #[tokio::test]
    async fn a_resumed_session_has_the_certificate_of_the_first() {
        let server = server();
        let holder = Holder::self_signed("d");
        for version in VERSIONS {
            let client = client(Some(&holder), version);
            let first = meet(&server, &client).await.unwrap();
            assert_ne!(first.kind, HandshakeKind::Resumed);
            let again = meet(&server, &client).await.unwrap();
            assert_eq!(again.kind, HandshakeKind::Resumed);
            assert_eq!(
                again.certificate.unwrap().read(),
                first.certificate.unwrap().read()
            );
        }
    }
}
