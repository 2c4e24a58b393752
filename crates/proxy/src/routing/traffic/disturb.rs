//! Faults on purpose, to see whether clients bear them.

use std::time::Duration;

use http::StatusCode;

/// A million parts: percentages have fractions.
const WHOLE: u64 = 1_000_000;

/// A part of the requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part(u64);

impl Part {
    /// Out of percent: nothing below 0, all above 100.
    pub fn percent(percent: f64) -> Self {
        Part((percent.clamp(0.0, 100.0) * (WHOLE / 100) as f64).round() as u64)
    }

    fn takes(self, random: u64) -> bool {
        random % WHOLE < self.0
    }
}

/// What clients have to bear.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disturbance {
    /// How long these requests wait before they go on.
    pub delay: Option<(Part, Duration)>,
    /// What these requests are answered with.
    pub abort: Option<(Part, Abort)>,
}

/// An answer in place of a backend's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abort {
    /// This status.
    Status(StatusCode),
    /// This code of gRPC.
    Call(u16),
}

impl Disturbance {
    /// How long a request waits, and what it is answered with then; by two draws, for each must not decide the other.
    pub fn of(&self, draws: [u64; 2]) -> (Duration, Option<Abort>) {
        let delay = self.delay.filter(|(part, _)| part.takes(draws[0])).map_or(Duration::ZERO, |(_, delay)| delay);
        (delay, self.abort.filter(|(part, _)| part.takes(draws[1])).map(|(_, abort)| abort))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_exact_and_independent() {
        for (percent, expected) in [(0.0, 0), (0.01, 100), (50.0, 500_000), (100.0, 1_000_000), (250.0, 1_000_000)] {
            assert_eq!((0..WHOLE).filter(|draw| Part::percent(percent).takes(*draw)).count(), expected, "{percent}");
        }
        let (second, abort) = (Duration::from_secs(1), Abort::Status(StatusCode::IM_A_TEAPOT));
        let both =
            Disturbance { delay: Some((Part::percent(50.0), second)), abort: Some((Part::percent(50.0), abort)) };
        let (hit, missed) = (0, WHOLE - 1);
        assert_eq!(both.of([hit, missed]), (second, None));
        assert_eq!(both.of([missed, hit]), (Duration::ZERO, Some(abort)));
        assert_eq!(both.of([hit, hit]), (second, Some(abort)));
    }
}
