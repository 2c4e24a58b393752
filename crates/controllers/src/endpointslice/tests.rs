use serde_json::{Value, json};

use super::*;
use slices::{ENDPOINTS_MAX, decide};

fn service(changes: Value) -> Service {
    let mut service = json!({"metadata": {"name": "web", "namespace": "default", "uid": "svc", "labels": {"team": "a"}},
        "spec": {"selector": {"app": "web"}, "clusterIP": "10.0.0.1", "ipFamilies": ["IPv4"],
            "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}]}});
    for (key, value) in changes.as_object().unwrap() {
        service["spec"][key] = value.clone();
    }
    serde_json::from_value(service).unwrap()
}

fn pod(at: usize, port: i32, ready: bool) -> Arc<Pod> {
    let ip = format!("10.0.{}.{}", at / 250, at % 250 + 1);
    Arc::new(
        serde_json::from_value(json!({
            "metadata": {"name": format!("p{at}"), "namespace": "default", "uid": format!("u{at}"), "labels": {"app": "web"}},
            "spec": {"nodeName": "a", "hostname": "zero", "subdomain": "web",
                "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": port}]}]},
            "status": {"podIP": ip, "podIPs": [{"ip": ip}],
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]}}))
        .unwrap(),
    )
}

fn of(slice: &EndpointSlice) -> &[k8s_openapi::api::discovery::v1::Endpoint] {
    slice.endpoints.as_deref().unwrap()
}

fn plan(service: &Service, pods: &[Arc<Pod>], existing: &[Arc<EndpointSlice>]) -> Vec<Write> {
    decide(service, groups(service, pods, |_| Place::Zone(None)).unwrap(), existing)
}

/// What the writes make of the slices.
fn applied(writes: Vec<Write>, existing: &[Arc<EndpointSlice>]) -> Vec<Arc<EndpointSlice>> {
    let mut slices: Vec<Arc<EndpointSlice>> = existing.to_vec();
    for write in writes {
        match write {
            Write::Create(mut slice) => {
                slice.metadata.name = Some(format!("web-{}", slices.len()));
                slices.push(Arc::from(slice));
            }
            Write::Update(new) => {
                let slot = slices.iter_mut().find(|slice| slice.metadata.name == new.metadata.name).unwrap();
                *slot = Arc::from(new);
            }
            Write::Delete(gone) => slices.retain(|slice| slice.metadata.name != gone.metadata.name),
        }
    }
    slices
}

#[test]
fn endpoints_show_readiness_place_and_target() {
    let mut leaving = Pod::clone(&pod(2, 8080, true));
    leaving.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    let pods = [pod(0, 8080, true), pod(1, 8080, false), Arc::new(leaving)];
    let slices = applied(plan(&service(json!({})), &pods, &[]), &[]);
    let conditions: Vec<_> = of(&slices[0])
        .iter()
        .map(|e| e.conditions.as_ref().map(|c| (c.ready.unwrap(), c.serving.unwrap(), c.terminating.unwrap())).unwrap())
        .collect();
    assert_eq!(conditions, [(true, true, false), (false, false, false), (false, true, true)]);
    let first = &of(&slices[0])[0];
    assert_eq!((first.hostname.as_deref(), first.node_name.as_deref()), (Some("zero"), Some("a")));
    assert_eq!(first.target_ref.as_ref().unwrap().uid.as_deref(), Some("u0"));
    assert_eq!(slices[0].ports.as_ref().unwrap()[0].port, Some(8080));
    assert_eq!(slices[0].labels()["kubernetes.io/service-name"], "web");

    let published = service(json!({"publishNotReadyAddresses": true}));
    let slices = applied(plan(&published, &pods, &[]), &[]);
    assert!(of(&slices[0]).iter().all(|e| e.conditions.as_ref().unwrap().ready == Some(true)));
}

#[test]
fn services_without_a_selector_are_left_alone() {
    assert!(groups(&service(json!({"selector": null})), &[], |_| Place::Missing).is_none());
    assert!(groups(&service(json!({"type": "ExternalName"})), &[], |_| Place::Missing).is_none());
}

#[test]
fn a_service_without_pods_has_one_empty_slice() {
    let service = service(json!({"clusterIP": "None"}));
    let slices = applied(plan(&service, &[], &[]), &[]);
    assert_eq!((slices.len(), of(&slices[0]).len()), (1, 0));
    assert!(slices[0].labels().contains_key("service.kubernetes.io/headless"));
    assert!(plan(&service, &[], &slices).is_empty(), "and it stays");
}

#[test]
fn pods_that_resolve_a_port_differently_are_in_different_slices() {
    let slices = applied(plan(&service(json!({})), &[pod(0, 8080, true), pod(1, 9090, true)], &[]), &[]);
    let mut ports: Vec<_> = slices.iter().map(|slice| slice.ports.as_ref().unwrap()[0].port.unwrap()).collect();
    ports.sort_unstable();
    assert_eq!(ports, [8080, 9090]);
}

#[test]
fn changes_touch_as_few_slices_as_possible() {
    let service = service(json!({}));
    let mut pods: Vec<_> = (0..250).map(|at| pod(at, 80, true)).collect();
    let slices = applied(plan(&service, &pods, &[]), &[]);
    let sizes: Vec<_> = slices.iter().map(|slice| of(slice).len()).collect();
    assert_eq!(sizes, [ENDPOINTS_MAX, ENDPOINTS_MAX, 50]);
    assert!(plan(&service, &pods, &slices).is_empty(), "nothing changed, nothing written");

    pods[7] = pod(7, 80, false);
    let writes = plan(&service, &pods, &slices);
    assert!(matches!(&writes[..], [Write::Update(slice)] if slice.metadata.name == slices[0].metadata.name));

    let slices = applied(writes, &slices);
    pods.remove(3);
    pods.push(pod(999, 80, true));
    let writes = plan(&service, &pods, &slices);
    assert_eq!(writes.len(), 1, "the new endpoint takes the place in the slice that changes anyway");
    let slices = applied(writes, &slices);
    let gone = plan(&service, &pods[..90], &slices);
    assert_eq!(gone.iter().filter(|write| matches!(write, Write::Delete(_))).count(), 2);
}

#[test]
fn traffic_that_is_to_stay_near_has_hints_on_ready_endpoints() {
    let pods = [pod(0, 8080, true), pod(1, 8080, false)];
    for (distribution, zones, nodes) in [
        (json!(null), None, None),
        (json!("PreferClose"), Some("z"), None),
        (json!("PreferSameZone"), Some("z"), None),
        (json!("PreferSameNode"), Some("z"), Some("a")),
    ] {
        let service = service(json!({"trafficDistribution": distribution}));
        let groups = groups(&service, &pods, |_| Place::Zone(Some("z".into()))).unwrap();
        let [ready, unready] = &groups[0].endpoints[..] else { panic!("{groups:?}") };
        assert_eq!((ready.zone.as_deref(), unready.zone.as_deref()), (Some("z"), Some("z")));
        assert_eq!(unready.hints, None);
        let hints = ready.hints.clone().unwrap_or_default();
        let zone = hints.for_zones.map(|zones| zones[0].name.clone());
        let node = hints.for_nodes.map(|nodes| nodes[0].name.clone());
        assert_eq!((zone.as_deref(), node.as_deref()), (zones, nodes), "{distribution}");
        assert_eq!(ready.hints.is_some(), zones.is_some());
    }
}

#[test]
fn pods_of_a_missing_node_are_left_out_unless_everything_is_published() {
    for (publishes, expected) in [(false, 0), (true, 1)] {
        let service = service(json!({"publishNotReadyAddresses": publishes}));
        let groups = groups(&service, &[pod(0, 8080, true)], |_| Place::Missing).unwrap();
        assert_eq!(groups[0].endpoints.len(), expected);
    }
}

#[test]
fn a_label_that_the_service_lost_goes_from_its_slices() {
    let service = service(json!({}));
    let slices = applied(plan(&service, &[pod(0, 8080, true)], &[]), &[]);
    let mut bare = service.clone();
    bare.metadata.labels = None;
    let slices = applied(plan(&bare, &[pod(0, 8080, true)], &slices), &slices);
    assert_eq!(slices[0].labels().keys().collect::<Vec<_>>(), [MANAGED_BY, SERVICE_NAME]);
    assert!(plan(&bare, &[pod(0, 8080, true)], &slices).is_empty());
}
