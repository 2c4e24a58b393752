//! Endpoints, EndpointSlices, Ingresses, IngressClasses, NetworkPolicies, ServiceCIDRs and IPAddresses.

use std::net::IpAddr;

use super::names;
use crate::field_error::{FieldErrors, Path};

mod address;
mod endpoints;
mod ingress;
mod policy;

pub(super) use address::{Address, ServiceRange};
pub(super) use endpoints::{EndpointSlice, Endpoints};
pub(super) use ingress::{Ingress, IngressClass};
pub(super) use policy::NetworkPolicy;

const SPEC: Path<'static> = Path::new("spec");
const IP_RULE: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const RANGE_RULE: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

/// An address and the length of its prefix, from `10.0.0.0/8`.
pub(super) fn parse_range(text: &str) -> Option<(IpAddr, u8)> {
    let (address, prefix) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    // a sign or leading zero is no prefix length
    let prefix = prefix.parse::<u8>().ok().filter(|length| length.to_string() == prefix)?;
    (prefix <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, prefix))
}

/// The first bits of an address.
fn network(address: IpAddr, prefix: u8) -> u128 {
    let (bits, width) = match address {
        IpAddr::V4(address) => (u128::from(u32::from(address)), 32),
        IpAddr::V6(address) => (u128::from(address), 128),
    };
    bits.checked_shr(width - u32::from(prefix)).unwrap_or(0)
}

/// Whether `inner` lies in `outer` and is smaller.
fn is_strictly_within(inner: (IpAddr, u8), outer: (IpAddr, u8)) -> bool {
    inner.0.is_ipv4() == outer.0.is_ipv4()
        && inner.1 > outer.1
        && network(inner.0, outer.1) == network(outer.0, outer.1)
}

/// Checks an address that traffic is sent to: none that means something of its own on every machine.
pub(super) fn validate_endpoint_address(address: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let Ok(parsed) = address.parse::<IpAddr>() else {
        errors.invalid(path, address, IP_RULE);
        return;
    };
    let (link_local, link_local_multicast) = match parsed {
        IpAddr::V4(address) => (address.is_link_local(), address.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(address) => (address.is_unicast_link_local(), address.segments()[0] & 0xff0f == 0xff02),
    };
    let rule = if parsed.is_unspecified() {
        "may not be unspecified (0.0.0.0 or ::)"
    } else if parsed.is_loopback() {
        "may not be in the loopback range (127.0.0.0/8, ::1/128)"
    } else if link_local {
        "may not be in the link-local range (169.254.0.0/16, fe80::/10)"
    } else if link_local_multicast {
        "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"
    } else {
        return;
    };
    errors.invalid(path, address, rule);
}

/// Checks the name of an application protocol.
pub(super) fn validate_app_protocol(protocol: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if !protocol.is_empty()
        && let Some(message) = names::qualified(protocol)
    {
        errors.invalid(path, protocol, message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        for bad in ["10.0.0.0", "10.0.0.0/33", "10.0.0.0/+8", "10.0.0.0/08", "x/8", "::/129"] {
            assert_eq!(parse_range(bad), None, "{bad}");
        }
        let range = |text| parse_range(text).unwrap();
        assert!(is_strictly_within(range("10.1.0.0/16"), range("10.0.0.0/8")));
        assert!(is_strictly_within(range("10.1.0.0/16"), range("0.0.0.0/0")));
        assert!(!is_strictly_within(range("10.0.0.0/8"), range("10.0.0.0/8")));
        assert!(!is_strictly_within(range("11.1.0.0/16"), range("10.0.0.0/8")));
        assert!(!is_strictly_within(range("fd00::/16"), range("0.0.0.0/0")));
    }

    #[test]
    fn special_addresses_are_no_endpoints() {
        let rule = |address| {
            let mut errors = FieldErrors::default();
            validate_endpoint_address(address, &Path::new("ip"), &mut errors);
            errors.to_string()
        };
        assert_eq!(rule("10.0.0.1"), "[]");
        for (address, part) in [
            ("x", "must be a valid IP address"),
            ("0.0.0.0", "may not be unspecified"),
            ("127.0.0.1", "loopback"),
            ("169.254.1.1", "link-local range"),
            ("224.0.0.1", "link-local multicast"),
        ] {
            assert!(rule(address).contains(part), "{address}");
        }
    }
}
