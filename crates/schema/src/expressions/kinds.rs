//! The types of built-in kinds and custom resources, as expressions of policies are checked against them.

use std::sync::Arc;

use cel::{Field, ObjectType, Type};

use super::declare::escape;
use crate::types::{Arena, Kind, NodeId, Schema};

impl Schema {
    /// The type that objects of this schema have in expressions. `name` tells it apart from others.
    ///
    /// Fields are looked up when an expression asks for them: types may be large and contain themselves. What may be
    /// anything (quantities, ports by name or number, open objects) is dynamic.
    pub fn declared_type(&self, name: &str) -> Type {
        declared(&self.arena, self.node, name)
    }
}

fn declared(arena: &Arc<Arena>, id: NodeId, name: &str) -> Type {
    let node = &arena.nodes[id as usize];
    match node.kind {
        Kind::Link(link) => arena.links[link as usize].declared_type(name),
        Kind::Bool => Type::Bool,
        Kind::Int32 | Kind::Int64 => Type::Int,
        Kind::Double => Type::Double,
        Kind::Bytes => Type::Bytes,
        Kind::Time | Kind::MicroTime => Type::Timestamp,
        Kind::String => text(arena, node.rules),
        Kind::List { item, .. } => Type::list(declared(arena, item, &format!("{name}.@idx"))),
        Kind::Map { value } => Type::map(Type::String, declared(arena, value, &format!("{name}.@elem"))),
        Kind::Struct { first, count } if count > 0 => {
            let (within, own) = (Arc::clone(arena), name.to_owned());
            let fields = move || {
                let arena = &within;
                let fields = &arena.fields[first as usize..(first + count) as usize];
                fields
                    .iter()
                    .filter_map(|field| {
                        let key = arena.str(field.name);
                        let name = escape(key)?;
                        let ty = declared(arena, field.node, &format!("{own}.{key}"));
                        Some(Field::renamed(&name, key, ty))
                    })
                    .collect()
            };
            // a named type is the same type wherever it occurs
            let known = arena.str(node.name).to_owned();
            let name = if known.is_empty() { name } else { &known };
            Type::Object(ObjectType::lazy(name, fields))
        }
        Kind::Struct { .. }
        | Kind::Any
        | Kind::AnyObject
        | Kind::Quantity
        | Kind::IntOrString
        | Kind::ObjectOr { .. } => Type::Dyn,
    }
}

fn text(arena: &Arena, rules: u32) -> Type {
    let rules = rules.checked_sub(1).and_then(|at| arena.rules.get(at as usize));
    match rules.and_then(|rules| rules.format.as_ref()).map(|format| format.name()) {
        Some("byte") => Type::Bytes,
        Some("date" | "date-time") => Type::Timestamp,
        Some("duration") => Type::Duration,
        _ => Type::String,
    }
}
