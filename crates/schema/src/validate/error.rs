//! One broken rule at one field, in upstream's words.

use std::fmt;

use serde_json::Value;

/// The sort of a [`FieldError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldErrorKind {
    /// The field must be set.
    Required,
    /// The value breaks a rule.
    Invalid,
    /// The value is none of an enumeration.
    NotSupported,
    /// The value occurs twice where it may once.
    Duplicate,
    /// The field may not be set, or not so.
    Forbidden,
    /// What the value names does not exist.
    NotFound,
    /// The text is longer than allowed.
    TooLong,
    /// The list has more items than allowed.
    TooMany,
    /// The value has another JSON type.
    TypeInvalid,
}

impl FieldErrorKind {
    /// The `reason` of a cause in `metav1.Status`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Forbidden => "FieldValueForbidden",
            Self::NotFound => "FieldValueNotFound",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }
}

/// One broken rule at one field. Displays as upstream: `spec.replicas: Invalid value: -1: must be …`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct FieldError {
    /// The sort of error.
    pub kind: FieldErrorKind,
    /// The field, for example `spec.containers[0].image`.
    pub path: String,
    /// The message without the field, as a cause in `metav1.Status` has it.
    pub message: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

fn with_detail(head: String, detail: &str) -> String {
    if detail.is_empty() { head } else { format!("{head}: {detail}") }
}

impl FieldError {
    fn new(kind: FieldErrorKind, path: impl Into<String>, message: String) -> Self {
        Self { kind, path: path.into(), message }
    }

    /// The field must be set.
    pub fn required(path: impl Into<String>, detail: &str) -> Self {
        Self::new(FieldErrorKind::Required, path, with_detail("Required value".to_owned(), detail))
    }

    /// The value breaks a rule.
    pub fn invalid(path: impl Into<String>, value: &Value, detail: &str) -> Self {
        Self::new(FieldErrorKind::Invalid, path, with_detail(format!("Invalid value: {value}"), detail))
    }

    /// The value has another JSON type.
    pub fn type_invalid(path: impl Into<String>, value: &Value, detail: &str) -> Self {
        Self::new(FieldErrorKind::TypeInvalid, path, with_detail(format!("Invalid value: {value}"), detail))
    }

    /// The value is none of the supported ones.
    pub fn not_supported(path: impl Into<String>, value: &Value, supported: &[&str]) -> Self {
        let supported: Vec<String> = supported.iter().map(|value| format!("{value:?}")).collect();
        let message = format!("Unsupported value: {value}: supported values: {}", supported.join(", "));
        Self::new(FieldErrorKind::NotSupported, path, message)
    }

    /// The value occurs a second time.
    pub fn duplicate(path: impl Into<String>, value: &Value) -> Self {
        Self::new(FieldErrorKind::Duplicate, path, format!("Duplicate value: {value}"))
    }

    /// The field may not be set, or not so.
    pub fn forbidden(path: impl Into<String>, detail: &str) -> Self {
        Self::new(FieldErrorKind::Forbidden, path, with_detail("Forbidden".to_owned(), detail))
    }

    /// What the value names does not exist.
    pub fn not_found(path: impl Into<String>, value: &Value) -> Self {
        Self::new(FieldErrorKind::NotFound, path, format!("Not found: {value}"))
    }

    /// The text has more bytes than allowed.
    pub fn too_long(path: impl Into<String>, max: u64) -> Self {
        Self::new(FieldErrorKind::TooLong, path, format!("Too long: may not be more than {max} bytes"))
    }

    /// The list or map has more items than allowed.
    pub fn too_many(path: impl Into<String>, actual: usize, max: u64) -> Self {
        let items = if max == 1 { "item" } else { "items" };
        let message = format!("Too many: {actual}: must have at most {max} {items}");
        Self::new(FieldErrorKind::TooMany, path, message)
    }
}
