use jiff::SignedDuration;
use serde_json::json;

use super::*;
use crate::{
    backoff::Backoff,
    view::{Ending, Exit, Run},
};

fn now() -> Timestamp {
    Timestamp::from_second(1_000_000).unwrap()
}

fn spec(policy: &str) -> PodSpec {
    serde_json::from_value(json!({
        "restartPolicy": policy,
        "initContainers": [
            {"name": "init", "image": "i"},
            {"name": "proxy", "image": "p", "restartPolicy": "Always"},
            {"name": "log", "image": "l", "restartPolicy": "Always"},
        ],
        "containers": [{"name": "a", "image": "a"}, {"name": "b", "image": "b"}],
    }))
    .unwrap()
}

fn run(name: &str, state: RunState) -> ContainerView {
    let image = if name == "init" { "i" } else { &name[..1] };
    let container = Container { name: name.into(), image: Some(image.into()), ..Container::default() };
    let run = Run {
        id: format!("{name}-0"),
        attempt: 0,
        image_ref: image.into(),
        image_digest: String::new(),
        spec_hash: spec_hash(&container),
        in_current_sandbox: true,
        state,
    };
    ContainerView { current: Some(run), started: true, ready: true, ..ContainerView::default() }
}

fn running(name: &str) -> (String, ContainerView) {
    (name.into(), run(name, RunState::Running { started_at: now() }))
}

fn exited(name: &str, code: i32) -> (String, ContainerView) {
    (name.into(), run(name, RunState::Exited(Exit { code, finished_at: now(), ..Exit::default() })))
}

fn view<const N: usize>(containers: [(String, ContainerView); N]) -> PodView {
    PodView { sandbox: Sandbox::Ready { ips: vec![] }, containers: containers.into(), ending: None }
}

fn start_of(container: &str, attempt: u32) -> Action {
    Action::Start { container: container.into(), attempt }
}

fn stop_of(container: &str) -> Action {
    Action::Stop { container: container.into(), reason: StopReason::PodEnds }
}

#[test]
fn containers_start_in_order() {
    let spec = spec("Always");
    let mut proxy_not_started = running("proxy");
    proxy_not_started.1.started = false;
    let mut starting = running("init");
    starting.1 = ContainerView { activity: Activity::Starting, ..ContainerView::default() };
    let cases = [
        ("nothing yet", view([]), vec![start_of("init", 0)]),
        ("init is being started", view([starting]), vec![]),
        ("init runs", view([running("init")]), vec![]),
        ("init failed", view([exited("init", 1)]), vec![start_of("init", 1)]),
        ("init done", view([exited("init", 0)]), vec![start_of("proxy", 0)]),
        ("sidecar not started", view([exited("init", 0), proxy_not_started]), vec![]),
        ("sidecar up", view([exited("init", 0), running("proxy")]), vec![start_of("log", 0)]),
        (
            "all sidecars up",
            view([exited("init", 0), running("proxy"), running("log")]),
            vec![start_of("a", 0), start_of("b", 0)],
        ),
        (
            "sidecar died later",
            view([exited("init", 0), exited("proxy", 0), running("log"), running("a"), running("b")]),
            vec![start_of("proxy", 1)],
        ),
        (
            "init container was garbage collected",
            view([running("proxy"), running("log"), running("a"), running("b")]),
            vec![],
        ),
    ];
    for (case, view, expected) in cases {
        assert_eq!(plan(&spec, &view, now()).actions, expected, "{case}");
    }
}

#[test]
fn an_ephemeral_container_waits_for_nobody_runs_once_and_ends_with_the_pod() {
    let mut spec = spec("Always");
    spec.ephemeral_containers =
        serde_json::from_value(json!([{"name": "debug", "image": "d", "targetContainerName": "a"}])).unwrap();
    let up = || [exited("init", 0), running("proxy"), running("log"), running("a"), running("b")];
    let with = |seen| view([exited("init", 0), running("proxy"), running("log"), running("a"), running("b"), seen]);
    let cases = [
        ("initialisation fails", view([running("init")]), vec![start_of("debug", 0)]),
        ("all run", view(up()), vec![start_of("debug", 0)]),
        ("it runs", with(running("debug")), vec![]),
        ("it has failed", with(exited("debug", 1)), vec![]),
    ];
    for (case, view, expected) in cases {
        assert_eq!(plan(&spec, &view, now()).actions, expected, "{case}");
    }
    let mut ending = with(running("debug"));
    ending.ending = Some(Ending::Deleted);
    let stops = plan(&spec, &ending, now()).actions;
    assert_eq!(stops, [stop_of("debug"), stop_of("b"), stop_of("a")], "and then the sidecars");
    spec.restart_policy = Some("Never".into());
    let done = [exited("init", 0), exited("a", 0), exited("b", 0), running("debug")];
    assert_eq!(plan(&spec, &view(done), now()).actions, [stop_of("debug")], "it keeps no pod alive");
}

#[test]
fn the_restart_policy_decides_about_the_dead() {
    let up = |a: (String, ContainerView)| view([exited("init", 0), running("proxy"), running("log"), a, running("b")]);
    let cases = [
        ("Always", 0, vec![start_of("a", 1)]),
        ("Always", 1, vec![start_of("a", 1)]),
        ("OnFailure", 0, vec![]),
        ("OnFailure", 1, vec![start_of("a", 1)]),
        ("Never", 0, vec![]),
        ("Never", 1, vec![]),
    ];
    for (policy, code, expected) in cases {
        assert_eq!(plan(&spec(policy), &up(exited("a", code)), now()).actions, expected, "{policy} {code}");
    }
}

#[test]
fn a_crashing_container_waits() {
    let mut dead = exited("a", 1);
    dead.1.crashes = Backoff::default();
    dead.1.crashes.advance(now());
    let decision =
        plan(&spec("Always"), &view([exited("init", 0), running("proxy"), running("log"), dead, running("b")]), now());
    assert_eq!(decision.actions, []);
    assert_eq!(decision.wake_at, Some(now() + SignedDuration::from_secs(10)));
    assert_eq!(decision.backing_off, [("a".to_owned(), 10)]);
}

#[test]
fn what_probes_and_spec_changes_ask_for() {
    let mut sick = running("a");
    sick.1.unhealthy = Some("Container a failed liveness probe, will be restarted".into());
    let mut changed = running("b");
    changed.1.current.as_mut().unwrap().spec_hash = "old".into();
    let decision =
        plan(&spec("Always"), &view([exited("init", 0), running("proxy"), running("log"), sick, changed]), now());
    assert_eq!(
        decision.actions,
        [
            Action::Stop {
                container: "a".into(),
                reason: StopReason::Unhealthy("Container a failed liveness probe, will be restarted".into())
            },
            Action::Stop { container: "b".into(), reason: StopReason::SpecChanged },
        ]
    );
}

#[test]
fn a_lost_sandbox_is_made_again_and_initialisation_repeats() {
    let mut old: Vec<_> =
        vec![exited("init", 0), exited("proxy", 137), exited("log", 137), exited("a", 137), exited("b", 137)];
    for (_, seen) in &mut old {
        seen.current.as_mut().unwrap().in_current_sandbox = false;
    }
    let mut seen = PodView { containers: old.into_iter().collect(), ..PodView::default() };
    assert_eq!(plan(&spec("Always"), &seen, now()).actions, [Action::CreateSandbox]);
    seen.sandbox = Sandbox::Pending { retry_at: Some(now() + SignedDuration::from_secs(5)), making: false };
    let waiting = plan(&spec("Always"), &seen, now());
    assert_eq!((waiting.actions.len(), waiting.wake_at.is_some()), (0, true));
    seen.sandbox = Sandbox::Ready { ips: vec![] };
    assert_eq!(plan(&spec("Always"), &seen, now()).actions, [start_of("init", 1)]);
    seen.containers.retain(|name, _| name == "init");
    assert_eq!(plan(&spec("Never"), &seen, now()).actions, [start_of("init", 1)], "it had not failed");
}

#[test]
fn a_pod_ends_main_first_then_sidecars_in_reverse_then_the_sandbox() {
    let spec = spec("Always");
    let mut seen = view([exited("init", 0), running("proxy"), running("log"), running("a"), running("b")]);
    seen.ending = Some(Ending::Deleted);
    let step = |seen: &PodView| plan(&spec, seen, now()).actions;
    assert_eq!(step(&seen), [stop_of("b"), stop_of("a")]);
    for name in ["a", "b"] {
        seen.containers.get_mut(name).unwrap().activity = Activity::Stopping;
    }
    assert_eq!(step(&seen), []);
    seen.containers.extend([exited("a", 0), exited("b", 0)]);
    assert_eq!(step(&seen), [stop_of("log")]);
    seen.containers.get_mut("log").unwrap().activity = Activity::Stopping;
    assert_eq!(step(&seen), []);
    seen.containers.extend([exited("log", 0)]);
    assert_eq!(step(&seen), [stop_of("proxy")]);
    seen.containers.extend([exited("proxy", 0)]);
    assert_eq!(step(&seen), [Action::StopSandbox]);
    seen.sandbox = Sandbox::Stopped;
    assert_eq!(step(&seen), [Action::Finish]);
}

#[test]
fn a_finished_job_ends_its_sidecars_and_a_failed_init_ends_the_pod() {
    let done = view([exited("init", 0), running("proxy"), running("log"), exited("a", 0), exited("b", 0)]);
    assert_eq!(plan(&spec("OnFailure"), &done, now()).actions, [stop_of("log")]);
    let failed = view([exited("init", 3)]);
    assert_eq!(plan(&spec("Never"), &failed, now()).actions, [Action::StopSandbox]);
    let mut pulling = view([]);
    pulling
        .containers
        .insert("init".into(), ContainerView { activity: Activity::Starting, ..ContainerView::default() });
    pulling.ending = Some(Ending::Deleted);
    assert_eq!(plan(&spec("Never"), &pulling, now()).actions, [Action::Abandon { container: "init".into() }]);
}
