//! Label selectors: the string form of queries and the `metav1.LabelSelector` object of API fields.

use std::fmt;

use serde_json::Value;

use super::SelectorError;
use crate::names;

/// How a requirement compares a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// The label has one of the values.
    In,
    /// The label is absent or has none of the values.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is not there.
    DoesNotExist,
    /// The label is an integer greater than the value.
    Gt,
    /// The label is an integer less than the value.
    Lt,
}

/// One term of a [`LabelSelector`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// The comparison.
    pub operator: Operator,
    /// Sorted values; empty for [`Operator::Exists`] and [`Operator::DoesNotExist`].
    pub values: Vec<String>,
}

impl Requirement {
    fn new(key: &str, operator: Operator, mut values: Vec<String>) -> Result<Self, SelectorError> {
        let label = |prefix: String, messages: Vec<String>| match messages.is_empty() {
            true => Ok(()),
            false => Err(SelectorError::Label(format!("{prefix}{}", messages.join("; ")))),
        };
        label(format!("key: Invalid value: {key:?}: "), names::qualified_name(key))?;
        for value in &values {
            label(format!("values[0][{key}]: Invalid value: {value:?}: "), names::label_value(value))?;
        }
        let fits = match operator {
            Operator::In | Operator::NotIn => !values.is_empty(),
            Operator::Exists | Operator::DoesNotExist => values.is_empty(),
            Operator::Gt | Operator::Lt => values.len() == 1 && values[0].parse::<i64>().is_ok(),
        };
        if !fits {
            let rule = match operator {
                Operator::In | Operator::NotIn => "for 'in', 'notin' operators, values set can't be empty",
                Operator::Exists | Operator::DoesNotExist => "values set must be empty for exists and does not exist",
                Operator::Gt | Operator::Lt => "for 'Gt', 'Lt' operators, the value must be an integer",
            };
            return Err(SelectorError::Label(format!("values: Invalid value: {values:?}: {rule}")));
        }
        values.sort();
        values.dedup();
        Ok(Self { key: key.to_owned(), operator, values })
    }

    /// The one value the label must have, where there is one.
    pub fn exact(&self) -> Option<&str> {
        match (self.operator, self.values.as_slice()) {
            (Operator::In, [value]) => Some(value),
            _ => None,
        }
    }

    fn matches(&self, value: Option<&str>) -> bool {
        let among = |value: &str| self.values.iter().any(|wanted| wanted == value);
        let compare = |value: Option<&str>, holds: fn(&i64, &i64) -> bool| {
            let value = value.and_then(|value| value.parse::<i64>().ok());
            let limit = self.values.first().and_then(|value| value.parse::<i64>().ok());
            value.zip(limit).is_some_and(|(value, limit)| holds(&value, &limit))
        };
        match self.operator {
            Operator::In => value.is_some_and(among),
            Operator::NotIn => !value.is_some_and(among),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Gt => compare(value, i64::gt),
            Operator::Lt => compare(value, i64::lt),
        }
    }
}

/// A conjunction of requirements.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    /// The absent `metav1.LabelSelector`, which selects nothing.
    nothing: bool,
}

impl LabelSelector {
    /// Selects every object.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Selects no object.
    pub fn nothing() -> Self {
        Self { requirements: Vec::new(), nothing: true }
    }

    /// Parses the query parameter's form: `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1`.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut parser = Parser { rest: text };
        let mut requirements = Vec::new();
        parser.space();
        while !parser.rest.is_empty() {
            requirements.push(parser.requirement()?);
            parser.space();
            if parser.rest.is_empty() {
                break;
            }
            parser.expect(',', "',' or 'end of string'")?;
            parser.space();
            if parser.rest.is_empty() {
                return Err(SelectorError::Syntax("found '', expected: identifier after ','".to_owned()));
            }
        }
        requirements.sort_by(|a: &Requirement, b: &Requirement| a.key.cmp(&b.key));
        Ok(Self { requirements, nothing: false })
    }

    /// Reads a `metav1.LabelSelector`: null selects nothing, the empty object everything.
    pub fn from_object(object: &Value) -> Result<Self, SelectorError> {
        if object.is_null() {
            return Ok(Self::nothing());
        }
        let mut requirements = Vec::new();
        for (key, value) in object["matchLabels"].as_object().into_iter().flatten() {
            let value = value.as_str().unwrap_or_default().to_owned();
            requirements.push(Requirement::new(key, Operator::In, vec![value])?);
        }
        for term in object["matchExpressions"].as_array().into_iter().flatten() {
            let operator = match term["operator"].as_str().unwrap_or_default() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(SelectorError::Operator(other.to_owned())),
            };
            let values = term["values"].as_array().into_iter().flatten();
            let values = values.filter_map(Value::as_str).map(str::to_owned).collect();
            requirements.push(Requirement::new(term["key"].as_str().unwrap_or_default(), operator, values)?);
        }
        Ok(Self { requirements, nothing: false })
    }

    /// Reads a plain map of labels, as in a Service's selector.
    pub fn from_labels<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let requirement = |(key, value): (&str, &str)| Requirement {
            key: key.to_owned(),
            operator: Operator::In,
            values: vec![value.to_owned()],
        };
        Self { requirements: labels.into_iter().map(requirement).collect(), nothing: false }
    }

    /// Whether the labels satisfy every requirement.
    pub fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|requirement| requirement.matches(label(&requirement.key)))
    }

    /// Whether an object's `metadata.labels` satisfy every requirement.
    pub fn matches_object(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        self.matches(|key| labels.get(key).and_then(Value::as_str))
    }

    /// Whether this selects everything.
    pub fn is_empty(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// The terms.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn eat(&mut self, token: &str) -> bool {
        self.space();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, token: char, wanted: &str) -> Result<(), SelectorError> {
        self.space();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                Ok(())
            }
            None => Err(self.unexpected(wanted)),
        }
    }

    fn unexpected(&self, wanted: &str) -> SelectorError {
        let found: String = self.rest.split([' ', ',', '(', ')']).next().unwrap_or_default().to_owned();
        let found = if found.is_empty() { self.rest.chars().take(1).collect() } else { found };
        SelectorError::Syntax(format!("found '{found}', expected: {wanted}"))
    }

    fn word(&mut self) -> &'a str {
        self.space();
        let special = |c: char| c.is_whitespace() || matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<');
        let end = self.rest.find(special).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let absent = self.eat("!");
        let key = self.word();
        if key.is_empty() {
            return Err(self.unexpected("identifier"));
        }
        if absent {
            return Requirement::new(key, Operator::DoesNotExist, Vec::new());
        }
        let one = |value: &str| vec![value.to_owned()];
        self.space();
        if self.rest.is_empty() || self.rest.starts_with(',') {
            return Requirement::new(key, Operator::Exists, Vec::new());
        }
        if self.eat("!=") {
            return Requirement::new(key, Operator::NotIn, one(self.word()));
        }
        if self.eat("==") || self.eat("=") {
            return Requirement::new(key, Operator::In, one(self.word()));
        }
        if self.eat(">") {
            return Requirement::new(key, Operator::Gt, one(self.word()));
        }
        if self.eat("<") {
            return Requirement::new(key, Operator::Lt, one(self.word()));
        }
        let before = self.rest;
        let operator = match self.word() {
            "in" => Operator::In,
            "notin" => Operator::NotIn,
            _ => {
                self.rest = before;
                return Err(self.unexpected("in, notin, =, ==, !=, gt, lt"));
            }
        };
        Requirement::new(key, operator, self.values()?)
    }

    fn values(&mut self) -> Result<Vec<String>, SelectorError> {
        self.expect('(', "'('")?;
        let mut values = Vec::new();
        loop {
            values.push(self.word().to_owned());
            if !self.eat(",") {
                break;
            }
        }
        self.expect(')', "',' or ')'")?;
        Ok(values)
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, term) in self.requirements.iter().enumerate() {
            f.write_str(if at > 0 { "," } else { "" })?;
            let (key, values) = (&term.key, term.values.join(","));
            match (term.operator, term.values.len()) {
                (Operator::In, 1) => write!(f, "{key}={values}")?,
                (Operator::NotIn, 1) => write!(f, "{key}!={values}")?,
                (Operator::In, _) => write!(f, "{key} in ({values})")?,
                (Operator::NotIn, _) => write!(f, "{key} notin ({values})")?,
                (Operator::Exists, _) => write!(f, "{key}")?,
                (Operator::DoesNotExist, _) => write!(f, "!{key}")?,
                (Operator::Gt, _) => write!(f, "{key}>{values}")?,
                (Operator::Lt, _) => write!(f, "{key}<{values}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn selects(selector: &str, labels: &[(&str, &str)]) -> bool {
        let selector = LabelSelector::parse(selector).unwrap();
        let again = LabelSelector::parse(&selector.to_string()).unwrap();
        assert_eq!(again, selector);
        selector.matches(|key| labels.iter().find(|(name, _)| *name == key).map(|(_, value)| *value))
    }

    #[test]
    fn the_string_form_selects_as_documented() {
        let labels = [("app", "web"), ("tier", "front"), ("n", "5"), ("empty", "")];
        for yes in [
            "",
            "app=web",
            "app==web",
            "app!=db",
            "other!=x",
            "app in (web, db)",
            "app notin (db)",
            "app",
            "!other",
            "n>4",
            "n<6",
            "app=web,tier in (front)",
            "empty=",
            "x notin (a,b)",
            " app = web , tier ",
            "empty in (,a)",
        ] {
            assert!(selects(yes, &labels), "{yes}");
        }
        for no in ["app=db", "!app", "other", "app notin (web)", "n>5", "app>1", "other in (a)", "empty!="] {
            assert!(!selects(no, &labels), "{no}");
        }
    }

    #[test]
    fn malformed_strings_are_refused() {
        for bad in ["a in b", "a b", ",a", "a=b,", "a in (b", "=x", "a=b c", "a=@", "-a=b", "a>x"] {
            assert!(LabelSelector::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_object_form_selects_as_documented() {
        let object = json!({"metadata": {"labels": {"a": "1", "b": "2"}}});
        let selects = |selector: Value| LabelSelector::from_object(&selector).unwrap().matches_object(&object);
        assert!(selects(json!({})) && !selects(Value::Null));
        assert!(selects(json!({"matchLabels": {"a": "1"}, "matchExpressions": [
            {"key": "b", "operator": "NotIn", "values": ["3"]}, {"key": "c", "operator": "DoesNotExist"}]})));
        assert!(!selects(json!({"matchExpressions": [{"key": "c", "operator": "Exists"}]})));
        let bad = LabelSelector::from_object(&json!({"matchExpressions": [{"key": "c", "operator": "Near"}]}));
        assert_eq!(bad.unwrap_err().to_string(), "\"Near\" is not a valid label selector operator");
        assert!(LabelSelector::from_object(&json!({"matchExpressions": [{"key": "c", "operator": "In"}]})).is_err());
    }
}
