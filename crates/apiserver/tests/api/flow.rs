//! Priority and fairness: who waits, who does not, who is refused, and what the objects say.

use apiserver::{ApiServer, ApiServerConfig, ApiService, User};
use http::{Method, Response};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::fixture::{Fixture, Lines, request};

const ROOT: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A server with so few seats that each of the usual levels has one.
async fn narrow() -> Fixture {
    Fixture::configured(ApiServerConfig { seats: 2, ..ApiServerConfig::default() }).await
}

fn service(server: &Arc<ApiServer>, name: &str) -> ApiService {
    server.service(Some(User::new(name, &["system:authenticated"])))
}

async fn ask(service: ApiService) -> Response<apiserver::Body> {
    service.oneshot(request(Method::GET, MAPS, "", "")).await.unwrap()
}

async fn grant(fixture: &Fixture) {
    let binding = json!({"metadata": {"name": "all"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "Group", "name": "system:authenticated", "apiGroup": "rbac.authorization.k8s.io"}]});
    fixture.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding).await.ok();
}

#[tokio::test]
async fn a_noisy_tenant_cannot_starve_another() {
    let fixture = narrow().await;
    grant(&fixture).await;
    // the answer of a list holds its seat for as long as it is not taken
    let held = ask(service(&fixture.server, "noisy")).await;
    assert_eq!(held.status(), 200);
    let (answers, mut noisy) = mpsc::unbounded_channel();
    for _ in 0..40 {
        let (answers, service) = (answers.clone(), service(&fixture.server, "noisy"));
        tokio::spawn(async move { answers.send(ask(service).await) });
    }
    let waiting = |least: usize| {
        let fixture = &fixture;
        async move {
            loop {
                let dump = fixture.get("/debug/api_priority_and_fairness/dump_requests").await.body;
                let line = dump
                    .as_str()
                    .unwrap()
                    .lines()
                    .find(|line| line.starts_with("global-default, "))
                    .unwrap()
                    .to_owned();
                if line.split(", ").nth(2).unwrap().parse::<usize>().unwrap() >= least {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
    };
    waiting(40).await;
    let quiet = tokio::spawn(ask(service(&fixture.server, "quiet")));
    waiting(41).await;
    drop(held);
    let mut before = 0;
    while !quiet.is_finished() {
        tokio::select! {
            biased;
            answer = noisy.recv() => {
                assert_eq!(answer.unwrap().status(), 200);
                before += 1;
            }
            () = tokio::task::yield_now() => {}
        }
    }
    assert_eq!(quiet.await.unwrap().status(), 200);
    // one from each of the six queues of its hand, and one more that a queue in common could put ahead
    assert!(before <= 7, "{before} of the noisy tenant's came first");
}

#[tokio::test]
async fn answers_say_which_flow_they_were_of_and_administrators_never_wait() {
    let fixture = narrow().await;
    grant(&fixture).await;
    let uid = |answer: Value| answer["metadata"]["uid"].as_str().unwrap().to_owned();
    let schema = uid(fixture.get(&format!("{ROOT}/flowschemas/global-default")).await.ok());
    let level = uid(fixture.get(&format!("{ROOT}/prioritylevelconfigurations/global-default")).await.ok());
    let held = ask(service(&fixture.server, "bob")).await;
    assert_eq!(held.headers()["x-kubernetes-pf-flowschema-uid"], schema.as_str());
    assert_eq!(held.headers()["x-kubernetes-pf-prioritylevel-uid"], level.as_str());
    assert_eq!(fixture.get(MAPS).await.status, 200);
}

#[tokio::test]
async fn a_level_that_rejects_answers_429() {
    let fixture = narrow().await;
    grant(&fixture).await;
    let level = json!({"metadata": {"name": "tight"}, "spec": {"type": "Limited",
        "limited": {"nominalConcurrencyShares": 1, "limitResponse": {"type": "Reject"}}}});
    fixture.post(&format!("{ROOT}/prioritylevelconfigurations"), &level).await.ok();
    let rule = json!({"subjects": [{"kind": "User", "user": {"name": "eve"}}],
        "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"]}]});
    let schema = json!({"metadata": {"name": "tight"}, "spec": {"priorityLevelConfiguration": {"name": "tight"},
        "matchingPrecedence": 50, "rules": [rule]}});
    fixture.post(&format!("{ROOT}/flowschemas"), &schema).await.ok();
    let held = ask(service(&fixture.server, "eve")).await;
    assert_eq!(held.status(), 200);
    let refused = crate::fixture::send(service(&fixture.server, "eve"), request(Method::GET, MAPS, "", "")).await;
    assert_eq!(refused.headers["retry-after"], "1");
    assert_eq!(refused.headers["content-type"], "text/plain; charset=utf-8");
    let told = (refused.status.as_u16(), refused.body.as_str());
    assert_eq!(told, (429, Some("Too many requests, please try again later.\n")));
    drop(held);
    assert_eq!(ask(service(&fixture.server, "eve")).await.status(), 200);
}

#[tokio::test]
async fn the_server_keeps_its_objects_and_says_which_schemas_dangle() {
    let fixture = narrow().await;
    let stop = CancellationToken::new();
    let running = tokio::spawn(fixture.server.clone().run(stop.clone()));
    let rule = json!({"subjects": [{"kind": "Group", "group": {"name": "x"}}],
        "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["*"]}]});
    let schema = json!({"metadata": {"name": "stray"},
        "spec": {"priorityLevelConfiguration": {"name": "nowhere"}, "rules": [rule]}});
    let made = fixture.post(&format!("{ROOT}/flowschemas"), &schema).await.ok();
    assert_eq!(made["spec"]["matchingPrecedence"], 1000);
    let mut lines =
        Lines::open(&fixture, &format!("{ROOT}/flowschemas?watch=1&fieldSelector=metadata.name%3Dstray")).await;
    let condition = loop {
        let event = lines.next().await.unwrap();
        if let Some(condition) = event["object"]["status"]["conditions"].get(0) {
            break condition.clone();
        }
    };
    assert_eq!(
        (&condition["type"], &condition["status"], &condition["reason"]),
        (&json!("Dangling"), &json!("True"), &json!("NotFound"))
    );
    let message = "This FlowSchema references the PriorityLevelConfiguration object named \"nowhere\" but there is no such object";
    assert_eq!(condition["message"], message);
    // a mandatory object that is deleted comes back
    let mut lines =
        Lines::open(&fixture, &format!("{ROOT}/flowschemas?watch=1&fieldSelector=metadata.name%3Dcatch-all")).await;
    fixture.delete(&format!("{ROOT}/flowschemas/catch-all")).await.ok();
    let mut deleted = false;
    loop {
        let (kind, _) = lines.named().await;
        deleted |= kind == "DELETED";
        if deleted && kind == "ADDED" {
            break;
        }
    }
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn objects_are_validated_as_upstream_validates_them() {
    let fixture = Fixture::new().await;
    let path = format!("{ROOT}/prioritylevelconfigurations/catch-all");
    let mut fixed = fixture.get(&path).await.ok();
    fixed["spec"]["limited"]["nominalConcurrencyShares"] = 99.into();
    let (code, reason, message) = fixture.put(&path, &fixed).await.failed();
    assert_eq!((code, reason.as_str()), (422, "Invalid"));
    assert!(message.ends_with("spec of 'catch-all' must equal the fixed value"), "{message}");
    let level = json!({"metadata": {"name": "wide"}, "spec": {"type": "Limited", "limited": {"limitResponse":
        {"type": "Queue", "queuing": {"queues": 1024, "handSize": 7}}}}});
    let message = fixture.post(&format!("{ROOT}/prioritylevelconfigurations"), &level).await.failed().2;
    let entropy = "spec.limited.limitResponse.queuing.handSize: Invalid value: 7: required entropy bits of deckSize 1024 and handSize 7 should not be greater than 60";
    assert!(message.ends_with(entropy), "{message}");
    let schema = json!({"metadata": {"name": "bad"}, "spec": {"matchingPrecedence": 1, "rules": [{"subjects": []}],
        "priorityLevelConfiguration": {"name": ""}}});
    let message = fixture.post(&format!("{ROOT}/flowschemas"), &schema).await.failed().2;
    for expected in [
        "spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1",
        "spec.priorityLevelConfiguration.name: Required value: must reference a priority level",
        "spec.rules[0].subjects: Required value: subjects must contain at least one value",
        "spec.rules[0]: Required value: at least one of resourceRules and nonResourceRules has to be non-empty",
    ] {
        assert!(message.contains(expected), "{message}");
    }
}
