//! The ways on which a device reaches a hub.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use emulator::Hub;
use futures_util::{Sink, Stream};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, version};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::certificates::Holder;

/// Anything that MQTT can run over.
pub trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Socket for S {}

/// A way to the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Memory,
    Tcp,
    Tls12,
    Tls13,
    WebSocket,
    WebSocketOverTls,
}

impl Transport {
    pub const ALL: [Self; 6] = [
        Self::Memory,
        Self::Tcp,
        Self::Tls12,
        Self::Tls13,
        Self::WebSocket,
        Self::WebSocketOverTls,
    ];

    pub async fn open(self, hub: &Hub) -> Box<dyn Socket> {
        self.open_as(hub, None).await
    }

    /// Opens a connection with a client certificate, where there is TLS.
    pub async fn open_as(self, hub: &Hub, holder: Option<&Holder>) -> Box<dyn Socket> {
        let tls = async |version, address: Option<SocketAddr>| {
            TlsClient::new(hub, version, holder)
                .connect(address.unwrap())
                .await
        };
        match self {
            Self::Memory => Box::new(hub.connect_in_memory()),
            Self::Tcp => Box::new(TcpStream::connect(hub.mqtt_address().unwrap()).await.unwrap()),
            Self::Tls12 => Box::new(tls(&version::TLS12, hub.mqtts_address()).await),
            Self::Tls13 => Box::new(tls(&version::TLS13, hub.mqtts_address()).await),
            Self::WebSocket => {
                let stream = TcpStream::connect(hub.http_address().unwrap()).await.unwrap();
                let socket = upgrade(stream, WEBSOCKET_PATH, Some("mqtt")).await.unwrap();
                Box::new(FrameBytes::new(socket))
            }
            Self::WebSocketOverTls => {
                let stream = tls(&version::TLS12, hub.https_address()).await;
                let socket = upgrade(stream, WEBSOCKET_PATH, Some("mqtt")).await.unwrap();
                Box::new(FrameBytes::new(socket))
            }
        }
    }
}

/// A TLS client that trusts the hub's CA and nobody else. It resumes sessions.
pub struct TlsClient {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    version: &'static SupportedProtocolVersion,
}

impl TlsClient {
    pub fn new(hub: &Hub, version: &'static SupportedProtocolVersion, holder: Option<&Holder>) -> Self {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(hub.ca_pem().as_bytes()).unwrap())
            .unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots);
        let config = match holder {
            None => builder.with_no_client_auth(),
            Some(Holder { chain, key }) => builder
                .with_client_auth_cert(chain.clone(), key.clone_key())
                .unwrap(),
        };
        Self {
            config: Arc::new(config),
            name: ServerName::try_from(hub.host_name().to_owned()).unwrap(),
            version,
        }
    }

    pub async fn connect(&self, address: SocketAddr) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(address).await.unwrap();
        let stream = TlsConnector::from(self.config.clone())
            .connect(self.name.clone(), stream)
            .await
            .unwrap();
        assert_eq!(stream.get_ref().1.protocol_version(), Some(self.version.version));
        stream
    }
}

/// Where the hub takes WebSockets.
pub const WEBSOCKET_PATH: &str = "/$iothub/websocket";

/// Asks for a WebSocket on `stream`, offering one sub-protocol or none.
pub async fn upgrade<S: Socket>(
    stream: S,
    path_and_query: &str,
    protocol: Option<&'static str>,
) -> tungstenite::Result<WebSocketStream<S>> {
    let mut request = format!("ws://localhost{path_and_query}").into_client_request()?;
    if let Some(protocol) = protocol {
        let protocol = HeaderValue::from_static(protocol);
        request.headers_mut().insert("Sec-WebSocket-Protocol", protocol);
    }
    let (socket, _) = client_async(request, stream).await?;
    Ok(socket)
}

/// The bytes inside a WebSocket's binary frames; each write makes a frame.
pub struct FrameBytes<S> {
    socket: WebSocketStream<S>,
    rest: Bytes,
}

impl<S> FrameBytes<S> {
    pub fn new(socket: WebSocketStream<S>) -> Self {
        Self {
            socket,
            rest: Bytes::new(),
        }
    }
}

impl<S: Socket> AsyncRead for FrameBytes<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => self.rest = bytes,
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(io_error(error))),
            }
        }
        let n = self.rest.len().min(out.remaining());
        out.put_slice(&self.rest[..n]);
        self.rest.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl<S: Socket> AsyncWrite for FrameBytes<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.socket).poll_ready(cx)).map_err(io_error)?;
        let frame = Message::Binary(Bytes::copy_from_slice(bytes));
        Pin::new(&mut self.socket).start_send(frame).map_err(io_error)?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx).map_err(io_error)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(cx).map_err(io_error)
    }
}

fn io_error(error: tungstenite::Error) -> io::Error {
    match error {
        tungstenite::Error::Io(error) => error,
        other => io::Error::other(other),
    }
}
