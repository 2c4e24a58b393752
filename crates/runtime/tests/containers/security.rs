//! What a container may and may not do, seen from inside.

use runtime::{
    RuntimeError,
    api::{ContainerState, Mount, Propagation, Seccomp},
};

use crate::instance::{Instance, possible};

const ROOT_DEFAULT_CAPABILITIES: &str = "CapEff:\t00000000a80425fb";

#[tokio::test(flavor = "multi_thread")]
async fn defaults_are_those_of_every_node() {
    if !possible() {
        return;
    }
    let instance = Instance::new().await;
    let sandbox = instance.sandbox().await;
    let config =
        instance.container_config("main", "id , hostname , env FROM , env PATH , env HOME , env HOSTNAME , cat /proc/self/status , unshare , fork , cat /etc/hostname , cat /etc/resolv.conf , cat /etc/hosts , write /proc/sys/vm/swappiness 1 , cat /proc/1/comm , write /dev/shm/x y , write /sys/x y , sleep 1000").await;
    let id = instance.start(&sandbox, config).await;
    while !instance.log(&id).contains("/sys/x") {
        tokio::task::yield_now().await;
    }
    let log = instance.log(&id);
    for expected in [
        "uid=0 gid=0 groups=0\n",
        "pod-host\n",
        "FROM=image\n",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n",
        "HOME=/root\n",
        "HOSTNAME=pod-host\n",
        ROOT_DEFAULT_CAPABILITIES,
        "NoNewPrivs:\t0",
        "Seccomp:\t2",
        "unshare: Operation not permitted\n",
        "fork: 9\n",
        "nameserver 10.1.2.3\n",
        "127.0.0.1\tlocalhost\n",
        "/proc/sys/vm/swappiness: Read-only file system\n",
        "probe\n",
        "wrote 1\n",
        "/sys/x: ",
    ] {
        assert!(log.contains(expected), "{expected:?} is missing in {log}");
    }
    // A command in the container is under the same rules.
    let output = instance.exec(&id, "/probe id , env FROM , cat /proc/self/status , unshare , fork").await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for expected in [
        "uid=0 gid=0 groups=0\n",
        "FROM=image\n",
        ROOT_DEFAULT_CAPABILITIES,
        "Seccomp:\t2",
        "unshare: Operation not permitted\n",
        "fork: 9\n",
    ] {
        assert!(text.contains(expected), "{expected:?} is missing in {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn restricted_container_is_restricted() {
    if !possible() {
        return;
    }
    let instance = Instance::new().await;
    let sandbox = instance.sandbox().await;
    let mut config = instance
        .container_config(
            "main",
            "id , cat /proc/self/status , write /x y , write /tmp/x y , chown /tmp , unshare , sleep 1000",
        )
        .await;
    config.security.drop_capabilities = vec!["ALL".into()];
    config.security.add_capabilities = vec!["NET_BIND_SERVICE".into()];
    config.security.no_new_privileges = true;
    config.security.readonly_rootfs = true;
    config.security.run_as_user = Some(2000);
    config.security.run_as_group = Some(3000);
    config.security.run_as_non_root = true;
    config.security.supplemental_groups = vec![4000];
    let id = instance.start(&sandbox, config).await;
    while !instance.log(&id).contains("unshare:") {
        tokio::task::yield_now().await;
    }
    let log = instance.log(&id);
    for expected in [
        "uid=2000 gid=3000 groups=3000,4000\n",
        "CapBnd:\t0000000000000400",
        "CapEff:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "/x: Read-only file system\n",
        "/tmp/x: Read-only file system\n",
        "chown: ",
        "unshare: Operation not permitted\n",
    ] {
        assert!(log.contains(expected), "{expected:?} is missing in {log}");
    }
    let output = instance.exec(&id, "/probe id , cat /proc/self/status , unshare").await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for expected in [
        "uid=2000 gid=3000 groups=3000,4000\n",
        "CapBnd:\t0000000000000400",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "unshare: Operation not permitted\n",
    ] {
        assert!(text.contains(expected), "{expected:?} is missing in {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn image_user_is_resolved_and_checked() {
    if !possible() {
        return;
    }
    let instance = Instance::new().await;
    let sandbox = instance.sandbox().await;
    let image = instance.runtime().pull("user:1", None).await.unwrap();
    assert_eq!((image.uid, image.username.as_deref()), (None, Some("app")));
    let mut config = instance.container_config("main", "id , pwd , env HOME , write /work/dir/x y").await;
    config.image_id = image.id;
    let (code, log) = instance.run(&sandbox, config.clone()).await;
    assert_eq!(code, 0);
    assert!(log.contains("uid=1000 gid=1001 groups=44,1001\n/work/dir\nHOME=/home/app\n"), "{log}");
    config.security.run_as_non_root = true;
    let error = instance.runtime().create_container(&sandbox, config).await.unwrap_err();
    assert!(error.to_string().contains("non-numeric user (app)"), "{error}");
    let mut config = instance.container_config("main", "id").await;
    config.security.run_as_non_root = true;
    let error = instance.runtime().create_container(&sandbox, config).await.unwrap_err();
    assert!(matches!(error, RuntimeError::RunAsNonRoot(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_and_unconfined_open_what_they_say() {
    if !possible() {
        return;
    }
    let instance = Instance::new().await;
    let sandbox = instance.sandbox().await;
    let mut config = instance.container_config("privileged", "mknod /tmp/null , cat /proc/self/status , unshare").await;
    config.security.privileged = true;
    let (_, log) = instance.run(&sandbox, config).await;
    assert!(log.contains("unshare: ok") && log.contains("Seccomp:\t0") && log.contains("mknod: ok"), "{log}");
    let mut config = instance.container_config("unconfined", "cat /proc/self/status").await;
    config.security.seccomp = Seccomp::Unconfined;
    let (_, log) = instance.run(&sandbox, config).await;
    assert!(log.contains("Seccomp:\t0") && log.contains(ROOT_DEFAULT_CAPABILITIES), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_reach_the_kernel() {
    if !possible() {
        return;
    }
    let instance = Instance::new().await;
    let sandbox = instance.sandbox().await;
    let mut config = instance.container_config("main", "cat /proc/self/oom_score_adj , forks , sleep 1000").await;
    config.resources.cpu_shares = Some(512);
    config.resources.cpu_quota_us = Some(50_000);
    config.resources.cpu_period_us = Some(100_000);
    config.resources.memory_limit_bytes = Some(64 << 20);
    config.resources.pids_limit = Some(20);
    config.resources.oom_score_adj = Some(123);
    let id = instance.start(&sandbox, config).await;
    while !instance.log(&id).contains("forks:") {
        tokio::task::yield_now().await;
    }
    assert!(instance.log(&id).starts_with("123\n"), "{}", instance.log(&id));
    assert!(instance.log(&id).contains("forks: 19\n"), "{}", instance.log(&id));
    let group = format!("{}/besteffort/poduid/{}", instance.cgroup_root, id.0);
    let read = |files: &[&str]| {
        let mut found = files.iter().filter_map(|file| {
            std::fs::read_to_string(format!("/sys/fs/cgroup/{}", file.replace("GROUP", &group))).ok()
        });
        found.next().unwrap_or_else(|| panic!("none of {files:?}")).trim().to_owned()
    };
    assert_eq!(read(&["memory/GROUP/memory.limit_in_bytes", "GROUP/memory.max"]), (64 << 20).to_string());
    let quota = read(&["cpu/GROUP/cpu.cfs_quota_us", "GROUP/cpu.max"]);
    assert!(quota == "50000" || quota == "50000 100000", "{quota}");
    let stats = instance.runtime().container_stats(&id).unwrap();
    assert!(stats.memory_working_set_bytes > 0 && stats.cpu_usage_ns > 0 && stats.pids >= 20, "{stats:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_and_environment_arrive() {
    if !possible() {
        return;
    }
    let instance = Instance::new().await;
    let sandbox = instance.sandbox().await;
    let host = instance.path().join("host");
    std::fs::create_dir(&host).unwrap();
    std::fs::write(host.join("file"), "from the host\n").unwrap();
    let mut config = instance
        .container_config(
            "main",
            "cat /data/dir/file , write /data/dir/new x , write /ro/new x , cat /config/file , env A , pwd",
        )
        .await;
    let mount = |source: &std::path::Path, target: &str, readonly| Mount {
        host_path: source.to_owned(),
        container_path: target.into(),
        readonly,
        propagation: Propagation::Private,
    };
    config.mounts = vec![
        mount(&host, "/data/dir", false),
        mount(&host, "/ro", true),
        mount(&host.join("file"), "/config/file", true),
    ];
    config.env = vec![("A".into(), "b=c d".into())];
    config.working_dir = Some("/made/here".into());
    let (_, log) = instance.run(&sandbox, config).await;
    let expected = "from the host\nwrote 1\n/ro/new: Read-only file system\nfrom the host\nA=b=c d\n/made/here\n";
    assert_eq!(log, expected);
    assert_eq!(std::fs::read(host.join("new")).unwrap(), b"x");
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_shares_what_pods_share() {
    if !possible() {
        return;
    }
    let instance = Instance::new().await;
    let mut config = instance.sandbox_config();
    config.share_process_namespace = true;
    config.sysctls.insert("net.ipv4.ip_default_ttl".into(), "42".into());
    let sandbox = instance.runtime().run_sandbox(config).await.unwrap().id;
    let server = instance.container_config("server", "write /dev/shm/shared seen , serve 8080").await;
    let server = instance.start(&sandbox, server).await;
    while !instance.log(&server).contains("listening") {
        tokio::task::yield_now().await;
    }
    let config = instance
        .container_config("client", "cat /dev/shm/shared , cat /proc/1/comm , cat /proc/sys/net/ipv4/ip_default_ttl")
        .await;
    let (_, log) = instance.run(&sandbox, config).await;
    assert_eq!(log, "seenpause\n42\n");
    let mut stream = instance.runtime().dial(&sandbox, 8080).await.unwrap();
    let mut text = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut text).await.unwrap();
    assert_eq!(text, "hello\n");
    assert!(instance.runtime().dial(&sandbox, 9).await.is_err());
    let mut bad = instance.sandbox_config();
    bad.sysctls.insert("no.such.parameter".into(), "1".into());
    let error = instance.runtime().run_sandbox(bad).await.unwrap_err();
    assert!(error.to_string().contains("no.such.parameter"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn host_namespaces_are_the_hosts() {
    if !possible() {
        return;
    }
    let instance = Instance::new().await;
    let mut config = instance.sandbox_config();
    config.host_network = true;
    config.host_pid = true;
    config.host_ipc = true;
    let sandbox = instance.runtime().run_sandbox(config).await.unwrap();
    assert!(sandbox.netns.is_none());
    let config =
        instance.container_config("main", "cat /proc/net/dev , hostname , cat /proc/1/comm , sleep 1000").await;
    let id = instance.start(&sandbox.id, config).await;
    let first = std::fs::read_to_string("/proc/1/comm").unwrap();
    while !instance.log(&id).contains(&first) {
        tokio::task::yield_now().await;
    }
    let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
    assert!(instance.log(&id).contains(&format!("\n{host}\n")), "{}", instance.log(&id));
    let ContainerState::Running { pid, .. } = instance.runtime().container(&id).unwrap().state else {
        panic!("the container runs")
    };
    for namespace in ["net", "ipc", "uts", "pid"] {
        let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/{namespace}")).unwrap();
        assert_eq!(of(&pid.to_string()), of("self"), "{namespace}");
    }
    // Without a PID namespace the kernel does not end the rest of the container; the runtime does.
    instance.runtime().stop_container(&id, std::time::Duration::ZERO).await.unwrap();
    assert_eq!(instance.exit(&id).await, 137);
}

#[tokio::test(flavor = "multi_thread")]
async fn profile_of_the_node_applies() {
    if !possible() {
        return;
    }
    let instance = Instance::new().await;
    let sandbox = instance.sandbox().await;
    let profile = instance.path().join("profile.json");
    let rules = serde_json::json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["chown", "fchownat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5 }],
    });
    std::fs::write(&profile, rules.to_string()).unwrap();
    let mut config = instance.container_config("main", "chown /tmp").await;
    config.security.seccomp = Seccomp::Localhost(profile);
    let (_, log) = instance.run(&sandbox, config.clone()).await;
    assert_eq!(log, "chown: Input/output error\n");
    config.security.seccomp = Seccomp::Localhost("/no/such/profile.json".into());
    let id = instance.create(&sandbox, config).await;
    let error = instance.runtime().start_container(&id).await.unwrap_err();
    assert!(error.to_string().contains("/no/such/profile.json does not exist"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_propagate_as_asked() {
    if !possible() {
        return;
    }
    let instance = Instance::new().await;
    let sandbox = instance.sandbox().await;
    let shared = instance.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    let flags = nix::mount::MsFlags::MS_BIND;
    nix::mount::mount(Some(&shared), &shared, None::<&str>, flags, None::<&str>).unwrap();
    let unmount = Unmount(shared.clone());
    nix::mount::mount(None::<&str>, &shared, None::<&str>, nix::mount::MsFlags::MS_SHARED, None::<&str>).unwrap();
    for (name, propagation, flag) in [
        ("private", Propagation::Private, " - "),
        ("slave", Propagation::HostToContainer, " master:"),
        ("both", Propagation::Bidirectional, " shared:"),
    ] {
        let mut config = instance.container_config(name, "cat /proc/self/mountinfo").await;
        config.mounts =
            vec![Mount { host_path: shared.clone(), container_path: "/shared".into(), readonly: false, propagation }];
        let (_, log) = instance.run(&sandbox, config).await;
        let line = log.lines().find(|line| line.contains(" /shared ")).unwrap();
        assert!(line.contains(flag), "{name}: {line}");
        assert!(name != "private" || !line.contains("shared:") && !line.contains("master:"), "{line}");
    }
    instance.runtime().remove_sandbox(&sandbox).await.unwrap();
    drop(unmount);
}

struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}
