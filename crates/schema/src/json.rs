//! JSON from clients: like `serde_json`, and fields that occur twice in one object are reported.
//!
//! The last occurrence wins, as in Go. Nesting is bounded by `serde_json` at 128 levels.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::path::Path;

/// Upstream stops collecting strict errors at 100 too: the answer stays readable and the list bounded.
const MAX_REPORTED: usize = 100;

/// A field that occurs more than once in its object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("duplicate field \"{path}\"")]
pub struct DuplicateField {
    /// Where, for example `spec.containers[0].image`.
    pub path: String,
}

/// The text is not JSON.
#[derive(Debug, thiserror::Error)]
#[error("couldn't get version/kind; json parse error: {source}")]
pub struct ParseError {
    #[from]
    source: serde_json::Error,
}

/// Parses one JSON document.
pub fn parse(bytes: &[u8]) -> Result<(Value, Vec<DuplicateField>), ParseError> {
    let duplicates = RefCell::new(Vec::new());
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Tree { path: Path::Root, duplicates: &duplicates }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok((value, duplicates.into_inner()))
}

struct Tree<'a> {
    path: Path<'a>,
    duplicates: &'a RefCell<Vec<DuplicateField>>,
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any valid JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        loop {
            let path = Path::Item(&self.path, items.len());
            match access.next_element_seed(Tree { path, duplicates: self.duplicates })? {
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = access.next_key::<String>()? {
            let path = Path::Field(&self.path, &name);
            let value = access.next_value_seed(Tree { path, duplicates: self.duplicates })?;
            if map.contains_key(&name) {
                let mut duplicates = self.duplicates.try_borrow_mut().map_err(A::Error::custom)?;
                if duplicates.len() < MAX_REPORTED {
                    duplicates.push(DuplicateField { path: Path::Field(&self.path, &name).to_string() });
                }
            }
            map.insert(name, value);
        }
        Ok(Value::Object(map))
    }
}

pub(crate) fn collect<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(Value, Vec<DuplicateField>), D::Error> {
    let duplicates = RefCell::new(Vec::new());
    let value = Tree { path: Path::Root, duplicates: &duplicates }.deserialize(deserializer)?;
    Ok((value, duplicates.into_inner()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicates_are_reported_with_their_path_and_the_last_wins() {
        let (value, duplicates) = parse(br#"{"spec":{"c":[{"i":1,"i":2}]},"spec":{"c":[{"i":1,"i":3}]}}"#).unwrap();
        assert_eq!(value, serde_json::json!({"spec": {"c": [{"i": 3}]}}));
        let paths: Vec<String> = duplicates.iter().map(ToString::to_string).collect();
        let inner = "duplicate field \"spec.c[0].i\"";
        assert_eq!(paths, [inner, inner, "duplicate field \"spec\""]);
    }

    #[test]
    fn parsing_agrees_with_serde_json() {
        let text = r#"{"a":[1,-2,3.5,18446744073709551615,"x",null,true,{}],"b":{"c":"\u00e9"}}"#;
        assert_eq!(parse(text.as_bytes()).unwrap().0, serde_json::from_str::<Value>(text).unwrap());
        assert!(parse(b"{} x").is_err());
    }

    #[test]
    fn nesting_is_bounded() {
        assert!(parse("[".repeat(100_000).as_bytes()).is_err());
    }
}
