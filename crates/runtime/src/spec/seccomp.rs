//! The default seccomp profile: what Docker's and containerd's allow, as data.

use serde_json::{Value, json};

/// Calls every container may make.
const ALLOWED: &str = "accept accept4 access adjtimex alarm arch_prctl bind brk cachestat capget capset chdir chmod chown \
chown32 clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep \
clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl \
epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat \
faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl \
fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync \
ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat getcpu getcwd getdents \
getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp \
getpid getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit get_robust_list getrusage getsid \
getsockname getsockopt get_thread_area gettid gettimeofday getuid getuid32 getxattr getxattrat inotify_add_watch \
inotify_init inotify_init1 inotify_rm_watch io_cancel ioctl io_destroy io_getevents io_pgetevents io_pgetevents_time64 \
ioprio_get ioprio_set io_setup io_submit ipc kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown \
lchown32 lgetxattr link linkat listen listmount listxattr listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat \
lstat64 madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 \
mlockall mmap mmap2 modify_ldt mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend \
mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at \
nanosleep newfstatat _newselect open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free \
pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6 pselect6_time64 \
pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg \
remap_file_pages removexattr removexattrat rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending \
rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo \
sched_getaffinity sched_getattr sched_getparam sched_get_priority_max sched_get_priority_min sched_getscheduler \
sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler \
sched_yield seccomp select semctl semget semop semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg \
sendto setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid \
setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit set_robust_list setsid setsockopt \
set_thread_area set_tid_address setuid setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd \
signalfd4 sigprocmask sigreturn socketcall socketpair splice stat stat64 statfs statfs64 statmount statx symlink symlinkat \
sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime \
timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime \
timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat uretprobe utime utimensat \
utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev process_vm_readv process_vm_writev ptrace";

/// Calls that come with a capability.
const BY_CAPABILITY: [(&str, &str); 11] = [
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "CAP_SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr lsm_list_modules \
         lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname \
         sethostname setns syslog umount umount2 unshare",
    ),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module init_module finit_module"),
    ("CAP_SYS_PACCT", "acct"),
    ("CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise"),
    ("CAP_SYS_RAWIO", "iopl ioperm"),
    ("CAP_SYS_TIME", "settimeofday stime clock_settime clock_settime64"),
    ("CAP_SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("CAP_SYSLOG", "syslog"),
];

/// `personality` values that only change how the kernel reports itself.
const PERSONALITIES: [u64; 5] = [0x0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff];
/// All `CLONE_NEW*` flags: what `clone` must not be given without CAP_SYS_ADMIN.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;
/// `AF_VSOCK` reaches the hypervisor, and no namespace contains it.
const ADDRESS_FAMILY_VSOCK: u64 = 40;

/// The default profile for a container with these capabilities (named with `CAP_`).
pub(super) fn default_profile(capabilities: &[String]) -> Value {
    let has = |name: &str| capabilities.iter().any(|capability| capability == name);
    let names = |list: &str| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let allow = |names: Vec<String>| json!({ "names": names, "action": "SCMP_ACT_ALLOW" });
    let allow_if = |name: &str, args: Value| json!({ "names": [name], "action": "SCMP_ACT_ALLOW", "args": args });
    let mut syscalls = vec![
        allow(names(ALLOWED)),
        allow_if("socket", json!([{ "index": 0, "value": ADDRESS_FAMILY_VSOCK, "op": "SCMP_CMP_NE" }])),
    ];
    for personality in PERSONALITIES {
        syscalls.push(allow_if("personality", json!([{ "index": 0, "value": personality, "op": "SCMP_CMP_EQ" }])));
    }
    for (capability, list) in BY_CAPABILITY {
        if has(capability) {
            syscalls.push(allow(names(list)));
        }
    }
    if !has("CAP_SYS_ADMIN") {
        // libcontainer takes the mask from `valueTwo` and the wanted result from `value`.
        syscalls.push(allow_if(
            "clone",
            json!([{ "index": 0, "value": 0, "valueTwo": CLONE_NAMESPACES, "op": "SCMP_CMP_MASKED_EQ" }]),
        ));
        // The filter cannot see into clone3's arguments; ENOSYS makes the C library fall back to clone.
        syscalls.push(json!({ "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSYS }));
    }
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": libc::EPERM,
        "architectures": architectures(),
        "syscalls": syscalls,
    })
}

fn architectures() -> Vec<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => vec!["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "aarch64" => vec!["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        _ => Vec::new(),
    }
}

/// Turns a profile file in the OCI's form into what libcontainer understands: in masked comparisons the specification has
/// the mask in `value`, libcontainer in `valueTwo`. Docker's conditional fields (`includes`, `archMap`) are not part of it.
pub(crate) fn adapt_profile(mut profile: Value) -> Value {
    let rules = profile.get_mut("syscalls").and_then(Value::as_array_mut).into_iter().flatten();
    for argument in rules.filter_map(|rule| rule.get_mut("args")?.as_array_mut()).flatten() {
        if argument["op"] == "SCMP_CMP_MASKED_EQ" {
            let mask = argument["value"].take();
            let wanted = argument.get("valueTwo").cloned().unwrap_or_else(|| json!(0));
            argument["value"] = wanted;
            argument["valueTwo"] = mask;
        }
    }
    profile
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_profile_allows_no_call_twice_and_no_dangerous_one() {
        let names: Vec<&str> = ALLOWED.split_whitespace().collect();
        let mut unique = names.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), names.len());
        for forbidden in ["mount", "unshare", "setns", "bpf", "keyctl", "kexec_load", "io_uring_setup", "userfaultfd"] {
            assert!(!names.contains(&forbidden), "{forbidden}");
        }
    }

    #[test]
    fn capabilities_open_their_calls() {
        let text = default_profile(&["CAP_SYS_ADMIN".to_owned()]).to_string();
        assert!(text.contains("\"unshare\"") && !text.contains("MASKED_EQ"));
    }

    #[test]
    fn masked_comparison_is_turned_around() {
        let profile = adapt_profile(json!({ "syscalls": [{ "names": ["clone"], "args": [
            { "index": 0, "value": 5, "valueTwo": 1, "op": "SCMP_CMP_MASKED_EQ" },
            { "index": 0, "value": 5, "op": "SCMP_CMP_EQ" },
        ] }] }));
        assert_eq!(profile["syscalls"][0]["args"][0]["value"], 1);
        assert_eq!(profile["syscalls"][0]["args"][0]["valueTwo"], 5);
        assert_eq!(profile["syscalls"][0]["args"][1]["value"], 5);
    }
}
