//! Reading a JSON schema: absent, `null` and zero values are one, as they are for Go.

use serde_json::{Map, Value};

/// One schema of a document.
#[derive(Clone, Copy)]
pub(crate) struct Document<'a>(&'a Map<String, Value>);

/// What `items` or `additionalProperties` say.
#[derive(Clone, Copy)]
pub(crate) enum Inner<'a> {
    /// One schema.
    Schema(Document<'a>),
    /// Several schemas, which only `items` may have, and no structural schema.
    Several,
    /// Everything, or nothing: `additionalProperties` only.
    Flag(bool),
}

/// Whether a value says nothing.
pub(super) fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Number(_) => false,
    }
}

impl<'a> Document<'a> {
    pub(crate) fn of(value: &'a Value) -> Option<Self> {
        value.as_object().map(Self)
    }

    /// The value of this name, unless it is `null`.
    pub(crate) fn get(self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    pub(crate) fn text(self, name: &str) -> &'a str {
        self.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    pub(crate) fn flag(self, name: &str) -> bool {
        self.get(name).and_then(Value::as_bool).unwrap_or_default()
    }

    pub(crate) fn child(self, name: &str) -> Option<Self> {
        self.get(name).and_then(Self::of)
    }

    /// The schemas of a map such as `properties`, by name.
    pub(crate) fn children(self, name: &str) -> impl Iterator<Item = (&'a str, Self)> {
        let map = self.get(name).and_then(Value::as_object);
        map.into_iter().flatten().filter_map(|(name, value)| Some((name.as_str(), Self::of(value)?)))
    }

    /// The schemas of a list such as `allOf`.
    pub(crate) fn list(self, name: &str) -> impl Iterator<Item = Self> {
        self.values(name).iter().filter_map(Self::of)
    }

    pub(crate) fn values(self, name: &str) -> &'a [Value] {
        self.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
    }

    pub(crate) fn words(self, name: &str) -> impl Iterator<Item = &'a str> {
        self.values(name).iter().filter_map(Value::as_str)
    }

    pub(crate) fn property(self, name: &str) -> Option<Self> {
        self.child("properties")?.child(name)
    }

    pub(crate) fn has_properties(self) -> bool {
        self.children("properties").next().is_some()
    }

    fn inner(self, name: &str) -> Option<Inner<'a>> {
        match self.get(name)? {
            Value::Bool(flag) => Some(Inner::Flag(*flag)),
            Value::Array(_) => Some(Inner::Several),
            value => Self::of(value).map(Inner::Schema),
        }
    }

    pub(crate) fn additional(self) -> Option<Inner<'a>> {
        self.inner("additionalProperties")
    }

    pub(crate) fn items(self) -> Option<Inner<'a>> {
        self.inner("items")
    }

    /// The schema of the items, when it is one.
    pub(crate) fn item(self) -> Option<Self> {
        match self.items()? {
            Inner::Schema(item) => Some(item),
            Inner::Several | Inner::Flag(_) => None,
        }
    }

    /// The schema as it was given.
    pub(crate) fn to_value(self) -> Value {
        Value::Object(self.0.clone())
    }

    /// Names of everything it says.
    pub(crate) fn said(self) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(|(_, value)| !is_zero(value)).map(|(name, _)| name.as_str())
    }

    /// Whether it says its type and nothing else.
    pub(crate) fn is_bare(self, kind: &str) -> bool {
        self.text("type") == kind && self.said().eq(["type"])
    }
}
