//! Addresses for simulated pods: each is given to one pod at a time.

use std::{collections::BTreeSet, net::Ipv4Addr, str::FromStr};

/// A range of IPv4 addresses, as `100.64.0.0/10`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    first: u32,
    last: u32,
}

/// Why a text is no range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a range of IPv4 addresses such as 100.64.0.0/10, with a prefix of 8 to 30")]
pub struct RangeError(String);

impl FromStr for Range {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let parsed = text.split_once('/').and_then(|(address, prefix)| {
            let address = u32::from(address.parse::<Ipv4Addr>().ok()?);
            let prefix = prefix.parse::<u32>().ok().filter(|prefix| (8..=30).contains(prefix))?;
            let host = u32::MAX >> prefix;
            // network and broadcast address are nobody's
            (address & host == 0).then_some(Self { first: address + 1, last: (address | host) - 1 })
        });
        parsed.ok_or_else(|| RangeError(text.to_owned()))
    }
}

impl Range {
    /// The shared address space of RFC 6598, which no network routes: 4 million pods.
    pub const PODS: Self = Self { first: 0x6440_0001, last: 0x647f_fffe };
    /// The range of RFC 2544 for tests: 131,070 nodes.
    pub(crate) const NODES: Self = Self { first: 0xc612_0001, last: 0xc613_fffe };

    /// The address with a number, counted round.
    pub(crate) fn nth(self, number: u32) -> Ipv4Addr {
        let size = u64::from(self.last - self.first) + 1;
        // less than the size, which is less than 2^32
        Ipv4Addr::from(self.first + (u64::from(number) % size) as u32)
    }

    fn contains(self, address: u32) -> bool {
        (self.first..=self.last).contains(&address)
    }
}

/// Which addresses of a range are taken.
#[derive(Debug)]
pub(crate) struct Addresses {
    range: Range,
    taken: BTreeSet<u32>,
    next: u32,
}

impl Addresses {
    pub(crate) fn new(range: Range) -> Self {
        Self { range, taken: BTreeSet::new(), next: range.first }
    }

    /// An address that nobody has, the one longest unused first; none when all are taken.
    pub(crate) fn take(&mut self) -> Option<Ipv4Addr> {
        let free = |from: u32, to: u32| {
            let mut candidate = from;
            for taken in self.taken.range(from..=to) {
                if *taken > candidate {
                    break;
                }
                candidate = taken.checked_add(1)?;
            }
            (candidate <= to).then_some(candidate)
        };
        let found = free(self.next, self.range.last).or_else(|| free(self.range.first, self.next))?;
        self.taken.insert(found);
        self.next = if found == self.range.last { self.range.first } else { found + 1 };
        Some(found.into())
    }

    /// Notes that a pod has this address from an earlier run; `false` when another has it.
    pub(crate) fn reserve(&mut self, address: Ipv4Addr) -> bool {
        !self.range.contains(address.into()) || self.taken.insert(address.into())
    }

    /// Gives an address back.
    pub(crate) fn free(&mut self, address: Ipv4Addr) {
        self.taken.remove(&address.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_or_refused() {
        assert_eq!("100.64.0.0/10".parse(), Ok(Range::PODS));
        assert_eq!("198.18.0.0/15".parse(), Ok(Range::NODES));
        for text in ["", "10.0.0.0", "10.0.0.1/8", "10.0.0.0/31", "10.0.0.0/7", "fd00::/8", "10.0.0.0/x"] {
            assert_eq!(text.parse::<Range>(), Err(RangeError(text.to_owned())));
        }
    }

    #[test]
    fn an_address_is_given_to_one_at_a_time_and_again_as_late_as_may_be() {
        let mut addresses = Addresses::new("10.0.0.0/29".parse().unwrap());
        assert!(addresses.reserve("10.0.0.2".parse().unwrap()));
        assert!(!addresses.reserve("10.0.0.2".parse().unwrap()));
        assert!(addresses.reserve("192.168.0.1".parse().unwrap()), "what is outside is nobody's concern");
        let mut take = || addresses.take().map(|address| address.octets()[3]);
        assert_eq!([take(), take(), take()], [Some(1), Some(3), Some(4)]);
        addresses.free("10.0.0.3".parse().unwrap());
        let mut take = || addresses.take().map(|address| address.octets()[3]);
        assert_eq!([take(), take(), take(), take()], [Some(5), Some(6), Some(3), None]);
    }
}
