//! The example application in real containers behind the gateway, driven by real kubectl.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use serde_json::{Value, json};
use system_tests::{
    Instance, Options, eventually,
    example::order,
    http::{self, Load},
    need_root,
};

fn instance_with_example() -> Instance {
    let instance = Instance::start(Options { node: true, ..Options::default() });
    instance.install_example();
    instance
}

fn pods(instance: &Instance, app: &str) -> Vec<Value> {
    let selector = format!("app.kubernetes.io/name={app}");
    let list = instance.get(&["pods", "-n", "settlement", "-l", &selector]).expect("pods are listed");
    list["items"].as_array().cloned().unwrap_or_default()
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

fn restarts(pod: &Value) -> i64 {
    pod["status"]["containerStatuses"][0]["restartCount"].as_i64().unwrap_or_default()
}

#[test]
fn from_an_empty_directory_to_orders_through_the_gateway() {
    if !need_root("from_an_empty_directory_to_orders_through_the_gateway") {
        return;
    }
    let instance = instance_with_example();
    let url = instance.gateway_url("/orders");
    let (status, body) = http::post(&url, "o-1", &order("o-1")).unwrap();
    assert_eq!(status, 201, "{body:?}");
    let settled: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((&settled["amount_minor"], &settled["currency"]), (&json!(109), &json!("USD")));
    assert_eq!(http::post(&url, "o-1", &order("o-1")).unwrap().0, 200, "the same order again settles nothing new");
    let mut other = order("o-1");
    other["amount_minor"] = json!(999);
    assert_eq!(http::post(&url, "o-1", &other).unwrap().0, 409, "another order under the same key");
    let (status, body) = http::get(&instance.gateway_url("/api/orders/o-1")).unwrap();
    assert!(status.is_success() && String::from_utf8_lossy(&body).contains("o-1"));
    let page = http::get(&instance.gateway_url("/")).unwrap().1;
    assert!(String::from_utf8_lossy(&page).contains("Cross-border settlement"));
}

#[test]
fn kubectl_does_what_it_does_upstream() {
    if !need_root("kubectl_does_what_it_does_upstream") {
        return;
    }
    let instance = instance_with_example();
    let in_example = |arguments: &[&str]| {
        let mut all = vec!["-n", "settlement"];
        all.extend_from_slice(arguments);
        instance.kubectl(&all)
    };
    let wide = in_example(&["get", "pods", "-o", "wide"]);
    assert!(wide.lines().filter(|l| l.contains("1/1") && l.contains("Running")).count() >= 4, "{wide}");
    let described = in_example(&["describe", "pod", "-l", "app.kubernetes.io/name=ledger"]);
    for part in ["Successfully assigned settlement/ledger", "Pulled", "Created", "Started", "Ready"] {
        assert!(described.contains(part), "{part} in {described}");
    }
    logs_follow(&instance);
    exec_runs_and_reports_exit_codes(&instance);
    port_forward_reaches_the_pod(&instance);

    in_example(&["scale", "deployment/web", "--replicas=3"]);
    in_example(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    assert_eq!(pods(&instance, "web").len(), 3);

    in_example(&["set", "env", "deployment/web", "TITLE=Second"]);
    in_example(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    let title = || String::from_utf8_lossy(&http::get(&instance.gateway_url("/")).unwrap().1).into_owned();
    eventually("the new title", || title().contains("Second").then_some(()));
    in_example(&["rollout", "undo", "deployment/web"]);
    in_example(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    eventually("the old title", || title().contains("Cross-border").then_some(()));
    in_example(&[
        "delete",
        "-f",
        &format!("{}/../examples/settlement/manifests/40-web.yaml", env!("CARGO_MANIFEST_DIR")),
    ]);
    eventually("the pods of web are gone", || pods(&instance, "web").is_empty().then_some(()));
}

fn logs_follow(instance: &Instance) {
    let all = instance.kubectl(&["-n", "settlement", "logs", "statefulset/ledger"]);
    assert!(all.contains("\"message\":\"listening\""), "{all}");
    let tail = instance.kubectl(&["-n", "settlement", "logs", "statefulset/ledger", "--tail=1"]);
    assert_eq!(tail.lines().count(), 1, "{tail}");
    assert!(instance.kubectl(&["-n", "settlement", "logs", "statefulset/ledger", "--since=1h"]).contains("listening"));
    let mut follow = instance.kubectl_spawn(&["-n", "settlement", "logs", "-f", "statefulset/ledger", "--tail=0"]);
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    // The stream may open after the first of these orders; a later one is then seen.
    let mut number = 0;
    let (found, seen) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let line = lines.find(|l| l.as_ref().is_ok_and(|l| l.contains("followed-")));
        let _ = found.send(line.is_some());
    });
    eventually("a followed log line", || {
        number += 1;
        let key = format!("followed-{number}");
        http::post(&instance.gateway_url("/orders"), &key, &order(&key)).ok()?;
        seen.try_recv().ok().filter(|found| *found)
    });
    follow.kill().unwrap();
    follow.wait().unwrap();
}

fn exec_runs_and_reports_exit_codes(instance: &Instance) {
    // The example's images have no shell: what can be run is the service itself.
    let ledger = ["-n", "settlement", "exec", "ledger-0", "--", "/ledger"];
    assert!(instance.kubectl(&[&ledger[..], &["migrate"]].concat()).contains("nothing to migrate"));
    let again = instance.kubectl_output(&[&ledger[..], &["no-such-command"]].concat());
    assert!(!again.status.success());
    let printed = String::from_utf8_lossy(&again.stdout).into_owned();
    assert!(printed.contains("failed"), "{printed}{}", String::from_utf8_lossy(&again.stderr));
    assert!(String::from_utf8_lossy(&again.stderr).contains("exit code 1"), "{:?}", again.stderr);
    let missing = instance.kubectl_output(&["-n", "settlement", "exec", "ledger-0", "--", "/no/such"]);
    assert!(!missing.status.success());
    assert!(String::from_utf8_lossy(&missing.stderr).contains("no such file"), "{missing:?}");
}

fn port_forward_reaches_the_pod(instance: &Instance) {
    let mut forward = instance
        .kubectl_command(&["-n", "settlement", "port-forward", "deployment/orders", ":8080"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // kubectl goes on printing and ends when nobody reads.
    let mut stdout = BufReader::new(forward.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    let address = line.split_whitespace().nth(2).unwrap_or_default().to_owned();
    for _ in 0..3 {
        let (status, body) = http::get(&format!("http://{address}/readyz")).unwrap();
        assert!(status.is_success() && &body[..] == b"ok", "{line}");
    }
    forward.kill().unwrap();
    forward.wait().unwrap();
}

#[test]
fn a_rolling_update_under_load_fails_no_request() {
    if !need_root("a_rolling_update_under_load_fails_no_request") {
        return;
    }
    let instance = instance_with_example();
    let load = Load::orders(&instance.gateway_url("/orders"), 8, "roll");
    eventually("the load runs", || (load.answered() > 100).then_some(()));
    instance.kubectl(&["-n", "settlement", "set", "env", "deployment/orders", "LOG_LEVEL=warn"]);
    instance.kubectl(&["-n", "settlement", "rollout", "status", "deployment/orders", "--timeout=90s"]);
    // The old pods drain after the new ones are ready.
    eventually("only new pods are left", || (pods(&instance, "orders").len() == 2).then_some(()));
    let outcome = load.stop();
    assert_eq!(outcome.failed, 0, "of {}: {:?}", outcome.sent, outcome.failures);
}

#[test]
fn a_killed_container_and_a_wedged_one_are_restarted() {
    if !need_root("a_killed_container_and_a_wedged_one_are_restarted") {
        return;
    }
    let instance = instance_with_example();
    let before = &pods(&instance, "ledger")[0];
    let pid = pid_of(&instance, "ledger");
    // SAFETY: kill has no memory effects; the pid is of a container that this test's instance started.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
    eventually("the killed container is restarted", || {
        let pod = pods(&instance, "ledger").into_iter().find(|p| name(p) == name(before))?;
        (restarts(&pod) == restarts(before) + 1 && pod["status"]["containerStatuses"][0]["ready"] == true).then_some(())
    });
    // A stopped process answers no probe: it is alive and wedged.
    let wedged = pid_of(&instance, "web");
    instance.kubectl(&[
        "-n",
        "settlement",
        "patch",
        "deployment",
        "web",
        "--type=json",
        "-p",
        r#"[{"op":"add","path":"/spec/template/spec/containers/0/livenessProbe/periodSeconds","value":1},
            {"op":"add","path":"/spec/template/spec/containers/0/livenessProbe/failureThreshold","value":2}]"#,
    ]);
    instance.kubectl(&["-n", "settlement", "rollout", "status", "deployment/web", "--timeout=60s"]);
    eventually("the old pod of web is gone", || (pods(&instance, "web").len() == 1).then_some(()));
    let fresh = pid_of(&instance, "web");
    assert_ne!(wedged, fresh);
    // SAFETY: as above.
    assert_eq!(unsafe { libc::kill(fresh, libc::SIGSTOP) }, 0);
    eventually("the wedged container is restarted", || {
        pods(&instance, "web").iter().find(|p| restarts(p) == 1).map(|_| ())
    });
    let events = instance.kubectl(&["-n", "settlement", "get", "events"]);
    assert!(events.contains("Liveness probe failed"), "{events}");
}

/// The process of the one container of the one pod of an app, as the host sees it.
fn pid_of(instance: &Instance, app: &str) -> i32 {
    let uid = pods(instance, app)[0]["metadata"]["uid"].as_str().unwrap().to_owned();
    let command = format!("/{app}");
    eventually("the process of the container", || {
        std::fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            let groups = std::fs::read_to_string(entry.path().join("cgroup")).ok()?;
            (line.split(|b| *b == 0).next()? == command.as_bytes() && groups.contains(&uid)).then_some(pid)
        })
    })
}

#[test]
fn an_unready_pod_gets_no_traffic() {
    if !need_root("an_unready_pod_gets_no_traffic") {
        return;
    }
    let instance = instance_with_example();
    instance.kubectl(&["-n", "settlement", "patch", "deployment", "web", "--type=json", "-p",
        r#"[{"op":"replace","path":"/spec/template/spec/containers/0/readinessProbe/httpGet/path","value":"/no-such-path"}]"#]);
    let addresses = |ready: bool| -> usize {
        let slices =
            instance.get(&["endpointslices", "-n", "settlement", "-l", "kubernetes.io/service-name=web"]).unwrap();
        let endpoints = slices["items"].as_array().unwrap().iter().filter_map(|s| s["endpoints"].as_array()).flatten();
        endpoints.filter(|e| e["conditions"]["ready"] == ready).count()
    };
    eventually("the new pod runs, unready", || (addresses(false) == 1).then_some(()));
    assert_eq!(addresses(true), 1, "the old pod keeps the service up");
    let stuck = instance.kubectl_output(&["-n", "settlement", "rollout", "status", "deployment/web", "--timeout=2s"]);
    assert!(!stuck.status.success());
    for _ in 0..20 {
        assert!(http::get(&instance.gateway_url("/")).unwrap().0.is_success());
    }
}

#[test]
fn an_image_that_does_not_exist_is_reported_with_its_reason() {
    if !need_root("an_image_that_does_not_exist_is_reported_with_its_reason") {
        return;
    }
    let instance = Instance::start(Options { node: true, ..Options::default() });
    let registry = String::from_utf8(instance.keelson(&["status"]).stdout).unwrap();
    let registry = registry.lines().find_map(|l| l.strip_prefix("registry  http://")).unwrap().to_owned();
    instance.kubectl(&["run", "ghost", &format!("--image={registry}/no/such:1")]);
    let reason = || {
        let pod = instance.get(&["pod", "ghost"])?;
        Some(pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"].as_str()?.to_owned())
    };
    let mut seen = Vec::new();
    eventually("ErrImagePull and then ImagePullBackOff", || {
        seen.extend(reason());
        (seen.last()? == "ImagePullBackOff").then_some(())
    });
    let events = instance.kubectl(&["get", "events", "--field-selector", "involvedObject.name=ghost"]);
    assert!(events.contains("ErrImagePull") && events.contains("not found"), "{events}");
}
