//! Sets of completion indexes, kept as sorted intervals, in the text form of a Job's status: `0,2,4-7`.

use std::fmt;

/// First and last index of an interval.
type Interval = (u32, u32);

/// A set of indexes; intervals neither touch nor overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Indexes(Vec<Interval>);

impl Indexes {
    /// Reads the text form, leaving out what is no index of `completions`. What cannot be read is passed over: the text
    /// is the controller's own, and a damaged part of it must not undo the rest.
    pub(super) fn parse(text: &str, completions: u32) -> Self {
        let interval = |part: &str| -> Option<Interval> {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): Interval = (first.parse().ok()?, last.parse().ok()?);
            (first <= last && first < completions).then(|| (first, last.min(completions - 1)))
        };
        Self::of(text.split(',').filter_map(interval).collect())
    }

    /// The set of these indexes.
    pub(super) fn from_each(indexes: impl IntoIterator<Item = u32>) -> Self {
        Self::of(indexes.into_iter().map(|index| (index, index)).collect())
    }

    fn of(mut intervals: Vec<Interval>) -> Self {
        intervals.sort_unstable();
        let mut joined: Vec<Interval> = Vec::with_capacity(intervals.len());
        for (first, last) in intervals {
            match joined.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
                _ => joined.push((first, last)),
            }
        }
        Self(joined)
    }

    /// What is in one of the sets.
    pub(super) fn union(&self, other: &Self) -> Self {
        Self::of(self.0.iter().chain(&other.0).copied().collect())
    }

    /// How many indexes are in both sets.
    pub(super) fn overlap(&self, other: &Self) -> usize {
        let (mut at, mut with, mut count) = (0, 0, 0);
        while let (Some(one), Some(two)) = (self.0.get(at), other.0.get(with)) {
            let (first, last) = (one.0.max(two.0), one.1.min(two.1));
            if first <= last {
                count += (last - first + 1) as usize;
            }
            if one.1 <= two.1 { at += 1 } else { with += 1 }
        }
        count
    }

    /// How many indexes are in the set.
    pub(super) fn total(&self) -> usize {
        self.0.iter().map(|(first, last)| (last - first + 1) as usize).sum()
    }

    /// Whether the index is in the set.
    pub(super) fn has(&self, index: u32) -> bool {
        let at = self.0.partition_point(|(_, last)| *last < index);
        self.0.get(at).is_some_and(|(first, _)| *first <= index)
    }

    /// The lowest `count` indexes below `completions` that are not in the set; costs as much as it finds and has.
    pub(super) fn first_absent(&self, count: usize, completions: u32) -> Vec<u32> {
        let mut absent = Vec::new();
        let mut candidate = 0;
        for (first, last) in self.0.iter().copied().chain([(completions, completions)]) {
            let free = (candidate..first.min(completions)).take(count - absent.len());
            absent.extend(free);
            candidate = candidate.max(last.saturating_add(1));
        }
        absent
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_form_is_read_within_the_completions_and_written_shortest() {
        for (text, completions, total, again) in [
            ("", 5, 0, ""),
            ("0", 5, 1, "0"),
            ("0,1", 5, 2, "0,1"),
            ("0,1,2", 5, 3, "0-2"),
            ("1-3,5-9", 8, 6, "1-3,5-7"),
            ("3,9", 4, 1, "3"),
            ("a,2,3-x,4", 9, 2, "2,4"),
            ("7-5,1-2,2-4", 9, 4, "1-4"),
        ] {
            let indexes = Indexes::parse(text, completions);
            assert_eq!((indexes.total(), indexes.to_string().as_str()), (total, again), "{text}");
        }
    }

    #[test]
    fn sets_are_joined_compared_and_filled_up() {
        let some = Indexes::parse("1-3,7", 10);
        assert_eq!(some.union(&Indexes::from_each([4, 0, 9, 7])).to_string(), "0-4,7,9");
        assert_eq!([0, 1, 3, 4, 7, 8].map(|index| some.has(index)), [false, true, true, false, true, false]);
        assert_eq!(some.overlap(&Indexes::parse("2-8", 10)), 3);
        assert_eq!(some.overlap(&Indexes::parse("4-6", 10)), 0);
        assert_eq!(some.first_absent(3, 10), [0, 4, 5]);
        assert_eq!(some.first_absent(9, 8), [0, 4, 5, 6]);
        assert_eq!(some.first_absent(0, 8), [0; 0]);
        assert_eq!(Indexes::default().first_absent(2, 1), [0]);
    }
}
