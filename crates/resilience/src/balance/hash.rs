//! A hash that is the same everywhere.

use crate::random::mix;

/// FNV-1a's numbers.
const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// Hashes bytes so that every process, machine and version agrees: FNV-1a, with its bits spread afterwards. Whoever chooses
/// the bytes can choose the hash; that costs balance, and nothing else.
pub fn hash(bytes: &[u8], seed: u64) -> u64 {
    mix(bytes.iter().fold(BASIS ^ mix(seed), |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_changes() {
        // an upgrade that changed these would move every session
        assert_eq!(hash(b"", 0), 0xf52a_15e9_a9b5_e89b);
        assert_eq!(hash(b"user-42", 7), hash(b"user-42", 7));
        assert_ne!(hash(b"user-42", 7), hash(b"user-42", 8));
    }

    #[test]
    fn keys_that_differ_little_are_spread() {
        let mut counts = [0u32; 16];
        for n in 0..16_000 {
            counts[(hash(format!("user-{n}").as_bytes(), 0) >> 60) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }
}
