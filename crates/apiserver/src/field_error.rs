//! What is wrong with a field of an object, in upstream's words and shape.
//!
//! A [`Path`] is a list of segments on the stack: descending costs nothing, and only an error renders it.

use std::fmt;

use kinds::k8s::apimachinery::pkg::apis::meta::v1::StatusCause;
use serde_json::Value;

/// What kind of rule the field breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldErrorKind {
    /// The field must be given.
    Required,
    /// The value breaks a rule.
    Invalid,
    /// The value is not one of a closed set.
    NotSupported,
    /// The value occurs a second time where it must be unique.
    Duplicate,
    /// The field must not be given, or not be changed, here.
    Forbidden,
    /// The value has too many bytes.
    TooLong,
    /// The list has too many items.
    TooMany,
    /// What the value names does not exist.
    NotFound,
    /// The value has the wrong type.
    TypeInvalid,
    /// The rule could not be checked.
    InternalError,
}

impl FieldErrorKind {
    /// The words that begin the message.
    fn words(self) -> &'static str {
        match self {
            Self::Required => "Required value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Duplicate => "Duplicate value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::NotFound => "Not found",
            Self::InternalError => "Internal error",
        }
    }

    /// The reason of the cause in a `metav1.Status`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::NotFound => "FieldValueNotFound",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::InternalError => "InternalError",
        }
    }

    fn shows_value(self) -> bool {
        match self {
            Self::Required | Self::Forbidden | Self::TooLong | Self::InternalError => false,
            Self::Invalid
            | Self::NotSupported
            | Self::Duplicate
            | Self::TooMany
            | Self::NotFound
            | Self::TypeInvalid => true,
        }
    }
}

/// One broken rule of one field.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// What kind of rule.
    pub kind: FieldErrorKind,
    /// Path of the field, for example `spec.containers[0].name`.
    pub field: String,
    /// The value found there.
    pub value: Value,
    /// The rule, empty when the kind says it all.
    pub detail: String,
}

impl FieldError {
    /// The message without the field's path, as a status cause carries it.
    pub fn body(&self) -> String {
        let mut body = self.kind.words().to_owned();
        if self.kind.shows_value() {
            body.push_str(": ");
            body.push_str(&self.value.to_string());
        }
        if !self.detail.is_empty() {
            body.push_str(": ");
            body.push_str(&self.detail);
        }
        body
    }
}

impl From<schema::FieldError> for FieldError {
    fn from(error: schema::FieldError) -> Self {
        use schema::FieldErrorKind as Kind;
        let kind = match error.kind {
            Kind::Required => FieldErrorKind::Required,
            Kind::Invalid => FieldErrorKind::Invalid,
            Kind::NotSupported => FieldErrorKind::NotSupported,
            Kind::Duplicate => FieldErrorKind::Duplicate,
            Kind::Forbidden => FieldErrorKind::Forbidden,
            Kind::TooLong => FieldErrorKind::TooLong,
            Kind::TooMany => FieldErrorKind::TooMany,
            Kind::TypeInvalid => FieldErrorKind::TypeInvalid,
            Kind::Internal => FieldErrorKind::InternalError,
        };
        // as upstream prints what is not there
        let value = if error.value.is_null() && kind.shows_value() { "null".into() } else { error.value };
        Self { kind, field: error.path, value, detail: error.detail }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

/// All that is wrong with an object; empty when it is valid.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FieldErrors(pub Vec<FieldError>);

impl FieldErrors {
    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn push(&mut self, kind: FieldErrorKind, path: &Path<'_>, value: Value, detail: String) {
        self.0.push(FieldError { kind, field: path.to_string(), value, detail });
    }

    /// The field must be given.
    pub fn required(&mut self, path: &Path<'_>, detail: impl Into<String>) {
        self.push(FieldErrorKind::Required, path, Value::Null, detail.into());
    }

    /// The value breaks the rule `detail`.
    pub fn invalid(&mut self, path: &Path<'_>, value: impl Into<Value>, detail: impl Into<String>) {
        self.push(FieldErrorKind::Invalid, path, value.into(), detail.into());
    }

    /// The value is none of `supported`.
    pub fn not_supported(&mut self, path: &Path<'_>, value: impl Into<Value>, supported: &[&str]) {
        let quoted: Vec<String> = supported.iter().map(|value| format!("{value:?}")).collect();
        let detail = if quoted.is_empty() { String::new() } else { format!("supported values: {}", quoted.join(", ")) };
        self.push(FieldErrorKind::NotSupported, path, value.into(), detail);
    }

    /// The value occurs a second time.
    pub fn duplicate(&mut self, path: &Path<'_>, value: impl Into<Value>) {
        self.push(FieldErrorKind::Duplicate, path, value.into(), String::new());
    }

    /// The field is not allowed, or not changeable, here.
    pub fn forbidden(&mut self, path: &Path<'_>, detail: impl Into<String>) {
        self.push(FieldErrorKind::Forbidden, path, Value::Null, detail.into());
    }

    /// The value has more than `max` bytes.
    pub fn too_long(&mut self, path: &Path<'_>, max: usize) {
        self.push(FieldErrorKind::TooLong, path, Value::Null, format!("may not be more than {max} bytes"));
    }

    /// The list has `count` items, more than `max`.
    pub fn too_many(&mut self, path: &Path<'_>, count: usize, max: usize) {
        self.push(FieldErrorKind::TooMany, path, count.into(), format!("must have at most {max} items"));
    }

    /// What the value names does not exist.
    pub fn not_found(&mut self, path: &Path<'_>, value: impl Into<Value>) {
        self.push(FieldErrorKind::NotFound, path, value.into(), String::new());
    }

    /// The value has the wrong type.
    pub fn type_invalid(&mut self, path: &Path<'_>, value: impl Into<Value>, detail: impl Into<String>) {
        self.push(FieldErrorKind::TypeInvalid, path, value.into(), detail.into());
    }

    /// The rule could not be checked.
    pub fn internal(&mut self, path: &Path<'_>, detail: impl Into<String>) {
        self.push(FieldErrorKind::InternalError, path, Value::Null, detail.into());
    }

    /// Takes over what is wrong with a field according to its type.
    pub fn extend(&mut self, errors: impl IntoIterator<Item = schema::FieldError>) {
        self.0.extend(errors.into_iter().map(FieldError::from));
    }

    /// The causes of a `metav1.Status` with reason `Invalid`.
    pub fn causes(&self) -> Vec<StatusCause> {
        self.0
            .iter()
            .map(|error| StatusCause {
                field: Some(error.field.clone()),
                message: Some(error.body()),
                reason: Some(error.kind.reason().to_owned()),
            })
            .collect()
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
        let cause = &errors.causes()[1];
        assert_eq!(cause.reason.as_deref(), Some("FieldValueRequired"));
        assert_eq!(cause.message.as_deref(), Some("Required value"));
        assert_eq!(cause.field.as_deref(), Some("spec.selector"));
    }

    #[test]
    fn repeated_messages_show_once() {
        let mut errors = FieldErrors::default();
        errors.required(&Path::new("spec"), "");
        errors.required(&Path::new("spec"), "");
        assert_eq!(errors.to_string(), "spec: Required value");
    }
}
