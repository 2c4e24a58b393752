//! What a pod's status may become.

use serde_json::Value;

use crate::{
    field_error::{FieldErrors, Path},
    names,
    tree::{at, int, keep, list, list_mut, some, text, text_at},
};

const STATUS: Path<'static> = Path::new("status");

/// Checks the change of the status from `old` to `new`, both whole pods.
pub(super) fn check_change(new: &Value, old: &Value, errors: &mut FieldErrors) {
    static NOTHING: Value = Value::Null;
    let status = new.get("status").unwrap_or(&NOTHING);
    let before = old.get("status").unwrap_or(&NOTHING);
    let node = text(status, "nominatedNodeName");
    if !node.is_empty()
        && let Some(message) = names::subdomain(node)
    {
        errors.invalid(&STATUS.child("nominatedNodeName"), node, message);
    }
    let conditions = STATUS.child("conditions");
    for (index, condition) in list(status, "conditions").iter().enumerate() {
        let kind = text(condition, "type");
        // what the system itself says needs no domain
        if let Some(message) = names::qualified(kind) {
            errors.invalid(&conditions.index(index).child("Type"), kind, message);
        }
    }
    let policy = text_at(new, &["spec", "restartPolicy"]);
    check_transitions("containerStatuses", policy, status, before, errors);
    check_addresses(status, errors);
    let class = text(before, "qosClass");
    if !class.is_empty() && text(status, "qosClass") != class {
        errors.invalid(&STATUS.child("qosClass"), text(status, "qosClass"), "field is immutable");
    }
}

/// What a status once said about the generation it was made from stays when a writer that knows no generations leaves it
/// out. Conditions of one type, of which there may be several, answer to each other in their order.
pub(super) fn keep_observed_generations(status: &mut Value, before: &Value) {
    let unset = |value: &Value| int(value, "observedGeneration").unwrap_or(0) == 0;
    if unset(status) {
        keep(status, before, "observedGeneration");
    }
    let mut taken = vec![false; list(before, "conditions").len()];
    for condition in list_mut(status, "conditions") {
        let known = list(before, "conditions").iter().zip(&mut taken);
        let former = known.into_iter().find(|(old, taken)| !**taken && text(old, "type") == text(condition, "type"));
        let Some((old, taken)) = former else { continue };
        *taken = true;
        if unset(condition) {
            keep(condition, old, "observedGeneration");
        }
    }
}

/// A container that has ended runs again only where the pod's restart policy says so.
fn check_transitions(key: &str, policy: &str, new: &Value, old: &Value, errors: &mut FieldErrors) {
    if policy == "Always" {
        return;
    }
    let path = STATUS.child(key);
    for before in list(old, key) {
        let Some(end) = at(before, &["state", "terminated"]) else { continue };
        let failed = end.get("exitCode").and_then(Value::as_i64).unwrap_or(0) != 0;
        if policy == "OnFailure" && failed {
            continue;
        }
        let after = list(new, key).iter().enumerate().find(|(_, after)| text(after, "name") == text(before, "name"));
        if let Some((index, after)) = after
            && some(after, "state").is_some()
            && at(after, &["state", "terminated"]).is_none()
        {
            let path = path.index(index);
            errors.forbidden(&path.child("state"), "may not be transitioned to non-terminated state");
        }
    }
}

/// At most one address of each family, the first of them also the pod's only address of old.
fn check_addresses(status: &Value, errors: &mut FieldErrors) {
    let addresses = list(status, "podIPs");
    let path = STATUS.child("podIPs");
    let mut families = [0; 2];
    for (index, entry) in addresses.iter().enumerate() {
        let ip = text(entry, "ip");
        match ip.parse::<std::net::IpAddr>() {
            Ok(address) => families[usize::from(address.is_ipv6())] += 1,
            Err(_) => {
                errors.invalid(&path.index(index), ip, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")
            }
        }
    }
    if families.iter().any(|count| *count > 1) {
        let rule = "may specify no more than one IP for each IP family";
        errors.invalid(&path, Value::Array(addresses.to_vec()), rule);
    }
    let first = addresses.first().map_or("", |entry| text(entry, "ip"));
    if !first.is_empty() && !text(status, "podIP").is_empty() && text(status, "podIP") != first {
        errors.invalid(&path.index(0).child("ip"), first, "must be equal to `podIP`");
    }
}
