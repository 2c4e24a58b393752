//! Addresses to listen on: what is wrong with one, in words that say what to do, and those of this machine.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use anyhow::anyhow;

use crate::exit::{Exit, Failure};

/// The failure of a bind, naming the address and the setting that moves it.
pub(super) fn refused(address: SocketAddr, setting: &str, error: io::Error) -> Failure {
    let exit = match error.kind() {
        io::ErrorKind::AddrInUse => Exit::InUse,
        _ => Exit::Unsupported,
    };
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => "another process listens there: stop it, or choose another with",
        io::ErrorKind::AddrNotAvailable => "this machine does not have the address: choose another with",
        io::ErrorKind::PermissionDenied => "ports below 1024 need root: choose another with",
        _ => "choose another with",
    };
    exit.because(anyhow!("cannot listen on {address}: {error}; {advice} {setting}"))
}

/// Every address of this machine's interfaces.
pub(super) fn of_this_machine() -> Vec<IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    let mut addresses: Vec<IpAddr> = interfaces
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
        })
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}
