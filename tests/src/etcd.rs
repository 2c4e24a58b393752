//! An etcd of a test's own.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
};

use crate::{Instance, Options, PATIENCE, eventually};

/// Whether Debian's etcd-server is there. Says why a test is skipped where it is not.
pub fn need_etcd(test: &str) -> bool {
    let found =
        std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|p| p.join("etcd").exists()));
    if !found {
        println!("skipped: {test}: needs etcd (Debian's package etcd-server)");
    }
    found
}

/// A running etcd of one member; dropping it ends it and removes everything.
pub struct Etcd {
    data_dir: tempfile::TempDir,
    client: SocketAddr,
    peer: SocketAddr,
    arguments: Vec<String>,
    child: Option<Child>,
}

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("the kernel has a free port")
}

impl Etcd {
    /// Starts an empty etcd.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts an empty etcd with more arguments.
    pub fn start_with(arguments: &[&str]) -> Self {
        let data_dir = tempfile::Builder::new().prefix("keelson-test-etcd-").tempdir().expect("a temporary directory");
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let mut etcd = Self { data_dir, client: free_port(), peer: free_port(), arguments, child: None };
        etcd.resume();
        etcd
    }

    /// Starts it again over its data, and waits until it accepts connections.
    pub fn resume(&mut self) {
        assert!(self.child.is_none(), "etcd runs already");
        let (client, peer) = (format!("{}://{}", self.scheme(), self.client), format!("http://{}", self.peer));
        let child = Command::new("etcd")
            .args(["--name", "test", "--log-level", "error", "--logger", "zap"])
            .arg("--data-dir")
            .arg(self.data_dir.path())
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("test={peer}")])
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd starts");
        self.child = Some(child);
        eventually("etcd accepts connections", || TcpStream::connect_timeout(&self.client, PATIENCE).ok());
    }

    /// Servers that share it. They share one authority too, as the servers of a cluster do everywhere.
    pub fn servers(&self, count: usize, environment: &[(String, String)]) -> Vec<Instance> {
        let mut all = vec![("KEELSON_STORE".to_owned(), self.url())];
        all.extend_from_slice(environment);
        let mut servers: Vec<Instance> = Vec::new();
        for _ in 0..count {
            let pki = servers.first().map(|first| first.data_dir().join("pki"));
            servers.push(Instance::start(Options { environment: all.clone(), pki, ..Options::default() }));
        }
        servers
    }

    fn scheme(&self) -> &'static str {
        if self.arguments.iter().any(|argument| argument == "--cert-file") { "https" } else { "http" }
    }

    /// Its folder.
    pub fn data_dir(&self) -> &Path {
        self.data_dir.path()
    }

    /// What `--store` takes.
    pub fn url(&self) -> String {
        let scheme = if self.scheme() == "https" { "https" } else { "etcd" };
        format!("{scheme}://{}", self.client)
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("our own child can be killed");
            child.wait().expect("our own child can be waited for");
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
