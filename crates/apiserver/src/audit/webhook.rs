//! Audit events to a webhook: in batches, as `audit.k8s.io/v1` EventLists, to the server a kubeconfig file names.
//!
//! Unlike the log, a webhook may be away. Its buffer is bounded, and what finds it full is dropped and counted, as with
//! upstream's batching mode: a server that cannot be reached must not stop the cluster.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, header};
use http_body_util::{BodyExt as _, Limited};
use parking_lot::Mutex;
use serde_json::Value;
use strategy::tree::{list, text};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use super::metrics::AuditMetrics;
use crate::{
    body,
    outbound::{ClientConfig, Identity, Outbound, OutboundError, Target, Trust},
    server::ApiServer,
};

/// Events that wait for the webhook, and events of one batch; upstream's defaults.
const EVENTS_MAX: usize = 10_000;
const BATCH_EVENTS_MAX: usize = 400;
/// How long a batch may wait to be filled; upstream's default.
const BATCH_WAIT: Duration = Duration::from_secs(30);
/// How long one delivery may take.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a delivery is tried, and the pause before the second attempt, which doubles; upstream begins with as much.
const ATTEMPTS_MAX: u32 = 4;
const BACKOFF: Duration = Duration::from_secs(10);
/// Answers are only asked for their status.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// A kubeconfig file that names no usable webhook.
#[derive(Debug, thiserror::Error)]
#[error("audit webhook {}: {reason}", .path.display())]
pub struct WebhookError {
    path: PathBuf,
    reason: String,
}

/// Where events go.
#[derive(Clone, Debug)]
pub struct Webhook {
    client: ClientConfig,
    authorization: Option<HeaderValue>,
}

impl Webhook {
    /// Reads a kubeconfig: the server of the current context, how to know it, and what to show it.
    pub fn read(path: &Path) -> Result<Self, WebhookError> {
        let read = || -> Result<Self, String> {
            let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
            let (document, _) = schema::yaml::parse(&bytes).map_err(|error| error.to_string())?;
            Self::decode(&document, path.parent().unwrap_or(Path::new(".")))
        };
        read().map_err(|reason| WebhookError { path: path.to_owned(), reason })
    }

    fn decode(document: &Value, folder: &Path) -> Result<Self, String> {
        let named = |entries: &str, name: &str, key: &str| -> Option<Value> {
            list(document, entries).iter().find(|entry| text(entry, "name") == name).map(|entry| entry[key].clone())
        };
        let current = text(document, "current-context");
        let context = named("contexts", current, "context").ok_or_else(|| format!("no context {current:?}"))?;
        let cluster = text(&context, "cluster");
        let cluster = named("clusters", cluster, "cluster").ok_or_else(|| format!("no cluster {cluster:?}"))?;
        let user = named("users", text(&context, "user"), "user").unwrap_or_default();
        if cluster["insecure-skip-tls-verify"] == true {
            return Err("insecure-skip-tls-verify: audit events go to a server that proves who it is".into());
        }
        let server = text(&cluster, "server");
        if !server.starts_with("https://") {
            return Err(format!("server {server:?} is no https:// URL"));
        }
        // each credential is given in place, encoded, or as the path of a file
        let credential = |of: &Value, key: &str| -> Result<Option<Vec<u8>>, String> {
            let (data, file) = (text(of, &format!("{key}-data")), text(of, key));
            match (data, file) {
                ("", "") => Ok(None),
                ("", file) => {
                    std::fs::read(folder.join(file)).map(Some).map_err(|error| format!("{key} {file}: {error}"))
                }
                (data, _) => STANDARD.decode(data).map(Some).map_err(|_| format!("{key}-data is not base64")),
            }
        };
        let pem = |of: &Value, key: &str| -> Result<Option<Arc<str>>, String> {
            let bytes = credential(of, key)?;
            bytes
                .map(|bytes| String::from_utf8(bytes).map(Arc::from).map_err(|_| format!("{key} is no PEM")))
                .transpose()
        };
        let identity = match (pem(&user, "client-certificate")?, pem(&user, "client-key")?) {
            (Some(certificate_pem), Some(key_pem)) => Some(Identity { certificate_pem, key_pem }),
            (None, None) => None,
            _ => return Err("client-certificate and client-key go together".into()),
        };
        let token = match (text(&user, "token"), text(&user, "tokenFile")) {
            ("", "") => None,
            ("", file) => {
                Some(std::fs::read_to_string(folder.join(file)).map_err(|error| format!("tokenFile {file}: {error}"))?)
            }
            (token, _) => Some(token.to_owned()),
        };
        let header = |token: String| {
            let mut value =
                HeaderValue::from_str(&format!("Bearer {}", token.trim())).map_err(|_| "token is no text")?;
            value.set_sensitive(true);
            Ok::<_, String>(value)
        };
        let trust =
            credential(&cluster, "certificate-authority")?.map_or(Trust::System, |bundle| Trust::Bundle(bundle.into()));
        let client = ClientConfig { target: Target::Url(server.to_owned()), trust, identity };
        Ok(Self { client, authorization: token.map(header).transpose()? })
    }

    async fn deliver(&self, outbound: &Outbound, body: Bytes) -> Result<(), String> {
        let mut request = Request::new(body::full(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.client.url().parse().map_err(|_| "the server's URL is none".to_owned())?;
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(authorization) = &self.authorization {
            headers.insert(header::AUTHORIZATION, authorization.clone());
        }
        let exchange = async {
            let response = outbound.send(&self.client, request).await?;
            let status = response.status();
            // a connection is used again only when its answer was taken
            let rest = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            rest.map_err(OutboundError::Answer).map(|_| status)
        };
        match tokio::time::timeout(DELIVERY_TIMEOUT, exchange).await {
            Ok(Ok(status)) if status.is_success() => Ok(()),
            Ok(Ok(status)) => Err(format!("it answered {status}")),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("it did not answer in time".to_owned()),
        }
    }
}

/// The events that wait for the webhook.
pub(super) struct Mailbox {
    webhook: Webhook,
    sender: mpsc::Sender<Bytes>,
    /// Taken by whoever delivers.
    receiver: Mutex<Option<mpsc::Receiver<Bytes>>>,
    metrics: Arc<AuditMetrics>,
}

impl Mailbox {
    pub(super) fn new(webhook: Webhook, metrics: Arc<AuditMetrics>) -> Self {
        let (sender, receiver) = mpsc::channel(EVENTS_MAX);
        Self { webhook, sender, receiver: Mutex::new(Some(receiver)), metrics }
    }

    /// Puts the lines of some events in, as far as there is room.
    pub(super) fn put(&self, lines: &[u8]) {
        for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            if self.sender.try_send(Bytes::copy_from_slice(line)).is_err() {
                self.metrics.undelivered(1);
            }
        }
    }

    async fn run(&self, outbound: &Outbound, stop: &CancellationToken) {
        let Some(mut events) = self.receiver.lock().take() else { return stop.cancelled().await };
        while !stop.is_cancelled() {
            let batch = tokio::select! {
                batch = next_batch(&mut events) => batch,
                () = stop.cancelled() => {
                    // what is there goes out in one last attempt
                    let mut rest = Vec::new();
                    while let Ok(event) = events.try_recv() {
                        rest.push(event);
                    }
                    rest
                }
            };
            if !batch.is_empty() {
                self.deliver(outbound, &batch, stop).await;
            }
        }
        *self.receiver.lock() = Some(events);
    }

    async fn deliver(&self, outbound: &Outbound, batch: &[Bytes], stop: &CancellationToken) {
        let body = event_list(batch);
        let mut pause = BACKOFF;
        for attempt in 1..=ATTEMPTS_MAX {
            let Err(error) = self.webhook.deliver(outbound, body.clone()).await else { return };
            tracing::warn!(error, attempt, events = batch.len(), "audit events could not be delivered");
            if attempt == ATTEMPTS_MAX {
                break;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => pause *= 2,
                () = stop.cancelled() => break,
            }
        }
        self.metrics.undelivered(batch.len());
    }
}

/// Waits for events, and then for more until there is a batch of them.
async fn next_batch(events: &mut mpsc::Receiver<Bytes>) -> Vec<Bytes> {
    let mut batch = Vec::new();
    let Some(first) = events.recv().await else { return std::future::pending().await };
    batch.push(first);
    let until = Instant::now() + BATCH_WAIT;
    while batch.len() < BATCH_EVENTS_MAX {
        match tokio::time::timeout_at(until, events.recv()).await {
            Ok(Some(event)) => batch.push(event),
            Ok(None) | Err(_) => break,
        }
    }
    batch
}

fn event_list(events: &[Bytes]) -> Bytes {
    let mut list = Vec::with_capacity(events.iter().map(Bytes::len).sum::<usize>() + events.len() + 80);
    list.extend_from_slice(b"{\"kind\":\"EventList\",\"apiVersion\":\"audit.k8s.io/v1\",\"metadata\":{},\"items\":[");
    for (index, event) in events.iter().enumerate() {
        if index > 0 {
            list.push(b',');
        }
        list.extend_from_slice(event);
    }
    list.extend_from_slice(b"]}");
    list.into()
}

impl ApiServer {
    /// Delivers audit events to the webhook, if there is one, until `stop`.
    pub(crate) async fn deliver_audit(&self, stop: &CancellationToken) {
        match self.auditor.as_ref().and_then(|auditor| auditor.mailbox.as_ref()) {
            Some(mailbox) => mailbox.run(&self.outbound, stop).await,
            None => stop.cancelled().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn kubeconfig(cluster: Value, user: Value) -> Value {
        json!({"current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
            "clusters": [{"name": "k", "cluster": cluster}], "users": [{"name": "u", "user": user}]})
    }

    #[test]
    fn a_kubeconfig_names_server_trust_and_credentials() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), "PEM").unwrap();
        let cluster = json!({"server": "https://audit.example/k8s", "certificate-authority": "ca.pem"});
        let user = json!({"token": "t0k", "client-certificate-data": "Yw==", "client-key-data": "aw=="});
        let webhook = Webhook::decode(&kubeconfig(cluster, user), folder.path()).unwrap();
        assert_eq!(webhook.client.url(), "https://audit.example/k8s");
        assert_eq!(webhook.client.trust, Trust::Bundle(b"PEM".as_slice().into()));
        assert_eq!(&*webhook.client.identity.unwrap().key_pem, "k");
        assert_eq!(webhook.authorization.unwrap(), "Bearer t0k");
    }

    #[test]
    fn unusable_files_say_why() {
        let refused = |document: Value| Webhook::decode(&document, Path::new("/nowhere")).unwrap_err();
        assert_eq!(refused(json!({})), "no context \"\"");
        assert!(refused(kubeconfig(json!({"server": "http://x"}), json!({}))).contains("no https:// URL"));
        let insecure = json!({"server": "https://x", "insecure-skip-tls-verify": true});
        assert!(refused(kubeconfig(insecure, json!({}))).contains("insecure-skip-tls-verify"));
        let half = kubeconfig(json!({"server": "https://x"}), json!({"client-key-data": "aw=="}));
        assert_eq!(refused(half), "client-certificate and client-key go together");
        assert!(
            Webhook::read(Path::new("/nowhere/at/all")).unwrap_err().to_string().starts_with("audit webhook /nowhere")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn events_gather_into_batches_and_a_full_mailbox_drops() {
        let metrics = Arc::<AuditMetrics>::default();
        let cluster = json!({"server": "https://audit.example"});
        let webhook = Webhook::decode(&kubeconfig(cluster, json!({})), Path::new("/")).unwrap();
        let mailbox = Mailbox::new(webhook, metrics.clone());
        mailbox.put(b"{\"a\":1}\n{\"a\":2}\n");
        let mut events = mailbox.receiver.lock().take().unwrap();
        let batch = next_batch(&mut events).await;
        let list: Value = serde_json::from_slice(&event_list(&batch)).unwrap();
        assert_eq!((&list["kind"], &list["items"]), (&json!("EventList"), &json!([{"a": 1}, {"a": 2}])));
        mailbox.put("{}\n".repeat(EVENTS_MAX + 3).as_bytes());
        assert_eq!(next_batch(&mut events).await.len(), BATCH_EVENTS_MAX);
        let mut text = String::new();
        metrics.render(&mut text);
        assert!(text.contains("apiserver_audit_error_total{plugin=\"webhook\"} 3\n"), "{text}");
    }
}
