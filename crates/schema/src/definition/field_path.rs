//! Paths to a field of a schema, as validation rules and selectable fields name them: `.spec.color`, `.spec['color']`.

use serde_json::Value;

use super::document::{Document, Inner};

/// Why a path leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldPathError {
    /// No field of this name is declared.
    #[error("does not refer to a valid field")]
    NoField,
    /// `[…]` where only names are allowed.
    #[error("array notation is not allowed")]
    NoBrackets,
    /// The path ends within a part.
    #[error("unexpected end of JSON path")]
    End,
    /// Something else than a quoted text in brackets.
    #[error("expected single quoted string but got {0}")]
    Quotes(String),
    /// A backslash before a character that needs none.
    #[error("invalid string literal: invalid escape char {0}")]
    Escape(String),
    /// The bracket is not closed.
    #[error("expected ] but got {0}")]
    Close(String),
    /// A part begins with something else.
    #[error("expected [ or . but got: {0}")]
    Begin(String),
}

/// A field that a path leads to.
#[derive(Clone, Debug, PartialEq)]
pub struct FoundField {
    /// The path as errors print it: `spec.color`, and `labels[app]` for a key of a map.
    pub path: String,
    /// The names on the way.
    pub names: Vec<String>,
    /// The declared `type`.
    pub kind: String,
}

/// Follows a path through a document. `brackets`: whether `['name']` is allowed beside `.name`.
pub fn find_field(document: &Value, path: &str, brackets: bool) -> Result<FoundField, FieldPathError> {
    find_in(Document::of(document).ok_or(FieldPathError::NoField)?, path, brackets)
}

pub(crate) fn find_in(root: Document<'_>, path: &str, brackets: bool) -> Result<FoundField, FieldPathError> {
    let mut found = FoundField { path: String::new(), names: Vec::new(), kind: String::new() };
    let mut schema = root;
    let mut rest = path;
    while !rest.is_empty() {
        let name = match token(&mut rest) {
            "." => match token(&mut rest) {
                "" => return Err(FieldPathError::End),
                name => name.to_owned(),
            },
            "[" if !brackets => return Err(FieldPathError::NoBrackets),
            "[" => bracketed(&mut rest)?,
            other => return Err(FieldPathError::Begin(other.to_owned())),
        };
        schema = descend(schema, name, &mut found)?;
    }
    schema.text("type").clone_into(&mut found.kind);
    Ok(found)
}

fn descend<'a>(schema: Document<'a>, name: String, found: &mut FoundField) -> Result<Document<'a>, FieldPathError> {
    let next = if schema.has_properties() {
        if !found.path.is_empty() {
            found.path.push('.');
        }
        found.path.push_str(&name);
        schema.property(&name)
    } else {
        let Some(Inner::Schema(value)) = schema.additional() else { return Err(FieldPathError::NoField) };
        found.path.push_str(&format!("[{name}]"));
        Some(value)
    };
    found.names.push(name);
    next.ok_or(FieldPathError::NoField)
}

/// The next delimiter, quoted text, or text up to a delimiter; empty at the end.
fn token<'a>(rest: &mut &'a str) -> &'a str {
    let bytes = rest.as_bytes();
    let end = match bytes.first() {
        None => 0,
        Some(b'.' | b'[' | b']') => 1,
        Some(b'\'') => {
            let close = (1..bytes.len()).find(|at| bytes[*at] == b'\'' && bytes[at - 1] != b'\\');
            close.map_or(bytes.len(), |at| at + 1)
        }
        Some(_) => bytes.iter().position(|byte| b".[]".contains(byte)).unwrap_or(bytes.len()),
    };
    let (token, after) = rest.split_at(end);
    *rest = after;
    token
}

fn bracketed(rest: &mut &str) -> Result<String, FieldPathError> {
    let quoted = token(rest);
    if quoted.is_empty() {
        return Err(FieldPathError::End);
    }
    let inner = quoted.strip_prefix('\'').and_then(|text| text.strip_suffix('\''));
    let inner = inner.ok_or_else(|| FieldPathError::Quotes(quoted.to_owned()))?;
    let name = unescape(inner)?;
    match token(rest) {
        "]" => Ok(name),
        "" => Err(FieldPathError::End),
        other => Err(FieldPathError::Close(other.to_owned())),
    }
}

fn unescape(text: &str) -> Result<String, FieldPathError> {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        if char != '\\' {
            plain.push(char);
            continue;
        }
        plain.push(match chars.next() {
            Some('a') => '\u{7}',
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('v') => '\u{b}',
            Some(same @ ('\'' | '\\')) => same,
            other => return Err(FieldPathError::Escape(format!("\\{}", other.unwrap_or_default()))),
        });
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_lead_to_declared_fields() {
        let document = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "color": {"type": "string"}, "a.b": {"type": "integer"},
            "labels": {"type": "object", "additionalProperties": {"type": "boolean"}}}}}});
        let find = |path: &str| find_field(&document, path, true).map(|found| (found.path, found.kind));
        let ok = |path: &str, kind: &str| Ok((path.to_owned(), kind.to_owned()));
        assert_eq!(find(".spec.color"), ok("spec.color", "string"));
        assert_eq!(find(".spec['a.b']"), ok("spec.a.b", "integer"));
        assert_eq!(find("['spec'].labels['x']"), ok("spec.labels[x]", "boolean"));
        for (path, message) in [
            (".spec.none", "does not refer to a valid field"),
            (".spec.color.x", "does not refer to a valid field"),
            ("spec", "expected [ or . but got: spec"),
            (".", "unexpected end of JSON path"),
            (".spec[0]", "expected single quoted string but got 0"),
            (".spec['color'", "unexpected end of JSON path"),
            (".spec['\\x']", "invalid string literal: invalid escape char \\x"),
        ] {
            assert_eq!(find(path).unwrap_err().to_string(), message, "{path}");
        }
        assert_eq!(find_field(&document, ".spec['color']", false).unwrap_err(), FieldPathError::NoBrackets);
    }
}
