//! Label and field selectors.

mod field;
mod label;

pub use field::{FieldRequirement, FieldSelector};
pub use label::{LabelSelector, Operator, Requirement};

/// The text or object is no selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// The string form is malformed.
    #[error("unable to parse requirement: {0}")]
    Syntax(String),
    /// A key or value breaks the rules for labels.
    #[error("{0}")]
    Label(String),
    /// The field selector is malformed.
    #[error("invalid selector: '{selector}'; can't understand '{term}'")]
    Field {
        /// The whole selector.
        selector: String,
        /// The term that has no operator.
        term: String,
    },
    /// An operator that label selectors do not have.
    #[error("\"{0}\" is not a valid label selector operator")]
    Operator(String),
}
