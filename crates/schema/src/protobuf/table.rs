//! The committed table of messages, decoded at the first use.
//!
//! `data/protobuf.z` is zlib over lines: a message's name, then its fields as ` name|number|type`, where `[T` is
//! repeated, `{K:V` a map and `>T` a structure that is inlined in JSON.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::zero;
use crate::types::{Schema, builtin, inflate};

static DATA: &[u8] = include_bytes!("../../data/protobuf.z");

/// The decoded text is about 107 KB; a larger one is no table of ours.
const MAX_TEXT: u64 = 1 << 20;

/// The type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    String,
    Bytes,
    Bool,
    Int32,
    Int64,
    Double,
    /// Index of a message.
    Message(u16),
}

/// How often a field's value occurs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Count {
    One,
    Repeated,
    /// Keys are strings.
    Map,
    /// A structure whose fields stand in the object itself.
    Inlined,
}

#[derive(Debug)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) number: u32,
    pub(super) form: Form,
    pub(super) count: Count,
    /// Whether a zero on the wire is a value in JSON.
    pub(super) keeps_zero: bool,
}

/// Which JSON form a message has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Special {
    Structure,
    Quantity,
    Time,
    MicroTime,
    Duration,
    IntOrString,
    /// Bytes of JSON.
    Raw,
    SchemaOrArray,
    SchemaOrBool,
    SchemaOrStrings,
    /// A named list.
    Items,
}

#[derive(Debug)]
pub(super) struct Message {
    pub(super) special: Special,
    pub(super) name: &'static str,
    pub(super) fields: Vec<Field>,
}

pub(super) struct Table {
    messages: Vec<Message>,
}

impl Table {
    pub(super) fn get(&self, name: &str) -> Option<&Message> {
        self.messages.binary_search_by(|message| message.name.cmp(name)).ok().map(|at| &self.messages[at])
    }

    pub(super) fn at(&self, index: u16) -> &Message {
        &self.messages[index as usize]
    }
}

static TEXT: LazyLock<String> = LazyLock::new(|| inflate(DATA, MAX_TEXT));

pub(super) static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let text: &'static str = &TEXT;
    let heads = text.lines().filter(|line| !line.starts_with(' '));
    let indexes: HashMap<&str, u16> = heads.zip(0..).collect();
    let mut messages: Vec<Message> = Vec::with_capacity(indexes.len());
    let mut required = None;
    for line in text.lines() {
        match (line.strip_prefix(' '), messages.last_mut()) {
            (Some(line), Some(message)) => message.fields.extend(field(line, required.as_ref(), &indexes)),
            _ => {
                required = builtin().get(&line.replacen("k8s.io.", "io.k8s.", 1).replace('_', "-"));
                messages.push(Message { special: special(line), name: line, fields: Vec::new() });
            }
        }
    }
    messages.iter_mut().for_each(|message| message.fields.shrink_to_fit());
    Table { messages }
});

/// `schema` is the message's type, whose required fields stand in JSON with any value.
fn field(line: &'static str, schema: Option<&Schema>, indexes: &HashMap<&str, u16>) -> Option<Field> {
    let mut columns = line.split('|');
    let (name, number, kind) = (columns.next()?, columns.next()?.parse().ok()?, columns.next()?);
    let (count, kind) = match kind.as_bytes().first()? {
        b'[' => (Count::Repeated, &kind[1..]),
        b'>' => (Count::Inlined, &kind[1..]),
        b'{' => (Count::Map, kind.split_once(':')?.1),
        _ => (Count::One, kind),
    };
    let form = match kind {
        "string" => Form::String,
        "bytes" => Form::Bytes,
        "bool" => Form::Bool,
        "int32" => Form::Int32,
        "int64" => Form::Int64,
        "double" => Form::Double,
        message => Form::Message(*indexes.get(message)?),
    };
    let required = schema.and_then(|schema| schema.root().field(name)).is_some_and(|field| field.required);
    Some(Field { name, number, form, count, keeps_zero: required || zero::is_value(form, name) })
}

fn special(name: &str) -> Special {
    match name.rsplit('.').next().unwrap_or_default() {
        "Quantity" => Special::Quantity,
        "Time" => Special::Time,
        "MicroTime" => Special::MicroTime,
        "Duration" => Special::Duration,
        "IntOrString" => Special::IntOrString,
        "RawExtension" | "FieldsV1" | "JSON" => Special::Raw,
        "JSONSchemaPropsOrArray" => Special::SchemaOrArray,
        "JSONSchemaPropsOrBool" => Special::SchemaOrBool,
        "JSONSchemaPropsOrStringArray" => Special::SchemaOrStrings,
        "ExtraValue" | "Verbs" => Special::Items,
        _ => Special::Structure,
    }
}
