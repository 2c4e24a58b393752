//! Field selectors: `metadata.name=a,spec.nodeName!=b`.

use std::fmt;

use super::SelectorError;

/// One term of a [`FieldSelector`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldRequirement {
    /// Path of the field, for example `spec.nodeName`.
    pub field: String,
    /// The value compared with.
    pub value: String,
    /// `=` and `==` ask for equality, `!=` for difference.
    pub equal: bool,
}

/// A conjunction of comparisons; empty selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    requirements: Vec<FieldRequirement>,
}

impl FieldSelector {
    /// Parses the query parameter's form. Backslash escapes `\`, `,` and `=`.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut requirements = Vec::new();
        for term in split_terms(text) {
            let term = term.as_str();
            if term.is_empty() {
                continue;
            }
            let error = || SelectorError::Field { selector: text.to_owned(), term: term.to_owned() };
            let (field, equal, value) = split_operator(term).ok_or_else(error)?;
            let value = unescape(value).ok_or_else(error)?;
            requirements.push(FieldRequirement { field: field.to_owned(), value, equal });
        }
        Ok(Self { requirements })
    }

    /// Whether every term holds; an absent field has the empty value.
    pub fn matches<'a>(&self, field: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements.iter().all(|term| (field(&term.field).unwrap_or_default() == term.value) == term.equal)
    }

    /// Whether this selects everything.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The terms.
    pub fn requirements(&self) -> &[FieldRequirement] {
        &self.requirements
    }

    /// The value that a field must have, when the selector demands one.
    pub fn requires_exact(&self, field: &str) -> Option<&str> {
        self.requirements.iter().find(|term| term.equal && term.field == field).map(|term| term.value.as_str())
    }
}

fn split_terms(text: &str) -> Vec<String> {
    let mut terms = vec![String::new()];
    let mut escaped = false;
    for character in text.chars() {
        let last = terms.len() - 1;
        match character {
            ',' if !escaped => terms.push(String::new()),
            _ => terms[last].push(character),
        }
        escaped = character == '\\' && !escaped;
    }
    terms
}

fn split_operator(term: &str) -> Option<(&str, bool, &str)> {
    let at = term.find(['=', '!'])?;
    let (field, rest) = term.split_at(at);
    if let Some(value) = rest.strip_prefix("!=") {
        Some((field, false, value))
    } else {
        let value = rest.strip_prefix("==").or_else(|| rest.strip_prefix('='))?;
        Some((field, true, value))
    }
}

fn unescape(value: &str) -> Option<String> {
    let mut out = String::with_capacity(value.len());
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => out.push(characters.next().filter(|next| matches!(next, '\\' | ',' | '='))?),
            '=' | ',' => return None,
            _ => out.push(character),
        }
    }
    Some(out)
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, term) in self.requirements.iter().enumerate() {
            let value = term.value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
            let operator = if term.equal { "=" } else { "!=" };
            write!(f, "{}{}{operator}{value}", if at > 0 { "," } else { "" }, term.field)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_compare_fields() {
        let selector = FieldSelector::parse("a=1,b!=2,c==").unwrap();
        let look = |name: &str| match name {
            "a" => Some("1"),
            "b" => Some("3"),
            _ => None,
        };
        assert!(selector.matches(look));
        assert!(!FieldSelector::parse("a!=1").unwrap().matches(look));
        assert!(FieldSelector::parse("").unwrap().matches(look));
        assert_eq!(selector.requires_exact("a"), Some("1"));
        assert_eq!(selector.requires_exact("b"), None);
        assert_eq!(selector.to_string(), "a=1,b!=2,c=");
    }

    #[test]
    fn escapes_survive_printing() {
        let selector = FieldSelector::parse(r"a=x\,y\=\\").unwrap();
        assert_eq!(selector.requirements()[0].value, r"x,y=\");
        assert_eq!(FieldSelector::parse(&selector.to_string()).unwrap(), selector);
        let error = FieldSelector::parse("nonsense").unwrap_err();
        assert_eq!(error.to_string(), "invalid selector: 'nonsense'; can't understand 'nonsense'");
        assert!(FieldSelector::parse("a=b=c").is_err());
    }
}
