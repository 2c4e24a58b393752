use serde_json::json;

use super::*;
use crate::view::{Exit, Waiting};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn pod(policy: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "generation": 3},
        "spec": {
            "restartPolicy": policy,
            "initContainers": [{"name": "init", "image": "i"}],
            "containers": [{"name": "a", "image": "a"}],
        },
    }))
    .unwrap()
}

fn seen(state: RunState) -> ContainerView {
    let run = Run {
        id: "c0".into(),
        attempt: 2,
        image_ref: "a:1".into(),
        image_digest: "a@sha256:0".into(),
        spec_hash: String::new(),
        in_current_sandbox: true,
        state,
    };
    ContainerView { current: Some(run), started: true, ready: true, ..ContainerView::default() }
}

fn running() -> ContainerView {
    seen(RunState::Running { started_at: at(5) })
}

fn exited(code: i32) -> ContainerView {
    let reason = if code == 0 { "Completed" } else { "Error" };
    seen(RunState::Exited(Exit { code, reason: reason.into(), finished_at: at(9), ..Exit::default() }))
}

fn render(pod: &Pod, containers: Vec<(&str, ContainerView)>, ending: Option<Ending>) -> PodStatus {
    let view = PodView {
        sandbox: Sandbox::Ready { ips: vec!["10.0.0.2".into()] },
        containers: containers.into_iter().map(|(name, seen)| (name.to_owned(), seen)).collect(),
        ending,
    };
    status(pod, &view, &Facts { host_ip: "1.2.3.4", start_time: at(1), now: at(10) })
}

fn condition<'a>(status: &'a PodStatus, type_: &str) -> (&'a str, &'a str, &'a str) {
    let found = status.conditions.iter().flatten().find(|condition| condition.type_ == type_).unwrap();
    (&found.status, found.reason.as_deref().unwrap_or(""), found.message.as_deref().unwrap_or(""))
}

#[test]
fn an_ephemeral_container_is_reported_and_counts_for_nothing() {
    let mut pod = pod("Never");
    let ephemeral = serde_json::from_value(json!([{"name": "debug", "image": "d"}])).unwrap();
    pod.spec.as_mut().unwrap().ephemeral_containers = Some(ephemeral);
    let waits = render(&pod, vec![("init", exited(0)), ("a", running())], None);
    assert_eq!((waits.phase.as_deref(), condition(&waits, "Ready").0), (Some("Running"), "True"));
    let own = waits.ephemeral_container_statuses.unwrap().remove(0);
    assert_eq!((own.name.as_str(), own.ready, own.started), ("debug", false, None));
    assert_eq!(own.state.unwrap().waiting.unwrap().reason.as_deref(), Some("PodInitializing"));
    let runs = render(&pod, vec![("init", exited(0)), ("a", exited(0)), ("debug", running())], None);
    assert_eq!(runs.phase.as_deref(), Some("Running"), "nothing of a pod that is over lives");
    assert!(runs.ephemeral_container_statuses.unwrap().remove(0).state.unwrap().running.is_some());
    let failed = render(&pod, vec![("init", exited(0)), ("a", exited(0)), ("debug", exited(1))], None);
    assert_eq!((failed.phase.as_deref(), failed.container_statuses.unwrap().len()), (Some("Succeeded"), 1));
}

#[test]
fn phases_follow_containers_and_policy() {
    let cases = [
        ("Always", vec![], None, "Pending"),
        ("Always", vec![("init", running())], None, "Pending"),
        ("Always", vec![("init", exited(0)), ("a", running())], None, "Running"),
        ("Always", vec![("init", exited(0)), ("a", exited(1))], None, "Running"),
        ("OnFailure", vec![("init", exited(0)), ("a", exited(1))], None, "Running"),
        ("OnFailure", vec![("init", exited(0)), ("a", exited(0))], None, "Succeeded"),
        ("Never", vec![("init", exited(0)), ("a", exited(1))], None, "Failed"),
        ("Never", vec![("init", exited(1))], None, "Failed"),
        ("Always", vec![("init", exited(1))], None, "Pending"),
        ("Always", vec![("init", exited(0)), ("a", running())], Some(Ending::Deleted), "Running"),
        ("Always", vec![("init", exited(0)), ("a", exited(0))], Some(Ending::Deleted), "Succeeded"),
        ("Always", vec![("init", exited(0)), ("a", exited(137))], Some(Ending::Deleted), "Failed"),
        ("Always", vec![("init", exited(0)), ("a", exited(0))], Some(Ending::DeadlineExceeded), "Failed"),
    ];
    for (policy, containers, ending, expected) in cases {
        let label = format!("{policy} {containers:?} {ending:?}");
        assert_eq!(render(&pod(policy), containers, ending).phase.unwrap(), expected, "{label}");
    }
}

#[test]
fn a_running_pod_is_ready_with_addresses() {
    let status = render(&pod("Always"), vec![("init", exited(0)), ("a", running())], None);
    for type_ in ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"] {
        assert_eq!(condition(&status, type_), ("True", "", ""), "{type_}");
    }
    assert_eq!((status.pod_ip.as_deref(), status.host_ip.as_deref()), (Some("10.0.0.2"), Some("1.2.3.4")));
    assert_eq!((status.qos_class.as_deref(), status.start_time), (Some("BestEffort"), Some(Time(at(1)))));
    let container = &status.container_statuses.unwrap()[0];
    assert_eq!(container.container_id.as_deref(), Some("keelson://c0"));
    assert_eq!((container.restart_count, container.ready, container.started), (2, true, Some(true)));
    assert!(status.init_container_statuses.unwrap()[0].ready);
}

#[test]
fn conditions_say_what_is_missing() {
    let status = render(&pod("Always"), vec![("init", running())], None);
    assert_eq!(
        condition(&status, "Initialized"),
        ("False", "ContainersNotInitialized", "containers with incomplete status: [init]")
    );
    assert_eq!(condition(&status, "Ready"), ("False", "ContainersNotReady", "containers with unready status: [a]"));
    let waiting = status.container_statuses.unwrap()[0].state.clone().unwrap().waiting.unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("PodInitializing"));

    let done = render(&pod("Never"), vec![("init", exited(0)), ("a", exited(0))], None);
    assert_eq!(condition(&done, "Ready"), ("False", "PodCompleted", ""));
    assert_eq!(condition(&done, "Initialized"), ("True", "PodCompleted", ""));
}

#[test]
fn readiness_gates_hold_readiness_back_and_foreign_conditions_stay() {
    let mut pod = pod("Always");
    let gate = serde_json::from_value(json!([{"conditionType": "x/ok"}])).unwrap();
    pod.spec.as_mut().unwrap().readiness_gates = gate;
    let containers = || vec![("init", exited(0)), ("a", running())];
    let status = render(&pod, containers(), None);
    assert_eq!(
        condition(&status, "Ready"),
        ("False", "ReadinessGatesNotReady", "corresponding condition of pod readiness gate \"x/ok\" does not exist.")
    );
    pod.status = serde_json::from_value(json!({"conditions": [
        {"type": "x/ok", "status": "True"},
        {"type": "Ready", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"},
    ]}))
    .unwrap();
    let status = render(&pod, containers(), None);
    assert_eq!(condition(&status, "Ready"), ("True", "", ""));
    assert_eq!(condition(&status, "x/ok"), ("True", "", ""));
    let ready = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready").unwrap();
    assert_eq!(ready.last_transition_time.as_ref().unwrap().0.to_string(), "2020-01-01T00:00:00Z");
}

#[test]
fn a_crashing_container_shows_its_last_end() {
    let mut crashing = exited(3);
    crashing.waiting = Some(Waiting { reason: "CrashLoopBackOff".into(), message: "back-off 10s".into() });
    let status = render(&pod("Always"), vec![("init", exited(0)), ("a", crashing.clone())], None);
    let container = &status.container_statuses.unwrap()[0];
    assert_eq!(container.state.as_ref().unwrap().waiting.as_ref().unwrap().reason.as_deref(), Some("CrashLoopBackOff"));
    assert_eq!(container.last_state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 3);
    let status = render(&pod("Always"), vec![("init", exited(0)), ("a", crashing)], Some(Ending::Deleted));
    assert!(status.container_statuses.unwrap()[0].state.as_ref().unwrap().terminated.is_some());
}

#[test]
fn the_patch_names_the_pod_and_clears_what_is_gone() {
    let of = |address: &str| -> PodStatus {
        let status = json!({"podIPs": [{"ip": address}], "conditions": [{"type": "Ready", "status": "True"}]});
        serde_json::from_value(status).unwrap()
    };
    let first = patch("u", Some(&PodStatus::default()), &of("10.0.0.2"));
    assert_eq!(first["metadata"]["uid"], "u");
    assert_eq!(first["status"]["podIPs"], json!([{"ip": "10.0.0.2"}]));
    assert!(first["status"]["conditions"][0]["reason"].is_null());
    assert!(first["status"]["conditions"][0].as_object().unwrap().contains_key("message"));
    let same = patch("u", Some(&of("10.0.0.2")), &of("10.0.0.2"));
    assert_eq!(same["status"]["podIPs"], json!([{"ip": "10.0.0.2"}]));
    let moved = patch("u", Some(&of("10.0.0.1")), &of("10.0.0.2"));
    assert_eq!(moved["status"]["podIPs"], json!([{"ip": "10.0.0.2"}, {"$patch": "replace"}]));
}
