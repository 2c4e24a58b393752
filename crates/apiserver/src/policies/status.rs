//! The status of a policy: that it was looked at.

use serde_json::{Value, json};

/// Writes down that the policy, as it is about to be stored, has been looked at.
///
/// Elsewhere a controller does this a moment later. Here it is part of the write, so that who waits for it never waits.
pub(crate) fn observe(object: &mut Value) {
    let generation = object["metadata"]["generation"].clone();
    if object["status"]["observedGeneration"] == generation && object["status"]["typeChecking"].is_object() {
        return;
    }
    if !object["status"].is_object() {
        object["status"] = json!({});
    }
    object["status"]["observedGeneration"] = generation;
    object["status"]["typeChecking"] = json!({});
}
