//! The control plane without containers, driven by real kubectl.

use std::{io::Read, process::Stdio};

use serde_json::Value;
use system_tests::{Instance, Options, eventually};

const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: web, image: example/web:1}]
";

#[test]
fn what_was_answered_survives_kill_9() {
    let mut instance = Instance::start(Options::default());
    let mut made = Vec::new();
    for round in 0..5 {
        for number in 0..10 {
            let name = format!("map-{round}-{number}");
            instance.kubectl(&["create", "configmap", &name, &format!("--from-literal=round={round}")]);
            made.push(name);
        }
        instance.kill();
        instance.resume();
        for name in &made {
            let map = instance.get(&["configmap", name]);
            assert!(map.is_some(), "{name} was acknowledged and is gone after round {round}");
        }
    }
}

#[test]
fn deployments_make_replica_sets_and_pods_and_deletion_cascades() {
    let instance = Instance::start(Options::default());
    instance.apply(DEPLOYMENT);
    let count = |kind: &str| instance.get(&[kind]).and_then(|l| l["items"].as_array().map(Vec::len)).unwrap_or(0);
    eventually("three pods", || (count("pods") == 3).then_some(()));
    assert_eq!(count("replicasets"), 1);
    instance.kubectl(&["scale", "deployment/web", "--replicas=5"]);
    eventually("five pods", || (count("pods") == 5).then_some(()));
    let wide = instance.kubectl(&["get", "deployments", "-o", "wide"]);
    for column in ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE", "CONTAINERS", "IMAGES", "SELECTOR"] {
        assert!(wide.contains(column), "{column} in {wide}");
    }
    assert!(instance.kubectl(&["describe", "deployment", "web"]).contains("ScalingReplicaSet"));
    instance.kubectl(&["delete", "deployment", "web"]);
    eventually("nothing is left", || (count("pods") + count("replicasets") == 0).then_some(()));
}

#[test]
fn bad_objects_are_refused_with_object_field_and_rule() {
    let instance = Instance::start(Options::default());
    let unknown = DEPLOYMENT.replace("replicas: 3", "replicass: 3");
    let error = instance.kubectl_fails(&["apply", "--validate=strict", "-f", "-"], &unknown);
    assert!(error.contains("unknown field \"spec.replicass\""), "{error}");
    let wrong_type = DEPLOYMENT.replace("replicas: 3", "replicas: many");
    let error = instance.kubectl_fails(&["apply", "-f", "-"], &wrong_type);
    assert!(error.contains("replicas") && error.contains("int32"), "{error}");
    let mismatch = DEPLOYMENT
        .replace("template:\n    metadata: {labels: {app: web}}", "template:\n    metadata: {labels: {app: other}}");
    let error = instance.kubectl_fails(&["apply", "-f", "-"], &mismatch);
    assert!(error.contains("spec.template.metadata.labels") && error.contains("`selector` does not match"), "{error}");
    assert!(instance.get(&["deployment", "web"]).is_none(), "nothing is half done");
}

#[test]
fn namespaces_empty_themselves_before_they_go() {
    let instance = Instance::start(Options::default());
    instance.kubectl(&["create", "namespace", "team"]);
    eventually("the default service account", || instance.get(&["serviceaccount", "default", "-n", "team"]));
    instance.kubectl(&["create", "configmap", "a", "-n", "team"]);
    instance.kubectl(&["delete", "namespace", "team", "--timeout=60s"]);
    assert!(instance.get(&["namespace", "team"]).is_none());
}

#[test]
fn server_side_apply_reports_conflicts_with_the_owner() {
    let instance = Instance::start(Options::default());
    let manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: shared}\ndata: {owner: one}\n";
    let apply = |manager: &str, text: &str, more: &[&str]| {
        let file = instance.data_dir().join("manifest.yaml");
        std::fs::write(&file, text).unwrap();
        let path = file.display().to_string();
        let mut arguments = vec!["apply", "--server-side", "--field-manager", manager, "-f", &path];
        arguments.extend_from_slice(more);
        instance.kubectl_output(&arguments)
    };
    assert!(apply("one", manifest, &[]).status.success());
    let taken = manifest.replace("owner: one", "owner: two");
    let refused = apply("two", &taken, &[]);
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && error.contains("conflict with \"one\"") && error.contains(".data.owner"),
        "{error}"
    );
    assert!(apply("two", &taken, &["--force-conflicts"]).status.success());
    assert_eq!(instance.get(&["configmap", "shared"]).unwrap()["data"]["owner"], "two");
}

#[test]
fn kubectl_watch_sees_every_change() {
    let instance = Instance::start(Options::default());
    let mut watch = instance
        .kubectl_command(&["get", "configmaps", "--watch", "-o", "name", "-l", "watched=yes"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    for name in ["a", "b"] {
        let metadata = format!("{{name: {name}, labels: {{watched: 'yes'}}}}");
        instance.apply(&format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {metadata}\n"));
    }
    let mut stdout = watch.stdout.take().unwrap();
    let (mut seen, mut buffer) = (String::new(), [0; 256]);
    while !(seen.contains("configmap/a") && seen.contains("configmap/b")) {
        let length = stdout.read(&mut buffer).unwrap();
        assert!(length > 0, "the watch ended after {seen:?}");
        seen.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    watch.kill().unwrap();
    watch.wait().unwrap();
}

#[test]
fn every_built_in_kind_is_listed_by_kubectl() {
    let instance = Instance::start(Options::default());
    let resources = instance.kubectl(&["api-resources", "--verbs=list", "-o", "name"]);
    let resources: Vec<&str> = resources.lines().collect();
    assert!(resources.len() > 50, "{resources:?}");
    let list = instance.kubectl(&["get", &resources.join(","), "-A", "-o", "json"]);
    let list: Value = serde_json::from_str(&list).unwrap();
    assert!(list["items"].as_array().unwrap().len() > 10);
}

#[test]
fn readiness_names_every_component() {
    let instance = Instance::start(Options::default());
    let checks = instance.kubectl(&["get", "--raw", "/readyz?verbose"]);
    for component in ["api", "informers", "controllers", "scheduler"] {
        assert!(checks.contains(&format!("[+]{component} ok")), "{component} in {checks}");
    }
}

#[test]
fn a_service_account_may_do_what_its_role_says_and_nothing_else() {
    let instance = Instance::start(Options::default());
    eventually("the default service account", || instance.get(&["serviceaccount", "default"]));
    instance.kubectl(&["create", "role", "reader", "--verb=get,list", "--resource=configmaps"]);
    instance.kubectl(&["create", "rolebinding", "reader", "--role=reader", "--serviceaccount=default:default"]);
    let token = instance.kubectl(&["create", "token", "default"]);
    let server = instance.kubectl(&["config", "view", "-o", "jsonpath={.clusters[0].cluster.server}"]);
    let as_account = |arguments: &[&str]| {
        let mut all = vec!["--server", server.as_str(), "--insecure-skip-tls-verify", "--token", token.trim()];
        all.extend_from_slice(arguments);
        let mut command = std::process::Command::new(system_tests::kubectl::binary());
        command.args(&all).env("HOME", instance.data_dir()).env("KUBECONFIG", "/dev/null").output().unwrap()
    };
    let allowed = as_account(&["get", "configmaps"]);
    assert!(allowed.status.success(), "{}", String::from_utf8_lossy(&allowed.stderr));
    let refused = as_account(&["get", "secrets"]);
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        error.contains("system:serviceaccount:default:default") && error.contains("cannot list resource \"secrets\""),
        "{error}"
    );
}
