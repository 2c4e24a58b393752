//! The ranges that cluster IPs come from: the configured one, and those of ServiceCIDRs.
//!
//! Ranges may overlap, so that a taken address is taken in every range that contains it. A range that is not ready, or on
//! its way out, keeps what is taken and gives nothing out.

use std::net::Ipv4Addr;

use super::{Block, bitmap::Bitmap};

/// Addresses of a range that are given out: more Services than that no cluster has, and a bitmap of them is 128 KiB.
const ADDRESSES_MAX: u32 = 1 << 20;

/// All ranges, the configured one first.
#[derive(Debug)]
pub(super) struct Ranges {
    ranges: Vec<Range>,
}

#[derive(Debug)]
struct Range {
    block: Block,
    taken: Bitmap,
    is_ready: bool,
}

impl Range {
    fn new(block: Block, is_ready: bool) -> Self {
        let addresses = block.addresses();
        // what users ask for by name comes from the lower band first, so that it seldom meets a dynamic one
        Self { block, taken: Bitmap::new(addresses, (addresses / 16).clamp(16, 256)), is_ready }
    }
}

impl Block {
    /// Addresses that can be given out: network and broadcast address are no one's.
    fn addresses(self) -> u32 {
        self.size().saturating_sub(2).min(ADDRESSES_MAX)
    }

    fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits().checked_sub(self.network.to_bits()).is_some_and(|offset| offset < self.size())
    }

    fn offset(self, address: Ipv4Addr) -> Option<u32> {
        let offset = address.to_bits().checked_sub(self.network.to_bits())?.checked_sub(1)?;
        (offset < self.addresses()).then_some(offset)
    }

    fn address(self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.to_bits() + 1 + offset)
    }
}

/// Why an address cannot be had, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("provided IP is already allocated")]
    Taken,
    #[error("the provided network does not match the current range")]
    Foreign,
    #[error("the provided IP ({address}) is not in the valid range. The range of valid IPs is {block}")]
    Reserved { address: Ipv4Addr, block: Block },
}

impl Ranges {
    pub(super) fn new(block: Block) -> Self {
        Self { ranges: vec![Range::new(block, true)] }
    }

    /// The same ranges with nothing taken.
    pub(super) fn emptied(&self) -> Self {
        Self { ranges: self.ranges.iter().map(|range| Range::new(range.block, range.is_ready)).collect() }
    }

    /// Whether the address could belong to a Service.
    pub(super) fn holds(&self, address: Ipv4Addr) -> bool {
        self.ranges.iter().any(|range| range.block.offset(address).is_some())
    }

    /// Takes an address that is known to be held.
    pub(super) fn take(&mut self, address: Ipv4Addr) {
        for range in &mut self.ranges {
            if let Some(offset) = range.block.offset(address) {
                range.taken.claim(offset);
            }
        }
    }

    pub(super) fn release(&mut self, address: Ipv4Addr) {
        for range in &mut self.ranges {
            if let Some(offset) = range.block.offset(address) {
                range.taken.release(offset);
            }
        }
    }

    /// Takes the address that somebody asks for.
    pub(super) fn claim(&mut self, address: Ipv4Addr) -> Result<(), Refused> {
        let ready = self.ranges.iter_mut().find(|range| range.is_ready && range.block.contains(address));
        let range = ready.ok_or(Refused::Foreign)?;
        let offset = range.block.offset(address).ok_or(Refused::Reserved { address, block: range.block })?;
        if !range.taken.claim(offset) {
            return Err(Refused::Taken);
        }
        self.take(address);
        Ok(())
    }

    /// Takes any address that is not `held` by somebody who asked nobody here; `None` when all ranges are full.
    pub(super) fn claim_any(&mut self, held: impl Fn(Ipv4Addr) -> bool) -> Option<Ipv4Addr> {
        for index in 0..self.ranges.len() {
            let range = &mut self.ranges[index];
            if !range.is_ready {
                continue;
            }
            let mut skipped = Vec::new();
            let found = loop {
                let Some(offset) = range.taken.claim_any() else { break None };
                if !held(range.block.address(offset)) {
                    break Some(range.block.address(offset));
                }
                skipped.push(offset);
            };
            skipped.into_iter().for_each(|offset| range.taken.release(offset));
            if let Some(address) = found {
                self.take(address);
                return Some(address);
            }
        }
        None
    }

    /// Takes over what the ServiceCIDRs say: block, and whether it is ready. `held` is what Services hold.
    pub(super) fn follow(&mut self, wanted: &[(Block, bool)], held: &[Ipv4Addr]) {
        let configured = self.ranges[0].block;
        let readiness = |block: Block| {
            let said: Vec<bool> = wanted.iter().filter(|(other, _)| *other == block).map(|(_, ready)| *ready).collect();
            (!said.is_empty()).then(|| said.contains(&true))
        };
        self.ranges.retain(|range| range.block == configured || readiness(range.block).is_some());
        for range in &mut self.ranges {
            range.is_ready = readiness(range.block).unwrap_or(true);
        }
        for (block, _) in wanted {
            if self.ranges.iter().any(|range| range.block == *block) {
                continue;
            }
            let mut range = Range::new(*block, readiness(*block).unwrap_or(true));
            // what is claimed at this moment is in the ranges there are, and nowhere else yet
            for offset in 0..block.addresses() {
                let address = block.address(offset);
                let is_taken = |other: &Range| other.block.offset(address).is_some_and(|at| other.taken.is_taken(at));
                if self.ranges.iter().any(is_taken) {
                    range.taken.claim(offset);
                }
            }
            self.ranges.push(range);
        }
        held.iter().for_each(|address| self.take(*address));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(network: [u8; 4], prefix: u8) -> Block {
        Block { network: network.into(), prefix }
    }

    #[test]
    fn an_address_is_taken_in_every_range_that_contains_it() {
        let mut ranges = Ranges::new(block([10, 0, 0, 0], 24));
        let first = ranges.claim_any(|_| false).unwrap();
        ranges.follow(&[(block([10, 0, 0, 0], 16), true)], &[]);
        assert_eq!(ranges.claim(first), Err(Refused::Taken));
        let wide = Ipv4Addr::new(10, 0, 9, 9);
        assert_eq!(ranges.claim(wide), Ok(()));
        assert_eq!(ranges.claim(wide), Err(Refused::Taken));
        ranges.release(first);
        assert_eq!(ranges.claim(first), Ok(()));
        ranges.follow(&[], &[first]);
        assert_eq!(ranges.claim(wide), Err(Refused::Foreign), "its range has gone");
        assert_eq!(ranges.claim(first), Err(Refused::Taken));
    }

    #[test]
    fn a_range_that_is_not_ready_gives_nothing_out() {
        let mut ranges = Ranges::new(block([10, 0, 0, 0], 29));
        let other = block([10, 1, 0, 0], 29);
        ranges.follow(&[(other, false)], &[]);
        assert_eq!(ranges.claim(Ipv4Addr::new(10, 1, 0, 1)), Err(Refused::Foreign));
        let all: Vec<_> = std::iter::from_fn(|| ranges.claim_any(|_| false)).collect();
        assert_eq!(all.len(), 6, "two of eight addresses are no one's");
        ranges.follow(&[(other, true)], &[]);
        assert_eq!(ranges.claim_any(|_| false), Some(Ipv4Addr::new(10, 1, 0, 1)));
        let reserved = Refused::Reserved { address: Ipv4Addr::new(10, 1, 0, 7), block: other };
        assert_eq!(ranges.claim(Ipv4Addr::new(10, 1, 0, 7)), Err(reserved));
    }

    #[test]
    fn what_others_hold_is_passed_over_and_stays_free_for_later() {
        let mut ranges = Ranges::new(block([10, 0, 0, 0], 30));
        let held = Ipv4Addr::new(10, 0, 0, 1);
        assert_eq!(ranges.claim_any(|address| address == held), Some(Ipv4Addr::new(10, 0, 0, 2)));
        assert_eq!(ranges.claim_any(|address| address == held), None);
        assert_eq!(ranges.claim_any(|_| false), Some(held));
    }
}
