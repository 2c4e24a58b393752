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

/// Two ledgers of their own, which end at once where another process still has their claim.
const LOCKS: &str = r#"
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: locks, namespace: settlement}
spec:
  replicas: 2
  serviceName: locks
  selector: {matchLabels: {app: locks}}
  template:
    metadata: {labels: {app: locks}}
    spec:
      securityContext: {fsGroup: 65532}
      containers:
        - name: ledger
          image: settlement/ledger:0.1.0
          env:
            - {name: LEDGER_TOKEN, value: token}
            - {name: PREDECESSOR_SECONDS, value: "0"}
            - {name: DRAIN_SECONDS, value: "1"}
          readinessProbe: {httpGet: {path: /readyz, port: 8080}, periodSeconds: 1}
          volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
    - metadata: {name: data}
      spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
"#;

/// How many processes of this command run in the containers of an instance.
fn processes(instance: &Instance, command: &str) -> usize {
    let group = format!("keelson-{}/", slot(instance));
    let runs = |entry: std::fs::DirEntry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let groups = std::fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        line.split(|byte| *byte == 0).next() == Some(command.as_bytes()) && groups.contains(&group)
    };
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .map(runs)
        .filter(|is| *is)
        .count()
}

/// The place of an instance's network on this machine.
fn slot(instance: &Instance) -> u8 {
    let gateway = instance.get(&["gateway", "settlement", "-n", "settlement"]).unwrap();
    let addresses = gateway["status"]["addresses"].as_array().unwrap();
    let mut values = addresses.iter().filter_map(|address| address["value"].as_str());
    values.find_map(|address| address.strip_prefix("10.")?.split('.').next()?.parse::<u8>().ok()).unwrap() - 160
}

#[test]
fn rollouts_go_on_after_kill_9_and_no_container_runs_twice() {
    if !need_root("rollouts_go_on_after_kill_9_and_no_container_runs_twice") {
        return;
    }
    let mut instance = with_example();
    instance.apply(LOCKS);
    let workloads = ["statefulset/locks", "deployment/orders"];
    let wait = |instance: &Instance| {
        for workload in workloads {
            instance.kubectl(&["rollout", "status", "-n", "settlement", workload, "--timeout=90s"]);
        }
    };
    wait(&instance);
    let pods = |instance: &Instance| {
        let list = instance.get(&["pods", "-n", "settlement", "-l", "app=locks"]).unwrap();
        list["items"].as_array().cloned().unwrap_or_default()
    };
    for round in ["ROUND=1", "ROUND=2"] {
        let old: BTreeSet<String> = pods(&instance).iter().map(|pod| pod["metadata"]["uid"].to_string()).collect();
        for workload in workloads {
            instance.kubectl(&["set", "env", "-n", "settlement", workload, round]);
        }
        // in the middle of a termination, and in the second round of a start
        eventually("the rollout has begun", || {
            let begun = pods(&instance).iter().any(|pod| match round {
                "ROUND=1" => pod["metadata"]["deletionTimestamp"].is_string(),
                _ => !old.contains(&pod["metadata"]["uid"].to_string()),
            });
            begun.then_some(())
        });
        instance.kill();
        instance.resume();
        wait(&instance);
    }
    for pod in pods(&instance) {
        let container = &pod["status"]["containerStatuses"][0];
        assert_eq!((&container["ready"], &container["restartCount"]), (&true.into(), &0.into()), "{pod}");
    }
    let of_example =
        eventually("the old pods are gone", || Some(containers(&instance)).filter(|found| found.len() == 4));
    assert!(of_example.values().all(|(_, restarts)| *restarts == 0), "{of_example:?}");
    eventually("as many processes as there are pods", || {
        (processes(&instance, "/orders") == 2 && processes(&instance, "/ledger") == 3).then_some(())
    });
}

#[test]
fn down_leaves_nothing_behind_also_after_a_crash() {
    if !need_root("down_leaves_nothing_behind_also_after_a_crash") {
        return;
    }
    let mut instance = with_example();
    let data_dir = instance.data_dir().display().to_string();
    let slot = slot(&instance);
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
