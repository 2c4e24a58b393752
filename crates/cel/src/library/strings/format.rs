//! `format`: clauses such as `%s` and `%.3f` in a text are replaced by the values of a list.
//!
//! Numbers with a point are written as in English text: with commas between thousands, and powers of ten raised.

use crate::error::EvalError;
use crate::value::{List, Value};

/// Digits after the point where a clause names none, and always in scientific notation.
const PRECISION: usize = 6;
/// More digits than any double has; the reference has no bound.
const PRECISION_MAX: usize = 1000;

/// A part of a format.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Piece<'p> {
    /// Text to be taken as it is.
    Text(&'p str),
    /// A clause: which value it shows, how, and with what precision.
    Clause { at: usize, verb: char, precision: Option<usize> },
}

/// Hands the parts of a format to `take`, in their order.
pub(crate) fn clauses<'p>(
    pattern: &'p str,
    mut take: impl FnMut(Piece<'p>) -> Result<(), EvalError>,
) -> Result<(), EvalError> {
    let mut rest = pattern;
    let mut at = 0;
    while let Some(start) = rest.find('%') {
        take(Piece::Text(&rest[..start]))?;
        let after = &rest[start + 1..];
        if let Some(escaped) = after.strip_prefix('%') {
            take(Piece::Text("%"))?;
            rest = escaped;
            continue;
        }
        if after.is_empty() {
            return Err(EvalError::other("unexpected end of string"));
        }
        let (precision, after) = precision(after)?;
        let mut chars = after.chars();
        let verb = chars.next().filter(|verb| "sdfebxXo".contains(*verb)).ok_or_else(|| {
            // the reference reads bytes, and shows the first one as a character
            let first = after.bytes().next().map_or(String::new(), |byte| char::from(byte).to_string());
            unparsed(&format!("unrecognized formatting clause \"{first}\""))
        })?;
        take(Piece::Clause { at, verb, precision })?;
        at += 1;
        rest = chars.as_str();
    }
    take(Piece::Text(rest))
}

fn unparsed(why: &str) -> EvalError {
    EvalError::other(format!("could not parse formatting clause: {why}"))
}

/// `.3`, and what follows it.
fn precision(clause: &str) -> Result<(Option<usize>, &str), EvalError> {
    let Some(digits) = clause.strip_prefix('.') else { return Ok((None, clause)) };
    let failed = |why: &str| unparsed(&format!("error while parsing precision: {why}"));
    let end = digits
        .find(|char: char| !char.is_ascii_digit())
        .ok_or_else(|| failed("could not find end of precision specifier"))?;
    let (digits, after) = digits.split_at(end);
    let why = if digits.is_empty() { "invalid syntax" } else { "value out of range" };
    let number = digits.parse().ok().filter(|number| *number <= PRECISION_MAX).ok_or_else(|| {
        failed(&format!("error while converting precision to integer: strconv.Atoi: parsing \"{digits}\": {why}"))
    })?;
    Ok((Some(number), after))
}

/// A clause beyond the end of the list.
pub(crate) fn out_of_range(at: usize) -> EvalError {
    EvalError::other(format!("index {at} out of range"))
}

/// A clause cannot show a value of this type.
pub(crate) fn refused(verb: char, found: &str) -> EvalError {
    let what = match verb {
        'd' => "decimal clause can only be used on integers",
        'f' => "fixed-point clause can only be used on doubles",
        'e' => "scientific clause can only be used on doubles",
        'b' => "only integers and bools can be formatted as binary",
        'o' => "octal clause can only be used on integers",
        'x' | 'X' => "only integers, byte buffers, and strings can be formatted as hex",
        _ => {
            "string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, durations, and \
             timestamps"
        }
    };
    EvalError::other(format!("error during formatting: {what}, was given {found}"))
}

pub(super) fn format(pattern: &str, args: &List<'_>) -> Result<String, EvalError> {
    let mut text = String::with_capacity(pattern.len());
    clauses(pattern, |piece| {
        match piece {
            Piece::Text(own) => text.push_str(own),
            Piece::Clause { at, verb, precision } => {
                let value = args.get(at).ok_or_else(|| out_of_range(at))??;
                show(verb, precision.unwrap_or(PRECISION), &value, &mut text)?;
            }
        }
        Ok(())
    })?;
    Ok(text)
}

fn show(verb: char, precision: usize, value: &Value<'_>, text: &mut String) -> Result<(), EvalError> {
    let own = match (verb, value) {
        ('s', value) => return plain(value, text),
        ('d', Value::Int(number)) => number.to_string(),
        ('d', Value::Uint(number)) => number.to_string(),
        ('f' | 'e', value) => match (number(value), verb) {
            (Some(number), 'f') => fixed(number, precision),
            (Some(number), _) => scientific(number, precision),
            (None, _) => return Err(refused(verb, value.ty().name())),
        },
        ('b', Value::Bool(flag)) => u8::from(*flag).to_string(),
        ('b', Value::Uint(number)) => format!("{number:b}"),
        ('b', Value::Int(number)) => signed(*number, |number| format!("{number:b}")),
        ('o', Value::Uint(number)) => format!("{number:o}"),
        ('o', Value::Int(number)) => signed(*number, |number| format!("{number:o}")),
        ('x' | 'X', value) => match hexadecimal(value) {
            Some(hex) if verb == 'X' => hex.to_uppercase(),
            Some(hex) => hex,
            None => return Err(refused(verb, value.ty().name())),
        },
        (verb, value) => return Err(refused(verb, value.ty().name())),
    };
    text.push_str(&own);
    Ok(())
}

/// A double, or the name of one that cannot be written otherwise.
fn number(value: &Value<'_>) -> Option<f64> {
    match value {
        Value::Double(number) => Some(*number),
        Value::String(name) => match &**name {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
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

/// What is written for what is no number or none that is finite.
fn unusual(number: f64) -> Option<&'static str> {
    match number {
        number if number.is_nan() => Some("NaN"),
        f64::INFINITY => Some("∞"),
        f64::NEG_INFINITY => Some("-∞"),
        _ => None,
    }
}

/// `1,234.500000`
fn fixed(number: f64, precision: usize) -> String {
    if let Some(name) = unusual(number) {
        return name.to_owned();
    }
    let text = format!("{:.precision$}", number.abs());
    let (whole, fraction) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut grouped = String::with_capacity(text.len() + whole.len() / 3 + 1);
    if number.is_sign_negative() {
        grouped.push('-');
    }
    for (at, digit) in whole.char_indices() {
        if at > 0 && (whole.len() - at) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped.push_str(fraction);
    grouped
}

/// `1.234500×10⁰³`: an exponent of at least two digits. What a clause gives as its precision is the least width.
fn scientific(number: f64, width: usize) -> String {
    let text = match unusual(number) {
        Some(name) => name.to_owned(),
        None => {
            let text = format!("{number:.PRECISION$e}");
            let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            let (sign, digits) = exponent.strip_prefix('-').map_or(("", exponent), |digits| ("⁻", digits));
            let raised: String = format!("{digits:0>2}").chars().map(raised).collect();
            format!("{mantissa}×10{sign}{raised}")
        }
    };
    format!("{text:>width$}")
}

fn raised(digit: char) -> char {
    const RAISED: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    digit.to_digit(10).map_or(digit, |digit| RAISED[digit as usize])
}

/// `%s`: a value on its own.
fn plain(value: &Value<'_>, text: &mut String) -> Result<(), EvalError> {
    match value {
        Value::List(_) | Value::Map(_) => return literal(value, text),
        Value::Bytes(bytes) if std::str::from_utf8(bytes).is_err() => {
            return Err(EvalError::other(
                "error during formatting: could not convert argument \"invalid UTF-8 in bytes, cannot convert to \
                 string\" to string",
            ));
        }
        Value::Object(_) | Value::Optional(_) | Value::Opaque(_) => return Err(refused('s', value.ty().name())),
        value => text.push_str(&value.to_string()),
    }
    Ok(())
}

/// A value within a list or map, written so that it could be read again.
fn literal(value: &Value<'_>, text: &mut String) -> Result<(), EvalError> {
    match value {
        Value::String(own) => quote(own, text),
        Value::Bytes(_) => {
            let mut own = String::new();
            plain(value, &mut own)?;
            text.push('b');
            quote(&own, text);
        }
        Value::Double(number) if number.is_finite() => text.push_str(&format!("{number:.PRECISION$}")),
        Value::Double(_) => quote(&value.to_string(), text),
        Value::Timestamp(_) => text.push_str(&format!("timestamp(\"{value}\")")),
        Value::Duration(_) => text.push_str(&format!("duration(\"{value}\")")),
        Value::List(list) => {
            text.push('[');
            for (at, item) in list.iter().enumerate() {
                text.push_str(if at > 0 { ", " } else { "" });
                literal(&item?, text)?;
            }
            text.push(']');
        }
        Value::Map(map) => {
            let mut entries = Vec::with_capacity(map.len());
            for (key, value) in map.iter() {
                let mut entry = String::new();
                literal(&key, &mut entry)?;
                let key = entry.clone();
                entry.push(':');
                literal(&value?, &mut entry)?;
                entries.push((key, entry));
            }
            entries.sort();
            let entries: Vec<String> = entries.into_iter().map(|(_, entry)| entry).collect();
            text.push_str(&format!("{{{}}}", entries.join(", ")));
        }
        value => plain(value, text)?,
    }
    Ok(())
}

/// Text between quotes, with what does not print escaped.
fn quote(own: &str, text: &mut String) {
    text.push('"');
    for char in own.chars() {
        match char {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\u{7}' => text.push_str("\\a"),
            '\u{8}' => text.push_str("\\b"),
            '\u{c}' => text.push_str("\\f"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\u{b}' => text.push_str("\\v"),
            char if char.is_ascii_control() => text.push_str(&format!("\\x{:02x}", u32::from(char))),
            char => text.push(char),
        }
    }
    text.push('"');
}
