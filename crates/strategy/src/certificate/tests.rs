use super::*;
use crate::{
    User,
    fixture::{created, prepared, resource, with},
};

/// A request made once with a real key.
const REQUEST: &str = "-----BEGIN CERTIFICATE REQUEST-----
MIHqMIGRAgEAMC8xFTATBgNVBAoMDHN5c3RlbTpub2RlczEWMBQGA1UEAwwNc3lz
dGVtOm5vZGU6YTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABKLTLhaiCprPk+UE
KIagilIjC7V4NJsbAaD4VkxFDOUdyI48rq6huw3untkPnpzl+GWmxwbj3UJcgEGQ
8f4rwrugADAKBggqhkjOPQQDAgNIADBFAiAtMGcg6uxs9RQmDtI7Cq+vWDoGwVKR
GS/IdeeRPgQU8QIhAO7RVqn6mDL2u82UFvgnB+3Scm9PzVbDlLIA0zPtJREr
-----END CERTIFICATE REQUEST-----
";

fn request() -> Value {
    json!({"metadata": {"name": "a:b"}, "spec": {
        "request": STANDARD.encode(REQUEST), "usages": ["client auth"], "signerName": "a.io/b", "username": "somebody else"
    }})
}

fn requests() -> kinds::Resource {
    let mut requests = resource("certificates.k8s.io", "certificatesigningrequests");
    requests.namespaced = false;
    requests
}

#[test]
fn the_server_says_who_asks() {
    assert_eq!(prepared(&requests(), request())["spec"]["username"], "tester");
    assert_eq!(created(&requests(), request()), "[]");
}

#[test]
fn what_is_asked_for_is_checked() {
    for (field, value, message) in [
        (
            "request",
            json!("AA=="),
            r#"spec.request: Invalid value: "AA==": PEM block type must be CERTIFICATE REQUEST"#,
        ),
        ("usages", json!([]), "spec.usages: Required value: usages must be provided"),
        ("usages", json!(["signing", "signing"]), r#"spec.usages[1]: Duplicate value: "signing""#),
        ("usages", json!(["x"]), r#"spec.usages[0]: Unsupported value: "x": supported values: "any", "cert sign""#),
        ("signerName", json!(""), "spec.signerName: Required value: signerName must be provided"),
        ("signerName", json!("b"), "must be a fully qualified domain and path of the form 'example.com/signer-name'"),
        (
            "signerName",
            json!("a/b"),
            r#"Invalid value: "a": should be a domain with at least two segments separated by dots"#,
        ),
        ("signerName", json!("a.io/B"), r#"Invalid value: "B": validating label "B": a lowercase RFC 1123 subdomain"#),
        ("signerName", json!(LEGACY_UNKNOWN), "the legacy signerName is not allowed via this API version"),
        ("expirationSeconds", json!(599), "may not specify a duration less than 600 seconds (10 minutes)"),
    ] {
        let mut request = request();
        request["spec"][field] = value;
        let found = created(&requests(), request);
        assert!(found.contains(message), "{field}: {found}");
    }
}

fn written(subresource: &str, old: &Value, new: &Value) -> (Value, String) {
    let (mut new, mut wrong) = (new.clone(), String::new());
    let user = User::new("u", &[]);
    with(&requests(), |strategy, cx| {
        let cx = WriteContext { subresource: Some(subresource), user: &user, ..*cx };
        strategy.prepare_update(&cx, &mut new, old);
        wrong = strategy.validate_update(&cx, &new, old).to_string();
    });
    (new, wrong)
}

fn stored(status: Value) -> Value {
    let mut object = request();
    object["metadata"] = json!({"name": "a", "uid": "u"});
    object["status"] = status;
    object
}

fn approved() -> Value {
    json!({"type": "Approved", "status": "True", "lastUpdateTime": "2020-01-01T00:00:00Z", "lastTransitionTime": "2020-01-01T00:00:00Z"})
}

#[test]
fn approval_changes_conditions_only() {
    let old = stored(json!({"certificate": "AA=="}));
    let mut new = stored(json!({"certificate": "BB==", "conditions": [{"type": "Approved", "status": "True"}]}));
    new["spec"]["signerName"] = "evil.io/b".into();
    let (new, wrong) = written("approval", &old, &new);
    assert_eq!(wrong, "[]");
    assert_eq!(new["spec"], old["spec"]);
    assert_eq!(new["status"]["certificate"], "AA==");
    let condition = &new["status"]["conditions"][0];
    assert_eq!(
        (&condition["type"], &condition["lastUpdateTime"]),
        (&json!("Approved"), &json!("1970-01-01T00:00:00Z"))
    );
}

#[test]
fn a_decision_is_final_and_exclusive() {
    let old = stored(json!({"conditions": [approved()]}));
    let denied = json!({"type": "Denied", "status": "True"});
    let (_, wrong) = written("approval", &old, &stored(json!({"conditions": [approved(), denied]})));
    assert!(wrong.contains("status.conditions[1].type: Invalid value: \"Denied\": Approved and Denied conditions are mutually exclusive"), "{wrong}");
    let (_, wrong) = written("approval", &old, &stored(json!({})));
    assert!(wrong.contains("updates may not remove a condition of type \"Approved\""), "{wrong}");
    let mut other = approved();
    other["status"] = "False".into();
    let (_, wrong) = written("approval", &old, &stored(json!({"conditions": [other]})));
    assert!(wrong.contains("updates may not modify a condition of type \"Approved\""), "{wrong}");
    assert!(wrong.contains("Unsupported value: \"False\": supported values: \"True\""), "{wrong}");
}

#[test]
fn who_signs_gives_the_certificate_and_decides_nothing() {
    let old = stored(json!({"conditions": [approved()]}));
    let (_, wrong) = written("status", &stored(json!({})), &old);
    assert!(wrong.contains("updates may not add a condition of type \"Approved\""), "{wrong}");
    let mut changed = approved();
    changed["message"] = "mine".into();
    let failed = json!({"type": "Failed", "status": "True"});
    let (new, wrong) = written("status", &old, &stored(json!({"conditions": [changed, failed]})));
    assert_eq!(wrong, "[]");
    assert_eq!(new["status"]["conditions"][0], approved());
    let junk = stored(json!({"conditions": [approved()], "certificate": STANDARD.encode("junk")}));
    let (_, wrong) = written("status", &old, &junk);
    assert!(
        wrong.contains(
            "status.certificate: Invalid value: \"<certificate data>\": must contain at least one CERTIFICATE PEM block"
        ),
        "{wrong}"
    );
    let issued = stored(json!({"conditions": [approved()], "certificate": "AA=="}));
    let (_, wrong) = written("status", &issued, &old);
    assert!(wrong.contains("updates may not modify existing certificate content"), "{wrong}");
}
