//! The rules of volume sources that name a storage system by type; CSI drivers have taken most of them over.

use serde_json::Value;

use super::{require, validate_host_path};
use crate::{
    field_error::{FieldErrors, Path},
    pod_spec::containers::{validate_no_dots, validate_relative},
    tree::{flag, int, list, map, some, text},
};

/// What each source cannot be without, in the order in which errors name it.
const REQUIRED: [(&str, &[&str]); 16] = [
    ("awsElasticBlockStore", &["volumeID"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("azureFile", &["secretName", "shareName"]),
    ("cinder", &["volumeID"]),
    ("flexVolume", &["driver"]),
    ("gcePersistentDisk", &["pdName"]),
    ("gitRepo", &["repository"]),
    ("glusterfs", &["endpoints", "path"]),
    ("iscsi", &["targetPortal", "iqn"]),
    ("nfs", &["server", "path"]),
    ("photonPersistentDisk", &["pdID"]),
    ("portworxVolume", &["volumeID"]),
    ("quobyte", &["registry", "volume"]),
    ("scaleIO", &["gateway", "system", "volumeName"]),
    ("storageos", &["volumeName"]),
    ("vsphereVolume", &["volumePath"]),
];

/// Checks the source `kind` of a volume.
pub(crate) fn validate(kind: &str, source: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if let Some((_, required)) = REQUIRED.iter().find(|(known, _)| *known == kind) {
        for key in *required {
            require(source, key, path, errors);
        }
    }
    match kind {
        "hostPath" => validate_host_path(source, path, errors),
        "nfs" => {
            let target = text(source, "path");
            if !target.is_empty() && !target.starts_with('/') {
                errors.invalid(&path.child("path"), target, "must be an absolute path");
            }
        }
        "local" => {
            require(source, "path", path, errors);
            validate_no_dots(text(source, "path"), &path.child("path"), errors);
        }
        "gitRepo" => validate_relative(text(source, "directory"), &path.child("directory"), errors),
        "gcePersistentDisk" | "awsElasticBlockStore" => {
            let partition = int(source, "partition").unwrap_or(0);
            validate_range(partition, 255, &path.child("partition"), errors);
        }
        "iscsi" => validate_iscsi(source, path, errors),
        "fc" => validate_fibre_channel(source, path, errors),
        "rbd" | "cephfs" => {
            if list(source, "monitors").is_empty() {
                errors.required(&path.child("monitors"), "");
            }
            if kind == "rbd" {
                require(source, "image", path, errors);
            }
        }
        "flexVolume" => {
            let options = path.child("options");
            for key in map(source, "options").keys() {
                let domain = key.split('/').next().unwrap_or_default();
                if ["kubernetes.io", "k8s.io"].iter().any(|own| domain == *own || domain.ends_with(&format!(".{own}")))
                {
                    let rule = "kubernetes.io and k8s.io namespaces are reserved";
                    errors.invalid(&options.key(key), key.as_str(), rule);
                }
            }
        }
        "flocker" => {
            let (name, id) = (text(source, "datasetName"), text(source, "datasetUUID"));
            match (name.is_empty(), id.is_empty()) {
                (true, true) => errors.required(path, "one of datasetName and datasetUUID is required"),
                (false, false) => {
                    let rule = "datasetName and datasetUUID can not be specified simultaneously";
                    errors.invalid(path, "resource", rule);
                }
                _ => {}
            }
            if name.contains('/') {
                errors.invalid(&path.child("datasetName"), name, "must not contain '/'");
            }
        }
        _ => {}
    }
}

fn validate_range(number: i64, max: i64, path: &Path<'_>, errors: &mut FieldErrors) {
    if !(0..=max).contains(&number) {
        errors.invalid(path, number, format!("must be between 0 and {max}, inclusive"));
    }
}

fn validate_iscsi(source: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for (key, field) in [("iqn", "iqn"), ("initiatorName", "initiatorname")] {
        let name = text(source, key);
        if !name.is_empty() && !["iqn", "eui", "naa"].iter().any(|prefix| name.starts_with(prefix)) {
            errors.invalid(&path.child(field), name, "must be valid format starting with iqn, eui, or naa");
        }
    }
    validate_range(int(source, "lun").unwrap_or(0), 255, &path.child("lun"), errors);
    let authenticates = ["chapAuthDiscovery", "chapAuthSession"].iter().any(|key| flag(source, key));
    if authenticates && some(source, "secretRef").is_none() {
        errors.required(&path.child("secretRef"), "");
    }
}

fn validate_fibre_channel(source: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let (names, ids) = (list(source, "targetWWNs"), list(source, "wwids"));
    match (names.is_empty(), ids.is_empty()) {
        (true, true) => {
            errors.required(&path.child("targetWWNs"), "must specify either targetWWNs or wwids, but not both");
        }
        (false, false) => {
            let rule = "targetWWNs and wwids can not be specified simultaneously";
            errors.invalid(&path.child("targetWWNs"), Value::Array(names.to_vec()), rule);
        }
        (false, true) => match int(source, "lun") {
            None => errors.required(&path.child("lun"), "lun is required if targetWWNs is specified"),
            Some(lun) => validate_range(lun, 255, &path.child("lun"), errors),
        },
        (true, false) => {}
    }
}
