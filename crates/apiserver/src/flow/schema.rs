//! FlowSchemas as they are matched: which requests are of which flow, and to which priority level that flow goes.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64},
    },
};

use http::HeaderValue;
use serde_json::Value;
use strategy::{
    User,
    tree::{flag, int, list, text, text_at},
};

use super::level::{Level, Rejected};
use crate::{
    authorization::Attributes,
    metrics::{Bounds, Histogram},
};

/// What `matchingPrecedence` is when an object does not say; the schema's default.
const PRECEDENCE: i64 = 1000;

/// What tells the flows of one schema apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Distinguisher {
    None,
    User,
    Namespace,
}

/// A FlowSchema.
#[derive(Debug)]
pub(crate) struct FlowSchema {
    pub(super) name: String,
    pub(super) uid: HeaderValue,
    /// Counts the changes of its spec.
    generation: i64,
    pub(super) precedence: i64,
    pub(super) level: Arc<Level>,
    pub(super) counts: Arc<Counts>,
    distinguisher: Distinguisher,
    rules: Vec<Rule>,
}

/// What happened to the requests of a schema; outlives changes of it.
#[derive(Debug)]
pub(super) struct Counts {
    pub(super) dispatched: AtomicU64,
    pub(super) rejected: [AtomicU64; Rejected::ALL.len()],
    pub(super) executing: AtomicI64,
    pub(super) executing_seats: AtomicI64,
    pub(super) waiting: AtomicI64,
    /// What those waited that had to: who then was refused, and who got a seat.
    pub(super) waits: [Histogram; 2],
}

/// Upstream's, for times in queues.
static WAIT_BOUNDS: Bounds = Bounds::seconds(&[0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0]);

impl Default for Counts {
    fn default() -> Self {
        Self {
            dispatched: AtomicU64::default(),
            rejected: Default::default(),
            executing: AtomicI64::default(),
            executing_seats: AtomicI64::default(),
            waiting: AtomicI64::default(),
            waits: std::array::from_fn(|_| Histogram::new(&WAIT_BOUNDS)),
        }
    }
}

#[derive(Debug)]
struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<ResourceRule>,
    paths: Vec<PathRule>,
}

#[derive(Debug)]
enum Subject {
    User(String),
    Group(String),
    /// Begin of the user name, or all of it.
    Account {
        name: String,
        any: bool,
    },
}

#[derive(Debug)]
struct ResourceRule {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    namespaces: Vec<String>,
    cluster_scope: bool,
}

#[derive(Debug)]
struct PathRule {
    verbs: Vec<String>,
    paths: Vec<String>,
}

fn has(words: &[String], word: &str) -> bool {
    words.iter().any(|known| known == "*" || known == word)
}

fn words(value: &Value, key: &str) -> Vec<String> {
    list(value, key).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

impl FlowSchema {
    /// Decodes a stored object whose level is `level`.
    pub(super) fn decode(object: &Value, level: Arc<Level>, counts: Arc<Counts>) -> Self {
        let spec = &object["spec"];
        Self {
            name: text_at(object, &["metadata", "name"]).to_owned(),
            uid: uid(object),
            generation: generation(object),
            precedence: int(spec, "matchingPrecedence").unwrap_or(PRECEDENCE),
            level,
            counts,
            distinguisher: match text_at(spec, &["distinguisherMethod", "type"]) {
                "ByUser" => Distinguisher::User,
                "ByNamespace" => Distinguisher::Namespace,
                _ => Distinguisher::None,
            },
            rules: list(spec, "rules").iter().map(Rule::decode).collect(),
        }
    }

    /// Whether it was decoded from an object of this spec.
    pub(super) fn is(&self, name: &str, object: &Value) -> bool {
        self.name == name && self.generation == generation(object) && self.uid == uid(object)
    }

    /// Whether a request is of this schema.
    pub(super) fn matches(&self, attributes: &Attributes<'_>) -> bool {
        self.rules.iter().any(|rule| rule.matches(attributes))
    }

    /// What tells its flow from the others of the schema.
    pub(super) fn distinguish<'a>(&self, attributes: &Attributes<'a>) -> &'a str {
        match self.distinguisher {
            Distinguisher::None => "",
            Distinguisher::User => &attributes.user.name,
            Distinguisher::Namespace => attributes.namespace,
        }
    }

    /// The flow of a request, as the number its queues are dealt by.
    pub(super) fn flow(&self, attributes: &Attributes<'_>) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.name.as_str(), self.distinguish(attributes)).hash(&mut hasher);
        hasher.finish()
    }
}

fn generation(object: &Value) -> i64 {
    int(&object["metadata"], "generation").unwrap_or_default()
}

/// The object's identity, as the headers of answers carry it.
pub(super) fn uid(object: &Value) -> HeaderValue {
    HeaderValue::from_str(text_at(object, &["metadata", "uid"])).unwrap_or(HeaderValue::from_static(""))
}

impl Rule {
    fn decode(rule: &Value) -> Self {
        Self {
            subjects: list(rule, "subjects").iter().filter_map(Subject::decode).collect(),
            resources: list(rule, "resourceRules").iter().map(ResourceRule::decode).collect(),
            paths: list(rule, "nonResourceRules")
                .iter()
                .map(|rule| PathRule { verbs: words(rule, "verbs"), paths: words(rule, "nonResourceURLs") })
                .collect(),
        }
    }

    fn matches(&self, attributes: &Attributes<'_>) -> bool {
        if !self.subjects.iter().any(|subject| subject.matches(attributes.user)) {
            return false;
        }
        match attributes.path {
            Some(path) => self.paths.iter().any(|rule| rule.matches(attributes.verb, path)),
            None => self.resources.iter().any(|rule| rule.matches(attributes)),
        }
    }
}

impl Subject {
    fn decode(subject: &Value) -> Option<Self> {
        match text(subject, "kind") {
            "User" => Some(Self::User(text_at(subject, &["user", "name"]).to_owned())),
            "Group" => Some(Self::Group(text_at(subject, &["group", "name"]).to_owned())),
            "ServiceAccount" => {
                let account = subject.get("serviceAccount")?;
                let (namespace, name) = (text(account, "namespace"), text(account, "name"));
                let any = name == "*";
                let name = if any { "" } else { name };
                Some(Self::Account { name: format!("system:serviceaccount:{namespace}:{name}"), any })
            }
            _ => None,
        }
    }

    fn matches(&self, user: &User) -> bool {
        match self {
            Self::User(name) => name == "*" || *name == user.name,
            Self::Group(name) => name == "*" || user.is_in(name),
            Self::Account { name, any: true } => user.name.starts_with(name),
            Self::Account { name, any: false } => *name == user.name,
        }
    }
}

impl ResourceRule {
    fn decode(rule: &Value) -> Self {
        Self {
            verbs: words(rule, "verbs"),
            groups: words(rule, "apiGroups"),
            resources: words(rule, "resources"),
            namespaces: words(rule, "namespaces"),
            cluster_scope: flag(rule, "clusterScope"),
        }
    }

    fn matches(&self, attributes: &Attributes<'_>) -> bool {
        let is_resource = |known: &String| match (known.as_str(), attributes.subresource) {
            ("*", _) => true,
            (known, "") => known == attributes.resource,
            (known, subresource) => known.split_once('/') == Some((attributes.resource, subresource)),
        };
        let in_scope = match attributes.namespace {
            "" => self.cluster_scope,
            namespace => has(&self.namespaces, namespace),
        };
        in_scope
            && has(&self.verbs, attributes.verb)
            && has(&self.groups, attributes.group)
            && self.resources.iter().any(is_resource)
    }
}

impl PathRule {
    fn matches(&self, verb: &str, path: &str) -> bool {
        let is_path = |known: &String| {
            known == "*"
                || known == path
                || known.strip_suffix('*').is_some_and(|begin| begin.ends_with('/') && path.starts_with(begin))
        };
        has(&self.verbs, verb) && self.paths.iter().any(is_path)
    }
}
