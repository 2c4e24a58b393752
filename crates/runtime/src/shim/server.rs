//! The shim's loop: requests, helpers, output and exits, all in one thread around `poll`.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    path::{Path, PathBuf},
    process::ExitCode,
};

use nix::{
    sys::{
        signal::{SigSet, SigmaskHow, Signal, sigprocmask},
        signalfd::{SfdFlags, SignalFd},
        socket::{AddressFamily, SockFlag, SockType, accept4, socketpair},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use super::{
    ShimConfig,
    container::Container,
    exec,
    launch::{self, HelperMessage, Stdio},
    log::Log,
    pod::Pod,
    process, unpin,
};
use crate::{
    api::ContainerState,
    cgroup,
    state::{Durability, STATE_FILE, now_ns, write_json},
    wire::{self, Answer, Failure, MESSAGE_BYTES_MAX, Message, Request, RequestBody},
};

/// Keelson has one connection; a restarted one may come before the old one is seen to be gone.
const CONNECTIONS_MAX: usize = 8;
/// Exits of processes nobody has claimed yet: a helper's word can come after the exit it speaks of.
const UNCLAIMED_MAX: usize = 128;

/// A command in a container.
struct Exec {
    connection: u64,
    replied: bool,
    exit_code: Option<i32>,
}

#[derive(Clone)]
enum Purpose {
    Start { container: String },
    Exec { pid: Option<i32> },
}

/// A forked helper at work for a request.
struct Helper {
    socket: OwnedFd,
    connection: u64,
    request: u64,
    purpose: Purpose,
    descriptors: Vec<OwnedFd>,
}

struct Server {
    config: ShimConfig,
    pod: Pod,
    connections: BTreeMap<u64, OwnedFd>,
    next_connection: u64,
    helpers: Vec<Helper>,
    containers: BTreeMap<String, Container>,
    execs: BTreeMap<i32, Exec>,
    unclaimed: VecDeque<(i32, i32)>,
    done: bool,
}

/// What a descriptor in the poll set belongs to.
#[derive(Clone)]
enum Source {
    Signals,
    Listener,
    Connection(u64),
    Helper(RawFd),
    Output(String, usize),
}

/// Serves until asked to end.
pub(super) fn serve(config: ShimConfig, pod: Pod, listener: OwnedFd) -> ExitCode {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    let signals = sigprocmask(SigmaskHow::SIG_BLOCK, Some(&mask), None)
        .and_then(|()| SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK));
    let Ok(signals) = signals else { return ExitCode::FAILURE };
    let mut server = Server {
        config,
        pod,
        connections: BTreeMap::new(),
        next_connection: 0,
        helpers: Vec::new(),
        containers: BTreeMap::new(),
        execs: BTreeMap::new(),
        unclaimed: VecDeque::new(),
        done: false,
    };
    while !server.done {
        server.turn(&signals, &listener);
    }
    unpin(server.config.netns.as_deref(), server.config.shm_mount.as_deref());
    for file in [&server.config.socket, &server.config.pid_file] {
        // What cannot be removed goes with the directory.
        let _ = std::fs::remove_file(file);
    }
    ExitCode::SUCCESS
}

impl Server {
    /// Waits for something to happen, and deals with all of it.
    fn turn(&mut self, signals: &SignalFd, listener: &OwnedFd) {
        let mut sources = vec![(signals.as_raw_fd(), Source::Signals), (listener.as_raw_fd(), Source::Listener)];
        sources.extend(self.connections.iter().map(|(id, fd)| (fd.as_raw_fd(), Source::Connection(*id))));
        sources.extend(
            self.helpers.iter().map(|helper| (helper.socket.as_raw_fd(), Source::Helper(helper.socket.as_raw_fd()))),
        );
        for (id, container) in &self.containers {
            for (number, stream) in container.streams.iter().enumerate() {
                if let Some(fd) = stream {
                    sources.push((fd.as_raw_fd(), Source::Output(id.clone(), number)));
                }
            }
        }
        let mut polled: Vec<libc::pollfd> =
            sources.iter().map(|(fd, _)| libc::pollfd { fd: *fd, events: libc::POLLIN, revents: 0 }).collect();
        // SAFETY: the array is live and its length is given.
        if unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, -1) } < 0 {
            return;
        }
        let ready: Vec<Source> = sources
            .into_iter()
            .zip(&polled)
            .filter(|(_, polled)| polled.revents != 0)
            .map(|((_, source), _)| source)
            .collect();
        // Helpers first: they say which process is whose before its exit is looked at.
        for source in ready.iter().filter(|source| matches!(source, Source::Helper(_))) {
            if let Source::Helper(fd) = source {
                self.helper_said(*fd);
            }
        }
        for source in ready {
            match source {
                Source::Helper(_) => {}
                Source::Signals => {
                    while let Ok(Some(_)) = signals.read_signal() {}
                    self.reap();
                }
                Source::Listener => self.accept(listener),
                Source::Connection(id) => self.request(id),
                Source::Output(container, stream) => {
                    if let Some(container) = self.containers.get_mut(&container) {
                        container.pump(stream);
                    }
                }
            }
        }
    }

    fn accept(&mut self, listener: &OwnedFd) {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let Ok(fd) = accept4(listener.as_raw_fd(), flags) else { return };
        // SAFETY: the kernel has just made this descriptor for us, and nobody else owns it.
        let fd = unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(fd) };
        if self.connections.len() == CONNECTIONS_MAX {
            self.connections.pop_first();
        }
        self.connections.insert(self.next_connection, fd);
        self.next_connection += 1;
    }

    fn request(&mut self, connection: u64) {
        let Some(fd) = self.connections.get(&connection) else { return };
        let mut buffer = vec![0; MESSAGE_BYTES_MAX];
        match wire::receive::<Request>(fd.as_raw_fd(), &mut buffer) {
            Ok(Some((request, descriptors))) => {
                drop(buffer);
                self.handle(connection, request, descriptors);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(None) | Err(_) => {
                self.connections.remove(&connection);
            }
        }
    }

    fn handle(&mut self, connection: u64, request: Request, descriptors: Vec<OwnedFd>) {
        let id = request.id;
        let result = match request.body {
            RequestBody::Start { .. } => match self.start(connection, id, request.body) {
                Ok(()) => return,
                Err(failure) => Err(failure),
            },
            RequestBody::Exec { container, command, env, tty } => {
                match self.exec(
                    connection,
                    id,
                    &container,
                    exec::Command { container_pid: 0, args: command, env, tty },
                    descriptors,
                ) {
                    Ok(()) => return,
                    Err(failure) => Err(failure),
                }
            }
            RequestBody::Signal { container, signal } => self.signal(&container, signal).map(|()| Answer::Done),
            RequestBody::KillExec { exec } => {
                if self.execs.contains_key(&exec) {
                    kill(exec, libc::SIGKILL);
                }
                Ok(Answer::Done)
            }
            RequestBody::Attach { container, stdin, stdout, stderr } => {
                return self.attach(connection, id, &container, [stdin, stdout, stderr], descriptors);
            }
            RequestBody::ReopenLog { container } => self.with(&container).and_then(|container| {
                container.reopen_log().map_err(|error| Failure::other(error.to_string()))?;
                Ok(Answer::Done)
            }),
            RequestBody::Forget { container } => {
                if self.containers.get(&container).is_some_and(|known| known.pid.is_none()) {
                    self.containers.remove(&container);
                }
                Ok(Answer::Done)
            }
            RequestBody::Shutdown => {
                self.shutdown();
                Ok(Answer::Done)
            }
        };
        self.reply(connection, id, result, &[]);
    }

    fn with(&mut self, id: &str) -> Result<&mut Container, Failure> {
        self.containers.get_mut(id).ok_or_else(|| Failure::other(format!("the shim has no container {id}")))
    }

    fn reply(&mut self, connection: u64, id: u64, result: Result<Answer, Failure>, descriptors: &[RawFd]) {
        self.say(connection, &Message::Reply { id, result }, descriptors);
    }

    /// Sends to one connection; one that does not listen is dropped, and reads the state files when it comes back.
    fn say(&mut self, connection: u64, message: &Message, descriptors: &[RawFd]) {
        if let Some(fd) = self.connections.get(&connection)
            && wire::send(fd.as_raw_fd(), message, descriptors).is_err()
        {
            self.connections.remove(&connection);
        }
    }

    fn helper(
        &mut self,
        connection: u64,
        request: u64,
        purpose: Purpose,
        body: impl FnOnce(RawFd),
    ) -> Result<(), Failure> {
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .map_err(|errno| Failure::other(format!("make a socket: {errno}")))?;
        match process::fork_raw(0).map_err(|error| Failure::other(format!("fork: {error}")))? {
            0 => {
                drop(ours);
                body(theirs.as_raw_fd());
                std::process::exit(0)
            }
            _ => {
                self.helpers.push(Helper { socket: ours, connection, request, purpose, descriptors: Vec::new() });
                Ok(())
            }
        }
    }

    fn start(&mut self, connection: u64, request: u64, body: RequestBody) -> Result<(), Failure> {
        let RequestBody::Start {
            container: id,
            directory,
            cgroup,
            stdin,
            stdin_once,
            tty,
            log_path,
            shares_processes_with,
        } = body
        else {
            return Err(Failure::other("not a start request"));
        };
        if self.containers.contains_key(&id) {
            return Err(Failure::other(format!("container {id} was started before")));
        }
        let mut namespaces = self.pod.paths(&self.config);
        if let Some(target) = shares_processes_with {
            let ContainerState::Running { pid, .. } = self.with(&target)?.state else {
                return Err(Failure::other(format!("container {target} is not running")));
            };
            namespaces.pid = Some(format!("/proc/{pid}/ns/pid"));
        }
        let io = |what: &'static str| move |error: io::Error| Failure::other(format!("{what}: {error}"));
        let log = Log::open(Path::new(&log_path)).map_err(io("open the log"))?;
        let mut container = Container::new(PathBuf::from(directory), cgroup, stdin_once, tty, log);
        let stdio = if tty {
            Stdio { stdin: None, stdout: None, stderr: None }
        } else {
            container.pipes(stdin).map_err(io("make a pipe"))?
        };
        let directory = container.directory.clone();
        self.helper(connection, request, Purpose::Start { container: id.clone() }, |shim| {
            launch::run(&directory, &namespaces, stdio, shim);
        })?;
        self.containers.insert(id, container);
        Ok(())
    }

    fn exec(
        &mut self,
        connection: u64,
        request: u64,
        id: &str,
        mut command: exec::Command,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), Failure> {
        let container = self.with(id)?;
        let ContainerState::Running { pid, .. } = container.state else {
            return Err(Failure::other(format!("container {id} is not running")));
        };
        command.container_pid = pid;
        let directory = container.directory.clone();
        // Without a terminal there are two descriptors (output) or three (input before them).
        let mut descriptors = descriptors.into_iter();
        let stdin = if descriptors.len() == 3 { descriptors.next() } else { None };
        let stdio = Stdio { stdin, stdout: descriptors.next(), stderr: descriptors.next() };
        self.helper(connection, request, Purpose::Exec { pid: None }, |shim| {
            exec::run(&directory, &command, stdio, shim);
        })
    }

    fn signal(&mut self, id: &str, signal: i32) -> Result<(), Failure> {
        let container = self.with(id)?;
        if let (Some(pid), ContainerState::Running { .. }) = (container.pid, &container.state) {
            kill(pid, signal);
        }
        Ok(())
    }

    fn attach(&mut self, connection: u64, request: u64, id: &str, wanted: [bool; 3], descriptors: Vec<OwnedFd>) {
        let outcome = self.with(id).and_then(|container| container.attach(wanted, descriptors));
        match outcome {
            Ok((pid, stdin)) => {
                let descriptors: Vec<RawFd> = stdin.iter().map(AsRawFd::as_raw_fd).collect();
                self.reply(connection, request, Ok(Answer::Process { pid }), &descriptors);
            }
            Err(failure) => self.reply(connection, request, Err(failure), &[]),
        }
    }

    fn helper_said(&mut self, fd: RawFd) {
        let Some(position) = self.helpers.iter().position(|helper| helper.socket.as_raw_fd() == fd) else { return };
        let mut buffer = vec![0; MESSAGE_BYTES_MAX];
        let (message, descriptors) = match wire::receive::<HelperMessage>(fd, &mut buffer) {
            Ok(Some(received)) => received,
            Ok(None) => (HelperMessage::Failed(Failure::other("the helper process ended early")), Vec::new()),
            Err(error) => (HelperMessage::Failed(Failure::other(format!("hear the helper: {error}"))), Vec::new()),
        };
        drop(buffer);
        match message {
            HelperMessage::Process { pid } => self.process_made(position, pid, descriptors),
            HelperMessage::Running => {
                let helper = self.helpers.swap_remove(position);
                self.process_runs(helper);
            }
            HelperMessage::Failed(failure) => {
                let helper = self.helpers.swap_remove(position);
                self.process_failed(helper, failure);
            }
        }
    }

    fn process_made(&mut self, position: usize, pid: i32, descriptors: Vec<OwnedFd>) {
        let early = self
            .unclaimed
            .iter()
            .position(|(unclaimed, _)| *unclaimed == pid)
            .and_then(|index| self.unclaimed.remove(index))
            .map(|(_, code)| code);
        let helper = &mut self.helpers[position];
        let connection = helper.connection;
        match &mut helper.purpose {
            Purpose::Start { container } => {
                let Some(container) = self.containers.get_mut(container) else { return };
                container.pid = Some(pid);
                container.early_exit = early;
                if let Some(master) = descriptors.into_iter().next() {
                    container.use_terminal(master);
                }
            }
            Purpose::Exec { pid: of_helper } => {
                *of_helper = Some(pid);
                helper.descriptors = descriptors;
                self.execs.insert(pid, Exec { connection, replied: false, exit_code: early });
            }
        }
    }

    fn process_runs(&mut self, helper: Helper) {
        match helper.purpose {
            Purpose::Start { container: id } => {
                let Some(container) = self.containers.get_mut(&id) else { return };
                let pid = container.pid.unwrap_or_default();
                let early = container.early_exit.take();
                self.set_state(&id, ContainerState::Running { pid, started_at_ns: now_ns() });
                self.reply(helper.connection, helper.request, Ok(Answer::Process { pid }), &[]);
                if let Some(code) = early {
                    self.container_exited(&id, code);
                }
            }
            Purpose::Exec { pid } => {
                let pid = pid.unwrap_or_default();
                let descriptors: Vec<RawFd> = helper.descriptors.iter().map(AsRawFd::as_raw_fd).collect();
                self.reply(helper.connection, helper.request, Ok(Answer::Process { pid }), &descriptors);
                if let Some(exec) = self.execs.get_mut(&pid) {
                    exec.replied = true;
                }
                self.exec_settled(pid);
            }
        }
    }

    fn process_failed(&mut self, helper: Helper, failure: Failure) {
        match &helper.purpose {
            Purpose::Start { container: id } => {
                if let Some(container) = self.containers.get_mut(id) {
                    // One that has been reaped has given its number to somebody else.
                    if let (Some(pid), None) = (container.pid.take(), container.early_exit) {
                        kill(pid, libc::SIGKILL);
                    }
                    container.end_streams();
                    let cgroup = container.cgroup.clone();
                    let state = ContainerState::Exited {
                        exit_code: 128,
                        signal: None,
                        oom_killed: false,
                        started_at_ns: 0,
                        finished_at_ns: now_ns(),
                        message: failure.message.clone(),
                    };
                    // What is left of it, if anything, is removed with the container.
                    let _ = cgroup::kill(&cgroup);
                    self.set_state(id, state);
                }
            }
            Purpose::Exec { pid } => {
                if let Some(pid) = pid
                    && self.execs.remove(pid).is_some_and(|exec| exec.exit_code.is_none())
                {
                    kill(*pid, libc::SIGKILL);
                }
            }
        }
        self.reply(helper.connection, helper.request, Err(failure), &[]);
    }

    /// Collects every child that has ended.
    fn reap(&mut self) {
        loop {
            let (pid, code) = match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid.as_raw(), code),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid.as_raw(), 128 + signal as i32),
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => continue,
            };
            let container = self.containers.iter().find(|(_, container)| container.pid == Some(pid));
            if let Some((id, container)) = container {
                let id = id.clone();
                if matches!(container.state, ContainerState::Running { .. }) {
                    self.container_exited(&id, code);
                } else if let Some(container) = self.containers.get_mut(&id) {
                    container.early_exit = Some(code);
                }
            } else if let Some(exec) = self.execs.get_mut(&pid) {
                exec.exit_code = Some(code);
                self.exec_settled(pid);
            } else {
                if self.unclaimed.len() == UNCLAIMED_MAX {
                    self.unclaimed.pop_front();
                }
                self.unclaimed.push_back((pid, code));
            }
        }
    }

    /// Tells of a command's end once its start has been told.
    fn exec_settled(&mut self, pid: i32) {
        if let Some(Exec { connection, replied: true, exit_code: Some(exit_code) }) = self.execs.get(&pid) {
            let (connection, exit_code) = (*connection, *exit_code);
            self.execs.remove(&pid);
            self.say(connection, &Message::ExecExited { exec: pid, exit_code }, &[]);
        }
    }

    fn container_exited(&mut self, id: &str, code: i32) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let started_at_ns = match container.state {
            ContainerState::Running { started_at_ns, .. } => started_at_ns,
            _ => 0,
        };
        container.pid = None;
        // In a PID namespace that is not its own the container's other processes are still there.
        if !cgroup::processes(&container.cgroup).is_empty() {
            let _ = cgroup::kill(&container.cgroup);
        }
        container.end_streams();
        let signal = (code > 128).then_some(code - 128);
        let state = ContainerState::Exited {
            exit_code: code,
            signal,
            oom_killed: code != 0 && cgroup::oom_kills(&container.cgroup) > 0,
            started_at_ns,
            finished_at_ns: now_ns(),
            message: String::new(),
        };
        self.set_state(id, state);
    }

    /// Records a state, then tells everybody.
    fn set_state(&mut self, id: &str, state: ContainerState) {
        let Some(container) = self.containers.get_mut(id) else { return };
        container.state = state.clone();
        let durability = match state {
            ContainerState::Exited { .. } => Durability::Machine,
            _ => Durability::Process,
        };
        // A full disk must not end the containers; the event still tells a Keelson that listens.
        let _ = write_json(&container.directory.join(STATE_FILE), &state, durability);
        let message = Message::State { container: id.to_owned(), state };
        for connection in self.connections.keys().copied().collect::<Vec<_>>() {
            self.say(connection, &message, &[]);
        }
    }

    /// Kills all containers and records their end.
    fn shutdown(&mut self) {
        for container in self.containers.values() {
            if container.pid.is_some() {
                // What survives this is found by whoever removes the pod's group.
                let _ = cgroup::kill(&container.cgroup);
            }
        }
        let running: Vec<(String, i32)> =
            self.containers.iter().filter_map(|(id, container)| Some((id.clone(), container.pid?))).collect();
        for (id, pid) in running {
            kill(pid, libc::SIGKILL);
            let code = match waitpid(Pid::from_raw(pid), None) {
                Ok(WaitStatus::Exited(_, code)) => code,
                Ok(WaitStatus::Signaled(_, signal, _)) => 128 + signal as i32,
                _ => 128 + libc::SIGKILL,
            };
            self.container_exited(&id, code);
        }
        if let Some(pause) = self.pod.pause.take() {
            kill(pause, libc::SIGKILL);
        }
        self.done = true;
    }
}

fn kill(pid: i32, signal: i32) {
    // SAFETY: a plain system call; a process that is gone is what was wanted.
    unsafe { libc::kill(pid, signal) };
}
