//! Which capabilities a container gets.

use crate::api::Security;

/// What every container runtime gives by default.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// All capabilities, at the position of their bit.
const ALL: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The container's capabilities with `CAP_`: the defaults, without what is dropped, with what is added (adding wins over
/// dropping), and never more than `available`.
pub(super) fn effective(security: &Security, available: u64) -> Vec<String> {
    let plain = |name: &String| name.to_ascii_uppercase().trim_start_matches("CAP_").to_owned();
    let add: Vec<String> = security.add_capabilities.iter().map(plain).collect();
    let drop: Vec<String> = security.drop_capabilities.iter().map(plain).collect();
    let has = |list: &[String], name: &str| list.iter().any(|entry| entry == name);
    ALL.iter()
        .enumerate()
        .filter(|(bit, _)| available & (1 << bit) != 0)
        .filter(|(_, name)| {
            let base = security.privileged || has(&add, "ALL") || (DEFAULT.contains(name) && !has(&drop, "ALL"));
            has(&add, name) || (base && !has(&drop, name))
        })
        .map(|(_, name)| format!("CAP_{name}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(add: &[&str], drop: &[&str]) -> Vec<String> {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        effective(
            &Security { add_capabilities: list(add), drop_capabilities: list(drop), ..Security::default() },
            u64::MAX,
        )
    }

    #[test]
    fn default_is_the_usual_fourteen() {
        assert_eq!(of(&[], &[]).len(), 14);
    }

    #[test]
    fn drop_all_leaves_what_is_added() {
        assert_eq!(of(&["NET_BIND_SERVICE"], &["ALL"]), ["CAP_NET_BIND_SERVICE"]);
        assert_eq!(of(&["CAP_net_admin"], &["all"]), ["CAP_NET_ADMIN"]);
    }

    #[test]
    fn add_all_without_one() {
        let all = of(&["ALL"], &["SYS_ADMIN"]);
        assert_eq!(all.len(), 40);
        assert!(!all.contains(&"CAP_SYS_ADMIN".to_owned()));
    }

    #[test]
    fn never_more_than_the_machine_has() {
        let security = Security { privileged: true, ..Security::default() };
        assert_eq!(effective(&security, 0b101), ["CAP_CHOWN", "CAP_DAC_READ_SEARCH"]);
    }
}
