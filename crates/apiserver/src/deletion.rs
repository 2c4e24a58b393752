//! What a deletion does to an object, as a pure decision: remove it now, mark it, or nothing new.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::{
    meta,
    options::{DeleteOptions, Propagation},
};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
/// The collection of namespaces.
pub(crate) const NAMESPACES: &str = "core/namespaces";

/// What becomes of the object.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Plan {
    /// It goes now.
    Remove,
    /// It stays, marked as being deleted, until finalizers and grace period are over.
    Mark(Value),
    /// Its deletion has begun already and this request adds nothing.
    Nothing,
}

/// Whether nothing holds an object (any more) whose deletion has begun.
pub(crate) fn may_go(collection: &str, object: &Value) -> bool {
    meta::finalizers(object).is_empty()
        && object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
        && !is_held_namespace(collection, object)
}

/// A namespace is held by `spec.finalizers` until its content is gone.
fn is_held_namespace(collection: &str, object: &Value) -> bool {
    collection == NAMESPACES && object["spec"]["finalizers"].as_array().is_some_and(|held| !held.is_empty())
}

/// Decides. `grace` is what the kind's rules make of the period asked for, `None` for kinds without graceful deletion.
pub(crate) fn plan(
    collection: &str,
    object: &Value,
    options: &DeleteOptions,
    grace: Option<i64>,
    default: strategy::Propagation,
    now: Timestamp,
) -> Plan {
    let finalizers = finalizers(object, options.propagation, default);
    let grace = grace.unwrap_or(0).max(0);
    let held = !finalizers.is_empty() || is_held_namespace(collection, object);
    if meta::is_terminating(object) {
        let running = object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
        if !held && (grace == 0 || running == 0) {
            return Plan::Remove;
        }
        // while a period runs, a further request may only shorten it
        if grace >= running && (running > 0 || finalizers == meta::finalizers(object)) {
            return Plan::Nothing;
        }
        let began = begun(object, running).unwrap_or(now);
        return Plan::Mark(marked(collection, object, finalizers, grace.min(running), began));
    }
    if !held && grace == 0 { Plan::Remove } else { Plan::Mark(marked(collection, object, finalizers, grace, now)) }
}

/// When the deletion began whose period of `running` seconds ends at the object's time of deletion.
fn begun(object: &Value, running: i64) -> Option<Timestamp> {
    let end: Timestamp = object["metadata"]["deletionTimestamp"].as_str()?.parse().ok()?;
    end.checked_sub(SignedDuration::from_secs(running)).ok()
}

fn marked(collection: &str, object: &Value, finalizers: Vec<Value>, grace: i64, now: Timestamp) -> Value {
    let mut marked = object.clone();
    let first = !meta::is_terminating(object);
    let end = now.checked_add(SignedDuration::from_secs(grace)).unwrap_or(now);
    let metadata = meta::of(&mut marked);
    metadata.insert("deletionTimestamp".into(), meta::time(end).into());
    // the grace of a namespace is in the deletion of its content
    if collection != NAMESPACES {
        metadata.insert("deletionGracePeriodSeconds".into(), grace.into());
    }
    match finalizers.is_empty() {
        true => metadata.remove("finalizers"),
        false => metadata.insert("finalizers".into(), Value::Array(finalizers)),
    };
    if first && let Some(generation) = metadata.get("generation").and_then(Value::as_i64).filter(|count| *count > 0) {
        metadata.insert("generation".into(), (generation + 1).into());
    }
    marked
}

/// The finalizers an object has once the wanted fate of its dependents is written into them.
fn finalizers(object: &Value, wanted: Option<Propagation>, default: strategy::Propagation) -> Vec<Value> {
    let now = meta::finalizers(object);
    let has = |name: &str| now.iter().any(|finalizer| finalizer == name);
    let wanted = wanted.or_else(|| match (has(ORPHAN), has(FOREGROUND), default) {
        (true, _, _) => Some(Propagation::Orphan),
        (_, true, _) => Some(Propagation::Foreground),
        (_, _, strategy::Propagation::Orphan) => Some(Propagation::Orphan),
        (_, _, strategy::Propagation::Background) => None,
    });
    let mut kept: Vec<Value> =
        now.iter().filter(|finalizer| *finalizer != ORPHAN && *finalizer != FOREGROUND).cloned().collect();
    match wanted {
        Some(Propagation::Orphan) => kept.push(json!(ORPHAN)),
        Some(Propagation::Foreground) => kept.push(json!(FOREGROUND)),
        Some(Propagation::Background) | None => {}
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKGROUND: strategy::Propagation = strategy::Propagation::Background;

    fn decide(object: &Value, options: &DeleteOptions, grace: Option<i64>) -> Plan {
        plan("core/pods", object, options, grace, BACKGROUND, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn without_finalizers_or_grace_an_object_goes_at_once() {
        assert_eq!(decide(&json!({"metadata": {}}), &DeleteOptions::default(), None), Plan::Remove);
        assert_eq!(decide(&json!({"metadata": {}}), &DeleteOptions::default(), Some(0)), Plan::Remove);
    }

    #[test]
    fn a_graceful_deletion_marks_first_and_a_second_one_with_zero_removes() {
        let Plan::Mark(marked) = decide(&json!({"metadata": {"generation": 1}}), &DeleteOptions::default(), Some(30))
        else {
            panic!("not marked")
        };
        assert_eq!(marked["metadata"]["deletionTimestamp"], "1970-01-01T00:00:30Z");
        assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
        assert_eq!(marked["metadata"]["generation"], 2);
        assert!(!may_go("core/pods", &marked));
        assert_eq!(decide(&marked, &DeleteOptions::default(), Some(30)), Plan::Nothing);
        let Plan::Mark(shorter) = decide(&marked, &DeleteOptions::default(), Some(5)) else { panic!("not shortened") };
        assert_eq!(shorter["metadata"]["deletionTimestamp"], "1970-01-01T00:00:05Z", "counted from the beginning");
        let orphan = DeleteOptions { propagation: Some(Propagation::Orphan), ..DeleteOptions::default() };
        assert_eq!(decide(&marked, &orphan, Some(30)), Plan::Nothing, "its period is running already");
        assert_eq!(decide(&marked, &DeleteOptions::default(), Some(0)), Plan::Remove);
    }

    #[test]
    fn finalizers_hold_and_propagation_becomes_one() {
        let held = json!({"metadata": {"finalizers": ["a/b"]}});
        let Plan::Mark(marked) = decide(&held, &DeleteOptions::default(), None) else { panic!("not marked") };
        assert_eq!(decide(&marked, &DeleteOptions::default(), None), Plan::Nothing);
        let foreground = DeleteOptions { propagation: Some(Propagation::Foreground), ..DeleteOptions::default() };
        let Plan::Mark(marked) = decide(&json!({"metadata": {}}), &foreground, None) else { panic!("not marked") };
        assert_eq!(marked["metadata"]["finalizers"], json!(["foregroundDeletion"]));
        let background = DeleteOptions { propagation: Some(Propagation::Background), ..DeleteOptions::default() };
        assert_eq!(decide(&marked, &background, None), Plan::Remove);
    }

    #[test]
    fn a_namespace_waits_for_its_own_finalizers() {
        let namespace = json!({"metadata": {}, "spec": {"finalizers": ["kubernetes"]}});
        let decided = plan(NAMESPACES, &namespace, &DeleteOptions::default(), None, BACKGROUND, Timestamp::UNIX_EPOCH);
        assert!(matches!(decided, Plan::Mark(_)));
        assert!(!may_go(NAMESPACES, &namespace));
        assert!(may_go(NAMESPACES, &json!({"spec": {"finalizers": []}})));
    }
}
