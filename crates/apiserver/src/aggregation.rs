//! Aggregated API servers: group-versions that another server answers, and the APIServices that say so.
//!
//! An APIService with a Service hands a whole group-version to the server behind it: requests are authenticated and
//! authorised here, then carried there with the user in headers and a client certificate that vouches for them
//! ([`carry`]). APIServices without one stand for what this server answers itself; they are kept complete ([`local`]).
//! [`ApiServer::aggregate`] asks every server behind an APIService whether it answers, writes that into the condition
//! `Available`, and keeps what its discovery and OpenAPI documents say, so that ours can tell of them ([`merge`]).
//!
//! The index is fed by commits. Where nothing is aggregated, a request pays one load of a pointer.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

mod carry;
mod check;
mod local;
mod merge;
#[cfg(test)]
mod tests;

use crate::{
    outbound::{ClientConfig, Identity, Target, Trust},
    path::Route,
    server::ApiServer,
};
pub(crate) use carry::carry;
pub(crate) use merge::{aggregated, classic, open_api_v2, open_api_v3};

/// Collection of APIServices.
pub(crate) const COLLECTION: &str = "apiregistration.k8s.io/apiservices";
const SLICES: &str = "discovery.k8s.io/endpointslices";
/// How often servers that answered are asked again, as upstream.
const CHECK_PERIOD: Duration = Duration::from_secs(30);
/// How often servers that did not are.
const RETRY_PERIOD: Duration = Duration::from_secs(2);

/// A group-version that another server answers.
#[derive(Debug)]
pub(crate) struct Remote {
    /// Name of the APIService.
    pub(crate) name: String,
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) namespace: String,
    pub(crate) service: String,
    pub(crate) port: u16,
    pub(crate) group_priority: i64,
    pub(crate) version_priority: i64,
    /// Whether the condition `Available` is true.
    pub(crate) available: bool,
    /// How to reach it, without our certificate.
    client: Result<ClientConfig, String>,
    /// What it said of itself when it was asked last.
    pub(crate) discovered: Arc<ArcSwapOption<Discovered>>,
}

/// What a server said of its group-version.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Discovered {
    /// Resources as aggregated discovery lists them.
    pub(crate) resources: Value,
    /// Its OpenAPI v2 document.
    pub(crate) open_api_v2: Option<Value>,
    /// Address of its OpenAPI v3 document of the group-version.
    pub(crate) open_api_v3: Option<String>,
}

impl Remote {
    /// Reads an APIService; `None` when it is about what this server answers itself.
    fn decode(object: &Value) -> Option<Self> {
        let spec = &object["spec"];
        let service = spec.get("service").filter(|service| service.is_object())?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let port = service["port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or(443);
        let (namespace, name) = (text(&service["namespace"]), text(&service["name"]));
        let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
        let mut available = conditions.filter(|condition| condition["type"] == "Available");
        let config = serde_json::json!({"service": service, "caBundle": spec["caBundle"]});
        let client = ClientConfig::decode(&config).map_err(|error| error.to_string()).map(|mut client| {
            if spec["insecureSkipTLSVerify"] == true {
                client.trust = Trust::Insecure;
            }
            client.target =
                Target::Service { namespace: namespace.clone(), name: name.clone(), port, path: String::new() };
            client
        });
        Some(Self {
            name: text(&object["metadata"]["name"]),
            group: text(&spec["group"]),
            version: text(&spec["version"]),
            namespace,
            service: name,
            port,
            group_priority: spec["groupPriorityMinimum"].as_i64().unwrap_or(0),
            version_priority: spec["versionPriority"].as_i64().unwrap_or(0),
            available: available.any(|condition| condition["status"] == "True"),
            client,
            discovered: Arc::default(),
        })
    }

    /// Path below which it answers.
    fn path(&self) -> String {
        match self.group.as_str() {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        }
    }
}

/// The index.
#[derive(Default)]
pub(crate) struct Aggregation {
    kept: Mutex<BTreeMap<String, Arc<Remote>>>,
    remotes: ArcSwap<Vec<Arc<Remote>>>,
    identity: ArcSwapOption<Identity>,
    changed: Notify,
    generation: AtomicU64,
}

impl Aggregation {
    /// Takes over what a commit changed; other collections than those that matter are ignored.
    pub(crate) fn apply(&self, collection: &str, path: &str, read: impl FnOnce() -> Option<Value>) {
        match collection {
            COLLECTION => {
                // reading and applying are one step, so that of two concurrent changes the later state wins
                let mut kept = self.kept.lock();
                self.put(&mut kept, path, read().as_ref());
                self.publish(&kept);
                self.changed.notify_one();
            }
            crate::crd::COLLECTION => self.changed.notify_one(),
            crate::server::SERVICES | SLICES => {
                let (namespace, _) = path.split_once('/').unwrap_or_default();
                if self.remotes.load().iter().any(|remote| remote.namespace == namespace) {
                    self.changed.notify_one();
                }
            }
            _ => {}
        }
    }

    /// Takes over all stored APIServices.
    pub(crate) fn load(&self, services: impl Iterator<Item = (String, Value)>) {
        let mut kept = self.kept.lock();
        let before = std::mem::take(&mut *kept);
        for (name, service) in services {
            if let Some(known) = before.get(&name) {
                kept.insert(name.clone(), known.clone());
            }
            self.put(&mut kept, &name, Some(&service));
        }
        self.publish(&kept);
        self.changed.notify_one();
    }

    fn put(&self, kept: &mut BTreeMap<String, Arc<Remote>>, name: &str, service: Option<&Value>) {
        let Some(mut remote) = service.and_then(Remote::decode) else {
            kept.remove(name);
            return;
        };
        // what was found out about the same server stays known over a change of its status
        if let Some(known) = kept.get(name).filter(|known| known.client == remote.client) {
            remote.discovered = known.discovered.clone();
        }
        kept.insert(name.to_owned(), Arc::new(remote));
    }

    fn publish(&self, kept: &BTreeMap<String, Arc<Remote>>) {
        self.remotes.store(Arc::new(kept.values().cloned().collect()));
        self.generation.fetch_add(1, Ordering::Relaxed);
    }

    /// Everything aggregated.
    pub(crate) fn remotes(&self) -> Arc<Vec<Arc<Remote>>> {
        self.remotes.load_full()
    }

    /// Counts up whenever documents made of [`Aggregation::remotes`] are outdated.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// The server that answers a request, `None` where it is this one.
    pub(crate) fn find(&self, route: &Route<'_>) -> Option<Arc<Remote>> {
        let remotes = self.remotes.load();
        if remotes.is_empty() {
            return None;
        }
        let (group, version) = match route {
            Route::Resource(path) => (path.group, path.version),
            Route::Resources { group, version } => (*group, *version),
            Route::Other(path) => path.strip_prefix("/openapi/v3/apis/")?.split_once('/')?,
            Route::CoreVersions | Route::Groups | Route::Group(_) => return None,
        };
        remotes.iter().find(|remote| remote.group == group && remote.version == version).cloned()
    }

    fn client(&self, remote: &Remote) -> Result<ClientConfig, String> {
        let client = remote.client.clone()?;
        Ok(ClientConfig { identity: self.identity.load_full().map(|identity| (*identity).clone()), ..client })
    }
}

impl ApiServer {
    /// The certificate with which aggregated servers recognise this one, in PEM. May be set anew when it is renewed.
    pub fn set_front_proxy(&self, certificate_pem: &str, key_pem: &str) {
        let identity = Identity { certificate_pem: certificate_pem.into(), key_pem: key_pem.into() };
        self.aggregation.identity.store(Some(Arc::new(identity)));
    }

    /// Keeps APIServices true until `stop`: those of this server complete, those of others checked.
    pub async fn aggregate(self: Arc<Self>, stop: CancellationToken) {
        loop {
            if let Err(error) = self.complete_local_api_services().await {
                tracing::warn!(%error, "APIServices are not complete");
            }
            let all_answer = check::all(&self).await;
            let pause = if all_answer { CHECK_PERIOD } else { RETRY_PERIOD };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.aggregation.changed.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}
