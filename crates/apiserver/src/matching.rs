//! Which webhooks and policies a request concerns: rules, equivalent versions, namespace and object selectors. Pure.

use std::sync::{Arc, OnceLock};

use schema::selector::LabelSelector;
use serde_json::Value;

use crate::{
    admission::{AdmissionError, AdmissionRequest, ObjectReader, Operation},
    resources::{Served, Table},
};

/// What rules look at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) operation: Operation,
    pub(crate) group: &'a str,
    pub(crate) version: &'a str,
    pub(crate) resource: &'a str,
    /// Empty for the object itself.
    pub(crate) subresource: &'a str,
    /// A Namespace that exists is in itself.
    pub(crate) namespace: &'a str,
    /// Empty when it is yet to be generated.
    pub(crate) name: &'a str,
}

/// What a webhook or policy wants to see.
#[derive(Debug)]
pub(crate) struct Matcher {
    rules: Vec<Rule>,
    /// What none of the rules means.
    excluded: Vec<Rule>,
    /// Whether no rules mean every resource.
    unruled: bool,
    /// Whether rules are also tried against other versions of the request's resource.
    equivalent: bool,
    namespaces: LabelSelector,
    objects: LabelSelector,
}

/// Resources and what is done to them.
#[derive(Debug)]
struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    scope: Scope,
    /// Names of objects, none for all.
    names: Vec<String>,
}

/// Where a rule's objects live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    Any,
    Namespaced,
    Cluster,
}

impl Matcher {
    /// Of a webhook.
    pub(crate) fn of_webhook(webhook: &Value) -> Self {
        Self { unruled: false, ..Self::decode(webhook, "rules") }
    }

    /// Of the `matchConstraints` of a policy or the `matchResources` of a binding.
    pub(crate) fn of_policy(constraints: &Value) -> Self {
        Self::decode(constraints, "resourceRules")
    }

    fn decode(holder: &Value, rules: &str) -> Self {
        let rules_at = |key: &str| holder[key].as_array().into_iter().flatten().map(Rule::decode).collect::<Vec<_>>();
        // what is stored has been validated; a selector that cannot be read selects nothing
        let selector = |field: &str| match &holder[field] {
            Value::Null => LabelSelector::everything(),
            selector => LabelSelector::from_object(selector).unwrap_or_else(|_| LabelSelector::nothing()),
        };
        let rules = rules_at(rules);
        Self {
            unruled: rules.is_empty(),
            rules,
            excluded: rules_at("excludeResourceRules"),
            equivalent: holder["matchPolicy"] != "Exact",
            namespaces: selector("namespaceSelector"),
            objects: selector("objectSelector"),
        }
    }
}

impl<'a> Place<'a> {
    /// Of a request.
    pub(crate) fn of(request: &AdmissionRequest<'a>) -> Self {
        Self {
            operation: request.operation,
            group: &request.resource.group,
            version: &request.resource.version,
            resource: &request.resource.plural,
            subresource: request.subresource.unwrap_or_default(),
            namespace: request.review_namespace(),
            name: request.name,
        }
    }

    fn is_namespace(&self) -> bool {
        self.group.is_empty() && self.resource == "namespaces"
    }
}

fn words(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

impl Rule {
    fn decode(rule: &Value) -> Self {
        Self {
            operations: words(&rule["operations"]),
            groups: words(&rule["apiGroups"]),
            versions: words(&rule["apiVersions"]),
            resources: words(&rule["resources"]),
            scope: match rule["scope"].as_str() {
                Some("Namespaced") => Scope::Namespaced,
                Some("Cluster") => Scope::Cluster,
                _ => Scope::Any,
            },
            names: words(&rule["resourceNames"]),
        }
    }

    fn matches(&self, place: &Place<'_>) -> bool {
        let named = |names: &[String], wanted: &str| names.iter().any(|name| name == "*" || name == wanted);
        let in_scope = match self.scope {
            Scope::Any => true,
            Scope::Namespaced => !place.is_namespace() && !place.namespace.is_empty(),
            Scope::Cluster => place.is_namespace() || place.namespace.is_empty(),
        };
        let resource = |name: &String| {
            let (resource, subresource) = name.split_once('/').unwrap_or((name, ""));
            (resource == "*" || resource == place.resource) && (subresource == "*" || subresource == place.subresource)
        };
        // an object without a name has none of the wanted ones
        let is_named = self.names.is_empty() || self.names.iter().any(|name| name == place.name);
        in_scope
            && is_named
            && named(&self.operations, place.operation.name())
            && named(&self.groups, place.group)
            && named(&self.versions, place.version)
            && self.resources.iter().any(resource)
    }
}

/// The other versions of a resource, looked up when the first webhook asks.
pub(crate) struct Siblings<'a> {
    table: &'a Table,
    served: &'a Arc<Served>,
    found: OnceLock<Vec<Arc<Served>>>,
}

impl<'a> Siblings<'a> {
    /// Of `served`.
    pub(crate) fn new(table: &'a Table, served: &'a Arc<Served>) -> Self {
        Self { table, served, found: OnceLock::new() }
    }

    /// The table of what is served.
    pub(crate) fn table(&self) -> &'a Table {
        self.table
    }

    fn get(&self) -> &[Arc<Served>] {
        self.found.get_or_init(|| self.table.siblings(self.served))
    }
}

impl Matcher {
    /// In which version the request is to be seen, `None` when it does not concern. A missing namespace is an error, but
    /// only for who is concerned otherwise.
    pub(crate) fn concerns(
        &self,
        place: &Place<'_>,
        siblings: &Siblings<'_>,
        reader: &dyn ObjectReader,
        object: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<Option<Arc<Served>>, AdmissionError> {
        let in_namespace = selects_namespace(&self.namespaces, place, reader, object);
        if in_namespace == Ok(false) || !selects_object(&self.objects, object, old) {
            return Ok(None);
        }
        if self.version(&self.excluded, place, siblings).is_some() {
            return Ok(None);
        }
        let served =
            if self.unruled { Some(siblings.served.clone()) } else { self.version(&self.rules, place, siblings) };
        let Some(served) = served else { return Ok(None) };
        in_namespace.map(|_| Some(served))
    }

    fn version(&self, rules: &[Rule], place: &Place<'_>, siblings: &Siblings<'_>) -> Option<Arc<Served>> {
        if rules.iter().any(|rule| rule.matches(place)) {
            return Some(siblings.served.clone());
        }
        if !self.equivalent {
            return None;
        }
        let of = |rule: &Rule, served: &Served| {
            let resource = &served.resource;
            rule.matches(&Place {
                group: &resource.group,
                version: &resource.version,
                resource: &resource.plural,
                ..*place
            })
        };
        // the first rule that fits any version decides
        rules.iter().find_map(|rule| siblings.get().iter().find(|served| of(rule, served)).cloned())
    }
}

fn selects_namespace(
    selector: &LabelSelector,
    place: &Place<'_>,
    reader: &dyn ObjectReader,
    object: Option<&Value>,
) -> Result<bool, AdmissionError> {
    let itself = place.is_namespace();
    if (place.namespace.is_empty() && !itself) || selector.is_empty() {
        return Ok(true);
    }
    // the namespace that is being written is not there yet, or not in this form
    let written = matches!(place.operation, Operation::Create | Operation::Update) && place.subresource.is_empty();
    if let Some(object) = object.filter(|_| itself && written) {
        return Ok(selector.matches_object(object));
    }
    let Some(namespace) = reader.get("core/namespaces", place.namespace) else {
        let name = place.namespace.to_owned();
        return Err(AdmissionError::NotFound { group_resource: "namespaces".to_owned(), name });
    };
    Ok(selector.matches_object(&namespace))
}

fn selects_object(selector: &LabelSelector, object: Option<&Value>, old: Option<&Value>) -> bool {
    let labelled = |object: &Value| selector.matches_object(object);
    selector.is_empty() || object.is_some_and(labelled) || old.is_some_and(labelled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(resources: &[&str], scope: Scope) -> Rule {
        Rule {
            operations: vec!["CREATE".into(), "UPDATE".into()],
            groups: vec!["".into()],
            versions: vec!["*".into()],
            resources: resources.iter().map(|name| (*name).to_owned()).collect(),
            scope,
            names: Vec::new(),
        }
    }

    fn place<'a>(resource: &'a str, subresource: &'a str, namespace: &'a str) -> Place<'a> {
        Place { operation: Operation::Create, group: "", version: "v1", resource, subresource, namespace, name: "web" }
    }

    #[test]
    fn rules_tell_objects_from_their_subresources() {
        let table = [
            ("pods", "pods", "", true),
            ("pods", "pods", "exec", false),
            ("pods/exec", "pods", "exec", true),
            ("pods/*", "pods", "exec", true),
            ("*", "pods", "", true),
            ("*", "pods", "status", false),
            ("*/status", "pods", "status", true),
            ("*/*", "pods", "", true),
        ];
        for (wanted, resource, subresource, expected) in table {
            let matched = rule(&[wanted], Scope::Any).matches(&place(resource, subresource, "n"));
            assert_eq!(matched, expected, "{wanted} on {resource}/{subresource}");
        }
        let delete = Place { operation: Operation::Delete, ..place("pods", "", "n") };
        assert!(!rule(&["*"], Scope::Any).matches(&delete));
    }

    #[test]
    fn a_namespace_counts_as_cluster_wide_although_it_is_in_itself() {
        assert!(rule(&["*"], Scope::Cluster).matches(&place("namespaces", "", "n")));
        assert!(!rule(&["*"], Scope::Namespaced).matches(&place("namespaces", "", "n")));
        assert!(rule(&["*"], Scope::Namespaced).matches(&place("pods", "", "n")));
        assert!(!rule(&["*"], Scope::Namespaced).matches(&place("nodes", "", "")));
    }

    #[test]
    fn a_rule_may_name_objects() {
        let named = |name: &str| Rule { names: vec![name.to_owned()], ..rule(&["pods"], Scope::Any) };
        assert!(named("web").matches(&place("pods", "", "n")));
        assert!(!named("other").matches(&place("pods", "", "n")));
        let generated = Place { name: "", ..place("pods", "", "n") };
        assert!(!named("web").matches(&generated));
    }
}
