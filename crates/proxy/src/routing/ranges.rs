//! Addresses that lead to the machine itself or to what it alone reaches.

use std::net::IpAddr;

/// The name of the range of an address that leads to the machine itself or to what it alone reaches.
pub(crate) fn own_range(address: IpAddr) -> Option<&'static str> {
    let (loopback, link) = match address.to_canonical() {
        IpAddr::V4(v4) => (v4.is_loopback(), v4.is_link_local()),
        IpAddr::V6(v6) => (v6.is_loopback(), v6.is_unicast_link_local()),
    };
    let address = address.to_canonical();
    match (loopback, link, address.is_unspecified(), address.is_multicast()) {
        (true, ..) => Some("loopback"),
        (_, true, ..) => Some("link-local"),
        (_, _, true, _) => Some("unspecified"),
        (.., true) => Some("multicast"),
        _ => None,
    }
}
