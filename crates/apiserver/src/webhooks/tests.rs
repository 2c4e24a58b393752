use serde_json::json;

use super::{
    review::{decode, refusal},
    *,
};
use crate::outbound::ReviewVersion;

#[test]
fn an_answer_has_to_fit_its_question() {
    let answer = |version: &str, response: Value| json!({"apiVersion": format!("admission.k8s.io/{version}"), "kind": "AdmissionReview", "response": response});
    let v1 = |mutating, answer: &Value| decode(ReviewVersion::V1, "u", mutating, answer).map(|said| said.allowed);
    assert_eq!(v1(true, &answer("v1", json!({"uid": "u", "allowed": true}))), Ok(true));
    let wrong = |mutating, answer: Value| v1(mutating, &answer).unwrap_err();
    assert_eq!(wrong(true, json!({})), "webhook response was absent");
    assert_eq!(wrong(true, answer("v1", json!({"uid": "x"}))), "expected response.uid=\"u\", got \"x\"");
    assert_eq!(
        wrong(true, answer("v1beta1", json!({"uid": "u"}))),
        "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got admission.k8s.io/v1beta1, Kind=AdmissionReview"
    );
    let patch = json!({"uid": "u", "allowed": true, "patch": "W10="});
    assert_eq!(wrong(true, answer("v1", patch.clone())), "webhook returned response.patch but not response.patchType");
    assert_eq!(wrong(false, answer("v1", patch.clone())), "validating webhook may not return response.patch");
    // the older version checks neither identity nor the kind of patch
    let old = decode(ReviewVersion::V1Beta1, "u", true, &json!({"response": patch})).unwrap();
    assert_eq!(old.patch.unwrap(), b"[]");
}

#[test]
fn a_refusal_says_who_and_why() {
    let said = |status: Value| {
        let error = refusal("a.b.c", &status);
        (error.code, error.reason.to_string(), error.message)
    };
    assert_eq!(
        said(json!({"message": "no", "code": 403, "reason": "Forbidden"})),
        (403, "Forbidden".into(), "admission webhook \"a.b.c\" denied the request: no".into())
    );
    assert_eq!(said(json!({"reason": "Why"})).2, "admission webhook \"a.b.c\" denied the request: Why");
    assert_eq!(
        said(json!(null)),
        (400, String::new(), "admission webhook \"a.b.c\" denied the request without explanation".into())
    );
}

#[test]
fn webhooks_are_in_the_order_of_their_configurations_names() {
    let webhooks = Webhooks::default();
    let configuration =
        |names: &[&str]| Some(json!({"webhooks": names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>()}));
    webhooks.apply(MUTATING, "b", || configuration(&["b2", "b1"]));
    webhooks.apply(MUTATING, "a", || configuration(&["a1"]));
    webhooks.apply(VALIDATING, "c", || configuration(&["c1"]));
    let names = || webhooks.mutating().iter().map(|hook| hook.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(), ["a1", "b2", "b1"]);
    webhooks.apply(MUTATING, "b", || None);
    assert_eq!(names(), ["a1"]);
    assert_eq!(webhooks.validating().len(), 1);
}
