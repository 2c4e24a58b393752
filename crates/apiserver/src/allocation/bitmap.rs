//! A set of taken offsets with a cheap search for a free one.

/// Which of `size` offsets are taken.
#[derive(Debug)]
pub(super) struct Bitmap {
    words: Vec<u64>,
    size: u32,
    /// Below this offset nothing is chosen while there is anything above.
    static_band: u32,
    /// Where the next search begins, so that a freed offset is not handed out again at once.
    cursor: u32,
}

impl Bitmap {
    /// All free. A band that would leave nothing above it is no band.
    pub(super) fn new(size: u32, static_band: u32) -> Self {
        let static_band = if static_band >= size { 0 } else { static_band };
        Self { words: vec![0; size.div_ceil(64) as usize], size, static_band, cursor: static_band }
    }

    /// Whether `offset` is taken.
    pub(super) fn is_taken(&self, offset: u32) -> bool {
        self.words[(offset / 64) as usize] >> (offset % 64) & 1 == 1
    }

    /// Takes `offset`; false when it is taken or out of range.
    pub(super) fn claim(&mut self, offset: u32) -> bool {
        if offset >= self.size || self.is_taken(offset) {
            return false;
        }
        self.words[(offset / 64) as usize] |= 1 << (offset % 64);
        true
    }

    /// Takes some free offset, from above the static band when possible.
    pub(super) fn claim_any(&mut self) -> Option<u32> {
        let offset = self
            .first_free(self.cursor, self.size)
            .or_else(|| self.first_free(self.static_band, self.cursor))
            .or_else(|| self.first_free(0, self.static_band))?;
        self.claim(offset);
        if offset >= self.static_band {
            self.cursor = if offset + 1 < self.size { offset + 1 } else { self.static_band };
        }
        Some(offset)
    }

    /// Frees `offset`.
    pub(super) fn release(&mut self, offset: u32) {
        if offset < self.size {
            self.words[(offset / 64) as usize] &= !(1 << (offset % 64));
        }
    }

    /// The first free offset in `from..to`, a word at a time.
    fn first_free(&self, from: u32, to: u32) -> Option<u32> {
        let mut offset = from;
        while offset < to {
            let free = !self.words[(offset / 64) as usize] >> (offset % 64);
            if free == 0 {
                offset = (offset / 64 + 1) * 64;
                continue;
            }
            offset += free.trailing_zeros();
            return (offset < to).then_some(offset);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_handed_out_once_and_the_band_last() {
        let mut bitmap = Bitmap::new(130, 16);
        let taken: Vec<u32> = std::iter::from_fn(|| bitmap.claim_any()).collect();
        assert_eq!(taken, (16..130).chain(0..16).collect::<Vec<_>>());
        bitmap.release(77);
        assert!(!bitmap.claim(78));
        assert_eq!(bitmap.claim_any(), Some(77));
        assert_eq!(bitmap.claim_any(), None);
        assert!(!bitmap.claim(130));
    }

    #[test]
    fn a_freed_offset_rests() {
        let mut bitmap = Bitmap::new(64, 0);
        assert_eq!(bitmap.claim_any(), Some(0));
        bitmap.release(0);
        assert_eq!(bitmap.claim_any(), Some(1));
    }
}
