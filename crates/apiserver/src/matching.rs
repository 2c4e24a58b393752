//! Which webhooks a request concerns: rules, equivalent versions, namespace and object selectors. Pure.

use std::sync::{Arc, OnceLock};

use schema::selector::LabelSelector;
use serde_json::Value;

use super::hook::{Hook, Rule, Scope};
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
        }
    }

    fn is_namespace(&self) -> bool {
        self.group.is_empty() && self.resource == "namespaces"
    }
}

impl Rule {
    pub(super) fn matches(&self, place: &Place<'_>) -> bool {
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
        in_scope
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

    fn get(&self) -> &[Arc<Served>] {
        self.found.get_or_init(|| self.table.siblings(self.served))
    }
}

/// In which version a webhook wants to see a request, `None` when it does not. A missing namespace is an error, but only
/// for who is concerned otherwise.
pub(crate) fn concerns(
    hook: &Hook,
    place: &Place<'_>,
    siblings: &Siblings<'_>,
    reader: &dyn ObjectReader,
    object: Option<&Value>,
    old: Option<&Value>,
) -> Result<Option<Arc<Served>>, AdmissionError> {
    let in_namespace = selects_namespace(&hook.namespaces, place, reader, object);
    if in_namespace == Ok(false) || !selects_object(&hook.objects, object, old) {
        return Ok(None);
    }
    let Some(served) = version(hook, place, siblings) else { return Ok(None) };
    in_namespace.map(|_| Some(served))
}

fn version(hook: &Hook, place: &Place<'_>, siblings: &Siblings<'_>) -> Option<Arc<Served>> {
    if hook.rules.iter().any(|rule| rule.matches(place)) {
        return Some(siblings.served.clone());
    }
    if !hook.equivalent {
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
    hook.rules.iter().find_map(|rule| siblings.get().iter().find(|served| of(rule, served)).cloned())
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
