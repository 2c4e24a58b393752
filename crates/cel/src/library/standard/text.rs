//! Functions of text: `contains`, `startsWith`, `endsWith`, `matches`.

use std::sync::Arc;

use crate::cost::{CallEstimate, REGEX_LENGTH_FACTOR, STRING_TRAVERSAL_FACTOR as TRAVERSAL, SizeEstimate, scale};
use crate::error::EvalError;
use crate::library::{Implementation, Library, Overload};
use crate::regexp;
use crate::types::Type;
use crate::value::Value;

pub(super) fn library() -> Library {
    let test = |id, holds: fn(&str, &str) -> bool| {
        Overload::member(id, vec![Type::String, Type::String], Type::Bool, move |_, args| {
            Ok(Value::Bool(holds(args[0].str()?, args[1].str()?)))
        })
    };
    // The second text bounds how much of the first is looked at.
    let affix = |overload: Overload| {
        overload
            .cost(|args, _| scale(args[1].size().unwrap_or(1), TRAVERSAL))
            .estimate(|call| CallEstimate::cost(call.size(1).cost(TRAVERSAL)))
    };
    let searched = |overload: Overload| {
        overload
            .cost(|args, _| contains_cost(&args[0], &args[1]))
            .estimate(|call| CallEstimate::cost(call.size(0).cost(TRAVERSAL).multiply(call.size(1).cost(TRAVERSAL))))
    };
    let matched = |overload: Overload| {
        overload.cost(|args, _| matches_cost(&args[0], &args[1])).prepare(prepare_matches).estimate(|call| {
            let text = call.size(0).plus(SizeEstimate::fixed(1)).cost(TRAVERSAL);
            CallEstimate::cost(text.multiply(call.size(1).cost(REGEX_LENGTH_FACTOR)))
        })
    };
    Library::new()
        .function("contains", vec![searched(test("contains_string", |text, part| text.contains(part)))])
        .function("startsWith", vec![affix(test("starts_with_string", |text, prefix| text.starts_with(prefix)))])
        .function("endsWith", vec![affix(test("ends_with_string", |text, suffix| text.ends_with(suffix)))])
        .function(
            "matches",
            vec![
                matched(Overload::global("matches", vec![Type::String, Type::String], Type::Bool, |_, args| {
                    matches(args)
                })),
                matched(Overload::member("matches_string", vec![Type::String, Type::String], Type::Bool, |_, args| {
                    matches(args)
                })),
            ],
        )
}

fn contains_cost(text: &Value<'_>, part: &Value<'_>) -> u64 {
    let cost = |value: &Value<'_>| scale(value.size().unwrap_or(1), TRAVERSAL);
    cost(text).saturating_mul(cost(part))
}

/// What matching costs: the empty text is no less work to compile a pattern for.
pub(crate) fn matches_cost(text: &Value<'_>, pattern: &Value<'_>) -> u64 {
    let text = scale(text.size().unwrap_or(1).saturating_add(1), TRAVERSAL);
    text.saturating_mul(scale(pattern.size().unwrap_or(1), REGEX_LENGTH_FACTOR))
}

fn matches<'a>(args: &[Value<'a>]) -> Result<Value<'a>, EvalError> {
    let regex = regexp::compile(args[1].str()?).map_err(|error| EvalError::other(error.to_string()))?;
    Ok(Value::Bool(regex.is_match(args[0].str()?)))
}

fn prepare_matches(args: &[Option<&Value<'static>>]) -> Result<Option<Implementation>, String> {
    let Some(Some(Value::String(pattern))) = args.get(1) else { return Ok(None) };
    let regex = regexp::compile(pattern).map_err(|error| error.to_string())?;
    Ok(Some(Arc::new(move |_, args| Ok(Value::Bool(regex.is_match(args[0].str()?))))))
}
