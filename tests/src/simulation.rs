//! `keelson simulate` beside a running instance.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, ChildStderr, ExitStatus, Stdio},
    time::Instant,
};

use crate::{Instance, PATIENCE, instance};

/// A running simulation; dropping it ends it.
pub struct Simulation {
    child: Child,
    errors: BufReader<ChildStderr>,
}

impl Simulation {
    /// Starts one in the instance, and waits until its nodes are ready.
    pub fn start(instance: &Instance, arguments: &[&str]) -> Self {
        let mut command = instance::command();
        command.arg("simulate").args(arguments).arg("--data-dir").arg(instance.data_dir());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary starts");
        let errors = BufReader::new(child.stderr.take().expect("stderr is piped"));
        let mut simulation = Self { child, errors };
        let mut said = String::new();
        while !said.contains("nodes are ready") {
            let read = simulation.errors.read_line(&mut said).expect("it can be read");
            assert!(read > 0, "the simulation ended before its nodes were ready: {said}");
        }
        simulation
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Interrupts it as a user does: how it ended, and what it printed.
    pub fn interrupt(mut self) -> (ExitStatus, String) {
        // SAFETY: kill has no memory effects; the pid is our own unreaped child's.
        unsafe { libc::kill(self.child.id().cast_signed(), libc::SIGINT) };
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("our own child can be waited for") {
                let mut printed = String::new();
                let output = self.child.stdout.as_mut().expect("stdout is piped");
                output.read_to_string(&mut printed).expect("it prints text");
                return (status, printed);
            }
            assert!(Instant::now() < deadline, "the simulation did not end after SIGINT");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        // already reaped where it was interrupted
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
