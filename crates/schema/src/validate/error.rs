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
    /// The value breaks a rule, and is too much to be shown.
    InvalidWhole,
    /// The value is none of an enumeration.
    NotSupported,
    /// The value occurs twice where it may once.
    Duplicate,
    /// The field may not be set, or not so.
    Forbidden,
    /// The text is longer than allowed.
    TooLong,
    /// The list has more items than allowed.
    TooMany,
    /// What the value names does not exist.
    NotFound,
    /// The value has another JSON type.
    TypeInvalid,
    /// The rule could not be checked.
    Internal,
}

impl FieldErrorKind {
    /// The `reason` of a cause in `metav1.Status`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid | Self::InvalidWhole => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::NotFound => "FieldValueNotFound",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::Internal => "InternalError",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Required => "Required value",
            Self::Invalid | Self::InvalidWhole | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Duplicate => "Duplicate value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::NotFound => "Not found",
            Self::Internal => "Internal error",
        }
    }

    fn shows_value(self) -> bool {
        !matches!(self, Self::Required | Self::InvalidWhole | Self::Forbidden | Self::TooLong | Self::Internal)
    }
}

/// One broken rule at one field. Displays as upstream: `spec.replicas: Invalid value: -1: must be …`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct FieldError {
    /// The sort of error.
    pub kind: FieldErrorKind,
    /// The field, for example `spec.containers[0].image`.
    pub path: String,
    /// What stands there.
    pub value: Value,
    /// The rule, empty when the kind says it all.
    pub detail: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message())
    }
}

impl FieldError {
    fn new(kind: FieldErrorKind, path: impl Into<String>, value: Value, detail: impl Into<String>) -> Self {
        Self { kind, path: path.into(), value, detail: detail.into() }
    }

    /// The message without the field, as a cause in `metav1.Status` has it.
    pub fn message(&self) -> String {
        let mut message = self.kind.words().to_owned();
        if self.kind.shows_value() {
            message.push_str(": ");
            match &self.value {
                Value::Null => message.push_str("\"null\""),
                value => message.push_str(&value.to_string()),
            }
        }
        if !self.detail.is_empty() {
            message.push_str(": ");
            message.push_str(&self.detail);
        }
        message
    }

    /// The field must be set.
    pub fn required(path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Required, path, Value::Null, detail)
    }

    /// The value breaks a rule.
    pub fn invalid(path: impl Into<String>, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Invalid, path, value.into(), detail)
    }

    /// The value breaks a rule as a whole: none of its parts is to blame.
    pub fn invalid_whole(path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::InvalidWhole, path, Value::Null, detail)
    }

    /// The value has another JSON type.
    pub fn type_invalid(path: impl Into<String>, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::TypeInvalid, path, value.into(), detail)
    }

    /// The value is none of the supported ones.
    pub fn not_supported(path: impl Into<String>, value: impl Into<Value>, supported: &[&str]) -> Self {
        let supported: Vec<String> = supported.iter().map(|value| format!("{value:?}")).collect();
        let detail =
            if supported.is_empty() { String::new() } else { format!("supported values: {}", supported.join(", ")) };
        Self::new(FieldErrorKind::NotSupported, path, value.into(), detail)
    }

    /// The value occurs a second time.
    pub fn duplicate(path: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::new(FieldErrorKind::Duplicate, path, value.into(), "")
    }

    /// The field may not be set, or not so.
    pub fn forbidden(path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Forbidden, path, Value::Null, detail)
    }

    /// The text is longer than allowed.
    pub fn too_long(path: impl Into<String>, max: u64) -> Self {
        let bytes = if max == 1 { "byte" } else { "bytes" };
        Self::new(FieldErrorKind::TooLong, path, Value::Null, format!("may not be more than {max} {bytes}"))
    }

    /// The list or map has more items than allowed.
    pub fn too_many(path: impl Into<String>, actual: usize, max: u64) -> Self {
        let items = if max == 1 { "item" } else { "items" };
        Self::new(FieldErrorKind::TooMany, path, actual.into(), format!("must have at most {max} {items}"))
    }

    /// What the value names does not exist.
    pub fn not_found(path: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::new(FieldErrorKind::NotFound, path, value.into(), "")
    }

    /// The rule could not be checked.
    pub fn internal(path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Internal, path, Value::Null, detail)
    }
}
