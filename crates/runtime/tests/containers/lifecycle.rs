//! Creating, starting, stopping, adopting.

use std::time::{Duration, Instant};

use runtime::{
    RuntimeError,
    api::{ContainerState, RuntimeEvent, SandboxState},
};

use crate::instance::{Instance, PATIENCE, possible};

#[tokio::test(flavor = "multi_thread")]
async fn container_runs_to_its_end_and_its_output_is_logged() {
    if !possible() {
        return;
    }
    let instance = Instance::new().await;
    let sandbox = instance.sandbox().await;
    let config = instance.container_config("main", "out hello , err oops , exit 3").await;
    let id = instance.create(&sandbox, config).await;
    assert_eq!(instance.runtime().container(&id).unwrap().state, ContainerState::Created);
    instance.runtime().start_container(&id).await.unwrap();
    assert_eq!(instance.exit(&id).await, 3);
    let log = std::fs::read_to_string(instance.path().join("logs/main/0.log")).unwrap();
    let mut lines: Vec<_> = log.lines().map(|line| line.split_once(' ').unwrap().1).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["stderr F oops", "stdout F hello"]);
    instance.runtime().remove_sandbox(&sandbox).await.unwrap();
    assert!(instance.runtime().containers().is_empty() && instance.runtime().sandboxes().is_empty());
    // The control group of the shims stays until the instance goes down.
    let left: Vec<String> = instance.leftovers().into_iter().filter(|left| !left.starts_with("cgroup ")).collect();
    assert_eq!(left, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_are_told_with_signal_and_memory() {
    if !possible() {
        return;
    }
    let instance = Instance::new().await;
    let sandbox = instance.sandbox().await;
    let config = instance.container_config("crash", "crash").await;
    let id = instance.start(&sandbox, config).await;
    let ContainerState::Exited { exit_code, signal, oom_killed, .. } =
        instance.wait_for(&id, |state| matches!(state, ContainerState::Exited { .. })).await
    else {
        unreachable!("waited for the exit")
    };
    assert_eq!((exit_code, signal, oom_killed), (139, Some(11), false));

    let mut config = instance.container_config("eater", "eat").await;
    config.resources.memory_limit_bytes = Some(16 << 20);
    let id = instance.start(&sandbox, config).await;
    let ContainerState::Exited { exit_code, oom_killed, .. } =
        instance.wait_for(&id, |state| matches!(state, ContainerState::Exited { .. })).await
    else {
        unreachable!("waited for the exit")
    };
    assert_eq!((exit_code, oom_killed), (137, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_asks_first_and_kills_after_the_grace() {
    if !possible() {
        return;
    }
    let instance = Instance::new().await;
    let sandbox = instance.sandbox().await;
    let polite = instance.container_config("polite", "catch-term , out ready , sleep 1000").await;
    let polite = instance.start(&sandbox, polite).await;
    let stubborn = instance.container_config("stubborn", "ignore-term , out ready , sleep 1000").await;
    let stubborn = instance.start(&sandbox, stubborn).await;
    while instance.log(&polite).is_empty() || instance.log(&stubborn).is_empty() {
        tokio::task::yield_now().await;
    }
    instance.runtime().stop_container(&polite, PATIENCE).await.unwrap();
    assert_eq!(instance.exit(&polite).await, 7);
    let begin = Instant::now();
    instance.runtime().stop_container(&stubborn, Duration::from_millis(200)).await.unwrap();
    assert!(begin.elapsed() >= Duration::from_millis(200));
    assert_eq!(instance.exit(&stubborn).await, 137);
    instance.runtime().stop_container(&stubborn, PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn program_that_cannot_run_is_explained() {
    if !possible() {
        return;
    }
    let instance = Instance::new().await;
    let sandbox = instance.sandbox().await;
    for (command, explanation) in [
        ("nothing", "exec: \"nothing\": executable file not found in $PATH"),
        ("/no/such", "exec: \"/no/such\": stat /no/such: no such file or directory"),
        ("/plain", "exec: \"/plain\": permission denied"),
        ("/tmp", "exec: \"/tmp\": is a directory"),
        ("/broken", "exec /broken: exec format error"),
    ] {
        let mut config = instance.container_config("bad", "").await;
        config.command = vec![command.to_owned()];
        let id = instance.create(&sandbox, config).await;
        let error = instance.runtime().start_container(&id).await.unwrap_err();
        assert!(matches!(error, RuntimeError::Start { exit_code: 128, .. }), "{error:?}");
        assert!(error.to_string().contains(explanation), "{command}: {error}");
        assert_eq!(instance.exit(&id).await, 128);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_outlive_the_runtime_and_are_adopted() {
    if !possible() {
        return;
    }
    let mut instance = Instance::new().await;
    let sandbox = instance.sandbox().await;
    let config = instance.container_config("lasting", "out started , sleep 1000").await;
    let lasting = instance.start(&sandbox, config).await;
    let config = instance.container_config("ending", "echo , exit 5").await;
    let ending = {
        let config = runtime::api::ContainerConfig { stdin: true, stdin_once: true, ..config };
        instance.start(&sandbox, config).await
    };
    let before = instance.runtime().container(&lasting).unwrap().state;
    // Its input ends with the runtime, and so it ends while nobody listens.
    let request = runtime::api::AttachRequest { stdin: true, ..Default::default() };
    let session = instance.runtime().attach(&ending, request).await.unwrap();
    drop(session);
    instance.reopen().await;
    assert_eq!(instance.exit(&ending).await, 5);
    assert_eq!(instance.runtime().container(&lasting).unwrap().state, before);
    assert_eq!(instance.runtime().sandbox(&sandbox).unwrap().state, SandboxState::Ready);
    let output = instance.exec(&lasting, "/probe out alive").await.unwrap();
    assert_eq!(output.stdout, b"alive\n");
    instance.runtime().stop_container(&lasting, Duration::ZERO).await.unwrap();
    assert_eq!(instance.exit(&lasting).await, 137);
}

#[tokio::test(flavor = "multi_thread")]
async fn death_of_a_shim_is_told_and_cleaned_up() {
    if !possible() {
        return;
    }
    let mut instance = Instance::new().await;
    let sandbox = instance.sandbox().await;
    let config = instance.container_config("main", "out started , sleep 1000").await;
    let id = instance.start(&sandbox, config).await;
    let mut events = instance.runtime().events();
    let pid_file = instance.path().join(format!("run/shim/{}.pid", &sandbox.0[..16]));
    let pid: i32 = std::fs::read_to_string(pid_file).unwrap().parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    let told = async { while events.recv().await.unwrap() != (RuntimeEvent::Sandbox { sandbox: sandbox.clone() }) {} };
    tokio::time::timeout(PATIENCE, told).await.unwrap();
    assert_eq!(instance.runtime().sandbox(&sandbox).unwrap().state, SandboxState::NotReady);
    assert_eq!(instance.runtime().container(&id).unwrap().state, ContainerState::Unknown);
    assert!(matches!(instance.exec(&id, "/probe").await, Err(RuntimeError::State { .. })));
    instance.reopen().await;
    // A process that is being killed closes one descriptor after the other, so the shim may have taken one more connection.
    instance.wait_for(&id, |state| *state == ContainerState::Unknown).await;
    instance.runtime().stop_sandbox(&sandbox).await.unwrap();
    assert_eq!(instance.exit(&id).await, 255);
    instance.runtime().remove_sandbox(&sandbox).await.unwrap();
    assert!(instance.runtime().containers().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_sandbox_keeps_its_containers_ends() {
    if !possible() {
        return;
    }
    let instance = Instance::new().await;
    let sandbox = instance.sandbox().await;
    let config = instance.container_config("main", "sleep 1000").await;
    let id = instance.start(&sandbox, config).await;
    instance.runtime().stop_sandbox(&sandbox).await.unwrap();
    assert_eq!(instance.exit(&id).await, 137);
    assert_eq!(instance.runtime().sandbox(&sandbox).unwrap().state, SandboxState::NotReady);
    instance.runtime().stop_sandbox(&sandbox).await.unwrap();
    let config = instance.container_config("late", "exit 0").await;
    assert!(matches!(instance.runtime().create_container(&sandbox, config).await, Err(RuntimeError::ShimGone(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn down_ends_everything_and_can_be_repeated() {
    if !possible() {
        return;
    }
    let mut instance = Instance::new().await;
    let mut config = instance.sandbox_config();
    config.share_process_namespace = true;
    for _ in 0..2 {
        let sandbox = instance.runtime().run_sandbox(config.clone()).await.unwrap().id;
        let config = instance.container_config("main", "forks , sleep 1000").await;
        instance.start(&sandbox, config).await;
    }
    instance.down();
    assert_eq!(instance.leftovers(), Vec::<String>::new());
    instance.down();
    assert!(!instance.path().join("run").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn shim_is_small() {
    if !possible() {
        return;
    }
    let instance = Instance::new().await;
    let sandbox = instance.sandbox().await;
    let config = instance.container_config("main", "sleep 1000").await;
    let id = instance.start(&sandbox, config).await;
    instance.exec(&id, "/probe out x").await.unwrap();
    let pid_file = instance.path().join(format!("run/shim/{}.pid", &sandbox.0[..16]));
    let pid = std::fs::read_to_string(pid_file).unwrap();
    let smaps = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let kib = |name: &str| -> u64 {
        let line = smaps.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    // Memory of its own; a freshly written program file would count as "private dirty" too.
    let private = kib("Anonymous:");
    println!("shim: {private} KiB of its own, {} KiB resident", kib("Rss:"));
    assert!(private <= 4096, "shim has {private} KiB of its own");
}
