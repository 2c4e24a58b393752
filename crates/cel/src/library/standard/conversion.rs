//! Conversions between types: `int()`, `uint()`, `double()`, `string()`, `bytes()`, `bool()`, `dyn()`, `type()`.

use std::sync::Arc;

use crate::cost::{CallEstimate, STRING_TRAVERSAL_FACTOR as TRAVERSAL, SizeEstimate, scale};
use crate::error::EvalError;
use crate::library::{Library, Overload};
use crate::number::format_double;
use crate::time;
use crate::types::Type;
use crate::value::Value;

type Result<T> = std::result::Result<T, EvalError>;

const INT: EvalError = EvalError::Overflow("integer");
const UINT: EvalError = EvalError::Overflow("unsigned integer");
/// 2^63 and 2^64 as doubles.
const TWO_63: f64 = 9_223_372_036_854_775_808.0;
const TWO_64: f64 = 18_446_744_073_709_551_616.0;

pub(super) fn library() -> Library {
    numbers().with(texts()).with(times())
}

/// A conversion.
fn one(id: &'static str, from: Type, to: Type) -> Overload {
    let target = to.clone();
    Overload::global(id, vec![from], to, move |_, args| convert(&args[0], &target))
}

fn numbers() -> Library {
    use Type::{Bool, Double, Duration, Int, String, Timestamp, Uint};
    Library::new()
        .function("bool", vec![one("bool_to_bool", Bool, Bool), one("string_to_bool", String, Bool)])
        .function(
            "int",
            vec![
                one("int64_to_int64", Int, Int),
                one("double_to_int64", Double, Int),
                one("duration_to_int64", Duration, Int),
                one("string_to_int64", String, Int),
                one("timestamp_to_int64", Timestamp, Int),
                one("uint64_to_int64", Uint, Int),
            ],
        )
        .function(
            "uint",
            vec![
                one("uint64_to_uint64", Uint, Uint),
                one("double_to_uint64", Double, Uint),
                one("int64_to_uint64", Int, Uint),
                one("string_to_uint64", String, Uint),
            ],
        )
        .function(
            "double",
            vec![
                one("double_to_double", Double, Double),
                one("int64_to_double", Int, Double),
                one("string_to_double", String, Double),
                one("uint64_to_double", Uint, Double),
            ],
        )
}

fn texts() -> Library {
    use Type::{Bool, Bytes, Double, Duration, Int, String, Timestamp, Uint};
    Library::new()
        .function(
            "string",
            vec![
                one("string_to_string", String, String),
                one("bool_to_string", Bool, String),
                one("bytes_to_string", Bytes, String).cost(traversal).estimate(|call| {
                    let size = call.size(0);
                    CallEstimate::sized(size.cost(TRAVERSAL), SizeEstimate::new(size.min / 4, size.max))
                }),
                one("double_to_string", Double, String),
                one("duration_to_string", Duration, String),
                one("int64_to_string", Int, String),
                one("timestamp_to_string", Timestamp, String),
                one("uint64_to_string", Uint, String),
            ],
        )
        .function(
            "bytes",
            vec![
                one("bytes_to_bytes", Bytes, Bytes),
                one("string_to_bytes", String, Bytes).cost(traversal).estimate(|call| {
                    let size = call.size(0);
                    CallEstimate::sized(size.cost(TRAVERSAL), SizeEstimate::new(size.min, size.max.saturating_mul(4)))
                }),
            ],
        )
}

fn times() -> Library {
    use Type::{Duration, Int, String, Timestamp};
    Library::new()
        .function(
            "timestamp",
            vec![
                one("timestamp_to_timestamp", Timestamp, Timestamp),
                one("int64_to_timestamp", Int, Timestamp),
                one("string_to_timestamp", String, Timestamp),
            ],
        )
        .function(
            "duration",
            vec![
                one("duration_to_duration", Duration, Duration),
                one("int64_to_duration", Int, Duration),
                one("string_to_duration", String, Duration),
            ],
        )
        .function(
            "dyn",
            vec![Overload::global("to_dyn", vec![Type::param("A")], Type::Dyn, |_, args| Ok(args[0].clone()))],
        )
        .function(
            "type",
            vec![Overload::global("type", vec![Type::param("A")], Type::type_of(Type::param("A")), |_, args| {
                Ok(Value::Type(Arc::new(args[0].ty())))
            })],
        )
}

fn traversal(args: &[Value<'_>], _: &Value<'_>) -> u64 {
    scale(args[0].size().unwrap_or(1), TRAVERSAL)
}

fn convert<'a>(value: &Value<'a>, to: &Type) -> Result<Value<'a>> {
    if value.is_of(to) {
        return Ok(value.clone());
    }
    match to {
        Type::Bool => to_bool(value).map(Value::Bool),
        Type::Int => to_int(value).map(Value::Int),
        Type::Uint => to_uint(value).map(Value::Uint),
        Type::Double => to_double(value).map(Value::Double),
        Type::String => to_string(value).map(Value::string),
        Type::Bytes => Ok(Value::Bytes(value.str()?.as_bytes().into())),
        Type::Timestamp => match value {
            Value::Int(seconds) => time::from_seconds(*seconds),
            other => time::parse_timestamp(other.str()?),
        }
        .map(Value::Timestamp),
        Type::Duration => match value {
            Value::Int(nanos) => Ok(*nanos),
            other => time::parse_duration(other.str()?),
        }
        .map(Value::Duration),
        _ => Err(EvalError::NoSuchOverload),
    }
}

fn to_bool(value: &Value<'_>) -> Result<bool> {
    match value.str()? {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(EvalError::conversion("string", "bool")),
    }
}

fn to_int(value: &Value<'_>) -> Result<i64> {
    match value {
        Value::Uint(value) => i64::try_from(*value).map_err(|_| INT),
        Value::Double(value) if value.abs() < TWO_63 => Ok(*value as i64),
        Value::Double(_) => Err(INT),
        Value::Timestamp(at) => Ok(time::seconds(*at)),
        Value::Duration(nanos) => Ok(*nanos),
        other => {
            let text = other.str()?;
            // A sign is allowed, white space and separators are not.
            text.parse().map_err(|_| EvalError::conversion("string", "int"))
        }
    }
}

fn to_uint(value: &Value<'_>) -> Result<u64> {
    match value {
        Value::Int(value) => u64::try_from(*value).map_err(|_| UINT),
        Value::Double(value) if (0.0..TWO_64).contains(value) => Ok(*value as u64),
        Value::Double(_) => Err(UINT),
        other => {
            let text = other.str()?;
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|_| digits).ok_or_else(|| EvalError::conversion("string", "uint"))
        }
    }
}

fn to_double(value: &Value<'_>) -> Result<f64> {
    match value {
        Value::Int(value) => Ok(*value as f64),
        Value::Uint(value) => Ok(*value as f64),
        other => other.str()?.parse().map_err(|_| EvalError::conversion("string", "double")),
    }
}

fn to_string(value: &Value<'_>) -> Result<String> {
    Ok(match value {
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Uint(value) => value.to_string(),
        Value::Double(value) => format_double(*value),
        Value::Bytes(bytes) => std::str::from_utf8(bytes)
            .map_err(|_| EvalError::other("invalid UTF-8 in bytes, cannot convert to string"))?
            .to_owned(),
        Value::Timestamp(at) => time::format_timestamp(*at),
        Value::Duration(nanos) => time::format_duration(*nanos),
        _ => return Err(EvalError::NoSuchOverload),
    })
}
