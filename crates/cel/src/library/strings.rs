//! Functions of text beyond the standard ones. Positions count code points.

pub(crate) mod format;

use crate::cost::{Call, CallEstimate, STRING_TRAVERSAL_FACTOR as TRAVERSAL, SizeEstimate, scale};
use crate::error::EvalError;
use crate::library::{Library, Overload};
use crate::types::Type;
use crate::value::Value;

type Answer<'a> = Result<Value<'a>, EvalError>;

/// Version 2 of the extension, as Kubernetes has it since 1.29.
pub(super) fn library() -> Library {
    let text = || Type::String;
    let texts = || Type::list(Type::String);
    let one = |id, result, f: for<'a> fn(&[Value<'a>]) -> Answer<'a>| {
        Overload::member(id, vec![Type::String], result, move |_, args| f(args))
    };
    let traversed = |overload: Overload| {
        overload
            .cost(|args, _| scale(size(&args[0]), TRAVERSAL))
            .estimate(|call| CallEstimate::sized(call.size(0).cost(TRAVERSAL), call.size(0)))
    };
    let many = |id, args: &[Type], result, f: for<'a> fn(&[Value<'a>]) -> Answer<'a>| {
        Overload::member(id, args.to_vec(), result, move |_, args| f(args))
    };
    Library::new()
        .function("charAt", vec![many("string_char_at_int", &[text(), Type::Int], text(), char_at)])
        .function("lowerAscii", vec![traversed(one("string_lower_ascii", text(), lower))])
        .function("upperAscii", vec![traversed(one("string_upper_ascii", text(), upper))])
        .function("trim", vec![traversed(one("string_trim", text(), trim))])
        .function(
            "substring",
            vec![
                traversed(many("string_substring_int", &[text(), Type::Int], text(), substring)),
                traversed(many("string_substring_int_int", &[text(), Type::Int, Type::Int], text(), substring)),
            ],
        )
        .function(
            "indexOf",
            vec![
                searched(many("string_index_of_string", &[text(), text()], Type::Int, index_of)),
                searched(many("string_index_of_string_int", &[text(), text(), Type::Int], Type::Int, index_of)),
            ],
        )
        .function(
            "lastIndexOf",
            vec![
                searched(many("string_last_index_of_string", &[text(), text()], Type::Int, last_index_of)),
                searched(many(
                    "string_last_index_of_string_int",
                    &[text(), text(), Type::Int],
                    Type::Int,
                    last_index_of,
                )),
            ],
        )
        .function(
            "replace",
            vec![
                replaced(many("string_replace_string_string", &[text(), text(), text()], text(), replace)),
                replaced(many(
                    "string_replace_string_string_int",
                    &[text(), text(), text(), Type::Int],
                    text(),
                    replace,
                )),
            ],
        )
        .function(
            "split",
            vec![
                divided(many("string_split_string", &[text(), text()], texts(), split)),
                divided(many("string_split_string_int", &[text(), text(), Type::Int], texts(), split)),
            ],
        )
        .function(
            "join",
            vec![
                joined(many("list_join", &[texts()], text(), join)),
                joined(many("list_join_string", &[texts(), text()], text(), join)),
            ],
        )
        .function(
            "format",
            vec![
                many("string_format", &[text(), Type::list(Type::Dyn)], text(), |args| {
                    format::format(args[0].str()?, args[1].as_list()?).map(Value::string)
                })
                .cost(|args, _| scale(size(&args[0]), TRAVERSAL))
                .estimate(|call| CallEstimate::cost(call.size(0).cost(TRAVERSAL))),
            ],
        )
        .function(
            "strings.quote",
            vec![
                Overload::global("strings_quote", vec![Type::String], Type::String, |_, args| {
                    Ok(Value::string(quote(args[0].str()?)))
                })
                .cost(|args, _| scale(size(&args[0]), TRAVERSAL))
                .estimate(|call| {
                    // two quotes, and every character may have to be escaped
                    let size = call.size(0);
                    let quoted =
                        SizeEstimate::new(size.min.saturating_add(2), size.max.saturating_mul(2).saturating_add(2));
                    CallEstimate::sized(size.cost(TRAVERSAL), quoted)
                }),
            ],
        )
}

fn size(value: &Value<'_>) -> u64 {
    value.size().unwrap_or(1)
}

/// Positions of a text or a list: a walk over what is searched.
fn searched(overload: Overload) -> Overload {
    overload
        .cost(|args, _| super::lists::traversal(&args[0]))
        .estimate(|call| CallEstimate::cost(call.size(0).cost(TRAVERSAL)))
}

fn replaced(overload: Overload) -> Overload {
    overload.cost(|args, _| scale(size(&args[0]), 2.0 * TRAVERSAL)).estimate(|call| {
        let (text, old, new) = (call.size(0), call.size(1), call.size(2));
        let per = |size: u64, part: u64| (size as f64 / part as f64).ceil() as u64;
        let (most, kept_most) = match old.min {
            // what replaces nothing surrounds every character
            0 => (text.max.saturating_add(1), text.max),
            least if new.max <= least => (0, text.max),
            least => (per(text.max, least), 0),
        };
        let (fewest, kept_least) = match old.max {
            0 => (text.min.saturating_add(1), text.min),
            longest if longest <= new.min => (0, text.min),
            longest => (per(text.min, longest), 0),
        };
        let size = SizeEstimate::new(fewest, most).multiply(new).plus(SizeEstimate::new(kept_least, kept_most));
        CallEstimate::sized(text.cost(2.0 * TRAVERSAL), size)
    })
}

fn divided(overload: Overload) -> Overload {
    overload.cost(|args, _| scale(size(&args[0]), 2.0 * TRAVERSAL)).estimate(|call| {
        let most = match call.operands.get(2).and_then(|operand| operand.literal) {
            Some(Value::Int(parts)) => *parts as u64,
            _ => call.size(0).max,
        };
        CallEstimate::sized(call.size(0).cost(2.0 * TRAVERSAL), SizeEstimate::new(0, most))
    })
}

fn joined(overload: Overload) -> Overload {
    overload.cost(|_, result| scale(size(result), 2.0 * TRAVERSAL)).estimate(|call: &Call<'_>| {
        let list = call.size(0);
        let items = call.operands.first().and_then(|operand| operand.item_size);
        let mut size = items.map_or(SizeEstimate::new(0, 0), |items| list.multiply(items));
        if call.operands.len() > 1 {
            let gaps = SizeEstimate::new(list.min.saturating_sub(1), list.max.saturating_sub(1));
            size = size.plus(call.size(1).multiply(gaps));
        }
        CallEstimate::sized(size.cost(TRAVERSAL), size)
    })
}

fn out_of_range(at: i64) -> EvalError {
    EvalError::other(format!("index out of range: {at}"))
}

fn length(text: &str) -> i64 {
    i64::try_from(text.chars().count()).unwrap_or(i64::MAX)
}

/// The byte at which the code point of this index begins; the end for the one behind the last.
fn offset(text: &str, at: i64) -> usize {
    let at = usize::try_from(at).unwrap_or(0);
    text.char_indices().nth(at).map_or(text.len(), |(offset, _)| offset)
}

fn char_at<'a>(args: &[Value<'a>]) -> Answer<'a> {
    let (text, at) = (args[0].str()?, args[1].int()?);
    let index = usize::try_from(at).map_err(|_| out_of_range(at))?;
    match text.chars().nth(index) {
        Some(char) => Ok(Value::string(char.to_string())),
        None if length(text) == at => Ok(Value::string(String::new())),
        None => Err(out_of_range(at)),
    }
}

fn lower<'a>(args: &[Value<'a>]) -> Answer<'a> {
    Ok(Value::string(args[0].str()?.to_ascii_lowercase()))
}

fn upper<'a>(args: &[Value<'a>]) -> Answer<'a> {
    Ok(Value::string(args[0].str()?.to_ascii_uppercase()))
}

fn trim<'a>(args: &[Value<'a>]) -> Answer<'a> {
    Ok(Value::string(args[0].str()?.trim().to_owned()))
}

fn substring<'a>(args: &[Value<'a>]) -> Answer<'a> {
    let (text, start) = (args[0].str()?, args[1].int()?);
    let length = length(text);
    let end = args.get(2).map_or(Ok(length), Value::int)?;
    if let Some(at) = [start, end].into_iter().find(|at| !(0..=length).contains(at)) {
        return Err(out_of_range(at));
    }
    if start > end {
        return Err(EvalError::other(format!("invalid substring range. start: {start}, end: {end}")));
    }
    Ok(Value::string(text[offset(text, start)..offset(text, end)].to_owned()))
}

fn index_of<'a>(args: &[Value<'a>]) -> Answer<'a> {
    let (text, part) = (args[0].str()?, args[1].str()?);
    let from = args.get(2).map_or(Ok(0), Value::int)?;
    if part.is_empty() {
        return Ok(Value::Int(from));
    }
    if from < 0 {
        return Err(out_of_range(from));
    }
    let start = offset(text, from);
    let found = text[start..].find(part).map(|at| from + length(&text[start..start + at]));
    Ok(Value::Int(found.unwrap_or(-1)))
}

fn last_index_of<'a>(args: &[Value<'a>]) -> Answer<'a> {
    let (text, part) = (args[0].str()?, args[1].str()?);
    let length = length(text);
    let until = match args.get(2) {
        Some(until) => until.int()?,
        None if part.is_empty() => return Ok(Value::Int(length)),
        None => length - 1,
    };
    if part.is_empty() {
        return Ok(Value::Int(until));
    }
    if until < 0 && args.len() > 2 {
        return Err(out_of_range(until));
    }
    if until < 0 || until >= length {
        return Ok(Value::Int(-1));
    }
    // a match may begin at `until` and reach beyond it
    let end = offset(text, until).saturating_add(part.len()).min(text.len());
    let end = (end..=text.len()).find(|end| text.is_char_boundary(*end)).unwrap_or(text.len());
    let found = text[..end].rmatch_indices(part).map(|(at, _)| self::length(&text[..at])).find(|at| *at <= until);
    Ok(Value::Int(found.unwrap_or(-1)))
}

fn replace<'a>(args: &[Value<'a>]) -> Answer<'a> {
    let (text, old, new) = (args[0].str()?, args[1].str()?, args[2].str()?);
    let times = args.get(3).map_or(Ok(-1), Value::int)?;
    Ok(Value::string(match usize::try_from(times) {
        Ok(times) => text.replacen(old, new, times),
        Err(_) => text.replace(old, new),
    }))
}

fn split<'a>(args: &[Value<'a>]) -> Answer<'a> {
    let (text, separator) = (args[0].str()?, args[1].str()?);
    let parts = args.get(2).map_or(Ok(-1), Value::int)?;
    let own = |parts: Vec<&str>| Value::list(parts.into_iter().map(|part| Value::string(part.to_owned())).collect());
    let most = match usize::try_from(parts) {
        Ok(0) => return Ok(Value::list(Vec::new())),
        Ok(parts) => parts,
        Err(_) => usize::MAX,
    };
    if !separator.is_empty() {
        return Ok(own(text.splitn(most, separator).collect()));
    }
    let mut parts = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let first = rest.chars().next().map_or(0, char::len_utf8);
        let (part, after) = if parts.len() + 1 == most { (rest, "") } else { rest.split_at(first) };
        parts.push(part);
        rest = after;
    }
    Ok(own(parts))
}

fn join<'a>(args: &[Value<'a>]) -> Answer<'a> {
    let separator = args.get(1).map_or(Ok(""), Value::str)?;
    let mut text = String::new();
    for (at, item) in args[0].as_list()?.iter().enumerate() {
        if at > 0 {
            text.push_str(separator);
        }
        text.push_str(item?.str()?);
    }
    Ok(Value::string(text))
}

fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for char in text.chars() {
        match char {
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{b}' => quoted.push_str("\\v"),
            '\\' => quoted.push_str("\\\\"),
            '"' => quoted.push_str("\\\""),
            char => quoted.push(char),
        }
    }
    quoted.push('"');
    quoted
}
