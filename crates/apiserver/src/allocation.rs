//! Cluster IPs and node ports of Services: unique while the Service lives.
//!
//! What is taken is kept in bitmaps, rebuilt at start from the stored Services. Writing a Service claims what it needs
//! first; a [`Claim`] that is dropped gives everything back, one that is confirmed after the commit keeps it and frees
//! what the change gave up.

use std::{net::Ipv4Addr, ops::RangeInclusive, sync::Arc};

use parking_lot::Mutex;
use serde_json::{Value, json};
use strategy::{
    field_error::{FieldErrors, Path},
    has_node_ports, needs_health_check_port, tree,
};

mod bitmap;
mod ranges;
mod turns;

use bitmap::Bitmap;
use ranges::{Ranges, Refused};
pub(crate) use turns::AllocationTurns;

/// Node ports when nothing else is configured.
pub const NODE_PORTS: RangeInclusive<u16> = 30000..=32767;

/// An IPv4 block in prefix notation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// First address.
    pub network: Ipv4Addr,
    /// Length of the prefix.
    pub prefix: u8,
}

impl Block {
    /// Addresses in the block, network and broadcast address included.
    fn size(self) -> u32 {
        1u32.checked_shl(32 - u32::from(self.prefix)).unwrap_or(u32::MAX)
    }
}

impl std::fmt::Display for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

/// Hands out cluster IPs and node ports.
#[derive(Debug)]
pub struct ServiceAllocator {
    block: Block,
    ports: RangeInclusive<u16>,
    taken: Mutex<Taken>,
}

#[derive(Debug)]
struct Taken {
    addresses: Ranges,
    ports: Bitmap,
}

impl Taken {
    fn nothing(addresses: Ranges, ports: &RangeInclusive<u16>) -> Self {
        let port_count = u32::from(*ports.end()).saturating_sub(u32::from(*ports.start())) + 1;
        Taken { addresses, ports: Bitmap::new(port_count, (port_count / 32).clamp(16, 128)) }
    }
}

/// Why a Service cannot have what it needs.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It asks for what it cannot have.
    #[error("{0}")]
    Fields(FieldErrors),
    /// There is nothing left, or not what its load balancer is to ask for.
    #[error("{0}")]
    Failed(String),
}

/// What was found wrong so far.
#[derive(Debug, Default)]
struct Problems {
    fields: FieldErrors,
    failed: Option<String>,
}

impl Problems {
    fn fail(&mut self, message: String) {
        self.failed.get_or_insert(message);
    }

    fn into_result(self) -> Result<(), Refusal> {
        match self.failed {
            _ if !self.fields.is_empty() => Err(Refusal::Fields(self.fields)),
            Some(message) => Err(Refusal::Failed(message)),
            None => Ok(()),
        }
    }
}

/// What one Service holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Holding {
    addresses: Vec<Ipv4Addr>,
    ports: Vec<u32>,
}

/// What a write took and will free. Dropping it undoes the taking; [`Claim::confirm`] makes it final.
#[derive(Debug)]
#[must_use = "a dropped claim gives back what it took"]
pub struct Claim {
    allocator: Arc<ServiceAllocator>,
    took: Holding,
    frees: Holding,
}

impl Claim {
    /// Addresses the Service did not have before.
    pub(crate) fn taken_addresses(&self) -> &[Ipv4Addr] {
        &self.took.addresses
    }

    /// Addresses the Service will not have any more.
    pub(crate) fn freed_addresses(&self) -> &[Ipv4Addr] {
        &self.frees.addresses
    }

    /// The write is committed: keeps what was taken, frees what it gave up.
    pub fn confirm(mut self) {
        self.took = std::mem::take(&mut self.frees);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.allocator.free(&self.took);
    }
}

impl ServiceAllocator {
    /// An allocator over `block` and `ports` with nothing taken.
    pub fn new(block: Block, ports: RangeInclusive<u16>) -> Arc<Self> {
        let taken = Taken::nothing(Ranges::new(block), &ports);
        Arc::new(Self { block, taken: Mutex::new(taken), ports })
    }

    /// The block of cluster IPs.
    pub fn block(&self) -> Block {
        self.block
    }

    /// Takes what stored Services hold.
    pub fn load<'a>(&self, services: impl IntoIterator<Item = &'a Value>) {
        self.load_into(&mut self.taken.lock(), services);
    }

    /// Takes what stored Services hold, and frees everything else. Nothing may be claimed meanwhile.
    pub(crate) fn reload<'a>(&self, services: impl IntoIterator<Item = &'a Value>) {
        let mut current = self.taken.lock();
        let mut taken = Taken::nothing(current.addresses.emptied(), &self.ports);
        self.load_into(&mut taken, services);
        *current = taken;
    }

    /// Takes over the ranges of ServiceCIDRs, given with whether they are ready.
    pub(crate) fn follow<'a>(&self, ranges: &[(Block, bool)], services: impl IntoIterator<Item = &'a Value>) {
        let held: Vec<Ipv4Addr> = services.into_iter().filter_map(address_of).collect();
        self.taken.lock().addresses.follow(ranges, &held);
    }

    fn load_into<'a>(&self, taken: &mut Taken, services: impl IntoIterator<Item = &'a Value>) {
        for service in services {
            let holding = self.holding(service);
            holding.addresses.iter().for_each(|address| taken.addresses.take(*address));
            holding.ports.iter().for_each(|offset| {
                taken.ports.claim(*offset);
            });
        }
    }

    /// Claims what `service` needs beyond what `old` holds, writing what was chosen into it. `reserved` tells of addresses
    /// that somebody holds without a Service.
    pub fn allocate(
        self: &Arc<Self>,
        service: &mut Value,
        old: Option<&Value>,
        reserved: &dyn Fn(Ipv4Addr) -> bool,
    ) -> Result<Claim, Refusal> {
        let held = old.map(|old| self.holding(old)).unwrap_or_default();
        let mut claim = Claim { allocator: Arc::clone(self), took: Holding::default(), frees: Holding::default() };
        let mut problems = Problems::default();
        {
            let mut taken = self.taken.lock();
            claim_address(service, &held, &mut claim.took, (&mut taken.addresses, reserved), &mut problems);
            self.claim_ports(service, &held, &mut claim.took, &mut taken.ports, &mut problems);
            self.claim_health_check_port(service, &held, &mut claim.took, &mut taken.ports, &mut problems);
        }
        problems.into_result()?;
        let holds = self.holding(service);
        claim.frees = Holding {
            addresses: held.addresses.into_iter().filter(|address| !holds.addresses.contains(address)).collect(),
            ports: held.ports.into_iter().filter(|offset| !holds.ports.contains(offset)).collect(),
        };
        Ok(claim)
    }

    /// Frees what a deleted Service held.
    pub fn release(&self, service: &Value) {
        self.free(&self.holding(service));
    }

    fn free(&self, holding: &Holding) {
        if holding.addresses.is_empty() && holding.ports.is_empty() {
            return;
        }
        let mut taken = self.taken.lock();
        holding.addresses.iter().for_each(|address| taken.addresses.release(*address));
        holding.ports.iter().for_each(|offset| taken.ports.release(*offset));
    }

    fn claim_ports(
        &self,
        service: &mut Value,
        held: &Holding,
        took: &mut Holding,
        bits: &mut Bitmap,
        problems: &mut Problems,
    ) {
        let Some(spec) = service.get_mut("spec").filter(|spec| has_node_ports(spec)) else { return };
        let first = u32::from(*self.ports.start());
        // Ports named in the object come first, so that no dynamic choice takes them away.
        let mut seen: Vec<(i64, u32)> = Vec::new();
        for (index, port) in tree::list(spec, "ports").iter().enumerate() {
            let Some(wanted) = tree::int(port, "nodePort").filter(|port| *port != 0) else { continue };
            match self.claim_port(wanted, held, took, bits) {
                Ok(offset) => seen.push((tree::int(port, "port").unwrap_or_default(), offset)),
                Err(message) => {
                    let ports = SPEC.child("ports");
                    problems.fields.invalid(&ports.index(index).child("nodePort"), wanted, message);
                }
            }
        }
        if !allocates_node_ports(spec) {
            return;
        }
        for port in tree::list_mut(spec, "ports") {
            if tree::int(port, "nodePort").is_some_and(|port| port != 0) {
                continue;
            }
            // TCP and UDP of one port number share the node port.
            let number = tree::int(port, "port").unwrap_or_default();
            let shared = seen.iter().find(|(other, _)| *other == number).map(|(_, offset)| *offset);
            let Some(offset) = shared.or_else(|| bits.claim_any().inspect(|offset| took.ports.push(*offset))) else {
                return problems.fail("failed to allocate a nodePort: range is full".to_owned());
            };
            seen.push((number, offset));
            if let Some(port) = port.as_object_mut() {
                port.insert("nodePort".to_owned(), (first + offset).into());
            }
        }
    }

    /// Claims the port by which load balancers ask each node.
    fn claim_health_check_port(
        &self,
        service: &mut Value,
        held: &Holding,
        took: &mut Holding,
        bits: &mut Bitmap,
        problems: &mut Problems,
    ) {
        let Some(spec) = service.get_mut("spec").filter(|spec| needs_health_check_port(spec)) else { return };
        if let Some(wanted) = tree::int(spec, "healthCheckNodePort").filter(|port| *port != 0) {
            if let Err(message) = self.claim_port(wanted, held, took, bits) {
                problems.fail(format!("failed to allocate requested HealthCheck NodePort {wanted}: {message}"));
            }
            return;
        }
        let Some(offset) = bits.claim_any() else {
            return problems.fail("failed to allocate a HealthCheck NodePort 0: range is full".to_owned());
        };
        took.ports.push(offset);
        if let Some(spec) = spec.as_object_mut() {
            spec.insert("healthCheckNodePort".to_owned(), (u32::from(*self.ports.start()) + offset).into());
        }
    }

    /// Claims one port that the object names; its offset when the Service may have it.
    fn claim_port(&self, wanted: i64, held: &Holding, took: &mut Holding, bits: &mut Bitmap) -> Result<u32, String> {
        let Some(offset) = self.port_offset(wanted) else {
            let range = format!("{}-{}", self.ports.start(), self.ports.end());
            return Err(format!("provided port is not in the valid range. The range of valid ports is {range}"));
        };
        if held.ports.contains(&offset) || took.ports.contains(&offset) {
            return Ok(offset);
        }
        if bits.claim(offset) {
            took.ports.push(offset);
            return Ok(offset);
        }
        Err("provided port is already allocated".to_owned())
    }

    fn holding(&self, service: &Value) -> Holding {
        let spec = service.get("spec").unwrap_or(&Value::Null);
        let mut holding = Holding { addresses: address_of(service).into_iter().collect(), ports: Vec::new() };
        let ports = tree::list(spec, "ports").iter().filter_map(|port| tree::int(port, "nodePort"));
        for port in ports.chain(tree::int(spec, "healthCheckNodePort")) {
            if let Some(offset) = self.port_offset(port)
                && !holding.ports.contains(&offset)
            {
                holding.ports.push(offset);
            }
        }
        holding
    }

    fn port_offset(&self, port: i64) -> Option<u32> {
        let port = u16::try_from(port).ok().filter(|port| self.ports.contains(port))?;
        Some(u32::from(port) - u32::from(*self.ports.start()))
    }
}

const SPEC: Path<'static> = Path::new("spec");

/// The address a Service holds.
pub(crate) fn address_of(service: &Value) -> Option<Ipv4Addr> {
    let spec = service.get("spec")?;
    if tree::text(spec, "type") == "ExternalName" { None } else { tree::text(spec, "clusterIP").parse().ok() }
}

fn claim_address(
    service: &mut Value,
    held: &Holding,
    took: &mut Holding,
    (addresses, reserved): (&mut Ranges, &dyn Fn(Ipv4Addr) -> bool),
    problems: &mut Problems,
) {
    let spec = service.get("spec").unwrap_or(&Value::Null);
    let wanted = tree::text(spec, "clusterIP");
    if tree::text(spec, "type") == "ExternalName" || wanted == "None" {
        return;
    }
    let address = if wanted.is_empty() {
        let Some(address) = addresses.claim_any(reserved) else {
            return problems.fail("failed to allocate a serviceIP: range is full".to_owned());
        };
        address
    } else {
        let claimed = match wanted.parse::<Ipv4Addr>() {
            Err(_) => Err(Refused::Foreign),
            Ok(address) if held.addresses.contains(&address) => return,
            Ok(address) if addresses.holds(address) && reserved(address) => Err(Refused::Taken),
            Ok(address) => addresses.claim(address).map(|()| address),
        };
        match claimed {
            Ok(address) => address,
            Err(reason) => {
                let message = format!("failed to allocate IP {wanted}: {reason}");
                problems.fields.invalid(&SPEC.child("clusterIPs"), json!([wanted]), message);
                return;
            }
        }
    };
    took.addresses.push(address);
    let address = address.to_string();
    if let Some(spec) = tree::map_mut(service, "spec") {
        spec.insert("clusterIPs".to_owned(), json!([address]));
        spec.insert("clusterIP".to_owned(), address.into());
    }
}

/// Whether ports are opened that the Service does not name.
fn allocates_node_ports(spec: &Value) -> bool {
    let is_asked = spec.get("allocateLoadBalancerNodePorts").and_then(Value::as_bool) != Some(false);
    has_node_ports(spec) && (is_asked || tree::text(spec, "type") == "NodePort")
}

#[cfg(test)]
mod tests;
