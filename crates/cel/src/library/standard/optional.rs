//! Optional values.

use std::sync::Arc;

use crate::error::EvalError;
use crate::library::{Library, Overload};
use crate::operators;
use crate::types::Type;
use crate::value::Value;

pub(super) fn library() -> Library {
    let value = || Type::param("V");
    let optional = || Type::optional(value());
    let list = || Type::list(value());
    let global = |id, args, implementation: for<'a> fn(&[Value<'a>]) -> Result<Value<'a>, EvalError>| {
        Overload::global(id, args, optional(), move |_, args| implementation(args))
    };
    Library::new()
        .function("optional.of", vec![global("optional_of", vec![value()], |args| Ok(Value::some(args[0].clone())))])
        .function(
            "optional.ofNonZeroValue",
            vec![global("optional_ofNonZeroValue", vec![value()], |args| {
                Ok(if operators::is_zero(&args[0]) { Value::none() } else { Value::some(args[0].clone()) })
            })],
        )
        .function("optional.none", vec![global("optional_none", vec![], |_| Ok(Value::none()))])
        .function(
            "hasValue",
            vec![Overload::member("optional_hasValue", vec![optional()], Type::Bool, |_, args| {
                Ok(Value::Bool(inner(&args[0])?.is_some()))
            })],
        )
        .function(
            "value",
            vec![Overload::member("optional_value", vec![optional()], value(), |_, args| {
                let value = inner(&args[0])?.ok_or_else(|| EvalError::other("optional.none() dereference"))?;
                Ok(Value::clone(value))
            })],
        )
        .function(
            "or",
            vec![Overload::member("optional_or_optional", vec![optional(), optional()], optional(), |_, args| {
                Ok(if inner(&args[0])?.is_some() { args[0].clone() } else { args[1].clone() })
            })],
        )
        .function(
            "orValue",
            vec![Overload::member("optional_orValue_value", vec![optional(), value()], value(), |_, args| {
                Ok(inner(&args[0])?.map_or_else(|| args[1].clone(), |value| Value::clone(value)))
            })],
        )
        .function(
            "first",
            vec![Overload::member("list_first", vec![list()], optional(), |_, args| {
                operators::index_optional(&args[0], &Value::Int(0))
            })],
        )
        .function(
            "last",
            vec![Overload::member("list_last", vec![list()], optional(), |_, args| {
                let last = i64::try_from(args[0].as_list()?.len()).unwrap_or(i64::MAX) - 1;
                operators::index_optional(&args[0], &Value::Int(last))
            })],
        )
        .function(
            "optional.unwrap",
            vec![Overload::global("optional_unwrap", vec![Type::list(optional())], list(), |_, args| {
                present(&args[0])
            })],
        )
        .function(
            "unwrapOpt",
            vec![Overload::member("optional_unwrapOpt", vec![Type::list(optional())], list(), |_, args| {
                present(&args[0])
            })],
        )
}

/// What is inside an optional.
pub(crate) fn inner<'v, 'a>(value: &'v Value<'a>) -> Result<Option<&'v Arc<Value<'a>>>, EvalError> {
    if let Value::Optional(inner) = value { Ok(inner.as_ref()) } else { Err(EvalError::NoSuchOverload) }
}

fn present<'a>(list: &Value<'a>) -> Result<Value<'a>, EvalError> {
    let mut items = Vec::new();
    for item in list.as_list()?.iter() {
        if let Some(value) = inner(&item?)? {
            items.push(Value::clone(value));
        }
    }
    Ok(Value::list(items))
}
