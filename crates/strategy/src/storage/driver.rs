//! CSIDrivers, CSINodes, VolumeAttachments and CSIStorageCapacities: what CSI drivers say of themselves and of volumes.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::SPEC;
use crate::{
    Strategy, WriteContext,
    field_error::{FieldErrors, Path},
    metadata::IMMUTABLE,
    names::{self, NameRule},
    pod_spec::{validate_driver_name, validate_label_selector},
    quantity,
    tree::{self, at, default_to, int, list, same, some, text, text_at},
};

/// CSIDrivers.
pub(crate) struct Driver;

/// Shortest and longest life of a token made for a driver, in seconds.
const TOKEN_SECONDS: std::ops::RangeInclusive<i64> = 600..=1 << 32;
const FS_GROUP_POLICIES: [&str; 3] = ["File", "None", "ReadWriteOnceWithFSType"];
const LIFECYCLE_MODES: [&str; 2] = ["Ephemeral", "Persistent"];

impl Strategy for Driver {
    fn default(&self, object: &mut Value) {
        let Some(spec) = tree::child_mut(object, "spec") else { return };
        for (key, value) in [
            ("attachRequired", json!(true)),
            ("fsGroupPolicy", json!("ReadWriteOnceWithFSType")),
            ("podInfoOnMount", json!(false)),
            ("requiresRepublish", json!(false)),
            ("seLinuxMount", json!(false)),
            ("storageCapacity", json!(false)),
        ] {
            default_to(spec, key, value);
        }
        if list(spec, "volumeLifecycleModes").is_empty() {
            tree::remove(spec, "volumeLifecycleModes");
            default_to(spec, "volumeLifecycleModes", json!(["Persistent"]));
        }
    }

    fn tracks_generation(&self, _resource: &kinds::Resource) -> bool {
        true
    }

    fn check(&self, _cx: &WriteContext<'_>, object: &Value, _old: Option<&Value>, errors: &mut FieldErrors) {
        let metadata = Path::new("metadata");
        validate_driver_name(tree::name(object), &metadata.child("name"), errors);
        let spec = object.get("spec").unwrap_or(&Value::Null);
        let policy = text(spec, "fsGroupPolicy");
        if !FS_GROUP_POLICIES.contains(&policy) {
            errors.not_supported(&SPEC.child("fsGroupPolicy"), policy, &FS_GROUP_POLICIES);
        }
        let modes = SPEC.child("volumeLifecycleModes");
        for mode in list(spec, "volumeLifecycleModes").iter().filter_map(Value::as_str) {
            if !LIFECYCLE_MODES.contains(&mode) {
                errors.not_supported(&modes, mode, &LIFECYCLE_MODES);
            }
        }
        let requests = SPEC.child("tokenRequests");
        let mut audiences = HashSet::new();
        for (index, request) in list(spec, "tokenRequests").iter().enumerate() {
            let path = requests.index(index);
            let audience = text(request, "audience");
            if !audiences.insert(audience) {
                errors.duplicate(&path.child("audience"), audience);
            }
            let Some(seconds) = int(request, "expirationSeconds") else { continue };
            let rule = if seconds < *TOKEN_SECONDS.start() {
                "may not specify a duration less than 10 minutes"
            } else if seconds > *TOKEN_SECONDS.end() {
                "may not specify a duration larger than 2^32 seconds"
            } else {
                continue;
            };
            errors.invalid(&path.child("expirationSeconds"), seconds, rule);
        }
    }

    fn check_change(&self, _cx: &WriteContext<'_>, new: &Value, old: &Value, errors: &mut FieldErrors) {
        let (new, old) = (new.get("spec").unwrap_or(&Value::Null), old.get("spec").unwrap_or(&Value::Null));
        for key in ["attachRequired", "fsGroupPolicy", "volumeLifecycleModes"] {
            if !same(new, old, key) {
                let value = new.get(key).cloned().unwrap_or_default();
                let fixed = Path::new("spec");
                errors.invalid(&fixed.child(key), value, IMMUTABLE);
            }
        }
    }
}

/// CSINodes.
pub(crate) struct NodeDrivers;

/// Longest name a driver knows a node by.
const NODE_ID_BYTES_MAX: usize = 256;

impl Strategy for NodeDrivers {
    fn check(&self, _cx: &WriteContext<'_>, object: &Value, _old: Option<&Value>, errors: &mut FieldErrors) {
        let drivers = SPEC.child("drivers");
        let mut seen = HashSet::new();
        for (index, driver) in list(object.get("spec").unwrap_or(&Value::Null), "drivers").iter().enumerate() {
            let path = drivers.index(index);
            let (name, node) = (text(driver, "name"), text(driver, "nodeID"));
            validate_driver_name(name, &path.child("name"), errors);
            if !seen.insert(name) {
                errors.duplicate(&path.child("name"), name);
            }
            if node.is_empty() {
                errors.required(&path.child("nodeID"), "");
            } else if node.len() > NODE_ID_BYTES_MAX {
                let rule = format!("must be {NODE_ID_BYTES_MAX} characters or less");
                errors.invalid(&path.child("nodeID"), node, rule);
            }
            if let Some(count) = at(driver, &["allocatable", "count"]).and_then(Value::as_i64)
                && count < 0
            {
                let path = path.child("allocatable");
                errors.invalid(&path.child("count"), count, "must be greater than or equal to 0");
            }
            let keys = path.child("topologyKeys");
            let topology = list(driver, "topologyKeys");
            for (index, key) in topology.iter().enumerate() {
                let name = key.as_str().unwrap_or_default();
                if topology[..index].contains(key) {
                    errors.duplicate(&keys, name);
                }
                if let Some(message) = names::qualified(name) {
                    errors.invalid(&keys, name, message);
                }
            }
        }
    }

    fn check_change(&self, _cx: &WriteContext<'_>, new: &Value, old: &Value, errors: &mut FieldErrors) {
        let drivers = |object: &Value| at(object, &["spec", "drivers"]).and_then(Value::as_array).cloned();
        let before = drivers(old).unwrap_or_default();
        for driver in drivers(new).unwrap_or_default() {
            let known = before.iter().find(|known| text(known, "name") == text(&driver, "name"));
            // what a driver can attach may change while it runs
            let fixed = |known: &Value| ["nodeID", "topologyKeys"].iter().any(|key| !same(&driver, known, key));
            if known.is_some_and(fixed) {
                errors.invalid(&Path::new("CSINodeDriver"), driver, IMMUTABLE);
            }
        }
    }
}

/// VolumeAttachments.
pub(crate) struct Attachment;

impl Strategy for Attachment {
    fn reports_status_alone(&self) -> bool {
        true
    }

    fn check(&self, _cx: &WriteContext<'_>, object: &Value, _old: Option<&Value>, errors: &mut FieldErrors) {
        let spec = object.get("spec").unwrap_or(&Value::Null);
        let attacher = text(spec, "attacher");
        if attacher.is_empty() {
            errors.required(&SPEC.child("attacher"), "");
        } else {
            validate_driver_name(attacher, &SPEC.child("attacher"), errors);
        }
        let path = SPEC.child("source");
        let source = spec.get("source").unwrap_or(&Value::Null);
        match (some(source, "persistentVolumeName"), some(source, "inlineVolumeSpec")) {
            (None, None) => {
                errors.required(&path, "must specify exactly one of inlineVolumeSpec and persistentVolumeName");
            }
            (Some(_), Some(_)) => {
                errors.forbidden(&path, "must specify exactly one of inlineVolumeSpec and persistentVolumeName");
            }
            (Some(name), None) if name.as_str().unwrap_or_default().is_empty() => {
                errors.required(&path.child("persistentVolumeName"), "must specify non empty persistentVolumeName");
            }
            _ => {}
        }
        let node = text(spec, "nodeName");
        if let Some(message) = names::subdomain(node) {
            errors.invalid(&SPEC.child("nodeName"), node, message);
        }
    }

    fn check_change(&self, _cx: &WriteContext<'_>, new: &Value, old: &Value, errors: &mut FieldErrors) {
        if new.get("spec") != old.get("spec") {
            errors.invalid(&SPEC, new.get("spec").cloned().unwrap_or_default(), IMMUTABLE);
        }
    }
}

/// CSIStorageCapacities.
pub(crate) struct Capacity;

impl Strategy for Capacity {
    fn name_rule(&self) -> NameRule {
        NameRule::Subdomain
    }

    fn check(&self, _cx: &WriteContext<'_>, object: &Value, _old: Option<&Value>, errors: &mut FieldErrors) {
        let class = text_at(object, &["storageClassName"]);
        if let Some(message) = names::subdomain(class) {
            errors.invalid(&Path::new("storageClassName"), class, message);
        }
        for key in ["capacity", "maximumVolumeSize"] {
            if let Some(amount) = some(object, key) {
                quantity::validate_non_negative(amount, &Path::new(key), errors);
            }
        }
        if let Some(selector) = some(object, "nodeTopology") {
            validate_label_selector(selector, &Path::new("nodeTopology"), errors);
        }
    }

    fn check_change(&self, _cx: &WriteContext<'_>, new: &Value, old: &Value, errors: &mut FieldErrors) {
        for key in ["nodeTopology", "storageClassName"] {
            if !same(new, old, key) {
                errors.invalid(&Path::new(key), new.get(key).cloned().unwrap_or_default(), IMMUTABLE);
            }
        }
    }
}
