//! The protobuf form of built-in objects, both ways, by a table of message fields.
//!
//! On the wire an object is `k8s\0` and a `runtime.Unknown` that names its version and kind and holds the message. A
//! structure that Go inlines is a message of its own on the wire and part of the object in JSON. Go writes every field
//! that is no pointer, also when nothing was set: [`zero`] tells which zeros mean something.

mod decode;
mod encode;
mod table;
mod wire;
mod zero;

use serde_json::{Map, Value};

use crate::types::builtin;
use table::{Message, TABLE};
pub(crate) use wire::{Reader, Writer};

/// What every encoded object begins with.
pub const MAGIC: &[u8; 4] = b"k8s\0";

/// The media type.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// Objects nest no deeper in JSON either.
const MAX_DEPTH: u32 = 128;

/// Why bytes cannot be decoded or an object cannot be encoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    /// The bytes do not begin with [`MAGIC`].
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    Magic,
    /// A value that ends too early or is malformed.
    #[error("malformed protobuf: {0}")]
    Wire(&'static str),
    /// Messages nested too deeply.
    #[error("message is nested more than {MAX_DEPTH} levels deep")]
    Depth,
    /// A kind without a message.
    #[error("no protobuf message for {kind} in version \"{api_version}\"")]
    Kind {
        /// For example `apps/v1`.
        api_version: String,
        /// For example `Deployment`.
        kind: String,
    },
    /// A value that its field cannot hold.
    #[error("field {field} cannot hold {value}")]
    Value {
        /// Name of the field.
        field: String,
        /// The value.
        value: String,
    },
}

/// Whether bytes claim to be an encoded object.
pub fn is_encoded(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// Decodes an object with its envelope.
pub fn decode(bytes: &[u8]) -> Result<Value, ProtobufError> {
    decode_as(bytes, |_, _| None)
}

/// Decodes an object as if its envelope named another version: the one that `other` gives for version and kind, where it
/// gives one. What is the same on the wire in both can be read so.
pub fn decode_as(bytes: &[u8], other: impl FnOnce(&str, &str) -> Option<String>) -> Result<Value, ProtobufError> {
    let mut reader = Reader::new(bytes.strip_prefix(MAGIC).ok_or(ProtobufError::Magic)?);
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    while let Some((number, value)) = reader.field()? {
        match number {
            1 => {
                let mut meta = Reader::new(value.bytes()?);
                while let Some((number, value)) = meta.field()? {
                    match number {
                        1 => api_version = value.text()?.to_owned(),
                        2 => kind = value.text()?.to_owned(),
                        _ => {}
                    }
                }
            }
            2 => raw = value.bytes()?,
            _ => {}
        }
    }
    let api_version = other(&api_version, &kind).unwrap_or(api_version);
    let message = message_of(&api_version, &kind)?;
    let mut object = Map::new();
    decode::fields(message, raw, &mut object, 0)?;
    object.insert("apiVersion".to_owned(), Value::String(api_version));
    object.insert("kind".to_owned(), Value::String(kind));
    Ok(Value::Object(object))
}

/// Encodes an object with its envelope.
pub fn encode(object: &Value) -> Result<Vec<u8>, ProtobufError> {
    let text = |name: &str| object[name].as_str().unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let message = message_of(api_version, kind)?;
    let mut raw = Writer::default();
    encode::fields(message, object, &mut raw, 0)?;
    let mut meta = Writer::default();
    meta.bytes(1, api_version.as_bytes());
    meta.bytes(2, kind.as_bytes());
    let mut out = Writer::default();
    out.bytes(1, &meta.finish());
    out.bytes(2, &raw.finish());
    // Go writes these two also when they are empty.
    out.bytes(3, b"");
    out.bytes(4, b"");
    Ok([&MAGIC[..], &out.finish()].concat())
}

/// One frame's content of an encoded watch: the event's type and the encoded object. Frames of a watch carry no
/// envelope of their own.
pub fn watch_event(event: &str, object: &[u8]) -> Vec<u8> {
    let mut raw = Writer::default();
    raw.bytes(1, object);
    let mut out = Writer::default();
    out.bytes(1, event.as_bytes());
    out.bytes(2, &raw.finish());
    out.finish()
}

/// The message of a kind. Kinds that every group shares, such as `DeleteOptions`, are found by their name alone.
fn message_of(api_version: &str, kind: &str) -> Result<&'static Message, ProtobufError> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let wanted = format!("{group}/{version}/{kind}");
    let named = builtin().iter().find(|(_, gvk)| *gvk == wanted).map(|(node, _)| node.type_name().to_owned());
    let shared = || match group {
        "apidiscovery.k8s.io" => format!("io.k8s.api.apidiscovery.{version}.{kind}"),
        _ => format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}"),
    };
    let name = named.unwrap_or_else(shared).replacen("io.k8s.", "k8s.io.", 1).replace('-', "_");
    TABLE.get(&name).ok_or_else(|| ProtobufError::Kind { api_version: api_version.to_owned(), kind: kind.to_owned() })
}

#[cfg(test)]
mod tests;
