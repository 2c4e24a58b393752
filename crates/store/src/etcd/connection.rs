//! One HTTP/2 connection to an etcd server, and gRPC calls over it.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, header};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::{Endpoint, wire::Malformed};

/// How long a server may take to accept. One that is away is skipped for the next.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Pings find out about a server that went away without a word. etcd takes more than one each five seconds for an attack.
const PING_INTERVAL: Duration = Duration::from_secs(6);
const PING_TIMEOUT: Duration = Duration::from_secs(4);
/// Flow control: room for a burst of large objects without a round trip for each.
const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// The largest message taken. A page of large objects stays far below.
const MESSAGE_BYTES_MAX: usize = 512 << 20;
/// Bytes in front of a gRPC message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// Codes of gRPC that mean something here.
pub(super) const INVALID_ARGUMENT: u32 = 3;
pub(super) const RESOURCE_EXHAUSTED: u32 = 8;
pub(super) const OUT_OF_RANGE: u32 = 11;

/// Why a call has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum CallError {
    /// It was never sent.
    #[error("{0}")]
    Unsent(String),
    /// It was sent, and the connection broke: nobody knows what became of it.
    #[error("connection lost: {0}")]
    Lost(String),
    /// It was sent, and there was no answer in time.
    #[error("no answer in time")]
    TimedOut,
    /// The server answered with a failure.
    #[error("{message}")]
    Refused {
        /// gRPC's code.
        code: u32,
        /// The server's words.
        message: String,
    },
    /// The server's answer makes no sense.
    #[error("the server's answer is malformed")]
    Malformed,
}

impl From<Malformed> for CallError {
    fn from(_: Malformed) -> Self {
        CallError::Malformed
    }
}

impl CallError {
    /// Whether the connection is of no use any more.
    pub(super) fn breaks_connection(&self) -> bool {
        matches!(self, CallError::Unsent(_) | CallError::Lost(_) | CallError::TimedOut | CallError::Malformed)
    }
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// An open connection.
pub(super) struct Connection {
    sender: SendRequest<Body>,
    base: String,
    _driver: AbortOnDropHandle<()>,
}

impl Connection {
    pub(super) async fn open(endpoint: &Endpoint, tls: Option<&Arc<ClientConfig>>) -> Result<Connection, CallError> {
        let failed = |error: &dyn std::fmt::Display| CallError::Unsent(format!("cannot reach {endpoint}: {error}"));
        let opened = timeout(CONNECT_TIMEOUT, Self::establish(endpoint, tls)).await;
        opened.map_err(|_| failed(&"no answer in time"))?.map_err(|error| failed(&error))
    }

    async fn establish(endpoint: &Endpoint, tls: Option<&Arc<ClientConfig>>) -> Result<Connection, std::io::Error> {
        let tcp = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await?;
        tcp.set_nodelay(true)?;
        if !endpoint.tls {
            return Self::handshake(TokioIo::new(tcp), endpoint).await;
        }
        let config = tls.ok_or_else(|| std::io::Error::other("no TLS settings"))?;
        let mut config = ClientConfig::clone(config);
        config.alpn_protocols = vec![b"h2".to_vec()];
        let name = ServerName::try_from(endpoint.host.clone()).map_err(std::io::Error::other)?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
        Self::handshake(TokioIo::new(stream), endpoint).await
    }

    async fn handshake<T>(io: T, endpoint: &Endpoint) -> Result<Connection, std::io::Error>
    where
        T: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
    {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(io)
            .await
            .map_err(std::io::Error::other)?;
        let driver = tokio::spawn(async move {
            // what it ends with, the calls on it are told
            let _ = connection.await;
        });
        let scheme = if endpoint.tls { "https" } else { "http" };
        let base = format!("{scheme}://{}:{}", endpoint.host, endpoint.port);
        Ok(Connection { sender, base, _driver: AbortOnDropHandle::new(driver) })
    }

    fn request(&self, method: &str, body: Body) -> Result<Request<Body>, CallError> {
        Request::post(format!("{}{method}", self.base))
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            // a server that lost its cluster must say so instead of staying silent
            .header("hasleader", HeaderValue::from_static("true"))
            .body(body)
            .map_err(|error| CallError::Unsent(error.to_string()))
    }

    /// One message there, one back.
    pub(super) async fn call(&self, method: &str, message: &[u8], wait: Duration) -> Result<Bytes, CallError> {
        let request = self.request(method, Full::new(frame(message)).boxed_unsync())?;
        let mut sender = self.sender.clone();
        sender.ready().await.map_err(|error| CallError::Unsent(error.to_string()))?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(lost)?;
            let (head, mut body) = response.into_parts();
            check(&head.headers)?;
            let mut buffer = BytesMut::new();
            while let Some(frame) = body.frame().await {
                match frame.map_err(lost)?.into_data() {
                    Ok(data) => buffer.extend_from_slice(&data),
                    Err(frame) => check(frame.trailers_ref().unwrap_or(&HeaderMap::new()))?,
                }
                if buffer.len() > MESSAGE_BYTES_MAX {
                    return Err(CallError::Malformed);
                }
            }
            split(&mut buffer)?.ok_or(CallError::Malformed)
        };
        timeout(wait, answer).await.map_err(|_| CallError::TimedOut)?
    }

    /// One message there, any number back. Takes the connection along: it lives as long as the stream.
    pub(super) async fn stream(self, method: &str, message: &[u8], wait: Duration) -> Result<Messages, CallError> {
        // the request stays open: its end would end the answer
        let first = futures::stream::iter([Ok::<_, Infallible>(Frame::data(frame(message)))]);
        let body = StreamBody::new(futures::StreamExt::chain(first, futures::stream::pending()));
        let request = self.request(method, body.boxed_unsync())?;
        let mut sender = self.sender.clone();
        sender.ready().await.map_err(|error| CallError::Unsent(error.to_string()))?;
        let response = timeout(wait, sender.send_request(request)).await.map_err(|_| CallError::TimedOut)?;
        let (head, body) = response.map_err(lost)?.into_parts();
        check(&head.headers)?;
        Ok(Messages { body, buffer: BytesMut::new(), _connection: self })
    }
}

/// The answers of [`Connection::stream`].
pub(super) struct Messages {
    body: Incoming,
    buffer: BytesMut,
    _connection: Connection,
}

impl Messages {
    /// A message that has arrived already.
    pub(super) fn ready(&mut self) -> Result<Option<Bytes>, CallError> {
        split(&mut self.buffer)
    }

    /// The next message.
    pub(super) async fn next(&mut self) -> Result<Bytes, CallError> {
        loop {
            if let Some(message) = split(&mut self.buffer)? {
                return Ok(message);
            }
            let Some(frame) = self.body.frame().await else { return Err(CallError::Lost("the stream ended".into())) };
            match frame.map_err(lost)?.into_data() {
                Ok(data) => self.buffer.extend_from_slice(&data),
                Err(frame) => check(frame.trailers_ref().unwrap_or(&HeaderMap::new()))?,
            }
        }
    }
}

fn lost(error: hyper::Error) -> CallError {
    // hyper says only that something went wrong; its sources say what
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    CallError::Lost(text)
}

/// What the headers or trailers say about the call.
fn check(headers: &HeaderMap) -> Result<(), CallError> {
    let Some(status) = headers.get("grpc-status") else { return Ok(()) };
    match status.to_str().ok().and_then(|code| code.parse().ok()) {
        Some(0) => Ok(()),
        Some(code) => {
            let message = headers.get("grpc-message").map(HeaderValue::as_bytes).unwrap_or_default();
            Err(CallError::Refused { code, message: percent_decoded(message) })
        }
        None => Err(CallError::Malformed),
    }
}

fn percent_decoded(bytes: &[u8]) -> String {
    let digit = |at: usize| bytes.get(at).and_then(|b| char::from(*b).to_digit(16));
    let (mut decoded, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        match (bytes[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// A message with gRPC's prefix.
fn frame(message: &[u8]) -> Bytes {
    let mut framed = Vec::with_capacity(PREFIX_BYTES + message.len());
    framed.push(0);
    framed.extend_from_slice(&(message.len() as u32).to_be_bytes());
    framed.extend_from_slice(message);
    framed.into()
}

/// Takes a whole message off the front.
fn split(buffer: &mut BytesMut) -> Result<Option<Bytes>, CallError> {
    let Some(prefix) = buffer.first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
    let [compressed, a, b, c, d] = *prefix;
    let len = u32::from_be_bytes([a, b, c, d]) as usize;
    if compressed != 0 || len > MESSAGE_BYTES_MAX {
        return Err(CallError::Malformed);
    }
    if buffer.len() < PREFIX_BYTES + len {
        buffer.reserve(PREFIX_BYTES + len - buffer.len());
        return Ok(None);
    }
    buffer.advance(PREFIX_BYTES);
    Ok(Some(buffer.split_to(len).freeze()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_split_wherever_the_network_cut_them() {
        let whole = [frame(b"first"), frame(b""), frame(b"third")].concat();
        for cut in 0..whole.len() {
            let mut buffer = BytesMut::from(&whole[..cut]);
            let mut found = Vec::new();
            while let Some(message) = split(&mut buffer).unwrap() {
                found.push(message);
            }
            buffer.extend_from_slice(&whole[cut..]);
            while let Some(message) = split(&mut buffer).unwrap() {
                found.push(message);
            }
            assert_eq!(found, ["first", "", "third"], "cut at {cut}");
        }
    }

    #[test]
    fn a_refusal_keeps_its_code_and_words() {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-status", HeaderValue::from_static("8"));
        headers.insert("grpc-message", HeaderValue::from_static("etcdserver: no%20space"));
        let Err(CallError::Refused { code, message }) = check(&headers) else { panic!("no refusal") };
        assert_eq!((code, message.as_str()), (RESOURCE_EXHAUSTED, "etcdserver: no space"));
    }
}
