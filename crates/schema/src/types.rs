//! Types as data: an arena of nodes that describes built-in types and custom resources alike.
//!
//! A [`Schema`] is a handle to one node. Nodes refer to each other by index, so recursive types cost nothing, and names
//! lie in one string per arena. Built-in types share one arena ([`builtin`]); every CustomResourceDefinition version has
//! its own ([`Schema::from_crd`]), which links to the built-in `ObjectMeta`.

mod crd;
mod table;

use std::sync::{Arc, LazyLock};

use serde_json::Value;

pub use crd::SchemaError;
pub(crate) use crd::{Below, Bound, JsonType, Rules};
pub(crate) use table::inflate;

/// Index of a node in its arena.
pub(crate) type NodeId = u32;

/// A piece of an arena's text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Name {
    start: u32,
    len: u32,
}

/// Which list elements are the same element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListKind {
    /// The list is one value.
    Atomic,
    /// Elements are scalars, each at most once.
    Set,
    /// Elements are objects told apart by these keys: a range of [`Arena::keys`].
    Map { first: u32, count: u32 },
}

/// Which values a node allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Any JSON value.
    Any,
    /// Any JSON object.
    AnyObject,
    Bool,
    Int32,
    Int64,
    Double,
    String,
    Bytes,
    Time,
    MicroTime,
    Quantity,
    IntOrString,
    /// An object with the fields in this range of [`Arena::fields`], sorted by name.
    Struct {
        first: u32,
        count: u32,
    },
    Map {
        value: NodeId,
    },
    List {
        item: NodeId,
        list: ListKind,
    },
    /// An object of the node, a list of such objects, or another value: JSON schema's `items` and the like.
    ObjectOr {
        node: NodeId,
    },
    /// The schema of another arena.
    Link(u32),
}

/// How strategic merge treats a field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PatchRule {
    pub(crate) merge: bool,
    pub(crate) replace: bool,
    pub(crate) retain_keys: bool,
    pub(crate) key: Name,
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    /// Name of the type, empty for an anonymous one.
    pub(crate) name: Name,
    /// An object that server-side apply treats as one value.
    pub(crate) atomic: bool,
    /// Unknown fields stay.
    pub(crate) preserve: bool,
    /// `null` is a value of its own.
    pub(crate) nullable: bool,
    /// The declared JSON type of a custom resource's node.
    pub(crate) json_type: Option<JsonType>,
    /// What there is to find at or below a custom resource's node.
    pub(crate) below: Below,
    /// Validation of custom resources: one more than the index into [`Arena::rules`], 0 for none.
    pub(crate) rules: u32,
}

#[derive(Clone, Debug)]
pub(crate) struct Field {
    pub(crate) name: Name,
    pub(crate) node: NodeId,
    pub(crate) required: bool,
    pub(crate) patch: PatchRule,
    /// Overrides the node's own [`Node::atomic`].
    pub(crate) atomic: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Decoded as Go decodes: `null` is dropped, types are checked while decoding.
    Builtin,
    /// Decoded as unstructured content: types are checked by validation.
    Crd,
}

#[derive(Debug)]
pub(crate) struct Arena {
    pub(crate) origin: Origin,
    pub(crate) text: String,
    pub(crate) nodes: Vec<Node>,
    pub(crate) fields: Vec<Field>,
    pub(crate) keys: Vec<Name>,
    pub(crate) rules: Vec<Rules>,
    pub(crate) links: Vec<Schema>,
}

impl Arena {
    fn new(origin: Origin) -> Self {
        Self {
            origin,
            text: String::new(),
            nodes: Vec::new(),
            fields: Vec::new(),
            keys: Vec::new(),
            rules: Vec::new(),
            links: Vec::new(),
        }
    }

    pub(crate) fn str(&self, name: Name) -> &str {
        &self.text[name.start as usize..(name.start + name.len) as usize]
    }

    fn add_text(&mut self, text: &str) -> Name {
        let start = self.text.len() as u32;
        self.text.push_str(text);
        Name { start, len: text.len() as u32 }
    }

    fn add_node(&mut self, kind: Kind) -> NodeId {
        let node = Node {
            kind,
            name: Name::default(),
            atomic: false,
            preserve: false,
            nullable: false,
            json_type: None,
            below: Below::default(),
            rules: 0,
        };
        self.nodes.push(node);
        (self.nodes.len() - 1) as NodeId
    }
}

/// A borrowed node together with its arena: what the walks pass around.
#[derive(Clone, Copy)]
pub(crate) struct Ref<'a> {
    pub(crate) arena: &'a Arena,
    pub(crate) node: &'a Node,
    /// [`Node::atomic`] after the field's override.
    pub(crate) atomic: bool,
}

impl<'a> Ref<'a> {
    pub(crate) fn new(arena: &'a Arena, id: NodeId) -> Self {
        let node = &arena.nodes[id as usize];
        match node.kind {
            Kind::Link(link) => arena.links[link as usize].root(),
            _ => Self { arena, node, atomic: node.atomic },
        }
    }

    pub(crate) fn at(&self, id: NodeId) -> Ref<'a> {
        Ref::new(self.arena, id)
    }

    /// Fields of a structure, in order of their names; none for any other kind.
    pub(crate) fn fields(&self) -> &'a [Field] {
        match self.node.kind {
            Kind::Struct { first, count } => &self.arena.fields[first as usize..(first + count) as usize],
            _ => &[],
        }
    }

    pub(crate) fn field(&self, name: &str) -> Option<&'a Field> {
        let fields = self.fields();
        fields.binary_search_by(|field| self.arena.str(field.name).cmp(name)).ok().map(|at| &fields[at])
    }

    pub(crate) fn of_field(&self, field: &Field) -> Ref<'a> {
        let mut target = self.at(field.node);
        if let Some(atomic) = field.atomic {
            target.atomic = atomic;
        }
        target
    }

    /// The node of an object's member: its field, or the map's value. Nothing when the schema says nothing.
    pub(crate) fn member(&self, name: &str) -> Option<Ref<'a>> {
        match self.node.kind {
            Kind::Struct { .. } => self.field(name).map(|field| self.of_field(field)),
            Kind::Map { value } => Some(self.at(value)),
            Kind::ObjectOr { node } => self.at(node).member(name),
            _ => None,
        }
    }

    pub(crate) fn item(&self) -> Option<Ref<'a>> {
        match self.node.kind {
            Kind::List { item, .. } => Some(self.at(item)),
            _ => None,
        }
    }

    pub(crate) fn list(&self) -> ListKind {
        match self.node.kind {
            Kind::List { list, .. } => list,
            _ => ListKind::Atomic,
        }
    }

    /// Names of the keys of a map-like list.
    pub(crate) fn keys(&self) -> impl ExactSizeIterator<Item = &'a str> + use<'a> {
        let (first, count) = match self.list() {
            ListKind::Map { first, count } => (first as usize, count as usize),
            _ => (0, 0),
        };
        let arena = self.arena;
        arena.keys[first..first + count].iter().map(move |name| arena.str(*name))
    }

    pub(crate) fn rules(&self) -> Option<&'a Rules> {
        self.node.rules.checked_sub(1).map(|at| &self.arena.rules[at as usize])
    }

    pub(crate) fn type_name(&self) -> &'a str {
        self.arena.str(self.node.name)
    }

    /// The Go name of the structure, for example `PodSpec`.
    pub(crate) fn short_name(&self) -> &'a str {
        self.type_name().rsplit('.').next().unwrap_or_default()
    }
}

/// A handle to a type. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Schema {
    pub(crate) arena: Arc<Arena>,
    pub(crate) node: NodeId,
}

impl Schema {
    /// The schema of a custom resource from its `openAPIV3Schema`. The root gets `apiVersion`, `kind` and the built-in
    /// `metadata` whether the document names them or not. `None` for the document means that anything goes.
    pub fn from_crd(document: Option<&Value>) -> Result<Self, SchemaError> {
        crd::build(document)
    }

    /// Name of the type, for example `io.k8s.api.core.v1.Pod`; empty for custom resources.
    pub fn name(&self) -> &str {
        self.root().type_name()
    }

    /// Whether an object of this type has a field of this name at its top, for example `status`.
    pub fn has_field(&self, name: &str) -> bool {
        self.root().field(name).is_some()
    }

    pub(crate) fn root(&self) -> Ref<'_> {
        Ref::new(&self.arena, self.node)
    }
}

/// All built-in types.
#[derive(Debug)]
pub struct Types {
    arena: Arc<Arena>,
    /// Nodes of the named types in order of their names.
    named: Vec<NodeId>,
    /// `group/version/kind` per named type, empty where the type is no kind.
    kinds: Vec<Name>,
}

impl Types {
    /// The type of this name, for example `io.k8s.api.core.v1.Pod`.
    pub fn get(&self, name: &str) -> Option<Schema> {
        let name_of = |id: &NodeId| self.arena.str(self.arena.nodes[*id as usize].name);
        let at = self.named.binary_search_by(|id| name_of(id).cmp(name)).ok()?;
        Some(Schema { arena: Arc::clone(&self.arena), node: self.named[at] })
    }

    /// Every named type with its `group/version/kind`, which is empty where the type is no kind.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Ref<'_>, &str)> {
        self.named.iter().zip(&self.kinds).map(|(id, kind)| (Ref::new(&self.arena, *id), self.arena.str(*kind)))
    }
}

static BUILTIN: LazyLock<Types> = LazyLock::new(table::decode);

/// The built-in types; the table is decoded at the first call.
pub fn builtin() -> &'static Types {
    &BUILTIN
}

pub(crate) fn object_meta() -> Schema {
    builtin().get("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta").expect("invariant: the table has ObjectMeta")
}
