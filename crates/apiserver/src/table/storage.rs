//! Volumes, claims and storage classes.

use serde_json::Value;

use super::{
    AGE, Column, NAME, Printer,
    cluster::phase,
    format::{created, name},
};
use crate::strategy::tree::{at, flag, list, map, text, text_at};

static NULL: Value = Value::Null;
const CAPACITY: Column = Column::text("Capacity", "Size of the volume.");
const ACCESS_MODES: Column = Column::text("Access Modes", "How the volume can be mounted.");
const STORAGE_CLASS: Column = Column::text("StorageClass", "Class of the volume.");
const ATTRIBUTES_CLASS: Column = Column::text("VolumeAttributesClass", "Class of the volume's changeable properties.");
const VOLUME_MODE: Column = Column::text("VolumeMode", "Whether the volume has a file system.").wide();

fn access_modes(modes: &[Value]) -> String {
    [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")]
        .into_iter()
        .filter(|(mode, _)| modes.iter().any(|own| own == mode))
        .map(|(_, short)| short)
        .collect::<Vec<_>>()
        .join(",")
}

fn attributes_class(spec: &Value) -> Value {
    match text(spec, "volumeAttributesClassName") {
        "" => "<unset>".into(),
        class => class.into(),
    }
}

/// The class, also where the old annotation names it.
fn storage_class(object: &Value) -> Value {
    match text_at(object, &["metadata", "annotations", "volume.beta.kubernetes.io/storage-class"]) {
        "" => text_at(object, &["spec", "storageClassName"]).into(),
        class => class.into(),
    }
}

pub(super) static VOLUME: Printer = Printer {
    columns: &[
        NAME,
        CAPACITY,
        ACCESS_MODES,
        Column::text("Reclaim Policy", "What happens to the volume when its claim is gone."),
        Column::text("Status", "Whether the volume is bound."),
        Column::text("Claim", "Claim that the volume is bound to."),
        STORAGE_CLASS,
        ATTRIBUTES_CLASS,
        Column::text("Reason", "Why the volume is in its state."),
        AGE,
        VOLUME_MODE,
    ],
    cells: |object, now| {
        let spec = object.get("spec").unwrap_or(&NULL);
        let claim = at(spec, &["claimRef"])
            .map_or_else(String::new, |claim| format!("{}/{}", text(claim, "namespace"), text(claim, "name")));
        vec![
            name(object),
            text_at(spec, &["capacity", "storage"]).into(),
            access_modes(list(spec, "accessModes")).into(),
            text(spec, "persistentVolumeReclaimPolicy").into(),
            phase(object),
            claim.into(),
            storage_class(object),
            attributes_class(spec),
            text_at(object, &["status", "reason"]).into(),
            created(object, now),
            text(spec, "volumeMode").into(),
        ]
    },
};

pub(super) static CLAIM: Printer = Printer {
    columns: &[
        NAME,
        Column::text("Status", "Whether the claim is bound."),
        Column::text("Volume", "Volume that the claim is bound to."),
        CAPACITY,
        ACCESS_MODES,
        STORAGE_CLASS,
        ATTRIBUTES_CLASS,
        AGE,
        VOLUME_MODE,
    ],
    cells: |object, now| {
        let spec = object.get("spec").unwrap_or(&NULL);
        let volume = text(spec, "volumeName");
        // What the volume offers, once there is one.
        let (capacity, modes) = if volume.is_empty() {
            ("", String::new())
        } else {
            let status = object.get("status").unwrap_or(&NULL);
            (text_at(status, &["capacity", "storage"]), access_modes(list(status, "accessModes")))
        };
        vec![
            name(object),
            phase(object),
            volume.into(),
            capacity.into(),
            modes.into(),
            storage_class(object),
            attributes_class(spec),
            created(object, now),
            text(spec, "volumeMode").into(),
        ]
    },
};

pub(super) static CLASS: Printer = Printer {
    columns: &[
        NAME,
        Column::text("Provisioner", "What makes the class' volumes."),
        Column::text("ReclaimPolicy", "What happens to a volume when its claim is gone."),
        Column::text("VolumeBindingMode", "When a volume is made and bound."),
        Column::flag("AllowVolumeExpansion", "Whether volumes can grow."),
        AGE,
    ],
    cells: |object, now| {
        let annotations = map(object.get("metadata").unwrap_or(&NULL), "annotations");
        let default =
            ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"]
                .iter()
                .any(|key| annotations.get(*key).and_then(Value::as_str) == Some("true"));
        let name =
            if default { format!("{} (default)", text_at(object, &["metadata", "name"])).into() } else { name(object) };
        vec![
            name,
            text(object, "provisioner").into(),
            text(object, "reclaimPolicy").into(),
            text(object, "volumeBindingMode").into(),
            flag(object, "allowVolumeExpansion").into(),
            created(object, now),
        ]
    },
};
