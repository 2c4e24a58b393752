//! JSON as values of declared types, without copying.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value as Json;

use super::{List, Map, Object, Str, Value};
use crate::error::EvalError;
use crate::time;
use crate::types::{DYN_LIST, DYN_MAP, Type};

impl<'a> Value<'a> {
    /// A view of a JSON value as a declared type.
    ///
    /// Integers are `int`, never `uint`. Text is a timestamp, duration or bytes where the type says so. JSON of another
    /// shape than declared is viewed as what it is, as if it were `dyn`: validation against the schema comes first.
    ///
    /// # Errors
    /// Text that is not in the declared format.
    pub fn json(json: &'a Json, ty: &'a Type) -> Result<Self, EvalError> {
        Ok(match (json, ty) {
            (Json::Null, _) => Self::Null,
            (Json::Bool(value), _) => Self::Bool(*value),
            (Json::Number(number), Type::Double) => Self::Double(number.as_f64().unwrap_or(f64::NAN)),
            (Json::Number(number), Type::Int) => match (number.as_i64(), number.as_f64()) {
                (Some(value), _) => Self::Int(value),
                (None, Some(value)) if value.fract() == 0.0 && value.abs() < 9.2e18 => Self::Int(value as i64),
                (None, value) => Self::Double(value.unwrap_or(f64::NAN)),
            },
            (Json::Number(number), _) => match number.as_i64() {
                Some(value) => Self::Int(value),
                None => Self::Double(number.as_f64().unwrap_or(f64::NAN)),
            },
            (Json::String(text), Type::Timestamp) => Self::Timestamp(time::parse_date_time(text)?),
            (Json::String(text), Type::Duration) => Self::Duration(time::parse_declared_duration(text)?),
            (Json::String(text), Type::Bytes) => match STANDARD.decode(text) {
                Ok(bytes) => Self::Bytes(bytes.into()),
                Err(error) => {
                    return Err(EvalError::other(format!("Invalid byte formatted string {text}: {error}")));
                }
            },
            (Json::String(text), _) => Self::String(Str::Borrowed(text)),
            (Json::Array(items), Type::List(ty)) => Self::List(List::json(items, ty)),
            (Json::Array(items), _) => Self::List(List::json(items, &DYN_LIST)),
            (Json::Object(fields), Type::Object(ty)) => Self::Object(Object::json(fields, ty)),
            (Json::Object(entries), Type::Map(ty)) => Self::Map(Map::json(entries, ty)),
            (Json::Object(entries), _) => Self::Map(Map::json(entries, &DYN_MAP)),
        })
    }

    /// A view of JSON of no declared type.
    pub fn dynamic(json: &'a Json) -> Self {
        // Only declared formats can fail.
        Self::json(json, &crate::types::DYN).unwrap_or(Self::Null)
    }
}
