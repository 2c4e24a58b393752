//! Requests to other servers over TLS: webhooks, aggregated API servers, identity providers.
//!
//! A server is named by a URL or by a Service. A Service is resolved in the store's newest snapshot: to the address of a
//! pod behind it, which the host reaches without going through service routing, and to its cluster IP when nothing says
//! where its pods are. Its certificate has to be for `NAME.NAMESPACE.svc`. Connections are pooled by whom they trust and
//! as whom they come; the pool's bounds and those of answers are the constants below.

use std::{collections::HashMap, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioTimer},
};
use parking_lot::Mutex;
use serde_json::Value;
use store::Store;

use crate::body::{self, Body};

mod connector;
mod error;
mod review;
mod services;
#[cfg(test)]
mod tests;
mod verifier;

use connector::Connector;
pub(crate) use error::OutboundError;
pub(crate) use review::ReviewVersion;
pub(crate) use verifier::tls;

/// Clients kept, one for each combination of trust and identity; when full, all are forgotten. More than this many
/// certificate bundles in use at once means that nothing is gained by keeping them.
const CLIENTS_MAX: usize = 256;
/// Idle connections kept for one server.
const IDLE_PER_HOST_MAX: usize = 16;
/// How long an idle connection is kept, as Go's HTTP client does.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// Bytes of an answer that is read whole: an object of the largest size, patched in full, in base64, with room to spare.
pub(crate) const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A server and how to know it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ClientConfig {
    pub(crate) target: Target,
    pub(crate) trust: Trust,
    /// The certificate to show, if any.
    pub(crate) identity: Option<Identity>,
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Target {
    /// At a URL.
    Url(String),
    /// Behind a Service.
    Service { namespace: String, name: String, port: u16, path: String },
}

/// Whose certificates are believed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Trust {
    /// Those of this bundle (PEM).
    Bundle(Arc<[u8]>),
    /// Those the machine trusts.
    System,
    /// Everybody's.
    Insecure,
}

/// A client certificate with its key, in PEM.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    pub(crate) certificate_pem: Arc<str>,
    pub(crate) key_pem: Arc<str>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity(..)")
    }
}

impl ClientConfig {
    /// Reads a `WebhookClientConfig`: `url` or `service`, and `caBundle`.
    pub(crate) fn decode(config: &Value) -> Result<Self, OutboundError> {
        let service = &config["service"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let target = match config["url"].as_str() {
            Some(url) => Target::Url(url.to_owned()),
            None if service.is_object() => Target::Service {
                namespace: text(&service["namespace"]),
                name: text(&service["name"]),
                port: service["port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or(443),
                path: text(&service["path"]),
            },
            None => return Err(OutboundError::NoTarget),
        };
        let trust = match config["caBundle"].as_str().filter(|bundle| !bundle.is_empty()) {
            None => Trust::System,
            Some(bundle) => Trust::Bundle(STANDARD.decode(bundle).map_err(|_| OutboundError::Bundle)?.into()),
        };
        Ok(Self { target, trust, identity: None })
    }

    /// The URL requests go to, without a query.
    pub(crate) fn url(&self) -> String {
        match &self.target {
            Target::Url(url) => url.clone(),
            Target::Service { namespace, name, port, path } => {
                let slash = if path.is_empty() || path.starts_with('/') { "" } else { "/" };
                format!("https://{name}.{namespace}.svc:{port}{slash}{path}")
            }
        }
    }
}

/// What connections are pooled by, besides the server's name.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Peer {
    services: bool,
    trust: Trust,
    identity: Option<Identity>,
}

type HttpClient = Client<Connector, Body>;

/// The clients.
pub(crate) struct Outbound {
    store: Store,
    clients: Mutex<HashMap<Peer, HttpClient>>,
}

impl Outbound {
    /// Resolves services in `store`.
    pub(crate) fn new(store: Store) -> Self {
        Self { store, clients: Mutex::default() }
    }

    /// Sends a request whose address begins with [`ClientConfig::url`]. The body of the answer is the caller's to bound,
    /// and so is the time.
    pub(crate) async fn send(
        &self,
        config: &ClientConfig,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, OutboundError> {
        let client = self.client(config)?;
        client.request(request).await.map_err(OutboundError::from_client)
    }

    /// Posts JSON and reads the whole answer, within `timeout`.
    pub(crate) async fn post(
        &self,
        config: &ClientConfig,
        url: &str,
        json: Vec<u8>,
        timeout: Duration,
    ) -> Result<(StatusCode, Bytes), OutboundError> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(url)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json, */*")
            .header(header::USER_AGENT, concat!("keelson/", env!("CARGO_PKG_VERSION")))
            .body(body::full(json))
            .map_err(OutboundError::Address)?;
        self.whole(config, request, timeout).await
    }

    /// Gets the whole answer, within `timeout`.
    pub(crate) async fn get(
        &self,
        config: &ClientConfig,
        url: &str,
        timeout: Duration,
    ) -> Result<(StatusCode, Bytes), OutboundError> {
        let request = Request::get(url)
            .header(header::ACCEPT, "application/json, */*")
            .header(header::USER_AGENT, concat!("keelson/", env!("CARGO_PKG_VERSION")))
            .body(body::empty())
            .map_err(OutboundError::Address)?;
        self.whole(config, request, timeout).await
    }

    async fn whole(
        &self,
        config: &ClientConfig,
        request: Request<Body>,
        timeout: Duration,
    ) -> Result<(StatusCode, Bytes), OutboundError> {
        let exchange = async {
            let response = self.send(config, request).await?;
            let (parts, answer) = response.into_parts();
            let limited = Limited::new(answer, ANSWER_BYTES_MAX).collect().await.map_err(OutboundError::Answer)?;
            Ok((parts.status, limited.to_bytes()))
        };
        tokio::time::timeout(timeout, exchange).await.unwrap_or(Err(OutboundError::Deadline))
    }

    fn client(&self, config: &ClientConfig) -> Result<HttpClient, OutboundError> {
        let services = matches!(config.target, Target::Service { .. });
        let peer = Peer { services, trust: config.trust.clone(), identity: config.identity.clone() };
        if let Some(client) = self.clients.lock().get(&peer) {
            return Ok(client.clone());
        }
        // made without the lock: reading the machine's certificates takes a while, and making one twice does no harm
        let tls = tls(&peer.trust, peer.identity.as_ref())?;
        let resolver = services.then(|| self.store.clone());
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_PER_HOST_MAX)
            .build(Connector::new(resolver, tls));
        let mut clients = self.clients.lock();
        if clients.len() >= CLIENTS_MAX {
            clients.clear();
        }
        clients.insert(peer, client.clone());
        Ok(client)
    }
}
