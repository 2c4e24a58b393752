//! PersistentVolumes, PersistentVolumeClaims, StorageClasses, and what CSI drivers say of themselves.

use serde_json::Value;

use super::tree::{list, text};
use crate::field_error::{FieldErrors, Path};

mod claim;
mod class;
mod driver;
mod volume;

pub(super) use claim::{Claim, validate_claim_spec};
pub(super) use class::{AttributesClass, Class};
pub(super) use driver::{Attachment, Capacity, Driver, NodeDrivers};
pub(super) use volume::Volume;

const SPEC: Path<'static> = Path::new("spec");
const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

fn validate_access_modes(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let path = path.child("accessModes");
    let modes = list(spec, "accessModes");
    if modes.is_empty() {
        errors.required(&path, "at least 1 access mode is required");
    }
    for mode in modes.iter().filter_map(Value::as_str).filter(|mode| !ACCESS_MODES.contains(mode)) {
        errors.not_supported(&path, mode, &ACCESS_MODES);
    }
    if modes.len() > 1 && modes.iter().any(|mode| mode == "ReadWriteOncePod") {
        errors.forbidden(&path, "may not use ReadWriteOncePod with other access modes");
    }
}

fn validate_mode(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let mode = text(spec, "volumeMode");
    if !["", "Block", "Filesystem"].contains(&mode) {
        errors.not_supported(&path.child("volumeMode"), mode, &["Block", "Filesystem"]);
    }
}

/// Checks the name of a class in the field `key`, empty for none.
fn validate_class_name(spec: &Value, key: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let name = text(spec, key);
    if !name.is_empty()
        && let Some(message) = super::names::subdomain(name)
    {
        errors.invalid(&path.child(key), name, message);
    }
}
