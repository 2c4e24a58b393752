use std::collections::BTreeMap;

use jiff::ToSpan as _;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::Span;

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(1_700_000_000_000 + millis).unwrap()
}

/// Times that make no decision: 1 s to start, 2 s to be ready, 5 s to run, 1 s to end.
fn calm() -> Behaviour {
    Behaviour {
        start_after: Span::milliseconds(1000, 1000),
        ready_after: Span::milliseconds(2000, 2000),
        init_for: Span::milliseconds(3000, 3000),
        run_for: RunFor::Time(Span::milliseconds(5000, 5000)),
        terminate_after: Span::milliseconds(1000, 1000),
        ..Behaviour::default()
    }
}

fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u", "generation": 2},
        "spec": spec,
    }))
    .unwrap()
}

fn simple(policy: &str) -> Pod {
    pod(
        json!({"restartPolicy": policy, "terminationGracePeriodSeconds": 30, "containers": [{"name": "a", "image": "i"}]}),
    )
}

fn born(pod: Pod, behaviour: Behaviour, now: Timestamp) -> SimulatedPod {
    let birth = Birth {
        pod: Arc::new(pod),
        behaviour,
        chance: Chance::new(1),
        address: "100.64.0.1".into(),
        host: "198.18.0.1".into(),
    };
    SimulatedPod::new(birth, now)
}

/// What a watcher of the API would see of a pod: time in seconds, phase, whether it is ready, what its containers do.
fn shown(now: Timestamp, status: &PodStatus) -> String {
    let condition = |type_: &str| {
        let mut conditions = status.conditions.iter().flatten();
        conditions.any(|condition| condition.type_ == type_ && condition.status == "True")
    };
    let lists = [&status.init_container_statuses, &status.container_statuses];
    let containers: Vec<String> = lists
        .into_iter()
        .flatten()
        .flatten()
        .map(|container| {
            let state = container.state.as_ref().unwrap();
            let waiting = state.waiting.as_ref().and_then(|waiting| waiting.reason.clone());
            let ended = state.terminated.as_ref().map(|ended| format!("exit {}", ended.exit_code));
            let text = waiting.or(ended).unwrap_or_else(|| "runs".to_owned());
            format!("{}: {text}", container.name)
        })
        .collect();
    let elapsed = (now.as_millisecond() - at(0).as_millisecond()) / 1000;
    let ready = if condition("Ready") { " ready" } else { "" };
    format!("{elapsed} {}{ready} [{}]", status.phase.as_deref().unwrap(), containers.join(", "))
}

/// Lets a pod live until nothing comes by itself, or for `seconds`; each status it says reaches the API.
fn live(simulated: &mut SimulatedPod, from: Timestamp, seconds: i64) -> Vec<String> {
    let (mut now, mut seen) = (from, Vec::new());
    let end = from + seconds.seconds();
    loop {
        let step = simulated.step(now);
        if let Some(status) = step.status {
            seen.push(shown(now, &status));
            let pod = Pod { status: Some(status), ..Pod::clone(simulated.pod()) };
            simulated.observe(Arc::new(pod), now);
            continue;
        }
        if step.gone {
            seen.push("gone".to_owned());
            return seen;
        }
        match step.wake_at {
            Some(at) if at <= end => now = at,
            _ => return seen,
        }
    }
}

fn deleted(pod: &Pod, grace: i64) -> Arc<Pod> {
    let mut pod = pod.clone();
    pod.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    pod.metadata.deletion_grace_period_seconds = Some(grace);
    Arc::new(pod)
}

#[test]
fn a_pod_that_is_to_run_on_becomes_ready_and_ends_when_deleted() {
    let mut simulated = born(simple("Always"), calm(), at(0));
    let seen = live(&mut simulated, at(0), 3600);
    assert_eq!(seen, ["0 Pending [a: ContainerCreating]", "1 Running [a: runs]", "3 Running ready [a: runs]"]);
    let pod = deleted(simulated.pod(), 30);
    simulated.observe(pod, at(60_000));
    assert_eq!(live(&mut simulated, at(60_000), 3600), ["61 Succeeded [a: exit 0]", "gone"]);
}

#[test]
fn a_status_says_what_a_kubelet_says() {
    let mut simulated = born(simple("Always"), calm(), at(0));
    live(&mut simulated, at(0), 3600);
    let status = json!(simulated.pod().status);
    let facts = ["podIP", "hostIP", "podIPs", "hostIPs", "startTime", "qosClass", "observedGeneration"];
    let facts: Vec<&Value> = facts.iter().map(|name| &status[*name]).collect();
    assert_eq!(
        json!(facts),
        json!([
            "100.64.0.1", "198.18.0.1", [{"ip": "100.64.0.1"}], [{"ip": "198.18.0.1"}], "2023-11-14T22:13:20Z",
            "BestEffort", 2,
        ])
    );
    let conditions: Vec<String> = status["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            format!(
                "{}={} @{}",
                one["type"].as_str().unwrap(),
                one["status"].as_str().unwrap(),
                one["observedGeneration"]
            )
        })
        .collect();
    let expected = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];
    assert_eq!(conditions, expected.map(|name| format!("{name}=True @2")));
    let container = &status["containerStatuses"][0];
    assert_eq!(container["started"], true);
    assert!(container["containerID"].as_str().unwrap().len() > 32, "{container}");
}

#[test]
fn a_grace_that_is_short_or_becomes_shorter_is_kept() {
    let slow = Behaviour { terminate_after: Span::milliseconds(60_000, 60_000), ..calm() };
    let mut simulated = born(simple("Always"), slow, at(0));
    live(&mut simulated, at(0), 60);
    let pod = deleted(simulated.pod(), 30);
    simulated.observe(pod, at(60_000));
    assert_eq!(simulated.step(at(60_000)).wake_at, Some(at(90_000)));
    let pod = deleted(simulated.pod(), 5);
    simulated.observe(pod, at(70_000));
    assert_eq!(live(&mut simulated, at(70_000), 3600), ["75 Succeeded [a: exit 0]", "gone"]);
}

#[test]
fn jobs_end_as_they_are_told_and_are_ended_before_they_are_done() {
    let cases = [
        ("Never", 0, vec!["6 Succeeded [a: exit 0]"]),
        ("Never", 3, vec!["6 Failed [a: exit 3]"]),
        ("OnFailure", 0, vec!["6 Succeeded [a: exit 0]"]),
    ];
    for (policy, exit_code, end) in cases {
        let mut simulated = born(simple(policy), Behaviour { exit_code, ..calm() }, at(0));
        let seen = live(&mut simulated, at(0), 3600);
        let begin = ["0 Pending [a: ContainerCreating]", "1 Running ready [a: runs]"];
        assert_eq!(seen, [&begin[..], &end].concat());
    }
    let mut simulated = born(simple("Never"), calm(), at(0));
    live(&mut simulated, at(0), 2);
    let pod = deleted(simulated.pod(), 30);
    simulated.observe(pod, at(2000));
    assert_eq!(live(&mut simulated, at(2000), 3600), ["3 Failed [a: exit 143]", "gone"]);
}

#[test]
fn what_fails_is_restarted_and_held_back_as_on_any_node() {
    let failing = Behaviour { fail_rate: 1.0, ..calm() };
    let mut simulated = born(simple("Always"), failing, at(0));
    let seen = live(&mut simulated, at(0), 60);
    assert_eq!(
        seen,
        [
            "0 Pending [a: ContainerCreating]",
            "1 Running [a: runs]",
            "3 Running [a: exit 1]",
            "4 Running [a: runs]",
            "6 Running [a: CrashLoopBackOff]",
            "17 Running [a: runs]",
            "19 Running [a: CrashLoopBackOff]",
            "40 Running [a: runs]",
            "42 Running [a: CrashLoopBackOff]",
        ]
    );
    let status = json!(simulated.pod().status);
    let container = &status["containerStatuses"][0];
    assert_eq!(container["restartCount"], 3);
    let message = "back-off 40s restarting failed container=a pod=p_ns(u)";
    assert_eq!(container["state"]["waiting"]["message"], message);
    assert_eq!(container["lastState"]["terminated"]["exitCode"], 1);
}

#[test]
fn crashes_come_after_a_time_of_working() {
    let crashing = Behaviour { crash_every: RunFor::Time(Span::milliseconds(30_000, 30_000)), ..calm() };
    let mut simulated = born(simple("Always"), crashing, at(0));
    let seen = live(&mut simulated, at(0), 35);
    assert_eq!(
        seen[2..],
        ["3 Running ready [a: runs]", "31 Running [a: exit 1]", "32 Running [a: runs]", "34 Running ready [a: runs]"]
    );
}

#[test]
fn init_containers_and_sidecars_go_before_and_sidecars_end_last() {
    let spec = json!({
        "restartPolicy": "Never",
        "initContainers": [
            {"name": "init", "image": "i"},
            {"name": "side", "image": "s", "restartPolicy": "Always"},
        ],
        "containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}],
    });
    let mut simulated = born(pod(spec), calm(), at(0));
    let seen = live(&mut simulated, at(0), 3600);
    assert_eq!(
        seen,
        [
            "0 Pending [init: PodInitializing, side: PodInitializing, a: PodInitializing, b: PodInitializing]",
            "1 Pending [init: runs, side: PodInitializing, a: PodInitializing, b: PodInitializing]",
            "4 Pending [init: exit 0, side: PodInitializing, a: PodInitializing, b: PodInitializing]",
            "5 Pending [init: exit 0, side: runs, a: PodInitializing, b: PodInitializing]",
            "6 Running ready [init: exit 0, side: runs, a: runs, b: runs]",
            "11 Running [init: exit 0, side: runs, a: exit 0, b: exit 0]",
            "12 Succeeded [init: exit 0, side: exit 143, a: exit 0, b: exit 0]",
        ]
    );
}

#[test]
fn a_deadline_ends_a_pod() {
    let spec =
        json!({"restartPolicy": "Never", "activeDeadlineSeconds": 4, "containers": [{"name": "a", "image": "i"}]});
    let mut simulated = born(pod(spec), calm(), at(0));
    assert_eq!(live(&mut simulated, at(0), 3600).last().unwrap(), "5 Failed [a: exit 143]");
    assert_eq!(simulated.pod().status.as_ref().unwrap().reason.as_deref(), Some("DeadlineExceeded"));
}

#[test]
fn a_pod_of_an_earlier_run_runs_on() {
    let mut first = born(simple("Always"), calm(), at(0));
    live(&mut first, at(0), 60);
    let known = Pod::clone(first.pod());
    let mut second = born(known.clone(), calm(), at(90_000));
    assert_eq!(second.step(at(90_000)), Step { status: None, gone: false, wake_at: None });
    second.observe(deleted(&known, 30), at(91_000));
    assert_eq!(live(&mut second, at(91_000), 3600), ["92 Succeeded [a: exit 0]", "gone"]);

    let mut first = born(simple("Never"), calm(), at(0));
    live(&mut first, at(0), 2);
    let mut second = born(Pod::clone(first.pod()), calm(), at(3000));
    assert_eq!(live(&mut second, at(3000), 3600), ["6 Succeeded [a: exit 0]"], "and ends when it would have");

    let mut first = born(simple("Always"), Behaviour { fail_rate: 1.0, ..calm() }, at(0));
    live(&mut first, at(0), 10);
    let mut second = born(Pod::clone(first.pod()), calm(), at(12_000));
    assert_eq!(live(&mut second, at(12_000), 3600)[0], "17 Running [a: runs]", "a restart is still held back");
    assert_eq!(second.pod().status.as_ref().unwrap().container_statuses.as_ref().unwrap()[0].restart_count, 2);
}

#[test]
fn what_did_not_reach_the_api_is_said_again() {
    let mut simulated = born(simple("Always"), calm(), at(0));
    let first = simulated.step(at(0)).status;
    assert!(first.is_some());
    assert_eq!(simulated.step(at(0)).status, None);
    simulated.unsaid();
    assert_eq!(simulated.step(at(0)).status, first);
}

fn any_behaviour() -> impl Strategy<Value = Behaviour> {
    let span = || (0i64..3000, 0i64..3000).prop_map(|(from, more)| Span::milliseconds(from, from + more));
    (span(), span(), span(), span(), 0.0..1.0f64).prop_map(
        |(start_after, ready_after, run, terminate_after, fail_rate)| {
            let run_for = RunFor::Time(run);
            Behaviour {
                start_after,
                ready_after,
                init_for: run,
                run_for,
                terminate_after,
                fail_rate,
                ..Behaviour::default()
            }
        },
    )
}

fn any_pod() -> impl Strategy<Value = Pod> {
    (prop::sample::select(vec!["Always", "OnFailure", "Never"]), 0usize..3, 1usize..3, 0usize..3).prop_map(
        |(policy, init, main, side)| {
            let named = |prefix: &str, count: usize, extra: Value| -> Vec<Value> {
                let one = |number| {
                    let mut one: BTreeMap<String, Value> = serde_json::from_value(extra.clone()).unwrap();
                    one.insert("name".into(), json!(format!("{prefix}{number}")));
                    json!(one)
                };
                (0..count).map(one).collect()
            };
            let early = [named("i", init, json!({})), named("s", side, json!({"restartPolicy": "Always"}))].concat();
            pod(json!({"restartPolicy": policy, "initContainers": early, "containers": named("m", main, json!({}))}))
        },
    )
}

proptest! {
    #[test]
    fn whatever_it_does_a_deleted_pod_goes_and_its_life_repeats(
        behaviour in any_behaviour(), pod in any_pod(), seconds in 0i64..40,
    ) {
        let course = || {
            let mut simulated = born(pod.clone(), behaviour.clone(), at(0));
            let mut seen = live(&mut simulated, at(0), seconds);
            let now = at(seconds * 1000);
            let going = deleted(simulated.pod(), 30);
            simulated.observe(going, now);
            seen.extend(live(&mut simulated, now, 120));
            seen
        };
        let seen = course();
        prop_assert_eq!(seen.last().map(String::as_str), Some("gone"), "{:?}", seen);
        prop_assert_eq!(&seen, &course());
        let over = |line: &&String| line.contains("Succeeded") || line.contains("Failed");
        prop_assert!(seen.iter().filter(over).count() <= 1, "a final phase is the last word: {:?}", seen);
    }
}
