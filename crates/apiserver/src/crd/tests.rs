use jiff::Timestamp;
use serde_json::json;

use super::*;

fn definition() -> Value {
    json!({"metadata": {"name": "crontabs.example.com", "resourceVersion": "7"}, "spec": {"group": "example.com",
        "scope": "Namespaced",
        "names": {"plural": "crontabs", "singular": "crontab", "kind": "CronTab", "listKind": "CronTabList",
            "shortNames": ["ct"]},
        "versions": [
            {"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}},
             "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}}},
            {"name": "v1beta1", "served": false, "storage": false, "deprecated": true,
             "schema": {"openAPIV3Schema": {"type": "object"}}}]}})
}

fn decode(object: &Value) -> Option<Definition> {
    Definition::decode(&Bytes::from(object.to_string()))
}

fn taken(resources: &[&str]) -> Taken {
    let mut taken = Taken::default();
    taken.add(&Names { short_names: resources.iter().map(ToString::to_string).collect(), ..Names::default() });
    taken
}

fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a str> {
    status::condition(object, kind)
}

#[test]
fn an_undisputed_definition_is_established() {
    let mut object = definition();
    establish(&mut object, &taken(&[]), Timestamp::UNIX_EPOCH);
    assert_eq!(condition(&object, "Established"), Some("True"));
    assert_eq!(object["status"]["acceptedNames"]["listKind"], "CronTabList");
    let decoded = decode(&object).unwrap();
    assert!(decoded.established && !decoded.terminating && !decoded.disputed);
    assert_eq!(decoded.versions[0].scale.as_ref().unwrap().spec_replicas, "/spec/replicas");
    assert_eq!(decoded.versions[0].resource.subresources.len(), 2);
    assert!(!decoded.versions[1].served);
    assert_eq!(decoded.versions[1].deprecation.as_deref(), Some("example.com/v1beta1 CronTab is deprecated"));
    assert_eq!(&*decoded.collection, "example.com/crontabs");
    assert_eq!(decoded.unchanged_since, 7);
}

#[test]
fn a_name_in_use_keeps_a_definition_from_being_served() {
    let mut object = definition();
    establish(&mut object, &taken(&["ct"]), Timestamp::UNIX_EPOCH);
    assert_eq!(condition(&object, "NamesAccepted"), Some("False"));
    assert_eq!(condition(&object, "Established"), Some("False"));
    assert_eq!(object["status"]["conditions"][0]["reason"], "ShortNamesConflict");
    assert_eq!(object["status"]["conditions"][0]["message"], "\"ct\" is already in use");
    establish(&mut object, &taken(&[]), Timestamp::UNIX_EPOCH);
    assert_eq!(condition(&object, "Established"), Some("True"));
}

#[test]
fn an_established_definition_goes_on_under_the_names_it_holds() {
    let mut object = definition();
    establish(&mut object, &taken(&[]), Timestamp::UNIX_EPOCH);
    object["spec"]["names"]["shortNames"] = json!(["ct", "other"]);
    establish(&mut object, &taken(&["other"]), Timestamp::UNIX_EPOCH);
    assert_eq!(condition(&object, "NamesAccepted"), Some("False"));
    assert_eq!(condition(&object, "Established"), Some("True"));
    assert_eq!(object["status"]["acceptedNames"]["shortNames"], json!(["ct"]));
    assert_eq!(decode(&object).unwrap().versions[0].resource.short_names, ["ct"]);
}

#[test]
fn groups_of_the_project_show_their_approval() {
    let mut object = definition();
    object["spec"]["group"] = "gateway.networking.k8s.io".into();
    establish(&mut object, &taken(&[]), Timestamp::UNIX_EPOCH);
    let kind = "KubernetesAPIApprovalPolicyConformant";
    assert_eq!(condition(&object, kind), Some("False"));
    object["metadata"]["annotations"] = json!({"api-approved.kubernetes.io": "https://example.com/1"});
    establish(&mut object, &taken(&[]), Timestamp::UNIX_EPOCH);
    assert_eq!(condition(&object, kind), Some("True"));
}

#[test]
fn only_a_change_of_a_schema_makes_older_objects_suspect() {
    let before = decode(&definition()).unwrap();
    let mut object = definition();
    object["metadata"]["resourceVersion"] = "9".into();
    let mut same = decode(&object).unwrap();
    same.succeed(&before);
    assert_eq!(same.unchanged_since, 7);
    assert!(std::ptr::eq(same.versions[0].document.schema(), before.versions[0].document.schema()));
    object["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["description"] = "x".into();
    let mut other = decode(&object).unwrap();
    other.succeed(&before);
    assert_eq!(other.unchanged_since, 9);
    assert_eq!(other.versions[0].document.read(), json!({"type": "object", "description": "x"}));
    assert!(!std::ptr::eq(other.versions[0].document.schema(), before.versions[0].document.schema()));
    assert!(std::ptr::eq(other.versions[1].document.schema(), before.versions[1].document.schema()));
}

#[test]
fn replicas_are_counts() {
    let mut object = definition();
    establish(&mut object, &taken(&[]), Timestamp::UNIX_EPOCH);
    let decoded = decode(&object).unwrap();
    let found = |object: Value| {
        let mut errors = strategy::field_error::FieldErrors::default();
        check(&decoded.versions[0], &object, None, false, &mut errors);
        errors.to_string()
    };
    assert_eq!(found(json!({"spec": {"replicas": 3}})), "[]");
    assert_eq!(
        found(json!({"spec": {"replicas": -1}})),
        ".spec.replicas: Invalid value: -1: should be a non-negative integer"
    );
    assert_eq!(
        found(json!({"status": {"replicas": "x"}})),
        ".status.replicas: Invalid value: 0: .status.replicas accessor error: \"x\" is of the type string, expected int64"
    );
}
