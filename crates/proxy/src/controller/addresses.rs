//! Which addresses Gateways have.
//!
//! A Gateway has an address of its own, so that two Gateways may listen on the same port without a common hostname, as the
//! API has it; and it is reached at the addresses that all share, by hostname, because those are what people type.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::{IpAddr, Ipv4Addr},
};

use kinds::gateway::{Gateway, GatewayAddress};
use reconcile::Key;

use super::{lookup::key_of, verdict::Fault};
use crate::routing::Place;

/// A range of addresses of this machine that belong to Gateways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// The first address, which nobody gets.
    pub network: Ipv4Addr,
    /// Bits that all addresses have in common.
    pub prefix: u8,
}

impl Pool {
    fn size(self) -> u32 {
        1u32.checked_shl(32u32.saturating_sub(u32::from(self.prefix))).unwrap_or(u32::MAX)
    }

    fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address).checked_sub(u32::from(self.network)).is_some_and(|at| (1..self.size() - 1).contains(&at))
    }

    fn address(self, at: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network) + at)
    }
}

/// Who has which address.
pub(crate) struct Addresses {
    shared: Vec<IpAddr>,
    pool: Option<Pool>,
    of: HashMap<Key, Ipv4Addr>,
    taken: HashMap<Ipv4Addr, Key>,
}

/// Where a Gateway is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Located {
    pub(crate) places: Vec<Place>,
    /// The addresses that status may tell of; all where it listens when absent.
    pub(crate) only: Option<Vec<IpAddr>>,
    /// Whether the kinds of the addresses that it asks for are known.
    pub(crate) supported: Result<(), Fault>,
    /// Whether it can have them.
    pub(crate) usable: Result<(), Fault>,
}

impl Addresses {
    pub(crate) fn new(shared: Vec<IpAddr>, pool: Option<Pool>) -> Self {
        Addresses { shared, pool, of: HashMap::new(), taken: HashMap::new() }
    }

    /// Keeps the address that status tells of, so that Gateways have the same addresses after a restart.
    pub(crate) fn reserve(&mut self, gateway: &Gateway) {
        let key = key_of(&gateway.metadata);
        let known = gateway.status.iter().flat_map(|status| &status.addresses).filter_map(|a| a.value.parse().ok());
        if let Some(address) = { known }.find(|address| self.is_free(*address)) {
            self.take(key, address);
        }
    }

    /// Where a Gateway is, by what it asks for.
    pub(crate) fn locate(&mut self, gateway: &Gateway) -> Located {
        let key = key_of(&gateway.metadata);
        let asked = &gateway.spec.addresses;
        let mut located = Located { places: Vec::new(), only: None, supported: Ok(()), usable: Ok(()) };
        if asked.is_empty() {
            located.places.extend(self.own(&key, None).map(|own| Place::Own(own.into())));
            located.places.push(Place::Shared);
            return located;
        }
        let mut only = Vec::new();
        for address in asked {
            match self.find(&key, address) {
                Ok((place, addresses)) => {
                    if !located.places.contains(&place) {
                        located.places.push(place);
                    }
                    only.extend(addresses);
                }
                Err(fault) if fault.reason == UNSUPPORTED => located.supported = Err(fault),
                Err(fault) => located.usable = Err(fault),
            }
        }
        located.only = Some(only);
        located
    }

    /// Gives up what a Gateway had.
    pub(crate) fn release(&mut self, key: &Key) {
        if let Some(address) = self.of.remove(key) {
            self.taken.remove(&address);
        }
    }

    fn find(&mut self, key: &Key, asked: &GatewayAddress) -> Result<(Place, Vec<IpAddr>), Fault> {
        let kind = asked.type_.as_deref().unwrap_or("IPAddress");
        if kind != "IPAddress" {
            return Err(Fault::new(UNSUPPORTED, format!("addresses of type {kind} are not served, only IPAddress")));
        }
        let unusable = || Fault::new(UNUSABLE, format!("cannot listen on address {}", asked.value));
        if asked.value.is_empty() {
            let own = self.own(key, None);
            return Ok(
                own.map_or((Place::Shared, self.shared.clone()), |own| (Place::Own(own.into()), vec![own.into()]))
            );
        }
        let address: IpAddr = asked.value.parse().map_err(|_| unusable())?;
        if self.shared.contains(&address) {
            return Ok((Place::Shared, vec![address]));
        }
        match address {
            IpAddr::V4(own) if self.own(key, Some(own)) == Some(own) => Ok((Place::Own(address), vec![address])),
            _ => Err(unusable()),
        }
    }

    /// The address that a Gateway has, or gets: the one it wishes for, else the first free one after the one that its
    /// name stands for.
    fn own(&mut self, key: &Key, wish: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
        let pool = self.pool?;
        if let Some(known) = self.of.get(key).copied()
            && wish.is_none_or(|wish| wish == known)
        {
            return Some(known);
        }
        let free = match wish {
            Some(wish) => Some(wish).filter(|wish| self.is_free(*wish)),
            None => {
                let mut hasher = DefaultHasher::new();
                key.to_string().hash(&mut hasher);
                let (usable, start) = (pool.size().saturating_sub(2), hasher.finish() as u32);
                let mut candidates = (0..usable).map(|step| pool.address(1 + start.wrapping_add(step) % usable));
                candidates.find(|address| self.is_free(*address))
            }
        }?;
        self.release(key);
        self.take(key.clone(), free);
        Some(free)
    }

    fn is_free(&self, address: Ipv4Addr) -> bool {
        self.pool.is_some_and(|pool| pool.contains(address)) && !self.taken.contains_key(&address)
    }

    fn take(&mut self, key: Key, address: Ipv4Addr) {
        self.taken.insert(address, key.clone());
        self.of.insert(key, address);
    }
}

const UNSUPPORTED: &str = "UnsupportedAddress";
const UNUSABLE: &str = "AddressNotUsable";

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const POOL: Pool = Pool { network: Ipv4Addr::new(10, 0, 9, 0), prefix: 29 };

    fn gateway(name: &str, addresses: Value) -> Gateway {
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "n"},
            "spec": {"gatewayClassName": "keelson", "addresses": addresses}}))
        .unwrap()
    }

    fn own(located: &Located) -> Vec<IpAddr> {
        let own = |place: &Place| match place {
            Place::Own(own) => Some(*own),
            Place::Shared => None,
        };
        located.places.iter().filter_map(own).collect()
    }

    #[test]
    fn each_gateway_has_its_own_address_until_there_are_none() {
        let mut addresses = Addresses::new(vec!["127.0.0.1".parse().unwrap()], Some(POOL));
        let mut seen = Vec::new();
        for number in 0..6 {
            let located = addresses.locate(&gateway(&number.to_string(), json!([])));
            assert_eq!(located.places.len(), 2, "its own and the shared ones");
            assert_eq!(addresses.locate(&gateway(&number.to_string(), json!([]))), located, "it stays the same");
            seen.extend(own(&located));
        }
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 6);
        assert_eq!(addresses.locate(&gateway("7", json!([]))).places, [Place::Shared]);
        addresses.release(&Key::new("n", "3"));
        assert_eq!(addresses.locate(&gateway("7", json!([]))).places.len(), 2);
    }

    #[test]
    fn asked_for_addresses_are_given_or_refused() {
        let mut addresses = Addresses::new(vec!["127.0.0.1".parse().unwrap()], Some(POOL));
        let ip = |value: &str| json!([{"type": "IPAddress", "value": value}]);
        let first = addresses.locate(&gateway("a", ip("10.0.9.3")));
        assert_eq!((own(&first).len(), first.only.unwrap()), (1, vec!["10.0.9.3".parse::<IpAddr>().unwrap()]));
        let taken = addresses.locate(&gateway("b", ip("10.0.9.3")));
        assert_eq!(taken.usable.unwrap_err().reason, "AddressNotUsable");
        assert_eq!(addresses.locate(&gateway("b", ip("192.0.2.1"))).usable.unwrap_err().reason, "AddressNotUsable");
        let hostname = json!([{"type": "Hostname", "value": "a.com"}]);
        assert_eq!(addresses.locate(&gateway("b", hostname)).supported.unwrap_err().reason, "UnsupportedAddress");
        let shared = addresses.locate(&gateway("b", ip("127.0.0.1")));
        assert_eq!((shared.places, shared.usable), (vec![Place::Shared], Ok(())));
        let empty = addresses.locate(&gateway("c", json!([{"type": "IPAddress"}])));
        assert_eq!((own(&empty).len(), empty.only.unwrap().len()), (1, 1));
    }

    #[test]
    fn status_keeps_the_address_over_a_restart() {
        let mut addresses = Addresses::new(Vec::new(), Some(POOL));
        let mut known = gateway("a", json!([]));
        known.status = Some(serde_json::from_value(json!({"addresses": [{"value": "10.0.9.5"}]})).unwrap());
        addresses.reserve(&known);
        assert_eq!(own(&addresses.locate(&known)), ["10.0.9.5".parse::<IpAddr>().unwrap()]);
    }
}
