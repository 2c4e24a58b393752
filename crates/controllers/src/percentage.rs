//! Numbers that may be percentages of a size.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Which whole number a share that is none becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Round {
    Up,
    Down,
}

/// The number that `value` is of `size`.
pub(crate) fn resolve(value: &IntOrString, size: i32, round: Round) -> i32 {
    match value {
        IntOrString::Int(count) => *count,
        IntOrString::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let share = percent * i64::from(size);
            let whole = match round {
                Round::Up => (share + 99).div_euclid(100),
                Round::Down => share.div_euclid(100),
            };
            i32::try_from(whole).unwrap_or(i32::MAX)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_rounded_as_asked() {
        let percent = |text: &str| IntOrString::String(text.into());
        for (value, size, up, down) in [
            (IntOrString::Int(3), 10, 3, 3),
            (percent("25%"), 10, 3, 2),
            (percent("50%"), 4, 2, 2),
            (percent("1%"), 1, 1, 0),
            (percent("0%"), 7, 0, 0),
        ] {
            assert_eq!((resolve(&value, size, Round::Up), resolve(&value, size, Round::Down)), (up, down), "{value:?}");
        }
    }
}
