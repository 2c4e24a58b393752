//! Role-based access control from an in-memory index.
//!
//! The index maps subjects to the roles bound to them, cluster-wide and per namespace. It is fed with every change of a
//! Role, ClusterRole, RoleBinding or ClusterRoleBinding ([`Authorizer::apply`]); readers take one atomic load and never
//! wait. A change copies the two outer maps, which hold shared pointers, and touches the entries of its own subjects.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, OnceLock},
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde_json::Value;
use strategy::{
    tree,
    user::{GROUP_MASTERS, User},
};

pub mod escalation;
mod node;
mod reason;
mod rules;

pub(crate) use node::NodeAuthorizer;
pub use rules::Rule;

/// What a request wants to do.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    /// Who.
    pub user: &'a User,
    /// Verb, for example `list`, or the lower case HTTP method of a non-resource request.
    pub verb: &'a str,
    /// API group, empty for the core group.
    pub group: &'a str,
    /// Resource, for example `pods`.
    pub resource: &'a str,
    /// Subresource, or empty.
    pub subresource: &'a str,
    /// Namespace, or empty for all of the cluster.
    pub namespace: &'a str,
    /// Object name, or empty.
    pub name: &'a str,
    /// Path of a non-resource request such as `/healthz`; then the five fields before it do not count.
    pub path: Option<&'a str>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Some rule grants it.
    Allow,
    /// No rule grants it.
    NoOpinion {
        /// What went wrong while looking for one, empty when nothing did.
        reason: String,
    },
}

/// Where a binding's role is defined.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum RoleKey {
    Cluster(Arc<str>),
    Namespaced(Arc<str>, Arc<str>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject<T = Arc<str>> {
    User(T),
    Group(T),
}

/// A binding as the index holds it.
#[derive(Clone, Debug)]
struct Binding {
    subjects: Vec<Subject>,
    role: RoleKey,
}

/// Identifies a binding: its namespace, empty for a ClusterRoleBinding, and name.
type BindingKey = (Arc<str>, Arc<str>);

/// The subject's roles: by binding, so that one binding can be taken out again.
type Grants = HashMap<BindingKey, RoleKey>;

/// What readers see. Cloning copies the outer maps only, which happens once per batch of changes.
#[derive(Clone, Debug, Default)]
struct Index {
    roles: HashMap<RoleKey, Arc<[Rule]>>,
    /// By user, and by group, so that a subject is looked up by its name.
    users: Granted,
    groups: Granted,
}

/// Subject → namespace (empty: the cluster) → bindings.
type Granted = HashMap<Arc<str>, Arc<BTreeMap<Arc<str>, Grants>>>;

/// What grants a request.
struct Grant<'a> {
    binding: &'a BindingKey,
    role: &'a RoleKey,
    subject: Subject<&'a str>,
}

/// Decides who may do what.
#[derive(Debug, Default)]
pub struct Authorizer {
    index: ArcSwap<Index>,
    bindings: Mutex<HashMap<BindingKey, Binding>>,
    nodes: OnceLock<NodeAuthorizer>,
}

impl Authorizer {
    /// An authorizer that knows no rule.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes over a changed object; `None` when it is gone. Other collections are ignored.
    pub fn apply(&self, collection: &str, path: &str, object: Option<&Value>) {
        self.apply_all([(collection, path, object)]);
    }

    /// Takes over many changed objects at once: the start-up load publishes one index, not thousands.
    pub fn apply_all<'a>(&self, changes: impl IntoIterator<Item = (&'a str, &'a str, Option<&'a Value>)>) {
        self.change(&mut self.bindings.lock(), None, changes);
    }

    /// Takes over these objects in place of all that were known.
    pub fn replace_all<'a>(&self, objects: impl IntoIterator<Item = (&'a str, &'a str, &'a Value)>) {
        let mut bindings = self.bindings.lock();
        bindings.clear();
        let objects = objects.into_iter().map(|(collection, path, object)| (collection, path, Some(object)));
        self.change(&mut bindings, Some(Index::default()), objects);
    }

    /// Applies changes to an index, `None` to the one in use.
    fn change<'a>(
        &self,
        bindings: &mut HashMap<BindingKey, Binding>,
        mut index: Option<Index>,
        changes: impl IntoIterator<Item = (&'a str, &'a str, Option<&'a Value>)>,
    ) {
        for (collection, path, object) in changes {
            let (namespace, name) = path.split_once('/').unwrap_or(("", path));
            let (namespace, name): (Arc<str>, Arc<str>) = (namespace.into(), name.into());
            let (is_role, cluster) = match collection {
                "rbac.authorization.k8s.io/clusterroles" => (true, true),
                "rbac.authorization.k8s.io/roles" => (true, false),
                "rbac.authorization.k8s.io/clusterrolebindings" | "rbac.authorization.k8s.io/rolebindings" => {
                    (false, false)
                }
                _ => continue,
            };
            let index = index.get_or_insert_with(|| Index::clone(&self.index.load()));
            if is_role {
                let key = if cluster { RoleKey::Cluster(name) } else { RoleKey::Namespaced(namespace, name) };
                match object {
                    Some(object) => index.roles.insert(key, Rule::of_role(object)),
                    None => index.roles.remove(&key),
                };
                continue;
            }
            let key = (namespace, name);
            if let Some(old) = bindings.remove(&key) {
                index.unbind(&key, &old);
            }
            if let Some(binding) = object.and_then(|object| Binding::decode(&key.0, object)) {
                index.bind(&key, &binding);
                bindings.insert(key, binding);
            }
        }
        if let Some(index) = index {
            self.index.store(Arc::new(index));
        }
    }

    /// Has nodes kept to what their pods need. Without it they may do what roles say, as everybody.
    pub(crate) fn set_nodes(&self, nodes: NodeAuthorizer) {
        if self.nodes.set(nodes).is_err() {
            tracing::debug!("the node authorizer is set already");
        }
    }

    /// Whether the request is granted. Members of `system:masters` need no rule.
    pub fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        self.decide(attributes, "", &mut None)
    }

    /// The same of a list or watch with a field selector; where `why` is some text, it becomes what grants the request.
    pub(crate) fn decide(&self, attributes: &Attributes<'_>, fields: &str, why: &mut Option<String>) -> Decision {
        if attributes.user.is_in(GROUP_MASTERS) {
            return Decision::Allow;
        }
        let node = attributes.user.node_name().and_then(|node| Some((node, self.nodes.get()?)));
        let by_node = node.map(|(node, nodes)| nodes.authorize(node, attributes, fields));
        let of_node = match by_node {
            Some(Decision::Allow) => {
                if why.is_some() {
                    // what else would have granted it
                    self.by_roles(attributes, why);
                }
                return Decision::Allow;
            }
            Some(Decision::NoOpinion { reason }) => reason,
            None => String::new(),
        };
        match self.by_roles(attributes, why) {
            Decision::NoOpinion { reason } if reason.is_empty() => Decision::NoOpinion { reason: of_node },
            decision => decision,
        }
    }

    fn by_roles(&self, attributes: &Attributes<'_>, why: &mut Option<String>) -> Decision {
        let index = self.index.load();
        let mut missing = Vec::new();
        let (user, namespace) = (attributes.user, attributes.namespace);
        if let Some(grant) = index.visit(user, namespace, &mut missing, |rule| rule.allows(attributes)) {
            if let Some(why) = why {
                *why = reason::describe(&grant);
            }
            return Decision::Allow;
        }
        let reason = if missing.is_empty() { String::new() } else { format!("RBAC: {}", missing.join(", ")) };
        Decision::NoOpinion { reason }
    }

    /// Every rule that applies to `user` in `namespace`, and the roles that bindings name in vain.
    pub fn rules_for(&self, user: &User, namespace: &str) -> (Vec<Rule>, Vec<String>) {
        let (mut rules, mut missing) = (Vec::new(), Vec::new());
        if user.is_in(GROUP_MASTERS) {
            rules.extend(Rule::everything());
        }
        self.index.load().visit(user, namespace, &mut missing, |rule| {
            rules.push(rule.clone());
            false
        });
        (rules, missing)
    }

    /// The rules of `rules` (a role about to be written or bound) that `user` does not hold in `namespace`.
    ///
    /// A grant covers a rule when for each of its verbs, groups, resources, names and paths some held rule does.
    pub fn not_covered(&self, user: &User, namespace: &str, rules: &[Rule]) -> Vec<Rule> {
        if user.is_in(GROUP_MASTERS) {
            return Vec::new();
        }
        let (held, _) = self.rules_for(user, namespace);
        Rule::not_covered(&held, rules)
    }

    /// The rules of the role that a binding in `namespace` refers to, `None` when there is no such role.
    pub fn role_rules(&self, namespace: &str, role_ref: &Value) -> Option<Arc<[Rule]>> {
        self.index.load().roles.get(&RoleKey::decode(namespace, role_ref)?).cloned()
    }
}

impl Index {
    /// Calls `accept` with each rule of `user` until it says true; tells whose rule that was.
    fn visit<'a>(
        &'a self,
        user: &'a User,
        namespace: &str,
        missing: &mut Vec<String>,
        mut accept: impl FnMut(&Rule) -> bool,
    ) -> Option<Grant<'a>> {
        let groups = user.groups.iter().map(|group| Subject::Group(group.as_str()));
        for subject in std::iter::once(Subject::User(user.name.as_str())).chain(groups) {
            let granted = match subject {
                Subject::User(name) => self.users.get(name),
                Subject::Group(name) => self.groups.get(name),
            };
            let Some(granted) = granted else { continue };
            for scope in ["", namespace] {
                for (binding, role) in granted.get(scope).into_iter().flatten() {
                    match self.roles.get(role) {
                        Some(rules) => {
                            if rules.iter().any(&mut accept) {
                                return Some(Grant { binding, role, subject });
                            }
                        }
                        None => missing.push(role.not_found()),
                    }
                }
                if namespace.is_empty() {
                    break;
                }
            }
        }
        None
    }

    fn granted(&mut self, subject: &Subject) -> (&mut Granted, Arc<str>) {
        match subject {
            Subject::User(name) => (&mut self.users, name.clone()),
            Subject::Group(name) => (&mut self.groups, name.clone()),
        }
    }

    fn bind(&mut self, key: &BindingKey, binding: &Binding) {
        for subject in &binding.subjects {
            let (granted, name) = self.granted(subject);
            let grants = Arc::make_mut(granted.entry(name).or_default());
            grants.entry(key.0.clone()).or_default().insert(key.clone(), binding.role.clone());
        }
    }

    fn unbind(&mut self, key: &BindingKey, binding: &Binding) {
        for subject in &binding.subjects {
            let (granted, name) = self.granted(subject);
            let Some(grants) = granted.get_mut(&name) else { continue };
            let grants = Arc::make_mut(grants);
            if let Some(scope) = grants.get_mut(&key.0) {
                scope.remove(key);
                if scope.is_empty() {
                    grants.remove(&key.0);
                }
            }
            if grants.is_empty() {
                granted.remove(&name);
            }
        }
    }
}

impl RoleKey {
    fn decode(namespace: &str, role_ref: &Value) -> Option<Self> {
        let name: Arc<str> = tree::text(role_ref, "name").into();
        match tree::text(role_ref, "kind") {
            "ClusterRole" => Some(Self::Cluster(name)),
            "Role" => Some(Self::Namespaced(namespace.into(), name)),
            _ => None,
        }
    }

    fn not_found(&self) -> String {
        match self {
            Self::Cluster(name) => format!("clusterrole.rbac.authorization.k8s.io {name:?} not found"),
            Self::Namespaced(_, name) => format!("role.rbac.authorization.k8s.io {name:?} not found"),
        }
    }
}

impl Binding {
    fn decode(namespace: &str, object: &Value) -> Option<Self> {
        let role = RoleKey::decode(namespace, object.get("roleRef")?)?;
        let subjects = tree::list(object, "subjects")
            .iter()
            .filter_map(|subject| {
                let name = tree::text(subject, "name");
                match tree::text(subject, "kind") {
                    "User" => Some(Subject::User(name.into())),
                    "Group" => Some(Subject::Group(name.into())),
                    "ServiceAccount" => {
                        let own = tree::text(subject, "namespace");
                        let namespace = if own.is_empty() { namespace } else { own };
                        Some(Subject::User(format!("system:serviceaccount:{namespace}:{name}").into()))
                    }
                    _ => None,
                }
            })
            .collect();
        Some(Self { subjects, role })
    }
}

#[cfg(test)]
mod tests;
