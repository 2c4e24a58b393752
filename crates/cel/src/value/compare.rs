//! Equality and order across types.

use std::cmp::Ordering;

use super::{List, Map, Value};
use crate::error::EvalError;
use crate::types::ListKind;

/// 2^63 and 2^64, the first doubles that no `i64` and no `u64` can be.
const TWO_63: f64 = 9_223_372_036_854_775_808.0;
const TWO_64: f64 = 18_446_744_073_709_551_616.0;

impl Value<'_> {
    /// `==`. Numbers compare by value across types; values of different types are not equal.
    ///
    /// # Errors
    /// JSON inside one of them is not what its declared format says.
    pub fn equals(&self, other: &Value<'_>) -> Result<bool, EvalError> {
        Ok(match (self, other) {
            (Self::Null, Value::Null) => true,
            (Self::Bool(a), Value::Bool(b)) => a == b,
            (Self::String(a), Value::String(b)) => **a == **b,
            (Self::Bytes(a), Value::Bytes(b)) => a == b,
            (Self::Timestamp(a), Value::Timestamp(b)) => a == b,
            (Self::Duration(a), Value::Duration(b)) => a == b,
            (Self::List(a), Value::List(b)) => lists_equal(a, b)?,
            (Self::Map(a), Value::Map(b)) => maps_equal(a, b)?,
            (Self::Object(a), Value::Object(b)) => a.equals(b)?,
            (Self::Type(a), Value::Type(b)) => a.name() == b.name(),
            (Self::Optional(None), Value::Optional(None)) => true,
            (Self::Optional(Some(a)), Value::Optional(Some(b))) => a.equals(b)?,
            (Self::Opaque(a), Value::Opaque(b)) => a.equals(b.as_ref()),
            _ => numbers(self, other).is_some_and(|order| order == Some(Ordering::Equal)),
        })
    }

    /// The order of two numbers, texts, byte sequences, truth values, timestamps or durations.
    ///
    /// # Errors
    /// Values that have no order, or one of them is not a number.
    pub fn compare(&self, other: &Value<'_>) -> Result<Ordering, EvalError> {
        match (self, other) {
            (Self::Int(a), Value::Int(b)) => Ok(a.cmp(b)),
            (Self::Bool(a), Value::Bool(b)) => Ok(a.cmp(b)),
            (Self::String(a), Value::String(b)) => Ok((**a).cmp(b)),
            (Self::Bytes(a), Value::Bytes(b)) => Ok(a.cmp(b)),
            (Self::Timestamp(a), Value::Timestamp(b)) => Ok(a.cmp(b)),
            (Self::Duration(a), Value::Duration(b)) => Ok(a.cmp(b)),
            _ => match numbers(self, other) {
                Some(Some(order)) => Ok(order),
                Some(None) => Err(EvalError::other("NaN values cannot be ordered")),
                None => Err(EvalError::NoSuchOverload),
            },
        }
    }
}

/// The order of two numbers: `None` if one is no number, `Some(None)` if one is NaN.
fn numbers(a: &Value<'_>, b: &Value<'_>) -> Option<Option<Ordering>> {
    Some(match (a, b) {
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
        (Value::Uint(a), Value::Uint(b)) => Some(a.cmp(b)),
        (Value::Double(a), Value::Double(b)) => a.partial_cmp(b),
        (Value::Int(a), Value::Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Value::Uint(a), Value::Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Value::Int(a), Value::Double(b)) => integer_to_double(i128::from(*a), -TWO_63, TWO_63, *b),
        (Value::Uint(a), Value::Double(b)) => integer_to_double(i128::from(*a), 0.0, TWO_64, *b),
        (Value::Double(a), Value::Int(b)) => {
            integer_to_double(i128::from(*b), -TWO_63, TWO_63, *a).map(Ordering::reverse)
        }
        (Value::Double(a), Value::Uint(b)) => integer_to_double(i128::from(*b), 0.0, TWO_64, *a).map(Ordering::reverse),
        _ => return None,
    })
}

/// As doubles, unless the double is beyond what such integers can be.
fn integer_to_double(a: i128, min: f64, max: f64, b: f64) -> Option<Ordering> {
    if b < min {
        Some(Ordering::Greater)
    } else if b > max {
        Some(Ordering::Less)
    } else {
        (a as f64).partial_cmp(&b)
    }
}

fn lists_equal(a: &List<'_>, b: &List<'_>) -> Result<bool, EvalError> {
    if a.len() != b.len() {
        return Ok(false);
    }
    if *a.kind() != ListKind::Atomic || *b.kind() != ListKind::Atomic {
        return same_elements(a, b);
    }
    for (a, b) in a.iter().zip(b.iter()) {
        if !a?.equals(&b?)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Lists whose order does not matter and whose elements are distinct.
fn same_elements(a: &List<'_>, b: &List<'_>) -> Result<bool, EvalError> {
    let others = b.iter().collect::<Result<Vec<_>, _>>()?;
    'next: for item in a.iter() {
        let item = item?;
        for other in &others {
            if item.equals(other)? {
                continue 'next;
            }
        }
        return Ok(false);
    }
    Ok(true)
}

fn maps_equal(a: &Map<'_>, b: &Map<'_>) -> Result<bool, EvalError> {
    if a.len() != b.len() {
        return Ok(false);
    }
    for (key, value) in a.iter() {
        match b.get(&key)? {
            Some(other) if value?.equals(&other)? => {}
            _ => return Ok(false),
        }
    }
    Ok(true)
}
