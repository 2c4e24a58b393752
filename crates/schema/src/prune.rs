//! Decoding an object against its type: unknown fields go, values of the wrong type are reported, and built-in values
//! take the form in which a Go server would write them (no `null`, times in UTC, canonical quantities).

use serde_json::Value;

use crate::path::Path;
use crate::quantity;
use crate::types::{Kind, Origin, Ref, Schema};

/// Upstream's strict decoder stops at 100 problems too: the answer stays readable and the list bounded.
const MAX_PROBLEMS: usize = 100;

/// What is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A field that the type does not have; it was removed.
    #[error("unknown field \"{path}\"")]
    Unknown {
        /// Where, for example `spec.containers[0].foo`.
        path: String,
    },
    /// A value of another JSON type than the field's.
    #[error("json: cannot unmarshal {found} into Go {} of type {expected}", place(structure, path))]
    Type {
        /// Go name of the innermost structure, for example `PodSpec`; empty at the root.
        structure: String,
        /// Names of the fields on the way, for example `spec.replicas`.
        path: String,
        /// Go type of the field, for example `int32`.
        expected: String,
        /// What stands there, for example `string` or `number 1.5`.
        found: String,
    },
    /// A value of the right JSON type whose content the field's type cannot hold.
    #[error("{message}")]
    Content {
        /// Where, for example `data.key`.
        path: String,
        /// The rule, in the words of the type's own decoder.
        message: String,
    },
}

fn place(structure: &str, path: &str) -> String {
    if structure.is_empty() || path.is_empty() {
        "value".to_owned()
    } else {
        format!("struct field {structure}.{path}")
    }
}

impl Problem {
    /// Whether decoding fails whatever the level of field validation; an unknown field fails only a strict request.
    pub fn is_fatal(&self) -> bool {
        !matches!(self, Self::Unknown { .. })
    }

    /// The problem as upstream says it of an object that is a tree already when it is decoded, as a strategic merge
    /// leaves it.
    pub fn of_tree(&self) -> String {
        let Self::Type { expected, found, .. } = self else { return self.to_string() };
        let given = match found.split(' ').next().unwrap_or_default() {
            "number" if found.contains('.') => "float64",
            "number" => "int64",
            "array" => "slice",
            "object" => "map",
            scalar => scalar,
        };
        if expected.starts_with("map[") {
            format!("cannot restore map from {given}")
        } else if expected.starts_with("[]") {
            format!("cannot restore slice from {given}")
        } else if expected.contains('.') {
            format!("cannot restore struct from: {given}")
        } else if given == "int64" && expected != "bool" || given == "float64" && expected.starts_with("int") {
            format!("cannot convert {given} to {expected}")
        } else {
            format!("unrecognized type: {expected}")
        }
    }
}

/// Brings an object into the form of its type and reports what did not fit.
pub fn prune(schema: &Schema, object: &mut Value) -> Vec<Problem> {
    prune_value(schema.root(), object)
}

/// [`prune`] of one value against its node.
pub(crate) fn prune_value(node: Ref<'_>, value: &mut Value) -> Vec<Problem> {
    let mut walk = Walk { problems: Vec::new() };
    walk.value(node, value, &Path::Root, "");
    walk.problems
}

struct Walk {
    problems: Vec<Problem>,
}

impl Walk {
    fn report(&mut self, problem: impl FnOnce() -> Problem) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem());
        }
    }

    fn mismatch(&mut self, node: Ref<'_>, value: &Value, path: &Path<'_>, structure: &str) {
        self.report(|| Problem::Type {
            structure: structure.to_owned(),
            path: path.fields(),
            expected: go_type(node),
            found: json_name(node, value),
        });
    }

    fn content(&mut self, path: &Path<'_>, message: impl FnOnce() -> String) {
        self.report(|| Problem::Content { path: path.to_string(), message: message() });
    }

    fn value(&mut self, node: Ref<'_>, value: &mut Value, path: &Path<'_>, structure: &str) {
        match node.node.kind {
            Kind::Any | Kind::AnyObject | Kind::Link(_) => {}
            Kind::Struct { .. } | Kind::Map { .. } => self.object(node, value, path, structure),
            Kind::List { .. } => self.list(node, value, path, structure),
            Kind::ObjectOr { node: id } => match value {
                Value::Object(_) => self.value(node.at(id), value, path, structure),
                Value::Array(items) => {
                    for (at, item) in items.iter_mut().enumerate().filter(|(_, item)| item.is_object()) {
                        self.value(node.at(id), item, &Path::Item(path, at), structure);
                    }
                }
                _ => {}
            },
            _ if node.arena.origin == Origin::Crd => {}
            _ => self.scalar(node, value, path, structure),
        }
    }

    fn object(&mut self, node: Ref<'_>, value: &mut Value, path: &Path<'_>, structure: &str) {
        let builtin = node.arena.origin == Origin::Builtin;
        let Value::Object(map) = value else {
            if builtin {
                self.mismatch(node, value, path, structure);
            }
            return;
        };
        if let Kind::Map { value } = node.node.kind {
            let inner = node.at(value);
            if !builtin && drops_null(inner) {
                map.retain(|_, value| !value.is_null());
            }
            for (name, value) in map.iter_mut() {
                if builtin && value.is_null() {
                    *value = zero(inner);
                    continue;
                }
                self.value(inner, value, &Path::Key(path, name), structure);
            }
            return;
        }
        let structure = node.short_name();
        map.retain(|name, value| {
            let path = Path::Field(path, name);
            let Some(field) = node.field(name) else {
                if !node.node.preserve {
                    self.report(|| Problem::Unknown { path: path.to_string() });
                }
                return node.node.preserve;
            };
            let inner = node.of_field(field);
            if value.is_null() && (builtin || drops_null(inner)) {
                return false;
            }
            self.value(inner, value, &path, structure);
            true
        });
    }

    fn list(&mut self, node: Ref<'_>, value: &mut Value, path: &Path<'_>, structure: &str) {
        let builtin = node.arena.origin == Origin::Builtin;
        let (Value::Array(items), Some(inner)) = (&mut *value, node.item()) else {
            if builtin {
                self.mismatch(node, value, path, structure);
            }
            return;
        };
        for (at, item) in items.iter_mut().enumerate() {
            if builtin && item.is_null() {
                *item = zero(inner);
                continue;
            }
            self.value(inner, item, &Path::Item(path, at), structure);
        }
    }

    fn scalar(&mut self, node: Ref<'_>, value: &mut Value, path: &Path<'_>, structure: &str) {
        let fits = match (node.node.kind, &*value) {
            (Kind::Bool, Value::Bool(_)) | (Kind::String, Value::String(_)) | (Kind::Double, Value::Number(_)) => true,
            (Kind::Int32, Value::Number(number)) => number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
            (Kind::Int64, Value::Number(number)) => number.as_i64().is_some(),
            (Kind::IntOrString, Value::Number(number)) => number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
            (Kind::IntOrString, Value::String(_)) => true,
            (Kind::Bytes, Value::String(text)) => {
                if let Some(at) = illegal_base64(text.as_bytes()) {
                    self.content(path, || format!("illegal base64 data at input byte {at}"));
                }
                true
            }
            (Kind::Time | Kind::MicroTime, Value::String(_)) => return self.time(node.node.kind, value, path),
            (Kind::Quantity, Value::String(_) | Value::Number(_)) => return self.quantity(value, path),
            _ => false,
        };
        if !fits {
            self.mismatch(node, value, path, structure);
        }
    }

    fn time(&mut self, kind: Kind, value: &mut Value, path: &Path<'_>) {
        let Value::String(text) = value else { return };
        let layout = if kind == Kind::Time { "2006-01-02T15:04:05Z07:00" } else { "2006-01-02T15:04:05.000000Z07:00" };
        match text.parse::<jiff::Timestamp>() {
            Ok(time) if text.len() >= 20 && text.as_bytes()[10] == b'T' => {
                let canonical = if kind == Kind::Time { format!("{time:.0}") } else { format!("{time:.6}") };
                if *text != canonical {
                    *text = canonical;
                }
            }
            _ => self.content(path, || format!("parsing time {text:?} as {layout:?}: cannot parse {text:?}")),
        }
    }

    fn quantity(&mut self, value: &mut Value, path: &Path<'_>) {
        let text = match &*value {
            Value::String(text) => std::borrow::Cow::Borrowed(text.as_str()),
            other => std::borrow::Cow::Owned(other.to_string()),
        };
        match quantity::Quantity::parse(&text) {
            Ok(quantity) => {
                let canonical = quantity.to_string();
                if value.as_str() != Some(canonical.as_str()) {
                    *value = Value::String(canonical);
                }
            }
            Err(error) => self.content(path, || error.to_string()),
        }
    }
}

/// Whether a `null` member of a custom resource is no value: it is neither allowed nor replaced by a default.
fn drops_null(node: Ref<'_>) -> bool {
    !node.node.nullable && node.rules().is_none_or(|rules| rules.default.is_none())
}

/// What Go decodes `null` to where it cannot be left out.
fn zero(node: Ref<'_>) -> Value {
    match node.node.kind {
        Kind::Bool => Value::Bool(false),
        Kind::Int32 | Kind::Int64 | Kind::Double | Kind::IntOrString => Value::from(0),
        Kind::String | Kind::Bytes => Value::String(String::new()),
        Kind::Quantity => Value::String("0".to_owned()),
        Kind::Struct { .. } => Value::Object(serde_json::Map::new()),
        _ => Value::Null,
    }
}

fn go_type(node: Ref<'_>) -> String {
    match node.node.kind {
        Kind::Any | Kind::AnyObject | Kind::ObjectOr { .. } | Kind::Link(_) => "interface {}".to_owned(),
        Kind::Bool => "bool".to_owned(),
        Kind::Int32 => "int32".to_owned(),
        Kind::Int64 => "int64".to_owned(),
        Kind::Double => "float64".to_owned(),
        Kind::String => "string".to_owned(),
        Kind::Bytes => "[]uint8".to_owned(),
        Kind::Time => "v1.Time".to_owned(),
        Kind::MicroTime => "v1.MicroTime".to_owned(),
        Kind::Quantity => "resource.Quantity".to_owned(),
        Kind::IntOrString => "intstr.IntOrString".to_owned(),
        Kind::Struct { .. } => {
            let mut parts = node.type_name().rsplit('.');
            let (name, package) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            format!("{package}.{name}")
        }
        Kind::Map { value } => format!("map[string]{}", go_type(node.at(value))),
        Kind::List { item, .. } => format!("[]{}", go_type(node.at(item))),
    }
}

fn json_name(node: Ref<'_>, value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "bool".to_owned(),
        // Go names the number when it is of the right sort and does not fit.
        Value::Number(number) if matches!(node.node.kind, Kind::Int32 | Kind::Int64 | Kind::IntOrString) => {
            format!("number {number}")
        }
        Value::Number(_) => "number".to_owned(),
        Value::String(_) => "string".to_owned(),
        Value::Array(_) => "array".to_owned(),
        Value::Object(_) => "object".to_owned(),
    }
}

/// Offset of the first byte that makes this no padded standard base64, line breaks ignored.
fn illegal_base64(text: &[u8]) -> Option<usize> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
    let (mut digits, mut padding) = (0_usize, 0_usize);
    for (at, byte) in text.iter().copied().enumerate() {
        match byte {
            b'\r' | b'\n' => {}
            b'=' if digits % 4 >= 2 && padding < 4 - digits % 4 => padding += 1,
            _ if padding == 0 && legal(byte) => digits += 1,
            _ => return Some(at),
        }
    }
    ((digits + padding) % 4 != 0).then_some(text.len())
}

#[cfg(test)]
mod tests;
