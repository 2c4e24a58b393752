//! Kubernetes types as data, and what an API server does with an object because of its type.
//!
//! An object is a [`serde_json::Value`]; a type is a [`Schema`], either built in ([`builtin`]) or made from a
//! CustomResourceDefinition ([`Schema::from_crd`]). On these two stand decoding ([`json`], [`yaml`], [`protobuf`]),
//! [`prune`], [`default`](fn@default), [`validate`](fn@validate), [`definition`]s of custom resources, the three patch formats ([`patch`]), server-side apply
//! ([`apply`]) and the published documents ([`openapi`]). [`selector`], [`quantity`] and [`names`] are the small
//! languages that API fields are written in.
//!
//! Not here: rules of single kinds (the API server's strategies), CEL, storage, HTTP.
//!
//! Invariants: everything is a pure function of its arguments: no clock, no I/O. Input is untrusted: parsers bound
//! their depth, and nothing panics on a malformed object.

pub mod apply;
pub mod definition;
pub mod expressions;
pub mod json;
pub mod names;
pub mod openapi;
pub mod patch;
pub mod protobuf;
pub mod quantity;
pub mod selector;
pub mod yaml;

mod default;
mod path;
mod prune;
mod types;
mod validate;

pub use default::default;
pub use prune::{Problem, prune};
pub use types::{Schema, SchemaError, Types, builtin};
pub use validate::{Embedded, FieldError, FieldErrorKind, embedded, validate};
