//! Who holds which cluster IP: IPAddresses come and go with their Services, and ServiceCIDRs add ranges.

use serde_json::{Value, json};

use crate::fixture::{Fixture, MERGE};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";
const RANGES: &str = "/apis/networking.k8s.io/v1/servicecidrs";

fn service(name: &str, address: &str) -> Value {
    let mut service = json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}});
    if !address.is_empty() {
        service["spec"]["clusterIP"] = address.into();
    }
    service
}

async fn address(fixture: &Fixture, name: &str) -> String {
    fixture.get(&format!("{SERVICES}/{name}")).await.ok()["spec"]["clusterIP"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_configured_range_is_an_object_that_is_ready_and_held() {
    let fixture = Fixture::new().await;
    let range = fixture.get(&format!("{RANGES}/kubernetes")).await.ok();
    assert_eq!(range["spec"]["cidrs"], json!(["10.96.0.0/16"]));
    assert_eq!(range["metadata"]["finalizers"], json!(["networking.k8s.io/service-cidr-finalizer"]));
    let ready = &range["status"]["conditions"][0];
    assert_eq!((&ready["type"], &ready["status"]), (&json!("Ready"), &json!("True")));
}

#[tokio::test]
async fn an_address_is_an_object_as_long_as_its_service_holds_it() {
    let fixture = Fixture::new().await;
    fixture.post(SERVICES, &service("s", "")).await.ok();
    let held = address(&fixture, "s").await;
    let object = fixture.get(&format!("{ADDRESSES}/{held}")).await.ok();
    let parent = json!({"resource": "services", "namespace": "default", "name": "s"});
    assert_eq!(object["spec"]["parentRef"], parent);
    let labels = json!({"ipaddress.kubernetes.io/ip-family": "IPv4",
        "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"});
    assert_eq!(object["metadata"]["labels"], labels);
    assert!(object["metadata"]["uid"].is_string() && object["metadata"]["creationTimestamp"].is_string());
    let external =
        json!({"spec": {"type": "ExternalName", "externalName": "a.b", "clusterIP": "", "clusterIPs": null}});
    fixture.patch(&format!("{SERVICES}/s"), MERGE, &external).await.ok();
    assert_eq!(fixture.get(&format!("{ADDRESSES}/{held}")).await.failed().0, 404);
    fixture.patch(&format!("{SERVICES}/s"), MERGE, &json!({"spec": {"type": "ClusterIP"}})).await.ok();
    let held = address(&fixture, "s").await;
    fixture.get(&format!("{ADDRESSES}/{held}")).await.ok();
    fixture.delete(&format!("{SERVICES}/s")).await.ok();
    assert_eq!(fixture.get(ADDRESSES).await.ok()["items"], json!([]));
    fixture.post(&format!("{SERVICES}?dryRun=All"), &service("dry", "")).await.ok();
    assert_eq!(fixture.get(ADDRESSES).await.ok()["items"], json!([]));
}

#[tokio::test]
async fn an_address_somebody_reserved_is_given_to_no_service() {
    let fixture = Fixture::new().await;
    let parent = json!({"group": "example.com", "resource": "balancers", "name": "b"});
    let reserved = json!({"metadata": {"name": "10.96.0.77"}, "spec": {"parentRef": parent}});
    fixture.post(ADDRESSES, &reserved).await.ok();
    let (code, _, message) = fixture.post(SERVICES, &service("s", "10.96.0.77")).await.failed();
    assert_eq!(code, 422);
    let why = "failed to allocate IP 10.96.0.77: provided IP is already allocated";
    assert!(message.ends_with(&format!("spec.clusterIPs: Invalid value: [\"10.96.0.77\"]: {why}")), "{message}");
    fixture.delete(&format!("{ADDRESSES}/10.96.0.77")).await.ok();
    fixture.post(SERVICES, &service("s", "10.96.0.77")).await.ok();
}

#[tokio::test]
async fn a_further_range_gives_addresses_too() {
    let fixture = Fixture::new().await;
    let (_, _, message) = fixture.post(SERVICES, &service("s", "10.97.0.9")).await.failed();
    let why = "failed to allocate IP 10.97.0.9: the provided network does not match the current range";
    assert!(message.ends_with(why), "{message}");
    let range = json!({"metadata": {"name": "more"}, "spec": {"cidrs": ["10.97.0.0/24"]}});
    fixture.post(RANGES, &range).await.ok();
    fixture.post(SERVICES, &service("s", "10.97.0.9")).await.ok();
    fixture.get(&format!("{ADDRESSES}/10.97.0.9")).await.ok();
    let not_ready = json!({"status": {"conditions": [{"type": "Ready", "status": "False", "reason": "r", "message": "m",
        "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    fixture.patch(&format!("{RANGES}/more/status"), MERGE, &not_ready).await.ok();
    assert_eq!(fixture.post(SERVICES, &service("t", "10.97.0.10")).await.failed().0, 422);
}

#[tokio::test]
async fn missing_addresses_are_made_and_leaked_ones_go() {
    let fixture = Fixture::new().await;
    fixture.post(SERVICES, &service("s", "")).await.ok();
    let held = address(&fixture, "s").await;
    fixture.delete(&format!("{ADDRESSES}/{held}")).await.ok();
    let leaked = json!({"metadata": {"name": "10.96.0.99",
        "labels": {"ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"}},
        "spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "gone"}}});
    fixture.post(ADDRESSES, &leaked).await.ok();
    fixture.server.bootstrap().await.unwrap();
    fixture.get(&format!("{ADDRESSES}/{held}")).await.ok();
    assert_eq!(fixture.get(&format!("{ADDRESSES}/10.96.0.99")).await.failed().0, 404);
}

#[tokio::test]
async fn pods_carry_the_zone_of_their_node() {
    let fixture = Fixture::new().await;
    let labels = json!({"topology.kubernetes.io/zone": "z", "topology.kubernetes.io/region": "r", "other": "o"});
    fixture.post("/api/v1/nodes", &json!({"metadata": {"name": "n", "labels": labels}})).await.ok();
    let pods = "/api/v1/namespaces/default/pods";
    let containers = json!([{"name": "c", "image": "i"}]);
    let pod = json!({"metadata": {"name": "p", "labels": {"own": "l"}}, "spec": {"containers": containers}});
    fixture.post(pods, &pod).await.ok();
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    fixture.post(&format!("{pods}/p/binding"), &binding).await.ok();
    let bound = fixture.get(&format!("{pods}/p")).await.ok();
    let wanted = json!({"own": "l", "topology.kubernetes.io/region": "r", "topology.kubernetes.io/zone": "z"});
    assert_eq!(bound["metadata"]["labels"], wanted);
    let placed = json!({"metadata": {"name": "q", "labels": {"topology.kubernetes.io/zone": "mine"}},
        "spec": {"nodeName": "n", "containers": containers}});
    let placed = fixture.post(pods, &placed).await.ok();
    let wanted = json!({"topology.kubernetes.io/region": "r", "topology.kubernetes.io/zone": "mine"});
    assert_eq!(placed["metadata"]["labels"], wanted);
}
