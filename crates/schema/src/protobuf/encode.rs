//! From JSON to messages.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::table::{Count, Field, Form, Message, Special, TABLE};
use super::wire::Writer;
use super::{MAX_DEPTH, ProtobufError};

fn refuse(field: &str, value: &Value) -> ProtobufError {
    ProtobufError::Value { field: field.to_owned(), value: value.to_string() }
}

/// Writes the fields that an object has.
pub(super) fn fields(message: &Message, object: &Value, out: &mut Writer, depth: u32) -> Result<(), ProtobufError> {
    if depth > MAX_DEPTH {
        return Err(ProtobufError::Depth);
    }
    for field in &message.fields {
        if field.count == Count::Inlined {
            let Form::Message(index) = field.form else { continue };
            let mut inner = Writer::default();
            fields(TABLE.at(index), object, &mut inner, depth + 1)?;
            if !inner.is_empty() {
                out.bytes(field.number, &inner.finish());
            }
            continue;
        }
        let value = match object.get(field.name) {
            None | Some(Value::Null) => continue,
            Some(value) => value,
        };
        match (field.count, value) {
            (Count::Repeated, Value::Array(items)) => {
                items.iter().try_for_each(|item| one(field, field.number, item, out, depth))?;
            }
            (Count::Map, Value::Object(map)) => {
                let mut names: Vec<&String> = map.keys().collect();
                names.sort_unstable();
                for name in names {
                    let mut entry = Writer::default();
                    entry.bytes(1, name.as_bytes());
                    one(field, 2, &map[name], &mut entry, depth)?;
                    out.bytes(field.number, &entry.finish());
                }
            }
            (Count::One, value) => one(field, field.number, value, out, depth)?,
            _ => return Err(refuse(field.name, value)),
        }
    }
    Ok(())
}

fn one(field: &Field, number: u32, value: &Value, out: &mut Writer, depth: u32) -> Result<(), ProtobufError> {
    let refused = || refuse(field.name, value);
    match field.form {
        Form::String => out.bytes(number, value.as_str().ok_or_else(refused)?.as_bytes()),
        Form::Bytes => {
            let text = value.as_str().ok_or_else(refused)?;
            out.bytes(number, &STANDARD.decode(text).map_err(|_| refused())?);
        }
        Form::Bool => out.varint(number, u64::from(value.as_bool().ok_or_else(refused)?)),
        Form::Int32 | Form::Int64 => out.varint(number, value.as_i64().ok_or_else(refused)? as u64),
        Form::Double => out.fixed64(number, value.as_f64().ok_or_else(refused)?.to_bits()),
        Form::Message(index) => {
            let message = TABLE.at(index);
            let mut inner = Writer::default();
            match message.special {
                Special::Structure if value.is_object() => fields(message, value, &mut inner, depth + 1)?,
                Special::Structure => return Err(refused()),
                _ => special(field, message, value, &mut inner, depth + 1)?,
            }
            out.bytes(number, &inner.finish());
        }
    }
    Ok(())
}

fn special(field: &Field, message: &Message, value: &Value, out: &mut Writer, depth: u32) -> Result<(), ProtobufError> {
    let refused = || refuse(field.name, value);
    match (message.special, value) {
        (_, Value::Null) => {}
        (Special::Quantity, Value::String(text)) => out.bytes(1, text.as_bytes()),
        (Special::Quantity, Value::Number(number)) => out.bytes(1, number.to_string().as_bytes()),
        (Special::Time | Special::MicroTime, Value::String(text)) => {
            let time: jiff::Timestamp = text.parse().map_err(|_| refused())?;
            out.varint(1, time.as_second() as u64);
            out.varint(2, time.subsec_nanosecond() as u64);
        }
        (Special::Duration, Value::String(text)) => out.varint(1, duration(text).ok_or_else(refused)? as u64),
        (Special::IntOrString, Value::String(text)) => {
            out.varint(1, 1);
            out.varint(2, 0);
            out.bytes(3, text.as_bytes());
        }
        (Special::IntOrString, value) => {
            out.varint(1, 0);
            out.varint(2, value.as_i64().ok_or_else(refused)? as u64);
            out.bytes(3, b"");
        }
        (Special::Raw, value) => out.bytes(1, value.to_string().as_bytes()),
        (Special::SchemaOrArray | Special::SchemaOrStrings, Value::Object(_)) => schema(message, 1, value, out, depth)?,
        (Special::SchemaOrArray, Value::Array(items)) => {
            items.iter().try_for_each(|item| schema(message, 2, item, out, depth))?;
        }
        (Special::SchemaOrBool, Value::Bool(allows)) => out.varint(1, u64::from(*allows)),
        (Special::SchemaOrBool, Value::Object(_)) => {
            out.varint(1, 1);
            schema(message, 2, value, out, depth)?;
        }
        (Special::SchemaOrStrings, Value::Array(items)) => texts(field, 2, items, out)?,
        (Special::Items, Value::Array(items)) => texts(field, 1, items, out)?,
        _ => return Err(refused()),
    }
    Ok(())
}

fn schema(message: &Message, number: u32, value: &Value, out: &mut Writer, depth: u32) -> Result<(), ProtobufError> {
    let index = message.fields.iter().find_map(|field| match field.form {
        Form::Message(index) => Some(index),
        _ => None,
    });
    let mut inner = Writer::default();
    if let Some(index) = index {
        fields(TABLE.at(index), value, &mut inner, depth + 1)?;
    }
    out.bytes(number, &inner.finish());
    Ok(())
}

fn texts(field: &Field, number: u32, items: &[Value], out: &mut Writer) -> Result<(), ProtobufError> {
    items.iter().try_for_each(|item| {
        out.bytes(number, item.as_str().ok_or_else(|| refuse(field.name, item))?.as_bytes());
        Ok(())
    })
}

/// Nanoseconds of Go's form: a sum of numbers with the units h, m, s, ms, us, µs and ns.
fn duration(text: &str) -> Option<i64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text),
    };
    let mut nanos = 0.0;
    while !rest.is_empty() && rest != "0" {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(end);
        let end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let factor = match unit {
            "h" => 3.6e12,
            "m" => 6e10,
            "s" => 1e9,
            "ms" => 1e6,
            "us" | "µs" => 1e3,
            "ns" => 1.0,
            _ => return None,
        };
        nanos += number.parse::<f64>().ok()? * factor;
        rest = after;
    }
    Some((sign * nanos) as i64)
}
