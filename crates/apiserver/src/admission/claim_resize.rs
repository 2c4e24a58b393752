//! A claim grows only where its class lets it.

use serde_json::Value;
use strategy::{
    parse_quantity,
    tree::{at, flag, text_at},
};

use super::{AdmissionError, AdmissionRequest, ObjectReader};

/// Checks a change of a claim.
pub(super) fn check(
    reader: &dyn ObjectReader,
    request: &AdmissionRequest<'_>,
    claim: &Value,
) -> Result<(), AdmissionError> {
    let Some(old) = request.old else { return Ok(()) };
    let size = |claim: &Value| at(claim, &["spec", "resources", "requests", "storage"]).and_then(parse_quantity);
    if size(claim) <= size(old) {
        return Ok(());
    }
    if text_at(old, &["status", "phase"]) != "Bound" {
        return Err(AdmissionError::forbidden(request, "Only bound persistent volume claims can be expanded"));
    }
    let class = |claim: &'_ Value| {
        let annotated = at(claim, &["metadata", "annotations", "volume.beta.kubernetes.io/storage-class"]);
        annotated.and_then(Value::as_str).unwrap_or_else(|| text_at(claim, &["spec", "storageClassName"])).to_owned()
    };
    let (name, before) = (class(claim), class(old));
    let growing = !name.is_empty()
        && name == before
        && reader.get("storage.k8s.io/storageclasses", &name).is_some_and(|class| flag(&class, "allowVolumeExpansion"));
    if growing {
        return Ok(());
    }
    let why = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize";
    Err(AdmissionError::forbidden(request, why))
}
