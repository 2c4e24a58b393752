//! The part of JSONPath that printer columns use: fields, indexes, `[*]`, and filters that compare a field with a
//! literal.

use serde_json::Value;

/// A parsed path, for example `.status.conditions[?(@.type=="Ready")].status`.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    All,
    Filter { field: Vec<String>, equals: bool, literal: Value },
}

/// What is wrong with a path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonPathError {
    /// The part cannot be read.
    #[error("json path {path:?} has an unsupported part at {rest:?}")]
    Unsupported {
        /// The whole path.
        path: String,
        /// From where on it cannot be read.
        rest: String,
    },
}

impl JsonPath {
    /// Reads a path; braces around it are allowed.
    pub fn parse(path: &str) -> Result<Self, JsonPathError> {
        let text = path.trim();
        let text = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or(text);
        let text = text.strip_prefix('$').unwrap_or(text);
        let mut rest = text;
        let mut steps = Vec::new();
        while !rest.is_empty() {
            let (step, next) = step(rest)
                .ok_or_else(|| JsonPathError::Unsupported { path: path.to_owned(), rest: rest.to_owned() })?;
            steps.extend(step);
            rest = next;
        }
        Ok(Self(steps))
    }

    /// Everything the path leads to.
    pub fn find<'a>(&self, object: &'a Value) -> Vec<&'a Value> {
        let mut found = vec![object];
        for step in &self.0 {
            found = found.into_iter().flat_map(|value| step.apply(value)).collect();
        }
        found
    }
}

impl Step {
    fn apply<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        match self {
            Self::Field(name) => value.get(name).into_iter().collect(),
            Self::Index(index) => {
                let Some(items) = value.as_array() else { return Vec::new() };
                let index = if *index < 0 { i64::try_from(items.len()).unwrap_or(0) + index } else { *index };
                usize::try_from(index).ok().and_then(|index| items.get(index)).into_iter().collect()
            }
            Self::All => match value {
                Value::Array(items) => items.iter().collect(),
                Value::Object(map) => map.values().collect(),
                _ => Vec::new(),
            },
            Self::Filter { field, equals, literal } => {
                let matches = |item: &&Value| {
                    let found = field.iter().try_fold(*item, |value, name| value.get(name));
                    found.is_some_and(|found| (found == literal) == *equals)
                };
                value.as_array().into_iter().flatten().filter(matches).collect()
            }
        }
    }
}

/// The first step of `text` and what follows it; a lone dot is no step.
fn step(text: &str) -> Option<(Option<Step>, &str)> {
    if let Some(rest) = text.strip_prefix('[') {
        return bracket(rest).map(|(step, rest)| (Some(step), rest));
    }
    let rest = text.strip_prefix('.').unwrap_or(text);
    if rest.is_empty() || rest.starts_with('[') {
        return Some((None, rest));
    }
    if let Some(rest) = rest.strip_prefix('*') {
        return Some((Some(Step::All), rest));
    }
    let (name, rest) = field(rest)?;
    Some((Some(Step::Field(name)), rest))
}

/// A field's name, in which `\.` is a dot.
fn field(text: &str) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut chars = text.char_indices();
    while let Some((index, char)) = chars.next() {
        match char {
            '\\' => name.push(chars.next()?.1),
            '.' | '[' => return (!name.is_empty()).then_some((name, &text[index..])),
            '(' | ')' | '?' | '@' | ',' | '*' => return None,
            char => name.push(char),
        }
    }
    (!name.is_empty()).then_some((name, ""))
}

/// What stands in brackets, after the opening one.
fn bracket(text: &str) -> Option<(Step, &str)> {
    if let Some(rest) = text.strip_prefix("?(") {
        let end = rest.find(")]")?;
        return Some((filter(&rest[..end])?, &rest[end + 2..]));
    }
    if let Some(quote) = text.chars().next().filter(|char| ['\'', '"'].contains(char)) {
        let end = text[1..].find(quote)? + 1;
        let rest = text[end + 1..].strip_prefix(']')?;
        return Some((Step::Field(text[1..end].replace("\\.", ".")), rest));
    }
    let end = text.find(']')?;
    let (inner, rest) = (text[..end].trim(), &text[end + 1..]);
    if inner == "*" {
        return Some((Step::All, rest));
    }
    Some((Step::Index(inner.parse().ok()?), rest))
}

/// `@.field == literal` or `@.field != literal`.
fn filter(text: &str) -> Option<Step> {
    let (left, right, equals) = match (text.split_once("=="), text.split_once("!=")) {
        (Some((left, right)), _) => (left, right, true),
        (None, Some((left, right))) => (left, right, false),
        (None, None) => return None,
    };
    let mut rest = left.trim().strip_prefix('@')?;
    let mut names = Vec::new();
    while let Some(next) = rest.strip_prefix('.') {
        let (name, next) = field(next)?;
        names.push(name);
        rest = next;
    }
    if !rest.is_empty() {
        return None;
    }
    let literal = right.trim();
    let quoted = ['\'', '"'].iter().find_map(|quote| literal.strip_prefix(*quote)?.strip_suffix(*quote));
    let literal = match quoted {
        Some(text) => Value::from(text),
        None => serde_json::from_str(literal).ok()?,
    };
    Some(Step::Filter { field: names, equals, literal })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths() {
        let object = json!({
            "spec": {"items": [{"name": "a", "port": 1}, {"name": "b", "port": 2}], "a.b": "dotted", "n": 3, "labels": {"a.b/c": "l"}},
            "status": {"conditions": [{"type": "X", "status": "False"}, {"type": "Ready", "status": "True"}]},
        });
        for (path, found) in [
            (".spec.n", vec![json!(3)]),
            ("{.spec.n}", vec![json!(3)]),
            ("$.spec.n", vec![json!(3)]),
            (r".spec.a\.b", vec![json!("dotted")]),
            (".spec['a.b']", vec![json!("dotted")]),
            (".spec.items[0].name", vec![json!("a")]),
            (".spec.items[-1].name", vec![json!("b")]),
            (".spec.items[*].port", vec![json!(1), json!(2)]),
            (r#".status.conditions[?(@.type=="Ready")].status"#, vec![json!("True")]),
            (".status.conditions[?(@.type=='Ready')].status", vec![json!("True")]),
            (".spec.items[?(@.port != 1)].name", vec![json!("b")]),
            (".spec.none.deeper", vec![]),
            (".spec.labels['a.b/c']", vec![json!("l")]),
            (r".spec.labels.a\.b/c", vec![json!("l")]),
        ] {
            let parsed = JsonPath::parse(path).unwrap();
            assert_eq!(parsed.find(&object), found.iter().collect::<Vec<_>>(), "{path}");
        }
        for path in [".a[", ".a[?(@.b)]", ".a[b]", ".a(b)"] {
            assert!(JsonPath::parse(path).is_err(), "{path}");
        }
    }
}
