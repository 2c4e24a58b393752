//! The server under load: connections of HTTP/2 over TLS, with the credentials of a kubeconfig.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::{
    client::ConfigExt as _,
    config::{Config, KubeConfigOptions, Kubeconfig},
};
use serde_json::Value;
use tokio::{net::TcpStream, task::JoinSet};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};

/// Connections that the workers of one kind share, as many as clients of a busy cluster have in one process.
const CONNECTIONS: usize = 8;
/// Longest wait for one answer; servers give up on a request after a minute.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(75);
/// How much of an answer that is an error is shown.
const ERROR_BYTES_SHOWN: usize = 300;

pub(crate) const JSON: &str = "application/json";
pub(crate) const APPLY: &str = "application/apply-patch+yaml";
pub(crate) const MERGE: &str = "application/merge-patch+json";

/// A server, reached over connections of its own.
pub(crate) struct Target {
    senders: Vec<http2::SendRequest<Full<Bytes>>>,
    next: AtomicUsize,
    config: Config,
    token: Option<HeaderValue>,
    /// Drive the connections; they end with the target.
    _connections: JoinSet<()>,
}

/// A body and what it is.
pub(crate) type Content = (&'static str, Vec<u8>);

impl Target {
    /// Connects as a kubeconfig says.
    pub(crate) async fn connect(kubeconfig: &Path) -> Result<Arc<Self>> {
        let read = Kubeconfig::read_from(kubeconfig).with_context(|| format!("read {}", kubeconfig.display()))?;
        let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?;
        Self::open(config, CONNECTIONS).await
    }

    /// The same server over other connections: what one kind of client does must not wait behind another's answers.
    pub(crate) async fn apart(&self, connections: usize) -> Result<Arc<Self>> {
        Self::open(self.config.clone(), connections).await
    }

    async fn open(config: Config, connections: usize) -> Result<Arc<Self>> {
        let mut tls = config.rustls_client_config()?;
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let connector = TlsConnector::from(Arc::new(tls));
        let host = config.cluster_url.host().context("the server's address has no host")?.to_owned();
        let port = config.cluster_url.port_u16().unwrap_or(443);
        let mut running = JoinSet::new();
        let mut senders = Vec::new();
        for _ in 0..connections {
            let socket = TcpStream::connect((host.as_str(), port)).await.context("connect")?;
            socket.set_nodelay(true)?;
            let stream = connector.connect(ServerName::try_from(host.clone())?, socket).await.context("TLS")?;
            let (sender, connection) =
                http2::Builder::new(TokioExecutor::new()).handshake(TokioIo::new(stream)).await?;
            running.spawn(async move {
                if let Err(error) = connection.await {
                    eprintln!("a connection ended: {error}");
                }
            });
            senders.push(sender);
        }
        // the token is a secret that only serialisation gives away
        let user = serde_json::to_value(&config.auth_info)?;
        let token = user["token"].as_str().map(|token| HeaderValue::try_from(format!("Bearer {token}"))).transpose()?;
        Ok(Arc::new(Self { senders, next: AtomicUsize::new(0), config, token, _connections: running }))
    }

    /// Sends a request and returns the head of the answer and the body still to come.
    pub(crate) async fn request(
        &self,
        method: Method,
        path: &str,
        accept: &str,
        content: Option<Content>,
    ) -> Result<Response<Incoming>> {
        let at = self.next.fetch_add(1, Ordering::Relaxed) % self.senders.len();
        let uri = format!("{}{path}", self.config.cluster_url.to_string().trim_end_matches('/'));
        let mut request = Request::builder().method(method).uri(uri).header(header::ACCEPT, accept);
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, token);
        }
        let body = match content {
            Some((content_type, body)) => {
                request = request.header(header::CONTENT_TYPE, content_type);
                Full::from(body)
            }
            None => Full::default(),
        };
        let mut sender = self.senders[at].clone();
        sender.ready().await?;
        Ok(sender.send_request(request.body(body)?).await?)
    }

    /// Sends a request and returns status and body, whatever they are.
    pub(crate) async fn exchange(
        &self,
        method: Method,
        path: &str,
        accept: &str,
        content: Option<Content>,
    ) -> Result<(StatusCode, Bytes)> {
        let asked = async {
            let response = self.request(method, path, accept, content).await?;
            let status = response.status();
            anyhow::Ok((status, response.into_body().collect().await?.to_bytes()))
        };
        tokio::time::timeout(ANSWER_TIMEOUT, asked).await.with_context(|| format!("{path}: no answer in time"))?
    }

    /// Sends a request that must succeed.
    pub(crate) async fn send(&self, method: Method, path: &str, content: Option<Content>) -> Result<Bytes> {
        let (status, body) = self.exchange(method.clone(), path, JSON, content).await?;
        if !status.is_success() {
            let text = String::from_utf8_lossy(&body[..body.len().min(ERROR_BYTES_SHOWN)]).into_owned();
            bail!("{method} {path}: {status}: {text}");
        }
        Ok(body)
    }

    /// GET.
    pub(crate) async fn get(&self, path: &str) -> Result<Bytes> {
        self.send(Method::GET, path, None).await
    }

    /// GET of JSON.
    pub(crate) async fn read(&self, path: &str) -> Result<Value> {
        Ok(serde_json::from_slice(&self.get(path).await?)?)
    }

    /// POST of an object that may be there already.
    pub(crate) async fn ensure(&self, path: &str, object: &Value) -> Result<()> {
        let (status, body) = self.exchange(Method::POST, path, JSON, Some(content(JSON, object))).await?;
        if status.is_success() || status == StatusCode::CONFLICT {
            return Ok(());
        }
        bail!("POST {path}: {status}: {}", String::from_utf8_lossy(&body[..body.len().min(ERROR_BYTES_SHOWN)]))
    }

    /// The body of a watch, and what keeps its connections open.
    pub(crate) async fn watch(&self, path: &str) -> Result<Incoming> {
        let response = self.request(Method::GET, path, JSON, None).await?;
        if !response.status().is_success() {
            bail!("GET {path}: {}", response.status());
        }
        Ok(response.into_body())
    }
}

/// An object as a body.
pub(crate) fn content(content_type: &'static str, object: &Value) -> Content {
    (content_type, object.to_string().into_bytes())
}
