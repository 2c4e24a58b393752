use kinds::Resource;
use proptest::prelude::*;
use serde_json::json;

use super::*;

/// Paths at which two values differ.
fn differences(path: &str, a: &Value, b: &Value, found: &mut Vec<String>) {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let names: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for name in names {
                let get = |map: &Map<String, Value>| map.get(name).cloned().unwrap_or_default();
                differences(&format!("{path}.{name}"), &get(a), &get(b), found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).for_each(|(a, b)| differences(path, a, b, found));
        }
        _ if a == b => {}
        _ => found.push(format!("{path}: {a} {b}")),
    }
}

#[test]
fn fixtures_decode_to_their_json_and_back() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/kubernetes-api-fixtures");
    let Ok(entries) = std::fs::read_dir(folder) else {
        println!("skipped: no fixtures at {folder}");
        return;
    };
    let (mut checked, mut different) = (0, Vec::new());
    for path in entries.map(|entry| entry.unwrap().path()) {
        let name = path.to_string_lossy().into_owned();
        if !name.ends_with(".pb") || name.contains(".after_roundtrip.") {
            continue;
        }
        let read = |path: &std::path::Path| std::fs::read(path).unwrap();
        let object: Value = serde_json::from_slice(&read(&path.with_extension("json"))).unwrap();
        let served =
            |row: &std::sync::Arc<Resource>| object["apiVersion"] == row.api_version() && object["kind"] == row.kind;
        if !kinds::builtin().iter().any(served) {
            continue;
        }
        let decoded = decode(&read(&path)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let again = decode(&encode(&decoded).unwrap()).unwrap();
        assert_eq!(again, decoded, "{name}");
        differences(&format!("{}", object["kind"]), &decoded, &object, &mut different);
        checked += 1;
    }
    // Two alpha fields that the message definitions, which are of a later version, no longer have.
    let gone = ["nodeAllocatableResourceClaimStatuses.resources", "nodeAllocatableResourceMappings"];
    different.retain(|path| !gone.iter().any(|field| path.contains(field)));
    assert_eq!(different, [""; 0]);
    assert!(checked > 60, "only {checked} fixtures matched a served kind");
}

#[test]
fn lists_and_shared_kinds_have_messages() {
    for object in [
        json!({"apiVersion": "v1", "kind": "PodList", "metadata": {"resourceVersion": "7"}, "items": [
            {"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "1"}}}]}}]}),
        json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": 404, "details": {"name": "x"}}),
        json!({"apiVersion": "policy/v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0, "dryRun": ["All"]}),
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"k": "eHg="}}),
    ] {
        assert_eq!(decode(&encode(&object).unwrap()).unwrap(), object);
    }
    let unknown = encode(&json!({"apiVersion": "example.com/v1", "kind": "Cart"})).unwrap_err();
    assert_eq!(unknown.to_string(), "no protobuf message for Cart in version \"example.com/v1\"");
}

#[test]
fn unset_fields_of_go_stay_unset_and_set_zeros_stay_set() {
    let object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "generateName": ""},
        "spec": {"replicas": 0, "minReadySeconds": 0, "paused": false, "selector": {}, "template": {"spec": {
            "containers": [], "hostNetwork": false, "automountServiceAccountToken": false}}}});
    let decoded = decode(&encode(&object).unwrap()).unwrap();
    assert_eq!(
        decoded,
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {
            "replicas": 0, "selector": {}, "template": {"spec": {"automountServiceAccountToken": false}}}})
    );
}

#[test]
fn values_that_do_not_fit_are_refused() {
    let pod = |spec: Value| encode(&json!({"apiVersion": "v1", "kind": "Pod", "spec": spec})).unwrap_err().to_string();
    assert_eq!(pod(json!({"priority": "high"})), "field priority cannot hold \"high\"");
    assert_eq!(pod(json!({"containers": {}})), "field containers cannot hold {}");
    assert_eq!(decode(b"{}").unwrap_err(), ProtobufError::Magic);
    assert!(matches!(decode(b"k8s\0\x0a\xff"), Err(ProtobufError::Wire(_))));
}

proptest! {
    #[test]
    fn any_bytes_are_handled(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut message = MAGIC.to_vec();
        // A Pod whose message is noise.
        message.extend([0x0a, 9, 0x0a, 2, b'v', b'1', 0x12, 3, b'P', b'o', b'd', 0x12]);
        message.extend([bytes.len() as u8 | 0x80, (bytes.len() >> 7) as u8]);
        message.extend(&bytes);
        let _ = decode(&message);
        let _ = decode(&bytes);
    }
}
