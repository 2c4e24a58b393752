//! Copies of requests to another backend.

use std::sync::Arc;

use super::backend::Backend;

/// Where copies go, and of which part of the requests.
#[derive(Clone, Debug)]
pub struct Mirror {
    /// Gets the copies; its answers are thrown away.
    pub backend: Arc<Backend>,
    /// Whether the backend is spoken to in HTTP/2, whatever its port says.
    pub http2: bool,
    /// Numerator and denominator of the part.
    pub part: (u32, u32),
}

impl Mirror {
    /// Whether the request that drew this number is copied.
    pub fn takes(&self, random: u64) -> bool {
        let (numerator, denominator) = self.part;
        random % u64::from(denominator.max(1)) < u64::from(numerator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_part_is_exact() {
        for (part, expected) in [((0, 100), 0), ((20, 100), 200), ((1, 2), 500), ((7, 1000), 7), ((100, 100), 1000)] {
            let mirror = Mirror { backend: Backend::new("b"), http2: false, part };
            assert_eq!((0..1000).filter(|random| mirror.takes(*random)).count(), expected, "{part:?}");
        }
    }
}
