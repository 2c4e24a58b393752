//! Validation of custom resources against their schema, and the field errors that all validation speaks in.

mod error;
mod format;
mod pattern;
mod unique;
mod walk;

pub use error::{FieldError, FieldErrorKind};
pub(crate) use format::Format;
pub(crate) use pattern::Pattern;
pub use walk::{Embedded, embedded, validate};
pub(crate) use walk::{check_value, embedded_in};

#[cfg(test)]
mod tests;
