//! The committed table of built-in types.
//!
//! `data/types.z` is zlib over lines. A type is `name|form|options`; form `*` is a structure whose fields follow, each
//! ` name|form|options`. Forms: `s` string, `b` bool, `i` int32, `l` int64, `d` double, `y` base64 bytes, `t` time,
//! `u` time with microseconds, `q` quantity, `o` int or string, `a` any value, `e` any object, `p` a JSON schema or
//! something else, `#N` the N-th type, `[F` a list, `{F` a map. Options: `r` required, `A`/`G` atomic or granular
//! object, `S` set, `M=k:k` list with map keys, `P=s:s` patch strategy, `K=key` merge key, `V=g/v/k` kind.

use std::collections::HashMap;
use std::io::Read;
use std::sync::Arc;

use super::{Arena, Field, Kind, ListKind, Name, NodeId, Origin, PatchRule, Types};

static DATA: &[u8] = include_bytes!("../../data/types.z");

/// The decoded text is about 72 KB; a larger one is no table of ours.
const MAX_TEXT: u64 = 1 << 20;

const JSON_SCHEMA: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";

struct Decoder<'a> {
    arena: Arena,
    names: HashMap<&'a str, Name>,
    /// Anonymous nodes by form and options.
    forms: HashMap<(&'a str, &'a str), NodeId>,
    json_schema: NodeId,
}

pub(crate) fn inflate(data: &[u8], limit: u64) -> String {
    let mut text = String::with_capacity(data.len() * 7);
    flate2::read::ZlibDecoder::new(data)
        .take(limit)
        .read_to_string(&mut text)
        .expect("invariant: the embedded table is valid zlib over UTF-8");
    text
}

pub(super) fn decode() -> Types {
    let text = inflate(DATA, MAX_TEXT);
    let mut decoder = Decoder {
        arena: Arena::new(Origin::Builtin),
        names: HashMap::with_capacity(2048),
        forms: HashMap::with_capacity(1024),
        json_schema: 0,
    };
    decoder.arena.text.reserve(text.len() / 2);
    decoder.arena.fields.reserve(text.len() / 24);
    let heads: Vec<&str> = text.lines().filter(|line| !line.starts_with(' ')).collect();
    // The N-th type is the N-th node, so that `#N` can refer to a type that is still to come.
    let named: Vec<NodeId> = heads.iter().map(|_| decoder.arena.add_node(Kind::Any)).collect();
    decoder.json_schema =
        heads.iter().position(|line| line.starts_with(&format!("{JSON_SCHEMA}|"))).unwrap_or(0) as u32;
    let mut kinds = Vec::with_capacity(named.len());
    let mut lines = text.lines().peekable();
    for id in &named {
        let head = lines.next().expect("invariant: every type has a line");
        kinds.push(decoder.head(*id, head));
        let first = decoder.arena.fields.len() as u32;
        while let Some(line) = lines.next_if(|line| line.starts_with(' ')) {
            decoder.field(&line[1..]);
        }
        if head.split('|').nth(1) == Some("*") {
            let count = decoder.arena.fields.len() as u32 - first;
            decoder.arena.nodes[*id as usize].kind = Kind::Struct { first, count };
        }
    }
    decoder.arena.text.shrink_to_fit();
    decoder.arena.fields.shrink_to_fit();
    Types { arena: Arc::new(decoder.arena), named, kinds }
}

impl<'a> Decoder<'a> {
    fn name(&mut self, text: &'a str) -> Name {
        if text.is_empty() {
            return Name::default();
        }
        let arena = &mut self.arena;
        *self.names.entry(text).or_insert_with(|| arena.add_text(text))
    }

    /// Fills the named node; gives its `group/version/kind`.
    fn head(&mut self, id: NodeId, line: &'a str) -> Name {
        let mut columns = line.split('|');
        let mut next = || columns.next().unwrap_or_default();
        let (name, form, options) = (next(), next(), next());
        let name = self.name(name);
        let kind = if form == "*" { Kind::Struct { first: 0, count: 0 } } else { self.kind(form, "") };
        let mut gvk = Name::default();
        let node = &mut self.arena.nodes[id as usize];
        (node.name, node.kind) = (name, kind);
        for option in options.split(',') {
            match option.split_once('=') {
                Some((_, text)) => gvk = self.name(text),
                None => self.arena.nodes[id as usize].atomic |= option == "A",
            }
        }
        gvk
    }

    fn field(&mut self, line: &'a str) {
        let mut columns = line.split('|');
        let mut next = || columns.next().unwrap_or_default();
        let (name, form, options) = (next(), next(), next());
        let name = self.name(name);
        let (mut required, mut atomic, mut patch) = (false, None, PatchRule::default());
        let mut list = "";
        for option in options.split(',') {
            match (option, option.split_once('=')) {
                ("r", _) => required = true,
                ("A", _) => atomic = Some(true),
                ("G", _) => atomic = Some(false),
                ("S", _) => list = option,
                (_, Some(("M", _))) => list = option,
                (_, Some(("P", strategies))) => {
                    for strategy in strategies.split(':') {
                        patch.merge |= strategy == "merge";
                        patch.replace |= strategy == "replace";
                        patch.retain_keys |= strategy == "retainKeys";
                    }
                }
                (_, Some(("K", key))) => patch.key = self.name(key),
                _ => {}
            }
        }
        let node = self.node(form, list);
        self.arena.fields.push(Field { name, node, required, patch, atomic });
    }

    fn node(&mut self, form: &'a str, list: &'a str) -> NodeId {
        if let Some(index) = form.strip_prefix('#') {
            return index.parse().expect("invariant: a reference is a number");
        }
        if let Some(id) = self.forms.get(&(form, list)) {
            return *id;
        }
        let kind = self.kind(form, list);
        let id = self.arena.add_node(kind);
        self.forms.insert((form, list), id);
        id
    }

    fn kind(&mut self, form: &'a str, list: &'a str) -> Kind {
        match form.as_bytes().first() {
            Some(b'b') => Kind::Bool,
            Some(b'i') => Kind::Int32,
            Some(b'l') => Kind::Int64,
            Some(b'd') => Kind::Double,
            Some(b's') => Kind::String,
            Some(b'y') => Kind::Bytes,
            Some(b't') => Kind::Time,
            Some(b'u') => Kind::MicroTime,
            Some(b'q') => Kind::Quantity,
            Some(b'o') => Kind::IntOrString,
            Some(b'e') => Kind::AnyObject,
            Some(b'p') => Kind::ObjectOr { node: self.json_schema },
            Some(b'{') => Kind::Map { value: self.node(&form[1..], "") },
            Some(b'[') => {
                let item = self.node(&form[1..], "");
                let list = match list.split_once('=') {
                    Some((_, keys)) => {
                        let first = self.arena.keys.len() as u32;
                        for key in keys.split(':') {
                            let name = self.name(key);
                            self.arena.keys.push(name);
                        }
                        ListKind::Map { first, count: self.arena.keys.len() as u32 - first }
                    }
                    None if list == "S" => ListKind::Set,
                    None => ListKind::Atomic,
                };
                Kind::List { item, list }
            }
            _ => Kind::Any,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::types::builtin;

    #[test]
    fn types_keep_lists_and_merge_rules() {
        let pod = builtin().get("io.k8s.api.core.v1.PodSpec").unwrap();
        let root = pod.root();
        let containers = root.field("containers").unwrap();
        assert!(containers.required && containers.patch.merge);
        assert_eq!(root.arena.str(containers.patch.key), "name");
        let list = root.of_field(containers);
        assert_eq!(list.keys().collect::<Vec<_>>(), ["name"]);
        assert_eq!(list.item().unwrap().short_name(), "Container");
        assert!(root.of_field(root.field("nodeSelector").unwrap()).atomic);
        let ports = list.item().unwrap();
        let ports = ports.of_field(ports.field("ports").unwrap());
        assert_eq!(ports.keys().collect::<Vec<_>>(), ["containerPort", "protocol"]);
    }

    #[test]
    fn every_served_kind_has_a_type() {
        for row in kinds::builtin() {
            assert!(builtin().get(&row.schema).is_some(), "{}", row.schema);
        }
    }

    #[test]
    fn the_table_is_sorted_by_name() {
        let names: Vec<&str> = builtin().iter().map(|(node, _)| node.type_name()).collect();
        assert!(names.is_sorted());
    }
}
