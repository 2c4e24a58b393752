//! Pods keep to the level their namespace asks for.

use serde_json::{Value, json};

use crate::fixture::{Fixture, MERGE};

fn warnings(answer: &crate::fixture::Answer) -> Vec<String> {
    answer.headers.get_all("warning").iter().map(|value| value.to_str().unwrap().to_owned()).collect()
}

fn pod(name: &str, context: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i", "securityContext": context}]}})
}

#[tokio::test]
async fn a_namespace_says_what_its_pods_may_do() {
    let fixture = Fixture::new().await;
    let pods = "/api/v1/namespaces/default/pods";
    fixture.post(pods, &pod("early", json!({"privileged": true}))).await.ok();
    let label = |level: &str| {
        json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": level,
        "pod-security.kubernetes.io/warn": "restricted"}}})
    };
    let labelled = fixture.patch("/api/v1/namespaces/default", MERGE, &label("baseline")).await;
    assert_eq!(
        warnings(&labelled),
        [
            "299 - \"existing pods in namespace \\\"default\\\" violate the new PodSecurity enforce level \\\"baseline:latest\\\"\"",
            "299 - \"early: privileged\"",
        ]
    );
    labelled.ok();
    let (code, reason, message) = fixture.post(pods, &pod("late", json!({"privileged": true}))).await.failed();
    assert_eq!((code, reason.as_str()), (403, "Forbidden"));
    assert_eq!(
        message,
        "pods \"late\" is forbidden: violates PodSecurity \"baseline:latest\": privileged (container \"c\" must not set securityContext.privileged=true)"
    );
    let warned = fixture.post(pods, &pod("weak", json!({}))).await;
    assert!(
        warnings(&warned)[0]
            .contains("would violate PodSecurity \\\"restricted:latest\\\": allowPrivilegeEscalation != false")
    );
    warned.ok();
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": pod("x", json!({"privileged": true}))["spec"]}}});
    let warned = fixture.post("/apis/apps/v1/namespaces/default/deployments", &deployment).await;
    assert_eq!(warnings(&warned).len(), 1);
    warned.ok();
    let (code, reason, message) = fixture.patch("/api/v1/namespaces/default", MERGE, &label("strict")).await.failed();
    assert_eq!((code, reason.as_str()), (422, "Invalid"));
    assert!(
        message.contains("metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\""),
        "{message}"
    );
}
