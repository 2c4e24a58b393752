//! The specification of a small container.

use super::*;
use crate::api::{Mount, Resources, Security};

pub(crate) fn launch() -> Launch {
    let container = ContainerConfig {
        name: "main".into(),
        attempt: 0,
        image_id: String::new(),
        image_ref: String::new(),
        command: vec![],
        args: vec![],
        env: vec![("A".into(), "pod".into()), ("B".into(), "=x=".into())],
        working_dir: None,
        mounts: vec![],
        devices: vec![],
        resources: Resources::default(),
        security: Security::default(),
        log_path: "0.log".into(),
        stdin: false,
        stdin_once: false,
        tty: false,
        shares_processes_with: None,
        labels: Default::default(),
        annotations: Default::default(),
    };
    Launch {
        id: "c".into(),
        container,
        sandbox: SandboxConfig {
            name: "p".into(),
            namespace: "n".into(),
            uid: "u".into(),
            attempt: 0,
            hostname: "host".into(),
            resolv_conf: String::new(),
            log_directory: "/logs".into(),
            host_network: false,
            host_pid: false,
            host_ipc: false,
            share_process_namespace: false,
            sysctls: Default::default(),
            cgroup_parent: "pod".into(),
            labels: Default::default(),
            annotations: Default::default(),
        },
        layers: vec![],
        image: ImageProcess {
            env: vec!["A=image".into(), "PATH=/bin".into()],
            entrypoint: vec!["/entry".into()],
            cmd: vec!["arg".into()],
            ..ImageProcess::default()
        },
        cgroup_path: "/k/pod/c".into(),
        sandbox_dir: "/s".into(),
        shm_dir: "/shm".into(),
        container_dir: "/c".into(),
        libcontainer_root: "/r".into(),
    }
}

fn machine() -> Machine {
    Machine {
        capabilities: u64::MAX,
        cgroup_v2: true,
        swap_accounting: false,
        open_files_hard: 4096,
        devices: vec![],
        seccomp_profile: None,
    }
}

fn built(launch: &Launch) -> Value {
    build(
        launch,
        &Identity::default(),
        &NamespacePaths { network: Some("/net".into()), ..Default::default() },
        &machine(),
    )
}

#[test]
fn command_line_follows_the_rules_of_command_and_args() {
    let line = |command: &[&str], args: &[&str]| {
        let mut launch = launch();
        launch.container.command = command.iter().map(|s| (*s).into()).collect();
        launch.container.args = args.iter().map(|s| (*s).into()).collect();
        launch.container.command_line(&launch.image).join(" ")
    };
    assert_eq!(line(&[], &[]), "/entry arg");
    assert_eq!(line(&[], &["x"]), "/entry x");
    assert_eq!(line(&["/c"], &[]), "/c");
    assert_eq!(line(&["/c"], &["x"]), "/c x");
}

#[test]
fn later_environment_replaces_earlier_in_place() {
    assert_eq!(environment(&launch(), "/h"), ["PATH=/bin", "HOSTNAME=host", "HOME=/h", "A=pod", "B==x="]);
}

#[test]
fn specification_is_one_libcontainer_reads() {
    let mut launch = launch();
    launch.container.resources.memory_limit_bytes = Some(1 << 20);
    launch.container.devices.push("/dev/null".into());
    let spec: libcontainer::oci_spec::runtime::Spec = serde_json::from_value(built(&launch)).unwrap();
    assert!(spec.process().as_ref().unwrap().no_new_privileges().is_none());
    assert!(spec.linux().as_ref().unwrap().seccomp().is_some());
}

#[test]
fn privileged_hides_nothing() {
    let mut launch = launch();
    launch.container.security.privileged = true;
    let spec = built(&launch);
    assert!(spec["linux"]["seccomp"].is_null() && spec["linux"]["maskedPaths"].is_null());
    assert_eq!(spec["linux"]["resources"]["devices"][0]["allow"], true);
}

#[test]
fn user_mount_replaces_the_default_one() {
    let mut launch = launch();
    launch.container.mounts.push(Mount {
        host_path: "/mine".into(),
        container_path: "/etc/hosts/".into(),
        readonly: true,
        propagation: Propagation::Private,
    });
    let spec = built(&launch);
    let hosts: Vec<&Value> = spec["mounts"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|mount| mount["destination"].as_str().unwrap().starts_with("/etc/hosts"))
        .collect();
    assert_eq!(hosts.len(), 1);
    assert_eq!(hosts[0]["source"], "/mine");
}

#[test]
fn stop_signals_are_read_in_every_spelling() {
    for (name, number) in [("", 15), ("SIGQUIT", 3), ("quit", 3), ("9", 9), ("SIGRTMIN+3", 37), ("nonsense", 15)] {
        assert_eq!(stop_signal(name), number, "{name}");
    }
}
