//! Real pods, as root: an API server in process, the embedded runtime, the node's network.

#[expect(clippy::unwrap_used, reason = "a test harness fails by panicking")]
mod cluster;
#[expect(clippy::unwrap_used, reason = "a test harness fails by panicking")]
mod registry;

use cluster::{Cluster, possible};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

fn condition(pod: &Pod, type_: &str) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == type_ && condition.status == "True")
}

fn waiting(pod: &Pod) -> (String, String) {
    let status = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref()?.first());
    let waiting = status.and_then(|status| status.state.as_ref()?.waiting.clone()).unwrap_or_default();
    (waiting.reason.unwrap_or_default(), waiting.message.unwrap_or_default())
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

fn restarts(pod: &Pod) -> i32 {
    let status = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref()?.first());
    status.map_or(0, |status| status.restart_count)
}

fn container_id(pod: &Pod) -> Option<String> {
    pod.status.as_ref()?.container_statuses.as_ref()?.first()?.container_id.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_runs_is_adopted_and_leaves_nothing_behind() {
    if !possible() {
        return;
    }
    let mut cluster = Cluster::new().await;
    cluster
        .create(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cm"}, "data": {"a": "1"}}))
        .await;
    cluster
        .pod(
            "web",
            json!({
                "terminationGracePeriodSeconds": 5,
                "initContainers": [{
                    "name": "init", "image": "probe", "args": ["write", "/data/file", "from-init"],
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                }],
                "containers": [{
                    "name": "web", "image": "probe",
                    "args": ["catch-term", ",", "env", "A", ",", "env", "IP", ",", "cat", "/data/file", ",", "out", "",
                        ",", "cat", "/cm/a", ",", "out", "", ",", "serve", "8080"],
                    "env": [
                        {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "a"}}},
                        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                    ],
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "cm", "mountPath": "/cm"}],
                    "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
                }],
                "volumes": [{"name": "data", "emptyDir": {"medium": "Memory"}}, {"name": "cm", "configMap": {"name": "cm"}}],
            }),
        )
        .await;
    let pod = cluster.until("web", |pod| condition(pod, "Ready")).await;
    let ip = pod.status.as_ref().unwrap().pod_ip.clone().unwrap();
    assert_eq!(cluster.log("web", "web").await, format!("A=1\nIP={ip}\nfrom-init\n1\nlistening\n"));
    assert_eq!(cluster.exec("web", "web", &["/probe", "out", "hi", ",", "exit", "3"]).await, ("hi\n".into(), Some(3)));
    assert_eq!(cluster.dial(&format!("{ip}:8080")).await, "hello\n");

    cluster.restart().await;
    cluster.until_registered().await;
    let adopted = cluster.until("web", |pod| condition(pod, "Ready")).await;
    assert_eq!((container_id(&adopted), restarts(&adopted)), (container_id(&pod), 0));
    assert_eq!(cluster.exec("web", "web", &["/probe", "out", "again"]).await, ("again\n".into(), Some(0)));

    cluster.delete("web").await;
    cluster.until_gone("web").await;
    cluster.until_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_show_what_a_pod_and_its_sources_are_now() {
    if !possible() {
        return;
    }
    let cluster = Cluster::new().await;
    let labels = json!([{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]);
    let mounts = json!([{"name": "info", "mountPath": "/info"}, {"name": "cm", "mountPath": "/cm"}]);
    let spec = json!({
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": "probe", "args": ["sleep", "1000"], "volumeMounts": mounts}],
        "volumes": [{"name": "info", "downwardAPI": {"items": labels}},
            {"name": "cm", "configMap": {"name": "later", "optional": true}}],
    });
    cluster.pod("web", spec).await;
    cluster.until("web", |pod| condition(pod, "Ready")).await;
    cluster.label("web", "a", "1").await;
    cluster.until_file("web", "c", "/info/labels", "a=\"1\"").await;
    // What changes while a change is written is not lost.
    for number in 2..20 {
        cluster.label("web", "a", &number.to_string()).await;
    }
    let later = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "later"}, "data": {"k": "v"}});
    cluster.create(later).await;
    cluster.until_file("web", "c", "/info/labels", "a=\"19\"").await;
    cluster.until_file("web", "c", "/cm/k", "v").await;
    cluster.delete("web").await;
    cluster.until_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ephemeral_container_sees_the_processes_of_its_target() {
    if !possible() {
        return;
    }
    let mut cluster = Cluster::new().await;
    let main = json!([{"name": "c", "image": "probe", "args": ["sleep", "1000"]}]);
    cluster.pod("web", json!({"terminationGracePeriodSeconds": 0, "containers": main})).await;
    cluster.until("web", |pod| condition(pod, "Ready")).await;
    let debuggers = ["sleep 500", "exit 3"].map(|args| args.split(' ').collect::<Vec<_>>());
    let [looks, fails] =
        debuggers.map(|args| json!({"image": "probe", "imagePullPolicy": "IfNotPresent", "args": args}));
    cluster.debug("web", "looks", looks, Some("c")).await;
    let state = |pod: &Pod, name: &str| {
        let statuses = pod.status.as_ref().and_then(|status| status.ephemeral_container_statuses.as_ref());
        statuses.into_iter().flatten().find(|status| status.name == name).and_then(|status| status.state.clone())
    };
    let is_running = |pod: &Pod| state(pod, "looks").is_some_and(|state| state.running.is_some());
    cluster.until("web", is_running).await;
    cluster.until_file("web", "looks", "/proc/1/cmdline", "/probe\0sleep\x001000\0").await;

    cluster.restart().await;
    cluster.until_registered().await;
    cluster.debug("web", "fails", fails, None).await;
    let ended =
        |pod: &Pod| state(pod, "fails").and_then(|state| state.terminated).is_some_and(|end| end.exit_code == 3);
    let pod = cluster.until("web", ended).await;
    assert!(is_running(&pod) && condition(&pod, "Ready"), "{pod:?}");
    assert_eq!((phase(&pod), restarts(&pod)), ("Running", 0));
    cluster.delete("web").await;
    cluster.until_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_is_told_and_what_dies_is_started_again() {
    if !possible() {
        return;
    }
    let cluster = Cluster::new().await;
    let container = |more: serde_json::Value| {
        let mut container = json!({"name": "c", "image": "probe", "args": ["sleep", "1000"]});
        container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"terminationGracePeriodSeconds": 0, "containers": [container]})
    };
    cluster.pod("no-image", container(json!({"image": "missing"}))).await;
    cluster.pod("bad-name", container(json!({"image": "Bad Name"}))).await;
    let from_map = json!([{"name": "V", "valueFrom": {"configMapKeyRef": {"name": "later", "key": "k"}}}]);
    cluster.pod("no-map", container(json!({"env": from_map}))).await;
    cluster
        .pod(
            "crash",
            container(
                json!({"args": ["err", "oops", ",", "exit", "3"], "terminationMessagePolicy": "FallbackToLogsOnError"}),
            ),
        )
        .await;
    let sick = json!({"exec": {"command": ["/probe", "exit", "1"]}, "periodSeconds": 1, "failureThreshold": 1});
    cluster.pod("sick", container(json!({"livenessProbe": sick}))).await;
    cluster.pod("echo", container(json!({"args": ["echo"], "stdin": true, "stdinOnce": true}))).await;
    cluster.pod("open", container(json!({"args": ["echo"], "stdin": true}))).await;
    let mut greedy = container(json!({"resources": {"requests": {"cpu": "100k"}}}));
    greedy["tolerations"] = json!([{"operator": "Exists"}]);
    cluster.pod("greedy", greedy).await;
    let mut job = container(json!({"args": ["out", "done"]}));
    job["restartPolicy"] = "Never".into();
    // a class that asks for what every pod gets
    cluster.runtime_class("plain", "runc").await;
    job["runtimeClassName"] = "plain".into();
    cluster.runtime_class("apart", "kata").await;
    let mut apart = container(json!({}));
    apart["runtimeClassName"] = "apart".into();
    cluster.pod("apart", apart).await;
    cluster.pod("job", job).await;

    let refused = cluster.until("greedy", |pod| phase(pod) == "Failed").await.status.unwrap();
    assert_eq!(refused.reason.as_deref(), Some("OutOfcpu"));
    let why = "Pod was rejected: Node didn't have enough resource: cpu, requested: 100000000, used: 0, capacity: ";
    assert!(refused.message.as_deref().is_some_and(|message| message.starts_with(why)), "{:?}", refused.message);
    assert_eq!(refused.container_statuses, None, "nothing of it has run");
    cluster.until("no-image", |pod| waiting(pod).0 == "ErrImagePull" && waiting(pod).1.contains("missing")).await;
    cluster.until("no-image", |pod| waiting(pod).0 == "ImagePullBackOff").await;
    cluster.until("bad-name", |pod| waiting(pod).0 == "InvalidImageName").await;
    let named = ("CreateContainerConfigError".to_owned(), "configmap \"later\" not found".to_owned());
    cluster.until("no-map", |pod| waiting(pod) == named).await;
    cluster
        .create(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "later"}, "data": {"k": "v"}}))
        .await;
    cluster.until("no-map", |pod| condition(pod, "Ready")).await;
    let crashed = cluster.until("crash", |pod| waiting(pod).0 == "CrashLoopBackOff").await;
    let status = crashed.status.unwrap().container_statuses.unwrap().remove(0);
    let last = status.last_state.unwrap().terminated.unwrap();
    assert_eq!((last.exit_code, last.message.as_deref()), (3, Some("oops\n")));
    cluster.until("sick", |pod| restarts(pod) > 0).await;
    cluster.until("job", |pod| phase(pod) == "Succeeded").await;
    assert_eq!(cluster.log("job", "c").await, "done\n");

    cluster.until("echo", |pod| condition(pod, "Ready")).await;
    let said = cluster.attach("echo", "c", "hello\n").await;
    assert_eq!(said, ("got hello\nend of input\n".into(), Some(0)));

    // its input stays open, so that a client that has nothing more to say leaves it running
    cluster.until("open", |pod| condition(pod, "Ready")).await;
    for _ in 0..2 {
        assert_eq!(cluster.attach("open", "c", "hello\n").await.1, Some(0));
    }
    let open = cluster.until("open", |pod| condition(pod, "Ready")).await;
    assert_eq!((phase(&open), restarts(&open)), ("Running", 0));

    cluster.until_event("apart", "FailedCreatePodSandBox", "no runtime for \"kata\" is configured").await;
    assert!(!condition(&cluster.until("apart", |_| true).await, "PodReadyToStartContainers"));

    for name in ["apart", "open", "echo", "no-image", "bad-name", "no-map", "crash", "sick", "job"] {
        cluster.delete(name).await;
    }
    cluster.until_clean().await;
}
