//! What the machine is and has.

use std::{collections::BTreeMap, fs, path::Path};

use k8s_openapi::{
    api::core::v1::{NodeAddress, NodeStatus, NodeSystemInfo},
    apimachinery::pkg::api::resource::Quantity,
};
use nix::sys::{statvfs::statvfs, utsname::uname};

use crate::config::NodeConfig;

/// Memory kept for the system itself, as upstream's default hard eviction threshold.
const MEMORY_RESERVED_BYTES: u64 = 100 << 20;

/// Facts read once at start.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) cpus: u64,
    pub(crate) memory_bytes: u64,
    pub(crate) architecture: &'static str,
    disk_bytes: u64,
    info: NodeSystemInfo,
}

/// What is left.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pressure {
    pub(crate) memory_free_bytes: u64,
    pub(crate) disk_free_percent: u64,
    pub(crate) disk_free_bytes: u64,
}

fn trimmed(path: &str) -> String {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// A field of `/proc/meminfo` in bytes.
fn meminfo(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}

/// `PRETTY_NAME` of an os-release file.
fn os_image(text: &str) -> String {
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}

impl Machine {
    /// Reads the facts; `root` is where the node keeps its files.
    pub(crate) fn read(root: &Path) -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let kernel = uname().ok().map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default();
        let version = env!("CARGO_PKG_VERSION");
        let disk_bytes = statvfs(root).map_or(0, |disk| disk.blocks() * disk.fragment_size());
        Self {
            cpus: std::thread::available_parallelism().map_or(1, |count| count.get() as u64),
            memory_bytes: meminfo(&trimmed("/proc/meminfo"), "MemTotal").unwrap_or_default(),
            architecture,
            disk_bytes,
            info: NodeSystemInfo {
                architecture: architecture.to_owned(),
                boot_id: trimmed("/proc/sys/kernel/random/boot_id"),
                container_runtime_version: format!("keelson://{version}"),
                kernel_version: kernel,
                kube_proxy_version: String::new(),
                kubelet_version: format!("v1.36.0-keelson.{version}"),
                machine_id: trimmed("/etc/machine-id"),
                operating_system: "linux".to_owned(),
                os_image: os_image(&trimmed("/etc/os-release")),
                system_uuid: trimmed("/sys/class/dmi/id/product_uuid"),
                ..NodeSystemInfo::default()
            },
        }
    }

    /// Capacity, addresses and system information.
    pub(crate) fn status(&self, config: &NodeConfig) -> NodeStatus {
        let amounts = |memory: u64| -> BTreeMap<String, Quantity> {
            let amounts = [
                ("cpu", self.cpus.to_string()),
                ("memory", format!("{}Ki", memory / 1024)),
                ("ephemeral-storage", format!("{}Ki", self.disk_bytes / 1024)),
                ("pods", config.pods_max.to_string()),
                ("hugepages-1Gi", "0".to_owned()),
                ("hugepages-2Mi", "0".to_owned()),
            ];
            amounts.map(|(name, amount)| (name.to_owned(), Quantity(amount))).into()
        };
        let address = |type_: &str, address: String| NodeAddress { type_: type_.to_owned(), address };
        NodeStatus {
            capacity: Some(amounts(self.memory_bytes)),
            allocatable: Some(amounts(self.memory_bytes.saturating_sub(MEMORY_RESERVED_BYTES))),
            addresses: Some(vec![
                address("InternalIP", config.node_ip.to_string()),
                address("Hostname", config.name.clone()),
            ]),
            node_info: Some(self.info.clone()),
            ..NodeStatus::default()
        }
    }

    /// What is left of memory and disk now.
    pub(crate) fn pressure(&self, root: &Path) -> Pressure {
        let free = meminfo(&trimmed("/proc/meminfo"), "MemAvailable").unwrap_or(self.memory_bytes);
        let disk = statvfs(root).ok().filter(|disk| disk.blocks() > 0);
        Pressure {
            memory_free_bytes: free,
            disk_free_percent: disk.map_or(100, |disk| disk.blocks_available() * 100 / disk.blocks()),
            disk_free_bytes: disk.map_or(u64::MAX, |disk| disk.blocks_available() * disk.fragment_size()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_files_are_read() {
        let text = "MemTotal:       16384 kB\nMemFree: 1 kB\nMemAvailable:   8192 kB\n";
        assert_eq!(meminfo(text, "MemTotal"), Some(16 << 20));
        assert_eq!(meminfo(text, "MemAvailable"), Some(8 << 20));
        assert_eq!(meminfo(text, "Nothing"), None);
        assert_eq!(os_image("ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 13\"\n"), "Debian GNU/Linux 13");
        let machine = Machine::read(Path::new("/"));
        assert!(machine.cpus > 0 && machine.memory_bytes > 0);
    }
}
