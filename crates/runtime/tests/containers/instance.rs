//! A runtime of a test's own, with the probe image in it, that leaves nothing behind.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use runtime::{
    Runtime, RuntimeError,
    api::{
        ContainerConfig, ContainerId, ContainerState, ExecOutput, Resources, RuntimeConfig, SandboxConfig, SandboxId,
        Security,
    },
};
use serde_json::json;
use tokio::task::JoinSet;

use crate::registry::{Image, Registry};

/// Longer than anything takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Whether the tests can run here; says why not.
pub(crate) fn possible() -> bool {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root");
        return false;
    }
    if probe().is_none() {
        println!("skipped: needs a C compiler with a static C library");
        return false;
    }
    true
}

/// The probe program, compiled once.
pub(crate) fn probe() -> Option<&'static [u8]> {
    static PROBE: OnceLock<Option<Vec<u8>>> = OnceLock::new();
    PROBE
        .get_or_init(|| {
            let directory = tempfile::tempdir().unwrap();
            let (source, program) = (directory.path().join("probe.c"), directory.path().join("probe"));
            fs::write(&source, include_str!("probe.c")).unwrap();
            let status = Command::new("cc").arg("-static").arg("-O1").arg("-o").arg(&program).arg(&source).status();
            status.is_ok_and(|status| status.success()).then(|| fs::read(&program).unwrap())
        })
        .as_deref()
}

pub(crate) struct Instance {
    directory: tempfile::TempDir,
    pub(crate) cgroup_root: String,
    pub(crate) runtime: Option<Arc<Runtime>>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) config: RuntimeConfig,
    _tasks: JoinSet<()>,
}

impl Instance {
    pub(crate) async fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let directory = tempfile::tempdir().unwrap();
        let name = format!("keelson-test-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let file = |path: &str, content: &[u8], mode| (path.to_owned(), content.to_owned(), mode);
        let files = vec![
            file("probe", probe().unwrap(), 0o755),
            file("plain", b"not a program", 0o644),
            file("broken", b"\x7fnot a program either", 0o755),
            file("etc/passwd", b"root:x:0:0::/root:/\napp:x:1000:1001::/home/app:/\n", 0o644),
            file("etc/group", b"root:x:0:\napp:x:1001:\nvideo:x:44:app\n", 0o644),
            file("tmp/", b"", 0o1777),
        ];
        let image = |config| Image { layers: vec![files.clone()], config };
        let mut registry = Registry::default();
        registry.add("probe", "latest", &image(json!({ "Entrypoint": ["/probe"], "Env": ["FROM=image"] })));
        registry.add(
            "user",
            "1",
            &image(json!({ "Entrypoint": ["/probe"], "User": "app", "WorkingDir": "/work/dir" })),
        );
        let lower = vec![
            file("keep", b"kept\n", 0o644),
            file("change", b"old\n", 0o644),
            file("gone", b"old\n", 0o644),
            file("dir/old", b"old\n", 0o644),
            file("deep/kept", b"kept\n", 0o644),
        ];
        let upper = vec![
            file("change", b"new\n", 0o644),
            file(".wh.gone", b"", 0o644),
            file("dir/.wh..wh..opq", b"", 0o644),
            file("dir/new", b"new\n", 0o644),
            file("deep/other", b"", 0o644),
        ];
        let layers = vec![files, lower, upper];
        registry.add("layered", "1", &Image { layers, config: json!({ "Entrypoint": ["/probe"] }) });
        let registry = Arc::new(registry);
        let mut tasks = JoinSet::new();
        let mirror = registry.clone().serve(&mut tasks).await;
        let config = RuntimeConfig {
            state_dir: directory.path().join("state"),
            run_dir: directory.path().join("run"),
            cgroup_root: name.clone(),
            instance: name.clone(),
            shim_executable: PathBuf::from(env!("CARGO_BIN_EXE_shim")),
            mirror: Some(mirror),
        };
        let runtime = Some(Runtime::open(config.clone()).await.unwrap());
        Self { directory, cgroup_root: name, runtime, registry, config, _tasks: tasks }
    }

    pub(crate) fn runtime(&self) -> &Arc<Runtime> {
        self.runtime.as_ref().unwrap()
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Drops the runtime as a crash of Keelson would, and opens it again.
    pub(crate) async fn reopen(&mut self) {
        let old = self.runtime.take().unwrap();
        // A task that hears a shim holds it for a moment at a time.
        while Arc::strong_count(&old) > 1 {
            tokio::task::yield_now().await;
        }
        drop(old);
        self.runtime = Some(Runtime::open(self.config.clone()).await.unwrap());
    }

    pub(crate) fn sandbox_config(&self) -> SandboxConfig {
        SandboxConfig {
            name: "pod".into(),
            namespace: "default".into(),
            uid: "uid".into(),
            attempt: 0,
            hostname: "pod-host".into(),
            resolv_conf: "nameserver 10.1.2.3\n".into(),
            log_directory: self.path().join("logs"),
            host_network: false,
            host_pid: false,
            host_ipc: false,
            share_process_namespace: false,
            sysctls: BTreeMap::new(),
            cgroup_parent: "besteffort/poduid".into(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
        }
    }

    pub(crate) async fn sandbox(&self) -> SandboxId {
        self.runtime().run_sandbox(self.sandbox_config()).await.unwrap().id
    }

    /// A container of the probe image that runs these commands.
    pub(crate) async fn container_config(&self, name: &str, commands: &str) -> ContainerConfig {
        let image = self.runtime().pull("probe", None).await.unwrap();
        ContainerConfig {
            name: name.into(),
            attempt: 0,
            image_id: image.id,
            image_ref: "probe".into(),
            command: vec![],
            args: commands.split_whitespace().map(str::to_owned).collect(),
            env: vec![],
            working_dir: None,
            mounts: vec![],
            devices: vec![],
            resources: Resources::default(),
            security: Security::default(),
            log_path: format!("{name}/0.log").into(),
            stdin: false,
            stdin_once: false,
            tty: false,
            shares_processes_with: None,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
        }
    }

    pub(crate) async fn create(&self, sandbox: &SandboxId, config: ContainerConfig) -> ContainerId {
        self.runtime().create_container(sandbox, config).await.unwrap()
    }

    pub(crate) async fn start(&self, sandbox: &SandboxId, config: ContainerConfig) -> ContainerId {
        let id = self.create(sandbox, config).await;
        self.runtime().start_container(&id).await.unwrap();
        id
    }

    /// Waits for a state that satisfies a condition.
    pub(crate) async fn wait_for(&self, id: &ContainerId, wanted: impl Fn(&ContainerState) -> bool) -> ContainerState {
        let mut events = self.runtime().events();
        let wait = async {
            loop {
                let state = self.runtime().container(id).unwrap().state;
                if wanted(&state) {
                    return state;
                }
                events.recv().await.unwrap();
            }
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(state) => state,
            Err(_) => panic!("container is {:?}, log: {}", self.runtime().container(id), self.log(id)),
        }
    }

    pub(crate) async fn exit(&self, id: &ContainerId) -> i32 {
        match self.wait_for(id, |state| matches!(state, ContainerState::Exited { .. })).await {
            ContainerState::Exited { exit_code, .. } => exit_code,
            _ => unreachable!("waited for the exit"),
        }
    }

    /// Runs a container to its end; returns exit code and what it printed.
    pub(crate) async fn run(&self, sandbox: &SandboxId, config: ContainerConfig) -> (i32, String) {
        let id = self.start(sandbox, config).await;
        (self.exit(&id).await, self.log(&id))
    }

    /// What a container has printed: the lines without time, stream and tag.
    pub(crate) fn log(&self, id: &ContainerId) -> String {
        let path = self.runtime().container(id).unwrap().log_path;
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines().map(|line| line.splitn(4, ' ').nth(3).unwrap_or_default().to_owned() + "\n").collect()
    }

    pub(crate) async fn exec(&self, id: &ContainerId, command: &str) -> Result<ExecOutput, RuntimeError> {
        let command = command.split_whitespace().map(str::to_owned).collect();
        self.runtime().exec_sync(id, command, PATIENCE).await
    }

    /// Everything the kernel and the process table still have of this instance.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let own = self.path().to_str().unwrap();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mut found: Vec<String> =
            mounts.lines().filter(|line| line.contains(own)).map(|line| format!("mount {line}")).collect();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let group = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
            let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
            if status.contains("State:\tZ") || line.is_empty() {
                // Ended, or its memory is gone already; when it is reaped is the business of the machine's first process.
                continue;
            }
            let line = String::from_utf8_lossy(&line).into_owned();
            if group.contains(&format!("/{}/", self.cgroup_root)) || line.contains(&format!("{own}/state")) {
                found.push(format!("process {} {line:?} {group}", entry.path().display()));
            }
        }
        for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            for path in [hierarchy.path().join(&self.cgroup_root), Path::new("/sys/fs/cgroup").join(&self.cgroup_root)]
            {
                if path.exists() {
                    found.push(format!("cgroup {}", path.display()));
                }
            }
        }
        found
    }

    pub(crate) fn down(&mut self) {
        self.runtime = None;
        runtime::down(&self.config.state_dir, &self.config.run_dir, &self.cgroup_root).unwrap();
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.runtime = None;
        let outcome = runtime::down(&self.config.state_dir, &self.config.run_dir, &self.cgroup_root);
        if !std::thread::panicking() {
            outcome.unwrap();
            assert_eq!(self.leftovers(), Vec::<String>::new());
        }
    }
}
