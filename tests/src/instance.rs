//! A running Keelson.

use std::{
    env,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    time::Instant,
};

use crate::PATIENCE;

/// Lines of the log that are printed when a test failed.
const LOG_LINES_SHOWN: usize = 80;

static INSTANCES: AtomicU8 = AtomicU8::new(1);

/// How an instance is started.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// With containers and network (needs root).
    pub node: bool,
    /// More environment variables.
    pub environment: Vec<(String, String)>,
    /// Authority and token key to start with, those of another server of the same cluster.
    pub pki: Option<PathBuf>,
    /// Size of a disk of its own for the store, for example `48m`: a tmpfs that only the process sees and that ends with
    /// it (needs root).
    pub store_disk: Option<String>,
}

/// A running Keelson; dropping it takes it down and removes everything.
pub struct Instance {
    data_dir: tempfile::TempDir,
    options: Options,
    gateway: String,
    child: Option<Child>,
    log: Arc<Mutex<Vec<String>>>,
}

/// The binary under test.
pub fn binary() -> PathBuf {
    if let Some(path) = env::var_os("KEELSON_BIN") {
        return path.into();
    }
    let test = env::current_exe().expect("a process knows its own file");
    let beside = test.ancestors().nth(2).expect("tests run from target/PROFILE/deps").join("keelson");
    assert!(beside.exists(), "{} is not built: run `make test`, or `cargo build` first", beside.display());
    beside
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("a new folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        if entry.path().is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
        }
    }
}

/// The binary, without the variable that names it: it refuses variables that look like settings and are none.
pub(crate) fn command() -> Command {
    let mut command = Command::new(binary());
    command.env_remove("KEELSON_BIN");
    command
}

/// The binary in a mount namespace of its own, in which `folder` is a tmpfs of this size.
fn on_own_disk(folder: &Path, size: &str) -> Command {
    const MOUNT: &str = r#"mkdir -p "$1" && mount -t tmpfs -o "size=$2" keelson-test "$1" && shift 2 && exec "$@""#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "--", "sh", "-c", MOUNT, "sh"]);
    command.arg(folder).arg(size).arg(binary()).env_remove("KEELSON_BIN");
    command
}

/// Runs the binary with these arguments to its end.
pub fn run(arguments: &[&str]) -> Output {
    command().args(arguments).stdin(Stdio::null()).output().expect("the binary runs")
}

impl Instance {
    /// Starts an instance and waits until it says it is ready.
    pub fn start(options: Options) -> Self {
        // Every address of 127.0.0.0/8 is this machine: tests that run side by side take different ones.
        let pid = std::process::id();
        let number = INSTANCES.fetch_add(1, Ordering::Relaxed);
        let gateway = format!("127.{}.{}.{number}", 64 + (pid >> 8) % 128, pid & 0xff);
        let data_dir = tempfile::Builder::new().prefix("keelson-test-").tempdir().expect("a temporary directory");
        if let Some(pki) = &options.pki {
            copy(pki, &data_dir.path().join("pki"));
        }
        let mut instance = Self { data_dir, options, gateway, child: None, log: Arc::default() };
        instance.resume();
        instance
    }

    /// Starts the instance again from the same data directory.
    pub fn resume(&mut self) {
        assert!(self.child.is_none(), "the instance runs already");
        self.child = Some(self.spawn(&[]));
    }

    /// Starts a process that takes over from the one that runs, if any, and waits until that has ended.
    pub fn replace(&mut self) {
        let before = self.child.take();
        self.child = Some(self.spawn(&["--replace"]));
        let Some(mut before) = before else { return };
        let deadline = Instant::now() + PATIENCE;
        while before.try_wait().expect("our own child can be waited for").is_none() {
            if Instant::now() > deadline {
                let _ = before.kill();
                self.print_log();
                panic!("keelson did not end although another took over");
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// A process on the data directory that has said it is ready.
    fn spawn(&self, more: &[&str]) -> Child {
        let mut command = match &self.options.store_disk {
            None => command(),
            Some(size) => on_own_disk(&self.data_dir().join("store"), size),
        };
        command.args(["up", "--listen", "127.0.0.1:0", "--data-dir"]).arg(self.data_dir.path());
        command.args(more);
        if !self.options.node {
            command.arg("--no-node");
        }
        command.env("KEELSON_GATEWAY_ADDRESSES", &self.gateway).envs(self.options.environment.iter().cloned());
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let (ready, is_ready) = std::sync::mpsc::channel();
        for stream in [
            child.stdout.take().map(|s| Box::new(s) as Box<dyn std::io::Read + Send>),
            child.stderr.take().map(|s| Box::new(s) as Box<dyn std::io::Read + Send>),
        ]
        .into_iter()
        .flatten()
        {
            let (log, ready) = (self.log.clone(), ready.clone());
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    // Who waits for this line may look for it in the log at once.
                    let is_ready = line.contains("keelson is ready");
                    log.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                    if is_ready {
                        let _ = ready.send(());
                    }
                }
            });
        }
        drop(ready);
        // The channel closes when the process ends before it is ready.
        if is_ready.recv_timeout(PATIENCE).is_err() {
            self.print_log();
            let _ = child.kill();
            let _ = child.wait();
            panic!("keelson did not become ready");
        }
        child
    }

    /// Its data directory.
    pub fn data_dir(&self) -> &Path {
        self.data_dir.path()
    }

    /// The loopback address on which its gateways listen.
    pub fn gateway_address(&self) -> &str {
        &self.gateway
    }

    /// Its process id while it runs.
    pub fn pid(&self) -> i32 {
        self.child.as_ref().map_or(0, |child| child.id().cast_signed())
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.data_dir().join("admin.kubeconfig")
    }

    /// Runs a command of the binary against this instance's data directory.
    pub fn keelson(&self, arguments: &[&str]) -> Output {
        let mut command = command();
        command.args(arguments).arg("--data-dir").arg(self.data_dir()).stdin(Stdio::null());
        command.output().expect("the binary runs")
    }

    /// `kill -9`: nothing gets the chance to clean up. Containers go on.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("our own child can be killed");
            child.wait().expect("our own child can be waited for");
        }
    }

    /// SIGTERM, and the exit status within the patience of a test.
    pub fn terminate(&mut self) -> std::process::ExitStatus {
        let mut child = self.child.take().expect("the instance runs");
        // SAFETY: kill has no memory effects; the pid is our own unreaped child's.
        unsafe { libc::kill(child.id().cast_signed(), libc::SIGTERM) };
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait().expect("our own child can be waited for") {
                return status;
            }
            assert!(Instant::now() < deadline, "keelson did not end after SIGTERM");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// What it has logged so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn print_log(&self) {
        let log = self.log();
        eprintln!("--- last lines of {}", self.data_dir().display());
        for line in log.iter().skip(log.len().saturating_sub(LOG_LINES_SHOWN)) {
            eprintln!("{line}");
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_log();
        }
        let down = self.keelson(&["down", "--purge"]);
        if !down.status.success() {
            eprintln!("keelson down failed: {}", String::from_utf8_lossy(&down.stderr));
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
