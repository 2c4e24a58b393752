//! Environments: which variables, functions and types an expression may use.

use std::collections::HashMap;
use std::sync::Arc;

use crate::library::{Library, Overload, standard};
use crate::types::{ObjectType, Type};
use crate::value::Value;

/// A declared name: a variable, or the name of a type.
#[derive(Clone, Debug)]
pub(crate) struct Ident {
    pub(crate) ty: Type,
    pub(crate) meaning: Meaning,
}

/// What a declared name stands for.
#[derive(Clone, Debug)]
pub(crate) enum Meaning {
    /// A variable: the index of its value in [`crate::Bindings`].
    Slot(usize),
    /// A type or another constant.
    Constant(Value<'static>),
}

/// What expressions are compiled in: immutable, cheap to extend.
///
/// Environments that extend another one share its functions, and give its variables the same slots: bindings made for
/// the extended environment serve programs of both.
#[derive(Clone, Debug)]
pub struct Env {
    container: Arc<str>,
    functions: Arc<HashMap<&'static str, Vec<Arc<Overload>>>>,
    idents: Arc<HashMap<Arc<str>, Ident>>,
    slots: usize,
}

impl Env {
    /// An environment that starts with the standard library.
    pub fn builder() -> EnvBuilder {
        let empty = Self { container: "".into(), functions: Arc::default(), idents: Arc::default(), slots: 0 };
        EnvBuilder { env: empty }.library(standard())
    }

    /// An environment that has everything of this one and more.
    pub fn extend(&self) -> EnvBuilder {
        EnvBuilder { env: self.clone() }
    }

    /// The slot of a declared variable, for [`crate::Bindings::set`]. Slots count up in the order of declaration.
    pub fn slot(&self, name: &str) -> Option<usize> {
        match self.idents.get(name)?.meaning {
            Meaning::Slot(slot) => Some(slot),
            Meaning::Constant(_) => None,
        }
    }

    /// The declared type of a variable.
    pub fn variable_type(&self, name: &str) -> Option<&Type> {
        self.idents.get(name).filter(|ident| matches!(ident.meaning, Meaning::Slot(_))).map(|ident| &ident.ty)
    }

    /// Number of variables.
    pub fn slots(&self) -> usize {
        self.slots
    }

    pub(crate) fn container(&self) -> &str {
        &self.container
    }

    pub(crate) fn ident(&self, name: &str) -> Option<&Ident> {
        self.idents.get(name)
    }

    pub(crate) fn function(&self, name: &str) -> Option<(&'static str, &[Arc<Overload>])> {
        self.functions.get_key_value(name).map(|(name, overloads)| (*name, overloads.as_slice()))
    }
}

/// Puts an [`Env`] together.
#[derive(Clone, Debug)]
pub struct EnvBuilder {
    env: Env,
}

impl EnvBuilder {
    /// Declares a variable. The name may be qualified (`variables.replicas`). A name that is declared already keeps its
    /// slot and gets the new type.
    #[must_use]
    pub fn variable(mut self, name: &str, ty: Type) -> Self {
        let slot = self.env.slot(name).unwrap_or_else(|| {
            self.env.slots += 1;
            self.env.slots - 1
        });
        Arc::make_mut(&mut self.env.idents).insert(name.into(), Ident { ty, meaning: Meaning::Slot(slot) });
        self
    }

    /// Adds a library.
    #[must_use]
    pub fn library(mut self, library: Library) -> Self {
        let functions = Arc::make_mut(&mut self.env.functions);
        for (name, overloads) in library.functions {
            functions.entry(name).or_default().extend(overloads);
        }
        let idents = Arc::make_mut(&mut self.env.idents);
        for (name, ty) in library.types {
            idents.insert(name.into(), Ident::of_type(ty));
        }
        self
    }

    /// Lets expressions make objects of a type: `Name{field: value}`.
    #[must_use]
    pub fn object(mut self, ty: Arc<ObjectType>) -> Self {
        let name: Arc<str> = ty.name().into();
        Arc::make_mut(&mut self.env.idents).insert(name, Ident::of_type(Type::Object(ty)));
        self
    }

    /// Names are looked up in this container first: with `a.b`, `x` may be `a.b.x`, `a.x` or `x`.
    #[must_use]
    pub fn container(mut self, name: &str) -> Self {
        self.env.container = name.into();
        self
    }

    /// The environment.
    pub fn build(self) -> Env {
        self.env
    }
}

impl Ident {
    fn of_type(ty: Type) -> Self {
        let value = Value::Type(Arc::new(ty.clone()));
        Self { ty: Type::type_of(ty), meaning: Meaning::Constant(value) }
    }
}
