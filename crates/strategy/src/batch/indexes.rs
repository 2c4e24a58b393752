//! Lists of indexes of a Job, such as `0,2-4`.

/// First and last index of a run.
pub(super) type Run = (i64, i64);

/// Reads a list whose indexes grow and are all below `completions`.
pub(super) fn parse(text: &str, completions: i64) -> Result<Vec<Run>, String> {
    let mut runs: Vec<Run> = Vec::new();
    if text.is_empty() {
        return Ok(runs);
    }
    for part in text.split(',') {
        let (first, last) = run(part, completions)?;
        if let Some((_, before)) = runs.last().filter(|(_, before)| *before >= first) {
            return Err(format!("non-increasing order, previous: {before}, current: {first}"));
        }
        runs.push((first, last));
    }
    Ok(runs)
}

fn run(part: &str, completions: i64) -> Result<Run, String> {
    let number = |digits: &str| -> Result<i64, String> {
        let index: i64 =
            digits.parse().map_err(|_| format!("cannot convert string to integer for index: {digits:?}"))?;
        if index >= completions { Err(format!("too large index: {digits:?}")) } else { Ok(index) }
    };
    let limits: Vec<&str> = part.split('-').collect();
    match limits[..] {
        [only] => number(only).map(|index| (index, index)),
        [first, last] => {
            let (first, last) = (number(first)?, number(last)?);
            if first >= last {
                return Err(format!("non-increasing order, previous: {first}, current: {last}"));
            }
            Ok((first, last))
        }
        _ => Err(format!(
            "the fragment {part:?} violates the requirement that an index interval can have at most two parts separated \
             by '-'"
        )),
    }
}

/// How many indexes runs have.
pub(super) fn total(runs: &[Run]) -> i64 {
    runs.iter().map(|(first, last)| last - first + 1).sum()
}

/// The first index that two lists share; parts that cannot be read are passed over, they are errors of their own.
pub(super) fn overlap(one: &str, other: &str, completions: i64) -> Option<i64> {
    let readable =
        |text: &str| -> Vec<Run> { text.split(',').filter_map(|part| run(part, completions).ok()).collect() };
    let (one, other) = (readable(one), readable(other));
    let (mut at, mut beside) = (one.iter().peekable(), other.iter().peekable());
    while let (Some((a, b)), Some((x, y))) = (at.peek(), beside.peek()) {
        if a <= y && x <= b {
            return Some(*a.max(x));
        }
        if a <= x {
            at.next();
        } else {
            beside.next();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_grow_and_stay_below_the_completions() {
        for (text, expected) in [
            ("", Ok(0)),
            ("0", Ok(1)),
            ("0,2-4,9", Ok(5)),
            ("a", Err("cannot convert string to integer for index: \"a\"")),
            ("1-", Err("cannot convert string to integer for index: \"\"")),
            ("10", Err("too large index: \"10\"")),
            ("3-3", Err("non-increasing order, previous: 3, current: 3")),
            ("4,2", Err("non-increasing order, previous: 4, current: 2")),
            (
                "1-2-3",
                Err(
                    "the fragment \"1-2-3\" violates the requirement that an index interval can have at most two parts \
                    separated by '-'",
                ),
            ),
        ] {
            let counted = parse(text, 10).map(|runs| total(&runs));
            assert_eq!(counted, expected.map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn shared_indexes_are_found() {
        for (one, other, expected) in [
            ("0-2,5", "3,4", None),
            ("0-2,5", "3-6", Some(5)),
            ("", "1", None),
            ("x,4", "2-4", Some(4)),
            ("1-8", "3", Some(3)),
        ] {
            assert_eq!(overlap(one, other, 10), expected, "{one} {other}");
        }
    }
}
