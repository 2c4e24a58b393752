//! Custom resources: an `openAPIV3Schema` becomes an arena of its own.

use std::sync::Arc;

use cel::regexp::SyntaxError;
use serde_json::{Map, Value};

use super::{Arena, Field, Kind, ListKind, NodeId, Origin, PatchRule, Schema, object_meta};
use crate::validate::{Format, Pattern};

/// Upstream bounds nesting through the request size only; a schema deeper than this is refused instead of walked.
const MAX_DEPTH: u32 = 128;

/// Why an `openAPIV3Schema` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// The schema, or a part of it, is not of the form the field needs.
    #[error("{path}: must be {expected}")]
    Form {
        /// Where in the schema.
        path: String,
        /// What stands there in a valid schema.
        expected: &'static str,
    },
    /// A pattern that is no regular expression.
    #[error("{path}.pattern: Invalid value: \"{pattern}\": must be a valid regular expression")]
    Pattern {
        /// Where in the schema.
        path: String,
        /// The pattern.
        pattern: String,
        /// What the expression parser found.
        source: Box<SyntaxError>,
    },
    /// More than [`MAX_DEPTH`] levels.
    #[error("{path}: schema is nested more than {MAX_DEPTH} levels deep")]
    Depth {
        /// Where in the schema.
        path: String,
    },
}

/// `type` of a JSON schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JsonType {
    Array,
    Boolean,
    Integer,
    Number,
    Object,
    String,
}

impl JsonType {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Array => "array",
            Self::Boolean => "boolean",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Object => "object",
            Self::String => "string",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        [Self::Array, Self::Boolean, Self::Integer, Self::Number, Self::Object, Self::String]
            .into_iter()
            .find(|known| known.name() == name)
    }
}

/// A limit of a number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound {
    pub(crate) limit: f64,
    pub(crate) exclusive: bool,
}

/// What there is to find at a node or below it, so that walks which look for something skip the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Below {
    pub(crate) defaults: bool,
    /// Lists whose elements must be unique.
    pub(crate) unique: bool,
    /// Embedded resources.
    pub(crate) embedded: bool,
}

impl Below {
    fn join(&mut self, other: Self) {
        self.defaults |= other.defaults;
        self.unique |= other.unique;
        self.embedded |= other.embedded;
    }
}

/// What validation checks at a node beyond its kind and type. Most nodes have none.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    pub(crate) int_or_string: bool,
    pub(crate) embedded: bool,
    pub(crate) default: Option<Value>,
    pub(crate) choices: Vec<Value>,
    pub(crate) minimum: Option<Bound>,
    pub(crate) maximum: Option<Bound>,
    pub(crate) multiple_of: Option<f64>,
    pub(crate) min_length: Option<u64>,
    pub(crate) max_length: Option<u64>,
    pub(crate) pattern: Option<Pattern>,
    pub(crate) min_items: Option<u64>,
    pub(crate) max_items: Option<u64>,
    pub(crate) unique_items: bool,
    pub(crate) min_properties: Option<u64>,
    pub(crate) max_properties: Option<u64>,
    pub(crate) required: Vec<String>,
    pub(crate) format: Option<Format>,
    pub(crate) all_of: Vec<NodeId>,
    pub(crate) any_of: Vec<NodeId>,
    pub(crate) one_of: Vec<NodeId>,
    pub(crate) not: Option<NodeId>,
    /// What the document says of a resource's `metadata`, which beyond that is the built-in type.
    pub(crate) metadata: Option<NodeId>,
}

impl Rules {
    fn is_empty(&self) -> bool {
        let flags = self.int_or_string || self.embedded || self.unique_items;
        let values = self.default.is_some() || !self.choices.is_empty();
        let numbers = self.minimum.is_some() || self.maximum.is_some() || self.multiple_of.is_some();
        let texts =
            self.min_length.is_some() || self.max_length.is_some() || self.pattern.is_some() || self.format.is_some();
        let sizes = self.min_items.is_some()
            || self.max_items.is_some()
            || self.min_properties.is_some()
            || self.max_properties.is_some()
            || !self.required.is_empty();
        let logic = !self.all_of.is_empty() || !self.any_of.is_empty() || !self.one_of.is_empty() || self.not.is_some();
        !(flags || values || numbers || texts || sizes || logic || self.metadata.is_some())
    }
}

/// The path of the schema that is being read, rendered only for errors.
struct Place<'a> {
    above: Option<&'a Place<'a>>,
    name: &'a str,
    depth: u32,
}

impl<'a> Place<'a> {
    fn below(&'a self, name: &'a str) -> Place<'a> {
        Place { above: Some(self), name, depth: self.depth + 1 }
    }

    fn path(&self) -> String {
        match self.above {
            Some(above) => format!("{}.{}", above.path(), self.name),
            None => self.name.to_owned(),
        }
    }

    fn form(&self, expected: &'static str) -> SchemaError {
        SchemaError::Form { path: self.path(), expected }
    }
}

pub(super) fn build(document: Option<&Value>) -> Result<Schema, SchemaError> {
    let mut arena = Arena::new(Origin::Crd);
    let place = Place { above: None, name: "openAPIV3Schema", depth: 0 };
    let anything = serde_json::json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let node = arena.read(document.unwrap_or(&anything), &place)?;
    let restrictions = arena.embed(node);
    arena.restrict_metadata(node, restrictions);
    Ok(Schema { arena: Arc::new(arena), node })
}

impl Arena {
    /// Adds what every Kubernetes object has: `apiVersion`, `kind` and the built-in `metadata`. Gives the node of what
    /// the document says of `metadata` itself.
    fn embed(&mut self, id: NodeId) -> Option<NodeId> {
        self.links.push(object_meta());
        let meta = self.add_node(Kind::Link((self.links.len() - 1) as u32));
        let mut fields: Vec<Field> = match self.nodes[id as usize].kind {
            Kind::Struct { first, count } => self.fields[first as usize..(first + count) as usize].to_vec(),
            _ => Vec::new(),
        };
        let given = |arena: &Self, name: &str| fields.iter().find(|field| arena.str(field.name) == name).cloned();
        let restrictions = given(self, "metadata").map(|field| field.node);
        let mut added = vec![("metadata", meta)];
        for name in ["apiVersion", "kind"] {
            if given(self, name).is_none() {
                added.push((name, self.add_node(Kind::String)));
            }
        }
        fields.retain(|field| self.str(field.name) != "metadata");
        for (name, node) in added {
            let name = self.add_text(name);
            fields.push(Field { name, node, required: false, patch: PatchRule::default(), atomic: None });
        }
        self.nodes[id as usize].kind = self.add_struct(fields);
        restrictions
    }

    /// Notes what a resource's own schema says of its `metadata`, where that is more than that it is an object.
    fn restrict_metadata(&mut self, id: NodeId, restrictions: Option<NodeId>) {
        let Some(restrictions) = restrictions else { return };
        let node = &self.nodes[restrictions as usize];
        if node.rules == 0 && matches!(node.kind, Kind::Struct { count: 0, .. }) {
            return;
        }
        match self.nodes[id as usize].rules {
            0 => {
                self.rules.push(Rules { metadata: Some(restrictions), ..Rules::default() });
                self.nodes[id as usize].rules = self.rules.len() as u32;
            }
            at => self.rules[at as usize - 1].metadata = Some(restrictions),
        }
    }

    fn add_struct(&mut self, mut fields: Vec<Field>) -> Kind {
        fields.sort_by(|a, b| self.str(a.name).cmp(self.str(b.name)));
        let first = self.fields.len() as u32;
        let count = fields.len() as u32;
        self.fields.extend(fields);
        Kind::Struct { first, count }
    }

    fn read(&mut self, document: &Value, place: &Place<'_>) -> Result<NodeId, SchemaError> {
        if place.depth > MAX_DEPTH {
            return Err(SchemaError::Depth { path: place.path() });
        }
        let map = document.as_object().ok_or_else(|| place.form("a JSON schema"))?;
        let flag = |name: &str| map.get(name).and_then(Value::as_bool).unwrap_or(false);
        let text = |name: &str| map.get(name).and_then(Value::as_str);
        let json_type = match text("type") {
            None | Some("") => None,
            Some(name) => Some(JsonType::parse(name).ok_or_else(|| place.below("type").form("a JSON type"))?),
        };
        let mut rules = self.rules(map, place)?;
        let id = self.add_node(Kind::Any);
        let kind = if rules.int_or_string {
            Kind::IntOrString
        } else {
            match json_type {
                Some(JsonType::Boolean) => Kind::Bool,
                Some(JsonType::Integer) if text("format") == Some("int32") => Kind::Int32,
                Some(JsonType::Integer) => Kind::Int64,
                Some(JsonType::Number) => Kind::Double,
                Some(JsonType::String) => Kind::String,
                Some(JsonType::Array) => self.list(map, place)?,
                Some(JsonType::Object) => self.object(map, place)?,
                None if map.contains_key("properties") => self.object(map, place)?,
                None if map.contains_key("items") => self.list(map, place)?,
                None => Kind::Any,
            }
        };
        let node = &mut self.nodes[id as usize];
        node.kind = kind;
        node.atomic = text("x-kubernetes-map-type") == Some("atomic");
        node.preserve =
            flag("x-kubernetes-preserve-unknown-fields") || (json_type.is_none() && !matches!(kind, Kind::List { .. }));
        node.nullable = flag("nullable");
        node.json_type = json_type;
        if rules.embedded {
            rules.metadata = self.embed(id);
        }
        let mut below = self.below_children(id);
        below.join(Below {
            defaults: rules.default.is_some(),
            unique: matches!(kind, Kind::List { list: ListKind::Set | ListKind::Map { .. }, .. }),
            embedded: rules.embedded,
        });
        self.nodes[id as usize].below = below;
        if !rules.is_empty() {
            self.rules.push(rules);
            self.nodes[id as usize].rules = self.rules.len() as u32;
        }
        Ok(id)
    }

    fn below_children(&self, id: NodeId) -> Below {
        let mut below = Below::default();
        match self.nodes[id as usize].kind {
            Kind::Struct { first, count } => {
                for field in &self.fields[first as usize..(first + count) as usize] {
                    below.join(self.nodes[field.node as usize].below);
                }
            }
            Kind::Map { value } => below.join(self.nodes[value as usize].below),
            Kind::List { item, .. } => below.join(self.nodes[item as usize].below),
            _ => {}
        }
        below
    }

    fn object(&mut self, map: &Map<String, Value>, place: &Place<'_>) -> Result<Kind, SchemaError> {
        match (map.get("properties"), map.get("additionalProperties")) {
            (None, Some(Value::Object(value))) => {
                let value = self.read(&Value::Object(value.clone()), &place.below("additionalProperties"))?;
                Ok(Kind::Map { value })
            }
            (None, Some(Value::Bool(true))) => Ok(Kind::AnyObject),
            (properties, _) => {
                let properties = match properties {
                    None => return Ok(self.add_struct(Vec::new())),
                    Some(properties) => {
                        properties.as_object().ok_or_else(|| place.below("properties").form("an object"))?
                    }
                };
                let required: Vec<&str> = map
                    .get("required")
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_str)
                    .collect();
                let within = place.below("properties");
                let mut fields = Vec::with_capacity(properties.len());
                for (name, property) in properties {
                    let node = self.read(property, &within.below(name))?;
                    let required = required.contains(&name.as_str());
                    let name = self.add_text(name);
                    fields.push(Field { name, node, required, patch: PatchRule::default(), atomic: None });
                }
                Ok(self.add_struct(fields))
            }
        }
    }

    fn list(&mut self, map: &Map<String, Value>, place: &Place<'_>) -> Result<Kind, SchemaError> {
        let item = match map.get("items") {
            Some(items) => self.read(items, &place.below("items"))?,
            None => self.add_node(Kind::Any),
        };
        let list = match map.get("x-kubernetes-list-type").and_then(Value::as_str) {
            None | Some("atomic") => ListKind::Atomic,
            Some("set") => ListKind::Set,
            Some("map") => {
                let keys = map.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
                let names: Vec<&str> = keys.into_iter().flatten().filter_map(Value::as_str).collect();
                if names.is_empty() {
                    return Err(place.below("x-kubernetes-list-map-keys").form("set for a list of type map"));
                }
                let first = self.keys.len() as u32;
                for name in &names {
                    let name = self.add_text(name);
                    self.keys.push(name);
                }
                ListKind::Map { first, count: names.len() as u32 }
            }
            Some(_) => return Err(place.below("x-kubernetes-list-type").form("one of atomic, set, map")),
        };
        Ok(Kind::List { item, list })
    }

    fn rules(&mut self, map: &Map<String, Value>, place: &Place<'_>) -> Result<Rules, SchemaError> {
        let flag = |name: &str| map.get(name).and_then(Value::as_bool).unwrap_or(false);
        let count = |name: &str| map.get(name).and_then(Value::as_u64);
        let bound = |name: &str, exclusive: &str| {
            map.get(name).and_then(Value::as_f64).map(|limit| Bound { limit, exclusive: flag(exclusive) })
        };
        let array = |name: &str| map.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let pattern = match map.get("pattern").and_then(Value::as_str).filter(|pattern| !pattern.is_empty()) {
            Some(pattern) => Some(Pattern::new(pattern).map_err(|source| SchemaError::Pattern {
                path: place.path(),
                pattern: pattern.to_owned(),
                source: Box::new(source),
            })?),
            None => None,
        };
        let mut nested = |name: &'static str| -> Result<Vec<NodeId>, SchemaError> {
            array(name).iter().map(|document| self.read(document, &place.below(name))).collect()
        };
        let (all_of, any_of, one_of) = (nested("allOf")?, nested("anyOf")?, nested("oneOf")?);
        let not = map.get("not").map(|document| self.read(document, &place.below("not"))).transpose()?;
        Ok(Rules {
            int_or_string: flag("x-kubernetes-int-or-string"),
            embedded: flag("x-kubernetes-embedded-resource"),
            default: map.get("default").cloned(),
            choices: array("enum").to_vec(),
            minimum: bound("minimum", "exclusiveMinimum"),
            maximum: bound("maximum", "exclusiveMaximum"),
            multiple_of: map.get("multipleOf").and_then(Value::as_f64),
            min_length: count("minLength"),
            max_length: count("maxLength"),
            pattern,
            min_items: count("minItems"),
            max_items: count("maxItems"),
            unique_items: flag("uniqueItems"),
            min_properties: count("minProperties"),
            max_properties: count("maxProperties"),
            required: array("required").iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            format: map.get("format").and_then(Value::as_str).and_then(Format::of),
            all_of,
            any_of,
            one_of,
            not,
            metadata: None,
        })
    }
}
