//! How a device reaches a hub: plain TCP, TLS, or memory.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hub_core::connection_string::{Host, HostError};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Port of MQTT without TLS.
pub const MQTT_PORT: u16 = 1883;
/// Port of MQTT over TLS.
pub const MQTTS_PORT: u16 = 8883;

/// How long a looked-up address is used again: ten thousand devices must not
/// ask for the same name ten thousand times.
const ADDRESS_LIFETIME: Duration = Duration::from_secs(30);
/// How long TCP and TLS handshakes may take together.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(60);

/// Whether the bytes of MQTT are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// MQTT over plain TCP, which only local hubs offer.
    Tcp,
    /// MQTT over TLS.
    Tls,
}

impl Scheme {
    /// The scheme's usual port.
    #[must_use]
    pub fn port(self) -> u16 {
        match self {
            Self::Tcp => MQTT_PORT,
            Self::Tls => MQTTS_PORT,
        }
    }
}

/// Where a hub listens for MQTT: `mqtt://host[:port]`, `mqtts://host[:port]`
/// or `host[:port]`, which leaves the scheme open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// What the text's scheme says; `None` when it has none.
    pub scheme: Option<Scheme>,
    /// The host with perhaps a port.
    pub host: Host,
}

impl FromStr for Endpoint {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        let (scheme, host) = match text.split_once("://") {
            Some(("mqtt", host)) => (Some(Scheme::Tcp), host),
            Some(("mqtts", host)) => (Some(Scheme::Tls), host),
            // Not a scheme of MQTT: the colon is then found to be misplaced.
            _ => (None, text),
        };
        let host = Host::parse(host.strip_suffix('/').unwrap_or(host))?;
        Ok(Self { scheme, host })
    }
}

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file of certificates cannot be read, or holds something else.
    #[error("cannot read certificates from {path}")]
    Certificates {
        /// The file.
        path: String,
        /// What is wrong.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// The file has no certificate in it.
    #[error("{path} contains no certificate")]
    NoCertificate {
        /// The file.
        path: String,
    },
    /// The file with the client's private key cannot be read, or holds
    /// something else.
    #[error("cannot read a private key from {path}")]
    Key {
        /// The file.
        path: String,
        /// What is wrong.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// A certificate, or the system's trust store, cannot be used.
    #[error("cannot set up TLS")]
    Setup(#[from] rustls::Error),
    /// The host's name cannot stand in a certificate.
    #[error("{host} cannot be the name in a certificate")]
    ServerName {
        /// The name.
        host: String,
        /// What is wrong with it.
        #[source]
        source: InvalidDnsNameError,
    },
}

/// PEM files of a device's certificate.
#[derive(Debug, Clone, Copy)]
pub struct ClientFiles<'a> {
    /// The certificate, followed by those of its issuers as far as the hub
    /// needs them.
    pub certificate: &'a Path,
    /// Its private key, not encrypted.
    pub key: &'a Path,
}

/// A way to reach a hub. Cheap to clone.
#[derive(Clone)]
pub struct Transport(Arc<Kind>);

enum Kind {
    Tcp(Address),
    Tls {
        address: Address,
        connector: TlsConnector,
        server: ServerName<'static>,
    },
    Memory(Box<dyn Fn() -> io::Result<DuplexStream> + Send + Sync>),
}

impl Transport {
    /// Plain TCP, by default to port 1883.
    #[must_use]
    pub fn tcp(host: &Host) -> Self {
        Self(Arc::new(Kind::Tcp(Address::new(host, MQTT_PORT))))
    }

    /// TLS, by default to port 8883. Trusts the authorities in `ca_file`, a
    /// PEM file; without one, those that the system trusts.
    ///
    /// # Errors
    /// When the certificates or the host's name cannot be used.
    pub fn tls(host: &Host, ca_file: Option<&Path>) -> Result<Self, TlsError> {
        Self::tls_as(host, ca_file, None)
    }

    /// The same with a client certificate, by which a device proves who it is.
    ///
    /// # Errors
    /// When the certificates, the key or the host's name cannot be used.
    pub fn tls_with_certificate(
        host: &Host,
        ca_file: Option<&Path>,
        client: &ClientFiles<'_>,
    ) -> Result<Self, TlsError> {
        Self::tls_as(host, ca_file, Some(client))
    }

    fn tls_as(
        host: &Host,
        ca_file: Option<&Path>,
        client: Option<&ClientFiles<'_>>,
    ) -> Result<Self, TlsError> {
        let name = host
            .name()
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let server = ServerName::try_from(name.clone())
            .map_err(|source| TlsError::ServerName { host: name, source })?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let config = match ca_file {
            Some(path) => builder.with_root_certificates(read_authorities(path)?),
            None => builder.with_platform_verifier()?,
        };
        let config = match client {
            None => config.with_no_client_auth(),
            Some(ClientFiles { certificate, key }) => {
                config.with_client_auth_cert(read_chain(certificate)?, read_key(key)?)?
            }
        };
        Ok(Self(Arc::new(Kind::Tls {
            address: Address::new(host, MQTTS_PORT),
            connector: TlsConnector::from(Arc::new(config)),
            server,
        })))
    }

    /// Connections within the process: `connect` gives one end of a duplex
    /// stream and hands the other to a hub.
    #[must_use]
    pub fn memory(connect: impl Fn() -> io::Result<DuplexStream> + Send + Sync + 'static) -> Self {
        Self(Arc::new(Kind::Memory(Box::new(connect))))
    }

    /// Whether a connection takes a file descriptor of this process.
    #[must_use]
    pub fn uses_descriptors(&self) -> bool {
        !matches!(*self.0, Kind::Memory(_))
    }

    /// Opens a connection, handshakes included.
    ///
    /// # Errors
    /// When the hub cannot be reached, or not within a minute.
    pub async fn connect(&self) -> io::Result<Stream> {
        let opened = async {
            match &*self.0 {
                Kind::Tcp(address) => address.connect().await.map(Stream::Tcp),
                Kind::Tls {
                    address,
                    connector,
                    server,
                } => {
                    let stream = address.connect().await?;
                    let stream = connector.connect(server.clone(), stream).await?;
                    Ok(Stream::Tls(Box::new(stream)))
                }
                Kind::Memory(connect) => connect().map(Stream::Memory),
            }
        };
        timeout(HANDSHAKE_TIMEOUT, opened)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `mqtt://host:port`, `mqtts://host:port` or `memory`.
impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Kind::Tcp(address) => write!(f, "mqtt://{address}"),
            Kind::Tls { address, .. } => write!(f, "mqtts://{address}"),
            Kind::Memory(_) => f.write_str("memory"),
        }
    }
}

fn read_authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in read_chain(path)? {
        roots.add(certificate)?;
    }
    Ok(roots)
}

/// The certificates in a file, of which there is at least one.
fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let name = || path.display().to_string();
    let chain = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|source| TlsError::Certificates { path: name(), source })?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate { path: name() });
    }
    Ok(chain)
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|source| TlsError::Key {
        path: path.display().to_string(),
        source,
    })
}

/// A host and port with the addresses that were last found for them.
struct Address {
    name: String,
    port: u16,
    found: Mutex<Option<(Instant, Arc<[SocketAddr]>)>>,
}

impl Address {
    fn new(host: &Host, default_port: u16) -> Self {
        Self {
            name: host.name().to_owned(),
            port: host.port().unwrap_or(default_port),
            found: Mutex::new(None),
        }
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let addresses = self.look_up().await?;
        let stream = TcpStream::connect(&addresses[..]).await?;
        // Packets are small and somebody waits for each.
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    async fn look_up(&self) -> io::Result<Arc<[SocketAddr]>> {
        {
            let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((when, addresses)) = &*found
                && when.elapsed() < ADDRESS_LIFETIME
            {
                return Ok(Arc::clone(addresses));
            }
        }
        let addresses: Arc<[SocketAddr]> = lookup_host(self.to_string()).await?.collect();
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        *found = Some((Instant::now(), Arc::clone(&addresses)));
        Ok(addresses)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.port)
    }
}

/// An open connection to a hub.
#[derive(Debug)]
pub enum Stream {
    /// Plain TCP.
    Tcp(TcpStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
    /// Within the process.
    Memory(DuplexStream),
}

/// Calls the method of whichever stream this is.
macro_rules! delegate {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Self::Tcp($stream) => $call,
            Self::Tls($stream) => $call,
            Self::Memory($stream) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        delegate!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Host {
        Host::parse(text).unwrap()
    }

    #[test]
    fn endpoints_are_read_with_and_without_scheme() {
        for (text, scheme, expected) in [
            ("localhost", None, "localhost"),
            ("127.0.0.1:1884", None, "127.0.0.1:1884"),
            ("mqtt://hub:1883/", Some(Scheme::Tcp), "hub:1883"),
            ("mqtts://[::1]:8883", Some(Scheme::Tls), "[::1]:8883"),
        ] {
            let host = host(expected);
            assert_eq!(text.parse(), Ok(Endpoint { scheme, host }), "{text}");
        }
        for text in ["", "http://x", "mqtt://", "mqtt://a b"] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_transport_says_where_it_leads() {
        assert_eq!(Transport::tcp(&host("hub")).to_string(), "mqtt://hub:1883");
        assert_eq!(Transport::tcp(&host("[::1]:99")).to_string(), "mqtt://[::1]:99");
        let memory = Transport::memory(|| Ok(tokio::io::duplex(64).0));
        assert_eq!(memory.to_string(), "memory");
        assert!(!memory.uses_descriptors());
    }

    #[test]
    fn a_file_that_holds_no_certificates_is_refused() {
        let missing = Path::new("no-such-file.pem");
        let error = Transport::tls(&host("hub"), Some(missing)).unwrap_err();
        assert!(matches!(error, TlsError::Certificates { .. }), "{error}");
        let manifest = Path::new(env!("CARGO_MANIFEST_PATH"));
        let error = Transport::tls(&host("hub"), Some(manifest)).unwrap_err();
        assert!(matches!(error, TlsError::NoCertificate { .. }), "{error}");
    }

    #[tokio::test]
    async fn tcp_reaches_a_listener_by_name() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let transport = Transport::tcp(&host(&format!("localhost:{port}")));
        for _ in 0..2 {
            let (connected, accepted) = tokio::join!(transport.connect(), listener.accept());
            assert!(matches!(connected.unwrap(), Stream::Tcp(_)));
            accepted.unwrap();
        }
    }
}
