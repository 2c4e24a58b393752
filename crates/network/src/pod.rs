//! A pod's place in the network: a veth pair from the bridge into the pod's network namespace.
//!
//! The pod's address is a `/32` behind the gateway: every packet, also from pod to pod, goes to the host's IP layer.
//! Replies of a pod that was reached through a Service therefore pass connection tracking and are translated back,
//! whether or not this kernel runs bridged packets through netfilter.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::Path;

use crate::link::{Links, VethPair, index_of};
use crate::netlink::{NetlinkError, in_netns};
use crate::slot::Slot;

/// The pod's link.
pub(crate) const POD_LINK: &str = "eth0";

/// What a pod knows of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodAddress {
    /// The pod's address.
    pub ip: Ipv4Addr,
    /// The pod's gateway: the bridge.
    pub gateway: Ipv4Addr,
}

/// The hardware address of an IP address. Deriving it keeps every neighbour cache right when an address is used again.
pub(crate) fn mac_of(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x0a, 0x58, a, b, c, d]
}

/// The name of the host end of a pod's veth pair.
pub(crate) fn veth_name(slot: Slot, address: Ipv4Addr) -> String {
    let [_, _, c, d] = address.octets();
    format!("{}{c:02x}{d:02x}", slot.veth_prefix())
}

/// Connects a network namespace. What is there already and whole is kept; what is there in part is made anew.
pub(crate) fn connect(slot: Slot, pod_uid: &str, address: Ipv4Addr, netns: &Path) -> Result<(), NetlinkError> {
    let host = Links::open()?;
    let bridge = slot.bridge();
    let no_bridge = || NetlinkError::Io {
        action: format!("attach pod {pod_uid} to bridge {bridge}"),
        source: std::io::Error::from_raw_os_error(libc::ENODEV),
    };
    let bridge = host.find(&bridge)?.ok_or_else(no_bridge)?;
    let name = veth_name(slot, address);
    let host_end = host.find(&name)?.is_some();
    let peer_netns = File::open(netns)
        .map_err(|source| NetlinkError::Io { action: format!("open network namespace {}", netns.display()), source })?;
    in_netns(netns, || {
        let pod = Links::open()?;
        if !host_end || index_of(POD_LINK).is_none() {
            host.delete_named(&name)?;
            pod.delete_named(POD_LINK)?;
            host.create_veth(&VethPair {
                name: &name,
                alias: pod_uid,
                bridge: bridge.index,
                mtu: bridge.mtu,
                peer_netns: &peer_netns,
                peer_name: POD_LINK,
                peer_mac: mac_of(address),
            })?;
        }
        set_pod_sysctls()?;
        pod.up("lo")?;
        let link = index_of(POD_LINK).ok_or_else(|| NetlinkError::Io {
            action: format!("find {POD_LINK} of pod {pod_uid}"),
            source: std::io::Error::from_raw_os_error(libc::ENODEV),
        })?;
        pod.add_address(link, address, 32)?;
        pod.up(POD_LINK)?;
        pod.set_default_route(link, slot.bridge_ip(), address)
    })
}

/// Removes the veth pair of an address, if it is there.
pub(crate) fn disconnect(slot: Slot, address: Ipv4Addr) -> Result<(), NetlinkError> {
    Links::open()?.delete_named(&veth_name(slot, address))
}

/// Sets what the namespace of a pod needs: redirects would teach it ways around the gateway; unprivileged ports and
/// pings are what images built for other container engines rely on.
fn set_pod_sysctls() -> Result<(), NetlinkError> {
    write_sysctl("net/ipv4/conf/all/accept_redirects", "0")?;
    write_sysctl(&format!("net/ipv4/conf/{POD_LINK}/accept_redirects"), "0")?;
    write_sysctl("net/ipv4/ip_unprivileged_port_start", "0")?;
    write_sysctl("net/ipv4/ping_group_range", "0 2147483647")
}

/// Writes a kernel parameter of this thread's network namespace, unless it has the value already: where `/proc/sys` is
/// read-only somebody else may have set it.
pub(crate) fn write_sysctl(name: &str, value: &str) -> Result<(), NetlinkError> {
    let path = Path::new("/proc/sys").join(name);
    let current = fs::read_to_string(&path).unwrap_or_default();
    if current.split_whitespace().eq(value.split_whitespace()) {
        return Ok(());
    }
    fs::write(&path, value)
        .map_err(|source| NetlinkError::Io { action: format!("set {} to {value}", path.display()), source })
}
