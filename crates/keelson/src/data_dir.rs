//! The data directory: its layout, its format version, its lock, and what a running instance writes about itself.

use std::{
    fs::{self, File},
    io::{self, Write},
    net::{IpAddr, SocketAddr},
    os::{fd::AsRawFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow};
use serde::{Deserialize, Serialize};

use crate::exit::{Exit, Failure};

/// Version of the directory's layout. A newer one is refused, an older one would be migrated here.
const FORMAT_VERSION: u32 = 1;

/// An opened, locked data directory.
pub(crate) struct DataDir {
    root: PathBuf,
    /// Held for as long as the process uses the directory; the kernel releases it with the process.
    _lock: File,
}

/// What a running instance says about itself, for `status`, `down` and the image commands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RunFile {
    /// Process id.
    pub pid: i32,
    /// URL of the API.
    pub api: String,
    /// Address of the registry; none without the node role.
    pub registry: Option<SocketAddr>,
    /// Where gateways listen.
    pub gateway_addresses: Vec<IpAddr>,
    /// When it became ready, RFC 3339.
    pub ready_at: String,
}

/// Paths below a data directory.
#[derive(Clone, Debug)]
pub(crate) struct Layout(PathBuf);

impl Layout {
    /// The layout below `root`.
    pub(crate) fn new(root: &Path) -> Self {
        Self(root.to_owned())
    }

    /// The directory itself.
    pub(crate) fn root(&self) -> &Path {
        &self.0
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The object store.
    pub(crate) fn store(&self) -> PathBuf {
        self.at("store")
    }
    /// Certificate authority and token key.
    pub(crate) fn pki(&self) -> PathBuf {
        self.at("pki")
    }
    /// Who did what.
    pub(crate) fn audit_log(&self) -> PathBuf {
        self.at("audit").join("audit.log")
    }
    /// Which resources are kept sealed, and with which keys.
    pub(crate) fn encryption_config(&self) -> PathBuf {
        self.pki().join("encryption.json")
    }
    /// Images, snapshots and container state.
    pub(crate) fn runtime(&self) -> PathBuf {
        self.at("runtime")
    }
    /// Address leases and the network slot.
    pub(crate) fn network(&self) -> PathBuf {
        self.at("network")
    }
    /// Pod volumes and logs.
    pub(crate) fn node(&self) -> PathBuf {
        self.at("node")
    }
    /// Blobs and manifests of the embedded registry.
    pub(crate) fn registry(&self) -> PathBuf {
        self.at("registry")
    }
    /// Answers by idempotency key.
    pub(crate) fn answers(&self) -> PathBuf {
        self.at("answers")
    }
    /// The administrator's kubeconfig.
    pub(crate) fn admin_kubeconfig(&self) -> PathBuf {
        self.at("admin.kubeconfig")
    }
    fn server_id(&self) -> PathBuf {
        self.at("server-id")
    }
    fn run_file(&self) -> PathBuf {
        self.at("run.json")
    }
    /// Where another instance asks to take over.
    pub(crate) fn handover(&self) -> PathBuf {
        self.at("handover.sock")
    }
    fn lock(&self) -> PathBuf {
        self.at("lock")
    }
    fn version(&self) -> PathBuf {
        self.at("version")
    }

    /// A name that no other directory has, made when it is first asked for: of servers that share a store, two may be called
    /// the same and listen on the same port.
    pub(crate) fn unique_name(&self) -> anyhow::Result<String> {
        let path = self.server_id();
        match fs::read_to_string(&path) {
            Ok(name) if !name.trim().is_empty() => return Ok(name.trim().to_owned()),
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(anyhow!(e).context(format!("read {}", path.display())));
            }
            // one that a crash left empty is as good as none
            _ => {}
        }
        let name = uuid::Uuid::new_v4().to_string();
        fs::write(&path, &name).with_context(|| format!("write {}", path.display()))?;
        Ok(name)
    }

    /// What the instance that runs (or last ran) from here said about itself.
    pub(crate) fn read_run_file(&self) -> anyhow::Result<Option<RunFile>> {
        let path = self.run_file();
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).with_context(|| format!("read {}", path.display()))?)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(anyhow!(e).context(format!("read {}", path.display()))),
        }
    }

    /// The process that holds the directory's lock, if any.
    pub(crate) fn holder(&self) -> anyhow::Result<Option<i32>> {
        let path = self.lock();
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(anyhow!(e).context(format!("open {}", path.display()))),
        };
        if try_lock(&file)? {
            return Ok(None);
        }
        let pid = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        Ok(Some(pid.trim().parse().unwrap_or_default()))
    }

    /// Records what runs.
    pub(crate) fn write_run_file(&self, run: &RunFile) -> anyhow::Result<()> {
        identity::write_private(&self.run_file(), &serde_json::to_vec_pretty(run)?)?;
        Ok(())
    }

    /// Forgets what ran.
    pub(crate) fn remove_run_file(&self) -> anyhow::Result<()> {
        match fs::remove_file(self.run_file()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(anyhow!(e).context("remove the run file")),
            _ => Ok(()),
        }
    }
}

impl DataDir {
    /// Creates or opens the directory, takes its lock and checks its version.
    ///
    /// # Errors
    /// [`Exit::InUse`] when another process holds it, [`Exit::Data`] when its version is newer or unreadable.
    pub(crate) fn open(root: &Path) -> Result<Self, Failure> {
        let shown = root.display();
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root)
            .with_context(|| format!("data directory {shown}: cannot create it"))
            .map_err(|e| Exit::Unsupported.because(e.context("choose another with --data-dir")))?;
        let layout = Layout::new(root);
        let mut lock = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(layout.lock())
            .with_context(|| format!("data directory {shown}: cannot open its lock"))
            .map_err(|e| Exit::Unsupported.because(e))?;
        if !try_lock(&lock)? {
            let pid = fs::read_to_string(layout.lock()).unwrap_or_default();
            return Err(Exit::InUse.because(anyhow!(
                "data directory {shown} is in use by process {}: stop it with `keelson down --data-dir {shown}`, or choose another with --data-dir",
                pid.trim()
            )));
        }
        check_version(&layout)?;
        lock.set_len(0)?;
        lock.write_all(std::process::id().to_string().as_bytes())?;
        Ok(Self { root: root.to_owned(), _lock: lock })
    }

    /// Where things are.
    pub(crate) fn layout(&self) -> Layout {
        Layout::new(&self.root)
    }
}

fn check_version(layout: &Layout) -> Result<(), Failure> {
    let path = layout.version();
    match fs::read_to_string(&path) {
        Ok(text) => match text.trim().parse::<u32>() {
            Ok(found) if found <= FORMAT_VERSION => Ok(()),
            Ok(found) => Err(Exit::Data.because(anyhow!(
                "data directory {} has format version {found}, this keelson knows up to {FORMAT_VERSION}: use the newer keelson that wrote it",
                layout.root().display()
            ))),
            Err(_) => Err(Exit::Data
                .because(anyhow!("{} holds {:?}, not a format version", path.display(), text.trim()))),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            identity::write_private(&path, format!("{FORMAT_VERSION}\n").as_bytes())?;
            Ok(())
        }
        Err(e) => Err(Exit::Data.because(anyhow!(e).context(format!("read {}", path.display())))),
    }
}

fn try_lock(file: &File) -> io::Result<bool> {
    // SAFETY: the descriptor is open for as long as `file` is borrowed; flock has no memory effects.
    let result = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
    if result == 0 {
        return Ok(true);
    }
    match io::Error::last_os_error() {
        e if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
        e => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_process_is_refused_and_told_who_holds_the_directory() {
        let root = tempfile::tempdir().unwrap();
        let _held = DataDir::open(root.path()).unwrap();
        let refused = DataDir::open(root.path()).err().unwrap();
        assert_eq!(refused.exit, Exit::InUse);
        assert!(refused.error.to_string().contains(&std::process::id().to_string()));
    }

    #[test]
    fn a_newer_or_damaged_version_is_refused() {
        for (content, expected) in [("2\n", "newer"), ("x", "not a format version")] {
            let root = tempfile::tempdir().unwrap();
            fs::write(root.path().join("version"), content).unwrap();
            let refused = DataDir::open(root.path()).err().unwrap();
            assert_eq!(refused.exit, Exit::Data);
            assert!(refused.error.to_string().contains(expected), "{}", refused.error);
        }
    }

    #[test]
    fn the_lock_goes_with_its_holder() {
        let root = tempfile::tempdir().unwrap();
        drop(DataDir::open(root.path()).unwrap());
        assert_eq!(Layout::new(root.path()).holder().unwrap(), None);
        DataDir::open(root.path()).unwrap();
    }
}
