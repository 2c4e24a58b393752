//! Launching a container, in a helper process forked off the shim.
//!
//! libcontainer changes the process that calls it (memory, `oom_score_adj`, dumpability, working directory), so it is
//! called in a short-lived child. The container's first process is made a sibling of that child, that is, a child of the
//! shim. The helper also owns a mount namespace: the container's root is mounted only there, so nothing of it is ever
//! seen on the host and nothing has to be unmounted.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::{
            fs::{FileTypeExt as _, MetadataExt as _, symlink},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
};

use libcontainer::{
    container::builder::ContainerBuilder,
    notify_socket::{NOTIFY_FILE, NotifySocket},
    oci_spec::runtime::Spec,
    syscall::syscall::SyscallType,
    workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError},
};
use nix::{
    fcntl::{OFlag, OpenHow, openat2},
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::stat::Mode,
};
use serde::{Deserialize, Serialize};

use super::process;
use crate::{
    api::{Propagation, Seccomp},
    spec::{self, Identity, Launch, Machine, NamespacePaths, UserRequest, resolve_user},
    state::{Durability, LAUNCH_FILE, read_json, write_json},
    wire::{self, Failure, FailureKind},
};

/// Most of an image's account file that is read.
const ACCOUNT_FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Directories of devices that a privileged container gets as mounts of its own.
const DEVICE_DIRECTORIES_SKIPPED: [&str; 4] = ["/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/console"];

/// What a helper tells the shim.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum HelperMessage {
    /// The process exists; a terminal's master comes along.
    Process { pid: i32 },
    /// The process runs its program.
    Running,
    /// It does not.
    Failed(Failure),
}

/// The container's ends of its streams.
pub(super) struct Stdio {
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
}

/// Body of the helper: launches the container and reports to `shim`.
pub(super) fn run(directory: &Path, namespaces: &NamespacePaths, stdio: Stdio, shim: RawFd) {
    process::unblock_signals();
    let outcome = launch(directory, namespaces, stdio, shim);
    let message = match outcome {
        Ok(()) => HelperMessage::Running,
        Err(failure) => HelperMessage::Failed(failure),
    };
    // If the shim is gone there is nobody to tell.
    let _ = wire::send(shim, &message, &[]);
}

fn launch(directory: &Path, namespaces: &NamespacePaths, stdio: Stdio, shim: RawFd) -> Result<(), Failure> {
    let launch: Launch = read_json(&directory.join(LAUNCH_FILE))
        .map_err(step("read launch file"))?
        .ok_or_else(|| Failure::other("launch file is missing"))?;
    mount_root(&launch).map_err(step("mount the container's root"))?;
    let root = File::open(launch.container_dir.join("rootfs")).map_err(step("open the container's root"))?;
    let identity = identity(&launch, &root).map_err(Failure::other)?;
    make_working_dir(&root, spec::working_dir(&launch)).map_err(step("make the working directory"))?;
    for fd in [&stdio.stdin, &stdio.stdout, &stdio.stderr].into_iter().flatten() {
        // So that a process that is not root can open /dev/stdout.
        nix::unistd::fchown(fd.as_raw_fd(), Some(identity.uid.into()), Some(identity.gid.into()))
            .map_err(|errno| step("give the streams to the user")(errno.into()))?;
    }
    let machine = machine(&launch).map_err(step("look at the machine"))?;
    let spec = spec::build(&launch, &identity, namespaces, &machine);
    write_json(&directory.join("config.json"), &spec, Durability::Process).map_err(step("write specification"))?;
    let state_dir = launch.libcontainer_root.join(&launch.id);
    let outcome = create_and_start(&launch, directory, stdio, shim);
    // libcontainer's own state was only needed until here; a leftover goes with the run directory.
    let _ = fs::remove_dir_all(state_dir);
    outcome
}

fn step(what: &'static str) -> impl FnOnce(io::Error) -> Failure {
    move |error| Failure::other(format!("{what}: {error}"))
}

/// Mounts the layers and the container's own changes as its root, where only this process sees it.
fn mount_root(launch: &Launch) -> io::Result<()> {
    let directory = &launch.container_dir;
    // libcontainer leaves the propagation of a bind mount as it finds it, so it is set here, for all of them at once:
    // a container with several kinds gets the most open one.
    let propagation = match launch.container.widest_propagation() {
        Propagation::Bidirectional => None,
        Propagation::HostToContainer => Some(MsFlags::MS_SLAVE),
        Propagation::Private => Some(MsFlags::MS_PRIVATE),
    };
    if let Some(propagation) = propagation {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | propagation, None::<&str>)?;
    }
    // The kernel takes one page of options: layers are named by short links relative to the working directory.
    let links = directory.join("l");
    let _ = fs::remove_dir_all(&links);
    fs::create_dir(&links)?;
    let mut lower = Vec::with_capacity(launch.layers.len());
    for (number, layer) in launch.layers.iter().enumerate() {
        let name = format!("l/{number}");
        symlink(layer, directory.join(&name))?;
        lower.push(name);
    }
    if lower.is_empty() {
        fs::create_dir(links.join("empty"))?;
        lower.push("l/empty".to_owned());
    }
    std::env::set_current_dir(directory)?;
    let options = format!("lowerdir={},upperdir=upper,workdir=work", lower.join(":"));
    mount(Some("overlay"), "rootfs", Some("overlay"), MsFlags::empty(), Some(&options[..]))?;
    std::env::set_current_dir("/")
}

fn identity(launch: &Launch, root: &File) -> Result<Identity, String> {
    let security = &launch.container.security;
    let request = UserRequest {
        image_user: &launch.image.user,
        uid: security.run_as_user,
        gid: security.run_as_group,
        groups: &security.supplemental_groups,
    };
    let identity = resolve_user(&request, &read_inside(root, "etc/passwd"), &read_inside(root, "etc/group"))?;
    if security.run_as_non_root && identity.uid == 0 {
        return Err("container has runAsNonRoot and image will run as root".to_owned());
    }
    Ok(identity)
}

/// Reads a file of the image; links cannot lead out of it. A missing or strange file reads as empty.
fn read_inside(root: &File, path: &str) -> String {
    let how =
        OpenHow::new().flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).resolve(spec::resolves_in_root());
    let mut text = Vec::new();
    if let Ok(fd) = openat2(root.as_raw_fd(), path, how) {
        // SAFETY: openat2 returned a new descriptor that nobody else owns.
        let file = unsafe { <File as std::os::fd::FromRawFd>::from_raw_fd(fd) };
        if file.metadata().is_ok_and(|metadata| metadata.is_file()) {
            // What could be read before an error is still the best there is.
            let _ = file.take(ACCOUNT_FILE_BYTES_MAX).read_to_end(&mut text);
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Makes the working directory and its parents inside the image.
fn make_working_dir(root: &File, path: &str) -> io::Result<()> {
    let mut made = PathBuf::new();
    for part in Path::new(path).components() {
        let std::path::Component::Normal(part) = part else { continue };
        let parent = if made.as_os_str().is_empty() { PathBuf::from(".") } else { made.clone() };
        made.push(part);
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(spec::resolves_in_root());
        let parent = openat2(root.as_raw_fd(), &parent, how)?;
        // SAFETY: openat2 returned a new descriptor that nobody else owns.
        let parent = unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(parent) };
        match nix::sys::stat::mkdirat(Some(parent.as_raw_fd()), Path::new(part), Mode::from_bits_truncate(0o755)) {
            Err(nix::Error::EEXIST) | Ok(()) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn machine(launch: &Launch) -> io::Result<Machine> {
    let status = fs::read_to_string("/proc/self/status")?;
    let capabilities = status
        .lines()
        .find_map(|line| line.strip_prefix("CapBnd:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    let mut devices = Vec::new();
    if launch.container.security.privileged {
        collect_devices(Path::new("/dev"), &mut devices)?;
    }
    for path in &launch.container.devices {
        collect_devices(path, &mut devices)?;
    }
    let seccomp_profile = match &launch.container.security.seccomp {
        Seccomp::Localhost(path) => {
            let profile = read_json(path)?.ok_or_else(|| {
                io::Error::new(io::ErrorKind::NotFound, format!("seccomp profile {} does not exist", path.display()))
            })?;
            Some(spec::adapt_profile(profile))
        }
        Seccomp::RuntimeDefault | Seccomp::Unconfined => None,
    };
    Ok(Machine {
        capabilities,
        cgroup_v2: Path::new("/sys/fs/cgroup/cgroup.controllers").exists(),
        swap_accounting: Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists(),
        open_files_hard: open_files_hard()?,
        devices,
        seccomp_profile,
    })
}

fn open_files_hard() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the call fills the structure it is given.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit.rlim_max)
}

fn collect_devices(path: &Path, devices: &mut Vec<(PathBuf, char, u64, u64)>) -> io::Result<()> {
    if DEVICE_DIRECTORIES_SKIPPED.iter().any(|skipped| path == Path::new(skipped)) {
        return Ok(());
    }
    let metadata = fs::symlink_metadata(path)?;
    let kind = metadata.file_type();
    if kind.is_dir() {
        for entry in fs::read_dir(path)? {
            collect_devices(&entry?.path(), devices)?;
        }
    } else if kind.is_char_device() || kind.is_block_device() {
        let (major, minor) = (libc::major(metadata.rdev()), libc::minor(metadata.rdev()));
        let letter = if kind.is_char_device() { 'c' } else { 'b' };
        devices.push((path.to_owned(), letter, u64::from(major), u64::from(minor)));
    }
    Ok(())
}

fn create_and_start(launch: &Launch, bundle: &Path, stdio: Stdio, shim: RawFd) -> Result<(), Failure> {
    let (report_read, report_write) =
        nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|errno| step("make a pipe")(errno.into()))?;
    let console_path = launch.libcontainer_root.join(format!("{}.tty", &launch.id[..launch.id.len().min(16)]));
    let console = launch
        .container
        .tty
        .then(|| {
            let _ = fs::remove_file(&console_path);
            UnixListener::bind(&console_path)
        })
        .transpose()
        .map_err(step("make the console socket"))?;
    let executor = LaunchExecutor { report: report_write.as_raw_fd() };
    let created = build(launch, bundle, stdio, executor, console.is_some().then_some(console_path.as_path()));
    drop(report_write);
    let master = match (&created, &console) {
        (Ok(_), Some(listener)) => receive_master(listener).map(Some),
        _ => Ok(None),
    };
    let _ = fs::remove_file(&console_path);
    let pid = match created {
        Ok(pid) => pid,
        Err(message) => {
            // The executor's own words, if it got that far, are better than the library's.
            process::read_report(File::from(report_read))?;
            return Err(Failure::other(message));
        }
    };
    let master = master.map_err(step("receive the terminal"))?;
    let descriptors: Vec<RawFd> = master.iter().map(AsRawFd::as_raw_fd).collect();
    wire::send(shim, &HelperMessage::Process { pid }, &descriptors).map_err(step("tell the shim"))?;
    NotifySocket::new(launch.libcontainer_root.join(&launch.id).join(NOTIFY_FILE))
        .notify_container_start()
        .map_err(|error| Failure::other(error.to_string()))?;
    process::read_report(File::from(report_read))
}

fn build(
    launch: &Launch,
    bundle: &Path,
    stdio: Stdio,
    executor: LaunchExecutor,
    console: Option<&Path>,
) -> Result<i32, String> {
    let whole = |error: &dyn std::error::Error| {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            let more = error.to_string();
            if !text.contains(&more) {
                text = format!("{text}: {more}");
            }
            source = error.source();
        }
        text
    };
    let mut builder = ContainerBuilder::new(launch.id.clone(), SyscallType::default())
        .with_root_path(&launch.libcontainer_root)
        .map_err(|error| whole(&error))?
        .with_executor(executor)
        .with_console_socket(console);
    builder.stdin = stdio.stdin;
    builder.stdout = stdio.stdout;
    builder.stderr = stdio.stderr;
    let container = builder
        .validate_id()
        .map_err(|error| whole(&error))?
        .as_init(bundle)
        .with_systemd(false)
        .with_detach(true)
        .as_sibling(true)
        .build()
        .map_err(|error| whole(&error))?;
    container.pid().map(nix::unistd::Pid::as_raw).ok_or_else(|| "the container has no process".to_owned())
}

fn receive_master(listener: &UnixListener) -> io::Result<OwnedFd> {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg};
    let (connection, _) = listener.accept()?;
    let mut bytes = [0; 64];
    let mut slices = [io::IoSliceMut::new(&mut bytes)];
    let mut control = nix::cmsg_space!(RawFd);
    let message =
        recvmsg::<UnixAddr>(connection.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)?;
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = part
            && let Some(fd) = descriptors.first()
        {
            // SAFETY: the kernel has just made this descriptor for us, and nobody else owns it.
            return Ok(unsafe { std::os::fd::FromRawFd::from_raw_fd(*fd) });
        }
    }
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, "no terminal was sent"))
}

/// Runs the container's program, and reports in containerd's words when that fails.
#[derive(Clone)]
struct LaunchExecutor {
    report: RawFd,
}

impl LaunchExecutor {
    fn program(&self, spec: &Spec) -> Result<(std::ffi::CString, Vec<String>, Vec<String>), Failure> {
        let process = spec.process().as_ref().ok_or_else(|| Failure::other("specification without a process"))?;
        let args = process.args().clone().unwrap_or_default();
        let env = process.env().clone().unwrap_or_default();
        let name = args
            .first()
            .ok_or_else(|| Failure { kind: FailureKind::NotFound, message: "no command specified".to_owned() })?;
        Ok((process::find_program(name, process::path_of(&env))?, args, env))
    }
}

impl Executor for LaunchExecutor {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let failure = match self.program(spec) {
            Ok((program, args, env)) => {
                process::reset_signals();
                process::execute(&program, &args, &env)
            }
            Err(failure) => failure,
        };
        process::report(self.report, &failure);
        Err(ExecutorError::Other(failure.message))
    }

    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        self.program(spec).map(|_| ()).map_err(|failure| {
            process::report(self.report, &failure);
            ExecutorValidationError::ArgValidationError(failure.message)
        })
    }

    /// The program gets its environment when it is executed, in order.
    fn setup_envs(&self, _: std::collections::HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        Ok(())
    }
}
