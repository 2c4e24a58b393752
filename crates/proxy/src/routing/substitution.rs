//! Patterns whose finds are replaced, as Envoy writes them: `\1` to `\9` stand for what the groups of the pattern caught,
//! `\0` for all of it.

use std::borrow::Cow;

use regex::Regex;

/// A pattern, and what takes the place of everything it finds.
#[derive(Clone, Debug)]
pub struct Substitution {
    pattern: Regex,
    /// In the words of the regular expressions.
    expansion: Box<str>,
}

/// Why there is no such substitution.
#[derive(Debug, thiserror::Error)]
pub enum SubstitutionError {
    /// The pattern is none.
    #[error("{0}")]
    Pattern(#[from] regex::Error),
    /// A reference to a group that the pattern does not have.
    #[error("\\{0} stands for a group that the pattern does not have")]
    Group(char),
    /// A backslash before something else than a digit or a backslash.
    #[error("a backslash must be followed by a digit or a backslash")]
    Escape,
}

impl Substitution {
    /// Replaces what `pattern` finds by `substitution`.
    pub fn new(pattern: &str, substitution: &str) -> Result<Self, SubstitutionError> {
        let pattern = Regex::new(pattern)?;
        let mut expansion = String::with_capacity(substitution.len());
        let mut characters = substitution.chars();
        while let Some(character) = characters.next() {
            match character {
                '\\' => match characters.next() {
                    Some('\\') => expansion.push('\\'),
                    Some(digit) if digit.is_ascii_digit() => {
                        let group = digit.to_digit(10).unwrap_or_default() as usize;
                        if group >= pattern.captures_len() {
                            return Err(SubstitutionError::Group(digit));
                        }
                        expansion.extend(['$', '{', digit, '}']);
                    }
                    _ => return Err(SubstitutionError::Escape),
                },
                '$' => expansion.push_str("$$"),
                other => expansion.push(other),
            }
        }
        Ok(Substitution { pattern, expansion: expansion.into() })
    }

    /// What becomes of a text.
    pub fn apply<'a>(&self, text: &'a str) -> Cow<'a, str> {
        self.pattern.replace_all(text, &*self.expansion)
    }
}

impl PartialEq for Substitution {
    fn eq(&self, other: &Self) -> bool {
        self.pattern.as_str() == other.pattern.as_str() && self.expansion == other.expansion
    }
}

impl Eq for Substitution {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_found_is_replaced() {
        for (pattern, substitution, text, expected) in [
            ("^/service/([^/]+)(/.*)$", "\\2/instance/\\1", "/service/foo/v1/api", "/v1/api/instance/foo"),
            ("one", "two", "/xxx/one/yyy/one/zzz", "/xxx/two/yyy/two/zzz"),
            ("(?i)/xxx/", "/yyy/", "/aaa/XxX/bbb", "/aaa/yyy/bbb"),
            ("a(b)?", "[\\1]", "ab-a", "[b]-[]"),
            ("x", "$1\\\\\\0", "x", "$1\\x"),
            ("none", "", "/as/it/was", "/as/it/was"),
        ] {
            assert_eq!(Substitution::new(pattern, substitution).unwrap().apply(text), expected, "{pattern}");
        }
        for (pattern, substitution, told) in [
            ("a", "\\1", "\\1 stands for a group that the pattern does not have"),
            ("a", "\\x", "a backslash must be followed by a digit or a backslash"),
            ("a", "x\\", "a backslash must be followed by a digit or a backslash"),
        ] {
            assert_eq!(Substitution::new(pattern, substitution).unwrap_err().to_string(), told);
        }
        assert!(matches!(Substitution::new("(", ""), Err(SubstitutionError::Pattern(_))));
    }
}
