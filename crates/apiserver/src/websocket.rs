//! Answers that come over a WebSocket: a log as its bytes, a watch as one message per event. For clients that cannot read an
//! answer as it comes, as in browsers.
//!
//! Whatever is answered otherwise than with success is told by HTTP, before the connection changes its protocol. What
//! the client sends is read for its end and not looked at.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{Bytes, BytesMut};
use futures::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header, request::Parts};
use http_body_util::BodyExt as _;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message,
        handshake::derive_accept_key,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    authentication::PROTOCOL_OF_TOKEN,
    body::{self, Body, BoxError},
    proxy,
    status::ApiError,
};

/// A client's message: it has nothing to say but that it goes.
const MESSAGE_BYTES_MAX: usize = 16 << 10;
/// Bytes read at once, for the same reason.
const READ_BYTES: usize = 1 << 10;
/// How long a client may take to agree to the end: one that is told of it at once by the end of the connection may lose
/// what it has not yet read.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// Protocols of a stream of bytes: messages of bytes, and messages of base64.
const BINARY: &str = "binary.k8s.io";
const BASE64: &str = "base64.binary.k8s.io";

/// What an answer consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Bytes, in pieces of any size.
    Bytes,
    /// Lines, each of which is a message.
    Lines,
}

/// How the bytes of an answer become messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Binary,
    Base64,
    Lines,
}

/// A client's wish for its answer over a WebSocket.
pub(crate) struct Wanted {
    client: OnUpgrade,
    accept: HeaderValue,
    protocol: Option<HeaderValue>,
    encoding: Encoding,
}

impl Wanted {
    /// What the client wishes; `None` for an answer by HTTP. The request is left without its upgrade.
    pub(crate) fn take(parts: &mut Parts, kind: Kind) -> Result<Option<Self>, ApiError> {
        if !is_asked_for(&parts.headers) {
            return Ok(None);
        }
        let refused = |what: &str| ApiError::bad_request(format!("unable to upgrade: {what}"));
        let headers = &mut parts.headers;
        if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
            return Err(refused("the version of WebSocket has to be 13"));
        }
        let key = headers.get(header::SEC_WEBSOCKET_KEY).ok_or_else(|| refused("Sec-WebSocket-Key is missing"))?;
        let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(ApiError::internal)?;
        let (protocol, encoding) = agree(&protocols(headers), kind)?;
        let protocol = protocol.map(|protocol| HeaderValue::from_str(&protocol)).transpose();
        let protocol = protocol.map_err(|_| refused("Sec-WebSocket-Protocol is malformed"))?;
        for name in [header::CONNECTION, header::UPGRADE, header::SEC_WEBSOCKET_KEY, header::SEC_WEBSOCKET_PROTOCOL] {
            headers.remove(name);
        }
        let client = parts.extensions.remove::<OnUpgrade>();
        let client = client.ok_or_else(|| refused("the connection does not allow it"))?;
        Ok(Some(Self { client, accept, protocol, encoding }))
    }

    /// Sends the body of a successful answer over the WebSocket, in a task of `tunnels` that ends with `draining`.
    pub(crate) fn answer(
        self,
        answer: Response<Body>,
        tunnels: &TaskTracker,
        draining: CancellationToken,
    ) -> Response<Body> {
        if !answer.status().is_success() {
            return answer;
        }
        let Self { client, accept, protocol, encoding } = self;
        let (mut parts, body) = answer.into_parts();
        tunnels.spawn(async move {
            let session = async {
                match client.await {
                    Ok(stream) => session(TokioIo::new(stream), body, encoding).await,
                    Err(error) => tracing::debug!(%error, "a connection did not become a WebSocket"),
                }
            };
            draining.run_until_cancelled(session).await;
        });
        parts.status = StatusCode::SWITCHING_PROTOCOLS;
        let headers = &mut parts.headers;
        for name in [header::CONTENT_TYPE, header::CONTENT_LENGTH] {
            headers.remove(name);
        }
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        if let Some(protocol) = protocol {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        Response::from_parts(parts, body::empty())
    }
}

fn is_asked_for(headers: &HeaderMap) -> bool {
    let asked = headers.get(header::UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    asked && proxy::is_upgrade(headers)
}

/// The protocols a client names, without the one that is its token.
fn protocols(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let names = values.flat_map(|value| value.split(',')).map(str::trim);
    names.filter(|name| !name.is_empty() && !name.starts_with(PROTOCOL_OF_TOKEN)).map(str::to_owned).collect()
}

/// The protocol that both sides know, and what it means.
fn agree(named: &[String], kind: Kind) -> Result<(Option<String>, Encoding), ApiError> {
    match kind {
        // as upstream: the name means nothing, but browsers insist on one of theirs
        Kind::Lines => Ok((named.first().cloned(), Encoding::Lines)),
        Kind::Bytes if named.is_empty() => Ok((None, Encoding::Binary)),
        Kind::Bytes => {
            let known = named.iter().find_map(|name| match name.as_str() {
                BINARY => Some((Some(name.clone()), Encoding::Binary)),
                BASE64 => Some((Some(name.clone()), Encoding::Base64)),
                _ => None,
            });
            let unknown = || {
                format!("unable to upgrade: of the protocols {named:?} none is known, but {BINARY:?} and {BASE64:?}")
            };
            known.ok_or_else(|| ApiError::new(403, "Forbidden", unknown()))
        }
    }
}

/// Sends a body over a connection that has become a WebSocket, until either ends.
async fn session<T: AsyncRead + AsyncWrite + Unpin>(stream: T, body: Body, encoding: Encoding) {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX))
        .read_buffer_size(READ_BYTES);
    let (mut sink, mut source) = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await.split();
    let gone = async {
        while let Some(Ok(message)) = source.next().await
            && !message.is_close()
        {}
    };
    let sent = async {
        let sent = send(&mut sink, body, encoding).await;
        let (code, reason) = match &sent {
            Ok(()) => (CloseCode::Normal, ""),
            Err(_) => (CloseCode::Error, "the answer broke off"),
        };
        let ended = sink.send(Message::Close(Some(CloseFrame { code, reason: reason.into() }))).await;
        (sent, ended)
    };
    tokio::pin!(gone);
    tokio::select! {
        () = &mut gone => {}
        (sent, ended) = sent => {
            if let Err(error) = sent {
                tracing::debug!(error, "an answer over a WebSocket broke off");
            }
            if ended.is_ok() && tokio::time::timeout(END_TIMEOUT, gone).await.is_err() {
                tracing::debug!("the client of a WebSocket did not agree to its end");
            }
        }
    }
}

async fn send(
    sink: &mut (impl futures::Sink<Message, Error = Error> + Unpin),
    mut body: Body,
    encoding: Encoding,
) -> Result<(), BoxError> {
    let mut rest = BytesMut::new();
    if encoding != Encoding::Lines {
        // as upstream: whoever waits for the first bytes of a quiet container knows that it is connected
        sink.send(message(encoding, Bytes::new())?).await?;
    }
    while let Some(frame) = body.frame().await {
        let Ok(mut data) = frame?.into_data() else { continue };
        if encoding == Encoding::Lines {
            while let Some(end) = memchr::memchr(b'\n', &data) {
                rest.extend_from_slice(&data.split_to(end + 1));
                sink.feed(message(encoding, rest.split().freeze())?).await?;
            }
            rest.extend_from_slice(&data);
        } else if !data.is_empty() {
            sink.feed(message(encoding, data)?).await?;
        }
        sink.flush().await?;
    }
    if !rest.is_empty() {
        sink.send(message(encoding, rest.freeze())?).await?;
    }
    Ok(())
}

fn message(encoding: Encoding, data: Bytes) -> Result<Message, BoxError> {
    Ok(match encoding {
        Encoding::Binary => Message::Binary(data),
        Encoding::Base64 => Message::Text(STANDARD.encode(data).into()),
        Encoding::Lines => Message::Text(data.try_into()?),
    })
}

#[cfg(test)]
mod tests {
    use tokio::io::DuplexStream;

    use super::*;

    fn pieces(pieces: &'static [&'static str]) -> Body {
        let frames = pieces.iter().map(|piece| Ok::<_, BoxError>(http_body::Frame::data(Bytes::from(*piece))));
        http_body_util::StreamBody::new(futures::stream::iter(frames)).boxed_unsync()
    }

    async fn received(body: Body, encoding: Encoding) -> Vec<Message> {
        let (near, far) = tokio::io::duplex(1 << 10);
        let client: WebSocketStream<DuplexStream> = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
        let (_, messages) = tokio::join!(session(far, body, encoding), client.map(Result::unwrap).collect());
        messages
    }

    fn end(code: CloseCode, reason: &str) -> Message {
        Message::Close(Some(CloseFrame { code, reason: reason.into() }))
    }

    #[tokio::test]
    async fn bytes_come_in_messages_and_the_end_is_told() {
        let sent = received(pieces(&["a line\n", "", "half"]), Encoding::Binary).await;
        let bytes = |text: &'static str| Message::Binary(Bytes::from(text));
        assert_eq!(sent, [bytes(""), bytes("a line\n"), bytes("half"), end(CloseCode::Normal, "")]);
        let sent = received(pieces(&["hi"]), Encoding::Base64).await;
        assert_eq!(sent, [Message::Text("".into()), Message::Text("aGk=".into()), end(CloseCode::Normal, "")]);
    }

    #[tokio::test]
    async fn each_line_is_a_message_however_they_come() {
        let sent = received(pieces(&["{\"a\":1}\n{\"b\"", ":2}\n", "{}"]), Encoding::Lines).await;
        let lines = ["{\"a\":1}\n", "{\"b\":2}\n", "{}"].map(|line| Message::Text(line.into()));
        assert_eq!(sent, [&lines[..], &[end(CloseCode::Normal, "")]].concat());
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_is_told_from_one_that_ends() {
        let frames = [Ok(http_body::Frame::data(Bytes::from("a"))), Err(BoxError::from("gone"))];
        let body = http_body_util::StreamBody::new(futures::stream::iter(frames)).boxed_unsync();
        let sent = received(body, Encoding::Binary).await;
        assert_eq!(sent.last(), Some(&end(CloseCode::Error, "the answer broke off")));
    }

    #[tokio::test]
    async fn the_session_ends_with_its_client() {
        let (near, far) = tokio::io::duplex(1 << 10);
        let body = http_body_util::StreamBody::new(futures::stream::pending::<Result<_, BoxError>>()).boxed_unsync();
        drop(near);
        session(far, body, Encoding::Binary).await;
    }

    #[test]
    fn the_first_known_protocol_is_taken_and_a_token_is_none() {
        let mut headers = HeaderMap::new();
        let named = "base64url.bearer.authorization.k8s.io.dG9rZW4, other, base64.binary.k8s.io, binary.k8s.io";
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(named));
        let named = protocols(&headers);
        assert_eq!(named, ["other", "base64.binary.k8s.io", "binary.k8s.io"]);
        assert_eq!(agree(&named, Kind::Bytes).unwrap(), (Some(BASE64.to_owned()), Encoding::Base64));
        assert_eq!(agree(&[], Kind::Bytes).unwrap(), (None, Encoding::Binary));
        assert_eq!(agree(&named[..1], Kind::Bytes).unwrap_err().code, 403);
        assert_eq!(agree(&named, Kind::Lines).unwrap(), (Some("other".to_owned()), Encoding::Lines));
    }
}
