//! `format`: clauses such as `%s` and `%.3f` in a text are replaced by the values of a list.

use crate::error::EvalError;
use crate::value::{List, Value};

/// Digits after the point where a clause names none.
const PRECISION: usize = 6;
/// More digits than any double has; the reference has no bound.
const PRECISION_MAX: usize = 1000;

pub(super) fn format(pattern: &str, args: &List<'_>) -> Result<String, EvalError> {
    let mut text = String::with_capacity(pattern.len());
    let mut used = 0;
    let mut chars = pattern.chars().peekable();
    while let Some(char) = chars.next() {
        if char != '%' {
            text.push(char);
            continue;
        }
        if chars.peek() == Some(&'%') {
            chars.next();
            text.push('%');
            continue;
        }
        let precision = if chars.next_if_eq(&'.').is_some() { Some(digits(&mut chars)?) } else { None };
        let Some(verb) = chars.next() else {
            return Err(EvalError::other("could not parse formatting clause: unexpected end of string"));
        };
        let arg = args.get(used).ok_or_else(|| EvalError::other(format!("index {used} out of range")))??;
        used += 1;
        clause(verb, precision.unwrap_or(PRECISION), &arg, &mut text)?;
    }
    Ok(text)
}

fn digits(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<usize, EvalError> {
    let mut digits = String::new();
    while let Some(digit) = chars.next_if(char::is_ascii_digit) {
        digits.push(digit);
    }
    let failed = || EvalError::other("error while parsing precision: invalid precision");
    digits.parse().ok().filter(|precision| *precision <= PRECISION_MAX).ok_or_else(failed)
}

fn clause(verb: char, precision: usize, value: &Value<'_>, text: &mut String) -> Result<(), EvalError> {
    let refused = |what: &str| {
        let found = value.ty();
        Err(EvalError::other(format!("error during formatting: {what}, was given {}", found.name())))
    };
    match (verb, value) {
        ('s', value) => plain(value, text)?,
        ('d', Value::Int(number)) => text.push_str(&number.to_string()),
        ('d', Value::Uint(number)) => text.push_str(&number.to_string()),
        ('d' | 'f' | 'e', Value::Double(number)) if !number.is_finite() => text.push_str(unusual(*number)),
        ('d', _) => return refused("decimal clause can only be used on integers"),
        ('f', value) => match number(value) {
            Some(number) => text.push_str(&format!("{number:.precision$}")),
            None => return refused("fixed-point clause can only be used on doubles"),
        },
        ('e', value) => match number(value) {
            Some(number) => text.push_str(&scientific(number, precision)),
            None => return refused("scientific clause can only be used on doubles"),
        },
        ('b', Value::Bool(flag)) => text.push(if *flag { '1' } else { '0' }),
        ('b', Value::Uint(number)) => text.push_str(&format!("{number:b}")),
        ('b', Value::Int(number)) => text.push_str(&signed(*number, |number| format!("{number:b}"))),
        ('b', _) => return refused("only integers and bools can be formatted as binary"),
        ('o', Value::Uint(number)) => text.push_str(&format!("{number:o}")),
        ('o', Value::Int(number)) => text.push_str(&signed(*number, |number| format!("{number:o}"))),
        ('o', _) => return refused("octal clause can only be used on integers"),
        ('x' | 'X', value) => match hexadecimal(value) {
            Some(hex) if verb == 'X' => text.push_str(&hex.to_uppercase()),
            Some(hex) => text.push_str(&hex),
            None => return refused("only integers, byte buffers, and strings can be formatted as hex"),
        },
        (verb, _) => {
            let rule =
                format!("could not parse formatting clause: unrecognized formatting clause {:?}", verb.to_string());
            return Err(EvalError::other(rule));
        }
    }
    Ok(())
}

fn number(value: &Value<'_>) -> Option<f64> {
    match value {
        Value::Double(number) => Some(*number),
        Value::Int(number) => Some(*number as f64),
        Value::Uint(number) => Some(*number as f64),
        _ => None,
    }
}

fn signed(number: i64, digits: impl Fn(u64) -> String) -> String {
    let sign = if number < 0 { "-" } else { "" };
    format!("{sign}{}", digits(number.unsigned_abs()))
}

fn hexadecimal(value: &Value<'_>) -> Option<String> {
    let bytes = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    match value {
        Value::Int(number) => Some(signed(*number, |number| format!("{number:x}"))),
        Value::Uint(number) => Some(format!("{number:x}")),
        Value::String(text) => Some(bytes(text.as_bytes())),
        Value::Bytes(raw) => Some(bytes(raw)),
        _ => None,
    }
}

fn unusual(number: f64) -> &'static str {
    match number {
        number if number.is_nan() => "NaN",
        number if number > 0.0 => "Infinity",
        _ => "-Infinity",
    }
}

/// `1.500000e+03`: an exponent of at least two digits.
fn scientific(number: f64, precision: usize) -> String {
    let text = format!("{number:.precision$e}");
    let Some((mantissa, exponent)) = text.split_once('e') else { return text };
    let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
    format!("{mantissa}e{sign}{digits:0>2}")
}

fn plain(value: &Value<'_>, text: &mut String) -> Result<(), EvalError> {
    match value {
        Value::Double(number) if !number.is_finite() => text.push_str(unusual(*number)),
        Value::Double(number) => text.push_str(&number.to_string()),
        Value::List(list) => {
            text.push('[');
            for (at, item) in list.iter().enumerate() {
                text.push_str(if at > 0 { ", " } else { "" });
                plain(&item?, text)?;
            }
            text.push(']');
        }
        Value::Map(map) => {
            let mut entries = Vec::with_capacity(map.len());
            for (key, value) in map.iter() {
                let mut entry = String::new();
                plain(&key, &mut entry)?;
                let key = entry.clone();
                entry.push_str(": ");
                plain(&value?, &mut entry)?;
                entries.push((key, entry));
            }
            entries.sort();
            text.push('{');
            for (at, (_, entry)) in entries.iter().enumerate() {
                text.push_str(if at > 0 { ", " } else { "" });
                text.push_str(entry);
            }
            text.push('}');
        }
        Value::Null
        | Value::Bool(_)
        | Value::Int(_)
        | Value::Uint(_)
        | Value::String(_)
        | Value::Bytes(_)
        | Value::Timestamp(_)
        | Value::Duration(_)
        | Value::Type(_) => text.push_str(&value.to_string()),
        Value::Object(_) | Value::Optional(_) | Value::Opaque(_) => {
            let found = value.ty();
            return Err(EvalError::other(format!(
                "error during formatting: string clause can only be used on strings, bools, bytes, ints, doubles, \
                 maps, lists, types, durations, and timestamps, was given {}",
                found.name()
            )));
        }
    }
    Ok(())
}
