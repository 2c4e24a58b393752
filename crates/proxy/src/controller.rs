//! The control side of the gateway: watches Gateway API and Ingress objects, installs tables, writes status.
//!
//! One reconcile compiles everything that concerns routing and compares every status with what is there; changes that
//! come in meanwhile are merged into the next. Endpoints change far more often than routes and take a shorter way: a
//! change of an EndpointSlice only refills the backends of its Service.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Debug,
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        core::v1::{Namespace, Secret, Service},
        networking::v1::{Ingress, IngressClass},
    },
};
use kinds::gateway::{Gateway, GatewayClass, HTTPRoute, ReferenceGrant};
use kube::{
    Api, Resource,
    api::{Patch, PatchParams},
};
use parking_lot::Mutex;
use reconcile::{EventType, Informer, Informers, Queue, Recorder, run_controller};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use self::{
    compile::{Plan, compile},
    endpoints::{Endpoints, service_of},
    world::{Lookup, World},
};
use crate::{
    routing::{Backend, Certificate},
    server::{Bindings, Server, certificate},
};

mod compile;
mod endpoints;
mod gateways;
mod ingresses;
mod routes;
mod rules;
mod status;
#[cfg(test)]
mod tests;
mod verdict;
mod world;

/// Changes within this time become one table: `kubectl apply` of a manifest sends one object after the other.
const DEBOUNCE: Duration = Duration::from_millis(10);

/// How long opening ports may take before status says that it is pending. Binding is immediate unless the machine
/// is overloaded.
const BIND_WAIT: Duration = Duration::from_secs(1);

/// Keeps tables and status in line with the cluster.
pub(crate) struct Controller {
    server: Server,
    view: View,
    classes: Informer<GatewayClass>,
    gateways: Informer<Gateway>,
    routes: Informer<HTTPRoute>,
    grants: Informer<ReferenceGrant>,
    ingresses: Informer<Ingress>,
    ingress_classes: Informer<IngressClass>,
    client: kube::Client,
    recorder: Recorder,
}

impl Controller {
    pub(crate) fn new(informers: &Informers, server: Server) -> Arc<Self> {
        Arc::new(Controller {
            server,
            view: View {
                endpoints: Endpoints::new(informers),
                secrets: informers.of(),
                namespaces: informers.of(),
                certificates: Mutex::default(),
            },
            classes: informers.of(),
            gateways: informers.of(),
            routes: informers.of(),
            grants: informers.of(),
            ingresses: informers.of(),
            ingress_classes: informers.of(),
            client: informers.client().clone(),
            recorder: Recorder::new(informers.client().clone(), "gateway-controller"),
        })
    }

    /// Runs until `stop`.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let queue = Queue::new();
        let watching = Arc::clone(&self);
        let work = run_controller("gateway", queue.clone(), 1, stop.clone(), move |()| {
            let controller = Arc::clone(&watching);
            async move { controller.reconcile().await.map(|()| None) }
        });
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.watch(&queue) => stop.cancelled().await,
            () = async {
                // A table out of half of the objects would refuse requests that the other half serves.
                self.synced().await;
                work.await;
            } => {}
        }
    }

    async fn synced(&self) {
        self.classes.synced().await;
        self.gateways.synced().await;
        self.routes.synced().await;
        self.grants.synced().await;
        self.ingresses.synced().await;
        self.ingress_classes.synced().await;
        self.view.secrets.synced().await;
        self.view.namespaces.synced().await;
        self.view.endpoints.services().synced().await;
        self.view.endpoints.slices().synced().await;
    }

    /// Turns changes into work, until the informers stop.
    async fn watch(&self, queue: &Queue<()>) {
        let slices = async {
            let mut changes = self.view.endpoints.slices().subscribe();
            while let Some(change) = changes.next().await {
                if let Some(service) = service_of(change.object()) {
                    self.view.endpoints.refresh(&service);
                }
            }
        };
        let services = async {
            let mut changes = self.view.endpoints.services().subscribe();
            while let Some(change) = changes.next().await {
                self.view.endpoints.refresh(&world::full_name(&change.object().metadata));
                queue.add_after((), DEBOUNCE);
            }
        };
        let bindings = async {
            let mut bindings = self.server.bindings();
            while bindings.changed().await.is_ok() {
                queue.add_after((), DEBOUNCE);
            }
        };
        tokio::join!(
            slices,
            services,
            bindings,
            requeue(&self.classes, queue),
            requeue(&self.gateways, queue),
            requeue(&self.routes, queue),
            requeue(&self.grants, queue),
            requeue(&self.ingresses, queue),
            requeue(&self.ingress_classes, queue),
            requeue(&self.view.secrets, queue),
            requeue(&self.view.namespaces, queue),
        );
    }

    async fn reconcile(&self) -> Result<(), kube::Error> {
        let world = World {
            classes: self.classes.list(),
            gateways: self.gateways.list(),
            routes: self.routes.list(),
            grants: self.grants.list(),
            ingresses: self.ingresses.list(),
            ingress_classes: self.ingress_classes.list(),
        };
        let Plan { table, classes, gateways, routes, ingresses } = compile(world, &self.view);
        let ports: Vec<u16> = table.ports().map(|(port, _)| port).collect();
        self.server.install(table);
        self.view.endpoints.prune();
        self.view.certificates.lock().retain(|(namespace, name), _| self.view.secrets.get(namespace, name).is_some());
        let bindings = self.bindings(&ports).await;
        let now = Timestamp::now();
        // Every status gets its turn, whatever became of the one before; a failure repeats the whole, which is cheap
        // because only what differs is written.
        let mut outcome = Ok(());
        for (class, verdict) in &classes {
            outcome = outcome
                .and(self.write_cluster(&**class, class.status.as_ref(), &status::class(class, verdict, now)).await);
        }
        for plan in &gateways {
            let (status, warnings) = status::gateway(plan, &bindings, now);
            let written = self.write(&*plan.gateway, plan.gateway.status.as_ref(), &status).await;
            if let Ok(true) = written {
                for warning in warnings {
                    self.recorder.about(&*plan.gateway, EventType::Warning, "PortUnavailable", warning);
                }
            }
            outcome = outcome.and(written.map(|_| ()));
        }
        for report in &routes {
            let status = status::route(report, now);
            // A route that is nobody's business of ours gets no status at all.
            if report.route.status.is_none() && status.parents.is_empty() {
                continue;
            }
            let written = self.write(&*report.route, report.route.status.as_ref(), &status).await;
            outcome = outcome.and(written.map(|_| ()));
        }
        for ingress in &ingresses {
            let status = status::ingress(ingress, &bindings);
            let written = self.write(&**ingress, ingress.status.as_ref(), &status).await;
            outcome = outcome.and(written.map(|_| ()));
        }
        outcome
    }

    /// What became of the ports, once the server has tried each.
    async fn bindings(&self, ports: &[u16]) -> Bindings {
        let mut bindings = self.server.bindings();
        let tried = bindings.wait_for(|b| ports.iter().all(|port| b.keys().any(|(_, p)| p == port)));
        let waited = tokio::time::timeout(BIND_WAIT, tried).await;
        match waited {
            Ok(Ok(bindings)) => bindings.clone(),
            Ok(Err(_)) | Err(_) => self.server.bindings().borrow().clone(),
        }
    }

    /// Writes a status that differs from the one that is there; says whether it did.
    async fn write<K, S>(&self, object: &K, known: Option<&S>, status: &S) -> Result<bool, kube::Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
        S: PartialEq + Serialize,
    {
        if known == Some(status) {
            return Ok(false);
        }
        let namespace = object.meta().namespace.as_deref().unwrap_or_default();
        patch(&Api::namespaced(self.client.clone(), namespace), object, status).await.map(|()| true)
    }

    async fn write_cluster<K, S>(&self, object: &K, known: Option<&S>, status: &S) -> Result<(), kube::Error>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
        S: PartialEq + Serialize,
    {
        if known == Some(status) {
            return Ok(());
        }
        patch(&Api::all(self.client.clone()), object, status).await
    }
}

/// Replaces a status, but only that of the revision it was made from: others write to the same lists.
async fn patch<K, S>(api: &Api<K>, object: &K, status: &S) -> Result<(), kube::Error>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    S: Serialize,
{
    let meta = object.meta();
    let body = json!({"metadata": {"resourceVersion": meta.resource_version}, "status": status});
    let name = meta.name.as_deref().unwrap_or_default();
    match api.patch_status(name, &PatchParams::default(), &Patch::Merge(&body)).await {
        // Deleted meanwhile: its status is of no interest any more.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        result => result.map(|_| ()),
    }
}

async fn requeue<K: reconcile::Object>(informer: &Informer<K>, queue: &Queue<()>) {
    let mut changes = informer.subscribe();
    while changes.next().await.is_some() {
        queue.add_after((), DEBOUNCE);
    }
}

/// A parsed Secret: its resource version and the outcome.
type Parsed = (Option<String>, Result<Certificate, String>);

/// The informers as the compiler's [`Lookup`].
struct View {
    endpoints: Endpoints,
    secrets: Informer<Secret>,
    namespaces: Informer<Namespace>,
    /// Parsed certificates by Secret and its resource version: parsing a key costs more than the rest of a compilation.
    certificates: Mutex<HashMap<(String, String), Parsed>>,
}

impl Lookup for View {
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
        self.endpoints.services().get(namespace, name)
    }

    fn certificate(&self, namespace: &str, name: &str) -> Result<Certificate, String> {
        let secret = self.secrets.get(namespace, name).ok_or("not found")?;
        let version = secret.metadata.resource_version.clone();
        let key = (namespace.to_owned(), name.to_owned());
        if let Some((known, certificate)) = self.certificates.lock().get(&key)
            && *known == version
        {
            return certificate.clone();
        }
        let parsed = parse(&secret);
        self.certificates.lock().insert(key, (version, parsed.clone()));
        parsed
    }

    fn namespace_labels(&self, name: &str) -> BTreeMap<String, String> {
        let namespace = self.namespaces.get("", name);
        namespace.and_then(|n| n.metadata.labels.clone()).unwrap_or_default()
    }

    fn backend(&self, namespace: &str, service: &str, port: i32) -> Arc<Backend> {
        self.endpoints.backend(namespace, service, port)
    }
}

fn parse(secret: &Secret) -> Result<Certificate, String> {
    let data = |key: &str| {
        let value = secret.data.as_ref().and_then(|data| data.get(key));
        value.map(|bytes| bytes.0.as_slice()).ok_or_else(|| format!("has no {key}"))
    };
    certificate(data("tls.crt")?, data("tls.key")?).map_err(|error| error.to_string())
}
