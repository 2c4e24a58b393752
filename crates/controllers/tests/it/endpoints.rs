use std::sync::Arc;

use k8s_openapi::api::core::v1::{Endpoints, Event, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::IPAddress;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::cluster::Cluster;

const SERVICE: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";

/// The slices of a service that this controller keeps.
fn of<'a>(
    slices: &'a [Arc<EndpointSlice>],
    service: &'a str,
    manager: &'a str,
) -> impl Iterator<Item = &'a EndpointSlice> {
    let has = |slice: &EndpointSlice, label: &str, value: &str| slice.labels().get(label).is_some_and(|v| v == value);
    slices
        .iter()
        .map(AsRef::as_ref)
        .filter(move |slice| has(slice, SERVICE, service) && has(slice, MANAGED_BY, manager))
}

fn addresses(slice: &EndpointSlice) -> Vec<&str> {
    slice.endpoints.iter().flatten().map(|endpoint| endpoint.addresses[0].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_kept_by_hand_are_mirrored_changed_and_taken_away() {
    let cluster = Cluster::start(0).await;
    const MIRROR: &str = "endpointslicemirroring-controller.k8s.io";
    let ports = json!([{"name": "sql", "port": 5432, "protocol": "TCP"}]);
    cluster.create::<Service>(json!({"metadata": {"name": "db"}, "spec": {"ports": ports}})).await;
    let subset = |ip: &str| json!([{"addresses": [{"ip": ip}], "ports": ports}]);
    cluster.create::<Endpoints>(json!({"metadata": {"name": "db"}, "subsets": subset("10.1.2.3")})).await;
    let shows = |ip: &'static str| {
        move |slices: &[Arc<EndpointSlice>]| of(slices, "db", MIRROR).any(|slice| addresses(slice) == [ip])
    };
    let slices = cluster.until::<EndpointSlice>("a mirror", shows("10.1.2.3")).await;
    let slice = of(&slices, "db", MIRROR).next().unwrap();
    assert_eq!(slice.ports.as_ref().unwrap()[0].port, Some(5432));
    assert_eq!(slice.owner_references()[0].kind, "Endpoints");

    let patch = Patch::Merge(json!({"subsets": subset("10.2.3.4")}));
    cluster.api::<Endpoints>().patch("db", &PatchParams::default(), &patch).await.unwrap();
    let changed = cluster.until::<EndpointSlice>("is changed", shows("10.2.3.4")).await;
    assert_eq!(of(&changed, "db", MIRROR).next().unwrap().name_any(), slice.name_any(), "in place");

    cluster.api::<Endpoints>().delete("db", &DeleteParams::default()).await.unwrap();
    cluster.until::<EndpointSlice>("is gone", |slices| of(slices, "db", MIRROR).next().is_none()).await;
    cluster.stop().await;
}

fn pod(name: &str, labels: Value, image: &str) -> Value {
    json!({"metadata": {"name": name, "labels": labels}, "spec": {"terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "image": image, "ports": [{"name": "example", "containerPort": 3000}]}]}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slices_and_endpoints_follow_the_pods_of_a_service() {
    let cluster = Cluster::start(1).await;
    const OWN: &str = "endpointslice-controller.k8s.io";
    let service = |name: &str, selector: Value, spec: Value| {
        let mut whole = json!({"selector": selector,
            "ports": [{"name": "example", "port": 80, "targetPort": "example", "protocol": "TCP"}]});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        json!({"metadata": {"name": name}, "spec": whole})
    };
    cluster.create::<Service>(service("empty", json!({"app": "nobody"}), json!({}))).await;
    let slices = cluster
        .until::<EndpointSlice>("a slice without endpoints", |slices| of(slices, "empty", OWN).count() == 1)
        .await;
    assert!(addresses(of(&slices, "empty", OWN).next().unwrap()).is_empty());
    cluster
        .until_one::<Endpoints>("empty", "endpoints without addresses", |endpoints| endpoints.subsets.is_none())
        .await;

    cluster.create::<Pod>(pod("ready", json!({"app": "web"}), "web:1")).await;
    cluster.create::<Pod>(pod("unready", json!({"app": "web"}), "broken")).await;
    cluster.create::<Service>(service("web", json!({"app": "web"}), json!({}))).await;
    cluster.create::<Service>(service("all", json!({"app": "web"}), json!({"publishNotReadyAddresses": true}))).await;
    let states = |slices: &[Arc<EndpointSlice>], service: &str| {
        let mut states: Vec<(bool, bool)> = of(slices, service, OWN)
            .flat_map(|slice| slice.endpoints.iter().flatten())
            .filter_map(|endpoint| endpoint.conditions.as_ref())
            .map(|conditions| (conditions.ready.unwrap(), conditions.serving.unwrap()))
            .collect();
        states.sort_unstable();
        states
    };
    let slices = cluster
        .until::<EndpointSlice>("both pods", |slices| {
            states(slices, "web") == [(false, false), (true, true)]
                && states(slices, "all").iter().map(|(ready, _)| *ready).collect::<Vec<_>>() == [true, true]
        })
        .await;
    let slice = of(&slices, "web", OWN).next().unwrap();
    assert_eq!(slice.ports.as_ref().unwrap()[0].port, Some(3000));
    let both = |endpoints: &Endpoints| {
        let subsets = endpoints.subsets.as_deref().unwrap_or_default();
        let count = |list: Option<&Vec<_>>| list.map_or(0, Vec::len);
        subsets.len() == 1
            && (count(subsets[0].addresses.as_ref()), count(subsets[0].not_ready_addresses.as_ref())) == (1, 1)
    };
    cluster.until_one::<Endpoints>("web", "both pods", both).await;

    cluster.api::<Service>().delete("empty", &DeleteParams::default()).await.unwrap();
    cluster.until::<EndpointSlice>("its slice goes", |slices| of(slices, "empty", OWN).next().is_none()).await;
    cluster.until::<Endpoints>("its endpoints go", |all| all.iter().all(|one| one.name_any() != "empty")).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_of_services_are_put_right_and_it_is_told() {
    let cluster = Cluster::start(0).await;
    let service: Service =
        cluster.create(json!({"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}})).await;
    let held = service.spec.unwrap().cluster_ip.unwrap();
    let addresses: Api<IPAddress> = Api::all(cluster.client.clone());
    let first = addresses.get(&held).await.unwrap();
    addresses.delete(&held, &DeleteParams::default()).await.unwrap();
    let is_back = |all: &[Arc<IPAddress>]| all.iter().any(|one| one.name_any() == held && one.uid() != first.uid());
    let all = cluster.until::<IPAddress>("the address is back", is_back).await;
    let back = all.iter().find(|one| one.name_any() == held).unwrap();
    assert_eq!(back.labels(), first.labels());
    assert_eq!(back.spec, first.spec);

    let leaked = json!({"metadata": {"name": "10.96.200.9", "labels": first.labels()},
        "spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "gone"}}});
    addresses.create(&PostParams::default(), &serde_json::from_value(leaked).unwrap()).await.unwrap();
    cluster.until::<IPAddress>("what leaked goes", |all| all.iter().all(|one| one.name_any() != "10.96.200.9")).await;
    let told = |reason: &'static str, message: String| {
        move |events: &[Arc<Event>]| {
            let is_it = |event: &Arc<Event>| event.reason.as_deref() == Some(reason);
            events.iter().filter(|event| is_it(event)).any(|event| event.message.as_ref() == Some(&message))
        }
    };
    let message = format!("Cluster IP [IPv4]: {held} is not allocated; repairing");
    cluster.until::<Event>("it is told", told("ClusterIPNotAllocated", message)).await;
    let message = "IPAddress: 10.96.200.9 for Service default/gone appears to have leaked: cleaning up".to_owned();
    cluster.until::<Event>("it is told", told("IPAddressNotAllocated", message)).await;
    cluster.stop().await;
}
