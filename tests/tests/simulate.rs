//! `keelson simulate`: a cluster to test on, without machines.

use std::{collections::BTreeSet, process::Output, time::Instant};

use serde_json::Value;
use system_tests::{Instance, Options, eventually, instance::run, simulation::Simulation};

/// Everything at once, so that a test waits for the cluster alone.
const SOON: [&str; 8] =
    ["--start-after", "0s", "--ready-after", "0s..200ms", "--run-for", "0s..200ms", "--terminate-after", "0s..200ms"];

fn items(instance: &Instance, arguments: &[&str]) -> Vec<Value> {
    let list = instance.get(arguments).unwrap_or_else(|| panic!("kubectl get {arguments:?}"));
    list["items"].as_array().expect("a list").clone()
}

fn names(items: &[Value]) -> BTreeSet<String> {
    items.iter().filter_map(|item| Some(item["metadata"]["name"].as_str()?.to_owned())).collect()
}

fn start(instance: &Instance, arguments: &[&str]) -> Simulation {
    Simulation::start(instance, &[&SOON[..], arguments].concat())
}

#[test]
fn workloads_run_on_nodes_that_go_when_it_is_interrupted() {
    let instance = Instance::start(Options::default());
    let simulation = start(&instance, &["--nodes", "20", "--zones", "2", "--label", "pool=test", "--seed", "3"]);
    instance.kubectl(&["wait", "--for=condition=Ready", "nodes", "-l", "pool=test", "--timeout=60s"]);
    instance.apply(
        "---\n{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {replicas: 30, selector: {matchLabels: {app: web}}, \
         template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c, image: any}]}}}}\n---\n\
         {apiVersion: batch/v1, kind: Job, metadata: {name: sum}, spec: {completions: 12, parallelism: 4, \
         template: {spec: {restartPolicy: Never, containers: [{name: c, image: any}]}}}}\n---\n\
         {apiVersion: batch/v1, kind: Job, metadata: {name: wrong}, spec: {backoffLimit: 0, \
         template: {metadata: {annotations: {simulate.keelson.dev/exit-code: '3'}}, \
         spec: {restartPolicy: Never, containers: [{name: c, image: any}]}}}}",
    );
    instance.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    instance.kubectl(&["wait", "--for=condition=Complete", "job/sum", "--timeout=60s"]);
    instance.kubectl(&["wait", "--for=condition=Failed", "job/wrong", "--timeout=60s"]);
    let pods = items(&instance, &["pods", "-l", "app=web"]);
    let text = |pod: &Value, pointer: &str| pod.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let addresses: BTreeSet<String> = pods.iter().map(|pod| text(pod, "/status/podIP")).collect();
    assert_eq!(addresses.len(), 30, "every pod has an address of its own: {addresses:?}");
    let nodes: BTreeSet<String> = pods.iter().map(|pod| text(pod, "/spec/nodeName")).collect();
    assert!(nodes.len() > 10 && nodes.iter().all(|node| node.starts_with("sim-00")), "{nodes:?}");

    instance.kubectl(&["delete", "deployment/web", "--timeout=60s"]);
    eventually("the pods are gone", || items(&instance, &["pods", "-l", "app=web"]).is_empty().then_some(()));
    let (status, printed) = simulation.interrupt();
    assert!(status.success(), "{printed}");
    assert!(printed.contains("nodes     20 for") && printed.contains("1 failed"), "{printed}");
    assert!(items(&instance, &["nodes"]).is_empty());
    assert!(items(&instance, &["leases", "-n", "kube-node-lease"]).is_empty());
}

#[test]
fn a_node_that_fails_loses_its_pods_to_others_and_may_come_back() {
    let instance = Instance::start(Options::default());
    let _simulation = start(&instance, &["--nodes", "3"]);
    instance.apply(
        "---\n{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {replicas: 6, selector: {matchLabels: {app: web}}, \
         template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c, image: any}], tolerations: [\
         {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 0}]}}}}",
    );
    instance.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    instance.kubectl(&["annotate", "node", "sim-0001", "simulate.keelson.dev/down=true"]);
    let ready = |node: &str| {
        let node = instance.get(&["node", node]).expect("the node");
        let conditions = node["status"]["conditions"].as_array().expect("conditions").clone();
        let ready = conditions.iter().find(|condition| condition["type"] == "Ready").expect("Ready");
        ready["status"].as_str().expect("a status").to_owned()
    };
    let since = Instant::now();
    eventually("the node is found silent", || (ready("sim-0001") == "Unknown").then_some(()));
    assert!(since.elapsed().as_secs() > 20, "a node has its grace");
    let elsewhere = |pod: &&Value| pod["spec"]["nodeName"] != "sim-0001" && pod["status"]["phase"] == "Running";
    eventually("its pods run elsewhere", || {
        let pods = items(&instance, &["pods", "-l", "app=web"]);
        (pods.iter().filter(elsewhere).count() == 6).then_some(())
    });
    let stuck = items(&instance, &["pods", "-l", "app=web", "--field-selector", "spec.nodeName=sim-0001"]);
    assert!(!stuck.is_empty(), "a silent node ends no pods");
    assert!(stuck.iter().all(|pod| pod["metadata"]["deletionTimestamp"].is_string()), "{stuck:?}");

    instance.kubectl(&["annotate", "node", "sim-0001", "simulate.keelson.dev/down-"]);
    eventually("the node works again", || (ready("sim-0001") == "True").then_some(()));
    eventually("and ends what it was told to", || {
        let there = items(&instance, &["pods", "-l", "app=web", "--field-selector", "spec.nodeName=sim-0001"]);
        names(&there).is_disjoint(&names(&stuck)).then_some(())
    });
}

#[test]
fn a_load_is_measured_and_a_run_takes_over_what_another_left() {
    let instance = Instance::start(Options::default());
    let arguments = ["simulate", "--nodes", "5", "--for", "2s", "--keep", "--pods-per-second", "20", "-o", "json"];
    let first = instance.keelson(&[&arguments[..], &SOON].concat());
    let error = String::from_utf8_lossy(&first.stderr).into_owned();
    assert!(first.status.success(), "{error}");
    let summary: Value = serde_json::from_slice(&first.stdout).expect("JSON alone");
    let load = &summary["load"];
    let created = load["created"].as_u64().expect("a number");
    assert!((10..=40).contains(&created), "{summary}");
    assert_eq!([&load["scheduled"], &load["ready"], &load["refused"]], [created, created, 0], "{summary}");
    assert!(load["scheduling"]["p50Ms"].as_f64().is_some_and(|p50| p50 > 0.0), "{summary}");
    assert_eq!(items(&instance, &["nodes"]).len(), 5);

    let again = ["simulate", "--nodes", "3", "--for", "1s", "--start-after", "0s"];
    let second = instance.keelson(&again);
    let error = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(second.status.success() && error.contains("3 nodes are ready") && error.contains("3 of them"), "{error}");
    assert!(items(&instance, &["nodes"]).is_empty());
}

#[test]
fn pods_that_do_not_fit_are_counted_with_the_reason() {
    let instance = Instance::start(Options::default());
    let small = ["simulate", "--nodes", "2", "--cpu", "500m", "--for", "1s", "--pods-per-second", "20"];
    let output = instance.keelson(&[&small[..], &SOON].concat());
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && printed.contains("10 scheduled, 10 ready"), "{printed}");
    assert!(printed.contains(" pods: 0/2 nodes are available: 2 Insufficient cpu"), "{printed}");
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_made() {
    let line = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let cases = [
        (vec!["--nodes", "0"], "0 is not in"),
        (vec!["--nodes", "1", "--ready-after", "3s..1s"], "ends before it begins"),
        (vec!["--nodes", "1", "--fail-rate", "2"], "not a share from 0 to 1"),
        (vec!["--nodes", "1", "--taint", "a=b"], "not a taint"),
        (vec!["--nodes", "1", "--pod-cidr", "10.0.0.1/8"], "not a range of IPv4 addresses"),
        (vec!["--nodes", "1", "--pods-per-second", "0"], "not a rate above 0"),
    ];
    for (arguments, reason) in cases {
        let output = run(&[&["simulate"][..], &arguments].concat());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(line(&output).contains(reason), "{}", line(&output));
    }
    let nowhere = tempfile::tempdir().unwrap();
    let data_dir = nowhere.path().display().to_string();
    let output = run(&["simulate", "--nodes", "1", "--data-dir", &data_dir]);
    assert_eq!(output.status.code(), Some(7));
    assert!(line(&output).contains("--kubeconfig"), "{}", line(&output));
    let file = nowhere.path().join("template.yaml");
    std::fs::write(&file, "kind: Service\nspec: {ports: []}\n").unwrap();
    let template = file.display().to_string();
    let output = run(&["simulate", "--nodes", "1", "--pods-per-second", "1", "--template", &template]);
    assert_eq!(output.status.code(), Some(2));
    assert!(line(&output).contains("neither a Pod nor has a pod template"), "{}", line(&output));
}

/// Values of metrics without labels that matter here, and the number of stored objects by resource.
fn measured(instance: &Instance) -> (f64, Vec<(String, f64)>) {
    let text = instance.kubectl(&["get", "--raw", "/metrics"]);
    let value = |line: &str| line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number");
    let tasks = text.lines().find(|line| line.starts_with("tokio_alive_tasks ")).map(value).expect("tasks are counted");
    let objects = text.lines().filter(|line| line.starts_with("apiserver_storage_objects{"));
    // what happened is remembered for an hour
    let objects = objects.filter(|line| !line.contains("\"events"));
    (tasks, objects.map(|line| (line.split(' ').next().unwrap_or_default().to_owned(), value(line))).collect())
}

#[test]
fn many_deployments_updated_at_once_converge_and_leave_nothing_behind() {
    const MANY: usize = 100;
    const REPLICAS: usize = 2;
    let instance = Instance::start(Options::default());
    let _simulation = start(&instance, &["--nodes", "100"]);
    let manifest: Vec<String> = (0..MANY)
        .map(|number| {
            format!(
                "---\n{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: app-{number}}}, spec: {{replicas: {REPLICAS}, \
                 selector: {{matchLabels: {{app: app-{number}}}}}, template: {{metadata: {{labels: {{app: app-{number}}}}}, \
                 spec: {{containers: [{{name: c, image: any}}]}}}}}}}}\n"
            )
        })
        .collect();
    let manifest = manifest.concat();
    let done = |deployment: &&Value| {
        let status = &deployment["status"];
        status["observedGeneration"] == deployment["metadata"]["generation"]
            && ["replicas", "updatedReplicas", "readyReplicas"].iter().all(|name| status[*name] == REPLICAS)
    };
    let all_done = |wish: &str| {
        eventually(wish, || (items(&instance, &["deployments"]).iter().filter(done).count() == MANY).then_some(()));
    };
    let round = || {
        instance.apply(&manifest);
        all_done("all are there");
        for image in ["any:2", "any:3"] {
            instance.kubectl(&["set", "image", "deployments", "--all", &format!("c={image}")]);
            all_done("all have rolled over");
            let pods = items(&instance, &["pods"]);
            let new = pods.iter().filter(|pod| pod["spec"]["containers"][0]["image"] == image);
            assert_eq!(new.count(), MANY * REPLICAS);
        }
        assert_eq!(items(&instance, &["replicasets"]).len(), 3 * MANY, "a revision each");
        instance.kubectl(&["delete", "deployments", "--all"]);
        eventually("nothing is left of them", || {
            let left = ["replicasets", "pods"].map(|kind| items(&instance, &[kind]).len());
            (left == [0, 0]).then_some(())
        });
    };
    // the first one makes what is made once: connections, informers
    round();
    let before = measured(&instance);
    round();
    eventually("objects and tasks are as before", || {
        let after = measured(&instance);
        let same = after.1 == before.1 && after.0 <= before.0 + 5.0;
        if !same {
            eprintln!("tasks {} then, {} now; objects {:?}", before.0, after.0, after.1);
        }
        same.then_some(())
    });
}
