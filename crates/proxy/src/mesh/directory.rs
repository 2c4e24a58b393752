//! Who is behind an address: pods by theirs, Services by their cluster IPs.
//!
//! It is filled once the first pod takes part, from the shared informers, and holds of each pod what identities, policies
//! and metrics need and nothing else.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use identity::SpiffeId;
use k8s_openapi::api::core::v1::{Pod, Service};
use parking_lot::RwLock;
use reconcile::Key;

/// Labels by which a pod says what it is part of, the most telling first.
const CANONICAL_NAME: [&str; 4] =
    ["service.istio.io/canonical-name", "app.kubernetes.io/name", "app", "service.istio.io/workload-name"];

/// The label by which a Service asks for a proxy that looks at requests, as Istio's ambient mode reads it. Here every pod's
/// own does.
const WAYPOINT: &str = "istio.io/use-waypoint";

/// A pod, as the mesh knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// UID of the pod.
    pub uid: Box<str>,
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name of the pod.
    pub name: Box<str>,
    /// The service account it runs as.
    pub service_account: Arc<str>,
    /// What made the pod: the Deployment, the Job, or the pod itself.
    pub owner: Box<str>,
    /// The application it is part of, as Istio finds it.
    pub app: Box<str>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Where it runs.
    pub node: Arc<str>,
}

impl Workload {
    /// What the mesh needs of a pod.
    pub fn of(pod: &Pod) -> Self {
        let (metadata, spec) = (&pod.metadata, pod.spec.as_ref());
        let labels = metadata.labels.clone().unwrap_or_default();
        let name = metadata.name.as_deref().unwrap_or_default();
        let owner = owner(pod, &labels).unwrap_or_else(|| name.to_owned());
        let app = CANONICAL_NAME.iter().find_map(|label| labels.get(*label)).cloned().unwrap_or_else(|| owner.clone());
        let account = spec.and_then(|spec| spec.service_account_name.as_deref()).unwrap_or("default");
        Workload {
            uid: metadata.uid.as_deref().unwrap_or_default().into(),
            namespace: metadata.namespace.as_deref().unwrap_or_default().into(),
            name: name.into(),
            service_account: account.into(),
            owner: owner.into(),
            app: app.into(),
            labels,
            node: spec.and_then(|spec| spec.node_name.as_deref()).unwrap_or_default().into(),
        }
    }

    /// Its identity in a trust domain; `None` when its names cannot be part of one.
    pub fn id(&self, trust_domain: &str) -> Option<SpiffeId> {
        SpiffeId::new(trust_domain, &self.namespace, &self.service_account).ok()
    }
}

/// The controller's name; a ReplicaSet's without what its Deployment added.
fn owner(pod: &Pod, labels: &BTreeMap<String, String>) -> Option<String> {
    let owner = pod.metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))?;
    let hash = labels.get("pod-template-hash").filter(|_| owner.kind == "ReplicaSet");
    let stem = hash.and_then(|hash| owner.name.strip_suffix(hash.as_str())?.strip_suffix('-'));
    Some(stem.unwrap_or(&owner.name).to_owned())
}

/// A Service with a cluster IP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceEntry {
    /// Which.
    pub key: Key,
    /// Whether a client keeps its endpoint.
    pub sticky: bool,
    /// Whether requests to it are looked at, whatever routes say.
    pub requests: bool,
}

/// Pods and Services by address.
#[derive(Default)]
pub struct Directory {
    pods: RwLock<Pods>,
    services: RwLock<Services>,
}

#[derive(Default)]
struct Pods {
    by_address: HashMap<IpAddr, Arc<Workload>>,
    addresses: HashMap<Key, Vec<IpAddr>>,
    /// Nodes, namespaces and accounts are few: pods share their names.
    names: HashMap<Arc<str>, ()>,
}

#[derive(Default)]
struct Services {
    by_address: HashMap<IpAddr, Arc<ServiceEntry>>,
    addresses: HashMap<Key, Vec<IpAddr>>,
    /// The labels by which Services select pods, by namespace and name.
    selectors: HashMap<String, BTreeMap<String, BTreeMap<String, String>>>,
}

impl Directory {
    /// The pod that has an address.
    pub fn pod(&self, address: IpAddr) -> Option<Arc<Workload>> {
        self.pods.read().by_address.get(&address).cloned()
    }

    /// The Service that has an address.
    pub fn service(&self, address: IpAddr) -> Option<Arc<ServiceEntry>> {
        self.services.read().by_address.get(&address).cloned()
    }

    /// How many pods and Services there are.
    pub fn len(&self) -> (usize, usize) {
        (self.pods.read().by_address.len(), self.services.read().by_address.len())
    }

    /// Takes a pod in, as it is now; its addresses are gone once it has ended.
    pub(crate) fn put_pod(&self, pod: &Pod) -> Arc<Workload> {
        let workload = Workload::of(pod);
        let key = Key::of(pod);
        let addresses = addresses(pod);
        let mut pods = self.pods.write();
        let known = pods.addresses.get(&key).map(Vec::as_slice).unwrap_or_default();
        if known == addresses
            && let Some(same) = known.first().and_then(|ip| pods.by_address.get(ip)).filter(|same| ***same == workload)
        {
            return Arc::clone(same);
        }
        let workload = Arc::new(pods.shared(workload));
        pods.remove(&key);
        if !addresses.is_empty() {
            for address in &addresses {
                pods.by_address.insert(*address, Arc::clone(&workload));
            }
            pods.addresses.insert(key, addresses);
        }
        workload
    }

    /// Forgets a pod.
    pub(crate) fn remove_pod(&self, pod: &Pod) {
        self.pods.write().remove(&Key::of(pod));
    }

    /// Takes a Service in, as it is now.
    pub(crate) fn put_service(&self, service: &Service) {
        let key = Key::of(service);
        let spec = service.spec.as_ref();
        let ips = spec.and_then(|spec| spec.cluster_ips.as_deref()).unwrap_or_default();
        let addresses: Vec<IpAddr> = ips.iter().filter_map(|ip| ip.parse().ok()).collect();
        let sticky = spec.and_then(|spec| spec.session_affinity.as_deref()) == Some("ClientIP");
        let selector = spec.and_then(|spec| spec.selector.clone()).unwrap_or_default();
        let mut services = self.services.write();
        services.remove(&key);
        if !selector.is_empty() {
            services.selectors.entry(key.namespace.clone()).or_default().insert(key.name.clone(), selector);
        }
        if !addresses.is_empty() {
            let waypoint = service.metadata.labels.as_ref().and_then(|labels| labels.get(WAYPOINT));
            let requests = waypoint.is_some_and(|name| name != "none");
            let entry = Arc::new(ServiceEntry { key: key.clone(), sticky, requests });
            for address in &addresses {
                services.by_address.insert(*address, Arc::clone(&entry));
            }
            services.addresses.insert(key, addresses);
        }
    }

    /// The Services of a pod's namespace that select it.
    pub(crate) fn services_of(&self, pod: &Workload) -> BTreeSet<String> {
        let services = self.services.read();
        let selects = |selector: &BTreeMap<String, String>| {
            { selector.iter() }.all(|(name, value)| pod.labels.get(name) == Some(value))
        };
        let all = services.selectors.get(&*pod.namespace).into_iter().flatten();
        all.filter(|(_, selector)| selects(selector)).map(|(name, _)| name.clone()).collect()
    }

    /// Forgets a Service.
    pub(crate) fn remove_service(&self, service: &Service) {
        self.services.write().remove(&Key::of(service));
    }
}

impl Pods {
    fn remove(&mut self, key: &Key) {
        for address in self.addresses.remove(key).unwrap_or_default() {
            // the address may be another pod's by now
            let own = |pod: &Arc<Workload>| *pod.namespace == *key.namespace && *pod.name == *key.name;
            if self.by_address.get(&address).is_some_and(own) {
                self.by_address.remove(&address);
            }
        }
    }

    fn shared(&mut self, mut workload: Workload) -> Workload {
        for name in [&mut workload.namespace, &mut workload.service_account, &mut workload.node] {
            match self.names.get_key_value(name) {
                Some((known, ())) => *name = Arc::clone(known),
                None => drop(self.names.insert(Arc::clone(name), ())),
            }
        }
        workload
    }
}

impl Services {
    fn remove(&mut self, key: &Key) {
        if let Some(selectors) = self.selectors.get_mut(&key.namespace) {
            selectors.remove(&key.name);
            if selectors.is_empty() {
                self.selectors.remove(&key.namespace);
            }
        }
        for address in self.addresses.remove(key).unwrap_or_default() {
            if self.by_address.get(&address).is_some_and(|entry| entry.key == *key) {
                self.by_address.remove(&address);
            }
        }
    }
}

/// The addresses of a pod's own that still mean it.
fn addresses(pod: &Pod) -> Vec<IpAddr> {
    let host_network = pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
    let Some(status) = pod.status.as_ref().filter(|_| !host_network) else { return Vec::new() };
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return Vec::new();
    }
    let ips = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).chain(status.pod_ip.as_deref());
    let mut addresses: Vec<IpAddr> = ips.filter_map(|ip| ip.parse().ok()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, ip: &str, phase: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "shop", "uid": name, "labels": {"pod-template-hash": "abc", "tier": "back"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-abc", "uid": "r", "controller": true}]},
            "spec": {"serviceAccountName": "ledger", "nodeName": "here", "containers": []},
            "status": {"phase": phase, "podIP": ip, "podIPs": [{"ip": ip}]},
        }))
        .unwrap()
    }

    fn service(name: &str, spec: Value) -> Service {
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "shop"}, "spec": spec})).unwrap()
    }

    fn at(ip: &str) -> IpAddr {
        ip.parse().unwrap()
    }

    #[test]
    fn a_pod_is_known_by_its_address_until_it_ends() {
        let directory = Directory::default();
        directory.put_pod(&pod("a", "10.0.0.1", "Running"));
        let found = directory.pod(at("10.0.0.1")).unwrap();
        assert_eq!((&*found.name, &*found.owner, &*found.app), ("a", "web", "web"));
        assert_eq!(found.id("cluster.local").unwrap().to_string(), "spiffe://cluster.local/ns/shop/sa/ledger");
        let same = directory.put_pod(&pod("a", "10.0.0.1", "Running"));
        assert!(Arc::ptr_eq(&same, &directory.pod(at("10.0.0.1")).unwrap()));
        directory.put_pod(&pod("a", "10.0.0.1", "Succeeded"));
        assert!(directory.pod(at("10.0.0.1")).is_none());
    }

    #[test]
    fn an_address_belongs_to_whoever_had_it_last() {
        let directory = Directory::default();
        directory.put_pod(&pod("a", "10.0.0.1", "Running"));
        directory.put_pod(&pod("b", "10.0.0.1", "Running"));
        directory.remove_pod(&pod("a", "10.0.0.1", "Running"));
        assert_eq!(&*directory.pod(at("10.0.0.1")).unwrap().name, "b");
    }

    #[test]
    fn a_pod_belongs_to_the_services_of_its_namespace_that_select_it() {
        let directory = Directory::default();
        let pod = directory.put_pod(&pod("a", "10.0.0.1", "Running"));
        let (name, value) = pod.labels.iter().next().map(|(name, value)| (name.clone(), value.clone())).unwrap();
        let web = service("web", json!({"clusterIPs": ["None"], "selector": {(name.clone()): value}}));
        directory.put_service(&web);
        directory.put_service(&service("other", json!({"selector": {(name.clone()): "other"}})));
        directory.put_service(&service("external", json!({})));
        assert_eq!(directory.services_of(&pod), ["web".to_owned()].into());
        let elsewhere = Workload { namespace: "else".into(), ..(*pod).clone() };
        assert!(directory.services_of(&elsewhere).is_empty());
        directory.remove_service(&web);
        assert!(directory.services_of(&pod).is_empty());
    }

    #[test]
    fn services_are_known_by_their_cluster_ips() {
        let directory = Directory::default();
        let web = service("web", json!({"clusterIPs": ["10.1.0.1"], "sessionAffinity": "ClientIP"}));
        directory.put_service(&web);
        directory.put_service(&service("headless", json!({"clusterIPs": ["None"]})));
        let found = directory.service(at("10.1.0.1")).unwrap();
        assert_eq!((found.key.to_string().as_str(), found.sticky, found.requests), ("shop/web", true, false));
        for (waypoint, expected) in [("any", true), ("none", false)] {
            let mut labelled = web.clone();
            labelled.metadata.labels = Some([(WAYPOINT.to_owned(), waypoint.to_owned())].into());
            directory.put_service(&labelled);
            assert_eq!(directory.service(at("10.1.0.1")).unwrap().requests, expected, "{waypoint}");
        }
        assert_eq!(directory.len(), (0, 1));
        directory.remove_service(&web);
        assert_eq!(directory.len(), (0, 0));
    }
}
