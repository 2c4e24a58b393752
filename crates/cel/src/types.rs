//! Types as the checker knows them, and as values of JSON trees are declared with.

use std::fmt;
use std::sync::{Arc, LazyLock};

/// A static type of the language.
#[derive(Clone, Debug, Default)]
pub enum Type {
    /// Any type; checked when the expression runs.
    #[default]
    Dyn,
    /// What an expression with an error has; assignable to everything, so that one error is reported once.
    Error,
    /// The type of `null`.
    Null,
    /// Truth values.
    Bool,
    /// 64-bit signed integers.
    Int,
    /// 64-bit unsigned integers.
    Uint,
    /// IEEE 754 doubles.
    Double,
    /// Unicode text.
    String,
    /// Byte sequences.
    Bytes,
    /// Points in time.
    Timestamp,
    /// Lengths of time.
    Duration,
    /// Lists; make it with [`Type::list`].
    List(Arc<ListType>),
    /// Maps; make it with [`Type::map`].
    Map(Arc<MapType>),
    /// Objects with declared fields.
    Object(Arc<ObjectType>),
    /// Values that only functions of a library look into, by name (`net.IP`); make it with [`Type::opaque`].
    Opaque(Arc<str>),
    /// A value that may be absent; make it with [`Type::optional`].
    Optional(Arc<Type>),
    /// The type of a type; make it with [`Type::type_of`].
    Type(Arc<Type>),
    /// A type parameter of an overload; make it with [`Type::param`].
    Param(Arc<str>),
}

/// How two lists of a declared list type compare and add up (`x-kubernetes-list-type`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListKind {
    /// Element by element.
    #[default]
    Atomic,
    /// Order does not matter to `==`, and `+` is the union.
    Set,
    /// Objects told apart by these fields: order does not matter to `==`, and `+` replaces elements of equal keys.
    Map(Vec<String>),
}

/// What a list holds.
#[derive(Clone, Debug, Default)]
pub struct ListType {
    /// Type of the elements.
    pub item: Type,
    /// How lists of this type compare.
    pub kind: ListKind,
}

/// What a map holds.
#[derive(Clone, Debug, Default)]
pub struct MapType {
    /// Type of the keys.
    pub key: Type,
    /// Type of the values.
    pub value: Type,
}

/// A declared field of an [`ObjectType`].
#[derive(Clone, Debug)]
pub struct Field {
    /// The name in expressions; Kubernetes escapes names that are no identifiers.
    pub name: Arc<str>,
    /// The name in the JSON object.
    pub key: Arc<str>,
    /// The declared type.
    pub ty: Type,
}

impl Field {
    /// A field that has the same name in expressions and in JSON.
    pub fn new(name: &str, ty: Type) -> Self {
        let name: Arc<str> = name.into();
        Self { key: Arc::clone(&name), name, ty }
    }

    /// A field whose name had to be escaped.
    pub fn renamed(name: &str, key: &str, ty: Type) -> Self {
        Self { name: name.into(), key: key.into(), ty }
    }
}

type Fields = LazyLock<Vec<Field>, Box<dyn FnOnce() -> Vec<Field> + Send>>;

/// A named type with declared fields.
///
/// Two object types are the same type if they have the same name, as in every registry of message types. The fields may
/// be found when they are first asked for, so that recursive and very large types cost what expressions use of them.
pub struct ObjectType {
    name: Arc<str>,
    fields: Fields,
}

impl ObjectType {
    /// A type with these fields.
    pub fn new(name: &str, fields: Vec<Field>) -> Arc<Self> {
        Self::lazy(name, move || fields)
    }

    /// A type whose fields are made when the first of them is looked up.
    pub fn lazy(name: &str, fields: impl FnOnce() -> Vec<Field> + Send + 'static) -> Arc<Self> {
        let sorted = move || {
            let mut fields = fields();
            fields.sort_by(|a, b| a.name.cmp(&b.name));
            fields
        };
        Arc::new(Self { name: name.into(), fields: LazyLock::new(Box::new(sorted)) })
    }

    /// The name of the type.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The field of this name. A field that is called as a reserved word is found by that word, too.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.place(name).map(|at| &self.fields[at])
    }

    /// The index of the field of a name among [`Self::fields`].
    pub(crate) fn place(&self, name: &str) -> Option<usize> {
        let find = |name: &str| self.fields.binary_search_by(|field| (*field.name).cmp(name)).ok();
        find(name).or_else(|| if crate::is_reserved(name) { find(&format!("__{name}__")) } else { None })
    }

    /// All fields, sorted by name.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }
}

impl fmt::Debug for ObjectType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The fields are left out: a type may contain itself.
        f.debug_struct("ObjectType").field("name", &self.name).finish_non_exhaustive()
    }
}

/// `dyn` as a place that views of undeclared JSON can refer to.
pub(crate) static DYN: Type = Type::Dyn;
/// `list(dyn)`, likewise.
pub(crate) static DYN_LIST: ListType = ListType { item: Type::Dyn, kind: ListKind::Atomic };
/// `map(string, dyn)`, likewise.
pub(crate) static DYN_MAP: MapType = MapType { key: Type::String, value: Type::Dyn };

impl Type {
    /// `list(item)`.
    pub fn list(item: Self) -> Self {
        Self::List(Arc::new(ListType { item, kind: ListKind::Atomic }))
    }

    /// `list(item)` that compares and adds up as `kind` says.
    pub fn list_of_kind(item: Self, kind: ListKind) -> Self {
        Self::List(Arc::new(ListType { item, kind }))
    }

    /// `map(key, value)`.
    pub fn map(key: Self, value: Self) -> Self {
        Self::Map(Arc::new(MapType { key, value }))
    }

    /// An opaque type by name.
    pub fn opaque(name: &str) -> Self {
        Self::Opaque(name.into())
    }

    /// `optional_type(of)`.
    pub fn optional(of: Self) -> Self {
        Self::Optional(Arc::new(of))
    }

    /// `type(of)`.
    pub fn type_of(of: Self) -> Self {
        Self::Type(Arc::new(of))
    }

    /// A type parameter of an overload, such as `T`.
    pub fn param(name: &str) -> Self {
        Self::Param(name.into())
    }

    /// The name that `type()` of a value of this type has: parameters are left out.
    pub fn name(&self) -> &str {
        match self {
            Self::Dyn => "dyn",
            Self::Error => "*error*",
            Self::Null => "null_type",
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Uint => "uint",
            Self::Double => "double",
            Self::String => "string",
            Self::Bytes => "bytes",
            Self::Timestamp => "google.protobuf.Timestamp",
            Self::Duration => "google.protobuf.Duration",
            Self::List(_) => "list",
            Self::Map(_) => "map",
            Self::Object(object) => object.name(),
            Self::Opaque(name) | Self::Param(name) => name,
            Self::Optional(_) => "optional_type",
            Self::Type(_) => "type",
        }
    }

    /// Whether the checker lets this type stand for any other.
    pub(crate) fn is_dynamic(&self) -> bool {
        matches!(self, Self::Dyn | Self::Error)
    }

    /// Whether values of the type always have the size 1 in costs.
    pub(crate) fn is_scalar(&self) -> bool {
        match self {
            Self::Bool | Self::Double | Self::Duration | Self::Int | Self::Timestamp | Self::Uint => true,
            Self::Optional(of) => of.is_scalar(),
            _ => false,
        }
    }

    /// Whether a type parameter occurs in it.
    pub(crate) fn has_params(&self) -> bool {
        match self {
            Self::Param(_) => true,
            Self::List(list) => list.item.has_params(),
            Self::Map(map) => map.key.has_params() || map.value.has_params(),
            Self::Optional(of) | Self::Type(of) => of.has_params(),
            _ => false,
        }
    }
}

impl PartialEq for Type {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::List(a), Self::List(b)) => Arc::ptr_eq(a, b) || a.item == b.item,
            (Self::Map(a), Self::Map(b)) => Arc::ptr_eq(a, b) || (a.key == b.key && a.value == b.value),
            (Self::Object(a), Self::Object(b)) => a.name == b.name,
            (Self::Opaque(a), Self::Opaque(b)) | (Self::Param(a), Self::Param(b)) => a == b,
            (Self::Optional(a), Self::Optional(b)) | (Self::Type(a), Self::Type(b)) => a == b,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

impl Eq for Type {}

impl fmt::Display for Type {
    /// As error messages write it: `list(int)`, `map(string, dyn)`, `timestamp`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error => f.write_str("!error!"),
            Self::Null => f.write_str("null"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::Duration => f.write_str("duration"),
            Self::List(list) => write!(f, "list({})", list.item),
            Self::Map(map) => write!(f, "map({}, {})", map.key, map.value),
            Self::Optional(of) => write!(f, "optional_type({of})"),
            Self::Type(of) if matches!(**of, Self::Dyn) => f.write_str("type"),
            Self::Type(of) => write!(f, "type({of})"),
            other => f.write_str(other.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recursive_types_find_their_fields_lazily() {
        fn node() -> Arc<ObjectType> {
            ObjectType::lazy("Node", || vec![Field::new("next", Type::Object(node())), Field::new("at", Type::Int)])
        }
        let node = node();
        let Some(Type::Object(next)) = node.field("next").map(|field| field.ty.clone()) else {
            panic!("next is an object")
        };
        assert_eq!(next.field("at").map(|field| &field.ty), Some(&Type::Int));
        assert_eq!(Type::Object(next), Type::Object(node));
    }

    #[test]
    fn types_are_written_as_messages_have_them() {
        let ty = Type::map(Type::String, Type::list(Type::optional(Type::Timestamp)));
        assert_eq!(ty.to_string(), "map(string, list(optional_type(timestamp)))");
        assert_eq!(Type::type_of(Type::Null).to_string(), "type(null)");
    }
}
