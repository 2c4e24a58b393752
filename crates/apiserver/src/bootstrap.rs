//! What a new cluster needs before anybody can use it: the namespaces and objects upstream creates at its first start.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use strategy::User;

use crate::{
    body::{self, Body},
    health::Check,
    server::{ApiServer, Caller},
};

/// Namespaces that are always there.
const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// An object every cluster needs could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot create {path}: {message}")]
pub struct BootstrapError {
    /// Where it was to be created.
    pub path: String,
    /// What the API answered.
    pub message: String,
}

/// Says since when the use of the tokens of Secrets is noted: who cleans up has to know what no note means.
fn token_tracking(now: jiff::Timestamp) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "kube-apiserver-legacy-service-account-token-tracking", "namespace": "kube-system"},
        "data": {"since": crate::authentication::day(now)}})
}

impl ApiServer {
    /// Makes sure of the objects every cluster needs, then reports the post-start hooks as done. What is there already
    /// stays as it is.
    pub async fn bootstrap(self: &Arc<Self>) -> Result<(), BootstrapError> {
        for name in NAMESPACES {
            let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            self.ensure("/api/v1/namespaces", &namespace).await?;
        }
        self.ensure("/api/v1/namespaces/kube-system/configmaps", &token_tracking(jiff::Timestamp::now())).await?;
        self.install_policy(jiff::Timestamp::now()).await?;
        self.ensure_flow_objects().await?;
        self.complete_local_api_services().await?;
        self.ensure_default_range().await?;
        if let Err(error) = self.repair_addresses(jiff::Timestamp::now()).await {
            tracing::warn!(%error, "the addresses of Services could not be repaired");
        }
        self.health.started();
        Ok(())
    }

    /// Adds a named check to `/readyz` and `/healthz`.
    pub fn add_readiness_check(&self, name: &str, check: Check) {
        self.health.add(name, check);
    }

    /// Creates an object unless it is there.
    pub(crate) async fn ensure(self: &Arc<Self>, path: &str, object: &Value) -> Result<(), BootstrapError> {
        let mut request = Request::new(body::full(Bytes::from(object.to_string())));
        *request.method_mut() = Method::POST;
        self.ask_itself(path, request).await
    }

    /// Sends a request as the server itself. What it wants to create may be there already.
    pub(crate) async fn ask_itself(
        self: &Arc<Self>,
        path: &str,
        mut request: Request<Body>,
    ) -> Result<(), BootstrapError> {
        let user = Some(Arc::new(User::new("system:apiserver", &[strategy::user::GROUP_MASTERS])));
        let caller = Caller { is_component: true, ..Caller::within(user) };
        let creates = *request.method() == Method::POST;
        if let Ok(uri) = path.parse() {
            *request.uri_mut() = uri;
        }
        request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static("keelson"));
        let response = self.clone().handle(request, caller).await;
        let status = response.status();
        if status.is_success() || (creates && status == StatusCode::CONFLICT) {
            return Ok(());
        }
        let message = match response.into_body().collect().await {
            Ok(body) => String::from_utf8_lossy(&body.to_bytes()).into_owned(),
            Err(error) => error.to_string(),
        };
        Err(BootstrapError { path: path.to_owned(), message })
    }

    /// Writes down when the tokens of Secrets were last used. A Secret that is gone, or changes meanwhile, is left to the
    /// token's next use.
    pub(crate) fn mark_used_secrets(self: &Arc<Self>, now: jiff::Timestamp) -> BoxFuture<'static, ()> {
        let server = self.clone();
        // boxed, because what answers the requests made here is what calls this
        Box::pin(async move {
            for path in server.authenticator.last_used.take() {
                let Some((namespace, name)) = path.split_once('/') else { continue };
                let path = format!("/api/v1/namespaces/{namespace}/secrets/{name}");
                let patch = crate::authentication::last_used_patch(now);
                let mut request = Request::new(body::full(Bytes::from(patch.to_string())));
                *request.method_mut() = Method::PATCH;
                let merge = HeaderValue::from_static("application/merge-patch+json");
                request.headers_mut().insert(header::CONTENT_TYPE, merge);
                if let Err(error) = server.ask_itself(&path, request).await {
                    tracing::debug!(%error, "the last use of a token could not be written down");
                }
            }
        })
    }
}
