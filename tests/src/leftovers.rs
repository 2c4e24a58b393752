//! What of an instance could be left on the machine, as the kernel lists it.

use std::{collections::BTreeSet, fs, process::Command};

/// Mounts, network namespaces, links, nftables tables, cgroups and processes, one line each.
pub fn snapshot() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in fs::read_to_string("/proc/self/mountinfo").unwrap_or_default().lines() {
        found.insert(format!("mount {}", line.split(' ').nth(4).unwrap_or_default()));
    }
    let program = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().expect("the program is installed");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    for line in program("ip", &["-brief", "link"]).lines() {
        found.insert(format!("link {}", line.split(['@', ' ']).next().unwrap_or_default()));
    }
    for line in program("nft", &["list", "tables"]).lines() {
        found.insert(format!("nft {line}"));
    }
    for line in program("find", &["/sys/fs/cgroup", "-type", "d", "-path", "*keelson*"]).lines() {
        found.insert(format!("cgroup {line}"));
    }
    for entry in fs::read_dir("/run/keelson").into_iter().flatten().flatten() {
        found.insert(format!("run {}", entry.path().display()));
    }
    for line in program("ps", &["-eo", "pid,args"]).lines().filter(|l| l.contains("keelson") && l.contains("shim")) {
        found.insert(format!("process {line}"));
    }
    found
}

/// What of `marks` (a data directory, a bridge, a table) is still mentioned.
pub fn mentioning(marks: &[&str]) -> Vec<String> {
    let mentions = |line: &String| marks.iter().any(|mark| line.contains(mark));
    snapshot().into_iter().filter(mentions).collect()
}
