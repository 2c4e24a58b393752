//! What goes wrong when an expression runs.

/// Why an expression has no value.
///
/// Texts are the ones that users of the reference implementation know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// No implementation takes values of these types.
    #[error("no such overload")]
    NoSuchOverload,
    /// A map or object has no such entry.
    #[error("no such key: {0}")]
    NoSuchKey(Box<str>),
    /// A list is shorter.
    #[error("index out of bounds: {0}")]
    IndexOutOfBounds(i64),
    /// Division of integers by zero.
    #[error("division by zero")]
    DivisionByZero,
    /// Remainder of a division by zero.
    #[error("modulus by zero")]
    ModulusByZero,
    /// The result does not fit its type; holds the name of the type.
    #[error("{0} overflow")]
    Overflow(&'static str),
    /// Anything else, in the words of the function that failed.
    #[error("{0}")]
    Other(Box<str>),
    /// The cost budget is used up. Nothing absorbs this error.
    #[error("operation cancelled: actual cost limit exceeded")]
    BudgetExceeded,
}

impl EvalError {
    /// An error in the words of a function.
    pub fn other(text: impl Into<Box<str>>) -> Self {
        Self::Other(text.into())
    }

    /// A value of one type could not become one of another.
    pub fn conversion(from: &str, to: &str) -> Self {
        Self::other(format!("type conversion error from '{from}' to '{to}'"))
    }
}
