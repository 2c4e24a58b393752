//! Policy rules: matching, and covering one by others.

use std::sync::Arc;

use serde_json::Value;
use strategy::tree;

use super::Attributes;

/// One rule of a role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Verbs, `*` for all.
    pub verbs: Vec<String>,
    /// API groups, `*` for all, empty string for the core group.
    pub api_groups: Vec<String>,
    /// Resources, `resource/subresource`, `*/subresource` or `*`.
    pub resources: Vec<String>,
    /// Object names; empty for all.
    pub resource_names: Vec<String>,
    /// Paths of non-resource requests; a trailing `*` matches what begins so.
    pub non_resource_urls: Vec<String>,
}

fn strings(rule: &Value, key: &str) -> Vec<String> {
    tree::list(rule, key).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn has(set: &[String], value: &str) -> bool {
    set.iter().any(|own| own == value)
}

fn has_or_all(set: &[String], value: &str) -> bool {
    set.iter().any(|own| own == "*" || own == value)
}

impl Rule {
    /// The rules of a Role or ClusterRole.
    pub fn of_role(role: &Value) -> Arc<[Self]> {
        tree::list(role, "rules")
            .iter()
            .map(|rule| Self {
                verbs: strings(rule, "verbs"),
                api_groups: strings(rule, "apiGroups"),
                resources: strings(rule, "resources"),
                resource_names: strings(rule, "resourceNames"),
                non_resource_urls: strings(rule, "nonResourceURLs"),
            })
            .collect()
    }

    /// The two rules that grant everything.
    pub fn everything() -> [Self; 2] {
        let all = || vec!["*".to_owned()];
        [
            Self { verbs: all(), api_groups: all(), resources: all(), ..Self::default() },
            Self { verbs: all(), non_resource_urls: all(), ..Self::default() },
        ]
    }

    /// Whether the rule grants the request.
    pub fn allows(&self, attributes: &Attributes<'_>) -> bool {
        if !has_or_all(&self.verbs, attributes.verb) {
            return false;
        }
        if let Some(path) = attributes.path {
            return self.matches_path(path);
        }
        has_or_all(&self.api_groups, attributes.group)
            && self.resources.iter().any(|own| matches_resource(own, attributes.resource, attributes.subresource))
            && (self.resource_names.is_empty() || has(&self.resource_names, attributes.name))
    }

    fn matches_path(&self, path: &str) -> bool {
        self.non_resource_urls.iter().any(|own| match own.strip_suffix('*') {
            Some(prefix) => path.starts_with(prefix),
            None => own == path,
        })
    }

    /// The rules, broken down to single grants, that `held` does not cover.
    pub fn not_covered(held: &[Self], wanted: &[Self]) -> Vec<Self> {
        wanted
            .iter()
            .flat_map(Self::single_grants)
            .filter(|grant| !held.iter().any(|rule| rule.covers(grant)))
            .collect()
    }

    fn single_grants(&self) -> Vec<Self> {
        let one = |value: &String| vec![value.clone()];
        let mut grants = Vec::new();
        for verb in &self.verbs {
            for group in &self.api_groups {
                for resource in &self.resources {
                    let grant =
                        Self { verbs: one(verb), api_groups: one(group), resources: one(resource), ..Self::default() };
                    if self.resource_names.is_empty() {
                        grants.push(grant);
                    } else {
                        grants.extend(
                            self.resource_names.iter().map(|name| Self { resource_names: one(name), ..grant.clone() }),
                        );
                    }
                }
            }
            grants.extend(self.non_resource_urls.iter().map(|path| Self {
                verbs: one(verb),
                non_resource_urls: one(path),
                ..Self::default()
            }));
        }
        grants
    }

    /// The rule on one line, as upstream shows a missing grant.
    fn compact(&self) -> String {
        let parts: Vec<String> = [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.non_resource_urls),
            ("ResourceNames", &self.resource_names),
            ("Verbs", &self.verbs),
        ]
        .into_iter()
        .filter(|(_, values)| !values.is_empty())
        .map(|(name, values)| format!("{name}:{}", quoted(values)))
        .collect();
        format!("{{{}}}", parts.join(", "))
    }

    /// Single grants on one line each, in order; those that differ in their verb only are one.
    pub fn compact_all(grants: &[Self]) -> Vec<String> {
        let mut merged: Vec<Self> = Vec::new();
        for grant in grants {
            let same = |other: &&mut Self| {
                other.api_groups == grant.api_groups
                    && other.resources == grant.resources
                    && other.resource_names == grant.resource_names
                    && other.non_resource_urls == grant.non_resource_urls
            };
            match merged.iter_mut().find(same) {
                Some(known) => {
                    let new = grant.verbs.iter().filter(|verb| !known.verbs.contains(verb));
                    let new: Vec<String> = new.cloned().collect();
                    known.verbs.extend(new);
                }
                None => merged.push(grant.clone()),
            }
        }
        let mut lines: Vec<String> = merged.iter().map(Self::compact).collect();
        lines.sort();
        lines.dedup();
        lines
    }

    /// Whether this rule covers `grant`, which has one verb and one of everything else.
    fn covers(&self, grant: &Self) -> bool {
        let Some(verb) = grant.verbs.first() else { return true };
        if !has_or_all(&self.verbs, verb) {
            return false;
        }
        if let Some(path) = grant.non_resource_urls.first() {
            return self.matches_path(path);
        }
        let (Some(group), Some(resource)) = (grant.api_groups.first(), grant.resources.first()) else { return false };
        let covers_resource = self.resources.iter().any(|own| {
            own == "*"
                || own == resource
                || own
                    .strip_prefix("*/")
                    .is_some_and(|sub| resource.split_once('/').is_some_and(|(_, wanted)| wanted == sub))
        });
        let covers_name = self.resource_names.is_empty()
            || grant.resource_names.first().is_some_and(|name| has(&self.resource_names, name));
        has_or_all(&self.api_groups, group) && covers_resource && covers_name
    }
}

/// Texts as upstream lists them: `["a" "b"]`.
pub(super) fn quoted(values: &[String]) -> String {
    let each: Vec<String> = values.iter().map(|value| format!("{value:?}")).collect();
    format!("[{}]", each.join(" "))
}

fn matches_resource(own: &str, resource: &str, subresource: &str) -> bool {
    if own == "*" {
        return true;
    }
    match own.split_once('/') {
        None => own == resource && subresource.is_empty(),
        Some((base, sub)) => !subresource.is_empty() && sub == subresource && (base == "*" || base == resource),
    }
}
