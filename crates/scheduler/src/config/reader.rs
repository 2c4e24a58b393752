//! Reads fields of a document and notes what is wrong with them, so that all faults are reported at once.

use std::fmt::Display;
use std::ops::RangeInclusive;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// The path of a field of the object at `path`.
pub(super) fn at(path: &str, field: &str) -> String {
    if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") }
}

/// Collects faults.
#[derive(Default)]
pub(super) struct Reader {
    pub(super) faults: Vec<String>,
}

impl Reader {
    /// Notes a fault.
    pub(super) fn fault(&mut self, path: &str, what: impl Display) {
        let place = if path.is_empty() { "configuration" } else { path };
        self.faults.push(format!("{place}: {what}"));
    }

    /// The fields of an object, of which all must be known.
    pub(super) fn object<'a>(
        &mut self,
        path: &str,
        value: &'a Value,
        known: &[&str],
    ) -> Option<&'a Map<String, Value>> {
        let Some(fields) = value.as_object() else {
            self.fault(path, "must be an object");
            return None;
        };
        for field in fields.keys().filter(|field| !known.contains(&field.as_str())) {
            self.fault(&at(path, field), "unknown field");
        }
        Some(fields)
    }

    /// The items of a list.
    pub(super) fn list<'a>(&mut self, path: &str, value: &'a Value) -> &'a [Value] {
        if let Some(list) = value.as_array() {
            return list;
        }
        if !value.is_null() {
            self.fault(path, "must be a list");
        }
        &[]
    }

    /// A text; none where it is absent.
    pub(super) fn text(&mut self, fields: &Map<String, Value>, path: &str, field: &str) -> Option<String> {
        let value = fields.get(field).filter(|value| !value.is_null())?;
        let text = value.as_str().map(str::to_owned);
        if text.is_none() {
            self.fault(&at(path, field), "must be a string");
        }
        text
    }

    /// A whole number within a range; none where it is absent.
    pub(super) fn integer(
        &mut self,
        fields: &Map<String, Value>,
        path: &str,
        field: &str,
        range: RangeInclusive<i64>,
    ) -> Option<i64> {
        let value = fields.get(field).filter(|value| !value.is_null())?;
        let number = value.as_i64().filter(|number| range.contains(number));
        if number.is_none() {
            let (least, most) = (range.start(), range.end());
            self.fault(&at(path, field), format!("invalid value {value}: not in valid range [{least}-{most}]"));
        }
        number
    }

    /// Whether something is so; none where it is absent.
    pub(super) fn boolean(&mut self, fields: &Map<String, Value>, path: &str, field: &str) -> Option<bool> {
        let value = fields.get(field).filter(|value| !value.is_null())?;
        if value.as_bool().is_none() {
            self.fault(&at(path, field), "must be true or false");
        }
        value.as_bool()
    }

    /// A part of the Kubernetes API.
    pub(super) fn typed<T: DeserializeOwned>(&mut self, path: &str, value: &Value) -> Option<T> {
        match T::deserialize(value) {
            Ok(typed) => Some(typed),
            Err(error) => {
                self.fault(path, error);
                None
            }
        }
    }
}
