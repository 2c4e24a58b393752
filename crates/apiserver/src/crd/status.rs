//! The status a definition earns: whether its names are accepted, and whether it is served.

use std::collections::HashSet;

use jiff::Timestamp;
use serde_json::{Value, json};
use strategy::Approval;

use super::{CLEANUP_FINALIZER, Names};

/// The names that other resources of a group hold.
#[derive(Default)]
pub(crate) struct Taken {
    resources: HashSet<String>,
    kinds: HashSet<String>,
}

impl Taken {
    /// Adds the names of a resource.
    pub(crate) fn add(&mut self, names: &Names) {
        let resources = [&names.plural, &names.singular].into_iter().chain(&names.short_names);
        self.resources.extend(resources.filter(|name| !name.is_empty()).cloned());
        self.kinds.extend([&names.kind, &names.list_kind].into_iter().filter(|name| !name.is_empty()).cloned());
    }

    /// Adds the names of a built-in resource.
    pub(crate) fn add_builtin(&mut self, resource: &kinds::Resource) {
        self.resources.insert(resource.plural.clone());
        self.kinds.insert(resource.kind.clone());
    }
}

/// The status of a definition's condition.
pub(super) fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a str> {
    let conditions = object["status"]["conditions"].as_array()?;
    conditions.iter().find(|condition| condition["type"] == kind)?["status"].as_str()
}

/// Writes the status that a definition about to be stored earns.
pub(crate) fn establish(object: &mut Value, taken: &Taken, now: Timestamp) {
    let (accepted, clash) = accept(&object["spec"]["names"], &object["status"]["acceptedNames"], taken);
    object["status"]["acceptedNames"] = accepted;
    let now = crate::meta::time(now);
    let disputed = clash.is_some();
    let (reason, message) = clash.unwrap_or(("NoConflicts", "no conflicts found".to_owned()));
    let status = if disputed { "False" } else { "True" };
    set_condition(object, "NamesAccepted", &now, (status, reason, &message));
    if condition(object, "Established") != Some("True") {
        let condition = match disputed {
            false => ("True", "InitialNamesAccepted", "the initial names have been accepted"),
            true => ("False", "NotAccepted", "not all names are accepted"),
        };
        set_condition(object, "Established", &now, condition);
    }
    if let Some(approval) = Approval::of(object) {
        let (status, reason, message) = approval.condition();
        set_condition(object, "KubernetesAPIApprovalPolicyConformant", &now, (status, reason, &message));
    }
}

/// The names a definition gets of those it asks for, and what keeps it from one. What it holds it keeps.
fn accept(asked: &Value, held: &Value, taken: &Taken) -> (Value, Option<(&'static str, String)>) {
    let mut accepted = if held.is_object() { held.clone() } else { json!({"plural": "", "kind": ""}) };
    let mut clash = None;
    let in_use = |name: &str| format!("{name:?} is already in use");
    for (reason, field, space) in [
        ("PluralConflict", "plural", &taken.resources),
        ("SingularConflict", "singular", &taken.resources),
        ("ShortNamesConflict", "shortNames", &taken.resources),
        ("KindConflict", "kind", &taken.kinds),
        ("ListKindConflict", "listKind", &taken.kinds),
    ] {
        let wanted = &asked[field];
        if wanted == &held[field] {
            continue;
        }
        let names: Vec<&str> = match wanted {
            Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
            name => name.as_str().into_iter().collect(),
        };
        let own = |name: &str| held[field].as_array().is_some_and(|held| held.iter().any(|held| held == name));
        let clashing: Vec<String> =
            names.iter().filter(|name| space.contains(**name) && !own(name)).map(|name| in_use(name)).collect();
        match clashing.as_slice() {
            [] if wanted.is_null() => {
                accepted.as_object_mut().and_then(|accepted| accepted.remove(field));
            }
            [] => accepted[field] = wanted.clone(),
            [one] => clash = Some((reason, one.clone())),
            several => clash = Some((reason, format!("[{}]", several.join(", ")))),
        }
    }
    match &asked["categories"] {
        Value::Null => {
            accepted.as_object_mut().and_then(|accepted| accepted.remove("categories"));
        }
        categories => accepted["categories"] = categories.clone(),
    }
    (accepted, clash)
}

/// Adds the finalizer that lets a definition wait for its objects.
pub(crate) fn hold_for_cleanup(object: &mut Value) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    let finalizers = metadata.entry("finalizers").or_insert_with(|| json!([]));
    if let Some(finalizers) = finalizers.as_array_mut()
        && !finalizers.iter().any(|finalizer| finalizer == CLEANUP_FINALIZER)
    {
        finalizers.push(CLEANUP_FINALIZER.into());
    }
}

/// Marks a definition whose deletion has begun.
pub(crate) fn mark_terminating(object: &mut Value, now: Timestamp) {
    let message = "CustomResource deletion is in progress";
    set_condition(object, "Terminating", &crate::meta::time(now), ("True", "InstanceDeletionInProgress", message));
}

fn set_condition(object: &mut Value, kind: &str, now: &str, (status, reason, message): (&str, &str, &str)) {
    let condition = json!({"type": kind, "status": status, "reason": reason, "message": message});
    crate::meta::put_condition(&mut object["status"], condition, now);
}
