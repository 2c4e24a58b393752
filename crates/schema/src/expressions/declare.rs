//! What a schema declares to expressions: types, and how large their values can be.

use std::sync::Arc;

use cel::{
    Field, ListKind, ObjectType, Type,
    cost::{SizeEstimate, Sizes},
};
use serde_json::Value;

use crate::definition::document::{Document, Inner};

/// Largest request body that estimates count on.
pub(super) const REQUEST_BYTES: u64 = 3 * 1024 * 1024;
/// Bytes of the longest text: a request that holds nothing else, without its quotes.
const TEXT_MAX: u64 = REQUEST_BYTES - 2;
/// Bytes of formatted texts in JSON.
const DURATION_MAX: u64 = 32;
const DURATION_MIN: u64 = 3;
const INSTANT_MAX: u64 = 32;
const INSTANT_MIN: u64 = 21;
const DATE: u64 = 12;
/// Least bytes of values in JSON.
const TEXT_MIN: u64 = 2;
const BOOL_MIN: u64 = 4;
const NUMBER_MIN: u64 = 1;
const EMPTY: u64 = 2;
/// Bytes of a code point at most: lengths are declared in code points, sizes counted in bytes.
const CHAR_BYTES: u64 = 4;

/// The size that estimates take for scalars, objects and the keys of maps: comparing them costs no walk.
const UNSIZED: u64 = 0;

/// What a schema declares.
#[derive(Clone, Debug)]
pub(super) struct Declared {
    pub(super) ty: Type,
    /// Most elements of a list or map, most bytes of a text.
    max: u64,
    /// Least bytes in JSON.
    pub(super) min_bytes: u64,
    inner: Within,
}

#[derive(Clone, Debug)]
enum Within {
    Nothing,
    List(Box<Declared>),
    Map(Box<Declared>),
    /// By name in expressions.
    Object(Vec<(Arc<str>, Declared)>),
}

/// The name of a field in expressions, `None` when it can have none.
pub(super) fn escape(name: &str) -> Option<String> {
    if name.is_empty() || name.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    if cel::is_reserved(name) {
        return Some(format!("__{name}__"));
    }
    let mut escaped = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(char) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("__") {
            escaped.push_str("__underscores__");
            rest = after;
            continue;
        }
        match char {
            '.' => escaped.push_str("__dot__"),
            '-' => escaped.push_str("__dash__"),
            '/' => escaped.push_str("__slash__"),
            '_' | 'a'..='z' | 'A'..='Z' | '0'..='9' => escaped.push(char),
            _ => return None,
        }
        rest = &rest[char.len_utf8()..];
    }
    Some(escaped)
}

fn scalar(ty: Type, min_bytes: u64) -> Declared {
    Declared { ty, max: UNSIZED, min_bytes, inner: Within::Nothing }
}

fn text(schema: Document<'_>) -> Declared {
    let sized = |ty, max, min_bytes| Declared { ty, max, min_bytes, inner: Within::Nothing };
    let length = schema.get("maxLength").and_then(Value::as_u64);
    match schema.text("format") {
        "byte" => sized(Type::Bytes, length.unwrap_or(TEXT_MAX), TEXT_MIN),
        "duration" => sized(Type::Duration, DURATION_MAX, DURATION_MIN),
        "date" => sized(Type::Timestamp, DATE, DATE),
        "date-time" => sized(Type::Timestamp, INSTANT_MAX, INSTANT_MIN),
        _ => {
            let choices =
                schema.values("enum").iter().filter_map(Value::as_str).map(|choice| choice.len() as u64).max();
            let max = length.map(|length| length.saturating_mul(CHAR_BYTES)).or(choices).unwrap_or(TEXT_MAX);
            sized(Type::String, max, TEXT_MIN)
        }
    }
}

/// What a schema declares; nothing where it does not say what its values are. `name` tells the types of one schema apart.
pub(super) fn declare(schema: Document<'_>, is_root: bool, name: &str) -> Option<Declared> {
    if schema.flag("x-kubernetes-int-or-string") {
        let length = schema.get("maxLength").and_then(Value::as_u64);
        let max = length.map_or(TEXT_MAX, |length| length.saturating_mul(CHAR_BYTES));
        return Some(Declared { ty: Type::Dyn, max, min_bytes: 1, inner: Within::Nothing });
    }
    match schema.text("type") {
        "array" => list(schema, name),
        "object" => match schema.additional() {
            Some(Inner::Schema(value)) => map(schema, value, name),
            _ => Some(object(schema, is_root, name)),
        },
        "string" => Some(text(schema)),
        "boolean" => Some(scalar(Type::Bool, BOOL_MIN)),
        "number" => Some(scalar(Type::Double, NUMBER_MIN)),
        "integer" => Some(scalar(Type::Int, NUMBER_MIN)),
        _ => None,
    }
}

fn list(schema: Document<'_>, name: &str) -> Option<Declared> {
    let item = schema.item()?;
    let item = declare(item, item.flag("x-kubernetes-embedded-resource"), &format!("{name}.@idx"))?;
    let kind = match schema.text("x-kubernetes-list-type") {
        "set" => ListKind::Set,
        "map" => ListKind::Map(schema.words("x-kubernetes-list-map-keys").map(str::to_owned).collect()),
        _ => ListKind::Atomic,
    };
    let declared = schema.get("maxItems").and_then(Value::as_u64);
    // a request that holds nothing but commas and the smallest items
    let max = declared.unwrap_or_else(|| (REQUEST_BYTES - 2) / (item.min_bytes + 1));
    let ty = Type::list_of_kind(item.ty.clone(), kind);
    Some(Declared { ty, max, min_bytes: EMPTY, inner: Within::List(Box::new(item)) })
}

fn map(schema: Document<'_>, value: Document<'_>, name: &str) -> Option<Declared> {
    let value = declare(value, value.flag("x-kubernetes-embedded-resource"), &format!("{name}.@elem"))?;
    let declared = schema.get("maxProperties").and_then(Value::as_u64);
    // the same with the shortest keys
    let max = declared.unwrap_or_else(|| (REQUEST_BYTES - 2) / (value.min_bytes + 6));
    let ty = Type::map(Type::String, value.ty.clone());
    Some(Declared { ty, max, min_bytes: EMPTY, inner: Within::Map(Box::new(value)) })
}

fn object(schema: Document<'_>, is_root: bool, name: &str) -> Declared {
    let mut fields = Vec::new();
    let mut min_bytes = EMPTY;
    let of_resource = ["apiVersion", "kind", "metadata"];
    for (key, property) in schema.children("properties").filter(|(key, _)| !is_root || !of_resource.contains(key)) {
        let embedded = property.flag("x-kubernetes-embedded-resource");
        let Some(escaped) = escape(key) else { continue };
        let Some(field) = declare(property, embedded, &format!("{name}.{escaped}")) else { continue };
        if schema.words("required").any(|required| required == key) && property.get("default").is_none() {
            min_bytes = min_bytes.saturating_add(key.len() as u64 + field.min_bytes + 4);
        }
        fields.push((Arc::from(escaped), Arc::from(key), field));
    }
    if is_root {
        let name_of = || Declared { ty: Type::String, max: TEXT_MAX, min_bytes: TEXT_MIN, inner: Within::Nothing };
        for key in ["apiVersion", "kind"] {
            fields.push((Arc::from(key), Arc::from(key), name_of()));
        }
        let names = ["name", "generateName"].map(|key| (Arc::from(key), Arc::from(key), name_of()));
        fields.push((
            Arc::from("metadata"),
            Arc::from("metadata"),
            finish(&format!("{name}.metadata"), EMPTY, names.into()),
        ));
    }
    finish(name, min_bytes, fields)
}

fn finish(name: &str, min_bytes: u64, fields: Vec<(Arc<str>, Arc<str>, Declared)>) -> Declared {
    let typed = fields.iter().map(|(escaped, key, field)| Field::renamed(escaped, key, field.ty.clone()));
    let ty = Type::Object(ObjectType::new(name, typed.collect()));
    let inner = fields.into_iter().map(|(escaped, _, field)| (escaped, field)).collect();
    Declared { ty, max: UNSIZED, min_bytes, inner: Within::Object(inner) }
}

impl Declared {
    /// What the items of a list, or the values of a map, are declared as.
    pub(super) fn element(&self) -> Option<&Self> {
        match &self.inner {
            Within::List(inner) | Within::Map(inner) => Some(inner),
            Within::Object(_) | Within::Nothing => None,
        }
    }

    /// What the field of this name in expressions is declared as.
    pub(super) fn field(&self, name: &str) -> Option<&Self> {
        match &self.inner {
            Within::Object(fields) => fields.iter().find(|(field, _)| **field == *name).map(|(_, field)| field),
            _ => None,
        }
    }
}

/// Paths begin with `self` or `oldSelf`, which both are this.
impl Sizes for Declared {
    fn size(&self, path: &[String], _: &Type) -> Option<SizeEstimate> {
        let (_, path) = path.split_first()?;
        let mut at = self;
        for step in path {
            at = match step.as_str() {
                "@items" | "@values" => at.element()?,
                "@keys" => return Some(SizeEstimate::new(0, UNSIZED)),
                name => at.field(name)?,
            };
        }
        Some(SizeEstimate::new(0, at.max))
    }
}
