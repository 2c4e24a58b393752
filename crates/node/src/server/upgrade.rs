//! Which streaming protocol a request asks for, and the answer that switches to it.

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{Body, response};

const STREAM_PROTOCOL: &str = "x-stream-protocol-version";

/// The protocol both sides agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// WebSocket with a subprotocol, empty when the client named none.
    WebSocket(String),
    /// SPDY/3.1 with a stream protocol.
    Spdy(String),
}

/// Sub-protocols a handler speaks, most wanted first.
pub(crate) struct Offer {
    /// Over WebSocket.
    pub(crate) websocket: &'static [&'static str],
    /// Over SPDY.
    pub(crate) spdy: &'static [&'static str],
}

/// Why a request cannot be switched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UpgradeError {
    /// Neither a WebSocket nor a SPDY upgrade.
    #[error("unable to upgrade: missing upgrade headers in request")]
    NotAnUpgrade,
    /// The WebSocket handshake lacks something.
    #[error("unable to upgrade: {0} header is missing or wrong")]
    Handshake(&'static str),
    /// No common sub-protocol.
    #[error("unable to upgrade: unable to negotiate protocol: client supports {client:?}, server accepts {server:?}")]
    Protocol {
        /// What the client offered.
        client: Vec<String>,
        /// What is served.
        server: &'static [&'static str],
    },
}

impl UpgradeError {
    /// The HTTP answer.
    pub(crate) fn response(&self) -> Response<Body> {
        let status = match self {
            Self::NotAnUpgrade | Self::Handshake(_) => StatusCode::BAD_REQUEST,
            Self::Protocol { .. } => StatusCode::FORBIDDEN,
        };
        response::failure(status, &self.to_string())
    }
}

fn tokens(headers: &HeaderMap, name: &str) -> Vec<String> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|token| token.trim().to_owned())
        .filter(|token| !token.is_empty())
        .collect()
}

/// Picks transport and sub-protocol: the first the client names that is offered, as upstream does.
pub(crate) fn negotiate(headers: &HeaderMap, offer: &Offer) -> Result<(Transport, Response<Body>), UpgradeError> {
    let upgrade = tokens(headers, "upgrade");
    let wants = |name: &str| upgrade.iter().any(|token| token.eq_ignore_ascii_case(name));
    let mut answer = response::empty(StatusCode::SWITCHING_PROTOCOLS);
    let fields = answer.headers_mut();
    fields.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    if wants("websocket") {
        let key = headers.get(header::SEC_WEBSOCKET_KEY).ok_or(UpgradeError::Handshake("Sec-WebSocket-Key"))?;
        if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
            return Err(UpgradeError::Handshake("Sec-WebSocket-Version"));
        }
        let client = tokens(headers, "sec-websocket-protocol");
        let protocol = match pick(&client, offer.websocket) {
            Some(protocol) => protocol.to_owned(),
            None if client.is_empty() => String::new(),
            None => return Err(UpgradeError::Protocol { client, server: offer.websocket }),
        };
        fields.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) {
            fields.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        }
        if let (false, Ok(value)) = (protocol.is_empty(), HeaderValue::from_str(&protocol)) {
            fields.insert(header::SEC_WEBSOCKET_PROTOCOL, value);
        }
        return Ok((Transport::WebSocket(protocol), answer));
    }
    if wants("spdy/3.1") {
        let client = tokens(headers, STREAM_PROTOCOL);
        let Some(protocol) = pick(&client, offer.spdy) else {
            return Err(UpgradeError::Protocol { client, server: offer.spdy });
        };
        fields.insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
        fields.insert(STREAM_PROTOCOL, HeaderValue::from_static(protocol));
        return Ok((Transport::Spdy(protocol.to_owned()), answer));
    }
    Err(UpgradeError::NotAnUpgrade)
}

fn pick(client: &[String], server: &'static [&'static str]) -> Option<&'static str> {
    client.iter().find_map(|wanted| server.iter().copied().find(|offered| offered == wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFER: Offer = Offer { websocket: &["v5.channel.k8s.io", "v4.channel.k8s.io"], spdy: &["v4.channel.k8s.io"] };

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn the_first_protocol_of_the_client_that_is_served_wins() {
        let request = headers(&[
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-protocol", "v6.channel.k8s.io, v4.channel.k8s.io, v5.channel.k8s.io"),
        ]);
        let (transport, answer) = negotiate(&request, &OFFER).unwrap();
        assert_eq!(transport, Transport::WebSocket("v4.channel.k8s.io".into()));
        assert_eq!(answer.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(answer.headers()["sec-websocket-protocol"], "v4.channel.k8s.io");
    }

    #[test]
    fn spdy_and_errors() {
        let spdy = |protocol| headers(&[("upgrade", "SPDY/3.1"), (STREAM_PROTOCOL, protocol)]);
        let (transport, answer) = negotiate(&spdy("v4.channel.k8s.io"), &OFFER).unwrap();
        assert_eq!(transport, Transport::Spdy("v4.channel.k8s.io".into()));
        assert_eq!(answer.headers()[STREAM_PROTOCOL], "v4.channel.k8s.io");
        let error = negotiate(&spdy("v9.channel.k8s.io"), &OFFER).unwrap_err();
        assert_eq!(error.response().status(), StatusCode::FORBIDDEN);
        assert_eq!(negotiate(&headers(&[]), &OFFER).unwrap_err(), UpgradeError::NotAnUpgrade);
    }
}
