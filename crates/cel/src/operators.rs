//! What the operators do with values.

use std::sync::Arc;

use crate::error::EvalError;
use crate::time;
use crate::types::ListKind;
use crate::value::{List, Value};

type Result<T> = std::result::Result<T, EvalError>;

const INT: EvalError = EvalError::Overflow("integer");
const UINT: EvalError = EvalError::Overflow("unsigned integer");

/// `a + b`
pub(crate) fn add<'a>(a: &Value<'a>, b: &Value<'a>) -> Result<Value<'a>> {
    Ok(match (a, b) {
        (Value::Int(a), Value::Int(b)) => Value::Int(a.checked_add(*b).ok_or(INT)?),
        (Value::Uint(a), Value::Uint(b)) => Value::Uint(a.checked_add(*b).ok_or(UINT)?),
        (Value::Double(a), Value::Double(b)) => Value::Double(a + b),
        (Value::String(a), Value::String(b)) => {
            let mut text = String::with_capacity(a.len() + b.len());
            text.push_str(a);
            text.push_str(b);
            Value::string(text)
        }
        (Value::Bytes(a), Value::Bytes(b)) => Value::Bytes([&**a, &**b].concat().into()),
        (Value::List(a), Value::List(b)) => Value::List(join(a, b)?),
        (Value::Duration(a), Value::Duration(b)) => Value::Duration(a.checked_add(*b).ok_or(INT)?),
        (Value::Timestamp(at), Value::Duration(by)) | (Value::Duration(by), Value::Timestamp(at)) => {
            Value::Timestamp(time::shift(*at, *by, false)?)
        }
        _ => return Err(EvalError::NoSuchOverload),
    })
}

/// One list after the other; lists declared as sets and maps keep elements apart as those do.
fn join<'a>(a: &List<'a>, b: &List<'a>) -> Result<List<'a>> {
    if b.is_empty() {
        return Ok(a.clone());
    }
    let mut items = a.iter().collect::<Result<Vec<_>>>()?;
    match a.kind() {
        ListKind::Atomic => {
            for item in b.iter() {
                items.push(item?);
            }
        }
        ListKind::Set => {
            for item in b.iter() {
                let item = item?;
                if !contains(&items, &item)? {
                    items.push(item);
                }
            }
        }
        ListKind::Map(keys) => {
            for item in b.iter() {
                let item = item?;
                let mut place = None;
                for (at, own) in items.iter().enumerate() {
                    if same_keys(own, &item, keys)? {
                        place = Some(at);
                    }
                }
                match place {
                    Some(at) => items[at] = item,
                    None => items.push(item),
                }
            }
        }
    }
    Ok(List::new(items))
}

fn contains(items: &[Value<'_>], item: &Value<'_>) -> Result<bool> {
    for own in items {
        if own.equals(item)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn same_keys(a: &Value<'_>, b: &Value<'_>, keys: &[String]) -> Result<bool> {
    for key in keys {
        match (member(a, key)?, member(b, key)?) {
            (Some(a), Some(b)) if a.equals(&b)? => {}
            (None, None) => {}
            _ => return Ok(false),
        }
    }
    Ok(true)
}

/// `a - b`
pub(crate) fn subtract<'a>(a: &Value<'a>, b: &Value<'a>) -> Result<Value<'a>> {
    Ok(match (a, b) {
        (Value::Int(a), Value::Int(b)) => Value::Int(a.checked_sub(*b).ok_or(INT)?),
        (Value::Uint(a), Value::Uint(b)) => Value::Uint(a.checked_sub(*b).ok_or(UINT)?),
        (Value::Double(a), Value::Double(b)) => Value::Double(a - b),
        (Value::Duration(a), Value::Duration(b)) => Value::Duration(a.checked_sub(*b).ok_or(INT)?),
        (Value::Timestamp(a), Value::Timestamp(b)) => Value::Duration(time::between(*a, *b)?),
        (Value::Timestamp(at), Value::Duration(by)) => Value::Timestamp(time::shift(*at, *by, true)?),
        _ => return Err(EvalError::NoSuchOverload),
    })
}

/// `a * b`
pub(crate) fn multiply<'a>(a: &Value<'a>, b: &Value<'a>) -> Result<Value<'a>> {
    Ok(match (a, b) {
        (Value::Int(a), Value::Int(b)) => Value::Int(a.checked_mul(*b).ok_or(INT)?),
        (Value::Uint(a), Value::Uint(b)) => Value::Uint(a.checked_mul(*b).ok_or(UINT)?),
        (Value::Double(a), Value::Double(b)) => Value::Double(a * b),
        _ => return Err(EvalError::NoSuchOverload),
    })
}

/// `a / b`
pub(crate) fn divide<'a>(a: &Value<'a>, b: &Value<'a>) -> Result<Value<'a>> {
    Ok(match (a, b) {
        (Value::Int(_), Value::Int(0)) | (Value::Uint(_), Value::Uint(0)) => return Err(EvalError::DivisionByZero),
        (Value::Int(a), Value::Int(b)) => Value::Int(a.checked_div(*b).ok_or(INT)?),
        (Value::Uint(a), Value::Uint(b)) => Value::Uint(a / b),
        (Value::Double(a), Value::Double(b)) => Value::Double(a / b),
        _ => return Err(EvalError::NoSuchOverload),
    })
}

/// `a % b`
pub(crate) fn modulo<'a>(a: &Value<'a>, b: &Value<'a>) -> Result<Value<'a>> {
    Ok(match (a, b) {
        (Value::Int(_), Value::Int(0)) | (Value::Uint(_), Value::Uint(0)) => return Err(EvalError::ModulusByZero),
        (Value::Int(a), Value::Int(b)) => Value::Int(a.checked_rem(*b).ok_or(INT)?),
        (Value::Uint(a), Value::Uint(b)) => Value::Uint(a % b),
        _ => return Err(EvalError::NoSuchOverload),
    })
}

/// `-a`
pub(crate) fn negate<'a>(a: &Value<'a>) -> Result<Value<'a>> {
    Ok(match a {
        Value::Int(a) => Value::Int(a.checked_neg().ok_or(INT)?),
        Value::Double(a) => Value::Double(-a),
        Value::Duration(a) => Value::Duration(a.checked_neg().ok_or(INT)?),
        _ => return Err(EvalError::NoSuchOverload),
    })
}

/// `a in b`
pub(crate) fn is_in(a: &Value<'_>, b: &Value<'_>) -> Result<bool> {
    match b {
        Value::List(list) => {
            for item in list.iter() {
                if item?.equals(a)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        Value::Map(map) => Ok(map.contains(a)),
        Value::Object(object) => Ok(matches!(a, Value::String(name) if object.has(name))),
        _ => Err(EvalError::NoSuchOverload),
    }
}

/// The entry or field of a name, if there is one; values without entries have none.
fn member<'a>(operand: &Value<'a>, name: &str) -> Result<Option<Value<'a>>> {
    match operand {
        Value::Map(map) => map.get_str(name),
        Value::Object(object) => object.get(name),
        _ => Ok(None),
    }
}

/// `operand.name`
pub(crate) fn select<'a>(operand: &Value<'a>, name: &str) -> Result<Value<'a>> {
    let found = match operand {
        Value::Map(map) => map.get_str(name)?,
        Value::Object(object) => object.get(name)?,
        Value::Optional(Some(value)) => return select_optional(value, name),
        Value::Optional(None) => return Ok(Value::none()),
        Value::List(_) => return Err(EvalError::other("unsupported index type 'string' in list")),
        _ => None,
    };
    found.ok_or_else(|| EvalError::NoSuchKey(name.into()))
}

/// `operand.?name`
pub(crate) fn select_optional<'a>(operand: &Value<'a>, name: &str) -> Result<Value<'a>> {
    let found = match operand {
        Value::Map(map) => map.get_str(name)?,
        Value::Object(object) => object.get(name)?,
        Value::Optional(Some(value)) => return select_optional(value, name),
        Value::List(_) => return Err(EvalError::other("unsupported index type 'string' in list")),
        _ => None,
    };
    Ok(Value::Optional(found.map(Arc::new)))
}

/// `has(operand.name)`
pub(crate) fn has(operand: &Value<'_>, name: &str) -> Result<bool> {
    match operand {
        Value::Map(map) => Ok(map.get_str(name)?.is_some()),
        Value::Object(object) => Ok(object.has(name)),
        Value::Optional(Some(value)) => has(value, name),
        Value::List(_) => Err(EvalError::other("unsupported index type 'string' in list")),
        _ => Ok(false),
    }
}

/// The position that an index means, if it means one.
fn position(index: &Value<'_>) -> Result<i64> {
    match index {
        Value::Int(at) => Ok(*at),
        Value::Uint(at) => i64::try_from(*at).map_err(|_| EvalError::IndexOutOfBounds(i64::MAX)),
        Value::Double(at) if at.fract() == 0.0 && at.abs() < 9.2e18 => Ok(*at as i64),
        Value::Double(_) => Err(EvalError::other(format!("unsupported index value {index} in list"))),
        other => Err(EvalError::other(format!("unsupported index type '{}' in list", other.ty().name()))),
    }
}

fn element<'a>(list: &List<'a>, at: i64) -> Result<Option<Value<'a>>> {
    usize::try_from(at).ok().and_then(|at| list.get(at)).transpose()
}

/// `operand[index]`
pub(crate) fn index<'a>(operand: &Value<'a>, index: &Value<'_>) -> Result<Value<'a>> {
    match operand {
        Value::List(list) => {
            let at = position(index)?;
            element(list, at)?.ok_or(EvalError::IndexOutOfBounds(at))
        }
        Value::Map(map) => map.get(index)?.ok_or_else(|| EvalError::NoSuchKey(index.to_string().into())),
        Value::Object(_) => select(operand, index.str()?),
        Value::Optional(_) => index_optional(operand, index),
        _ => Err(EvalError::NoSuchKey(index.to_string().into())),
    }
}

/// `operand[?index]`
pub(crate) fn index_optional<'a>(operand: &Value<'a>, index: &Value<'_>) -> Result<Value<'a>> {
    let found = match operand {
        Value::List(list) => element(list, position(index)?)?,
        Value::Map(map) => map.get(index)?,
        Value::Object(object) => object.get(index.str()?)?,
        Value::Optional(Some(value)) => return index_optional(value, index),
        _ => None,
    };
    Ok(Value::Optional(found.map(Arc::new)))
}

/// Whether `optional.ofNonZeroValue` takes the value for absent.
pub(crate) fn is_zero(value: &Value<'_>) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Int(value) => *value == 0,
        Value::Uint(value) => *value == 0,
        Value::Double(value) => *value == 0.0,
        Value::Duration(value) => *value == 0,
        Value::Timestamp(at) => *at == time::FIRST,
        Value::String(text) => text.is_empty(),
        Value::Bytes(bytes) => bytes.is_empty(),
        Value::List(list) => list.is_empty(),
        Value::Map(map) => map.is_empty(),
        Value::Optional(value) => value.is_none(),
        Value::Object(object) => object.ty().fields().iter().all(|field| !object.has(&field.name)),
        Value::Type(_) | Value::Opaque(_) => false,
    }
}
