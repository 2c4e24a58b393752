//! When nodes fail by themselves, and for how long.

use jiff::{SignedDuration, Timestamp};

use crate::{chance::Chance, span::Span};

/// How often a node falls silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outages {
    /// How long a node works before it fails.
    pub every: Span,
    /// How long it is silent then.
    pub lasting: Span,
}

/// The outages of one node, one after the other.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    outages: Outages,
    chance: Chance,
    number: u64,
    from: Timestamp,
    until: Timestamp,
}

impl Schedule {
    pub(crate) fn new(outages: Outages, chance: Chance, now: Timestamp) -> Self {
        let mut new = Self { outages, chance, number: 0, from: now, until: now };
        new.next();
        new
    }

    /// Plans the outage after the present one.
    fn next(&mut self) {
        let chance = self.chance.nth(self.number);
        let later = |time: Timestamp, wait: SignedDuration| time.checked_add(wait).unwrap_or(Timestamp::MAX);
        self.from = later(self.until, chance.about("every").within(self.outages.every));
        self.until = later(self.from, chance.about("lasting").within(self.outages.lasting));
        self.number += 1;
    }

    /// Whether the node is silent at `now`; time must not go back.
    pub(crate) fn is_silent(&mut self, now: Timestamp) -> bool {
        // a time that jumped ahead, or a span of no time, must not hold this up
        const OUTAGES_PASSED_MAX: usize = 1000;
        for _ in 0..OUTAGES_PASSED_MAX {
            if now < self.until {
                break;
            }
            self.next();
        }
        now >= self.from && now < self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_works_and_is_silent_in_turn_and_alike_for_a_seed() {
        let outages = Outages { every: "60s..120s".parse().unwrap(), lasting: "10s..20s".parse().unwrap() };
        let at = |second: i64| Timestamp::from_second(1_000_000 + second).unwrap();
        let course = |seed| -> Vec<bool> {
            let mut schedule = Schedule::new(outages, Chance::new(seed), at(0));
            (0..3600).map(|second| schedule.is_silent(at(second))).collect()
        };
        let silent = course(1);
        assert_eq!(silent, course(1));
        assert_ne!(silent, course(2));
        let mut stretches: Vec<(bool, usize)> = Vec::new();
        for now in silent {
            match stretches.last_mut() {
                Some((kind, length)) if *kind == now => *length += 1,
                _ => stretches.push((now, 1)),
            }
        }
        assert!(stretches.len() > 40);
        for (silent, length) in &stretches[..stretches.len() - 1] {
            let range = if *silent { 9..=21 } else { 59..=121 };
            assert!(range.contains(length), "{silent} for {length} s");
        }
    }

    #[test]
    fn spans_of_no_time_end() {
        let never = Outages { every: Span::milliseconds(0, 0), lasting: Span::milliseconds(0, 0) };
        let now = Timestamp::from_second(5).unwrap();
        assert!(!Schedule::new(never, Chance::new(0), now).is_silent(now));
    }
}
