//! What is wrong with an expression, shown the way the reference implementation shows it.

use std::fmt;

/// Issues that are listed before the rest is only counted.
const ISSUES_SHOWN_MAX: usize = 100;

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Issue {
    /// Byte offset in the source.
    pub(crate) position: usize,
    pub(crate) text: String,
}

/// Why an expression does not compile.
///
/// Displayed as `ERROR: <input>:1:5: undeclared reference …` with the line of source and a mark under the place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issues {
    source: String,
    issues: Vec<Issue>,
}

impl Issues {
    pub(crate) fn new(source: &str, mut issues: Vec<Issue>) -> Self {
        issues.sort_by_key(|issue| issue.position);
        Self { source: source.to_owned(), issues }
    }

    /// The texts without their places.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.issues.iter().map(|issue| issue.text.as_str())
    }
}

impl fmt::Display for Issues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, issue) in self.issues.iter().take(ISSUES_SHOWN_MAX).enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            show(f, &self.source, issue)?;
        }
        match self.issues.len().checked_sub(ISSUES_SHOWN_MAX) {
            None | Some(0) => Ok(()),
            Some(more) => write!(f, "\n{more} more errors were truncated"),
        }
    }
}

impl std::error::Error for Issues {}

fn show(f: &mut fmt::Formatter<'_>, source: &str, issue: &Issue) -> fmt::Result {
    let position = floor_boundary(source, issue.position);
    let start = source[..position].rfind('\n').map_or(0, |at| at + 1);
    let line = source[..start].matches('\n').count() + 1;
    let column = source[start..position].chars().count();
    let text = source[start..].split('\n').next().unwrap_or_default().replace('\t', " ");
    write!(f, "ERROR: <input>:{line}:{}: {}\n | {text}\n | ", column + 1, issue.text)?;
    for c in text.chars().take(column) {
        f.write_str(if is_wide(c) { "．" } else { "." })?;
    }
    let mark = text.chars().nth(column).is_some_and(is_wide);
    f.write_str(if mark { "＾" } else { "^" })
}

/// The last character boundary at or before a position.
fn floor_boundary(source: &str, position: usize) -> usize {
    let mut position = position.min(source.len());
    while !source.is_char_boundary(position) {
        position -= 1;
    }
    position
}

/// Characters that terminals show two columns wide, roughly.
fn is_wide(c: char) -> bool {
    c >= '\u{1100}'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn issues_show_line_and_mark() {
        let issue = |position, text: &str| Issue { position, text: text.to_owned() };
        let issues = Issues::new("a &&\n\tb", vec![issue(6, "second"), issue(2, "first")]);
        assert_eq!(
            issues.to_string(),
            "ERROR: <input>:1:3: first\n | a &&\n | ..^\nERROR: <input>:2:2: second\n |  b\n | .^"
        );
    }
}
