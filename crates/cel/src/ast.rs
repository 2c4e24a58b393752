//! The syntax tree, after macros are expanded.

use std::sync::Arc;

use crate::value::Value;

/// Names an expression within one tree; positions, types and references are kept by id.
pub(crate) type Id = u32;

/// An expression.
#[derive(Clone, Debug)]
pub(crate) struct Expr {
    pub(crate) id: Id,
    pub(crate) kind: Kind,
}

/// What kind of expression it is.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Literal(Value<'static>),
    /// A name; it starts with a dot where the source has one.
    Ident(Arc<str>),
    Select {
        operand: Box<Expr>,
        field: Arc<str>,
        /// `has(operand.field)`
        test: bool,
    },
    Call {
        function: Arc<str>,
        target: Option<Box<Expr>>,
        args: Vec<Expr>,
    },
    List(Vec<Item>),
    Map(Vec<Entry>),
    Object {
        name: Arc<str>,
        fields: Vec<FieldInit>,
    },
    Fold(Box<Fold>),
}

/// An element of a list literal.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    /// `[?x]`: left out where the optional is absent.
    pub(crate) optional: bool,
    pub(crate) value: Expr,
}

/// An entry of a map literal.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) optional: bool,
    pub(crate) key: Expr,
    pub(crate) value: Expr,
}

/// A field of an object literal.
#[derive(Clone, Debug)]
pub(crate) struct FieldInit {
    pub(crate) id: Id,
    pub(crate) optional: bool,
    pub(crate) name: Arc<str>,
    pub(crate) value: Expr,
}

/// What a macro that goes over a list or map makes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FoldKind {
    All,
    Exists,
    ExistsOne,
    /// A list of what a transformation makes of each element, or of those that a filter lets through.
    List,
    /// A map of the same keys and transformed values.
    Map,
    /// A map of the entries that an expression makes.
    MapEntries,
    /// No loop at all: a name for a value.
    Bind,
}

/// A loop over a list or map: `accu` starts as `init` and becomes `step` for every element while `condition` holds.
#[derive(Clone, Debug)]
pub(crate) struct Fold {
    pub(crate) kind: FoldKind,
    pub(crate) range: Expr,
    pub(crate) iter: Arc<str>,
    pub(crate) iter2: Option<Arc<str>>,
    pub(crate) accu: Arc<str>,
    pub(crate) init: Expr,
    pub(crate) condition: Expr,
    pub(crate) step: Expr,
    pub(crate) result: Expr,
}

/// A parsed expression.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    pub(crate) root: Expr,
    /// Byte offset of every expression, by id.
    pub(crate) positions: Vec<u32>,
}

impl Kind {
    /// The expressions right below.
    pub(crate) fn children(&self) -> Box<dyn Iterator<Item = &Expr> + '_> {
        match self {
            Self::Literal(_) | Self::Ident(_) => Box::new(std::iter::empty()),
            Self::Select { operand, .. } => Box::new(std::iter::once(&**operand)),
            Self::Call { target, args, .. } => Box::new(target.as_deref().into_iter().chain(args)),
            Self::List(items) => Box::new(items.iter().map(|item| &item.value)),
            Self::Map(entries) => Box::new(entries.iter().flat_map(|entry| [&entry.key, &entry.value])),
            Self::Object { fields, .. } => Box::new(fields.iter().map(|field| &field.value)),
            Self::Fold(fold) => {
                Box::new([&fold.range, &fold.init, &fold.condition, &fold.step, &fold.result].into_iter())
            }
        }
    }
}

impl Expr {
    /// `a.b.c` as one name, for trees of names and selections only.
    pub(crate) fn qualified_name(&self) -> Option<String> {
        match &self.kind {
            Kind::Ident(name) => Some(name.to_string()),
            Kind::Select { operand, field, test: false } => {
                let mut name = operand.qualified_name()?;
                name.push('.');
                name.push_str(field);
                Some(name)
            }
            _ => None,
        }
    }
}
