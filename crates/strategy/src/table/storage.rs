//! Volumes, claims, their classes, attachments and drivers.

use serde_json::Value;

use super::{
    AGE, Column, NAME, Printer,
    cluster::phase,
    format::{NONE, UNSET, created, name},
};
use crate::tree::{at, flag, list, map, some, text, text_at};

static NULL: Value = Value::Null;
const CAPACITY: Column = Column::text("Capacity", "Size of the volume.");
const ACCESS_MODES: Column = Column::text("Access Modes", "How the volume can be mounted.");
const STORAGE_CLASS: Column = Column::text("StorageClass", "Class of the volume.");
const STORAGE_CLASS_NAME: Column = Column::text("StorageClassName", "Class that the room is for.");
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
        "" => UNSET.into(),
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

pub(super) static ATTRIBUTES_CLASS_KIND: Printer = Printer {
    columns: &[NAME, Column::text("DriverName", "Driver that changes the volumes."), AGE],
    cells: |object, now| vec![name(object), text(object, "driverName").into(), created(object, now)],
};

pub(super) static ATTACHMENT: Printer = Printer {
    columns: &[
        NAME,
        Column { format: "name", ..Column::text("Attacher", "Driver that attaches the volume.") },
        Column::text("PV", "Volume that is attached."),
        Column::text("Node", "Node that the volume is attached to."),
        Column::flag("Attached", "Whether the volume is attached."),
        AGE,
    ],
    cells: |object, now| {
        let spec = object.get("spec").unwrap_or(&NULL);
        vec![
            name(object),
            text(spec, "attacher").into(),
            text_at(spec, &["source", "persistentVolumeName"]).into(),
            text(spec, "nodeName").into(),
            flag(object.get("status").unwrap_or(&NULL), "attached").into(),
            created(object, now),
        ]
    },
};

pub(super) static DRIVER: Printer = Printer {
    columns: &[
        NAME,
        Column::flag("AttachRequired", "Whether volumes are attached before they are mounted."),
        Column::flag("PodInfoOnMount", "Whether the driver is told of the pod."),
        Column::flag("StorageCapacity", "Whether the driver says how much room there is."),
        Column::text("TokenRequests", "Audiences of the tokens that the driver is given."),
        Column::flag("RequiresRepublish", "Whether mounted volumes are published again and again."),
        Column::text("Modes", "Whose lives volumes can have."),
        AGE,
    ],
    cells: |object, now| {
        let spec = object.get("spec").unwrap_or(&NULL);
        let modes: Vec<&str> = list(spec, "volumeLifecycleModes").iter().filter_map(Value::as_str).collect();
        let audiences = some(spec, "tokenRequests").map(|_| {
            list(spec, "tokenRequests").iter().map(|request| text(request, "audience")).collect::<Vec<_>>().join(",")
        });
        vec![
            name(object),
            some(spec, "attachRequired").and_then(Value::as_bool).unwrap_or(true).into(),
            flag(spec, "podInfoOnMount").into(),
            flag(spec, "storageCapacity").into(),
            audiences.unwrap_or_else(|| UNSET.to_owned()).into(),
            flag(spec, "requiresRepublish").into(),
            if modes.is_empty() { NONE.into() } else { modes.join(",").into() },
            created(object, now),
        ]
    },
};

pub(super) static DRIVERS_OF_NODE: Printer = Printer {
    columns: &[NAME, Column::number("Drivers", "Number of drivers on the node."), AGE],
    cells: |object, now| {
        let drivers = list(object.get("spec").unwrap_or(&NULL), "drivers").len();
        vec![name(object), drivers.into(), created(object, now)]
    },
};

pub(super) static ROOM: Printer = Printer {
    columns: &[NAME, STORAGE_CLASS_NAME, CAPACITY],
    cells: |object, _| {
        let room = some(object, "capacity").and_then(Value::as_str).unwrap_or(UNSET);
        vec![name(object), text(object, "storageClassName").into(), room.into()]
    },
};
