//! Claims and Ingresses that name no class get the default one.

use serde_json::Value;
use strategy::tree::{self, name, text_at};

use super::ObjectReader;

/// The newest class of `collection` that `annotation` marks as default; of equally old ones the first by name.
fn default_class(reader: &dyn ObjectReader, collection: &str, annotation: &str) -> Option<String> {
    let mut classes: Vec<_> = reader
        .list(collection, "")
        .into_iter()
        .filter(|class| text_at(class, &["metadata", "annotations", annotation]) == "true")
        .collect();
    classes.sort_by(|one, other| {
        let born = |class: &Value| text_at(class, &["metadata", "creationTimestamp"]).to_owned();
        born(other).cmp(&born(one)).then_with(|| name(one).cmp(name(other)))
    });
    classes.first().map(|class| name(class).to_owned())
}

/// Completes a new PersistentVolumeClaim. An empty class means that there shall be none.
pub(super) fn admit_claim(reader: &dyn ObjectReader, claim: &mut Value) {
    let annotated = tree::at(claim, &["metadata", "annotations", "volume.beta.kubernetes.io/storage-class"]).is_some();
    if annotated || tree::at(claim, &["spec", "storageClassName"]).is_some() {
        return;
    }
    let default = default_class(reader, "storage.k8s.io/storageclasses", "storageclass.kubernetes.io/is-default-class");
    set(claim, "storageClassName", default);
}

/// Completes a new Ingress.
pub(super) fn admit_ingress(reader: &dyn ObjectReader, ingress: &mut Value) {
    let annotated = tree::at(ingress, &["metadata", "annotations", "kubernetes.io/ingress.class"]).is_some();
    if annotated || tree::at(ingress, &["spec", "ingressClassName"]).is_some() {
        return;
    }
    let default =
        default_class(reader, "networking.k8s.io/ingressclasses", "ingressclass.kubernetes.io/is-default-class");
    set(ingress, "ingressClassName", default);
}

fn set(object: &mut Value, key: &str, class: Option<String>) {
    if let (Some(spec), Some(class)) = (tree::map_mut(object, "spec"), class) {
        spec.insert(key.to_owned(), class.into());
    }
}
