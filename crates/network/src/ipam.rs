//! Host-local addresses: which pod has which address of the slot's pod range.
//!
//! One file per address, named after it, holding the pod's UID. The files outlive a crash of the process; after a power
//! failure the pods are gone anyway, so nothing is synced. Addresses are handed out in a circle, so that a freed one
//! rests as long as possible before it comes back.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use crate::slot::Slot;

/// Why an address could not be given or taken back.
#[derive(Debug, thiserror::Error)]
pub enum IpamError {
    /// A file of the address table could not be read or written.
    #[error("cannot {action} {path}", path = .path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The failure.
        source: io::Error,
    },
    /// Every address is taken.
    #[error("no free address left in {0}")]
    Exhausted(crate::slot::Cidr),
}

/// The address table of one instance.
#[derive(Debug)]
pub(crate) struct Ipam {
    dir: PathBuf,
    slot: Slot,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    owners: BTreeMap<Ipv4Addr, String>,
    addresses: HashMap<String, Ipv4Addr>,
    last: u32,
}

impl Ipam {
    /// Opens the table and reads what is there. A file that names no address of the range is passed over.
    pub(crate) fn open(dir: PathBuf, slot: Slot) -> Result<Self, IpamError> {
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| IpamError::Io { action, path, source }
        };
        fs::create_dir_all(&dir).map_err(failed("create", &dir))?;
        let mut table = Table::default();
        for entry in fs::read_dir(&dir).map_err(failed("read", &dir))? {
            let entry = entry.map_err(failed("read", &dir))?;
            let Some(address) = entry.file_name().to_str().and_then(|name| name.parse::<Ipv4Addr>().ok()) else {
                continue;
            };
            let path = entry.path();
            let owner = fs::read_to_string(&path).map_err(failed("read", &path))?;
            // An empty file is a crash between creating and writing: the address was never told to anybody.
            if owner.is_empty() || !slot.pod_cidr().contains(address) {
                fs::remove_file(&path).map_err(failed("remove", &path))?;
                continue;
            }
            table.last = table.last.max(address.to_bits());
            table.addresses.insert(owner.clone(), address);
            table.owners.insert(address, owner);
        }
        Ok(Self { dir, slot, table: Mutex::new(table) })
    }

    /// The address of a pod; the same one again when it has one already.
    pub(crate) fn allocate(&self, pod_uid: &str) -> Result<Ipv4Addr, IpamError> {
        let mut table = self.table.lock();
        if let Some(address) = table.addresses.get(pod_uid) {
            return Ok(*address);
        }
        let address = table.next_free(self.slot).ok_or(IpamError::Exhausted(self.slot.pod_cidr()))?;
        let path = self.dir.join(address.to_string());
        fs::write(&path, pod_uid).map_err(|source| IpamError::Io { action: "write", path, source })?;
        table.last = address.to_bits();
        table.addresses.insert(pod_uid.to_owned(), address);
        table.owners.insert(address, pod_uid.to_owned());
        Ok(address)
    }

    /// The address that a pod has.
    pub(crate) fn get(&self, pod_uid: &str) -> Option<Ipv4Addr> {
        self.table.lock().addresses.get(pod_uid).copied()
    }

    /// Takes a pod's address back.
    pub(crate) fn release(&self, pod_uid: &str) -> Result<(), IpamError> {
        let mut table = self.table.lock();
        let Some(address) = table.addresses.get(pod_uid).copied() else { return Ok(()) };
        let path = self.dir.join(address.to_string());
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(IpamError::Io { action: "remove", path, source });
            }
            _ => {}
        }
        table.addresses.remove(pod_uid);
        table.owners.remove(&address);
        Ok(())
    }

    /// All pods with their addresses.
    pub(crate) fn list(&self) -> Vec<(String, Ipv4Addr)> {
        self.table.lock().owners.iter().map(|(address, owner)| (owner.clone(), *address)).collect()
    }
}

impl Table {
    /// The first free address after the one given last, around the circle. The network's own, the bridge's and those of
    /// Gateways are never given.
    fn next_free(&self, slot: Slot) -> Option<Ipv4Addr> {
        let first = slot.bridge_ip().to_bits() + 1;
        let end = slot.gateway_cidr().network.to_bits();
        let start = if (first..end).contains(&(self.last + 1)) { self.last + 1 } else { first };
        (start..end).chain(first..start).map(Ipv4Addr::from_bits).find(|address| !self.owners.contains_key(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_unique_stable_and_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let slot = Slot::new(0).unwrap();
        let ipam = Ipam::open(dir.path().into(), slot).unwrap();
        let a = ipam.allocate("a").unwrap();
        let b = ipam.allocate("b").unwrap();
        assert_eq!((a, b), (Ipv4Addr::new(10, 160, 0, 2), Ipv4Addr::new(10, 160, 0, 3)));
        assert_eq!(ipam.allocate("a").unwrap(), a);
        ipam.release("a").unwrap();
        ipam.release("a").unwrap();

        fs::write(dir.path().join("10.160.0.9"), "").unwrap();
        let again = Ipam::open(dir.path().into(), slot).unwrap();
        assert_eq!(again.list(), [("b".to_owned(), b)]);
        assert_eq!(again.allocate("c").unwrap(), Ipv4Addr::new(10, 160, 0, 4), "a freed address rests");
    }

    #[test]
    fn the_circle_closes_and_ends_when_full() {
        let slot = Slot::new(0).unwrap();
        let mut table = Table { last: Ipv4Addr::new(10, 160, 126, 255).to_bits(), ..Table::default() };
        assert_eq!(table.next_free(slot), Some(Ipv4Addr::new(10, 160, 0, 2)));
        for bits in Ipv4Addr::new(10, 160, 0, 2).to_bits()..Ipv4Addr::new(10, 160, 127, 0).to_bits() {
            table.owners.insert(Ipv4Addr::from_bits(bits), "x".into());
        }
        assert_eq!(table.next_free(slot), None);
    }
}
