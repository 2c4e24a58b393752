//! Values: what expressions take, make and answer.
//!
//! A value borrows what it can for `'a`, the lifetime of the documents and the program of one evaluation: looking at a
//! field of a JSON object copies nothing. What a function makes is shared ([`Arc`]), so cloning a value is cheap.

mod compare;
mod json;
mod list;
mod map;

use std::any::Any;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use jiff::civil::DateTime;

use crate::error::EvalError;
use crate::types::Type;

pub use list::{List, ListIter};
pub use map::{Map, MapIter, Object};

/// A value.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    /// `null`.
    Null,
    /// A truth value.
    Bool(bool),
    /// A signed integer.
    Int(i64),
    /// An unsigned integer.
    Uint(u64),
    /// A double.
    Double(f64),
    /// Text.
    String(Str<'a>),
    /// Bytes.
    Bytes(Arc<[u8]>),
    /// A point in time, in the years 1 to 9999: date and time of day in UTC.
    Timestamp(DateTime),
    /// A length of time in nanoseconds.
    Duration(i64),
    /// A list.
    List(List<'a>),
    /// A map.
    Map(Map<'a>),
    /// An object with declared fields.
    Object(Object<'a>),
    /// A type.
    Type(Arc<Type>),
    /// A value that may be absent.
    Optional(Option<Arc<Value<'a>>>),
    /// A value that only a library looks into.
    Opaque(Arc<dyn Opaque>),
}

/// A value of a library's own type, such as an IP address.
pub trait Opaque: fmt::Debug + Send + Sync + 'static {
    /// The type; the same for all values of one Rust type.
    fn ty(&self) -> &Type;
    /// `==`; values of other types are not equal.
    fn equals(&self, other: &dyn Opaque) -> bool;
    /// What costs take for its size; `None` is 1.
    fn size(&self) -> Option<u64> {
        None
    }
    /// For [`Value::opaque`].
    fn as_any(&self) -> &dyn Any;
}

/// Text that is borrowed or shared.
#[derive(Clone)]
pub enum Str<'a> {
    /// Part of a document or program.
    Borrowed(&'a str),
    /// Made by a function.
    Shared(Arc<str>),
}

impl Deref for Str<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Borrowed(text) => text,
            Self::Shared(text) => text,
        }
    }
}

impl fmt::Debug for Str<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl From<String> for Str<'_> {
    fn from(text: String) -> Self {
        Self::Shared(text.into())
    }
}

impl<'a> From<&'a str> for Str<'a> {
    fn from(text: &'a str) -> Self {
        Self::Borrowed(text)
    }
}

impl<'a> Value<'a> {
    /// Text, borrowed from a `&'a str` or made from a `String`.
    pub fn string(text: impl Into<Str<'a>>) -> Self {
        Self::String(text.into())
    }

    /// A list of these elements.
    pub fn list(items: Vec<Self>) -> Self {
        Self::List(List::new(items))
    }

    /// The absent value of an optional type.
    pub fn none() -> Self {
        Self::Optional(None)
    }

    /// A present value of an optional type.
    pub fn some(value: Self) -> Self {
        Self::Optional(Some(Arc::new(value)))
    }

    /// A value of a library's type.
    pub fn from_opaque(value: impl Opaque) -> Self {
        Self::Opaque(Arc::new(value))
    }

    /// The truth value, or "no such overload".
    pub fn bool(&self) -> Result<bool, EvalError> {
        if let Self::Bool(value) = self { Ok(*value) } else { Err(EvalError::NoSuchOverload) }
    }

    /// The signed integer, or "no such overload".
    pub fn int(&self) -> Result<i64, EvalError> {
        if let Self::Int(value) = self { Ok(*value) } else { Err(EvalError::NoSuchOverload) }
    }

    /// The text, or "no such overload".
    pub fn str(&self) -> Result<&str, EvalError> {
        if let Self::String(text) = self { Ok(text) } else { Err(EvalError::NoSuchOverload) }
    }

    /// The list, or "no such overload".
    pub fn as_list(&self) -> Result<&List<'a>, EvalError> {
        if let Self::List(list) = self { Ok(list) } else { Err(EvalError::NoSuchOverload) }
    }

    /// The map, or "no such overload".
    pub fn as_map(&self) -> Result<&Map<'a>, EvalError> {
        if let Self::Map(map) = self { Ok(map) } else { Err(EvalError::NoSuchOverload) }
    }

    /// The library's own value inside, or "no such overload" for any other.
    pub fn opaque<T: Opaque>(&self) -> Result<&T, EvalError> {
        let Self::Opaque(value) = self else { return Err(EvalError::NoSuchOverload) };
        value.as_any().downcast_ref().ok_or(EvalError::NoSuchOverload)
    }

    /// The type that the value says it has; what containers hold is not looked at.
    pub fn ty(&self) -> Type {
        match self {
            Self::Null => Type::Null,
            Self::Bool(_) => Type::Bool,
            Self::Int(_) => Type::Int,
            Self::Uint(_) => Type::Uint,
            Self::Double(_) => Type::Double,
            Self::String(_) => Type::String,
            Self::Bytes(_) => Type::Bytes,
            Self::Timestamp(_) => Type::Timestamp,
            Self::Duration(_) => Type::Duration,
            Self::List(_) => Type::list(Type::Dyn),
            Self::Map(_) => Type::map(Type::Dyn, Type::Dyn),
            Self::Object(object) => Type::Object(Arc::clone(object.ty())),
            Self::Type(_) => Type::type_of(Type::Dyn),
            Self::Optional(_) => Type::optional(Type::Dyn),
            Self::Opaque(value) => value.ty().clone(),
        }
    }

    /// What `size()` answers, and what costs take for the size; `None` where the type has no size.
    pub fn size(&self) -> Option<u64> {
        match self {
            Self::String(text) => Some(code_points(text)),
            Self::Bytes(bytes) => Some(bytes.len() as u64),
            Self::List(list) => Some(list.len() as u64),
            Self::Map(map) => Some(map.len() as u64),
            Self::Object(object) => Some(object.len() as u64),
            Self::Opaque(value) => value.size(),
            _ => None,
        }
    }

    /// Whether an overload that takes `ty` takes this value. What containers hold is not looked at.
    pub fn is_of(&self, ty: &Type) -> bool {
        match (self, ty) {
            (_, Type::Dyn | Type::Param(_) | Type::Error)
            | (Self::Null, Type::Null)
            | (Self::Bool(_), Type::Bool)
            | (Self::Int(_), Type::Int)
            | (Self::Uint(_), Type::Uint)
            | (Self::Double(_), Type::Double)
            | (Self::String(_), Type::String)
            | (Self::Bytes(_), Type::Bytes)
            | (Self::Timestamp(_), Type::Timestamp)
            | (Self::Duration(_), Type::Duration)
            | (Self::List(_), Type::List(_))
            | (Self::Map(_), Type::Map(_))
            | (Self::Type(_), Type::Type(_))
            | (Self::Optional(_), Type::Optional(_)) => true,
            (Self::Object(object), Type::Object(ty)) => object.ty().name() == ty.name(),
            (Self::Opaque(value), Type::Opaque(_)) => value.ty() == ty,
            _ => false,
        }
    }

    /// The same value, borrowing text from this one.
    pub(crate) fn reborrow<'b>(&'b self) -> Value<'b>
    where
        'a: 'b,
    {
        match self {
            Self::String(text) => Value::String(Str::Borrowed(text)),
            other => other.clone(),
        }
    }
}

/// Number of code points; text that is all ASCII is counted by its bytes.
pub(crate) fn code_points(text: &str) -> u64 {
    if text.is_ascii() { text.len() as u64 } else { text.chars().count() as u64 }
}

impl fmt::Display for Value<'_> {
    /// As error messages show a value: text without quotes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => value.fmt(f),
            Self::Int(value) => value.fmt(f),
            Self::Uint(value) => value.fmt(f),
            Self::Double(value) => f.write_str(&crate::number::format_double(*value)),
            Self::String(text) => f.write_str(text),
            Self::Bytes(bytes) => f.write_str(&String::from_utf8_lossy(bytes)),
            Self::Timestamp(at) => f.write_str(&crate::time::format_timestamp(*at)),
            Self::Duration(nanos) => f.write_str(&crate::time::format_duration(*nanos)),
            Self::List(list) => {
                f.write_str("[")?;
                for (at, item) in list.iter().enumerate() {
                    f.write_str(if at > 0 { ", " } else { "" })?;
                    item.unwrap_or(Value::Null).fmt(f)?;
                }
                f.write_str("]")
            }
            Self::Map(map) => {
                f.write_str("{")?;
                for (at, (key, value)) in map.iter().enumerate() {
                    f.write_str(if at > 0 { ", " } else { "" })?;
                    write!(f, "{key}: {}", value.unwrap_or(Value::Null))?;
                }
                f.write_str("}")
            }
            Self::Object(object) => f.write_str(object.ty().name()),
            Self::Type(ty) => f.write_str(ty.name()),
            Self::Optional(Some(value)) => write!(f, "optional({value})"),
            Self::Optional(None) => f.write_str("optional.none()"),
            Self::Opaque(value) => write!(f, "{value:?}"),
        }
    }
}
