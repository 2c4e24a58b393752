//! Nodes for workloads: `keelson simulate` beside the measurement, with pods that are ready at once, so that what is
//! measured is the cluster alone.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// Pods that a simulated node takes.
const PODS_A_NODE: &str = "250";
/// How long the nodes have to be made, and to be removed.
const PATIENCE: Duration = Duration::from_secs(120);

/// Simulated nodes; they go when it is dropped.
pub(crate) struct Fleet {
    child: Child,
    reader: Option<JoinHandle<()>>,
}

impl Fleet {
    /// Makes so many nodes, and returns when they are ready.
    pub(crate) fn start(keelson: &Path, kubeconfig: &Path, nodes: usize) -> Result<Self> {
        let mut command = Command::new(keelson);
        command.arg("simulate").arg("--nodes").arg(nodes.to_string()).arg("--kubeconfig").arg(kubeconfig);
        command.args(["--name-prefix", "scale-sim", "--pods", PODS_A_NODE, "--cpu", "64", "--memory", "256Gi"]);
        command.args(["--start-after", "0s", "--ready-after", "0s", "--terminate-after", "0s"]);
        command.env_remove("KEELSON_BIN").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("start {}", keelson.display()))?;
        let errors = child.stderr.take().context("stderr is piped")?;
        let (ready, is_ready) = std::sync::mpsc::channel();
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(errors).lines().map_while(Result::ok) {
                if line.contains("nodes are ready") {
                    let _ = ready.send(());
                } else {
                    eprintln!("simulate: {line}");
                }
            }
        });
        let fleet = Self { child, reader: Some(reader) };
        if is_ready.recv_timeout(PATIENCE).is_err() {
            bail!("the simulated nodes did not become ready");
        }
        Ok(fleet)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // SAFETY: kill has no memory effects; the pid is our own unreaped child's.
        unsafe { libc::kill(self.child.id().cast_signed(), libc::SIGINT) };
        let start = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if start.elapsed() > PATIENCE {
                let _ = self.child.kill();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}
