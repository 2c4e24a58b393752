//! Slots: how several instances on one machine stay out of each other's way.
//!
//! Slot N owns `10.{160+N}.0.0/16`, the bridge `keelson{N}` and the nftables table `keelson-{N}`. An instance takes the
//! first free slot when it starts for the first time and keeps it for good, because Service addresses in its store come
//! from the slot's range. The number is kept in the state directory; a file per slot in the machine-wide run directory
//! says whose it is, and is locked while the instance runs.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::link::{Link, Links, Route};
use crate::netlink::NetlinkError;

/// Slots on one machine: second octets 160 to 223, well clear of what engines and clusters commonly use.
pub const SLOT_COUNT: u8 = 64;
/// Second octet of slot 0.
const FIRST_OCTET: u8 = 160;
/// How often a claim is tried again when another process gives the same slot's file back under its hands: each such
/// race needs another process to end at that very moment, so a few are plenty.
const LOCK_ATTEMPTS: usize = 8;
/// What the names of the files that say whose a slot is begin with.
const CLAIM_PREFIX: &str = "slot-";
/// The file in the state directory that holds the number.
const SLOT_FILE: &str = "slot";

/// Why no slot could be claimed.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// A file could not be read or written.
    #[error("cannot {action} {path}", path = .path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The failure.
        source: io::Error,
    },
    /// The file in the state directory holds something else than a slot number.
    #[error("{path} holds {content:?}, not a slot number below {SLOT_COUNT}", path = .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What it holds.
        content: String,
    },
    /// The slot of this state directory is in use.
    #[error("network slot {slot} is in use by the instance of {owner}")]
    InUse {
        /// The slot.
        slot: u8,
        /// The state directory of the instance that runs.
        owner: String,
    },
    /// Every slot is taken.
    #[error(
        "all {SLOT_COUNT} network slots from 10.{FIRST_OCTET}.0.0/16 on are taken by routes, links or other instances"
    )]
    Exhausted,
    /// Other processes gave the slot's file back each time it was about to be taken.
    #[error("the file of network slot {slot} kept disappearing")]
    Unsettled {
        /// The slot.
        slot: u8,
    },
    /// The links or routes of this machine could not be listed.
    #[error("cannot look at the links and routes of this machine")]
    Netlink(#[from] NetlinkError),
}

/// An instance's share of the machine's network, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Slot(u8);

impl Slot {
    /// The slot of a number below [`SLOT_COUNT`].
    pub fn new(number: u8) -> Option<Self> {
        (number < SLOT_COUNT).then_some(Self(number))
    }

    /// The number.
    pub fn number(self) -> u8 {
        self.0
    }

    /// An address of the slot by its two last octets.
    fn address(self, third: u8, fourth: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, FIRST_OCTET + self.0, third, fourth)
    }

    /// The whole range, `/16`.
    pub fn cidr(self) -> Cidr {
        Cidr { network: self.address(0, 0), prefix: 16 }
    }

    /// The range of Gateways' own addresses, the end of the lower `/17`: not given to pods.
    pub fn gateway_cidr(self) -> Cidr {
        Cidr { network: self.address(127, 0), prefix: 24 }
    }

    /// The range of the pods, the lower `/17`.
    pub fn pod_cidr(self) -> Cidr {
        Cidr { network: self.address(0, 0), prefix: 17 }
    }

    /// The range of the services, the upper `/17`.
    pub fn service_cidr(self) -> Cidr {
        Cidr { network: self.address(128, 0), prefix: 17 }
    }

    /// The bridge's own address: the pods' gateway, and the node's address towards them.
    pub fn bridge_ip(self) -> Ipv4Addr {
        self.address(0, 1)
    }

    /// The address of the Service `kubernetes`.
    pub fn kubernetes_ip(self) -> Ipv4Addr {
        self.address(128, 1)
    }

    /// The address of the cluster's DNS.
    pub fn dns_ip(self) -> Ipv4Addr {
        self.address(128, 10)
    }

    /// The name of the bridge.
    pub fn bridge(self) -> String {
        format!("keelson{}", self.0)
    }

    /// The name of the nftables table.
    pub fn table(self) -> String {
        format!("keelson-{}", self.0)
    }

    /// The beginning of the names of the host ends of the pods' veth pairs.
    pub(crate) fn veth_prefix(self) -> String {
        format!("kl{}v", self.0)
    }

    /// Claims the slot of a state directory: the one it had before, else the first free one.
    pub fn claim(run_root: &Path, state_dir: &Path) -> Result<SlotClaim, SlotError> {
        for dir in [run_root, state_dir] {
            fs::create_dir_all(dir).map_err(io_error("create", dir))?;
        }
        // The owner is recorded in run files that other instances read, so it must not depend on the working directory.
        let state_dir = fs::canonicalize(state_dir).map_err(io_error("resolve", state_dir))?;
        if let Some(slot) = Self::recorded(&state_dir)? {
            let lock = slot.lock(run_root, &state_dir)?;
            return Ok(SlotClaim { slot, _lock: lock });
        }
        let links = Links::open()?;
        let (links, routes) = (links.list()?, links.routes()?);
        for slot in (0..SLOT_COUNT).map(Self) {
            if !slot.is_clear(&links, &routes) || slot.is_promised(run_root, &state_dir) {
                continue;
            }
            match slot.lock(run_root, &state_dir) {
                Ok(lock) => {
                    let path = state_dir.join(SLOT_FILE);
                    write_durably(&path, &slot.0.to_string()).map_err(io_error("write", &path))?;
                    return Ok(SlotClaim { slot, _lock: lock });
                }
                Err(SlotError::InUse { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Err(SlotError::Exhausted)
    }

    /// The slot that a state directory has, if it has one.
    pub fn recorded(state_dir: &Path) -> Result<Option<Self>, SlotError> {
        let path = state_dir.join(SLOT_FILE);
        let content = match fs::read_to_string(&path) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(SlotError::Io { action: "read", path, source }),
        };
        match content.trim().parse().ok().and_then(Self::new) {
            Some(slot) => Ok(Some(slot)),
            None => Err(SlotError::Malformed { path, content }),
        }
    }

    fn claim_path(self, run_root: &Path) -> PathBuf {
        run_root.join(format!("{CLAIM_PREFIX}{}", self.0))
    }

    /// No link of the slot's name is there, and no route leads into its range.
    fn is_clear(self, links: &[Link], routes: &[Route]) -> bool {
        let range = self.cidr();
        links.iter().all(|link| link.name != self.bridge())
            && routes.iter().all(|route| {
                let (network, prefix) = route.destination;
                // A route wider than /8 (the default route, say) claims nothing in particular.
                prefix < 8 || !range.overlaps(Cidr { network, prefix })
            })
    }

    /// An instance that is not running at the moment has the slot: its state directory says so.
    fn is_promised(self, run_root: &Path, state_dir: &Path) -> bool {
        let owner = fs::read_to_string(self.claim_path(run_root)).unwrap_or_default();
        let owner = Path::new(owner.trim());
        owner != Path::new("")
            && owner != state_dir
            && Self::recorded(owner).is_ok_and(|recorded| recorded == Some(self))
    }

    fn lock(self, run_root: &Path, state_dir: &Path) -> Result<File, SlotError> {
        let path = self.claim_path(run_root);
        for _ in 0..LOCK_ATTEMPTS {
            // The last instance that leaves takes the directory with it.
            fs::create_dir_all(run_root).map_err(io_error("create", run_root))?;
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
            let mut file = match file {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(SlotError::Io { action: "open", path, source }),
            };
            if !try_lock(&file).map_err(io_error("lock", &path))? {
                let mut owner = String::new();
                file.read_to_string(&mut owner).map_err(io_error("read", &path))?;
                return Err(SlotError::InUse { slot: self.0, owner });
            }
            if !is_linked(&file).map_err(io_error("read", &path))? {
                continue;
            }
            let owner = state_dir.to_string_lossy();
            file.set_len(0)
                .and_then(|()| file.rewind())
                .and_then(|()| file.write_all(owner.as_bytes()))
                .map_err(io_error("write", &path))?;
            return Ok(file);
        }
        Err(SlotError::Unsettled { slot: self.0 })
    }

    /// Removes the files of the slots that no instance has any more, running or stopped, and the run directory when
    /// nothing else is in it.
    pub fn release_abandoned(run_root: &Path) -> Result<(), SlotError> {
        for slot in (0..SLOT_COUNT).map(Self) {
            let path = slot.claim_path(run_root);
            let file = match OpenOptions::new().read(true).write(true).open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(SlotError::Io { action: "open", path, source }),
            };
            if !try_lock(&file).map_err(io_error("lock", &path))? {
                continue;
            }
            // Under the lock, so that nobody takes the slot between the look and the removal.
            let linked = is_linked(&file).map_err(io_error("read", &path))?;
            if linked && !slot.is_promised(run_root, Path::new("")) {
                fs::remove_file(&path).map_err(io_error("remove", &path))?;
            }
        }
        match fs::remove_dir(run_root) {
            Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {
                Err(io_error("remove", run_root)(error))
            }
            _ => Ok(()),
        }
    }
}

/// Locks a file; false if another has it locked.
fn try_lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// The file still has a name.
fn is_linked(file: &File) -> io::Result<bool> {
    Ok(file.metadata()?.nlink() > 0)
}

/// A slot in use by this process. Dropping it, or the end of the process, unlocks it.
#[derive(Debug)]
pub struct SlotClaim {
    slot: Slot,
    _lock: File,
}

impl SlotClaim {
    /// The slot.
    pub fn slot(&self) -> Slot {
        self.slot
    }
}

/// An IPv4 range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    /// The first address.
    pub network: Ipv4Addr,
    /// The prefix length.
    pub prefix: u8,
}

impl Cidr {
    /// The mask of the prefix.
    pub fn mask(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0))
    }

    /// The range holds the address.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        (address.to_bits() ^ self.network.to_bits()) & self.mask().to_bits() == 0
    }

    fn overlaps(self, other: Self) -> bool {
        let wider = if self.prefix < other.prefix { self } else { other };
        wider.contains(self.network) && wider.contains(other.network)
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SlotError {
    let path = path.to_owned();
    move |source| SlotError::Io { action, path, source }
}

fn write_durably(path: &Path, content: &str) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests;
