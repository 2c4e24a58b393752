//! Keelson dies and comes back; the application does not notice.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use system_tests::{
    Instance, Options, eventually,
    http::{self, Load},
    leftovers, need_root,
};

/// The pods that stay; those of Jobs end.
const SERVICES: &str = "app.kubernetes.io/name in (ledger, orders, web)";

fn with_example() -> Instance {
    let instance = Instance::start(Options { node: true, ..Options::default() });
    instance.install_example();
    instance
}

/// Container id and restart count of every container, by pod.
fn containers(instance: &Instance) -> BTreeMap<String, (String, i64)> {
    let pods = instance.get(&["pods", "-n", "settlement", "-l", SERVICES]).expect("pods are listed");
    let status = |pod: &Value| {
        let container = &pod["status"]["containerStatuses"][0];
        let id = container["containerID"].as_str().unwrap_or_default().to_owned();
        (
            pod["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
            (id, container["restartCount"].as_i64().unwrap_or(-1)),
        )
    };
    pods["items"].as_array().into_iter().flatten().map(status).collect()
}

#[test]
fn kill_9_under_load_loses_nothing_and_restarts_no_container() {
    if !need_root("kill_9_under_load_loses_nothing_and_restarts_no_container") {
        return;
    }
    let mut instance = with_example();
    let before = containers(&instance);
    let orders = instance.get(&["pods", "-n", "settlement", "-l", "app.kubernetes.io/name=orders"]).unwrap();
    let pod_ip = orders["items"][0]["status"]["podIP"].as_str().unwrap().to_owned();
    let through_gateway = Load::orders(&instance.gateway_url("/orders"), 4, "gateway");
    // The host reaches the pod's own address, and the pod reaches the ledger through the service: no Keelson in between.
    let pod_to_pod = Load::orders(&format!("http://{pod_ip}:8080/orders"), 2, "pod");
    eventually("both loads run", || (through_gateway.answered() > 50 && pod_to_pod.answered() > 50).then_some(()));
    instance.kill();
    let answered = pod_to_pod.answered();
    eventually("pods serve pods while keelson is down", || (pod_to_pod.answered() > answered + 100).then_some(()));
    instance.resume();
    let answered = through_gateway.answered();
    eventually("the gateway serves again", || (through_gateway.answered() > answered + 50).then_some(()));
    let (through_gateway, pod_to_pod) = (through_gateway.stop(), pod_to_pod.stop());
    assert_eq!(pod_to_pod.failed, 0, "{:?}", pod_to_pod.failures);
    eventually("the same containers are reported", || (containers(&instance) == before).then_some(()));

    let keys = instance.ledger_journal().keys;
    let unique: BTreeSet<&String> = keys.iter().collect();
    assert_eq!(unique.len(), keys.len(), "a key settles once");
    for key in through_gateway.answered.iter().chain(&pod_to_pod.answered) {
        assert!(unique.contains(key), "{key} was acknowledged and is not in the ledger");
    }
}

#[test]
fn down_leaves_nothing_behind_also_after_a_crash() {
    if !need_root("down_leaves_nothing_behind_also_after_a_crash") {
        return;
    }
    let mut instance = with_example();
    let data_dir = instance.data_dir().display().to_string();
    let address = instance.get(&["gateway", "settlement", "-n", "settlement"]).unwrap();
    let addresses: Vec<_> =
        address["status"]["addresses"].as_array().unwrap().iter().filter_map(|a| a["value"].as_str()).collect();
    let slot =
        addresses.iter().find_map(|a| a.strip_prefix("10.")?.split('.').next()?.parse::<u8>().ok()).unwrap() - 160;
    let run_dir = format!("/run/keelson/{slot}");
    let (bridge, table, cgroup) = (format!("link keelson{slot}"), format!("keelson-{slot}"), format!("keelson-{slot}"));
    let marks = [data_dir.as_str(), run_dir.as_str(), bridge.as_str(), table.as_str(), cgroup.as_str()];
    assert!(leftovers::mentioning(&marks).len() > 5, "the marks find what runs");
    instance.kill();
    let down = instance.keelson(&["down", "--purge"]);
    assert!(down.status.success(), "{}", String::from_utf8_lossy(&down.stderr));
    assert_eq!(leftovers::mentioning(&marks), Vec::<String>::new());
    assert!(!instance.data_dir().exists());
}

#[test]
fn two_instances_run_side_by_side() {
    if !need_root("two_instances_run_side_by_side") {
        return;
    }
    let (one, two) = (with_example(), with_example());
    for instance in [&one, &two] {
        assert!(http::get(&instance.gateway_url("/")).unwrap().0.is_success());
    }
    drop(one);
    assert!(http::get(&two.gateway_url("/")).unwrap().0.is_success(), "the other one goes on");
    assert_eq!(containers(&two).len(), 4);
}
