//! Rules that every kind shares, in upstream's words: versions, identities, what a deletion answers, selectors of fields,
//! options, and patches that do not fit.

use apiserver::User;
use http::Method;
use serde_json::{Value, json};

use crate::{
    conformance,
    fixture::{APPLY, Fixture, JSON, MERGE, request, send},
};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

fn deployment(name: &str) -> Value {
    let labels = json!({"app": name});
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {"replicas": 1,
        "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

#[tokio::test]
async fn some_kinds_insist_on_the_version_an_update_was_made_from() {
    let fixture = Fixture::new().await;
    fixture.post(LEASES, &json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "a"}})).await.ok();
    let path = format!("{LEASES}/l");
    let unversioned = json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "b"}});
    let (code, reason, message) = fixture.put(&path, &unversioned).await.failed();
    assert_eq!((code, reason.as_str()), (422, "Invalid"));
    let rule = "metadata.resourceVersion: Invalid value: 0: must be specified for an update";
    assert_eq!(message, format!("leases.coordination.k8s.io \"l\" is invalid: {rule}"));
    let nulled = json!({"metadata": {"resourceVersion": null}, "spec": {"holderIdentity": "b"}});
    assert_eq!(fixture.patch(&path, MERGE, &nulled).await.failed().2, message);
    fixture.patch(&path, MERGE, &json!({"spec": {"holderIdentity": "b"}})).await.ok();
    let widgets = conformance::define(&fixture, json!({"schema": {"openAPIV3Schema": {"type": "object"}}})).await;
    let widget = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}});
    fixture.post(widgets, &widget).await.ok();
    let (_, _, message) = fixture.put(&format!("{widgets}/w"), &widget).await.failed();
    assert_eq!(message, format!("widgets.example.com \"w\" is invalid: {rule}"));
    fixture.post(MAPS, &json!({"metadata": {"name": "m"}})).await.ok();
    fixture.put(&format!("{MAPS}/m"), &json!({"metadata": {"name": "m"}, "data": {"a": "b"}})).await.ok();
}

#[tokio::test]
async fn an_update_of_another_object_of_the_same_name_is_refused() {
    let fixture = Fixture::new().await;
    let uid = fixture.post(MAPS, &json!({"metadata": {"name": "m"}})).await.ok()["metadata"]["uid"].clone();
    let path = format!("{MAPS}/m");
    let (code, _, message) = fixture.put(&path, &json!({"metadata": {"name": "m", "uid": "other"}})).await.failed();
    let why = format!(
        "StorageError: invalid object, Code: 4, Key: /registry/configmaps/default/m, ResourceVersion: 0, \
         AdditionalErrorMsg: Precondition failed: UID in precondition: other, UID in object meta: {}",
        uid.as_str().unwrap()
    );
    assert_eq!((code, message), (409, format!("Operation cannot be fulfilled on configmaps \"m\": {why}")));
    let options = json!({"preconditions": {"uid": "other"}}).to_string();
    let (code, _, message) = fixture.send(request(Method::DELETE, &path, JSON, &options)).await.failed();
    let why = format!(
        "the UID in the precondition (other) does not match the UID in record ({}). \
         The object might have been deleted and then recreated",
        uid.as_str().unwrap()
    );
    assert_eq!((code, message), (409, format!("Operation cannot be fulfilled on ConfigMap \"m\": {why}")));
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "none", "uid": "u"}});
    let (code, _, message) = fixture.patch(&format!("{MAPS}/none?fieldManager=m"), APPLY, &config).await.failed();
    assert_eq!(code, 409);
    assert!(message.ends_with("uid mismatch: the provided object specified uid u, and no existing object was found"));
}

#[tokio::test]
async fn updates_create_what_upstream_lets_them_create() {
    let fixture = Fixture::new().await;
    let roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles";
    let services = "/api/v1/namespaces/default/services";
    let classes = "/apis/node.k8s.io/v1/runtimeclasses";
    for (collection, object) in [
        (LEASES, json!({"metadata": {"name": "x"}, "spec": {"holderIdentity": "a"}})),
        (roles, json!({"metadata": {"name": "x"}, "rules": []})),
        (services, json!({"metadata": {"name": "x"}, "spec": {"ports": [{"port": 80}]}})),
        (classes, json!({"metadata": {"name": "x"}, "handler": "h"})),
    ] {
        let put = fixture.put(&format!("{collection}/x"), &object).await;
        assert_eq!(put.status, 201, "{collection} {}", put.body);
    }
    let quotas = "/api/v1/namespaces/default/resourcequotas/x";
    assert_eq!(fixture.put(quotas, &json!({"metadata": {"name": "x"}})).await.failed().0, 404);
    assert_eq!(fixture.put(&format!("{MAPS}/x"), &json!({"metadata": {"name": "x"}})).await.failed().0, 404);
}

#[tokio::test]
async fn who_may_only_change_objects_creates_none_by_changing_them() {
    let fixture = Fixture::new().await;
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let rules = json!([{"apiGroups": ["", "coordination.k8s.io"], "resources": ["configmaps", "leases"],
        "verbs": ["get", "update", "patch"]}]);
    fixture.post(&format!("{rbac}/roles"), &json!({"metadata": {"name": "changer"}, "rules": rules})).await.ok();
    let binding = json!({"metadata": {"name": "changer"}, "subjects": [{"kind": "User", "name": "jane",
        "apiGroup": "rbac.authorization.k8s.io"}], "roleRef": {"kind": "Role", "name": "changer",
        "apiGroup": "rbac.authorization.k8s.io"}});
    fixture.post(&format!("{rbac}/rolebindings"), &binding).await.ok();
    let jane = || fixture.server.service(Some(User::new("jane", &["system:authenticated"])));
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}});
    let apply = request(Method::PATCH, &format!("{MAPS}/m?fieldManager=m"), APPLY, &config.to_string());
    let (code, _, message) = send(jane(), apply).await.failed();
    let wanted = "configmaps \"m\" is forbidden: User \"jane\" cannot create resource \"configmaps\" in API group \"\" \
        in the namespace \"default\"";
    assert_eq!((code, message.as_str()), (403, wanted));
    let lease = json!({"metadata": {"name": "l"}}).to_string();
    let put = request(Method::PUT, &format!("{LEASES}/l"), JSON, &lease);
    assert_eq!(send(jane(), put).await.failed().0, 403);
}

#[tokio::test]
async fn a_deletion_answers_with_the_object_or_with_its_name() {
    let fixture = Fixture::new().await;
    fixture.post(MAPS, &json!({"metadata": {"name": "m"}})).await.ok();
    let gone = fixture.delete(&format!("{MAPS}/m")).await.ok();
    assert_eq!((&gone["kind"], &gone["details"]["kind"]), (&json!("Status"), &json!("configmaps")));
    assert!(gone["details"]["uid"].is_string() && gone["details"].get("group").is_none());
    fixture.post(DEPLOYMENTS, &deployment("d")).await.ok();
    let gone = fixture.delete(&format!("{DEPLOYMENTS}/d")).await.ok();
    assert_eq!((&gone["details"]["name"], &gone["details"]["group"]), (&json!("d"), &json!("apps")));
    let template = json!({"metadata": {"name": "x"}, "template": deployment("x")["spec"]["template"]});
    for (collection, object) in [
        ("/api/v1/namespaces/default/resourcequotas", json!({"metadata": {"name": "x"}, "spec": {}})),
        ("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "x"}})),
        ("/api/v1/namespaces/default/podtemplates", template),
        ("/apis/storage.k8s.io/v1/storageclasses", json!({"metadata": {"name": "x"}, "provisioner": "p.dev/x"})),
        ("/apis/storage.k8s.io/v1/csinodes", json!({"metadata": {"name": "x"}, "spec": {"drivers": []}})),
    ] {
        let kind = fixture.post(collection, &object).await.ok()["kind"].clone();
        let dry = fixture.delete(&format!("{collection}/x?dryRun=All")).await.ok();
        let gone = fixture.delete(&format!("{collection}/x")).await.ok();
        assert_eq!((&dry["kind"], &gone["kind"]), (&kind, &kind), "{collection}");
    }
    fixture.post(MAPS, &json!({"metadata": {"name": "held", "finalizers": ["a.dev/b"]}})).await.ok();
    let held = fixture.delete(&format!("{MAPS}/held")).await.ok();
    assert_eq!(held["kind"], "ConfigMap");
    assert!(held["metadata"]["deletionTimestamp"].is_string());
}

#[tokio::test]
async fn fields_that_cannot_be_selected_by_are_named_as_upstream_names_them() {
    let fixture = Fixture::new().await;
    let widgets = conformance::define(&fixture, json!({"schema": {"openAPIV3Schema": {"type": "object"}}})).await;
    let known_only = |field: &str| {
        format!("\"{field}\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
    };
    let unsupported = |field: &str| format!("field label not supported: {field}");
    for (collection, selector, message) in [
        ("/api/v1/pods", "status.foo=x", unsupported("status.foo")),
        ("/api/v1/nodes", "metadata.namespace=x", unsupported("metadata.namespace")),
        ("/api/v1/namespaces", "name=default", unsupported("name")),
        ("/api/v1/events", "regarding.name=x", unsupported("regarding.name")),
        ("/apis/events.k8s.io/v1/events", "involvedObject.name=x", unsupported("involvedObject.name")),
        (
            "/apis/batch/v1/jobs",
            "status.failed=1",
            "field label \"status.failed\" not supported for batchv1.Job".into(),
        ),
        ("/apis/apps/v1/replicasets", "status.replicas=1", known_only("status.replicas")),
        (MAPS, "data.a=b", known_only("data.a")),
        (widgets, "spec.a=b", unsupported("spec.a")),
        (MAPS, "nonsense", "invalid selector: 'nonsense'; can't understand 'nonsense'".into()),
    ] {
        let answer = fixture.get(&format!("{collection}?fieldSelector={}", selector.replace('=', "%3D"))).await;
        assert_eq!(answer.failed(), (400, "BadRequest".into(), message), "{collection}");
    }
    for path in [
        "/api/v1/pods?fieldSelector=spec.host%3D,status.podIPs%3D,spec.hostNetwork!%3Dtrue",
        "/api/v1/nodes?fieldSelector=spec.unschedulable%3D%3Dfalse",
        "/api/v1/replicationcontrollers?fieldSelector=status.replicas%3D0",
        "/api/v1/events?fieldSelector=involvedObject.kind%3DPod,source%3Dx,reportingComponent%3Dy",
        "/apis/events.k8s.io/v1/events?fieldSelector=regarding.kind%3DPod,reportingController%3Dx",
        "/api/v1/secrets?fieldSelector=type%3DOpaque",
        "/api/v1/services?fieldSelector=spec.type%3DClusterIP,spec.clusterIP!%3DNone",
        "/apis/certificates.k8s.io/v1/certificatesigningrequests?fieldSelector=spec.signerName%3Dx",
        "/api/v1/namespaces?fieldSelector=status.phase%3DActive",
    ] {
        fixture.get(path).await.ok();
    }
}

#[tokio::test]
async fn options_that_break_rules_are_invalid_objects_of_their_own() {
    let fixture = Fixture::new().await;
    let messages = [
        (
            fixture.post(&format!("{MAPS}?dryRun=Some"), &json!({"metadata": {"name": "m"}})).await,
            "CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"Some\"]: supported values: \"All\"",
        ),
        (
            fixture.get(&format!("{MAPS}?resourceVersionMatch=Latest&resourceVersion=1")).await,
            "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Unsupported value: \"Latest\": \
             supported values: \"Exact\", \"NotOlderThan\", \"\"",
        ),
        (
            fixture.get(&format!("{MAPS}?watch=1&resourceVersionMatch=NotOlderThan")).await,
            "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: \
             resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        ),
        (
            fixture.get(&format!("{MAPS}?sendInitialEvents=true")).await,
            "ListOptions.meta.k8s.io \"\" is invalid: sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list",
        ),
        (
            fixture.get(&format!("{MAPS}?watch=1&sendInitialEvents=true")).await,
            "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: \
             sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ),
        (
            fixture.delete(&format!("{MAPS}/m?propagationPolicy=Later")).await,
            "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: \"Later\": \
             supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\"",
        ),
    ];
    for (answer, message) in messages {
        assert_eq!(answer.failed(), (422, "Invalid".into(), message.into()));
    }
}

#[tokio::test]
async fn patches_that_do_not_fit_show_what_they_came_to() {
    let fixture = Fixture::new().await;
    fixture.post(DEPLOYMENTS, &deployment("d")).await.ok();
    let path = format!("{DEPLOYMENTS}/d");
    let strict = format!("{path}?fieldValidation=Strict");
    let unknown = json!({"spec": {"foo": 1}});
    let (code, _, message) = fixture.patch(&strict, STRATEGIC, &unknown).await.failed();
    let why = "strict decoding error: unknown field \"spec.foo\"";
    assert_eq!(
        (code, message),
        (422, format!(" \"\" is invalid: patch: Invalid value: \"map[spec:map[foo:1]]\": {why}"))
    );
    let (code, _, message) = fixture.patch(&strict, MERGE, &unknown).await.failed();
    assert!(code == 422 && message.starts_with(" \"\" is invalid: patch: Invalid value: \"{"), "{message}");
    assert!(message.ends_with(why), "{message}");
    let refused = fixture.patch(&path, MERGE, &json!({"spec": {"replicas": "many"}})).await;
    assert_eq!((refused.status.as_u16(), &refused.body["details"]["causes"][0]["field"]), (422, &json!("patch")));
    let twice = request(Method::PATCH, &strict, MERGE, r#"{"spec":{"paused":true,"paused":false}}"#);
    assert!(fixture.send(twice).await.failed().2.ends_with("strict decoding error: duplicate field \"spec.paused\""));
    let odd = json!([{"op": "add", "path": "/spec/paused", "value": true, "why": "x"}]);
    let (_, _, message) = fixture.patch(&strict, "application/json-patch+json", &odd).await.failed();
    assert!(message.ends_with("strict decoding error: json patch unknown field \"[0].why\""), "{message}");
    let (code, _, message) = fixture.patch(&path, "application/json-patch+json", &json!({})).await.failed();
    let why = "json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp";
    assert_eq!((code, message), (400, format!("error decoding patch: {why}")));
    let many: Vec<Value> = vec![json!({"op": "test", "path": "/kind", "value": "x"}); 10_001];
    let (code, _, message) = fixture.patch(&path, "application/json-patch+json", &many.into()).await.failed();
    let why = "The allowed maximum operations in a JSON patch is 10000, got 10001";
    assert_eq!((code, message), (413, format!("Request entity too large: {why}")));
}

/// Owners of `spec.replicas`: manager, operation, subresource.
fn owners(object: &Value) -> Vec<(String, String, String)> {
    let entries = object["metadata"]["managedFields"].as_array().unwrap().iter();
    let owning = entries.filter(|entry| entry.pointer("/fieldsV1/f:spec/f:replicas").is_some());
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    owning.map(|entry| (text(&entry["manager"]), text(&entry["operation"]), text(&entry["subresource"]))).collect()
}

#[tokio::test]
async fn who_applies_a_scale_owns_the_replicas() {
    let fixture = Fixture::new().await;
    fixture.patch(&format!("{DEPLOYMENTS}/d?fieldManager=owner"), APPLY, &deployment("d")).await.ok();
    let scale = |replicas: i64| json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d"}, "spec": {"replicas": replicas}});
    let path = |manager: &str, force: &str| format!("{DEPLOYMENTS}/d/scale?fieldManager={manager}{force}");
    let (code, _, message) = fixture.patch(&path("scaler", ""), APPLY, &scale(3)).await.failed();
    assert_eq!(
        (code, message.as_str()),
        (409, "Apply failed with 1 conflict: conflict with \"owner\": .spec.replicas")
    );
    let scaled = fixture.patch(&path("scaler", "&force=true"), APPLY, &scale(3)).await.ok();
    assert_eq!((&scaled["kind"], &scaled["spec"]["replicas"]), (&json!("Scale"), &json!(3)));
    let live = fixture.get(&format!("{DEPLOYMENTS}/d")).await.ok();
    assert_eq!(owners(&live), [("scaler".to_owned(), "Apply".to_owned(), "scale".to_owned())]);
    assert_eq!(live["spec"]["replicas"], 3);
    let wanted = json!({"metadata": {"name": "d"}, "spec": {"replicas": 4}});
    fixture.put(&path("hand", ""), &wanted).await.ok();
    let live = fixture.get(&format!("{DEPLOYMENTS}/d")).await.ok();
    assert_eq!(owners(&live), [("hand".to_owned(), "Update".to_owned(), "scale".to_owned())]);
    let stranger = json!({"metadata": {"name": "d", "uid": "other"}, "spec": {"replicas": 4}});
    assert_eq!(fixture.put(&path("hand", ""), &stranger).await.failed().0, 409);
}

#[tokio::test]
async fn lists_of_past_states_keep_to_upstream_s_rules() {
    let fixture = Fixture::new().await;
    for index in 0..5 {
        fixture.post(MAPS, &json!({"metadata": {"name": format!("m{index}")}})).await.ok();
    }
    let first = fixture.get(&format!("{MAPS}?limit=2")).await.ok();
    let version = first["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    fixture.delete(&format!("{MAPS}/m0")).await.ok();
    let count = |list: &Value| list["items"].as_array().unwrap().len();
    let page = fixture.get(&format!("{MAPS}?limit=3&resourceVersion={version}")).await.ok();
    assert_eq!(
        (count(&page), &page["items"][0]["metadata"]["name"]),
        (3, &json!("m0")),
        "a page is of that very state"
    );
    let any = fixture.get(&format!("{MAPS}?limit=2&resourceVersion=0")).await.ok();
    assert_eq!(count(&any), 4, "who takes any state gets it whole");
    for (query, wanted) in [
        (
            "resourceVersion=x",
            "resourceVersion: Invalid value: \"x\": strconv.ParseUint: parsing \"x\": invalid syntax",
        ),
        (
            "continue=x&resourceVersion=1",
            "invalid continue token: continue key is not valid: illegal base64 data at input byte 0",
        ),
    ] {
        assert_eq!(fixture.get(&format!("{MAPS}?{query}")).await.failed().2, wanted);
    }
    let token = first["metadata"]["continue"].as_str().unwrap();
    let (_, _, message) = fixture.get(&format!("{MAPS}?continue={token}&resourceVersion=1")).await.failed();
    assert_eq!(message, "specifying resource version is not allowed when using continue");
}

#[tokio::test]
async fn what_no_object_can_be_called_is_a_bad_request() {
    let fixture = Fixture::new().await;
    fixture.post(MAPS, &json!({"metadata": {"name": "m"}})).await.ok();
    for (path, wanted) in [
        (format!("{MAPS}/a%25b"), "Name parameter invalid: \"a%b\": may not contain '%'"),
        (format!("{MAPS}/m?export=1"), "the export parameter, deprecated since v1.14, is no longer supported"),
    ] {
        let (code, reason, message) = fixture.get(&path).await.failed();
        assert_eq!((code, reason.as_str(), message.as_str()), (400, "BadRequest", wanted));
    }
    fixture.get(&format!("{MAPS}/m?export=false")).await.ok();
    assert_eq!(fixture.delete(&format!("{MAPS}/a%2Fb")).await.failed().0, 400);
    let watch = "/api/v1/watch/namespaces/default/configmaps/m?fieldSelector=metadata.name%3Dother";
    let (code, _, message) = fixture.get(watch).await.failed();
    assert_eq!((code, message.as_str()), (400, "fieldSelector metadata.name doesn't match requested name"));
}

#[tokio::test]
async fn who_asks_the_older_way_hears_that_an_object_is_not_gone_yet() {
    let fixture = Fixture::new().await;
    let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "orphanDependents": false}).to_string();
    for (name, finalizers, code) in [("free", json!([]), 200), ("held", json!(["a.dev/b"]), 202)] {
        fixture.post(MAPS, &json!({"metadata": {"name": name, "finalizers": finalizers}})).await.ok();
        let answer = fixture.send(request(Method::DELETE, &format!("{MAPS}/{name}"), JSON, &options)).await;
        assert_eq!(answer.status, code, "{name}");
    }
}
