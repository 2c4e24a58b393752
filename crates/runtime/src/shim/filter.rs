//! The seccomp filter of commands in a container, compiled once per container.
//!
//! Compiling the default profile costs more than everything else a command does until it runs, and probes run commands
//! every few seconds: the compiled program is kept beside the specification. Profiles that use what is not plain
//! (notifications, tracing, flags) go the way of the container's first process, through libcontainer.

use std::{fs, io, path::Path};

use libcontainer::{
    oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall},
    seccomp,
};
use libseccomp::{
    ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall, error::SeccompError,
};

use crate::wire::Failure;

/// Name of the compiled filter in the container's directory.
const FILTER_FILE: &str = "seccomp.bpf";
/// Bytes of one instruction of the kernel's filter machine.
const INSTRUCTION_BYTES: usize = size_of::<libc::sock_filter>();

/// A filter ready to be installed.
pub(super) enum Filter<'a> {
    Compiled(Vec<u8>),
    Profile(&'a LinuxSeccomp),
}

impl<'a> Filter<'a> {
    /// Reads the compiled filter of the container kept in `directory`, or compiles and keeps it.
    pub(super) fn of(directory: &Path, profile: &'a LinuxSeccomp) -> Result<Self, Failure> {
        let path = directory.join(FILTER_FILE);
        match fs::read(&path) {
            Ok(program) => return Ok(Self::Compiled(program)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Failure::other(format!("read the seccomp filter: {error}"))),
        }
        if !is_plain(profile) {
            return Ok(Self::Profile(profile));
        }
        // What cannot be kept (the disk may be full) is compiled each time.
        Ok(compile_to(&path, profile).map_or(Self::Profile(profile), Self::Compiled))
    }

    /// Puts the calling process under the filter.
    pub(super) fn install(&self) -> Result<(), Failure> {
        match self {
            Self::Compiled(program) => install(program).map_err(|error| error.to_string()),
            Self::Profile(profile) => {
                seccomp::initialize_seccomp(profile).map(|_| ()).map_err(|error| error.to_string())
            }
        }
        .map_err(|error| Failure::other(format!("install the seccomp filter: {error}")))
    }
}

fn install(program: &[u8]) -> io::Result<()> {
    let invalid = |_| io::Error::from(io::ErrorKind::InvalidData);
    let mut instructions: Vec<libc::sock_filter> = program
        .chunks_exact(INSTRUCTION_BYTES)
        .map(|bytes| libc::sock_filter {
            code: u16::from_ne_bytes([bytes[0], bytes[1]]),
            jt: bytes[2],
            jf: bytes[3],
            k: u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
        })
        .collect();
    let program = libc::sock_fprog {
        len: u16::try_from(instructions.len()).map_err(invalid)?,
        filter: instructions.as_mut_ptr(),
    };
    // SAFETY: the program points to live instructions for the length of the call.
    let done = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn is_plain(profile: &LinuxSeccomp) -> bool {
    let rules = profile.syscalls().iter().flatten();
    profile.flags().as_ref().is_none_or(Vec::is_empty)
        && action(profile.default_action(), None).is_some()
        && rules.clone().all(|rule| action(rule.action(), None).is_some())
        && profile.architectures().iter().flatten().all(|arch| architecture(*arch).is_some())
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Option<ScmpAction> {
    match action {
        LinuxSeccompAction::ScmpActAllow => Some(ScmpAction::Allow),
        LinuxSeccompAction::ScmpActErrno => {
            Some(ScmpAction::Errno(errno.and_then(|errno| errno.try_into().ok()).unwrap_or(libc::EPERM)))
        }
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => Some(ScmpAction::KillThread),
        LinuxSeccompAction::ScmpActKillProcess => Some(ScmpAction::KillProcess),
        LinuxSeccompAction::ScmpActLog => Some(ScmpAction::Log),
        _ => None,
    }
}

fn architecture(arch: Arch) -> Option<ScmpArch> {
    match arch {
        Arch::ScmpArchNative => Some(ScmpArch::Native),
        Arch::ScmpArchX86 => Some(ScmpArch::X86),
        Arch::ScmpArchX86_64 => Some(ScmpArch::X8664),
        Arch::ScmpArchX32 => Some(ScmpArch::X32),
        Arch::ScmpArchArm => Some(ScmpArch::Arm),
        Arch::ScmpArchAarch64 => Some(ScmpArch::Aarch64),
        _ => None,
    }
}

/// Compiles a profile into a file, and returns what is in it. Two commands may do so at once: each renames its own file.
fn compile_to(path: &Path, profile: &LinuxSeccomp) -> io::Result<Vec<u8>> {
    let mut own = path.to_owned();
    own.as_mut_os_string().push(format!(".{}", std::process::id()));
    let file = fs::File::create(&own)?;
    compile(profile).and_then(|filter| filter.export_bpf(&file)).map_err(io::Error::other)?;
    let program = fs::read(&own)?;
    fs::rename(&own, path)?;
    Ok(program)
}

/// As libcontainer does it for the first process, so that both are under the same rules.
fn compile(profile: &LinuxSeccomp) -> Result<ScmpFilterContext, SeccompError> {
    let default = action(profile.default_action(), profile.default_errno_ret()).unwrap_or(ScmpAction::KillProcess);
    let mut filter = ScmpFilterContext::new(default)?;
    for arch in profile.architectures().iter().flatten().filter_map(|arch| architecture(*arch)) {
        filter.add_arch(arch)?;
    }
    for rule in profile.syscalls().iter().flatten() {
        let action = action(rule.action(), rule.errno_ret()).unwrap_or(ScmpAction::KillProcess);
        if action == default {
            continue;
        }
        for name in rule.names() {
            // A name the library does not know is a call the kernel does not have.
            if let Ok(call) = ScmpSyscall::from_name(name) {
                add_rule(&mut filter, action, call, rule)?;
            }
        }
    }
    Ok(filter)
}

fn add_rule(
    filter: &mut ScmpFilterContext,
    action: ScmpAction,
    call: ScmpSyscall,
    rule: &LinuxSyscall,
) -> Result<(), SeccompError> {
    let comparisons: Vec<ScmpArgCompare> = rule.args().iter().flatten().map(comparison).collect();
    let mut indices: Vec<usize> = rule.args().iter().flatten().map(LinuxSeccompArg::index).collect();
    indices.sort_unstable();
    if indices.windows(2).any(|pair| pair[0] == pair[1]) {
        // One argument cannot be compared twice in one rule: any of the comparisons is enough then, as in runc.
        for comparison in &comparisons {
            filter.add_rule_conditional(action, call, std::slice::from_ref(comparison))?;
        }
    } else {
        filter.add_rule_conditional(action, call, &comparisons)?;
    }
    Ok(())
}

fn comparison(argument: &LinuxSeccompArg) -> ScmpArgCompare {
    let operator = match argument.op() {
        LinuxSeccompOperator::ScmpCmpNe => ScmpCompareOp::NotEqual,
        LinuxSeccompOperator::ScmpCmpLt => ScmpCompareOp::Less,
        LinuxSeccompOperator::ScmpCmpLe => ScmpCompareOp::LessOrEqual,
        LinuxSeccompOperator::ScmpCmpEq => ScmpCompareOp::Equal,
        LinuxSeccompOperator::ScmpCmpGe => ScmpCompareOp::GreaterEqual,
        LinuxSeccompOperator::ScmpCmpGt => ScmpCompareOp::Greater,
        // The specification was written for libcontainer, which has the mask here.
        LinuxSeccompOperator::ScmpCmpMaskedEq => ScmpCompareOp::MaskedEqual(argument.value_two().unwrap_or(0)),
    };
    ScmpArgCompare::new(u32::try_from(argument.index()).unwrap_or(u32::MAX), operator, argument.value())
}
