//! Static types: every expression gets one, every name a meaning, every call its overloads.

mod literals;
mod unify;

use std::sync::Arc;

use crate::ast::{Entry, Expr, FieldInit, Fold, Id, Item, Kind, Tree};
use crate::env::{Env, Meaning};
use crate::issue::Issue;
use crate::library::{Overload, names};
use crate::types::Type;
use crate::value::Value;
use unify::{Substitutions, most_general};

/// What a name or call refers to.
#[derive(Clone, Debug)]
pub(crate) enum Reference {
    /// A variable or constant of the environment.
    Ident(Meaning),
    /// The overloads of a function that arguments of the static types fit. `qualified`: what looks like the receiver is
    /// part of the function's name.
    Function { name: &'static str, overloads: Vec<Arc<Overload>>, qualified: bool },
}

/// A tree with its types and references, by id.
#[derive(Clone, Debug)]
pub(crate) struct Checked {
    pub(crate) tree: Tree,
    pub(crate) types: Vec<Type>,
    pub(crate) references: Vec<Option<Reference>>,
}

/// Checks a tree.
pub(crate) fn check(env: &Env, tree: Tree) -> Result<Checked, Vec<Issue>> {
    let count = tree.positions.len();
    let mut checker = Checker {
        env,
        positions: &tree.positions,
        types: vec![Type::Error; count],
        references: vec![None; count],
        substitutions: Substitutions::default(),
        locals: Vec::new(),
        issues: Vec::new(),
    };
    checker.expr(&tree.root);
    let Checker { types, references, substitutions, issues, .. } = checker;
    if !issues.is_empty() {
        return Err(issues);
    }
    let types = types.iter().map(|ty| substitutions.resolve(ty, true)).collect();
    let checked = Checked { tree, types, references };
    let issues = literals::check(&checked);
    if issues.is_empty() { Ok(checked) } else { Err(issues) }
}

struct Checker<'c> {
    env: &'c Env,
    positions: &'c [u32],
    types: Vec<Type>,
    references: Vec<Option<Reference>>,
    substitutions: Substitutions,
    /// Variables of loops, innermost last.
    locals: Vec<(Arc<str>, Type)>,
    issues: Vec<Issue>,
}

impl Checker<'_> {
    fn report(&mut self, id: Id, text: String) {
        self.issues.push(Issue { position: self.positions[id as usize] as usize, text });
    }

    fn undeclared(&mut self, id: Id, name: &str) {
        self.report(id, format!("undeclared reference to '{name}' (in container '{}')", self.env.container()));
    }

    fn local(&self, name: &str) -> Option<&Type> {
        self.locals.iter().rev().find(|(own, _)| **own == *name).map(|(_, ty)| ty)
    }

    /// Checks an expression and answers its type as far as it is known.
    fn expr(&mut self, expr: &Expr) -> Type {
        let ty = match &expr.kind {
            Kind::Literal(value) => value.ty(),
            Kind::Ident(name) => self.ident(expr.id, name),
            Kind::Select { operand, field, test } => self.select(expr, operand, field, *test),
            Kind::Call { function, target, args } => self.call(expr.id, function, target.as_deref(), args),
            Kind::List(items) => self.list(items),
            Kind::Map(entries) => self.map(entries),
            Kind::Object { name, fields } => self.object(expr.id, name, fields),
            Kind::Fold(fold) => self.fold(fold),
        };
        let ty = self.substitutions.resolve(&ty, false);
        self.types[expr.id as usize] = ty.clone();
        ty
    }

    /// The meaning of a name that may be qualified, looked up from the container outwards.
    fn lookup(&self, name: &str) -> Option<(Type, Meaning)> {
        self.candidates(name)
            .find_map(|name| self.env.ident(&name).map(|ident| (ident.ty.clone(), ident.meaning.clone())))
    }

    fn candidates(&self, name: &str) -> impl Iterator<Item = String> + use<> {
        let (container, name) = match name.strip_prefix('.') {
            Some(absolute) => (String::new(), absolute.to_owned()),
            None => (self.env.container().to_owned(), name.to_owned()),
        };
        let mut next = Some(container);
        std::iter::from_fn(move || {
            let container = next.take()?;
            if container.is_empty() {
                return Some(name.clone());
            }
            next = Some(container.rsplit_once('.').map_or(String::new(), |(outer, _)| outer.to_owned()));
            Some(format!("{container}.{name}"))
        })
    }

    fn ident(&mut self, id: Id, name: &str) -> Type {
        if let Some(ty) = self.local(name) {
            return ty.clone();
        }
        match self.lookup(name) {
            Some((ty, meaning)) => {
                self.references[id as usize] = Some(Reference::Ident(meaning));
                ty
            }
            None => {
                self.undeclared(id, name);
                Type::Error
            }
        }
    }

    /// The whole of `a.b.c` as one declared name, unless its first part is the variable of a loop.
    fn qualified(&self, expr: &Expr) -> Option<String> {
        let name = expr.qualified_name()?;
        let root = name.split('.').next().unwrap_or_default();
        (self.local(root).is_none()).then_some(name)
    }

    fn select(&mut self, expr: &Expr, operand: &Expr, field: &str, test: bool) -> Type {
        if let Some(name) = self.qualified(operand)
            && let Some((ty, meaning)) = self.lookup(&format!("{name}.{field}"))
        {
            // A variable that has a qualified name is always there.
            let meaning = if test { Meaning::Constant(Value::Bool(true)) } else { meaning };
            self.references[expr.id as usize] = Some(Reference::Ident(meaning));
            return if test { Type::Bool } else { ty };
        }
        let operand = self.expr(operand);
        let ty = self.field(expr.id, &operand, field);
        if test { Type::Bool } else { ty }
    }

    /// The type of a field of a value.
    fn field(&mut self, id: Id, operand: &Type, field: &str) -> Type {
        match operand {
            Type::Error => Type::Error,
            Type::Dyn => Type::Dyn,
            Type::Map(map) => map.value.clone(),
            Type::Object(object) => match object.field(field) {
                Some(field) => field.ty.clone(),
                None => {
                    self.report(id, format!("undefined field '{field}'"));
                    Type::Error
                }
            },
            Type::Optional(of) => {
                let of = self.substitutions.resolve(of, false);
                match self.field(id, &of, field) {
                    Type::Error => Type::Error,
                    found @ Type::Optional(_) => found,
                    found => Type::optional(found),
                }
            }
            Type::Param(_) => {
                // Nothing is known of it, so it may be anything.
                self.substitutions.assign(&Type::Dyn, operand);
                Type::Dyn
            }
            other => {
                self.report(id, format!("type '{other}' does not support field selection"));
                Type::Error
            }
        }
    }

    fn call(&mut self, id: Id, function: &str, target: Option<&Expr>, args: &[Expr]) -> Type {
        if function == names::SELECT_OPTIONAL {
            return self.select_optional(id, args);
        }
        let mut types: Vec<Type> = args.iter().map(|arg| self.expr(arg)).collect();
        if matches!(function, names::AND | names::OR) && !self.truths(args, &types) {
            return Type::Error;
        }
        let Some(target) = target else {
            let found = self.candidates(function).find_map(|name| self.env.function(&name));
            let Some((name, overloads)) = found else {
                self.undeclared(id, function.trim_start_matches('.'));
                return Type::Error;
            };
            return self.resolve(id, name, overloads, &types, false, false);
        };
        if let Some(qualifier) = self.qualified(target) {
            let name = format!("{qualifier}.{function}");
            if let Some((name, overloads)) = self.candidates(&name).find_map(|name| self.env.function(&name)) {
                return self.resolve(id, name, overloads, &types, false, true);
            }
        }
        types.insert(0, self.expr(target));
        match self.env.function(function) {
            Some((name, overloads)) => self.resolve(id, name, overloads, &types, true, false),
            None => {
                self.undeclared(id, function);
                Type::Error
            }
        }
    }

    /// Whether all operands of a logical operator may be truth values; says of each that may not.
    fn truths(&mut self, args: &[Expr], types: &[Type]) -> bool {
        let mut fit = true;
        for (arg, ty) in args.iter().zip(types) {
            if !self.substitutions.assign(ty, &Type::Bool) {
                self.mismatch(arg.id, &Type::Bool, ty);
                fit = false;
            }
        }
        fit
    }

    fn select_optional(&mut self, id: Id, args: &[Expr]) -> Type {
        let [operand, Expr { kind: Kind::Literal(Value::String(field)), id: field_id }] = args else {
            self.report(id, "unsupported optional field selection".to_owned());
            return Type::Error;
        };
        self.types[*field_id as usize] = Type::String;
        let operand = self.expr(operand);
        let function = self.env.function(names::SELECT_OPTIONAL);
        self.references[id as usize] = function.map(|(name, overloads)| Reference::Function {
            name,
            overloads: overloads.to_vec(),
            qualified: false,
        });
        match self.field(id, &operand, field) {
            Type::Error => Type::Error,
            found @ Type::Optional(_) if matches!(operand, Type::Optional(_)) => found,
            found => Type::optional(found),
        }
    }

    fn resolve(
        &mut self,
        id: Id,
        name: &'static str,
        overloads: &[Arc<Overload>],
        args: &[Type],
        member: bool,
        qualified: bool,
    ) -> Type {
        let mut found: Vec<Arc<Overload>> = Vec::new();
        let mut result: Option<Type> = None;
        for overload in overloads.iter().filter(|overload| overload.member == member) {
            if overload.args.len() != args.len() {
                continue;
            }
            let (wanted, answer) = self.substitutions.instantiate(&overload.args, &overload.result);
            if !self.substitutions.assign_all(&wanted, args) {
                continue;
            }
            found.push(Arc::clone(overload));
            let answer = self.substitutions.resolve(&answer, false);
            result = Some(match result {
                Some(other) if other != answer => Type::Dyn,
                _ => answer,
            });
        }
        match result {
            Some(ty) => {
                self.references[id as usize] = Some(Reference::Function { name, overloads: found, qualified });
                ty
            }
            None if args.contains(&Type::Error) => Type::Error,
            None => {
                let args: Vec<String> =
                    args.iter().map(|ty| self.substitutions.resolve(ty, true).to_string()).collect();
                let signature = match args.split_first() {
                    Some((target, rest)) if member => format!("{target}.({})", rest.join(", ")),
                    _ => format!("({})", args.join(", ")),
                };
                self.report(id, format!("found no matching overload for '{name}' applied to '{signature}'"));
                Type::Error
            }
        }
    }

    /// The type of an element or entry; `?x` is what is in an optional.
    fn element(&mut self, value: &Expr, optional: bool) -> Type {
        let ty = self.expr(value);
        if !optional {
            return ty;
        }
        match self.substitutions.resolve(&ty, false) {
            Type::Optional(inner) => self.substitutions.resolve(&inner, false),
            Type::Dyn => Type::Dyn,
            found => {
                self.mismatch(value.id, &Type::optional(found.clone()), &found);
                found
            }
        }
    }

    fn mismatch(&mut self, id: Id, wanted: &Type, found: &Type) {
        let wanted = self.substitutions.resolve(wanted, true);
        let found = self.substitutions.resolve(found, true);
        self.report(id, format!("expected type '{wanted}' but found '{found}'"));
    }

    /// The common type of the elements so far and the next one: `dyn` where they have none. Most literals may not be
    /// so mixed, but that is said last ([`literals`]).
    fn join(&mut self, previous: Option<Type>, current: Type) -> Type {
        let Some(previous) = previous else { return current };
        if self.substitutions.assign(&previous, &current) { most_general(&previous, &current) } else { Type::Dyn }
    }

    fn list(&mut self, items: &[Item]) -> Type {
        let mut joined = None;
        for item in items {
            let ty = self.element(&item.value, item.optional);
            joined = Some(self.join(joined, ty));
        }
        Type::list(joined.unwrap_or_else(|| self.substitutions.fresh()))
    }

    fn map(&mut self, entries: &[Entry]) -> Type {
        let (mut keys, mut values) = (None, None);
        for entry in entries {
            let key = self.expr(&entry.key);
            keys = Some(self.join(keys, key));
            let value = self.element(&entry.value, entry.optional);
            values = Some(self.join(values, value));
        }
        let key = keys.unwrap_or_else(|| self.substitutions.fresh());
        Type::map(key, values.unwrap_or_else(|| self.substitutions.fresh()))
    }

    fn object(&mut self, id: Id, name: &str, fields: &[FieldInit]) -> Type {
        let object = match self.lookup(name) {
            Some((Type::Type(ty), _)) => match &*ty {
                Type::Object(object) => Some(Arc::clone(object)),
                _ => {
                    self.report(id, format!("'{name}' is not a message type"));
                    None
                }
            },
            Some(_) => {
                self.report(id, format!("'{name}' is not a type"));
                None
            }
            None => {
                self.undeclared(id, name.trim_start_matches('.'));
                None
            }
        };
        let Some(object) = object else { return Type::Error };
        for field in fields {
            let found = self.element(&field.value, field.optional);
            match object.field(&field.name) {
                None => self.report(field.id, format!("undefined field '{}'", field.name)),
                Some(declared) if !self.substitutions.assign(&declared.ty, &found) => {
                    let found = self.substitutions.resolve(&found, true);
                    let text = format!(
                        "expected type of field '{}' is '{}' but provided type is '{found}'",
                        field.name, declared.ty
                    );
                    self.report(field.id, text);
                }
                Some(_) => {}
            }
        }
        let constant = Value::Type(Arc::new(Type::Object(Arc::clone(&object))));
        self.references[id as usize] = Some(Reference::Ident(Meaning::Constant(constant)));
        Type::Object(object)
    }

    fn fold(&mut self, fold: &Fold) -> Type {
        let range = self.expr(&fold.range);
        let accu = self.expr(&fold.init);
        let (first, second) = match &range {
            Type::List(list) if fold.iter2.is_some() => (Type::Int, list.item.clone()),
            Type::List(list) => (list.item.clone(), Type::Error),
            Type::Map(map) => (map.key.clone(), map.value.clone()),
            Type::Dyn | Type::Error => (Type::Dyn, Type::Dyn),
            Type::Param(_) => {
                self.substitutions.assign(&Type::Dyn, &range);
                (Type::Dyn, Type::Dyn)
            }
            other => {
                let text = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                self.report(fold.range.id, text);
                (Type::Error, Type::Error)
            }
        };
        let outer = self.locals.len();
        self.locals.push((Arc::clone(&fold.accu), accu.clone()));
        let inner = self.locals.len();
        self.locals.push((Arc::clone(&fold.iter), first));
        if let Some(name) = &fold.iter2 {
            self.locals.push((Arc::clone(name), second));
        }
        let condition = self.expr(&fold.condition);
        self.expect(fold.condition.id, &Type::Bool, &condition);
        let step = self.expr(&fold.step);
        self.expect(fold.step.id, &accu, &step);
        self.locals.truncate(inner);
        let result = self.expr(&fold.result);
        self.locals.truncate(outer);
        result
    }

    fn expect(&mut self, id: Id, wanted: &Type, found: &Type) {
        if !self.substitutions.assign(wanted, found) {
            self.mismatch(id, wanted, found);
        }
    }
}
