//! The `pattern` of a schema.

use cel::regexp::{self, SyntaxError};

/// A compiled pattern.
///
/// Definitions bring hundreds of patterns, nearly all of which are about ASCII: those take the small engine. Only what
/// names classes of Unicode takes the large one.
#[derive(Debug)]
pub(crate) struct Pattern {
    /// As it was written; `None` where the small engine keeps the same text.
    source: Option<Box<str>>,
    engine: Engine,
}

#[derive(Debug)]
enum Engine {
    Ascii(regex_lite::Regex),
    Unicode(Box<regexp::Regex>),
}

impl Pattern {
    /// Compiles a pattern.
    pub(crate) fn new(pattern: &str) -> Result<Self, SyntaxError> {
        let engine = match regexp::translate(pattern)?.ascii() {
            Some(text) => {
                let built = regex_lite::Regex::new(&text).map_err(|_| SyntaxError::too_large(pattern))?;
                Engine::Ascii(built)
            }
            None => Engine::Unicode(Box::new(regexp::compile(pattern)?)),
        };
        let is_same = matches!(&engine, Engine::Ascii(regex) if regex.as_str() == pattern);
        Ok(Self { source: (!is_same).then(|| pattern.into()), engine })
    }

    /// Whether a text matches.
    pub(crate) fn is_match(&self, text: &str) -> bool {
        match &self.engine {
            Engine::Ascii(regex) => regex.is_match(text),
            Engine::Unicode(regex) => regex.is_match(text),
        }
    }

    /// The pattern as it was written.
    pub(crate) fn as_str(&self) -> &str {
        match (&self.source, &self.engine) {
            (Some(source), _) => source,
            (None, Engine::Ascii(regex)) => regex.as_str(),
            (None, Engine::Unicode(regex)) => regex.as_str(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_the_same_in_both_engines() {
        for (pattern, fits, other) in [(r"^\d{2}$", "12", "٣٣"), (r"^\p{L}+$", "né", "n1"), (r"^[^[]\b", "a", "[")] {
            let compiled = Pattern::new(pattern).unwrap();
            assert!(compiled.is_match(fits) && !compiled.is_match(other), "{pattern}");
            assert_eq!(compiled.as_str(), pattern);
        }
        let error = Pattern::new("a(").unwrap_err();
        assert_eq!(error.to_string(), "error parsing regexp: missing closing ): `a(`");
    }
}
