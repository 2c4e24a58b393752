//! Maps and objects: entries of their own, or views of a JSON object.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde_json::Value as Json;

use super::{Str, Value};
use crate::error::EvalError;
use crate::types::{Field, MapType, ObjectType};

/// From this many entries on a map is looked up by hash rather than one by one.
const INDEXED_ENTRIES_MIN: usize = 8;

type JsonMap = serde_json::Map<String, Json>;

/// A map.
#[derive(Clone, Debug)]
pub struct Map<'a>(Entries<'a>);

#[derive(Clone, Debug)]
enum Entries<'a> {
    Own(Arc<Own<'a>>),
    Json(&'a JsonMap, &'a MapType),
}

#[derive(Debug)]
struct Own<'a> {
    entries: Vec<(Value<'a>, Value<'a>)>,
    index: HashMap<Key, usize>,
}

/// A key as maps tell keys apart: numbers of equal value are one key.
#[derive(Clone, Debug)]
pub(crate) enum Key {
    Bool(bool),
    Int(i64),
    /// Only what no `i64` can be.
    Uint(u64),
    String(Arc<str>),
}

impl Key {
    /// The key of a value; `None` for values that no map has as a key.
    pub(crate) fn of(value: &Value<'_>) -> Option<Self> {
        Some(match value {
            Value::Bool(value) => Self::Bool(*value),
            Value::Int(value) => Self::Int(*value),
            Value::Uint(value) => i64::try_from(*value).map_or(Self::Uint(*value), Self::Int),
            Value::Double(value) => {
                let (min, max) = (-9_223_372_036_854_775_808.0, 9_223_372_036_854_775_808.0);
                if value.fract() != 0.0 || !value.is_finite() {
                    return None;
                } else if (min..max).contains(value) {
                    Self::Int(*value as i64)
                } else if (max..2.0 * max).contains(value) {
                    Self::Uint(*value as u64)
                } else {
                    return None;
                }
            }
            Value::String(Str::Shared(text)) => Self::String(Arc::clone(text)),
            Value::String(Str::Borrowed(text)) => Self::String((*text).into()),
            _ => return None,
        })
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Int(a), Self::Int(b)) => a == b,
            (Self::Uint(a), Self::Uint(b)) => a == b,
            (Self::String(a), Self::String(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::Bool(value) => value.hash(state),
            Self::Int(value) => value.hash(state),
            Self::Uint(value) => value.hash(state),
            Self::String(text) => text.hash(state),
        }
    }
}

impl<'a> Map<'a> {
    /// A map of these entries, in their order.
    ///
    /// # Errors
    /// A key that is no bool, integer or text, or that occurs twice.
    pub fn new(entries: Vec<(Value<'a>, Value<'a>)>) -> Result<Self, EvalError> {
        let mut index = HashMap::new();
        if entries.len() >= INDEXED_ENTRIES_MIN {
            for (at, (key, _)) in entries.iter().enumerate() {
                let (Some(own), false) = (Key::of(key), matches!(key, Value::Double(_))) else {
                    return Err(unsupported_key(key));
                };
                if index.insert(own, at).is_some() {
                    return Err(repeated_key(key));
                }
            }
        } else {
            for (at, (key, _)) in entries.iter().enumerate() {
                if !matches!(key, Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::String(_)) {
                    return Err(unsupported_key(key));
                }
                if entries[..at].iter().any(|(other, _)| other.equals(key) == Ok(true)) {
                    return Err(repeated_key(key));
                }
            }
        }
        Ok(Self(Entries::Own(Arc::new(Own { entries, index }))))
    }

    /// A map of these entries, of which the last one counts where a key occurs again.
    ///
    /// # Errors
    /// A key that is no bool, integer or text.
    pub(crate) fn last_of(entries: Vec<(Value<'a>, Value<'a>)>) -> Result<Self, EvalError> {
        let mut places: HashMap<Key, usize> = HashMap::new();
        let mut kept: Vec<(Value<'a>, Value<'a>)> = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            match Key::of(&key).and_then(|own| places.insert(own, kept.len())) {
                Some(place) => {
                    kept[place].1 = value;
                    Key::of(&key).and_then(|own| places.insert(own, place));
                }
                None => kept.push((key, value)),
            }
        }
        Self::new(kept)
    }

    /// A view of a JSON object as a map.
    pub fn json(entries: &'a JsonMap, ty: &'a MapType) -> Self {
        Self(Entries::Json(entries, ty))
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        match &self.0 {
            Entries::Own(own) => own.entries.len(),
            Entries::Json(entries, _) => entries.len(),
        }
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of a key, if the map has it.
    ///
    /// # Errors
    /// The JSON there is not what its declared format says.
    pub fn get(&self, key: &Value<'_>) -> Result<Option<Value<'a>>, EvalError> {
        match &self.0 {
            Entries::Json(..) => match key {
                Value::String(text) => self.get_str(text),
                _ => Ok(None),
            },
            Entries::Own(own) if own.index.is_empty() => Ok(own.find(|other| other.equals(key) == Ok(true))),
            Entries::Own(own) => {
                Ok(Key::of(key).and_then(|key| own.index.get(&key)).map(|at| own.entries[*at].1.clone()))
            }
        }
    }

    /// The value of a text key, if the map has it.
    ///
    /// # Errors
    /// The JSON there is not what its declared format says.
    pub fn get_str(&self, key: &str) -> Result<Option<Value<'a>>, EvalError> {
        match &self.0 {
            Entries::Json(entries, ty) => entries.get(key).map(|json| Value::json(json, &ty.value)).transpose(),
            Entries::Own(own) if own.index.is_empty() => {
                Ok(own.find(|other| matches!(other, Value::String(text) if **text == *key)))
            }
            Entries::Own(_) => self.get(&Value::String(Str::Borrowed(key))),
        }
    }

    /// Whether the map has a key.
    pub fn contains(&self, key: &Value<'_>) -> bool {
        match (&self.0, key) {
            (Entries::Json(entries, _), Value::String(text)) => entries.contains_key(&**text),
            (Entries::Json(..), _) => false,
            (Entries::Own(own), _) if own.index.is_empty() => own.find(|other| other.equals(key) == Ok(true)).is_some(),
            (Entries::Own(own), _) => Key::of(key).is_some_and(|key| own.index.contains_key(&key)),
        }
    }

    /// All entries.
    pub fn iter(&self) -> MapIter<'_, 'a> {
        MapIter(match &self.0 {
            Entries::Own(own) => Iter::Own(own.entries.iter()),
            Entries::Json(entries, ty) => Iter::Json(entries.iter(), ty),
        })
    }
}

impl<'a> Own<'a> {
    fn find(&self, is: impl Fn(&Value<'a>) -> bool) -> Option<Value<'a>> {
        self.entries.iter().find(|(key, _)| is(key)).map(|(_, value)| value.clone())
    }
}

fn unsupported_key(key: &Value<'_>) -> EvalError {
    EvalError::other(format!("unsupported key type: {}", key.ty().name()))
}

fn repeated_key(key: &Value<'_>) -> EvalError {
    EvalError::other(format!("Failed with repeated key: {key}"))
}

/// The entries of a [`Map`].
#[derive(Debug)]
pub struct MapIter<'m, 'a>(Iter<'m, 'a>);

#[derive(Debug)]
enum Iter<'m, 'a> {
    Own(std::slice::Iter<'m, (Value<'a>, Value<'a>)>),
    Json(serde_json::map::Iter<'a>, &'a MapType),
}

impl<'a> Iterator for MapIter<'_, 'a> {
    type Item = (Value<'a>, Result<Value<'a>, EvalError>);

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            Iter::Own(entries) => entries.next().map(|(key, value)| (key.clone(), Ok(value.clone()))),
            Iter::Json(entries, ty) => {
                entries.next().map(|(key, json)| (Value::String(Str::Borrowed(key)), Value::json(json, &ty.value)))
            }
        }
    }
}

/// An object with declared fields.
#[derive(Clone, Debug)]
pub struct Object<'a>(Fields<'a>);

#[derive(Clone, Debug)]
enum Fields<'a> {
    Own(Arc<OwnObject<'a>>),
    Json(&'a JsonMap, &'a Arc<ObjectType>),
}

#[derive(Debug)]
struct OwnObject<'a> {
    ty: Arc<ObjectType>,
    fields: Vec<(Arc<str>, Value<'a>)>,
}

/// The JSON of a declared field, unless it is null.
fn set<'a>(fields: &'a JsonMap, field: &Field) -> Option<&'a Json> {
    fields.get(&*field.key).filter(|json| !json.is_null())
}

impl<'a> Object<'a> {
    /// An object made by an expression.
    pub(crate) fn new(ty: Arc<ObjectType>, fields: Vec<(Arc<str>, Value<'a>)>) -> Self {
        Self(Fields::Own(Arc::new(OwnObject { ty, fields })))
    }

    /// A view of a JSON object with declared fields.
    pub fn json(fields: &'a JsonMap, ty: &'a Arc<ObjectType>) -> Self {
        Self(Fields::Json(fields, ty))
    }

    /// Its type.
    pub fn ty(&self) -> &Arc<ObjectType> {
        match &self.0 {
            Fields::Own(own) => &own.ty,
            Fields::Json(_, ty) => ty,
        }
    }

    /// Number of fields that are set, those included that nobody declared.
    pub(crate) fn len(&self) -> usize {
        match &self.0 {
            Fields::Own(own) => own.fields.len(),
            Fields::Json(fields, _) => fields.len(),
        }
    }

    /// The value of a declared field, if the object has it. A field that is null is one that is not set.
    ///
    /// # Errors
    /// The JSON there is not what its declared format says.
    pub fn get(&self, name: &str) -> Result<Option<Value<'a>>, EvalError> {
        match &self.0 {
            Fields::Own(own) => {
                Ok(own.fields.iter().find(|(field, _)| **field == *name).map(|(_, value)| value.clone()))
            }
            Fields::Json(fields, ty) => {
                let Some(field) = ty.field(name) else { return Ok(None) };
                set(fields, field).map(|json| Value::json(json, &field.ty)).transpose()
            }
        }
    }

    /// The field at an index of a type's fields, if the object is a view of just that type.
    pub(crate) fn declared(&self, ty: &Arc<ObjectType>, at: usize) -> Option<Result<Option<Value<'a>>, EvalError>> {
        let Fields::Json(fields, own) = &self.0 else { return None };
        if !Arc::ptr_eq(own, ty) {
            return None;
        }
        let field = own.fields().get(at)?;
        Some(set(fields, field).map(|json| Value::json(json, &field.ty)).transpose())
    }

    /// Whether the object has a declared field.
    pub fn has(&self, name: &str) -> bool {
        match &self.0 {
            Fields::Own(own) => own.fields.iter().any(|(field, _)| **field == *name),
            Fields::Json(fields, ty) => ty.field(name).is_some_and(|field| set(fields, field).is_some()),
        }
    }

    pub(super) fn equals(&self, other: &Self) -> Result<bool, EvalError> {
        if self.ty().name() != other.ty().name() {
            return Ok(false);
        }
        if let (Fields::Json(own, ty), Fields::Json(others, _)) = (&self.0, &other.0) {
            // what nobody declared is compared as it is
            let declared = |key: &String| ty.fields().iter().any(|field| *field.key == **key);
            let mut kept = own.iter().filter(|(key, _)| !declared(key));
            if own.len() != others.len() || kept.any(|(key, value)| others.get(key) != Some(value)) {
                return Ok(false);
            }
        }
        for field in self.ty().fields() {
            let same = match (self.get(&field.name)?, other.get(&field.name)?) {
                (Some(a), Some(b)) => a.equals(&b)?,
                (a, b) => a.is_none() && b.is_none(),
            };
            if !same {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
