//! A server that ours calls: behind webhooks or APIServices. Real TLS with a certificate of its own authority, answers by a function of the test.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

/// What the server says to a request.
pub(crate) enum Reply {
    /// This, as JSON.
    Json(Value),
    /// A status code and a text.
    Status(u16, &'static str),
    /// Nothing, ever.
    Silence,
}

type Handler = dyn Fn(&str, &Value) -> Reply + Send + Sync;

/// The name of a Service the server may be behind.
const SERVICE: &str = "wardle.default.svc";

/// The server, gone when dropped.
pub(crate) struct WebhookServer {
    pub(crate) port: u16,
    pub(crate) bundle: String,
    /// Paths and bodies that came.
    pub(crate) seen: Arc<Mutex<Vec<(String, Value)>>>,
    /// Paths and headers that came.
    pub(crate) heads: Arc<Mutex<Vec<(String, HeaderMap)>>>,
    serving: JoinHandle<()>,
    _directory: tempfile::TempDir,
}

impl Drop for WebhookServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn tls(authority: &identity::Authority) -> rustls::ServerConfig {
    let address = std::net::IpAddr::from([127, 0, 0, 1]);
    let pair = authority
        .server("webhook", &["localhost".to_owned(), SERVICE.to_owned()], &[address], jiff::Timestamp::now())
        .unwrap();
    let chain = CertificateDer::pem_slice_iter(pair.certificate_pem.as_bytes()).collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).unwrap();
    rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap()
}

impl WebhookServer {
    /// A server whose answers are a function of path and body.
    pub(crate) async fn new(handler: impl Fn(&str, &Value) -> Reply + Send + Sync + 'static) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = identity::Authority::load_or_create(directory.path(), jiff::Timestamp::now()).unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls(&authority)));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (handler, seen): (Arc<Handler>, _) = (Arc::new(handler), Arc::new(Mutex::new(Vec::new())));
        let heads = Arc::new(Mutex::new(Vec::new()));
        let for_task = (seen.clone(), heads.clone());
        let serving = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, handler, (seen, heads)) = (acceptor.clone(), handler.clone(), for_task.clone());
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                        heads.lock().unwrap().push((request.uri().path().to_owned(), request.headers().clone()));
                        let (handler, seen) = (handler.clone(), seen.clone());
                        async move { Ok::<_, Infallible>(answer(&*handler, &seen, request).await) }
                    });
                    // the client may close whenever it likes
                    let _ended = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        let bundle = STANDARD.encode(authority.certificate_pem());
        Self { port, bundle, seen, heads, serving, _directory: directory }
    }

    /// The `clientConfig` of a webhook at a path.
    pub(crate) fn client(&self, path: &str) -> Value {
        json!({"url": format!("https://127.0.0.1:{}{path}", self.port), "caBundle": self.bundle})
    }

    /// What came to a path.
    pub(crate) fn seen(&self, path: &str) -> Vec<Value> {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|(known, _)| known == path).map(|(_, body)| body.clone()).collect()
    }
}

async fn answer(
    handler: &Handler,
    seen: &Mutex<Vec<(String, Value)>>,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    seen.lock().unwrap().push((path.clone(), body.clone()));
    let (status, text) = match handler(&path, &body) {
        Reply::Json(value) => (200, value.to_string()),
        Reply::Status(status, text) => (status, text.to_owned()),
        Reply::Silence => std::future::pending().await,
    };
    Response::builder()
        .status(status)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(text)))
        .unwrap()
}

/// An AdmissionReview that answers another one.
pub(crate) fn review(asked: &Value, mut response: Value) -> Reply {
    response["uid"] = asked["request"]["uid"].clone();
    Reply::Json(json!({"apiVersion": asked["apiVersion"], "kind": "AdmissionReview", "response": response}))
}

/// Allows the request.
pub(crate) fn allow(asked: &Value) -> Reply {
    review(asked, json!({"allowed": true}))
}

/// Allows the request and patches its object.
pub(crate) fn patch(asked: &Value, patch: &Value) -> Reply {
    let patch = STANDARD.encode(patch.to_string());
    review(asked, json!({"allowed": true, "patchType": "JSONPatch", "patch": patch}))
}

/// Refuses the request.
pub(crate) fn deny(asked: &Value, why: &str) -> Reply {
    review(asked, json!({"allowed": false, "status": {"message": why, "reason": "Forbidden", "code": 403}}))
}
