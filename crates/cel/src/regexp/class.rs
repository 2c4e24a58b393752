//! Classes of characters: `[a-z]`, `[[:alpha:]\d]`, `\p{Greek}`.

use super::{SyntaxError, Walk};

/// Names in `[:…:]`.
const NAMED: [&str; 14] = [
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space", "upper", "word",
    "xdigit",
];

/// What `\d` and its like are, as part of a class.
pub(super) fn perl(kind: char) -> Option<&'static str> {
    Some(match kind {
        'd' => "0-9",
        'D' => r"\x{0}-/:-\x{10FFFF}",
        'w' => "0-9A-Z_a-z",
        'W' => r"\x{0}-/:-@\x{5B}-\x{5E}`\x{7B}-\x{10FFFF}",
        's' => r"\t\n\x{C}\r ",
        'S' => r"\x{0}-\x{8}\x{B}\x{E}-\x{1F}!-\x{10FFFF}",
        _ => return None,
    })
}

impl Walk<'_> {
    /// A class in brackets.
    pub(super) fn class(&mut self) -> Result<(), SyntaxError> {
        let start = self.rest;
        let missing = || SyntaxError::new("missing closing ]", start);
        self.take(1);
        self.out.push('[');
        if self.rest.starts_with('^') {
            self.keep_one();
        }
        let mut is_first = true;
        loop {
            let next = self.rest.chars().next().ok_or_else(missing)?;
            if next == ']' && !is_first {
                self.keep_one();
                break;
            }
            is_first = false;
            if next == '[' && self.named_class()? {
                continue;
            }
            if next == '\\' {
                match self.rest.chars().nth(1) {
                    Some('p' | 'P') => {
                        let class = self.unicode_class()?;
                        self.out.push_str(&class);
                        continue;
                    }
                    Some(kind) if let Some(set) = perl(kind) => {
                        self.take(2);
                        self.out.push_str(set);
                        continue;
                    }
                    _ => {}
                }
            }
            self.range(start)?;
        }
        self.before = super::Before::Something;
        Ok(())
    }

    /// `[:alpha:]`; gives whether it was one.
    fn named_class(&mut self) -> Result<bool, SyntaxError> {
        let Some(inner) = self.rest.strip_prefix("[:") else { return Ok(false) };
        let Some(end) = inner.find(":]") else { return Ok(false) };
        let text = self.take(end + 4);
        let name = inner[..end].trim_start_matches('^');
        if !NAMED.contains(&name) {
            return Err(SyntaxError::new("invalid character class range", text));
        }
        self.out.push_str(text);
        Ok(true)
    }

    /// A character, or two with a minus in between.
    fn range(&mut self, class: &str) -> Result<(), SyntaxError> {
        let start = self.rest;
        let low = self.class_char(class)?;
        self.class_literal(low);
        if let Some(rest) = self.rest.strip_prefix('-')
            && !rest.is_empty()
            && !rest.starts_with(']')
        {
            self.take(1);
            let high = self.class_char(class)?;
            if high < low {
                return Err(SyntaxError::new("invalid character class range", self.since(start)));
            }
            self.out.push('-');
            self.class_literal(high);
        }
        Ok(())
    }

    fn class_char(&mut self, class: &str) -> Result<char, SyntaxError> {
        match self.rest.chars().next() {
            None => Err(SyntaxError::new("missing closing ]", class)),
            Some('\\') => self.escaped_char(),
            Some(char) => {
                self.take(char.len_utf8());
                Ok(char)
            }
        }
    }

    fn class_literal(&mut self, char: char) {
        if char.is_ascii_alphanumeric() || !char.is_ascii() {
            self.out.push(char);
        } else {
            self.out.push_str(&format!("\\x{{{:X}}}", char as u32));
        }
    }

    /// `\pL`, `\p{Greek}` or `\P{^Greek}`.
    pub(super) fn unicode_class(&mut self) -> Result<String, SyntaxError> {
        let start = self.rest;
        self.take(1);
        let mut is_negated = self.take(1) == "P";
        let wrong = |fragment: &str| SyntaxError::new("invalid character class range", fragment);
        let name = match self.rest.strip_prefix('{') {
            None => self.take_one(),
            Some(inner) => {
                let end = inner.find('}').ok_or_else(|| wrong(start))?;
                self.take(end + 2);
                let name = &inner[..end];
                is_negated ^= name.starts_with('^');
                name.strip_prefix('^').unwrap_or(name)
            }
        };
        if name.is_empty() || !name.chars().all(|char| char.is_ascii_alphabetic() || char == '_') {
            return Err(wrong(self.since(start)));
        }
        self.names_classes = true;
        Ok(format!("\\{}{{{name}}}", if is_negated { 'P' } else { 'p' }))
    }
}
