//! The kubelet's HTTP service: logs, exec, attach, port-forward, and what describes the node.

pub(crate) mod portforward;
pub(crate) mod remote;
pub(crate) mod response;
pub(crate) mod spdy;
pub(crate) mod upgrade;
pub(crate) mod websocket;

mod query;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::{body::Frame, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use parking_lot::RwLock;
use runtime::{
    Runtime,
    api::{AttachRequest, ContainerId, ContainerState, ContainerStatus, ExecRequest, SandboxId},
};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::logs::{Liveness, LogReader};
use query::Query;
use upgrade::{Offer, Transport, negotiate};

/// Bodies of requests and answers.
pub type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// Where the streams of a pod's containers are.
#[derive(Clone, Debug, Default)]
pub(crate) struct PodRecord {
    pub(crate) uid: String,
    pub(crate) sandbox: Option<SandboxId>,
    pub(crate) containers: BTreeMap<String, ContainerRecord>,
}

/// The containers that were made under one name.
#[derive(Clone, Debug, Default)]
pub(crate) struct ContainerRecord {
    pub(crate) current: Option<ContainerId>,
    pub(crate) previous: Option<ContainerId>,
    /// Why there is no container yet.
    pub(crate) waiting: String,
}

/// How long a request waits for its pod to be known: after a start the API has the node's pods before the node has read
/// them, and a pod is bound before its worker runs.
const APPEAR_TIMEOUT: Duration = Duration::from_secs(2);

/// What runs on this node, by namespace and name; pod workers keep it.
#[derive(Default)]
pub(crate) struct PodTable {
    records: RwLock<BTreeMap<(String, String), PodRecord>>,
    added: watch::Sender<()>,
}

impl PodTable {
    pub(crate) fn set(&self, namespace: &str, name: &str, record: PodRecord) {
        let before = self.records.write().insert((namespace.to_owned(), name.to_owned()), record);
        if before.is_none() {
            self.added.send_replace(());
        }
    }

    /// Waits until the pod is known, but not for ever: whether it is, the caller sees when it looks.
    async fn appear(&self, namespace: &str, name: &str) {
        let mut added = self.added.subscribe();
        let known = added.wait_for(|()| self.get(namespace, name).is_some());
        // Neither outcome of the wait changes what the look-up then finds.
        let _ = tokio::time::timeout(APPEAR_TIMEOUT, known).await;
    }

    /// Forgets a pod unless another one has taken its name.
    pub(crate) fn remove(&self, namespace: &str, name: &str, uid: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        let mut table = self.records.write();
        if table.get(&key).is_some_and(|record| record.uid == uid) {
            table.remove(&key);
        }
    }

    fn get(&self, namespace: &str, name: &str) -> Option<PodRecord> {
        self.records.read().get(&(namespace.to_owned(), name.to_owned())).cloned()
    }
}

/// Answers the kubelet's paths; cheap to clone.
#[derive(Clone)]
pub struct NodeServer {
    runtime: Arc<Runtime>,
    pods: Arc<PodTable>,
    sessions: TaskTracker,
    stop: CancellationToken,
}

/// A request that cannot be answered as asked.
struct Refusal(StatusCode, String);

impl Refusal {
    fn not_found(message: String) -> Self {
        Self(StatusCode::NOT_FOUND, message)
    }

    fn bad_request(message: String) -> Self {
        Self(StatusCode::BAD_REQUEST, message)
    }
}

impl NodeServer {
    pub(crate) fn new(runtime: Arc<Runtime>, pods: Arc<PodTable>, stop: CancellationToken) -> Self {
        Self { runtime, pods, sessions: TaskTracker::new(), stop }
    }

    /// Waits for the sessions to end after the stop signal.
    pub(crate) async fn drain(&self) {
        self.sessions.close();
        self.sessions.wait().await;
    }

    /// Answers one request.
    pub async fn call(&self, request: Request<Body>) -> Response<Body> {
        self.route(request).await.unwrap_or_else(|Refusal(status, message)| response::failure(status, &message))
    }

    async fn route(&self, request: Request<Body>) -> Result<Response<Body>, Refusal> {
        let path = request.uri().path().to_owned();
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
        if let ["containerLogs" | "exec" | "attach" | "portForward", namespace, pod, ..] = segments.as_slice() {
            self.pods.appear(namespace, pod).await;
        }
        match segments.as_slice() {
            ["healthz"] => Ok(response::text(StatusCode::OK, "ok".to_owned())),
            ["stats", "summary"] => Ok(response::json(&self.summary())),
            ["containerLogs", namespace, pod, container] => self.logs(namespace, pod, container, &query).await,
            ["exec", namespace, pod, container] | ["exec", namespace, pod, _, container] => {
                self.exec(request, namespace, pod, container, &query)
            }
            ["attach", namespace, pod, container] | ["attach", namespace, pod, _, container] => {
                self.attach(request, namespace, pod, container, &query)
            }
            ["portForward", namespace, pod] | ["portForward", namespace, pod, _] => {
                self.port_forward(request, namespace, pod, &query)
            }
            _ => Err(Refusal::not_found(format!("path {path:?} not found"))),
        }
    }

    fn pod(&self, namespace: &str, pod: &str) -> Result<PodRecord, Refusal> {
        self.pods
            .get(namespace, pod)
            .ok_or_else(|| Refusal::not_found(format!("pod \"{pod}_{namespace}\" does not exist")))
    }

    fn container(&self, namespace: &str, pod: &str, container: &str) -> Result<ContainerRecord, Refusal> {
        self.pod(namespace, pod)?.containers.remove(container).ok_or_else(|| {
            Refusal::not_found(format!("container {container:?} not found in pod \"{pod}_{namespace}\""))
        })
    }

    fn running(&self, namespace: &str, pod: &str, container: &str) -> Result<ContainerStatus, Refusal> {
        let record = self.container(namespace, pod, container)?;
        record
            .current
            .and_then(|id| self.runtime.container(&id))
            .filter(|status| matches!(status.state, ContainerState::Running { .. }))
            .ok_or_else(|| Refusal::not_found(format!("container not found ({container:?})")))
    }

    async fn logs(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        query: &Query,
    ) -> Result<Response<Body>, Refusal> {
        let options = query.log_options(jiff::Timestamp::now()).map_err(Refusal::bad_request)?;
        let record = self.container(namespace, pod, container)?;
        let id = if query.flag("previous") {
            record.previous.ok_or_else(|| {
                Refusal::bad_request(format!("previous terminated container {container:?} in pod {pod:?} not found"))
            })?
        } else {
            record.current.or(record.previous).ok_or_else(|| {
                let reason = record.waiting;
                Refusal::bad_request(format!("container {container:?} in pod {pod:?} is waiting to start: {reason}"))
            })?
        };
        let status = self
            .runtime
            .container(&id)
            .ok_or_else(|| Refusal::not_found(format!("unable to retrieve container logs for keelson://{id}")))?;
        let runtime = self.runtime.clone();
        let liveness = Liveness {
            events: self.runtime.events(),
            running: Box::new(move || {
                runtime.container(&id).is_some_and(|status| {
                    matches!(status.state, ContainerState::Running { .. } | ContainerState::Created)
                })
            }),
        };
        let reader = LogReader::open(&status.log_path, options, liveness).await.map_err(|error| {
            Refusal(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("failed to open log of container {container:?}: {error}"),
            )
        })?;
        let stop = self.stop.clone();
        let chunks = futures::stream::unfold((reader, stop), |(mut reader, stop)| async move {
            let chunk = stop.run_until_cancelled(reader.next_chunk()).await??;
            Some((chunk.map(Frame::data).map_err(Into::into), (reader, stop)))
        });
        let mut answer = Response::new(StreamBody::new(chunks).boxed_unsync());
        answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        Ok(answer)
    }

    fn exec(
        &self,
        request: Request<Body>,
        namespace: &str,
        pod: &str,
        container: &str,
        query: &Query,
    ) -> Result<Response<Body>, Refusal> {
        let status = self.running(namespace, pod, container)?;
        let command = query.all("command");
        if command.is_empty() {
            return Err(Refusal::bad_request("you must specify a command for the exec".to_owned()));
        }
        let wanted = query.wanted().map_err(Refusal::bad_request)?;
        let runtime = self.runtime.clone();
        self.upgrade(request, &remote::OFFER, move |io, transport| async move {
            let exec = ExecRequest { command, tty: wanted.tty, stdin: wanted.stdin, env: Vec::new() };
            remote::serve(io, transport, wanted, runtime.exec(&status.id, exec)).await;
        })
    }

    fn attach(
        &self,
        request: Request<Body>,
        namespace: &str,
        pod: &str,
        container: &str,
        query: &Query,
    ) -> Result<Response<Body>, Refusal> {
        let status = self.running(namespace, pod, container)?;
        let mut wanted = query.wanted().map_err(Refusal::bad_request)?;
        // The container decides whether it has a terminal and an input; a client cannot add them later.
        wanted.tty &= status.config.tty;
        let once = status.config.stdin_once && !status.config.tty;
        wanted.ends_with_input = wanted.stdin && status.config.stdin && !once;
        let runtime = self.runtime.clone();
        self.upgrade(request, &remote::OFFER, move |io, transport| async move {
            let attach = AttachRequest {
                stdin: wanted.stdin && status.config.stdin,
                stdout: wanted.stdout,
                stderr: wanted.stderr && !wanted.tty,
            };
            remote::serve(io, transport, wanted, runtime.attach(&status.id, attach)).await;
        })
    }

    fn port_forward(
        &self,
        request: Request<Body>,
        namespace: &str,
        pod: &str,
        query: &Query,
    ) -> Result<Response<Body>, Refusal> {
        let sandbox = self
            .pod(namespace, pod)?
            .sandbox
            .ok_or_else(|| Refusal::not_found(format!("pod not found (\"{pod}_{namespace}\")")))?;
        let ports = query.ports().map_err(Refusal::bad_request)?;
        let runtime = self.runtime.clone();
        let dial: portforward::Dial = Arc::new(move |port| {
            let (runtime, sandbox) = (runtime.clone(), sandbox.clone());
            async move { runtime.dial(&sandbox, port).await }.boxed()
        });
        self.upgrade(request, &portforward::OFFER, move |io, transport| portforward::serve(io, transport, ports, dial))
    }

    /// Answers 101 and serves the upgraded connection in a task of this server.
    fn upgrade<F, S>(&self, mut request: Request<Body>, offer: &Offer, serve: S) -> Result<Response<Body>, Refusal>
    where
        S: FnOnce(TokioIo<hyper::upgrade::Upgraded>, Transport) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let (transport, answer) = match negotiate(request.headers(), offer) {
            Ok(agreed) => agreed,
            Err(error) => return Ok(error.response()),
        };
        let Some(upgraded) = request.extensions_mut().remove::<OnUpgrade>() else {
            return Err(Refusal::bad_request("unable to upgrade: the connection does not allow it".to_owned()));
        };
        let stop = self.stop.clone();
        self.sessions.spawn(async move {
            let session = async {
                match upgraded.await {
                    Ok(upgraded) => serve(TokioIo::new(upgraded), transport).await,
                    Err(error) => tracing::debug!(%error, "connection was not upgraded"),
                }
            };
            stop.run_until_cancelled(session).await;
        });
        Ok(answer)
    }

    /// CPU and memory of every running container (a subset of upstream's summary).
    fn summary(&self) -> serde_json::Value {
        let mut pods = Vec::new();
        for ((namespace, name), record) in self.pods.records.read().iter() {
            let mut containers = Vec::new();
            for (container, slots) in &record.containers {
                let Some(stats) = slots.current.as_ref().and_then(|id| self.runtime.container_stats(id).ok()) else {
                    continue;
                };
                containers.push(serde_json::json!({
                    "name": container,
                    "cpu": {"usageCoreNanoSeconds": stats.cpu_usage_ns},
                    "memory": {"workingSetBytes": stats.memory_working_set_bytes},
                }));
            }
            pods.push(serde_json::json!({
                "podRef": {"name": name, "namespace": namespace, "uid": record.uid},
                "containers": containers,
            }));
        }
        serde_json::json!({ "pods": pods })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_for_a_pod_that_is_about_to_be_known() {
        let table = Arc::new(PodTable::default());
        let adding = async {
            tokio::time::sleep(APPEAR_TIMEOUT / 2).await;
            table.set("default", "other", PodRecord::default());
            table.set("default", "web", PodRecord::default());
        };
        tokio::join!(table.appear("default", "web"), adding);
        assert!(table.get("default", "web").is_some());
        table.appear("default", "ghost").await;
        assert!(table.get("default", "ghost").is_none(), "and gives up on one that never comes");
    }
}
