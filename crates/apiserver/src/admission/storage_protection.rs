//! Claims and volumes are held by a finalizer, so that none goes while it is used: the protection controller takes it off.

use serde_json::{Value, json};

use crate::meta;

/// Holds a PersistentVolumeClaim while a pod uses it.
pub(super) const CLAIM: &str = "kubernetes.io/pvc-protection";
/// Holds a PersistentVolume while it is bound.
pub(super) const VOLUME: &str = "kubernetes.io/pv-protection";

/// Adds `finalizer` to a new object.
pub(super) fn admit(object: &mut Value, finalizer: &str) {
    if meta::finalizers(object).iter().any(|held| held == finalizer) {
        return;
    }
    let finalizers = meta::of(object).entry("finalizers").or_insert_with(|| json!([]));
    match finalizers.as_array_mut() {
        Some(finalizers) => finalizers.push(finalizer.into()),
        None => *finalizers = json!([finalizer]),
    }
}
