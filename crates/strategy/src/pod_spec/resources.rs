//! The rules of requests and limits.

use serde_json::Value;

use crate::{
    field_error::{FieldErrors, Path},
    names, quantity,
    tree::map,
};

/// Checks requests and limits of a container.
pub(super) fn validate(resources: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    validate_list(resources, "limits", path, errors);
    validate_list(resources, "requests", path, errors);
    let named = |wanted: &dyn Fn(&str) -> bool| {
        ["limits", "requests"].iter().any(|key| map(resources, key).keys().any(|name| wanted(name)))
    };
    if named(&|name| name.starts_with("hugepages-")) && !named(&|name| name == "cpu" || name == "memory") {
        errors.forbidden(path, "HugePages require cpu or memory");
    }
    let limits = map(resources, "limits");
    let path = path.child("requests");
    for (name, request) in map(resources, "requests") {
        let Some(limit) = limits.get(name) else {
            if is_extended(name) {
                let parent = path.key(name);
                errors.required(&parent, "Limit must be set for non overcommitable resources");
            }
            continue;
        };
        let (Some(wanted), Some(most)) = (quantity::parse(request), quantity::parse(limit)) else { continue };
        if is_extended(name) && wanted != most {
            errors.invalid(&path, shown(request), format!("must be equal to {name} limit of {}", shown(limit)));
        } else if wanted > most {
            errors.invalid(
                &path,
                shown(request),
                format!("must be less than or equal to {name} limit of {}", shown(limit)),
            );
        }
    }
}

fn shown(quantity: &Value) -> String {
    quantity.as_str().map_or_else(|| quantity.to_string(), str::to_owned)
}

/// Whether a resource cannot be promised twice: all that Kubernetes itself does not define.
fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.starts_with("kubernetes.io/") && !name.starts_with("requests.")
        || name.starts_with("hugepages-")
}

/// Checks the names and amounts in the map at `key`.
pub(crate) fn validate_list(holder: &Value, key: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let path = path.child(key);
    for (name, amount) in map(holder, key) {
        let path = path.key(name);
        if let Some(message) = names::qualified(name) {
            errors.invalid(&path, name.as_str(), message);
        } else if !name.contains('/')
            && !["cpu", "memory", "ephemeral-storage", "storage"].contains(&name.as_str())
            && !name.starts_with("hugepages-")
        {
            errors.invalid(&path, name.as_str(), "must be a standard resource type or fully qualified");
            errors.invalid(&path, name.as_str(), "must be a standard resource for containers");
        }
        if let Some(quantity) = quantity::validate_non_negative(amount, &path, errors)
            && is_extended(name)
            && !quantity::is_whole(&quantity)
        {
            errors.invalid(&path, amount.clone(), "must be an integer");
        }
    }
}
