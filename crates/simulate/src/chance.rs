//! Decisions that look random and are repeatable: a number for every question, from the seed and the question alone.

use jiff::SignedDuration;

use crate::span::Span;

/// A source of decisions. What is asked of it does not change it, so that no decision depends on the order of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(mixed(seed))
    }

    /// The decisions about something named.
    pub(crate) fn about(self, name: &str) -> Self {
        // FNV-1a: the standard library's hasher may change with its version, and a seed should not.
        let fold = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        Self(mixed(name.bytes().fold(0xcbf2_9ce4_8422_2325 ^ self.0, fold)))
    }

    /// The decisions about the `number`th of something.
    pub(crate) fn nth(self, number: u64) -> Self {
        Self(mixed(self.0 ^ mixed(number)))
    }

    /// A number of at least 0 and less than 1.
    pub(crate) fn share(self) -> f64 {
        // the 53 bits that a double holds
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A time within the span, all equally likely.
    pub(crate) fn within(self, span: Span) -> SignedDuration {
        span.at(self.share())
    }

    /// Two words for names that need to be unlike others.
    pub(crate) fn words(self) -> (u64, u64) {
        (self.0, mixed(self.0))
    }
}

/// One step of splitmix64: every bit of the outcome depends on every bit of the input.
fn mixed(value: u64) -> u64 {
    let mut value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_questions_have_equal_answers_and_others_spread() {
        let chance = Chance::new(7);
        assert_eq!(chance.about("a").nth(3), Chance::new(7).about("a").nth(3));
        assert_ne!(chance.about("a"), Chance::new(8).about("a"));
        assert_ne!(chance.about("a").nth(1), chance.about("a").nth(2));
        let shares: Vec<f64> = (0..10_000).map(|number| chance.about("pod").nth(number).share()).collect();
        assert!(shares.iter().all(|share| (0.0..1.0).contains(share)));
        for tenth in 0..10 {
            let low = f64::from(tenth) / 10.0;
            let count = shares.iter().filter(|share| (low..low + 0.1).contains(*share)).count();
            assert!((850..1150).contains(&count), "{count} of 10,000 in the tenth at {low}");
        }
    }
}
