//! What is served: the built-in table and the custom resources that CustomResourceDefinitions add, as one immutable
//! table that is swapped when a definition changes.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, OnceLock},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use kinds::Resource;
use parking_lot::Mutex;
use schema::Schema;
use serde_json::Value;
use strategy::Strategy;

use crate::{
    codec,
    convert::Form,
    crd::{Definition, Version},
    metrics::ResourceMetrics,
};

/// A resource in one version, ready to be served.
pub(crate) struct Served {
    pub(crate) resource: Arc<Resource>,
    /// The store collection, shared by all versions.
    pub(crate) collection: Arc<str>,
    /// `v1` or `apps/v1`.
    pub(crate) api_version: String,
    pub(crate) strategy: &'static dyn Strategy,
    origin: Origin,
    /// How the stored form and this version differ.
    pub(crate) form: Form,
    /// What the stored form calls itself.
    pub(crate) stored_api_version: String,
    /// Stored objects up to this revision may lack what their type now demands: defaults, and the absence of what it no
    /// longer knows.
    settled_after: u64,
    pub(crate) metrics: Arc<ResourceMetrics>,
}

/// Where a resource comes from.
enum Origin {
    BuiltIn(Schema),
    /// A definition, and which of its versions.
    Custom(Arc<Definition>, usize),
}

/// A version of a group with its resources.
#[derive(Clone)]
pub(crate) struct GroupVersion {
    pub(crate) version: String,
    /// In discovery's order.
    pub(crate) resources: Vec<Arc<Served>>,
    by_name: HashMap<String, Arc<Served>>,
    /// Tells states of this group version apart in OpenAPI's addresses; made when somebody asks.
    pub(crate) hash: OnceLock<String>,
}

/// An API group; the first version is the preferred one.
#[derive(Clone, Default)]
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) versions: Vec<GroupVersion>,
}

/// Everything served at one moment. Groups that a change does not touch are the same in the table after it.
#[derive(Default)]
pub(crate) struct Table {
    /// In discovery's order, the core group first: built-in groups in their own, custom ones by name.
    pub(crate) groups: Vec<Arc<Group>>,
    by_name: HashMap<String, usize>,
    pub(crate) definitions: HashMap<String, Arc<Definition>>,
}

impl Table {
    fn new(groups: Vec<Arc<Group>>, definitions: HashMap<String, Arc<Definition>>) -> Self {
        let by_name = groups.iter().enumerate().map(|(index, group)| (group.name.clone(), index)).collect();
        Self { groups, by_name, definitions }
    }

    /// The group of a name.
    pub(crate) fn group(&self, name: &str) -> Option<&Group> {
        self.by_name.get(name).and_then(|index| self.groups.get(*index)).map(|group| &**group)
    }

    /// The version of a group.
    pub(crate) fn version(&self, group: &str, version: &str) -> Option<&GroupVersion> {
        self.group(group)?.versions.iter().find(|known| known.version == version)
    }

    /// The resource a path names.
    pub(crate) fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Served>> {
        self.version(group, version)?.by_name.get(plural)
    }

    /// The same resource in its other versions.
    pub(crate) fn siblings(&self, served: &Served) -> Vec<Arc<Served>> {
        let own = &served.resource;
        // one resource answers in two groups; all others have their versions in one
        let groups = match own.plural.as_str() {
            "events" => ["", "events.k8s.io"].as_slice(),
            _ => &[own.group.as_str()],
        };
        let versions = groups.iter().filter_map(|group| self.group(group)).flat_map(|group| &group.versions);
        let same = versions.filter_map(|version| version.by_name.get(&own.plural));
        same.filter(|other| other.collection == served.collection && other.api_version != served.api_version)
            .cloned()
            .collect()
    }

    /// All resources in all versions.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Served>> + Clone {
        self.groups.iter().flat_map(|group| &group.versions).flat_map(|version| &version.resources)
    }
}

impl Group {
    fn add(&mut self, served: Served) {
        let resource = served.resource.clone();
        let at = self.versions.iter().position(|known| known.version == resource.version).unwrap_or_else(|| {
            let (version, hash) = (resource.version.clone(), OnceLock::new());
            self.versions.push(GroupVersion { version, resources: Vec::new(), by_name: HashMap::new(), hash });
            self.versions.len() - 1
        });
        let version = &mut self.versions[at];
        version.hash = OnceLock::new();
        let served = Arc::new(served);
        version.by_name.insert(resource.plural.clone(), served.clone());
        version.resources.push(served);
    }

    /// The group with the resources of these definitions added.
    fn with(mut self, definitions: &[&Arc<Definition>]) -> Self {
        for definition in definitions {
            let versions = definition.versions.iter().enumerate();
            for (index, _) in versions.filter(|(_, version)| version.served) {
                self.add(Served::custom(definition, index));
            }
        }
        self.sort();
        self
    }

    fn sort(&mut self) {
        self.versions.sort_by_key(|version| std::cmp::Reverse(version_priority(&version.version)));
    }
}

/// Orders versions as upstream does: stable before beta before alpha, higher numbers first, everything else last.
pub(crate) fn version_priority(version: &str) -> (u8, u32, u32, std::cmp::Reverse<String>) {
    let last = (0, 0, 0, std::cmp::Reverse(version.to_owned()));
    let Some(rest) = version.strip_prefix('v') else { return last };
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (major, rest) = rest.split_at(digits);
    let Ok(major) = major.parse() else { return last };
    let none = || std::cmp::Reverse(String::new());
    if rest.is_empty() {
        return (3, major, 0, none());
    }
    for (name, rank) in [("beta", 2), ("alpha", 1)] {
        if let Some(Ok(minor)) = rest.strip_prefix(name).map(str::parse) {
            return (rank, major, minor, none());
        }
    }
    last
}

/// The table and how it changes.
pub(crate) struct Registry {
    table: ArcSwap<Table>,
    changing: Mutex<()>,
    builtin: Vec<Arc<Group>>,
}

/// What a change of the definitions may have touched.
#[derive(Clone, Copy)]
enum Touched<'a> {
    Group(&'a str),
    Everything,
}

impl Registry {
    /// The built-in resources.
    pub(crate) fn new() -> Self {
        let mut groups: Vec<Group> = Vec::new();
        for served in kinds::builtin().iter().filter_map(|resource| Served::builtin(resource.clone())) {
            let name = &served.resource.group;
            let at = groups.iter().position(|group| group.name == *name).unwrap_or_else(|| {
                groups.push(Group { name: name.clone(), versions: Vec::new() });
                groups.len() - 1
            });
            groups[at].add(served);
        }
        groups.iter_mut().for_each(Group::sort);
        // the core group answers under another path, and comes first
        if let Some(core) = groups.iter().position(|group| group.name.is_empty()) {
            groups[..=core].rotate_right(1);
        }
        let builtin: Vec<Arc<Group>> = groups.into_iter().map(Arc::new).collect();
        let table = Table::new(builtin.clone(), HashMap::new());
        Self { table: ArcSwap::from_pointee(table), changing: Mutex::new(()), builtin }
    }

    /// What is served now.
    pub(crate) fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    /// The resource a path names, without touching the table's reference count.
    pub(crate) fn find(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Served>> {
        self.table.load().find(group, version, plural).cloned()
    }

    /// Takes over the definition that `read` finds now. Reading happens under the lock, so that of two concurrent changes
    /// the later state wins, whoever comes first.
    pub(crate) fn refresh(&self, name: &str, read: impl FnOnce() -> Option<Definition>) {
        let _changing = self.changing.lock();
        let mut definitions = self.table.load().definitions.clone();
        // a definition is named after its group, so that the states before and after it have the same
        let group = match read() {
            Some(mut definition) => {
                if let Some(before) = definitions.get(name) {
                    definition.succeed(before);
                }
                let group = definition.group.clone();
                definitions.insert(name.to_owned(), Arc::new(definition));
                group
            }
            None => match definitions.remove(name) {
                Some(gone) => gone.group.clone(),
                None => return,
            },
        };
        self.publish(definitions, Touched::Group(&group));
    }

    /// Takes over all stored definitions at start.
    pub(crate) fn load(&self, definitions: impl IntoIterator<Item = Definition>) {
        let _changing = self.changing.lock();
        let definitions = definitions.into_iter().map(|definition| (definition.name.clone(), Arc::new(definition)));
        self.publish(definitions.collect(), Touched::Everything);
    }

    fn publish(&self, definitions: HashMap<String, Arc<Definition>>, touched: Touched<'_>) {
        let before = self.table.load_full();
        let mut custom: BTreeMap<&str, Vec<&Arc<Definition>>> = BTreeMap::new();
        for definition in definitions.values().filter(|definition| definition.established) {
            custom.entry(&definition.group).or_default().push(definition);
        }
        let made = |name: &str, base: Group, mut added: Vec<&Arc<Definition>>| -> Arc<Group> {
            let kept = before.by_name.get(name).and_then(|index| before.groups.get(*index));
            match (touched, kept) {
                (Touched::Group(touched), Some(kept)) if touched != name => kept.clone(),
                _ => {
                    added.sort_by(|a, b| a.name.cmp(&b.name));
                    Arc::new(base.with(&added))
                }
            }
        };
        let mut groups = Vec::with_capacity(self.builtin.len() + custom.len());
        for group in &self.builtin {
            groups.push(match custom.remove(group.name.as_str()) {
                Some(added) => made(&group.name, Group::clone(group), added),
                None => group.clone(),
            });
        }
        for (name, added) in custom {
            let group = made(name, Group { name: name.to_owned(), versions: Vec::new() }, added);
            // versions may all be there for stored objects alone
            if !group.versions.is_empty() {
                groups.push(group);
            }
        }
        self.table.store(Arc::new(Table::new(groups, definitions)));
    }
}

impl Served {
    fn builtin(resource: Arc<Resource>) -> Option<Self> {
        let schema = schema::builtin().get(&resource.schema)?;
        let (form, collection, stored_api_version) = Form::of_builtin(&resource);
        Some(Self {
            collection: collection.into(),
            api_version: resource.api_version(),
            strategy: strategy::of(&resource),
            origin: Origin::BuiltIn(schema),
            form,
            stored_api_version,
            resource,
            settled_after: 0,
            metrics: Arc::default(),
        })
    }

    fn custom(definition: &Arc<Definition>, index: usize) -> Self {
        let version = &definition.versions[index];
        let form = Form::of_custom(definition, version);
        Self {
            collection: definition.collection.clone(),
            api_version: version.resource.api_version(),
            strategy: strategy::of(&version.resource),
            origin: Origin::Custom(definition.clone(), index),
            form,
            stored_api_version: definition.stored_api_version.clone(),
            resource: version.resource.clone(),
            metrics: version.metrics.clone(),
            // conversion brings what it converts into the form of its type
            settled_after: if form == Form::Webhook { 0 } else { definition.unchanged_since },
        }
    }

    /// What its objects are made of.
    pub(crate) fn schema(&self) -> &Schema {
        match &self.origin {
            Origin::BuiltIn(schema) => schema,
            Origin::Custom(definition, index) => definition.versions[*index].document.schema(),
        }
    }

    /// Whether a definition made it.
    pub(crate) fn is_custom(&self) -> bool {
        matches!(self.origin, Origin::Custom(..))
    }

    /// The definition of a custom resource.
    pub(crate) fn definition(&self) -> Option<&Arc<Definition>> {
        match &self.origin {
            Origin::BuiltIn(_) => None,
            Origin::Custom(definition, _) => Some(definition),
        }
    }

    /// The version of the definition, for a custom resource.
    pub(crate) fn version(&self) -> Option<&Version> {
        match &self.origin {
            Origin::BuiltIn(_) => None,
            Origin::Custom(definition, index) => definition.versions.get(*index),
        }
    }

    /// What users of the type are told.
    pub(crate) fn deprecation(&self) -> Option<&str> {
        match (self.version(), self.resource.group.as_str(), self.resource.plural.as_str()) {
            (Some(version), ..) => version.deprecation.as_deref(),
            (None, "", "componentstatuses") => Some("v1 ComponentStatus is deprecated in v1.19+"),
            (None, "", "endpoints") => {
                Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice")
            }
            _ => None,
        }
    }

    /// The bytes of a stored object as they are to be read: as they are, unless its type has changed since.
    pub(crate) fn bytes(&self, object: &store::Object) -> Bytes {
        if object.revision.0 > self.settled_after {
            return object.bytes.clone();
        }
        let Ok(mut value) = codec::stored(&object.bytes) else { return object.bytes.clone() };
        self.settle(&mut value);
        value.to_string().into()
    }

    /// Whether a stored object may lack what its type now demands.
    pub(crate) fn is_settled(&self, object: &store::Object) -> bool {
        object.revision.0 > self.settled_after
    }

    /// Brings a stored object into the form its type now demands.
    pub(crate) fn settle(&self, object: &mut Value) {
        let Some(definition) = self.definition() else { return };
        // objects may still be stored in a version that no new ones are stored in
        let written = |version: &&Version| object["apiVersion"] == version.resource.api_version();
        if let Some(version) = definition.versions.iter().find(written) {
            schema::prune(version.document.schema(), object);
            schema::default(version.document.schema(), object);
        }
    }

    /// The store path of an object.
    pub(crate) fn path(&self, namespace: &str, name: &str) -> String {
        if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") }
    }

    /// Labels of metrics.
    pub(crate) fn labels(&self) -> String {
        let Resource { group, version, plural, .. } = &*self.resource;
        format!("group=\"{group}\",resource=\"{plural}\",version=\"{version}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_builtin_row_is_served_and_the_core_group_comes_first() {
        let registry = Registry::new();
        let table = registry.table();
        assert_eq!(table.iter().count(), kinds::builtin().len());
        assert_eq!(table.groups[0].name, "");
        assert_eq!(table.group("autoscaling").unwrap().versions[0].version, "v2");
        assert_eq!(&*table.find("", "v1", "pods").unwrap().collection, "core/pods");
        assert_eq!(&*table.find("events.k8s.io", "v1", "events").unwrap().collection, "core/events");
        assert!(table.find("apps", "v1", "pods").is_none());
    }

    #[test]
    fn versions_sort_as_upstream_sorts_them() {
        let mut versions = vec!["v1alpha1", "foo", "v2", "v1beta2", "v10", "v1", "v1beta10"];
        versions.sort_by_key(|version| std::cmp::Reverse(version_priority(version)));
        assert_eq!(versions, ["v10", "v2", "v1", "v1beta10", "v1beta2", "v1alpha1", "foo"]);
    }
}
