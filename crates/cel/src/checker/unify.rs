//! Which types may stand for which, and what type parameters thereby mean.

use std::collections::HashMap;
use std::sync::Arc;

use crate::types::{ListType, MapType, Type};

/// What is known of type parameters.
#[derive(Debug, Default)]
pub(super) struct Substitutions {
    known: HashMap<Arc<str>, Type>,
    /// What was replaced, so that a failed attempt leaves nothing behind.
    journal: Vec<(Arc<str>, Option<Type>)>,
    fresh: usize,
}

impl Substitutions {
    /// A parameter that nothing is known of.
    pub(super) fn fresh(&mut self) -> Type {
        self.fresh += 1;
        Type::param(&format!("_var{}", self.fresh - 1))
    }

    /// Whether values of type `from` may be used where `to` is wanted. Learns what parameters mean if so.
    pub(super) fn assign(&mut self, to: &Type, from: &Type) -> bool {
        self.assign_all(std::slice::from_ref(to), std::slice::from_ref(from))
    }

    /// As [`Self::assign`], of several at once: all or nothing.
    pub(super) fn assign_all(&mut self, to: &[Type], from: &[Type]) -> bool {
        if to.len() != from.len() {
            return false;
        }
        let start = self.journal.len();
        let fits = to.iter().zip(from).all(|(to, from)| self.assignable(to, from));
        if !fits {
            for (name, old) in self.journal.drain(start..).rev() {
                match old {
                    Some(old) => self.known.insert(name, old),
                    None => self.known.remove(&name),
                };
            }
        }
        self.journal.clear();
        fits
    }

    fn learn(&mut self, name: &Arc<str>, ty: Type) {
        let old = self.known.insert(Arc::clone(name), ty);
        self.journal.push((Arc::clone(name), old));
    }

    fn assignable(&mut self, a: &Type, b: &Type) -> bool {
        if let Type::Param(name) = b {
            let (fits, known) = self.substitute_one(name, b, a);
            if fits || known {
                return fits;
            }
        }
        if let Type::Param(name) = a {
            return self.substitute_one(name, a, b).0;
        }
        if a.is_dynamic() || b.is_dynamic() {
            return true;
        }
        match (a, b) {
            (Type::Null, other) | (other, Type::Null) => is_nullable(other),
            (Type::List(a), Type::List(b)) => self.assignable(&a.item, &b.item),
            (Type::Map(a), Type::Map(b)) => self.assignable(&a.key, &b.key) && self.assignable(&a.value, &b.value),
            (Type::Optional(a), Type::Optional(b)) => self.assignable(a, b),
            (Type::Type(_), Type::Type(_)) => true,
            _ => a == b,
        }
    }

    /// Whether a parameter can be a type, and whether it was known to be some type before.
    fn substitute_one(&mut self, name: &Arc<str>, param: &Type, ty: &Type) -> (bool, bool) {
        if param == ty {
            return (true, true);
        }
        if let Some(known) = self.known.get(name).cloned() {
            if *param == known {
                return (true, true);
            }
            if !self.assignable(&known, ty) {
                return (false, true);
            }
            let general = most_general(&known, ty);
            if !self.refers(name, &general) {
                self.learn(name, general);
            }
            return (true, true);
        }
        let free = !self.refers(name, ty);
        if free {
            self.learn(name, ty.clone());
        }
        (free, false)
    }

    /// Whether a type contains the parameter, so that it cannot be what the parameter means.
    fn refers(&self, name: &Arc<str>, ty: &Type) -> bool {
        match ty {
            Type::Param(other) => other == name || self.known.get(other).is_some_and(|ty| self.refers(name, ty)),
            Type::List(list) => self.refers(name, &list.item),
            Type::Map(map) => self.refers(name, &map.key) || self.refers(name, &map.value),
            Type::Optional(of) | Type::Type(of) => self.refers(name, of),
            _ => false,
        }
    }

    /// The type with parameters replaced by what they mean; unknown ones stay, or are `dyn`.
    pub(super) fn resolve(&self, ty: &Type, free_is_dyn: bool) -> Type {
        match ty {
            Type::Param(name) => match self.known.get(name) {
                Some(known) => self.resolve(known, free_is_dyn),
                None if free_is_dyn => Type::Dyn,
                None => ty.clone(),
            },
            _ if !ty.has_params() => ty.clone(),
            _ => map_params(ty, &mut |param| self.resolve(param, free_is_dyn)),
        }
    }

    /// Types of an overload with its parameters made fresh.
    pub(super) fn instantiate(&mut self, args: &[Type], result: &Type) -> (Vec<Type>, Type) {
        if !result.has_params() && !args.iter().any(Type::has_params) {
            return (args.to_vec(), result.clone());
        }
        let mut own: Vec<(Type, Type)> = Vec::new();
        let mut replace = |param: &Type| match own.iter().find(|(name, _)| name == param) {
            Some((_, fresh)) => fresh.clone(),
            None => {
                let fresh = self.fresh();
                own.push((param.clone(), fresh.clone()));
                fresh
            }
        };
        let args = args.iter().map(|arg| map_params(arg, &mut replace)).collect();
        (args, map_params(result, &mut replace))
    }
}

fn map_params(ty: &Type, replace: &mut impl FnMut(&Type) -> Type) -> Type {
    match ty {
        Type::Param(_) => replace(ty),
        Type::List(list) => {
            Type::List(Arc::new(ListType { item: map_params(&list.item, replace), kind: list.kind.clone() }))
        }
        Type::Map(map) => {
            Type::Map(Arc::new(MapType { key: map_params(&map.key, replace), value: map_params(&map.value, replace) }))
        }
        Type::Optional(of) => Type::optional(map_params(of, replace)),
        Type::Type(of) => Type::type_of(map_params(of, replace)),
        other => other.clone(),
    }
}

/// Whether `null` may stand for a value of the type.
fn is_nullable(ty: &Type) -> bool {
    matches!(ty, Type::Null | Type::Object(_) | Type::Opaque(_) | Type::Optional(_) | Type::Timestamp | Type::Duration)
}

/// The type of two that says less.
pub(super) fn most_general(a: &Type, b: &Type) -> Type {
    if says_no_more(a, b) { a.clone() } else { b.clone() }
}

fn says_no_more(a: &Type, b: &Type) -> bool {
    match (a, b) {
        (Type::Dyn | Type::Param(_), _) => true,
        (_, Type::Dyn | Type::Param(_)) => false,
        (Type::List(a), Type::List(b)) => says_no_more(&a.item, &b.item),
        (Type::Map(a), Type::Map(b)) => says_no_more(&a.key, &b.key) && says_no_more(&a.value, &b.value),
        (Type::Optional(a), Type::Optional(b)) => says_no_more(a, b),
        (Type::Type(_), Type::Type(_)) => true,
        _ => a == b,
    }
}
