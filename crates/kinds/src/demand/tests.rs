use serde_json::{Value, json};

use super::*;

fn asked(spec: &Value, status: &Value) -> Resources {
    requests(&serde_json::from_value(json!({"spec": spec, "status": status})).unwrap())
}

fn container(name: &str, cpu: &str) -> Value {
    json!({"name": name, "resources": {"requests": {"cpu": cpu}}})
}

fn sidecar(name: &str, cpu: &str) -> Value {
    json!({"name": name, "restartPolicy": "Always", "resources": {"requests": {"cpu": cpu}}})
}

#[test]
fn a_pod_needs_the_larger_of_starting_and_running() {
    for (what, spec, expected) in [
        ("containers add up", json!({"containers": [container("a", "300m"), container("b", "200m")]}), 500),
        (
            "the largest init container",
            json!({"containers": [container("a", "300m")],
                "initContainers": [container("i", "1"), container("j", "500m")]}),
            1000,
        ),
        (
            "sidecars run beside containers",
            json!({"containers": [container("a", "300m")], "initContainers": [sidecar("s", "200m")]}),
            500,
        ),
        (
            "an init container runs beside earlier sidecars, plus overhead",
            json!({"containers": [container("a", "300m")], "overhead": {"cpu": "50m"},
                "initContainers": [container("i", "1"), sidecar("s", "200m"), container("j", "900m")]}),
            1150,
        ),
        (
            "and not beside later ones",
            json!({"containers": [container("a", "300m")],
                "initContainers": [container("i", "900m"), sidecar("s", "200m")]}),
            900,
        ),
        (
            "pod-level requests replace the sum",
            json!({"containers": [container("a", "300m")], "resources": {"requests": {"cpu": "2"}},
                "overhead": {"cpu": "100m"}}),
            2100,
        ),
    ] {
        assert_eq!(asked(&spec, &json!({})).cpu_milli, expected, "{what}");
    }
}

#[test]
fn huge_pages_of_a_pod_replace_those_of_containers_and_other_resources_do_not() {
    let spec = json!({"containers": [{"name": "a", "resources": {"requests": {
            "hugepages-2Mi": "2Mi", "example.com/gpu": "1"}}}],
        "resources": {"requests": {"hugepages-2Mi": "4Mi", "example.com/gpu": "3"}}});
    let fit = asked(&spec, &json!({}));
    assert_eq!((fit.amount("hugepages-2Mi"), fit.amount("example.com/gpu")), (4 << 20, 1));
}

#[test]
fn what_a_container_was_given_counts_while_it_is_resized() {
    let spec = json!({"containers": [container("a", "500m")]});
    let given = |cpu: &str| {
        json!({"containerStatuses": [{"name": "a", "allocatedResources": {"cpu": cpu}, "ready": true,
        "image": "i", "imageID": "i", "restartCount": 0}]})
    };
    assert_eq!(asked(&spec, &given("800m")).cpu_milli, 800, "a wish to shrink frees nothing yet");
    assert_eq!(asked(&spec, &given("200m")).cpu_milli, 500, "a wish to grow takes its room");
    let mut status = given("200m");
    status["conditions"] = json!([{"type": "PodResizePending", "status": "True", "reason": "Infeasible"}]);
    assert_eq!(asked(&spec, &status).cpu_milli, 200, "a wish that cannot be granted takes none");
}

#[test]
fn ports_conflict_on_one_address_or_on_all() {
    let spec = json!({"containers": [{"name": "a", "ports": [
        {"containerPort": 80, "hostPort": 8080, "hostIP": "127.0.0.1"}, {"containerPort": 81}]}],
        "initContainers": [{"name": "i", "ports": [{"containerPort": 1, "hostPort": 1}]},
            {"name": "s", "restartPolicy": "Always", "ports": [{"containerPort": 53, "hostPort": 53, "protocol": "UDP"}]}]});
    let ports: Vec<HostPort> = HostPort::of(&serde_json::from_value(spec).unwrap()).collect();
    let port = |ip: &str, protocol: &str, port| HostPort { ip: ip.into(), protocol: protocol.into(), port };
    assert_eq!(ports, [port("127.0.0.1", "TCP", 8080), port("", "UDP", 53)]);
    for (other, conflicts) in [
        (port("127.0.0.1", "TCP", 8080), true),
        (port("0.0.0.0", "TCP", 8080), true),
        (port("", "TCP", 8080), true),
        (port("10.0.0.1", "TCP", 8080), false),
        (port("127.0.0.1", "UDP", 8080), false),
        (port("127.0.0.1", "TCP", 8081), false),
    ] {
        assert_eq!(ports[0].conflicts(&other), conflicts, "{other:?}");
        assert_eq!(other.conflicts(&ports[0]), conflicts, "{other:?}");
    }
}
