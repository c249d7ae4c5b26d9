//! Holders of certificates, and handshakes with them, for tests.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    SignatureAlgorithm, date_time_ymd,
};
use rustls::client::{Resumption, danger};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, HandshakeKind, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::ClientCertificate;

/// Whoever presents a certificate with a key, which need not fit it.
pub(crate) struct Holder {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl Holder {
    /// With a fresh P-256 key.
    pub(crate) fn self_signed(common_name: &str) -> Self {
        Self::of(&named(common_name), &rcgen::PKCS_ECDSA_P256_SHA256)
    }

    pub(crate) fn of(params: &CertificateParams, algorithm: &'static SignatureAlgorithm) -> Self {
        let key = KeyPair::generate_for(algorithm).unwrap();
        Self {
            chain: vec![params.self_signed(&key).unwrap().into()],
            key: PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        }
    }

    fn from_pem(pem: &str) -> Self {
        Self {
            chain: vec![CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()],
            key: PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap(),
        }
    }

    pub(crate) fn leaf(&self) -> CertificateDer<'static> {
        self.chain[0].clone()
    }
}

/// A certificate of version 1, from `openssl x509 -req -signkey`.
pub(crate) fn version_1() -> Holder {
    Holder::from_pem(include_str!("fixtures/version-1.pem"))
}

/// A certificate with an RSA key, from `openssl req -x509 -newkey rsa:2048`.
pub(crate) fn rsa() -> Holder {
    Holder::from_pem(include_str!("fixtures/rsa.pem"))
}

pub(crate) fn named(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}

/// The same with a change.
pub(crate) fn with(
    mut params: CertificateParams,
    change: impl FnOnce(&mut CertificateParams),
) -> CertificateParams {
    change(&mut params);
    params
}

pub(crate) fn expired(common_name: &str) -> CertificateParams {
    with(named(common_name), |params| {
        params.not_before = date_time_ymd(2019, 1, 1);
        params.not_after = date_time_ymd(2020, 1, 1);
    })
}

/// Says that it is for servers.
pub(crate) fn for_servers(common_name: &str) -> CertificateParams {
    with(named(common_name), |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    })
}

pub(crate) fn authority(common_name: &str) -> CertificateParams {
    with(named(common_name), |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    })
}

/// A certificate and the one who can issue others in its name.
pub(crate) struct Issuing {
    pub(crate) certificate: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Issuing {
    pub(crate) fn root(params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        Self {
            certificate: params.self_signed(&key).unwrap(),
            issuer: Issuer::new(params, key),
        }
    }

    /// Issues a certificate whose holder may issue others.
    pub(crate) fn issue(&self, params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        Self {
            certificate: params.signed_by(&key, &self.issuer).unwrap(),
            issuer: Issuer::new(params, key),
        }
    }
}

/// What a handshake came to.
pub(crate) struct Met {
    pub(crate) certificate: Option<ClientCertificate>,
    pub(crate) kind: HandshakeKind,
}

/// A client with or without a certificate, with a memory for sessions.
pub(crate) fn client(
    holder: Option<&Holder>,
    version: &'static SupportedProtocolVersion,
) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer))
        .with_no_client_auth();
    config.resumption = Resumption::in_memory_sessions(8);
    if let Some(holder) = holder {
        let key = ring::sign::any_supported_type(&holder.key).unwrap();
        // Unchecked, because the key may be somebody else's.
        let certified = CertifiedKey::new(holder.chain.clone(), key);
        config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(certified));
    }
    Arc::new(config)
}

/// A handshake over memory, and a byte each way, which brings the client its
/// session tickets.
pub(crate) async fn meet(
    server: &Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
) -> Result<Met, std::io::Error> {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let name = ServerName::try_from("localhost").unwrap();
    let connect = async {
        let mut stream = TlsConnector::from(client.clone()).connect(name, near).await?;
        stream.write_all(b"x").await?;
        stream.flush().await?;
        stream.read_u8().await
    };
    let accept = async {
        let mut stream = TlsAcceptor::from(server.clone()).accept(far).await?;
        let byte = stream.read_u8().await?;
        stream.write_u8(byte).await?;
        stream.flush().await?;
        let connection = stream.get_ref().1;
        Ok::<_, std::io::Error>(Met {
            certificate: ClientCertificate::of(connection),
            kind: connection.handshake_kind().unwrap(),
        })
    };
    let (connected, accepted) = tokio::join!(connect, accept);
    let met = accepted?;
    connected?;
    Ok(met)
}

/// Takes every server: here the clients are at stake.
#[derive(Debug)]
struct AnyServer;

impl danger::ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<danger::ServerCertVerified, Error> {
        Ok(danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<danger::HandshakeSignatureValid, Error> {
        Ok(danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<danger::HandshakeSignatureValid, Error> {
        Ok(danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        super::ALGORITHMS.supported_schemes()
    }
}
