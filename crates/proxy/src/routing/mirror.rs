//! Copies of requests to another backend.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::backend::Backend;

/// Where copies go, and of which part of the requests. Clones count together.
#[derive(Clone, Debug)]
pub struct Mirror {
    /// Gets the copies; its answers are thrown away.
    pub backend: Arc<Backend>,
    /// Whether the backend is spoken to in HTTP/2, whatever its port says.
    pub http2: bool,
    /// Numerator and denominator of the part.
    part: (u32, u32),
    /// How many requests there were.
    seen: Arc<AtomicU64>,
}

impl Mirror {
    /// Copies of `part`, a numerator and its denominator, of the requests.
    pub fn new(backend: Arc<Backend>, http2: bool, part: (u32, u32)) -> Self {
        Mirror { backend, http2, part, seen: Arc::default() }
    }

    /// Whether the next request is copied. They are counted and not drawn: of any run of requests the part is copied, give
    /// or take one.
    pub fn takes_next(&self) -> bool {
        let (numerator, denominator) = (u64::from(self.part.0), u64::from(self.part.1.max(1)));
        // within one round, so that the products stay far from their end
        let turn = self.seen.fetch_add(1, Ordering::Relaxed) % denominator;
        (turn + 1) * numerator / denominator > turn * numerator / denominator
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_part_is_exact_and_evenly_spread() {
        for (part, expected) in [((0, 100), 0), ((20, 100), 200), ((1, 2), 500), ((7, 1000), 7), ((100, 100), 1000)] {
            let mirror = Mirror::new(Backend::new("b"), false, part);
            let taken: Vec<usize> = (0..1000).filter(|_| mirror.takes_next()).collect();
            assert_eq!(taken.len(), expected, "{part:?}");
            let even = |half: usize| taken.iter().filter(|n| **n / 500 == half).count();
            assert!(even(0).abs_diff(even(1)) <= 1, "{part:?}");
        }
    }
}
