//! Forking and executing from a single-threaded process.

use std::{
    ffi::{CString, OsStr},
    io,
    os::{fd::RawFd, unix::ffi::OsStrExt as _},
    path::Path,
};

use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};

use crate::wire::{Failure, FailureKind};

/// Forks with extra clone flags; returns 0 in the child. With `CLONE_PARENT` the child is the caller's sibling.
pub(super) fn fork_raw(flags: i32) -> io::Result<i32> {
    let flags = libc::c_long::from(flags | libc::SIGCHLD);
    // SAFETY: without a stack of its own the child continues on a copy of this one, as after fork; the process has one
    // thread, so no lock is held by another.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    match i32::try_from(pid) {
        Ok(pid) if pid >= 0 => Ok(pid),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Gives a process about to run a program what every program expects: default signal handling, nothing blocked.
pub(super) fn reset_signals() {
    // Unblocking cannot fail with a valid mask.
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
    for number in 1..=64 {
        // SAFETY: resets a handler; numbers that cannot be set are refused by the kernel.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
}

/// Unblocks signals and lets SIGCHLD be seen, in a helper that runs library code.
pub(super) fn unblock_signals() {
    // Unblocking cannot fail with a valid mask.
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
}

/// Finds the program a command names, seen from the current root and working directory.
pub(super) fn find_program(name: &str, path: &str) -> Result<CString, Failure> {
    let failure = |kind, reason: String| Failure { kind, message: format!("exec: {name:?}: {reason}") };
    if name.is_empty() {
        return Err(failure(FailureKind::NotFound, "executable file not found in $PATH".to_owned()));
    }
    if name.contains('/') {
        return match executable(Path::new(name)) {
            Ok(found) => Ok(found),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Err(failure(FailureKind::NotExecutable, "permission denied".to_owned()))
            }
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
                Err(failure(FailureKind::NotExecutable, "is a directory".to_owned()))
            }
            Err(_) => Err(failure(FailureKind::NotFound, format!("stat {name}: no such file or directory"))),
        };
    }
    let mut denied = false;
    for directory in path.split(':') {
        match executable(&Path::new(if directory.is_empty() { "." } else { directory }).join(name)) {
            Ok(found) => return Ok(found),
            Err(error) => denied |= error.kind() == io::ErrorKind::PermissionDenied,
        }
    }
    if denied {
        return Err(failure(FailureKind::NotExecutable, "permission denied".to_owned()));
    }
    Err(failure(FailureKind::NotFound, "executable file not found in $PATH".to_owned()))
}

fn executable(path: &Path) -> io::Result<CString> {
    if path.metadata()?.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    nix::unistd::access(path, nix::unistd::AccessFlags::X_OK)?;
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// Replaces the process by a program; returns only when that failed.
pub(super) fn execute(program: &CString, args: &[String], env: &[String]) -> Failure {
    let strings =
        |list: &[String]| list.iter().map(|text| CString::new(text.as_bytes())).collect::<Result<Vec<_>, _>>();
    let (Ok(args), Ok(env)) = (strings(args), strings(env)) else {
        return Failure::other("an argument or environment variable contains a zero byte");
    };
    let name = OsStr::from_bytes(program.as_bytes()).to_string_lossy().into_owned();
    match nix::unistd::execve(program, &args, &env) {
        Ok(never) => match never {},
        Err(nix::Error::ENOENT) => {
            Failure { kind: FailureKind::NotFound, message: format!("exec {name}: no such file or directory") }
        }
        Err(errno) => Failure {
            kind: FailureKind::NotExecutable,
            message: format!("exec {name}: {}", errno.desc().to_ascii_lowercase()),
        },
    }
}

/// The value of `PATH` in an environment.
pub(super) fn path_of(env: &[String]) -> &str {
    env.iter().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or(crate::spec::DEFAULT_PATH)
}

/// Tells the other end of a close-on-exec pipe why the program could not be executed.
pub(super) fn report(pipe: RawFd, failure: &Failure) {
    if let Ok(bytes) = serde_json::to_vec(failure) {
        // SAFETY: writes from a live buffer. A report is smaller than a pipe's buffer; if nobody reads, nobody cares.
        unsafe { libc::write(pipe, bytes.as_ptr().cast(), bytes.len()) };
    }
}

/// Waits for the process at the other end of a close-on-exec pipe to execute its program.
pub(super) fn read_report(mut pipe: std::fs::File) -> Result<(), Failure> {
    let mut bytes = Vec::new();
    match io::Read::read_to_end(&mut pipe, &mut bytes) {
        Ok(0) => Ok(()),
        // An executor may report twice (its own words, then the library's); the first says it best.
        Ok(_) => Err(serde_json::Deserializer::from_slice(&bytes)
            .into_iter()
            .next()
            .and_then(Result::ok)
            .unwrap_or_else(|| Failure::other(String::from_utf8_lossy(&bytes)))),
        Err(error) => Err(Failure::other(format!("wait for the program to start: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_is_found_in_path_or_named_as_missing() {
        assert_eq!(find_program("sh", "/nonexistent:/bin").unwrap().as_bytes(), b"/bin/sh");
        let missing = find_program("no-such-program", "/bin").unwrap_err();
        assert_eq!(missing.kind, FailureKind::NotFound);
        assert_eq!(missing.message, "exec: \"no-such-program\": executable file not found in $PATH");
        let absolute = find_program("/no/such", "/bin").unwrap_err();
        assert_eq!(absolute.message, "exec: \"/no/such\": stat /no/such: no such file or directory");
        assert_eq!(find_program("/etc", "/bin").unwrap_err().kind, FailureKind::NotExecutable);
        assert_eq!(
            find_program("/etc/passwd", "/bin").unwrap_err().message,
            "exec: \"/etc/passwd\": permission denied"
        );
    }
}
