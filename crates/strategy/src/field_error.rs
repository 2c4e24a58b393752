//! What is wrong with a field of an object, in upstream's words and shape.
//!
//! One error is schema's [`FieldError`], whoever finds it; here they are collected. A [`Path`] is a list of segments on the
//! stack: descending costs nothing, and only an error renders it.

use std::fmt;

pub use schema::{FieldError, FieldErrorKind};
use serde_json::Value;

/// All that is wrong with an object; empty when it is valid.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FieldErrors(pub Vec<FieldError>);

impl FieldErrors {
    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The field must be given.
    pub fn required(&mut self, path: &Path<'_>, detail: impl Into<String>) {
        self.0.push(FieldError::required(path.to_string(), detail));
    }

    /// The value breaks the rule `detail`.
    pub fn invalid(&mut self, path: &Path<'_>, value: impl Into<Value>, detail: impl Into<String>) {
        self.0.push(FieldError::invalid(path.to_string(), value, detail));
    }

    /// The value breaks the rule `detail` as a whole, and is not shown.
    pub fn invalid_whole(&mut self, path: &Path<'_>, detail: impl Into<String>) {
        self.0.push(FieldError::invalid_whole(path.to_string(), detail));
    }

    /// The value is none of `supported`.
    pub fn not_supported(&mut self, path: &Path<'_>, value: impl Into<Value>, supported: &[&str]) {
        self.0.push(FieldError::not_supported(path.to_string(), value, supported));
    }

    /// The value occurs a second time.
    pub fn duplicate(&mut self, path: &Path<'_>, value: impl Into<Value>) {
        self.0.push(FieldError::duplicate(path.to_string(), value));
    }

    /// The field is not allowed, or not changeable, here.
    pub fn forbidden(&mut self, path: &Path<'_>, detail: impl Into<String>) {
        self.0.push(FieldError::forbidden(path.to_string(), detail));
    }

    /// The value has more than `max` bytes.
    pub fn too_long(&mut self, path: &Path<'_>, max: usize) {
        self.0.push(FieldError::too_long(path.to_string(), max as u64));
    }

    /// The list has `count` items, more than `max`.
    pub fn too_many(&mut self, path: &Path<'_>, count: usize, max: usize) {
        self.0.push(FieldError::too_many(path.to_string(), count, max as u64));
    }

    /// What the value names does not exist.
    pub fn not_found(&mut self, path: &Path<'_>, value: impl Into<Value>) {
        self.0.push(FieldError::not_found(path.to_string(), value));
    }

    /// The value has the wrong type.
    pub fn type_invalid(&mut self, path: &Path<'_>, value: impl Into<Value>, detail: impl Into<String>) {
        self.0.push(FieldError::type_invalid(path.to_string(), value, detail));
    }

    /// The rule could not be checked.
    pub fn internal(&mut self, path: &Path<'_>, detail: impl Into<String>) {
        self.0.push(FieldError::internal(path.to_string(), detail));
    }

    /// Takes over what is wrong with a field according to its type.
    pub fn extend(&mut self, errors: impl IntoIterator<Item = FieldError>) {
        self.0.extend(errors);
    }
}

impl fmt::Display for FieldErrors {
    /// One message as it is, several in brackets; repeated messages once.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut messages: Vec<String> = Vec::with_capacity(self.0.len());
        for error in &self.0 {
            let message = error.to_string();
            if !messages.contains(&message) {
                messages.push(message);
            }
        }
        match messages.as_slice() {
            [one] => f.write_str(one),
            several => write!(f, "[{}]", several.join(", ")),
        }
    }
}

/// Where a field is in an object; rendered only when an error names it.
#[derive(Clone, Copy, Debug)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    segment: Segment<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Segment<'a> {
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Path<'a> {
    /// A field of the object itself.
    pub const fn new(field: &'a str) -> Self {
        Self { parent: None, segment: Segment::Field(field) }
    }

    /// A field below this one.
    pub const fn child(&'a self, field: &'a str) -> Self {
        Self { parent: Some(self), segment: Segment::Field(field) }
    }

    /// An item of this list.
    pub const fn index(&'a self, index: usize) -> Self {
        Self { parent: Some(self), segment: Segment::Index(index) }
    }

    /// An entry of this map.
    pub const fn key(&'a self, key: &'a str) -> Self {
        Self { parent: Some(self), segment: Segment::Key(key) }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.segment {
            Segment::Field(field) if self.parent.is_some() => write!(f, ".{field}"),
            // the object as a whole
            Segment::Field("") => f.write_str("[]"),
            Segment::Field(field) => f.write_str(field),
            Segment::Index(index) => write!(f, "[{index}]"),
            Segment::Key(key) => write!(f, "[{key}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_upstreams() {
        let spec = Path::new("spec");
        let mut errors = FieldErrors::default();
        errors.too_long(&Path::new(""), 5);
        assert_eq!(errors.to_string(), "[]: Too long: may not be more than 5 bytes");
        let mut errors = FieldErrors::default();
        errors.invalid(&spec.child("replicas"), -1, "must be greater than or equal to 0");
        assert_eq!(errors.to_string(), "spec.replicas: Invalid value: -1: must be greater than or equal to 0");
        errors.required(&spec.child("selector"), "");
        errors.not_supported(&spec.child("type"), "X", &["A", "B"]);
        let containers = spec.child("containers");
        let first = containers.index(0);
        errors.duplicate(&first.child("name"), "web");
        errors.too_long(&Path::new("metadata").child("annotations").key("a/b"), 3);
        assert_eq!(
            errors.0[1..].iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "spec.selector: Required value",
                r#"spec.type: Unsupported value: "X": supported values: "A", "B""#,
                r#"spec.containers[0].name: Duplicate value: "web""#,
                "metadata.annotations[a/b]: Too long: may not be more than 3 bytes",
            ]
        );
        assert!(errors.to_string().starts_with("[spec.replicas: "));
    }

    #[test]
    fn repeated_messages_show_once() {
        let mut errors = FieldErrors::default();
        errors.required(&Path::new("spec"), "");
        errors.required(&Path::new("spec"), "");
        assert_eq!(errors.to_string(), "spec: Required value");
    }
}
