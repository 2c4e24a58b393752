//! From messages to JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::table::{Count, Field, Form, Message, Special, TABLE};
use super::wire::{Reader, WireValue};
use super::{MAX_DEPTH, ProtobufError};

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(_) | Value::Object(_) => false,
    }
}

/// Reads a message's fields into an object.
pub(super) fn fields(
    message: &Message,
    bytes: &[u8],
    object: &mut Map<String, Value>,
    depth: u32,
) -> Result<(), ProtobufError> {
    if depth > MAX_DEPTH {
        return Err(ProtobufError::Depth);
    }
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.field()? {
        let Some(field) = message.fields.iter().find(|field| field.number == number) else { continue };
        match field.count {
            Count::Inlined => {
                if let Form::Message(index) = field.form {
                    fields(TABLE.at(index), wire.bytes()?, object, depth + 1)?;
                }
            }
            Count::One => {
                let value = value(field.form, wire, depth)?;
                if field.keeps_zero || !is_zero(&value) {
                    object.insert(field.name.to_owned(), value);
                }
            }
            Count::Repeated => {
                let Value::Array(items) = object.entry(field.name).or_insert_with(|| Value::Array(Vec::new())) else {
                    continue;
                };
                repeated(field, wire, items, depth)?;
            }
            Count::Map => {
                let Value::Object(map) = object.entry(field.name).or_insert_with(|| Value::Object(Map::new())) else {
                    continue;
                };
                let (key, value) = entry(field.form, wire.bytes()?, depth)?;
                map.insert(key, value);
            }
        }
    }
    Ok(())
}

fn repeated(field: &Field, wire: WireValue<'_>, items: &mut Vec<Value>, depth: u32) -> Result<(), ProtobufError> {
    let packed = matches!(field.form, Form::Bool | Form::Int32 | Form::Int64);
    if let (true, WireValue::Bytes(bytes)) = (packed, wire) {
        let mut reader = Reader::new(bytes);
        while !reader.is_empty() {
            items.push(value(field.form, WireValue::Varint(reader.varint()?), depth)?);
        }
        return Ok(());
    }
    items.push(value(field.form, wire, depth)?);
    Ok(())
}

fn entry(form: Form, bytes: &[u8], depth: u32) -> Result<(String, Value), ProtobufError> {
    let (mut key, mut found) = (String::new(), None);
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.field()? {
        match number {
            1 => key = wire.text()?.to_owned(),
            2 => found = Some(value(form, wire, depth)?),
            _ => {}
        }
    }
    let absent = match form {
        Form::Bool | Form::Int32 | Form::Int64 | Form::Double => WireValue::Varint(0),
        Form::String | Form::Bytes | Form::Message(_) => WireValue::Bytes(&[]),
    };
    Ok((key, found.map_or_else(|| value(form, absent, depth), Ok)?))
}

fn value(form: Form, wire: WireValue<'_>, depth: u32) -> Result<Value, ProtobufError> {
    Ok(match form {
        Form::String => Value::from(wire.text()?),
        Form::Bytes => Value::String(STANDARD.encode(wire.bytes()?)),
        Form::Bool => Value::Bool(wire.integer()? != 0),
        Form::Int32 => Value::from(wire.integer()? as i32),
        Form::Int64 => Value::from(wire.integer()? as i64),
        Form::Double => Value::from(f64::from_bits(wire.integer()?)),
        Form::Message(index) => message(TABLE.at(index), wire.bytes()?, depth + 1)?,
    })
}

fn message(message: &Message, bytes: &[u8], depth: u32) -> Result<Value, ProtobufError> {
    if message.special == Special::Structure {
        let mut object = Map::new();
        fields(message, bytes, &mut object, depth)?;
        return Ok(Value::Object(object));
    }
    if depth > MAX_DEPTH {
        return Err(ProtobufError::Depth);
    }
    special(message, bytes, depth)
}

fn special(message: &Message, bytes: &[u8], depth: u32) -> Result<Value, ProtobufError> {
    // The few fields of such a message, by number; the last value counts except in lists.
    let mut parts: Vec<(u32, WireValue<'_>)> = Vec::new();
    let mut reader = Reader::new(bytes);
    while let Some(part) = reader.field()? {
        parts.push(part);
    }
    let last = |number: u32| parts.iter().rev().find(|(found, _)| *found == number).map(|(_, wire)| *wire);
    let integer = |number: u32| last(number).map_or(Ok(0), WireValue::integer);
    let text = |number: u32| last(number).map_or(Ok(""), WireValue::text);
    let texts = |number: u32| -> Result<Value, ProtobufError> {
        parts.iter().filter(|(found, _)| *found == number).map(|(_, wire)| wire.text().map(Value::from)).collect()
    };
    let schema = |wire: WireValue<'_>| -> Result<Value, ProtobufError> {
        let Some(Form::Message(index)) = message.fields.iter().map(|field| field.form).find(is_message) else {
            return Ok(Value::Null);
        };
        let mut object = Map::new();
        fields(TABLE.at(index), wire.bytes()?, &mut object, depth + 1)?;
        Ok(Value::Object(object))
    };
    Ok(match message.special {
        Special::Structure => Value::Null,
        Special::Quantity => Value::from(text(1)?),
        Special::Time => time(integer(1)? as i64, 0),
        Special::MicroTime => time(integer(1)? as i64, integer(2)? as i32),
        Special::Duration => Value::from(duration(integer(1)? as i64)),
        Special::IntOrString if integer(1)? == 0 => Value::from(integer(2)? as i32),
        Special::IntOrString => Value::from(text(3)?),
        Special::Raw => match last(1).map_or(Ok(&[][..]), WireValue::bytes)? {
            [] => Value::Null,
            raw => crate::json::parse(raw).map_err(|_| ProtobufError::Wire("raw value is not JSON"))?.0,
        },
        Special::SchemaOrArray => match last(1) {
            Some(wire) => schema(wire)?,
            None => parts
                .iter()
                .filter(|(found, _)| *found == 2)
                .map(|(_, wire)| schema(*wire))
                .collect::<Result<_, _>>()?,
        },
        Special::SchemaOrBool => match last(2) {
            Some(wire) => schema(wire)?,
            None => Value::Bool(integer(1)? != 0),
        },
        Special::SchemaOrStrings => match last(1) {
            Some(wire) => schema(wire)?,
            None => texts(2)?,
        },
        Special::Items => texts(1)?,
    })
}

fn is_message(form: &Form) -> bool {
    matches!(form, Form::Message(_))
}

/// The zero time is no time.
fn time(seconds: i64, nanos: i32) -> Value {
    const GO_ZERO: i64 = -62_135_596_800;
    match jiff::Timestamp::new(seconds, nanos) {
        Ok(_) if (seconds == 0 && nanos == 0) || seconds == GO_ZERO => Value::Null,
        Ok(time) if nanos == 0 => Value::String(format!("{time:.0}")),
        Ok(time) => Value::String(format!("{time:.6}")),
        Err(_) => Value::Null,
    }
}

/// Go's form: `1h2m3.5s`.
fn duration(nanos: i64) -> String {
    let (sign, left) = (if nanos < 0 { "-" } else { "" }, nanos.unsigned_abs());
    let (seconds, fraction) = (left / 1_000_000_000, left % 1_000_000_000);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let mut last = format!("{seconds}");
    if fraction > 0 {
        last = format!("{last}.{fraction:09}").trim_end_matches('0').to_owned();
    }
    match (hours, minutes) {
        (0, 0) => format!("{sign}{last}s"),
        (0, minutes) => format!("{sign}{minutes}m{last}s"),
        (hours, minutes) => format!("{sign}{hours}h{minutes}m{last}s"),
    }
}
