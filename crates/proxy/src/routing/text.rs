//! Conditions on a text.

use regex::Regex;

/// A condition on a text.
#[derive(Clone, Debug)]
pub enum TextMatch {
    /// It is this.
    Exact(Box<str>),
    /// It begins with this.
    Prefix(Box<str>),
    /// It ends with this.
    Suffix(Box<str>),
    /// All of it is as the expression says.
    Pattern(Regex),
}

impl TextMatch {
    /// An expression for all of a text.
    ///
    /// # Errors
    /// When it is none.
    pub fn pattern(pattern: &str) -> Result<Self, regex::Error> {
        Regex::new(&format!("^(?:{pattern})$")).map(TextMatch::Pattern)
    }

    /// Whether a text is as it says.
    pub fn takes(&self, text: &str) -> bool {
        match self {
            TextMatch::Exact(exact) => text == &**exact,
            TextMatch::Prefix(prefix) => text.starts_with(&**prefix),
            TextMatch::Suffix(suffix) => text.ends_with(&**suffix),
            TextMatch::Pattern(pattern) => pattern.is_match(text),
        }
    }

    /// The same with letters in lower case, for texts that are.
    #[must_use]
    pub fn lowered(self) -> Self {
        match self {
            TextMatch::Exact(text) => TextMatch::Exact(text.to_ascii_lowercase().into()),
            TextMatch::Prefix(text) => TextMatch::Prefix(text.to_ascii_lowercase().into()),
            TextMatch::Suffix(text) => TextMatch::Suffix(text.to_ascii_lowercase().into()),
            TextMatch::Pattern(_) => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_condition_looks_at_its_part() {
        let text = |text: &str| Box::<str>::from(text);
        assert!(TextMatch::Exact(text("a")).takes("a") && !TextMatch::Exact(text("a")).takes("ab"));
        assert!(TextMatch::Prefix(text("TLS/")).takes("TLS/1.0") && !TextMatch::Prefix(text("TLS/")).takes("xTLS/"));
        assert!(TextMatch::Suffix(text(".b")).takes("a.b") && !TextMatch::Suffix(text(".b")).takes("a.bc"));
        let pattern = TextMatch::pattern("a|b+").unwrap();
        assert!(pattern.takes("a") && pattern.takes("bbb") && !pattern.takes("ab"));
        assert!(TextMatch::pattern("(").is_err());
        assert!(TextMatch::Prefix(text("X-")).lowered().takes("x-user"));
    }
}
