//! The walk that checks an object against the rules of its nodes.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::FieldError;
use crate::path::Path;
use crate::types::{Bound, JsonType, Kind, ListKind, Origin, Ref, Rules, Schema};

/// Enough to mend an object by; a huge list of broken elements must not grow the answer without bound.
const MAX_ERRORS: usize = 100;

/// Checks an object against the schema of its CustomResourceDefinition. CEL rules are not part of this.
pub fn validate(schema: &Schema, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    check(schema.root(), object, &Path::Root, &mut errors);
    errors.truncate(MAX_ERRORS);
    errors
}

fn check(node: Ref<'_>, value: &Value, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    if node.arena.origin == Origin::Builtin || errors.len() >= MAX_ERRORS {
        return;
    }
    if value.is_null() && node.node.nullable {
        return;
    }
    if let Some(rules) = node.rules() {
        if !type_fits(rules, value) {
            let wanted = rules.json_type.map_or("integer,string", JsonType::name);
            let found = Value::from(json_type(value));
            let detail = format!("{} in body must be of type {wanted}: {found}", path.bracketed());
            errors.push(FieldError::type_invalid(path.bracketed(), &found, &detail));
            return;
        }
        rule_errors(rules, value, path, errors);
        combined(node, rules, value, path, errors);
    }
    children(node, value, path, errors);
}

fn children(node: Ref<'_>, value: &Value, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                let Some(inner) = node.member(name) else { continue };
                let is_map = matches!(node.node.kind, Kind::Map { .. });
                let path = if is_map { Path::Key(path, name) } else { Path::Field(path, name) };
                check(inner, value, &path, errors);
            }
        }
        Value::Array(items) => {
            let Some(inner) = node.item() else { return };
            for (at, value) in items.iter().enumerate() {
                check(inner, value, &Path::Item(path, at), errors);
            }
            duplicates(node, items, path, errors);
        }
        _ => {}
    }
}

fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn type_fits(rules: &Rules, value: &Value) -> bool {
    if rules.int_or_string {
        return value.is_string() || value.is_i64() || value.is_u64();
    }
    match rules.json_type {
        None => true,
        Some(JsonType::Array) => value.is_array(),
        Some(JsonType::Boolean) => value.is_boolean(),
        Some(JsonType::Integer) => {
            value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|number| number.fract() == 0.0)
        }
        Some(JsonType::Number) => value.is_number(),
        Some(JsonType::Object) => value.is_object(),
        Some(JsonType::String) => value.is_string(),
    }
}

fn rule_errors(rules: &Rules, value: &Value, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    if !rules.choices.is_empty() && !rules.choices.contains(value) {
        let supported: Vec<String> = rules.choices.iter().map(plain).collect();
        let supported: Vec<&str> = supported.iter().map(String::as_str).collect();
        errors.push(FieldError::not_supported(path.bracketed(), value, &supported));
    }
    match value {
        Value::Number(_) => number(rules, value, path, errors),
        Value::String(text) => string(rules, text, value, path, errors),
        Value::Array(items) => sizes(items.len(), rules.min_items, rules.max_items, "items", path, errors),
        Value::Object(map) => {
            sizes(map.len(), rules.min_properties, rules.max_properties, "properties", path, errors);
            required(rules, map, path, errors);
        }
        _ => {}
    }
    if let (Value::Array(items), true) = (value, rules.unique_items) {
        let mut seen = HashSet::new();
        if !items.iter().all(|item| seen.insert(item.to_string())) {
            errors.push(invalid(path, value, "shouldn't contain duplicates"));
        }
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn invalid(path: &Path<'_>, value: &Value, rule: &str) -> FieldError {
    let path = path.bracketed();
    let detail = format!("{path} in body {rule}");
    FieldError::invalid(path, value, &detail)
}

fn number(rules: &Rules, value: &Value, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let Some(number) = value.as_f64() else { return };
    let or_equal = |bound: &Bound| if bound.exclusive { "" } else { "or equal to " };
    if let Some(bound) = &rules.maximum
        && (number > bound.limit || (bound.exclusive && number == bound.limit))
    {
        let rule = format!("should be less than {}{}", or_equal(bound), bound.limit);
        errors.push(invalid(path, value, &rule));
    }
    if let Some(bound) = &rules.minimum
        && (number < bound.limit || (bound.exclusive && number == bound.limit))
    {
        let rule = format!("should be greater than {}{}", or_equal(bound), bound.limit);
        errors.push(invalid(path, value, &rule));
    }
    if let Some(factor) = rules.multiple_of.filter(|factor| *factor > 0.0)
        && (number / factor).fract() != 0.0
    {
        errors.push(invalid(path, value, &format!("should be a multiple of {factor}")));
    }
    let fits = match rules.format.as_deref() {
        Some("int32") => number.abs() <= f64::from(i32::MAX) + f64::from(u8::from(number < 0.0)),
        Some("int64") => value.is_i64() || !value.is_u64(),
        _ => true,
    };
    if !fits {
        let format = rules.format.as_deref().unwrap_or_default();
        errors.push(invalid(path, value, &format!("must be of type {format}: {value}")));
    }
}

fn string(rules: &Rules, text: &str, value: &Value, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let length = text.chars().count() as u64;
    if let Some(max) = rules.max_length.filter(|max| length > *max) {
        errors.push(FieldError::too_long(path.bracketed(), max));
    }
    if let Some(min) = rules.min_length.filter(|min| length < *min) {
        errors.push(invalid(path, value, &format!("should be at least {min} chars long")));
    }
    if let Some(pattern) = rules.pattern.as_ref().filter(|pattern| !pattern.is_match(text)) {
        errors.push(invalid(path, value, &format!("should match '{}'", pattern.as_str())));
    }
    if let Some(format) = rules.format.as_deref().filter(|format| !format_fits(format, text)) {
        errors.push(invalid(path, value, &format!("must be of type {format}: {value}")));
    }
}

/// Formats that upstream enforces and that can be checked without tables; others are annotations.
fn format_fits(format: &str, text: &str) -> bool {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    match format {
        "date-time" | "datetime" => text.parse::<jiff::Timestamp>().is_ok(),
        "date" => text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok(),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "ip" => text.parse::<IpAddr>().is_ok(),
        "cidr" => text.split_once('/').is_some_and(|(address, bits)| {
            let max = match address.parse::<IpAddr>() {
                Ok(IpAddr::V4(_)) => 32,
                Ok(IpAddr::V6(_)) => 128,
                Err(_) => return false,
            };
            bits.parse::<u8>().is_ok_and(|bits| bits <= max)
        }),
        "uuid" | "uuid3" | "uuid4" | "uuid5" => {
            let groups: Vec<usize> = text.split('-').map(str::len).collect();
            groups == [8, 4, 4, 4, 12] && text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
        }
        _ => true,
    }
}

fn sizes(count: usize, min: Option<u64>, max: Option<u64>, what: &str, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    if let Some(max) = max.filter(|max| count as u64 > *max) {
        errors.push(FieldError::too_many(path.bracketed(), count, max));
    }
    if let Some(min) = min.filter(|min| (count as u64) < *min) {
        errors.push(invalid(path, &Value::from(count), &format!("should have at least {min} {what}")));
    }
}

fn required(rules: &Rules, map: &Map<String, Value>, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    for name in rules.required.iter().filter(|name| !map.contains_key(name.as_str())) {
        errors.push(FieldError::required(Path::Field(path, name).bracketed(), ""));
    }
    if rules.embedded {
        for name in ["apiVersion", "kind"].iter().filter(|name| !map.contains_key(**name)) {
            errors.push(FieldError::required(Path::Field(path, name).bracketed(), "must not be empty"));
        }
    }
}

fn holds(node: Ref<'_>, value: &Value, path: &Path<'_>) -> bool {
    let mut errors = Vec::new();
    check(node, value, path, &mut errors);
    errors.is_empty()
}

fn combined(node: Ref<'_>, rules: &Rules, value: &Value, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let count = |ids: &[u32]| ids.iter().filter(|id| holds(node.at(**id), value, path)).count();
    let fail = |rule: &str| {
        let path = path.bracketed();
        let detail = format!("{path:?} {rule}");
        FieldError::invalid(path, value, &detail)
    };
    for id in &rules.all_of {
        check(node.at(*id), value, path, errors);
    }
    if !rules.any_of.is_empty() && count(&rules.any_of) == 0 {
        errors.push(fail("must validate at least one schema (anyOf)"));
    }
    if !rules.one_of.is_empty() {
        match count(&rules.one_of) {
            1 => {}
            0 => errors.push(fail("must validate one and only one schema (oneOf). Found none valid")),
            n => errors
                .push(fail(&format!("must validate one and only one schema (oneOf). Found {n} valid alternatives"))),
        }
    }
    if rules.not.is_some_and(|id| holds(node.at(id), value, path)) {
        errors.push(fail("must not validate the schema (not)"));
    }
}

/// Elements of a set, or the keys of a map-like list, that occur again.
fn duplicates(node: Ref<'_>, items: &[Value], path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let mut seen = HashSet::new();
    for (at, item) in items.iter().enumerate() {
        let identity = match node.list() {
            ListKind::Atomic => return,
            ListKind::Set => item.clone(),
            ListKind::Map { .. } => {
                let keys = node.keys().filter_map(|key| Some((key.to_owned(), item.get(key)?.clone())));
                Value::Object(keys.collect())
            }
        };
        if !seen.insert(identity.to_string()) {
            errors.push(FieldError::duplicate(Path::Item(path, at).bracketed(), &identity));
        }
    }
}
