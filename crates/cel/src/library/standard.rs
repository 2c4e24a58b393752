//! The standard library: operators, conversions, text, time and optionals.

mod conversion;
mod instant;
pub(super) mod operator;
mod optional;
mod text;

pub(super) use text::matches_cost;

use crate::library::{Library, Overload};
use crate::types::Type;
use crate::value::Value;

/// Everything that every environment has.
pub(crate) fn standard() -> Library {
    let sizes = [
        ("string_size", "size_string", Type::String),
        ("bytes_size", "size_bytes", Type::Bytes),
        ("list_size", "size_list", Type::list(Type::param("A"))),
        ("map_size", "size_map", Type::map(Type::param("A"), Type::param("B"))),
    ];
    let size = sizes.into_iter().flat_map(|(member, global, ty)| {
        [
            Overload::global(global, vec![ty.clone()], Type::Int, |_, args| size(&args[0])),
            Overload::member(member, vec![ty], Type::Int, |_, args| size(&args[0])),
        ]
    });
    operator::library()
        .with(conversion::library())
        .with(text::library())
        .with(instant::library())
        .with(optional::library())
        .function("size", size.collect())
        .type_name("bool", Type::Bool)
        .type_name("bytes", Type::Bytes)
        .type_name("double", Type::Double)
        .type_name("int", Type::Int)
        .type_name("uint", Type::Uint)
        .type_name("string", Type::String)
        .type_name("null_type", Type::Null)
        .type_name("list", Type::list(Type::Dyn))
        .type_name("map", Type::map(Type::Dyn, Type::Dyn))
        .type_name("type", Type::type_of(Type::Dyn))
        .type_name("optional_type", Type::optional(Type::Dyn))
        .type_name("google.protobuf.Timestamp", Type::Timestamp)
        .type_name("google.protobuf.Duration", Type::Duration)
}

fn size<'a>(value: &Value<'a>) -> Result<Value<'a>, crate::EvalError> {
    let size = value.size().ok_or(crate::EvalError::NoSuchOverload)?;
    Ok(Value::Int(i64::try_from(size).unwrap_or(i64::MAX)))
}
