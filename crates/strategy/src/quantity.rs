//! Reading quantities from the generic tree.

use schema::quantity::{Format, Quantity, QuantityError};
use serde_json::Value;

use crate::field_error::{FieldErrors, Path};

/// The quantity in `value`; `None` when it is none.
pub fn parse(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => Quantity::parse(text).ok(),
        Value::Number(number) => Quantity::parse(&number.to_string()).ok(),
        _ => None,
    }
}

/// Whether the quantity has no fraction.
pub(crate) fn is_whole(quantity: &Quantity) -> bool {
    Quantity::from_units(quantity.units(), Format::DecimalSi) == *quantity
}

/// Checks that `value` is a quantity that is not negative; gives it back when it is.
pub(crate) fn validate_non_negative(value: &Value, path: &Path<'_>, errors: &mut FieldErrors) -> Option<Quantity> {
    let Some(quantity) = parse(value) else {
        errors.invalid(path, value.clone(), QuantityError.to_string());
        return None;
    };
    if quantity.is_negative() {
        errors.invalid(path, value.clone(), "must be greater than or equal to 0");
        return None;
    }
    Some(quantity)
}

/// Checks that `value` is a quantity above zero.
pub(crate) fn validate_positive(value: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    match parse(value) {
        None => errors.invalid(path, value.clone(), QuantityError.to_string()),
        Some(quantity) if quantity.is_negative() || quantity.is_zero() => {
            errors.invalid(path, value.clone(), "must be greater than zero");
        }
        Some(_) => {}
    }
}
