//! A server over a store in a directory of the test's own, and requests to it.

use std::{path::Path, sync::Arc};

use apiserver::{ApiServer, ApiServerConfig, ApiService, User};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use identity::TokenSigner;
use serde_json::Value;
use tower::ServiceExt as _;

/// A running server, gone with its directory when dropped.
pub(crate) struct Fixture {
    pub(crate) server: Arc<ApiServer>,
    _directory: tempfile::TempDir,
}

pub(crate) const JSON: &str = "application/json";
pub(crate) const MERGE: &str = "application/merge-patch+json";
pub(crate) const APPLY: &str = "application/apply-patch+yaml";

/// The user that may do everything.
pub(crate) fn admin() -> User {
    User::new("admin", &["system:masters", "system:authenticated"])
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    /// The body, when the request succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> Value {
        assert!(self.status.is_success(), "{} {}", self.status, self.body);
        self.body
    }

    /// Code, reason and message, when it failed.
    #[track_caller]
    pub(crate) fn failed(self) -> (u16, String, String) {
        assert!(!self.status.is_success(), "{} {}", self.status, self.body);
        let text = |field: &str| self.body[field].as_str().unwrap_or_default().to_owned();
        (self.status.as_u16(), text("reason"), text("message"))
    }
}

pub(crate) fn open(directory: &Path) -> Arc<ApiServer> {
    open_as(directory, ApiServerConfig::default())
}

fn open_as(directory: &Path, config: ApiServerConfig) -> Arc<ApiServer> {
    let signer = TokenSigner::load_or_create(&directory.join("sa.key"), "https://kubernetes.default.svc").unwrap();
    let store = store::Store::open(
        directory.join("store"),
        store::Options { frames: Some(apiserver::FRAMES), indexes: apiserver::INDEXES, ..store::Options::default() },
    )
    .unwrap();
    ApiServer::new(store, config, Arc::new(signer))
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        Self::configured(ApiServerConfig::default()).await
    }

    pub(crate) async fn configured(config: ApiServerConfig) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let server = open_as(directory.path(), config);
        server.bootstrap().await.unwrap();
        let fixture = Self { server, _directory: directory };
        // admission gives every pod its namespace's default account, which a controller makes in a whole cluster
        let account = serde_json::json!({"metadata": {"name": "default"}});
        fixture.post("/api/v1/namespaces/default/serviceaccounts", &account).await.ok();
        fixture
    }

    pub(crate) fn service(&self) -> ApiService {
        self.server.service(Some(admin()))
    }

    pub(crate) async fn open(&self, request: Request<String>) -> Response<apiserver::Body> {
        self.service().oneshot(request).await.unwrap()
    }

    pub(crate) async fn open_bytes(&self, request: Request<Vec<u8>>) -> Response<apiserver::Body> {
        self.service().oneshot(request.map(http_body_util::Full::<bytes::Bytes>::from)).await.unwrap()
    }

    pub(crate) async fn send(&self, request: Request<String>) -> Answer {
        send(self.service(), request).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(request(Method::GET, path, "", "")).await
    }

    pub(crate) async fn post(&self, path: &str, object: &Value) -> Answer {
        self.send(request(Method::POST, path, JSON, &object.to_string())).await
    }

    pub(crate) async fn put(&self, path: &str, object: &Value) -> Answer {
        self.send(request(Method::PUT, path, JSON, &object.to_string())).await
    }

    pub(crate) async fn patch(&self, path: &str, kind: &str, patch: &Value) -> Answer {
        self.send(request(Method::PATCH, path, kind, &patch.to_string())).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(request(Method::DELETE, path, "", "")).await
    }
}

pub(crate) fn request(method: Method, path: &str, kind: &str, body: &str) -> Request<String> {
    let mut request = Request::builder().method(method).uri(path).header(header::USER_AGENT, "test/1");
    if !kind.is_empty() {
        request = request.header(header::CONTENT_TYPE, kind);
    }
    request.body(body.to_owned()).unwrap()
}

pub(crate) async fn send(service: ApiService, request: Request<String>) -> Answer {
    let response = service.oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into_owned().into());
    Answer { status: parts.status, headers: parts.headers, body }
}

/// Lines of a watch, one by one.
pub(crate) struct Lines {
    body: apiserver::Body,
    buffer: Vec<u8>,
}

impl Lines {
    pub(crate) async fn open(fixture: &Fixture, path: &str) -> Self {
        let response = fixture.open(request(Method::GET, path, "", "")).await;
        assert_eq!(response.status(), 200, "{path}");
        Self { body: response.into_body(), buffer: Vec::new() }
    }

    /// The next event, `None` when the watch has ended.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(std::time::Duration::from_secs(30), self.body.frame());
            let frame = frame.await.expect("an event in time")?.unwrap();
            self.buffer.extend_from_slice(&frame.into_data().unwrap());
        }
    }

    /// Type and name of the next event's object.
    pub(crate) async fn named(&mut self) -> (String, String) {
        let event = self.next().await.expect("an event");
        let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        (event["type"].as_str().unwrap().to_owned(), name)
    }
}
