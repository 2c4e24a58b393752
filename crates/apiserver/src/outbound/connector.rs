//! Connections: where to, then TCP, then TLS.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::future::BoxFuture;
use http::Uri;
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use rustls::pki_types::ServerName;
use store::Store;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{OutboundError, services};

/// How long one address may take to accept; the caller's own limit usually ends sooner.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Addresses of one server that are tried before it counts as unreachable.
const ADDRESSES_MAX: usize = 3;

/// Makes connections for one pool.
#[derive(Clone)]
pub(super) struct Connector {
    /// Where `NAME.NAMESPACE.svc` is looked up; `None` leaves names to the machine's resolver.
    services: Option<Store>,
    tls: Arc<rustls::ClientConfig>,
}

impl Connector {
    pub(super) fn new(services: Option<Store>, tls: Arc<rustls::ClientConfig>) -> Self {
        Self { services, tls }
    }

    async fn connect(self, uri: Uri) -> Result<TokioIo<Link>, OutboundError> {
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let secure = uri.scheme_str() != Some("http");
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let addresses = self.addresses(&host, port).await?;
        let stream = dial(&host, addresses).await?;
        if !secure {
            return Ok(TokioIo::new(Link::Plain(stream)));
        }
        let name = ServerName::try_from(host.clone())
            .map_err(|_| OutboundError::Handshake(format!("tls: {host:?} is no name of a server")))?;
        let stream = TlsConnector::from(self.tls).connect(name, stream).await;
        let stream = stream.map_err(|error| OutboundError::handshake(&host, &error))?;
        Ok(TokioIo::new(Link::Tls(Box::new(stream))))
    }

    async fn addresses(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, OutboundError> {
        let Some(store) = &self.services else { return look_up(host, port).await };
        let mut labels = host.split('.');
        let (name, namespace) = (labels.next().unwrap_or_default(), labels.next().unwrap_or_default());
        match services::resolve(&store.snapshot(), namespace, name, port)? {
            services::Addresses::Known(mut known) => {
                // every pod gets its share
                let first = rand::random::<u32>() as usize % known.len().max(1);
                known.rotate_left(first);
                Ok(known)
            }
            services::Addresses::External(host, port) => look_up(&host, port).await,
        }
    }
}

async fn look_up(host: &str, port: u16) -> Result<Vec<SocketAddr>, OutboundError> {
    let failed = |reason: String| OutboundError::Dial { address: format!("lookup {host}"), reason };
    let found = tokio::net::lookup_host((host, port)).await.map_err(|error| failed(error.to_string()))?;
    Ok(found.collect())
}

async fn dial(host: &str, addresses: Vec<SocketAddr>) -> Result<TcpStream, OutboundError> {
    let none = OutboundError::Dial { address: host.to_owned(), reason: "no such host".into() };
    let mut failed = none;
    for address in addresses.into_iter().take(ADDRESSES_MAX) {
        let reason = match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%address, %error, "setting TCP_NODELAY failed");
                }
                return Ok(stream);
            }
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                "connect: connection refused".to_owned()
            }
            Ok(Err(error)) => format!("connect: {error}"),
            Err(_) => "i/o timeout".to_owned(),
        };
        failed = OutboundError::Dial { address: address.to_string(), reason };
    }
    Err(failed)
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Link>;
    type Error = OutboundError;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}

/// A connection.
pub(super) enum Link {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection for Link {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Link {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Link {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
