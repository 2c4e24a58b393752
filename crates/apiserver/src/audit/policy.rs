//! Which requests are audited, and how much of them: `audit.k8s.io/v1` Policy, checked as upstream checks it, and the
//! pure decision from a request's attributes to a level.

use serde_json::Value;
use strategy::{
    NameRule, User,
    field_error::{FieldErrors, Path},
    tree::list,
};

use crate::authorization::Attributes;

/// Largest policy file: upstream's large example has some 10 KiB.
const POLICY_BYTES_MAX: usize = 1024 * 1024;
/// The stages of a request, in the order of [`Stage`].
const STAGES: [&str; 4] = ["RequestReceived", "ResponseStarted", "ResponseComplete", "Panic"];
/// The levels, in the order of [`Level`].
const LEVELS: [&str; 4] = ["None", "Metadata", "Request", "RequestResponse"];

/// What is applied when no policy file is named: every write, every read of a Secret, and everything that reaches into
/// a container or through to a workload, without any bodies.
const DEFAULT: &str = r#"{
    "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "Metadata", "verbs": ["create", "update", "patch", "delete", "deletecollection", "connect"]},
        {"level": "Metadata", "resources": [{"group": "", "resources":
            ["secrets", "pods/exec", "pods/attach", "pods/portforward", "*/proxy"]}]}
    ]
}"#;

/// How much of a request is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// Nothing.
    None,
    /// Who, what, when and how it ended.
    Metadata,
    /// The object sent as well.
    Request,
    /// The object answered as well.
    RequestResponse,
}

impl Level {
    pub(crate) fn as_str(self) -> &'static str {
        LEVELS[self as usize]
    }
}

/// Where a request is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    RequestReceived,
    ResponseStarted,
    ResponseComplete,
    Panic,
}

impl Stage {
    pub(crate) fn as_str(self) -> &'static str {
        STAGES[self as usize]
    }
}

/// A set of stages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stages(u8);

impl Stages {
    fn of(values: &[Value]) -> Self {
        let known = values.iter().filter_map(|value| STAGES.iter().position(|stage| value == stage));
        Self(known.fold(0, |set, index| set | 1 << index))
    }

    fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) fn contains(self, stage: Stage) -> bool {
        self.0 & (1 << stage as u8) != 0
    }
}

/// What is done about one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) level: Level,
    pub(crate) omitted: Stages,
    pub(crate) omit_managed_fields: bool,
}

impl Verdict {
    const NOTHING: Self = Self { level: Level::None, omitted: Stages(0), omit_managed_fields: false };
}

/// A policy that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("audit policy: {0}")]
pub struct PolicyError(String);

/// The rules; the first that matches a request decides, and what none matches is not audited.
#[derive(Clone, Debug)]
pub struct Policy {
    rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
struct Rule {
    verdict: Verdict,
    users: Vec<String>,
    groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<GroupResources>,
    namespaces: Vec<String>,
    paths: Vec<String>,
}

#[derive(Clone, Debug)]
struct GroupResources {
    group: String,
    resources: Vec<String>,
    names: Vec<String>,
}

impl Default for Policy {
    fn default() -> Self {
        Self::parse(DEFAULT.as_bytes()).expect("invariant: the policy written above is valid, which a test shows")
    }
}

impl Policy {
    /// Reads a policy file, YAML or JSON.
    pub fn parse(bytes: &[u8]) -> Result<Self, PolicyError> {
        if bytes.len() > POLICY_BYTES_MAX {
            return Err(PolicyError(format!("larger than {POLICY_BYTES_MAX} bytes")));
        }
        let (document, duplicates) = schema::yaml::parse(bytes).map_err(|error| PolicyError(error.to_string()))?;
        if let Some(duplicate) = duplicates.first() {
            return Err(PolicyError(duplicate.to_string()));
        }
        if document["apiVersion"] != "audit.k8s.io/v1" || document["kind"] != "Policy" {
            let found = format!("{} {}", document["apiVersion"], document["kind"]);
            return Err(PolicyError(format!("expected audit.k8s.io/v1 Policy, found {found}")));
        }
        let mut errors = FieldErrors::default();
        check_shape(&document, &mut errors);
        if errors.is_empty() {
            validate(&document, &mut errors);
        }
        if !errors.is_empty() {
            return Err(PolicyError(errors.to_string()));
        }
        let rules = list(&document, "rules");
        if rules.is_empty() {
            return Err(PolicyError("loaded illegal policy with 0 rules".to_owned()));
        }
        let omitted = Stages::of(list(&document, "omitStages"));
        let drops = document["omitManagedFields"] == true;
        Ok(Self { rules: rules.iter().map(|rule| Rule::decode(rule, omitted, drops)).collect() })
    }

    /// What is done about a request; `user` is who sent it, `None` when nobody vouches for them.
    pub(crate) fn verdict(&self, user: Option<&User>, attributes: &Attributes<'_>) -> Verdict {
        let matching = self.rules.iter().find(|rule| rule.matches(user, attributes));
        matching.map_or(Verdict::NOTHING, |rule| rule.verdict)
    }
}

impl Rule {
    fn decode(rule: &Value, omitted: Stages, drops: bool) -> Self {
        let level = match LEVELS.iter().position(|level| rule["level"] == *level) {
            Some(1) => Level::Metadata,
            Some(2) => Level::Request,
            Some(3) => Level::RequestResponse,
            _ => Level::None,
        };
        let resources = list(rule, "resources").iter().map(|entry| GroupResources {
            group: entry["group"].as_str().unwrap_or_default().to_owned(),
            resources: words(entry, "resources"),
            names: words(entry, "resourceNames"),
        });
        Self {
            verdict: Verdict {
                level,
                omitted: omitted.and(Stages::of(list(rule, "omitStages"))),
                omit_managed_fields: rule["omitManagedFields"].as_bool().unwrap_or(drops),
            },
            users: words(rule, "users"),
            groups: words(rule, "userGroups"),
            verbs: words(rule, "verbs"),
            resources: resources.collect(),
            namespaces: words(rule, "namespaces"),
            paths: words(rule, "nonResourceURLs"),
        }
    }

    fn matches(&self, user: Option<&User>, attributes: &Attributes<'_>) -> bool {
        let unless_empty = |words: &[String], found: bool| words.is_empty() || found;
        let has = |words: &[String], word: &str| words.iter().any(|known| known == word);
        let in_group = || user.is_some_and(|user| self.groups.iter().any(|group| user.is_in(group)));
        if !unless_empty(&self.verbs, has(&self.verbs, attributes.verb))
            || !(self.users.is_empty() || user.is_some_and(|user| has(&self.users, &user.name)))
            || !(self.groups.is_empty() || in_group())
        {
            return false;
        }
        match attributes.path {
            Some(path) if self.namespaces.is_empty() && self.resources.is_empty() => {
                self.paths.is_empty() || self.paths.iter().any(|known| path_matches(path, known))
            }
            Some(_) => false,
            None if !self.namespaces.is_empty() || !self.resources.is_empty() => {
                unless_empty(&self.namespaces, has(&self.namespaces, attributes.namespace))
                    && (self.resources.is_empty() || self.resources.iter().any(|entry| entry.matches(attributes)))
            }
            None => self.paths.is_empty(),
        }
    }
}

impl GroupResources {
    fn matches(&self, attributes: &Attributes<'_>) -> bool {
        if self.group != attributes.group {
            return false;
        }
        if self.resources.is_empty() {
            return true;
        }
        if !self.names.is_empty() && !self.names.iter().any(|name| name == attributes.name) {
            return false;
        }
        let (resource, subresource) = (attributes.resource, attributes.subresource);
        self.resources.iter().any(|known| match known.split_once('/') {
            None => known == "*" || (subresource.is_empty() && known == resource),
            // upstream's "resource/*" takes the resource itself too
            Some((left, "*")) => left == resource,
            Some(("*", right)) => !subresource.is_empty() && right == subresource,
            Some((left, right)) => left == resource && right == subresource,
        })
    }
}

fn path_matches(path: &str, known: &str) -> bool {
    known == path || known.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
}

fn words(value: &Value, key: &str) -> Vec<String> {
    list(value, key).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Keys of the policy, of its rules and of their resources, each with the type of its value.
const POLICY_KEYS: [(&str, Type); 6] = [
    ("apiVersion", Type::Text),
    ("kind", Type::Text),
    ("metadata", Type::Any),
    ("omitManagedFields", Type::Flag),
    ("omitStages", Type::Words),
    ("rules", Type::Maps),
];
const RULE_KEYS: [(&str, Type); 9] = [
    ("level", Type::Text),
    ("users", Type::Words),
    ("userGroups", Type::Words),
    ("verbs", Type::Words),
    ("resources", Type::Maps),
    ("namespaces", Type::Words),
    ("nonResourceURLs", Type::Words),
    ("omitStages", Type::Words),
    ("omitManagedFields", Type::Flag),
];
const RESOURCE_KEYS: [(&str, Type); 3] =
    [("group", Type::Text), ("resources", Type::Words), ("resourceNames", Type::Words)];

#[derive(Clone, Copy)]
enum Type {
    Any,
    Flag,
    Maps,
    Text,
    Words,
}

impl Type {
    fn fits(self, value: &Value) -> bool {
        let all = |test: fn(&Value) -> bool| value.as_array().is_some_and(|items| items.iter().all(test));
        match self {
            Self::Any => true,
            Self::Flag => value.is_boolean() || value.is_null(),
            Self::Text => value.is_string() || value.is_null(),
            Self::Maps => value.is_null() || all(Value::is_object),
            Self::Words => value.is_null() || all(Value::is_string),
        }
    }
}

/// An operator's file that holds a key nobody reads is a mistake, and this the place to say so.
fn check_shape(document: &Value, errors: &mut FieldErrors) {
    check_keys(document, None, &POLICY_KEYS, errors);
    for (index, rule) in list(document, "rules").iter().enumerate() {
        let rules = Path::new("rules");
        let path = rules.index(index);
        check_keys(rule, Some(&path), &RULE_KEYS, errors);
        for (index, entry) in list(rule, "resources").iter().enumerate() {
            check_keys(entry, Some(&path.child("resources").index(index)), &RESOURCE_KEYS, errors);
        }
    }
}

fn check_keys(value: &Value, path: Option<&Path<'_>>, known: &[(&str, Type)], errors: &mut FieldErrors) {
    for (key, value) in value.as_object().into_iter().flatten() {
        let own = Path::new(key);
        let child = path.map(|path| path.child(key));
        let path = child.as_ref().unwrap_or(&own);
        match known.iter().find(|(name, _)| name == key) {
            None => errors.invalid(path, key.as_str(), "unknown field"),
            Some((_, wanted)) if !wanted.fits(value) => errors.invalid(path, value.clone(), "has the wrong type"),
            Some(_) => {}
        }
    }
}

fn validate(document: &Value, errors: &mut FieldErrors) {
    validate_stages(document, &Path::new("omitStages"), errors);
    for (index, rule) in list(document, "rules").iter().enumerate() {
        let rules = Path::new("rules");
        let path = rules.index(index);
        match rule["level"].as_str().unwrap_or_default() {
            "" => errors.required(&path.child("level"), ""),
            level if LEVELS.contains(&level) => {}
            level => errors.not_supported(&path.child("level"), level, &LEVELS),
        }
        let urls = path.child("nonResourceURLs");
        for (index, url) in list(rule, "nonResourceURLs").iter().enumerate() {
            let text = url.as_str().unwrap_or_default();
            if text != "*" && !text.starts_with('/') {
                errors.invalid(&urls.index(index), text, "non-resource URL rules must begin with a '/' character");
            }
            if text.find('*').is_some_and(|at| at + 1 < text.len()) {
                let rule = "non-resource URL wildcards '*' must be the final character of the rule";
                errors.invalid(&urls.index(index), text, rule);
            }
        }
        for entry in list(rule, "resources") {
            let path = path.child("resources");
            let group = entry["group"].as_str().unwrap_or_default();
            if let Some(message) = (!group.is_empty()).then(|| NameRule::Subdomain.check(group, false)).flatten() {
                errors.invalid(&path.child("group"), group, message);
            }
            if !list(entry, "resourceNames").is_empty() && list(entry, "resources").is_empty() {
                let names = entry["resourceNames"].clone();
                errors.invalid(
                    &path.child("resourceNames"),
                    names,
                    "using resourceNames requires at least one resource",
                );
            }
        }
        validate_stages(rule, &path.child("omitStages"), errors);
        let regular = !list(rule, "resources").is_empty() || !list(rule, "namespaces").is_empty();
        if regular && !list(rule, "nonResourceURLs").is_empty() {
            let both = "rules cannot apply to both regular resources and non-resource URLs";
            errors.invalid(&urls, rule["nonResourceURLs"].clone(), both);
        }
    }
}

fn validate_stages(value: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for (index, stage) in list(value, "omitStages").iter().enumerate() {
        if !STAGES.iter().any(|known| stage == known) {
            errors.invalid(&path.index(index), stage.clone(), format!("allowed stages are {}", STAGES.join(",")));
        }
    }
}

#[cfg(test)]
mod tests;
