//! Load balancers: Services of type LoadBalancer are reached at addresses of this machine.
//!
//! A Service has an address once its ports are held there ([`held`]), so that it takes no port from another program, and no
//! other program takes it later. What comes to the addresses in a Service's status is led to its endpoints by the rules of
//! `services`, whoever wrote them there; here is only decided which they are. A Service that names a
//! `loadBalancerClass` is another balancer's.

mod held;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join;
use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt};
use parking_lot::Mutex;
use reconcile::{EventType, Informer, Informers, Key, Queue, Recorder, feed, run_controller};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::services::Protocol;
use held::{Held, Spot};

/// Keeps a Service until its ports are given up.
const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";
/// Services worked on at once: what they do is short.
const WORKERS: usize = 2;
/// How long until a port that another program had is tried again; nobody tells when it is free.
const RETRY: Duration = Duration::from_secs(15);

/// What could not be done for a Service.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} service {key}: {source}")]
struct Error {
    action: &'static str,
    key: Key,
    source: kube::Error,
}

fn failed(action: &'static str, key: &Key) -> impl FnOnce(kube::Error) -> Error {
    let key = key.clone();
    move |source| Error { action, key, source }
}

/// What the loop keeps.
#[derive(Default)]
struct State {
    held: Held,
    /// Services that wait for a port, with what was said of it.
    waiting: BTreeMap<Key, String>,
}

struct Balancer {
    client: Client,
    services: Informer<Service>,
    addresses: Vec<Ipv4Addr>,
    recorder: Recorder,
    queue: Queue<Key>,
    state: Mutex<State>,
}

/// Gives Services of type LoadBalancer the addresses, until stopped. Then the ports are free again, but the Services keep
/// their addresses, and the rules lead there, until the process is back.
pub async fn run_load_balancer(informers: Informers, addresses: Vec<Ipv4Addr>, stop: CancellationToken) {
    let services = informers.of::<Service>();
    tokio::select! {
        () = stop.cancelled() => return,
        synced = services.synced() => if !synced { return },
    }
    let client = informers.client().clone();
    let queue = Queue::new();
    let balancer = Arc::new(Balancer {
        recorder: Recorder::new(client.clone(), "service-controller"),
        client,
        services: services.clone(),
        addresses,
        queue: queue.clone(),
        state: Mutex::default(),
    });
    let feed = feed(&services, &queue, |change| [Key::of(change.object().as_ref())]);
    let reconcile = |key: Key| {
        let balancer = Arc::clone(&balancer);
        async move { balancer.reconcile(&key).await }
    };
    let ended = stop.clone();
    let run = run_controller("service-lb-controller", queue.clone(), WORKERS, stop, reconcile);
    tokio::select! {
        _ = join(run, feed) => {}
        () = ended.cancelled() => {}
    }
}

/// Whether the Service is to have addresses from here.
fn is_wanted(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.is_some_and(|spec| spec.type_.as_deref() == Some("LoadBalancer") && spec.load_balancer_class.is_none())
        && service.metadata.deletion_timestamp.is_none()
}

fn is_marked(service: &Service) -> bool {
    service.finalizers().iter().any(|finalizer| finalizer == FINALIZER)
}

/// The ports of a Service.
fn ports(service: &Service) -> BTreeSet<(Protocol, u16)> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    ports
        .filter_map(|port| Some((Protocol::parse(port.protocol.as_deref())?, u16::try_from(port.port).ok()?)))
        .collect()
}

/// The addresses that the Service may have, or why it cannot have the one that it asks for.
fn candidates(service: &Service, addresses: &[Ipv4Addr]) -> Result<Vec<Ipv4Addr>, String> {
    let spec = service.spec.as_ref();
    if spec.is_some_and(|spec| spec.ip_families.as_ref().is_some_and(|all| all.iter().all(|one| one != "IPv4"))) {
        return Err("this machine balances IPv4 only".to_owned());
    }
    match spec.and_then(|spec| spec.load_balancer_ip.as_deref()).filter(|ip| !ip.is_empty()) {
        None => Ok(addresses.to_vec()),
        Some(wanted) => match addresses.iter().find(|address| address.to_string() == wanted) {
            Some(address) => Ok(vec![*address]),
            None => Err(format!("spec.loadBalancerIP {wanted} is no address that this machine balances")),
        },
    }
}

/// What the status says of the balancer's addresses.
fn ingress(addresses: &[Ipv4Addr]) -> Value {
    addresses.iter().map(|address| json!({"ip": address, "ipMode": "VIP"})).collect()
}

fn current_ingress(service: &Service) -> Value {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|status| status.ingress.as_ref());
    ingress.map_or_else(|| json!([]), |ingress| json!(ingress))
}

impl Balancer {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(service) = self.services.get(&key.namespace, &key.name) else {
            self.release(key);
            return Ok(None);
        };
        if is_wanted(&service) { self.ensure(key, &service).await } else { self.give_up(key, &service).await }
    }

    fn api(&self, key: &Key) -> Api<Service> {
        Api::namespaced(self.client.clone(), &key.namespace)
    }

    async fn ensure(&self, key: &Key, service: &Service) -> Result<Option<Duration>, Error> {
        if !is_marked(service) {
            let mut finalizers = service.finalizers().to_vec();
            finalizers.push(FINALIZER.to_owned());
            return self.set_finalizers(key, service, finalizers).await.map(|()| None);
        }
        let (addresses, problem) = self.hold(key, service);
        let wanted = ingress(&addresses);
        if current_ingress(service) != wanted {
            self.tell(service, EventType::Normal, "EnsuringLoadBalancer", "Ensuring load balancer");
            let patch =
                json!({"metadata": {"uid": service.metadata.uid}, "status": {"loadBalancer": {"ingress": wanted}}});
            let patched = self.api(key).patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await;
            gone_is_done(patched).map_err(failed("tell the addresses of", key))?;
            if !addresses.is_empty() {
                self.tell(service, EventType::Normal, "EnsuredLoadBalancer", "Ensured load balancer");
            }
        }
        let Some(problem) = problem else {
            self.state.lock().waiting.remove(key);
            return Ok(None);
        };
        let said = self.state.lock().waiting.insert(key.clone(), problem.clone());
        if said.as_ref() != Some(&problem) {
            let message = format!("Error syncing load balancer: failed to ensure load balancer: {problem}");
            self.tell(service, EventType::Warning, "SyncLoadBalancerFailed", &message);
        }
        Ok(Some(RETRY))
    }

    /// Holds the Service's ports at every address where they are free, and gives those addresses and what is wrong with
    /// the others.
    fn hold(&self, key: &Key, service: &Service) -> (Vec<Ipv4Addr>, Option<String>) {
        let candidates = match candidates(service, &self.addresses) {
            Ok(candidates) => candidates,
            Err(problem) => {
                self.release(key);
                return (Vec::new(), Some(problem));
            }
        };
        let ports = ports(service);
        let (mut good, mut problem) = (Vec::new(), None);
        let mut state = self.state.lock();
        let mut wanted = BTreeSet::new();
        for address in candidates {
            let spots: Vec<Spot> = ports.iter().map(|(protocol, port)| (address, *protocol, *port)).collect();
            match spots.iter().try_for_each(|spot| state.held.take(key, *spot)) {
                Ok(()) => {
                    good.push(address);
                    wanted.extend(spots);
                }
                Err(why) => {
                    problem.get_or_insert(why);
                }
            }
        }
        if state.held.keep(key, &wanted) {
            self.wake(&state);
        }
        (good, problem)
    }

    async fn give_up(&self, key: &Key, service: &Service) -> Result<Option<Duration>, Error> {
        self.release(key);
        if !is_marked(service) {
            return Ok(None);
        }
        self.tell(service, EventType::Normal, "DeletingLoadBalancer", "Deleting load balancer");
        let left = service.finalizers().iter().filter(|finalizer| *finalizer != FINALIZER).cloned().collect();
        self.set_finalizers(key, service, left).await?;
        self.tell(service, EventType::Normal, "DeletedLoadBalancer", "Deleted load balancer");
        Ok(None)
    }

    /// Gives up all ports of a Service; who waited for one tries again.
    fn release(&self, key: &Key) {
        let mut state = self.state.lock();
        state.waiting.remove(key);
        if state.held.keep(key, &BTreeSet::new()) {
            self.wake(&state);
        }
    }

    fn wake(&self, state: &State) {
        state.waiting.keys().for_each(|key| self.queue.add(key.clone()));
    }

    async fn set_finalizers(&self, key: &Key, service: &Service, finalizers: Vec<String>) -> Result<(), Error> {
        let metadata = json!({"uid": service.metadata.uid, "resourceVersion": service.metadata.resource_version,
            "finalizers": finalizers});
        let patch = Patch::Merge(json!({ "metadata": metadata }));
        let patched = self.api(key).patch(&key.name, &PatchParams::default(), &patch).await;
        gone_is_done(patched).map_err(failed("change the finalizers of", key))
    }

    fn tell(&self, service: &Service, kind: EventType, reason: &str, message: &str) {
        self.recorder.about(service, kind, reason, message);
    }
}

/// A Service that is gone needs nothing more.
fn gone_is_done(result: Result<Service, kube::Error>) -> Result<(), kube::Error> {
    match result {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        other => other.map(drop),
    }
}
