//! The control side of the gateway: watches Gateway API and Ingress objects, installs tables, writes status.
//!
//! A change of an object compiles that object and what depends on it, changes the table in those places, and installs it:
//! what it costs does not depend on how much else there is. Status follows in its own time. Endpoints change far more
//! often than routes and take a shorter way: a change of an EndpointSlice only refills the backends of its Service.

use std::{collections::HashMap, fmt::Debug, path::PathBuf, sync::Arc, time::Duration};

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        core::v1::{ConfigMap, Secret, Service},
        discovery::v1::EndpointSlice,
        networking::v1::Ingress,
    },
};
use kinds::gateway::Gateway;
use kube::{
    Api, Resource,
    api::{Patch, PatchParams},
};
use parking_lot::Mutex;
use reconcile::{Change, EventType, Informer, Informers, Key, Object, Queue, Recorder, run_controller};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use self::{
    addresses::Addresses,
    core::Core,
    infrastructure::Made,
    ingresses::Report,
    item::{Dependency, Item, RouteKind},
    lookup::{Lookup as _, Route},
    view::{View, gateway_of, release_of},
};
use crate::server::Server;

mod addresses;
mod attach;
mod attachment;
mod backends;
mod bodies;
mod compiled;
mod core;
mod declared;
mod duration;
mod endpoints;
mod extensions;
mod features;
mod filters;
mod forwarding;
mod grpc;
mod http;
mod infrastructure;
mod ingresses;
mod istio;
mod item;
mod listeners;
pub(crate) mod lookup;
mod policies;
mod requests;
mod rivals;
mod services;
mod sites;
mod status;
mod stream;
mod tell;
mod termination;
#[cfg(test)]
mod tests;
mod verdict;
mod versions;
mod view;

pub use addresses::Pool;
pub(crate) use endpoints::{Endpoints, service_of};
pub use ingresses::translate::{Translation, translate};

/// Who serves a GatewayClass of ours.
pub(crate) const CONTROLLER_NAME: &str = "keelson.dev/gateway";

/// Who serves the routes of Services.
pub(crate) const MESH_CONTROLLER_NAME: &str = "keelson.dev/mesh";

/// Whose fields those of objects made for Gateways are.
const FIELD_MANAGER: &str = "keelson-gateway";

/// A status is written this long after the first change of it: a manifest with many routes changes that of their Gateway
/// once per route.
const STATUS_PAUSE: Duration = Duration::from_millis(20);

/// Statuses that are written at once: each waits for an answer of the API server.
const STATUS_WRITERS: usize = 8;

/// Keeps tables and status in line with the cluster.
pub(crate) struct Controller {
    server: Server,
    view: View,
    core: Mutex<Core>,
    work: Queue<Work>,
    told: Queue<Item>,
    /// What was made for each Gateway, as far as this process knows.
    made: Mutex<HashMap<Key, Made>>,
    /// What was told about each Ingress, so that it is told once.
    reported: Mutex<HashMap<Key, Vec<Report>>>,
    client: kube::Client,
    recorder: Recorder,
}

/// What has to be done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Work {
    /// Compile an item.
    Item(Item),
    /// Compile what was compiled from something.
    Changed(Dependency),
}

impl Controller {
    pub(crate) fn new(informers: &Informers, server: Server, pool: Option<Pool>, answers: PathBuf) -> Arc<Self> {
        let addresses = Addresses::new(server.addresses().to_vec(), pool);
        Arc::new(Controller {
            server,
            view: View::new(informers, answers),
            core: Mutex::new(Core::new(addresses)),
            work: Queue::new(),
            told: Queue::new(),
            made: Mutex::default(),
            reported: Mutex::default(),
            client: informers.client().clone(),
            recorder: Recorder::new(informers.client().clone(), "gateway-controller"),
        })
    }

    /// Runs until `stop`.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let (working, telling) = (Arc::clone(&self), Arc::clone(&self));
        let work = run_controller("gateway", self.work.clone(), 1, stop.clone(), move |work| {
            let controller = Arc::clone(&working);
            async move {
                controller.compile(&work);
                Ok::<_, kube::Error>(None)
            }
        });
        let tell = run_controller("gateway-status", self.told.clone(), STATUS_WRITERS, stop.clone(), move |item| {
            let controller = Arc::clone(&telling);
            async move { controller.tell(&item).await.map(|()| None) }
        });
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.watch() => stop.cancelled().await,
            () = async {
                // A table out of half of the objects would refuse requests that the other half serves.
                self.view.synced().await;
                self.start();
                tokio::join!(work, tell, self.view.declarations.resolved.run());
            } => {}
        }
    }

    /// Compiles everything that is there.
    fn start(&self) {
        let mut items = Vec::new();
        items.extend(self.view.classes.list().iter().map(|o| Item::Class(Key::of(&**o).name)));
        items.extend(self.view.gateways.list().iter().map(|o| Item::Gateway(Key::of(&**o))));
        items.extend(self.view.http.list().iter().map(|o| Item::Route(RouteKind::Http, Key::of(&**o))));
        items.extend(self.view.grpc.list().iter().map(|o| Item::Route(RouteKind::Grpc, Key::of(&**o))));
        items.extend(self.view.tls.list().iter().map(|o| Item::Route(RouteKind::Tls, Key::of(&**o))));
        items.extend(self.view.tcp.list().iter().map(|o| Item::Route(RouteKind::Tcp, Key::of(&**o))));
        items.extend(self.view.udp.list().iter().map(|o| Item::Route(RouteKind::Udp, Key::of(&**o))));
        items.extend(self.view.policies.list().iter().map(|o| Item::Policy(Key::of(&**o))));
        items.extend(self.view.declared.list().iter().map(|o| Item::Declared(Key::of(&**o))));
        items.extend(self.view.attached.iter().flat_map(|source| source.ids()).map(Item::Attached));
        items.extend(self.view.ingresses.list().iter().map(|o| Item::Ingress(Key::of(&**o))));
        items.extend(self.view.virtual_services.list().iter().map(|o| Item::Virtual(Key::of(&**o))));
        items.extend(self.view.destination_rules.list().iter().map(|o| Item::Destination(Key::of(&**o))));
        let mut core = self.core.lock();
        for gateway in self.view.gateways.list() {
            core.reserve(&gateway);
        }
        core.apply(items, &self.view);
        self.finish(&mut core);
    }

    fn compile(&self, work: &Work) {
        let mut core = self.core.lock();
        let items = match work {
            Work::Item(item) => vec![item.clone()],
            Work::Changed(dependency) => core.dependents(dependency),
        };
        if items.is_empty() {
            return;
        }
        core.apply(items, &self.view);
        self.finish(&mut core);
    }

    /// Serves by what was compiled, and has it told.
    fn finish(&self, core: &mut Core) {
        self.server.install(core.table());
        for item in core.take_told() {
            self.told.add_after(item, STATUS_PAUSE);
        }
    }

    /// Turns changes into work, until the informers stop.
    async fn watch(&self) {
        let view = &self.view;
        let slices = async {
            let mut changes = view.endpoints.slices().subscribe();
            while let Some(change) = changes.next().await {
                if let Some(service) = service_of(change.object()) {
                    view.endpoints.refresh(&service);
                }
            }
        };
        let sets = self.feed(&view.sets, |change| {
            let (set, gateway) = (Key::of(&**change.object()), gateway_of(change.object()));
            let before = match change {
                Change::Applied { old: Some(old), .. } => Some(gateway_of(old)).filter(|old| *old != gateway),
                Change::Applied { old: None, .. } | Change::Deleted(_) => None,
            };
            let gateways = before.into_iter().chain([gateway]).map(|key| Work::Changed(Dependency::Sets(key)));
            gateways.chain([Work::Changed(Dependency::Set(set))]).collect()
        });
        let policies = self.feed(&view.policies, |change| {
            let old = match change {
                Change::Applied { old: Some(old), .. } => policies::services(old),
                Change::Applied { old: None, .. } | Change::Deleted(_) => Default::default(),
            };
            let services = old.into_iter().chain(policies::services(change.object()));
            let mut work: Vec<_> = services.map(|service| Work::Changed(Dependency::Policies(service))).collect();
            work.push(Work::Item(Item::Policy(Key::of(&**change.object()))));
            work
        });
        let grants = self.feed(&view.grants, |change| {
            vec![Work::Changed(Dependency::Grants(Key::of(&**change.object()).namespace))]
        });
        let classes = self.feed(&view.ingress_classes, |_| vec![Work::Changed(Dependency::IngressClasses)]);
        tokio::join!(
            slices,
            sets,
            policies,
            grants,
            classes,
            self.watch_objects(),
            self.watch_bindings(),
            self.changed(&view.secrets, |old: &Secret, new| old.data == new.data, Dependency::Secret),
            self.changed(&view.config_maps, |old: &ConfigMap, new| old.data == new.data, Dependency::ConfigMap),
            self.changed(&view.namespaces, same_labels, |key| Dependency::Namespace(key.name)),
            self.watch_definitions(),
            view.endpoints.follow_pods(),
            self.watch_services(),
            self.watch_attached(),
            self.watch_extensions(),
        );
    }

    async fn watch_objects(&self) {
        let view = &self.view;
        tokio::join!(
            self.items(&view.classes, |key| Item::Class(key.name), |old, new| old.spec == new.spec),
            self.items(&view.gateways, Item::Gateway, |old, new| old.spec == new.spec && same_labels(old, new)),
            self.items(
                &view.http,
                |key| Item::Route(RouteKind::Http, key),
                |old, new| old.spec == new.spec && same_labels(old, new)
            ),
            self.items(
                &view.grpc,
                |key| Item::Route(RouteKind::Grpc, key),
                |old, new| old.spec == new.spec && same_labels(old, new)
            ),
            self.items(
                &view.tls,
                |key| Item::Route(RouteKind::Tls, key),
                |old, new| old.spec == new.spec && same_labels(old, new)
            ),
            self.items(
                &view.tcp,
                |key| Item::Route(RouteKind::Tcp, key),
                |old, new| old.spec == new.spec && same_labels(old, new)
            ),
            self.items(
                &view.udp,
                |key| Item::Route(RouteKind::Udp, key),
                |old, new| old.spec == new.spec && same_labels(old, new)
            ),
            self.watch_ingresses(),
            self.items(&view.virtual_services, Item::Virtual, |old, new| old.spec == new.spec),
            self.items(&view.destination_rules, Item::Destination, |old, new| old.spec == new.spec),
        );
    }

    async fn watch_ingresses(&self) {
        let same =
            |old: &Ingress, new: &Ingress| old.spec == new.spec && old.metadata.annotations == new.metadata.annotations;
        let mut changes = self.view.ingresses.subscribe();
        while let Some(change) = changes.next().await {
            let item = Item::Ingress(Key::of(&**change.object()));
            if is_same(&change, same) {
                self.told.add_after(item, STATUS_PAUSE);
                continue;
            }
            let old = match &change {
                Change::Applied { old, .. } => old.as_deref(),
                Change::Deleted(_) => None,
            };
            let versions = old.into_iter().chain([&**change.object()]);
            for related in ingresses::related(versions, |place| self.view.ingresses_at(place)) {
                self.work.add(Work::Item(Item::Ingress(related)));
            }
            self.work.add(Work::Item(item));
        }
    }

    async fn watch_attached(&self) {
        let told = |id, more| match more {
            true => self.work.add(Work::Item(Item::Attached(id))),
            false => self.told.add_after(Item::Attached(id), STATUS_PAUSE),
        };
        join_all(self.view.attached.iter().map(|source| source.watch(&told))).await;
    }

    async fn watch_services(&self) {
        let mut changes = self.view.endpoints.services().subscribe();
        while let Some(change) = changes.next().await {
            let key = Key::of(&**change.object());
            self.view.endpoints.refresh(&key);
            if let Change::Deleted(service) = &change {
                self.remake(service);
            }
            let ports = |service: &Service| service.spec.as_ref().and_then(|spec| spec.ports.clone());
            if !is_same(&change, |old, new| ports(old) == ports(new)) {
                self.work.add(Work::Changed(Dependency::Service(key)));
            }
        }
    }

    /// Which release of Gateway API a cluster has is in the status of the classes.
    async fn watch_definitions(&self) {
        let mut changes = self.view.definitions.subscribe();
        while let Some(change) = changes.next().await {
            if release_of(change.object()).is_some() {
                for class in self.view.classes.list() {
                    self.told.add_after(Item::Class(Key::of(&*class).name), STATUS_PAUSE);
                }
            }
        }
    }

    /// Has what was made for a Gateway and deleted by somebody made again.
    fn remake(&self, service: &Service) {
        let owners = service.metadata.owner_references.iter().flatten();
        for owner in owners.filter(|owner| owner.kind == "Gateway") {
            let key = Key::new(Key::of(service).namespace, &owner.name);
            if self.made.lock().remove(&key).is_some() {
                self.told.add_after(Item::Gateway(key), STATUS_PAUSE);
            }
        }
    }

    /// Which ports are open is in the status of those that asked for them.
    async fn watch_bindings(&self) {
        let mut bindings = self.server.bindings();
        while bindings.changed().await.is_ok() {
            for gateway in self.view.gateways.list() {
                self.told.add_after(Item::Gateway(Key::of(&*gateway)), STATUS_PAUSE);
            }
            for ingress in self.view.ingresses.list() {
                self.told.add_after(Item::Ingress(Key::of(&*ingress)), STATUS_PAUSE);
            }
        }
    }

    async fn feed<K: Object>(&self, informer: &Informer<K>, work: impl Fn(&Change<K>) -> Vec<Work>) {
        let mut changes = informer.subscribe();
        while let Some(change) = changes.next().await {
            for work in work(&change) {
                self.work.add(work);
            }
        }
    }

    /// Compiles changed objects; where only their status changed it is told again, in case somebody else changed it.
    async fn items<K: Object>(&self, informer: &Informer<K>, item: fn(Key) -> Item, same: fn(&K, &K) -> bool) {
        let mut changes = informer.subscribe();
        while let Some(change) = changes.next().await {
            let item = item(Key::of(&**change.object()));
            if is_same(&change, same) {
                self.told.add_after(item, STATUS_PAUSE);
            } else {
                self.work.add(Work::Item(item));
            }
        }
    }

    /// Compiles what was compiled from changed objects.
    async fn changed<K: Object>(
        &self,
        informer: &Informer<K>,
        same: fn(&K, &K) -> bool,
        dependency: fn(Key) -> Dependency,
    ) {
        let mut changes = informer.subscribe();
        while let Some(change) = changes.next().await {
            if !is_same(&change, same) {
                self.work.add(Work::Changed(dependency(Key::of(&**change.object()))));
            }
        }
    }

    /// Writes the status of an item, where it differs from what is there.
    async fn tell(&self, item: &Item) -> Result<(), kube::Error> {
        let now = Timestamp::now();
        match item {
            Item::Class(name) => {
                let Some(class) = self.view.classes.get("", name) else { return Ok(()) };
                let Some(verdict) = self.core.lock().class(name).cloned() else { return Ok(()) };
                let version = self.view.supported_version();
                let verdicts: Vec<_> = std::iter::once(verdict).chain(version).collect();
                let status = status::class(class.status.as_ref(), &verdicts, class.metadata.generation, now);
                self.write_cluster(&*class, class.status.as_ref(), &status).await
            }
            Item::Gateway(key) => self.tell_gateway(key, now).await,
            Item::Route(kind, key) => self.tell_route(*kind, key, now).await,
            Item::Policy(key) => {
                let Some(policy) = self.view.policy(key) else { return Ok(()) };
                let known = policy.status.as_ref();
                let status = self.core.lock().policy(key).map(|plan| status::policy(known, plan, now));
                let Some(status) = status else { return Ok(()) };
                if known.is_none() && status.ancestors.is_empty() {
                    return Ok(());
                }
                self.write(&*policy, known, &status).await.map(drop)
            }
            Item::Ingress(key) => self.tell_ingress(key).await,
            Item::Attached(id) => {
                let Some(policy) = self.view.attached(id) else { return Ok(()) };
                let Some(status) = self.core.lock().attached_status(id, now) else { return Ok(()) };
                policy.write(&self.client, &status).await
            }
            Item::Declared(key) => self.tell_declared(key, now).await,
            Item::Virtual(key) => {
                let wrong = self.core.lock().virtual_service(key).map(|plan| plan.wrong.clone());
                self.tell_istio(&self.view.virtual_services, key, wrong, |object| object.status.as_ref()).await
            }
            Item::Destination(key) => {
                let wrong = self.core.lock().destination_rule(key).map(|plan| plan.wrong.clone());
                self.tell_istio(&self.view.destination_rules, key, wrong, |object| object.status.as_ref()).await
            }
            Item::Service(_) => Ok(()),
        }
    }

    async fn tell_gateway(&self, key: &Key, now: Timestamp) -> Result<(), kube::Error> {
        let Some(gateway) = self.view.gateway(key) else {
            self.made.lock().remove(key);
            return Ok(());
        };
        let known = gateway.status.clone().unwrap_or_default();
        let known_set = |set: &Key| self.view.set(set).and_then(|set| set.status.clone()).unwrap_or_default();
        let told = {
            let (core, bindings) = (self.core.lock(), self.server.bindings());
            let (shared, bindings) = (self.server.addresses(), &bindings.borrow());
            status::gateway(status::Scene { core: &core, shared, bindings, now }, key, &known, &known_set)
        };
        // What is not known yet is told when the server has tried its ports.
        let Some(status::Told { status, sets, warnings }) = told else { return Ok(()) };
        if self.write(&*gateway, gateway.status.as_ref(), &status).await? {
            for warning in warnings {
                self.recorder.about(&*gateway, EventType::Warning, "PortUnavailable", warning);
            }
        }
        for (key, status) in sets {
            if let Some(set) = self.view.set(&key) {
                self.write(&*set, set.status.as_ref(), &status).await?;
            }
        }
        self.make(&gateway, key).await
    }

    /// Makes what a Gateway is to have, where that is not what was made before.
    async fn make(&self, gateway: &Gateway, key: &Key) -> Result<(), kube::Error> {
        let made = self.core.lock().gateway(key).and_then(infrastructure::made);
        let Some(made) = made.filter(|made| self.made.lock().get(key) != Some(made)) else { return Ok(()) };
        let there = self.view.service(&Key::new(&key.namespace, &made.name));
        if there.is_some_and(|service| infrastructure::is_foreign(&service.metadata, gateway)) {
            let warning = format!("Service {} is there already and is not the Gateway's", made.name);
            self.recorder.about(gateway, EventType::Warning, "NameTaken", warning);
            self.made.lock().insert(key.clone(), made);
            return Ok(());
        }
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let services: Api<Service> = Api::namespaced(self.client.clone(), &key.namespace);
        services.patch(&made.name, &parameters, &Patch::Apply(&made.service)).await?;
        let slices: Api<EndpointSlice> = Api::namespaced(self.client.clone(), &key.namespace);
        slices.patch(&made.name, &parameters, &Patch::Apply(&made.slice)).await?;
        self.made.lock().insert(key.clone(), made);
        Ok(())
    }

    async fn tell_route(&self, kind: RouteKind, key: &Key, now: Timestamp) -> Result<(), kube::Error> {
        let Some(route) = self.view.route(kind, key) else { return Ok(()) };
        let known = route.status();
        let status = self.core.lock().route(kind, key).map(|plan| status::route(known, plan, now));
        let Some(status) = status else { return Ok(()) };
        // A route that is nobody's business of ours gets no status at all.
        if known.is_none() && status.parents.is_empty() {
            return Ok(());
        }
        let written = match &route {
            Route::Http(route) => self.write(&**route, known, &status).await,
            Route::Grpc(route) => self.write(&**route, known, &status).await,
            Route::Tls(route) => self.write(&**route, known, &status).await,
            Route::Tcp(route) => self.write(&**route, known, &status).await,
            Route::Udp(route) => self.write(&**route, known, &status).await,
        };
        written.map(drop)
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
        patch(&Api::namespaced(self.client.clone(), namespace), object, known, status).await.map(|()| true)
    }

    async fn write_cluster<K, S>(&self, object: &K, known: Option<&S>, status: &S) -> Result<(), kube::Error>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
        S: PartialEq + Serialize,
    {
        if known == Some(status) {
            return Ok(());
        }
        patch(&Api::all(self.client.clone()), object, known, status).await
    }
}

/// Replaces a status, but only that of the revision it was made from: others write to the same lists.
pub(crate) async fn patch<K, S>(api: &Api<K>, object: &K, known: Option<&S>, status: &S) -> Result<(), kube::Error>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    S: Serialize,
{
    let meta = object.meta();
    let body = json!({"metadata": {"resourceVersion": meta.resource_version}, "status": replacing(known, status)});
    let name = meta.name.as_deref().unwrap_or_default();
    match api.patch_status(name, &PatchParams::default(), &Patch::Merge(&body)).await {
        // Deleted meanwhile: its status is of no interest any more.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        result => result.map(|_| ()),
    }
}

/// A status as a merge patch that also takes away what was there and is no more.
fn replacing<S: Serialize>(known: Option<&S>, status: &S) -> Value {
    let mut status = json!(status);
    if let (Value::Object(fields), Value::Object(known)) = (&mut status, json!(known)) {
        for (name, _) in known {
            fields.entry(name).or_insert(Value::Null);
        }
    }
    status
}

/// Whether a change leaves alone what matters.
pub(crate) fn is_same<K>(change: &Change<K>, same: impl Fn(&K, &K) -> bool) -> bool {
    match change {
        Change::Applied { old: Some(old), new } => same(old, new),
        Change::Applied { old: None, .. } | Change::Deleted(_) => false,
    }
}

fn same_labels<K: Resource>(old: &K, new: &K) -> bool {
    old.meta().labels == new.meta().labels
}
