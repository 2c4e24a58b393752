//! Whether the servers behind APIServices answer, and what they say of themselves.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http::{Method, Request, header};
use http_body_util::{BodyExt as _, Limited};
use serde_json::{Value, json};
use store::Snapshot;
use strategy::user::{GROUP_MASTERS, User};

use super::{COLLECTION, Discovered, Remote, SLICES, carry, merge};
use crate::{
    body, codec, meta,
    outbound::ANSWER_BYTES_MAX,
    server::{ApiServer, SERVICES},
};

/// How long a server may take to answer, as upstream.
const TIMEOUT: Duration = Duration::from_secs(6);
/// Servers asked at once.
const CHECKS_AT_ONCE: usize = 16;

/// What the condition `Available` says.
#[derive(Debug, PartialEq)]
pub(super) struct Availability {
    pub(super) available: bool,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

fn not(reason: &'static str, message: String) -> Availability {
    Availability { available: false, reason, message }
}

/// Checks every aggregated server and writes down what changed; gives whether all of them answer.
pub(super) async fn all(server: &Arc<ApiServer>) -> bool {
    let remotes = server.aggregation.remotes();
    server.metrics.asks_aggregated();
    // each check owns what it needs, so that the stream of them borrows nothing
    let checks: Vec<_> = remotes.iter().map(|remote| one(server.clone(), remote.clone())).collect();
    stream::iter(checks).buffer_unordered(CHECKS_AT_ONCE).all(|answers| async move { answers }).await
}

async fn one(server: Arc<ApiServer>, remote: Arc<Remote>) -> bool {
    let availability = match reachable(&server.snapshot(), &remote) {
        Some(missing) => missing,
        None => ask(&server, &remote).await,
    };
    server.metrics.answers(&remote.name, availability.available);
    if let Err(error) = write(&server, &remote, &availability).await {
        tracing::warn!(service = remote.name, %error, "the availability of an APIService could not be written");
    }
    availability.available
}

/// What is missing in the cluster for the server to be reachable.
fn reachable(snapshot: &Snapshot, remote: &Remote) -> Option<Availability> {
    let Remote { namespace, service, .. } = remote;
    let stored = snapshot.get(SERVICES, &format!("{namespace}/{service}"));
    let object = stored.and_then(|object| codec::stored(&object.bytes).ok());
    let slices = snapshot.range(SLICES, &format!("{namespace}/"), None);
    let slices: Vec<Value> = slices
        .filter_map(|(_, object)| codec::stored(&object.bytes).ok())
        .filter(|slice| slice["metadata"]["labels"]["kubernetes.io/service-name"] == service.as_str())
        .collect();
    missing(remote, object.as_ref(), &slices)
}

pub(super) fn missing(remote: &Remote, object: Option<&Value>, slices: &[Value]) -> Option<Availability> {
    let Remote { namespace, service, port, .. } = remote;
    let Some(object) = object else {
        return Some(not("ServiceNotFound", format!("service/{service} in {namespace:?} is not present")));
    };
    if object["spec"]["type"].as_str().is_some_and(|kind| kind != "ClusterIP") {
        return None;
    }
    let mut ports = object["spec"]["ports"].as_array().into_iter().flatten();
    let Some(found) = ports.find(|known| known["port"] == *port) else {
        let message = format!("service/{service} in {namespace:?} is not listening on port {port}");
        return Some(not("ServicePortError", message));
    };
    let name = found["name"].as_str().unwrap_or_default();
    if slices.is_empty() {
        let message = format!("cannot find endpointslices for service/{service} in {namespace:?}");
        return Some(not("EndpointsNotFound", message));
    }
    let serves = |slice: &Value| {
        let has = |list: &str, fits: &dyn Fn(&Value) -> bool| slice[list].as_array().into_iter().flatten().any(fits);
        has("ports", &|port| port["name"].as_str().unwrap_or_default() == name)
            && has("endpoints", &|endpoint| endpoint["conditions"]["ready"] != false)
    };
    if !slices.iter().any(serves) {
        let message =
            format!("endpoints for service/{service} in {namespace:?} have no addresses with port name {name:?}");
        return Some(not("MissingEndpoints", message));
    }
    None
}

/// Asks a server for its discovery document, and keeps what it says.
async fn ask(server: &ApiServer, remote: &Remote) -> Availability {
    let path = remote.path();
    let shown = format!("https://{}.{}.svc:{}{path}", remote.service, remote.namespace, remote.port);
    let failed = |why: String| not("FailedDiscoveryCheck", format!("failing or missing response from {shown}: {why}"));
    match get(server, remote, &path, "application/json").await {
        Err(why) => failed(why),
        Ok((status, _)) if !(200..300).contains(&status) => failed(format!("bad status from {shown}: {status}")),
        Ok((_, answer)) => {
            let resources = serde_json::from_slice(&answer).map(|list| merge::resources(remote, &list));
            let said = Discovered {
                resources: resources.unwrap_or_default(),
                open_api_v2: document(server, remote, "/openapi/v2").await,
                open_api_v3: document(server, remote, "/openapi/v3").await.and_then(|index| {
                    let entry = &index["paths"][path.trim_start_matches('/')]["serverRelativeURL"];
                    entry.as_str().map(str::to_owned)
                }),
            };
            if remote.discovered.load().as_deref() != Some(&said) {
                remote.discovered.store(Some(Arc::new(said)));
                server.aggregation.generation.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
            Availability { available: true, reason: "Passed", message: "all checks passed".into() }
        }
    }
}

/// A document of the server, `None` when it has none.
async fn document(server: &ApiServer, remote: &Remote, path: &str) -> Option<Value> {
    match get(server, remote, path, "application/json").await {
        Ok((200, answer)) => serde_json::from_slice(&answer).ok(),
        Ok(_) | Err(_) => None,
    }
}

async fn get(server: &ApiServer, remote: &Remote, path: &str, accept: &str) -> Result<(u16, Bytes), String> {
    let client = server.aggregation.client(remote)?;
    let mut request = Request::builder()
        .method(Method::GET)
        .uri(format!("{}{path}", client.url()))
        .header(header::ACCEPT, accept)
        .body(body::empty())
        .map_err(|error| error.to_string())?;
    carry::identify(request.headers_mut(), &User::new("system:kube-aggregator", &[GROUP_MASTERS]));
    let exchange = async {
        let response = server.outbound.send(&client, request).await.map_err(|error| error.to_string())?;
        let (parts, answer) = response.into_parts();
        let answer = Limited::new(answer, ANSWER_BYTES_MAX).collect().await.map_err(|error| error.to_string())?;
        Ok((parts.status.as_u16(), answer.to_bytes()))
    };
    let in_time = tokio::time::timeout(TIMEOUT, exchange).await;
    in_time.unwrap_or_else(|_| Err("context deadline exceeded".into()))
}

/// Writes the condition, when it says anything new.
async fn write(
    server: &Arc<ApiServer>,
    remote: &Remote,
    found: &Availability,
) -> Result<(), crate::bootstrap::BootstrapError> {
    let snapshot = server.snapshot();
    let stored = snapshot.get(COLLECTION, &remote.name).and_then(|object| codec::stored(&object.bytes).ok());
    let Some(stored) = stored else { return Ok(()) };
    let status = if found.available { "True" } else { "False" };
    let mut conditions = stored["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let answered = |condition: &Value| condition["type"] == "Available" && condition["status"] == "True";
    if !found.available && conditions.iter().any(answered) {
        server.metrics.stopped_to_answer(&remote.name, found.reason);
    }
    let mut new = json!({"type": "Available", "status": status, "reason": found.reason, "message": found.message,
        "lastTransitionTime": meta::time(jiff::Timestamp::now())});
    match conditions.iter_mut().find(|condition| condition["type"] == "Available") {
        Some(old) => {
            if old["status"] == status {
                new["lastTransitionTime"] = old["lastTransitionTime"].clone();
            }
            if *old == new {
                return Ok(());
            }
            *old = new;
        }
        None => conditions.push(new),
    }
    let patch = json!({"status": {"conditions": conditions}});
    let path = format!("/apis/apiregistration.k8s.io/v1/apiservices/{}/status", remote.name);
    let mut request = Request::new(body::full(patch.to_string()));
    *request.method_mut() = Method::PATCH;
    let kind = http::HeaderValue::from_static("application/merge-patch+json");
    request.headers_mut().insert(header::CONTENT_TYPE, kind);
    server.ask_itself(&path, request).await
}
