//! Validation of custom resources against their schema, and the field errors that all validation speaks in.

mod error;
mod walk;

pub use error::{FieldError, FieldErrorKind};
pub use walk::validate;

#[cfg(test)]
mod tests;
