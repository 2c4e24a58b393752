//! Carrying a request to a pod, to a backend of a Service or to a port of a node, and its answer back: what `proxy`
//! subresources do.
//!
//! A request gets a connection of its own, driven by whoever reads the answer, so that nothing outlives it. Only an
//! upgraded connection becomes a task, one of the server's, which ends with the server.

mod rewrite;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures::future::{BoxFuture, OptionFuture};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    body::{self, Body, BoxError},
    outbound::{self, Trust},
    status::ApiError,
};
use rewrite::Links;

/// How long a backend may take to accept a connection, TLS included; upstream's dialer waits as long.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest page whose links are rewritten; it is held in memory for that. One that announces to be larger passes as it is.
const PAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Headers that are about one connection and do not travel on.
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// How the backend is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    /// Without a look at the certificate: clients name pods and Services, whose certificates the cluster knows nothing of.
    Https,
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) scheme: Scheme,
    pub(crate) address: SocketAddr,
}

/// A request on its way, besides the request itself.
pub(crate) struct Forward {
    pub(crate) target: Target,
    /// Path and query at the target.
    pub(crate) uri: Uri,
    /// What the client's path has in front of the target's.
    pub(crate) prefix: String,
    pub(crate) peer: Option<IpAddr>,
    /// Owns upgraded connections.
    pub(crate) tunnels: TaskTracker,
    /// Ends upgraded connections.
    pub(crate) draining: CancellationToken,
}

/// Why a request's body could not be read, as an error of its own type.
#[derive(Debug, thiserror::Error)]
#[error("reading the request body")]
struct RequestBodyError(#[source] BoxError);

type Outgoing = UnsyncBoxBody<Bytes, RequestBodyError>;

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection that has to be driven.
pub(crate) type Connection = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

fn unreachable(error: impl std::fmt::Display) -> ApiError {
    ApiError::unavailable(format!("error trying to reach service: {error}"))
}

async fn connect(target: &Target) -> Result<Box<dyn Io>, ApiError> {
    let connecting = async {
        let stream = TcpStream::connect(target.address).await?;
        stream.set_nodelay(true)?;
        Ok::<Box<dyn Io>, io::Error>(match target.scheme {
            Scheme::Http => Box::new(stream),
            Scheme::Https => {
                // as upstream's proxy: the connection is private, the other end is whoever has the address
                let tls = outbound::tls(&Trust::Insecure, None).map_err(io::Error::other)?;
                Box::new(TlsConnector::from(tls).connect(ServerName::from(target.address.ip()), stream).await?)
            }
        })
    };
    match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(connected) => connected.map_err(unreachable),
        Err(_) => Err(unreachable(format_args!("dial tcp {}: i/o timeout", target.address))),
    }
}

/// Carries a request to its target and returns the answer.
pub(crate) fn forward(request: Request<Body>, way: Forward) -> BoxFuture<'static, Result<Response<Body>, ApiError>> {
    Box::pin(carry(request, way))
}

async fn carry(mut request: Request<Body>, way: Forward) -> Result<Response<Body>, ApiError> {
    let upgrade = is_upgrade(request.headers());
    let host = host(&request);
    let client = upgrade.then(|| hyper::upgrade::on(&mut request));
    let page = Links::new(way.prefix.clone(), way.target.address, host.clone());
    outgoing(request.headers_mut(), &way, host, upgrade);
    *request.uri_mut() = way.uri.clone();
    *request.version_mut() = http::Version::HTTP_11;
    let io = connect(&way.target).await?;
    let request = request.map(|body| body.map_err(RequestBodyError).boxed_unsync());
    let (mut sender, connection) = http1::handshake::<_, Outgoing>(TokioIo::new(io)).await.map_err(unreachable)?;
    let mut connection: Option<Connection> = Some(Box::pin(connection.with_upgrades()));
    let mut response = {
        let mut sending = std::pin::pin!(sender.send_request(request));
        loop {
            let Some(open) = &mut connection else { break sending.await.map_err(unreachable)? };
            tokio::select! {
                biased;
                answered = &mut sending => break answered.map_err(unreachable)?,
                // it has given away the stream, or failed: the answer tells which
                _ = open => connection = None,
            }
        }
    };
    if let (Some(client), StatusCode::SWITCHING_PROTOCOLS) = (client, response.status()) {
        let backend = hyper::upgrade::on(&mut response);
        way.tunnels.spawn(tunnel(client, backend, connection, way.draining));
        return Ok(response.map(|_| body::empty()));
    }
    incoming(response.headers_mut());
    page.location(response.headers_mut());
    let (parts, incoming) = response.into_parts();
    let body = Driven { incoming, connection }.boxed_unsync();
    if page.applies(&parts.headers) {
        return rewritten(Response::from_parts(parts, body), &page).await;
    }
    Ok(Response::from_parts(parts, body))
}

/// Whether a request asks for another protocol.
pub(crate) fn is_upgrade(headers: &HeaderMap) -> bool {
    let mut connection = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    connection.any(|value| value.split(',').any(|option| option.trim().eq_ignore_ascii_case("upgrade")))
}

/// The host the client asked for, which the backend is told.
fn host(request: &Request<Body>) -> Option<String> {
    let header = request.headers().get(header::HOST).and_then(|value| value.to_str().ok());
    header.or(request.uri().authority().map(http::uri::Authority::as_str)).map(str::to_owned)
}

fn outgoing(headers: &mut HeaderMap, way: &Forward, host: Option<String>, upgrade: bool) {
    if !upgrade {
        drop_hop_by_hop(headers);
    }
    let host = host.unwrap_or_else(|| way.target.address.to_string());
    if let Ok(host) = HeaderValue::from_str(&host) {
        headers.insert(header::HOST, host);
    }
    if let Some(peer) = way.peer {
        let before = headers.get("x-forwarded-for").and_then(|value| value.to_str().ok());
        let chain = before.map_or_else(|| peer.to_string(), |before| format!("{before}, {peer}"));
        if let Ok(chain) = HeaderValue::from_str(&chain) {
            headers.insert("x-forwarded-for", chain);
        }
    }
    if let Ok(uri) = HeaderValue::from_str(&format!("{}{}", way.prefix, way.uri.path())) {
        headers.insert("x-forwarded-uri", uri);
    }
}

/// Removes what is about one connection only.
pub(crate) fn drop_hop_by_hop(headers: &mut HeaderMap) {
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
    headers.remove("keep-alive");
}

fn incoming(headers: &mut HeaderMap) {
    drop_hop_by_hop(headers);
    // what a backend allows other origins must not hold for the API, under whose address its answer appears
    let cors: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("access-control-")).cloned().collect();
    for name in cors {
        headers.remove(name);
    }
}

/// The page with its links led through the proxy.
async fn rewritten(response: Response<Body>, page: &Links) -> Result<Response<Body>, ApiError> {
    let (mut parts, body) = response.into_parts();
    let announced = parts.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|bytes: usize| bytes > PAGE_BYTES_MAX) {
        return Ok(Response::from_parts(parts, body));
    }
    let bytes = read_page(body).await?;
    let changed = match std::str::from_utf8(&bytes) {
        Ok(text) => Bytes::from(page.page(text)),
        Err(_) => bytes,
    };
    parts.headers.insert(header::CONTENT_LENGTH, changed.len().into());
    Ok(Response::from_parts(parts, body::full(changed)))
}

async fn read_page(mut body: Body) -> Result<Bytes, ApiError> {
    let mut page = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| unreachable(format!("reading the page: {error}")))?;
        page.extend_from_slice(&frame.into_data().unwrap_or_default());
        if page.len() > PAGE_BYTES_MAX {
            return Err(unreachable(format!("a page of more than {PAGE_BYTES_MAX} bytes cannot be proxied")));
        }
    }
    Ok(page.freeze())
}

/// Copies between two upgraded connections until one of them ends.
pub(crate) async fn tunnel(
    client: hyper::upgrade::OnUpgrade,
    backend: hyper::upgrade::OnUpgrade,
    connection: Option<Connection>,
    draining: CancellationToken,
) {
    let copying = async {
        let (client, backend, _) = tokio::join!(client, backend, OptionFuture::from(connection));
        match (client, backend) {
            (Ok(client), Ok(backend)) => {
                let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
                // the end of either side is the end of the conversation, however it came
                let copied = tokio::io::copy_bidirectional(&mut client, &mut backend).await;
                tracing::debug!(?copied, "a proxied connection ended");
            }
            (client, backend) => {
                tracing::debug!(client = client.is_ok(), backend = backend.is_ok(), "an upgrade failed");
            }
        }
    };
    tokio::select! {
        () = copying => {}
        () = draining.cancelled() => {}
    }
}

/// An answer's body together with the connection it comes over, which moves only while the body is read.
struct Driven {
    incoming: Incoming,
    connection: Option<Connection>,
}

impl http_body::Body for Driven {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        // an error of the connection shows in the body too
        if let Some(connection) = &mut self.connection
            && connection.as_mut().poll(cx).is_ready()
        {
            self.connection = None;
        }
        Pin::new(&mut self.incoming).poll_frame(cx).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.incoming.size_hint()
    }
}

#[cfg(test)]
mod tests;
