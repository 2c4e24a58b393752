//! What a regular expression finds in a text: `find`, `findAll`.

use std::sync::Arc;

use crate::cost::{CallEstimate, REGEX_LENGTH_FACTOR, STRING_TRAVERSAL_FACTOR as TRAVERSAL, SizeEstimate};
use crate::error::EvalError;
use crate::library::standard::matches_cost;
use crate::library::{Implementation, Library, Overload};
use crate::regexp::{self, Regex};
use crate::types::Type;
use crate::value::Value;

pub(super) fn library() -> Library {
    let two = || vec![Type::String, Type::String];
    let priced = |overload: Overload| {
        overload.cost(|args, _| matches_cost(&args[0], &args[1])).prepare(prepare).estimate(|call| {
            let text = call.size(0).plus(SizeEstimate::fixed(1)).cost(TRAVERSAL);
            let pattern = call.size(1).cost(REGEX_LENGTH_FACTOR);
            // at worst every character is found by itself
            CallEstimate::sized(text.multiply(pattern), SizeEstimate::new(0, call.size(0).max))
        })
    };
    let texts = || Type::list(Type::String);
    let three = vec![Type::String, Type::String, Type::Int];
    Library::new()
        .function(
            "find",
            vec![
                priced(Overload::member("string_find_string", two(), Type::String, |_, args| {
                    find(&compiled(args)?, args)
                }))
                .prepare(prepare_find),
            ],
        )
        .function(
            "findAll",
            vec![
                priced(Overload::member("string_find_all_string", two(), texts(), |_, args| {
                    find_all(&compiled(args)?, args)
                })),
                priced(Overload::member("string_find_all_string_int", three, texts(), |_, args| {
                    find_all(&compiled(args)?, args)
                })),
            ],
        )
}

fn compiled(args: &[Value<'_>]) -> Result<Regex, EvalError> {
    let pattern = args[1].str()?;
    regexp::compile(pattern).map_err(|error| EvalError::other(format!("Illegal regex: {error}")))
}

fn constant(args: &[Option<&Value<'static>>]) -> Result<Option<Regex>, String> {
    match args.get(1) {
        Some(Some(Value::String(pattern))) => regexp::compile(pattern).map(Some).map_err(|error| error.to_string()),
        _ => Ok(None),
    }
}

fn prepare_find(args: &[Option<&Value<'static>>]) -> Result<Option<Implementation>, String> {
    let Some(regex) = constant(args)? else { return Ok(None) };
    Ok(Some(Arc::new(move |_, args| find(&regex, args))))
}

fn prepare(args: &[Option<&Value<'static>>]) -> Result<Option<Implementation>, String> {
    let Some(regex) = constant(args)? else { return Ok(None) };
    Ok(Some(Arc::new(move |_, args| find_all(&regex, args))))
}

fn find<'a>(regex: &Regex, args: &[Value<'a>]) -> Result<Value<'a>, EvalError> {
    let text = args[0].str()?;
    Ok(Value::string(regex.find(text).map_or_else(String::new, |found| found.as_str().to_owned())))
}

fn find_all<'a>(regex: &Regex, args: &[Value<'a>]) -> Result<Value<'a>, EvalError> {
    let text = args[0].str()?;
    let most = args.get(2).map_or(Ok(-1), Value::int)?;
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let found = regex.find_iter(text).take(most).map(|found| Value::string(found.as_str().to_owned()));
    Ok(Value::list(found.collect()))
}
