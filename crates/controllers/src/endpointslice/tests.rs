use serde_json::{Value, json};

use super::*;
use slices::{ENDPOINTS_MAX, Plan, decide};

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

fn plans(service: &Service, pods: &[Arc<Pod>], existing: &[Arc<EndpointSlice>]) -> Vec<Plan> {
    let place = |_: &str| Place::Zone(Some("z".into()));
    let mut plans = decide(service, groups(service, pods, place).unwrap(), existing);
    plans.iter_mut().for_each(|plan| hints::near(plan, Distribution::of(service)));
    plans
}

fn plan(service: &Service, pods: &[Arc<Pod>], existing: &[Arc<EndpointSlice>]) -> Vec<Write> {
    plans(service, pods, existing).into_iter().flat_map(|plan| plan.writes(service, None)).collect()
}

/// How many slices are created, updated and deleted.
fn counted(writes: &[Write]) -> (usize, usize, usize) {
    let count = |is: fn(&Write) -> bool| writes.iter().filter(|write| is(write)).count();
    (
        count(|write| matches!(write, Write::Create(_))),
        count(|write| matches!(write, Write::Update(_))),
        count(|write| matches!(write, Write::Delete(_))),
    )
}

/// Slices with so many endpoints each, of the first of the pods.
fn existing(service: &Service, pods: &[Arc<Pod>], sizes: &[usize]) -> Vec<Arc<EndpointSlice>> {
    let mut rest = pods;
    let mut slices = Vec::new();
    for size in sizes {
        let (own, others) = rest.split_at(*size);
        rest = others;
        let made = applied(plan(service, own, &[]), &slices);
        slices = made;
    }
    slices
}

fn sizes(slices: &[Arc<EndpointSlice>]) -> Vec<usize> {
    let mut sizes: Vec<usize> = slices.iter().map(|slice| of(slice).len()).collect();
    sizes.sort_unstable();
    sizes
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
        let slices = applied(plan(&service, &pods, &[]), &[]);
        let [ready, unready] = of(&slices[0]) else { panic!("{slices:?}") };
        assert_eq!((ready.zone.as_deref(), unready.zone.as_deref()), (Some("z"), Some("z")));
        assert_eq!(unready.hints, None);
        let hints = ready.hints.clone().unwrap_or_default();
        let zone = hints.for_zones.map(|zones| zones[0].name.clone());
        let node = hints.for_nodes.map(|nodes| nodes[0].name.clone());
        assert_eq!((zone.as_deref(), node.as_deref()), (zones, nodes), "{distribution}");
        assert_eq!(ready.hints.is_some(), zones.is_some());
        assert!(plan(&service, &pods, &slices).is_empty());
    }
}

#[test]
fn endpoints_are_packed_by_upstreams_rules() {
    let service = service(json!({}));
    let pods: Vec<_> = (0..400).map(|at| pod(at, 80, true)).collect();
    for (before, pods_now, writes, after) in [
        // a new slice is filled, and what is left fills the one it fills best
        (&[62, 61][..], 250, (1, 1, 0), &[61, 89, 100][..]),
        // what is left fits into none
        (&[74, 74], 300, (2, 0, 0), &[52, 74, 74, 100]),
        // the one that becomes fullest
        (&[90, 50, 70], 235, (0, 1, 0), &[50, 90, 95]),
        (&[100, 100], 201, (1, 0, 0), &[1, 100, 100]),
        (&[40, 40], 80, (0, 0, 0), &[40, 40]),
        (&[], 301, (4, 0, 0), &[1, 100, 100, 100]),
    ] {
        let slices = existing(&service, &pods, before);
        let planned = plan(&service, &pods[..pods_now], &slices);
        assert_eq!(counted(&planned), writes, "{before:?} -> {pods_now}");
        assert_eq!(sizes(&applied(planned, &slices)), after, "{before:?} -> {pods_now}");
    }
}

#[test]
fn slices_that_change_anyway_are_filled_first() {
    let service = service(json!({}));
    let mut pods: Vec<_> = (0..200).map(|at| pod(at, 80, true)).collect();
    let slices = existing(&service, &pods, &[20, 80]);
    pods[0] = pod(0, 80, false);
    let planned = plan(&service, &pods[..115], &slices);
    assert!(matches!(&planned[..], [Write::Update(slice)] if of(slice).len() == 35), "not the fuller one");
}

#[test]
fn slices_that_are_needed_no_more_become_those_that_are() {
    let service = service(json!({}));
    let pods = |port: i32| (0..300).map(|at| pod(at, port, true)).collect::<Vec<_>>();
    let slices = existing(&service, &pods(80), &[30; 10]);
    let planned = plan(&service, &pods(81), &slices);
    assert_eq!(counted(&planned), (0, 3, 7));
    let slices = applied(planned, &slices);
    assert_eq!(sizes(&slices), [100, 100, 100]);
    assert!(slices.iter().all(|slice| slice.ports.as_ref().unwrap()[0].port == Some(81)));
    // without any pod one of them stays, and says nothing
    let planned = plan(&service, &[], &slices);
    assert_eq!(counted(&planned), (0, 1, 2));
    let slices = applied(planned, &slices);
    assert!(slices[0].ports.as_ref().unwrap().is_empty() && of(&slices[0]).is_empty());
    assert!(plan(&service, &[], &slices).is_empty());
    assert_eq!(counted(&plan(&service, &pods(80)[..1], &slices)), (0, 1, 0));
}

#[test]
fn slices_of_an_earlier_service_of_that_name_are_replaced() {
    let service = service(json!({}));
    let pods = [pod(0, 80, true)];
    let mut earlier = service.clone();
    earlier.metadata.uid = Some("earlier".into());
    let slices = applied(plan(&earlier, &pods, &[]), &[]);
    assert_eq!(counted(&plan(&service, &pods, &slices)), (1, 0, 1));
}

#[test]
fn a_service_that_is_being_deleted_gets_no_new_slices() {
    let mut service = service(json!({}));
    service.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    assert!(plan(&service, &[pod(0, 80, true)], &[]).is_empty());
}

#[test]
fn each_address_family_has_slices_of_its_own() {
    let mut dual = Pod::clone(&pod(0, 8080, true));
    dual.status.as_mut().unwrap().pod_ips =
        serde_json::from_value(json!([{"ip": "10.0.0.1"}, {"ip": "fd00::1"}])).unwrap();
    let pods = [Arc::new(dual), pod(1, 8080, true)];
    let both = service(json!({"ipFamilies": ["IPv6", "IPv4"]}));
    let slices = applied(plan(&both, &pods, &[]), &[]);
    let found: Vec<_> = slices.iter().map(|slice| (slice.address_type.as_str(), of(slice).len())).collect();
    assert_eq!(found, [("IPv6", 1), ("IPv4", 2)]);
    assert_eq!(of(&slices[0])[0].addresses, ["fd00::1"]);
    let single = service(json!({"ipFamilies": ["IPv4"]}));
    assert_eq!(counted(&plan(&single, &pods, &slices)), (0, 0, 1));
    for (address, families) in [("10.0.0.1", &["IPv4"][..]), ("fd00::1", &["IPv6"]), ("None", &["IPv4", "IPv6"])] {
        let old = service(json!({"ipFamilies": null, "clusterIP": address}));
        let slices = applied(plan(&old, &[], &[]), &[]);
        assert_eq!(slices.iter().map(|slice| slice.address_type.as_str()).collect::<Vec<_>>(), families);
    }
}

#[test]
fn pods_that_have_ended_or_have_no_address_are_no_endpoints() {
    let with = |status: Value| {
        let mut changed = Pod::clone(&pod(0, 8080, true));
        changed.status = serde_json::from_value(status).unwrap();
        let service = service(json!({"publishNotReadyAddresses": true}));
        groups(&service, &[Arc::new(changed)], |_| Place::Zone(None)).unwrap().len()
    };
    assert_eq!(with(json!({"podIPs": [{"ip": "10.0.0.1"}], "phase": "Running"})), 1);
    assert_eq!(with(json!({"podIPs": [{"ip": "10.0.0.1"}], "phase": "Succeeded"})), 0);
    assert_eq!(with(json!({"podIPs": [{"ip": "10.0.0.1"}], "phase": "Failed"})), 0);
    assert_eq!(with(json!({"phase": "Pending"})), 0);
    assert_eq!(with(json!({"podIPs": [{"ip": "fd00::1"}]})), 0);
}

#[test]
fn named_ports_are_those_of_containers_then_of_sidecars_and_of_their_protocol() {
    let port = |number: i32, protocol: &str| json!({"name": "http", "containerPort": number, "protocol": protocol});
    let resolved = |spec: Value, port: Value| {
        let mut changed = Pod::clone(&pod(0, 8080, true));
        changed.spec = serde_json::from_value(spec).unwrap();
        let service = service(json!({"ports": [port]}));
        let groups = groups(&service, &[Arc::new(changed)], |_| Place::Zone(None)).unwrap();
        groups[0].ports.first().and_then(|port| port.port)
    };
    let named = json!({"name": "web", "port": 80, "targetPort": "http", "protocol": "TCP"});
    let container = |ports: &[Value]| json!({"name": "c", "ports": ports});
    let sidecar = |restart: Value| json!({"name": "s", "restartPolicy": restart, "ports": [port(5, "TCP")]});
    let spec = |ports: &[Value], init: Value| json!({"containers": [container(ports)], "initContainers": [init]});
    assert_eq!(resolved(spec(&[port(7, "TCP")], sidecar(json!("Always"))), named.clone()), Some(7));
    assert_eq!(resolved(spec(&[port(7, "UDP")], sidecar(json!("Always"))), named.clone()), Some(5));
    assert_eq!(resolved(spec(&[port(7, "UDP")], sidecar(json!(null))), named.clone()), None);
    assert_eq!(resolved(spec(&[], json!({"name": "i"})), json!({"port": 80, "targetPort": 8080})), Some(8080));
    assert_eq!(resolved(spec(&[], json!({"name": "i"})), json!({"port": 80})), Some(80));
    let services_own = json!({"port": 80, "appProtocol": "kubernetes.io/h2c"});
    let group = groups(&service(json!({"ports": [services_own]})), &[pod(0, 1, true)], |_| Place::Zone(None)).unwrap();
    assert_eq!(group[0].ports[0].app_protocol.as_deref(), Some("kubernetes.io/h2c"));
}

#[test]
fn written_slices_tell_what_they_answer_and_others_do_not_change_for_it() {
    let service = service(json!({}));
    let write = |pods: &[Arc<Pod>], existing: &[Arc<EndpointSlice>], trigger: Option<&str>| {
        let plans = plans(&service, pods, existing);
        let writes: Vec<_> = plans.into_iter().flat_map(|plan| plan.writes(&service, trigger)).collect();
        applied(writes, existing)
    };
    let told = |slices: &[Arc<EndpointSlice>]| slices[0].annotations().get(TRIGGER_TIME).cloned();
    let pods = [pod(0, 80, true), pod(1, 80, true)];
    let slices = write(&pods[..1], &[], Some("2026-01-01T00:00:00Z"));
    assert_eq!(told(&slices).as_deref(), Some("2026-01-01T00:00:00Z"));
    let slices = write(&pods[..1], &slices, Some("2026-01-01T00:00:01Z"));
    assert_eq!(told(&slices).as_deref(), Some("2026-01-01T00:00:00Z"), "nothing to write");
    assert_eq!(told(&write(&pods, &slices, None)), None);
}

#[test]
fn the_headless_label_is_the_controllers_own() {
    let mut marked = service(json!({}));
    marked.metadata.labels.get_or_insert_default().insert(HEADLESS.into(), "mine".into());
    marked.metadata.labels.get_or_insert_default().insert(MANAGED_BY.into(), "me".into());
    let slices = applied(plan(&marked, &[], &[]), &[]);
    assert!(!slices[0].labels().contains_key(HEADLESS) && slices[0].labels()[MANAGED_BY] == MANAGER);
}

#[test]
fn pods_of_a_missing_node_are_left_out_unless_everything_is_published() {
    for (publishes, expected) in [(false, 0), (true, 1)] {
        let service = service(json!({"publishNotReadyAddresses": publishes}));
        let groups = groups(&service, &[pod(0, 8080, true)], |_| Place::Missing).unwrap();
        assert_eq!(groups.len(), expected);
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
