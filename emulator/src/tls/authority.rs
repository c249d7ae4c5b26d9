//! The development CA and the hub's own certificate.
//!
//! The CA is made once and kept in the data directory, so that clients trust
//! it once; the server certificate is made at every start for the host name in
//! use. EC P-256 throughout: a handshake costs a thirtieth of RSA-2048.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use time::{Duration, OffsetDateTime};

use super::client::AnyClient;

/// File of the CA certificate in the data directory, for clients to trust.
pub(crate) const CA_FILE: &str = "ca.pem";
/// File of the CA's private key in the data directory, readable by its owner only.
const CA_KEY_FILE: &str = "ca-key.pem";

/// What can go wrong with certificates.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The data directory cannot be read or written.
    #[error("cannot use {path}: {source}")]
    File {
        /// The file or directory concerned.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// The CA in the data directory is damaged or a certificate cannot be made.
    #[error("the development CA is not usable ({0}); delete its files to have a new one made")]
    Certificate(#[from] rcgen::Error),
    /// The TLS library refuses the certificate.
    #[error("the server certificate is not usable: {0}")]
    Tls(#[from] rustls::Error),
}

/// A CA that signs the hub's certificates.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

impl Authority {
    /// The CA kept in `directory`, made if there is none.
    ///
    /// # Errors
    /// When the files cannot be read, written or understood.
    pub(crate) fn load_or_create(directory: &Path) -> Result<Self, TlsError> {
        let (ca, key) = (directory.join(CA_FILE), directory.join(CA_KEY_FILE));
        let read = |path: &Path| fs::read_to_string(path);
        match (read(&ca), read(&key)) {
            (Ok(pem), Ok(key)) => {
                // An issuer is its name and its key; both are the same as when
                // the certificate was made.
                Ok(Self {
                    issuer: Issuer::new(authority_params(), KeyPair::from_pem(&key)?),
                    pem,
                })
            }
            (Err(a), Err(b))
                if a.kind() == io::ErrorKind::NotFound && b.kind() == io::ErrorKind::NotFound =>
            {
                let (authority, key_pem) = Self::create()?;
                fs::create_dir_all(directory).map_err(|source| TlsError::File {
                    path: directory.into(),
                    source,
                })?;
                write_private(&key, &key_pem).map_err(|source| TlsError::File { path: key, source })?;
                fs::write(&ca, &authority.pem).map_err(|source| TlsError::File { path: ca, source })?;
                Ok(authority)
            }
            (Err(source), _) => Err(TlsError::File { path: ca, source }),
            (_, Err(source)) => Err(TlsError::File { path: key, source }),
        }
    }

    /// A CA that lives as long as the hub.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub(crate) fn in_memory() -> Result<Self, TlsError> {
        Self::create().map(|(authority, _)| authority)
    }

    fn create() -> Result<(Self, String), TlsError> {
        let params = authority_params();
        let key = KeyPair::generate()?;
        let key_pem = key.serialize_pem();
        let pem = params.self_signed(&key)?.pem();
        Ok((
            Self {
                issuer: Issuer::new(params, key),
                pem,
            },
            key_pem,
        ))
    }

    /// A TLS configuration with a fresh certificate for `host_name`,
    /// `localhost` and the loopback addresses.
    ///
    /// # Errors
    /// When the host name cannot stand in a certificate.
    pub(crate) fn server_config(&self, host_name: &str) -> Result<Arc<ServerConfig>, TlsError> {
        let mut names = vec!["localhost".to_owned()];
        if host_name != "localhost" && host_name.parse::<IpAddr>().is_err() {
            names.push(host_name.to_owned());
        }
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = name(host_name);
        params
            .subject_alt_names
            .push(SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        params
            .subject_alt_names
            .push(SanType::IpAddress(IpAddr::V6(Ipv6Addr::LOCALHOST)));
        if let Ok(ip) = host_name.parse::<IpAddr>() {
            params.subject_alt_names.push(SanType::IpAddress(ip));
        }
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.not_before = OffsetDateTime::now_utc() - Duration::days(1);
        // Some clients refuse server certificates that live longer.
        params.not_after = OffsetDateTime::now_utc() + Duration::days(397);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let chain = vec![CertificateDer::from(certificate)];
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        // The provider is named here, so that no process-wide default is
        // needed; safe protocol versions are TLS 1.2 and 1.3.
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(Arc::new(AnyClient))
            .with_single_cert(chain, key)?;
        // Without it devices that reconnect would mostly make full handshakes:
        // the built-in cache holds 256 sessions.
        config.ticketer = ring::Ticketer::new()?;
        // For the next connection; a device has one at a time.
        config.send_tls13_tickets = 1;
        Ok(Arc::new(config))
    }
}

fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = name("Local IoT Hub development CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = OffsetDateTime::now_utc() - Duration::days(1);
    params.not_after = OffsetDateTime::now_utc() + Duration::days(3650);
    params
}

fn name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

#[cfg(unix)]
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?
        .write_all(text.as_bytes())
}

#[cfg(not(unix))]
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    fs::write(path, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::ServerName;
    use rustls::pki_types::pem::PemObject as _;
    use rustls::{ClientConfig, RootCertStore};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    /// A directory that is gone when the test is.
    struct Directory(PathBuf);

    impl Directory {
        fn new() -> Self {
            Self(std::env::temp_dir().join(format!("iothub-emulator-{}", uuid::Uuid::new_v4())))
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// Whether a client that trusts `ca` accepts a server with `config` as `host`.
    async fn trusts(ca: &str, config: Arc<ServerConfig>, host: &str) -> bool {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap())
            .unwrap();
        let client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let (near, far) = tokio::io::duplex(16 * 1024);
        let name = ServerName::try_from(host.to_owned()).unwrap();
        let (client, _) = tokio::join!(
            TlsConnector::from(Arc::new(client)).connect(name, near),
            TlsAcceptor::from(config).accept(far)
        );
        client.is_ok()
    }

    #[tokio::test]
    async fn the_authority_is_made_once_and_still_trusted_after_a_restart() {
        let directory = Directory::new();
        let first = Authority::load_or_create(&directory.0).unwrap();
        let second = Authority::load_or_create(&directory.0).unwrap();
        assert_eq!(first.pem, second.pem);
        let config = second.server_config("my-hub.example").unwrap();
        for host in ["localhost", "127.0.0.1", "my-hub.example"] {
            assert!(trusts(&first.pem, config.clone(), host).await, "{host}");
        }
        assert!(!trusts(&first.pem, config.clone(), "other.example").await);
        let stranger = Authority::in_memory().unwrap();
        assert!(!trusts(&stranger.pem, config, "localhost").await);
    }

    #[test]
    fn half_an_authority_is_an_error_and_not_replaced() {
        let directory = Directory::new();
        Authority::load_or_create(&directory.0).unwrap();
        fs::remove_file(directory.0.join(CA_KEY_FILE)).unwrap();
        assert!(matches!(
            Authority::load_or_create(&directory.0),
            Err(TlsError::File { .. })
        ));
        fs::write(directory.0.join(CA_KEY_FILE), "damaged").unwrap();
        assert!(matches!(
            Authority::load_or_create(&directory.0),
            Err(TlsError::Certificate(_))
        ));
    }

    #[cfg(unix)]
    #[test]
    fn the_private_key_is_its_owners_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = Directory::new();
        Authority::load_or_create(&directory.0).unwrap();
        let mode = fs::metadata(directory.0.join(CA_KEY_FILE))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
