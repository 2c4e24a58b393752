//! The audit: what is written down about requests, and what never is.

use std::{path::Path, sync::Arc};

use apiserver::{
    ApiServer, ApiServerConfig, User,
    audit::{AuditConfig, Auditor, LogOptions, Policy},
};
use http::{HeaderValue, Method};
use http_body_util::BodyExt as _;
use identity::TokenSigner;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::{
    fixture::{JSON, admin, request, send},
    webhook_server::{WebhookServer, patch},
};

/// A server that audits into a file of its directory.
struct Audited {
    server: Arc<ApiServer>,
    auditor: Arc<Auditor>,
    directory: tempfile::TempDir,
}

const SECRETS: &str = "/api/v1/namespaces/default/secrets";

impl Audited {
    async fn new(policy: Policy) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit/audit.log");
        let log = LogOptions { path, bytes_max: 1 << 20, backups_max: 1, age_max: None };
        let auditor = Auditor::open(AuditConfig { policy, log: Some(log), webhook: None }).unwrap();
        let config = ApiServerConfig { auditor: Some(auditor.clone()), ..ApiServerConfig::default() };
        let server = ApiServer::new(store(directory.path()), config, signer(directory.path()));
        server.bootstrap().await.unwrap();
        let audited = Self { server, auditor, directory };
        audited.events();
        audited
    }

    /// The events since the last look, those of `uri` alone.
    fn events(&self) -> Vec<Value> {
        self.auditor.flush();
        let path = self.directory.path().join("audit/audit.log");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn store(directory: &Path) -> store::Store {
    store::Store::open(directory.join("store"), store::Options::default()).unwrap()
}

fn signer(directory: &Path) -> Arc<TokenSigner> {
    Arc::new(TokenSigner::load_or_create(&directory.join("sa.key"), "https://kubernetes.default.svc").unwrap())
}

fn policy(rules: &str) -> Policy {
    Policy::parse(format!("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n{rules}").as_bytes()).unwrap()
}

#[tokio::test]
async fn writes_and_reads_of_secrets_are_audited_without_their_content() {
    let audited = Audited::new(Policy::default()).await;
    let secret = json!({"metadata": {"generateName": "s-"}, "stringData": {"password": "hunter2"}});
    let made =
        send(audited.server.service(Some(admin())), request(Method::POST, SECRETS, JSON, &secret.to_string())).await;
    let id = made.headers["audit-id"].to_str().unwrap().to_owned();
    let name = made.ok()["metadata"]["name"].as_str().unwrap().to_owned();
    send(audited.server.service(Some(admin())), request(Method::GET, &format!("{SECRETS}/{name}"), "", "")).await.ok();
    send(audited.server.service(Some(admin())), request(Method::GET, "/api/v1/pods", "", "")).await.ok();
    let events = audited.events();
    assert_eq!(events.len(), 2, "{events:?}");
    let event = &events[0];
    assert_eq!(
        (&event["auditID"], &event["stage"], &event["level"]),
        (&json!(id), &json!("ResponseComplete"), &json!("Metadata"))
    );
    let object = json!({"resource": "secrets", "namespace": "default", "name": name, "apiVersion": "v1"});
    assert_eq!(event["objectRef"], object);
    assert_eq!(event["responseStatus"], json!({"metadata": {}, "code": 201}));
    assert_eq!(event["annotations"]["authorization.k8s.io/decision"], "allow");
    assert_eq!(
        (&event["verb"], &event["user"]["username"], &event["userAgent"]),
        (&json!("create"), &json!("admin"), &json!("test/1"))
    );
    assert_eq!(events[1]["verb"], "get");
    assert!(!format!("{events:?}").contains("hunter2") && !format!("{events:?}").contains("aHVudGVyMg"));
}

#[tokio::test]
async fn bodies_are_kept_where_the_policy_says_so() {
    let audited = Audited::new(policy("- level: RequestResponse\n  omitManagedFields: true")).await;
    let map = json!({"metadata": {"name": "m"}, "data": {"a": "b"}});
    let path = "/api/v1/namespaces/default/configmaps";
    send(audited.server.service(Some(admin())), request(Method::POST, path, JSON, &map.to_string())).await.ok();
    send(audited.server.service(Some(admin())), request(Method::GET, path, "", "")).await.ok();
    let events = audited.events();
    let stages: Vec<&str> = events.iter().map(|event| event["stage"].as_str().unwrap()).collect();
    assert_eq!(stages, ["RequestReceived", "ResponseComplete", "RequestReceived", "ResponseComplete"]);
    assert_eq!(events[1]["requestObject"], map);
    assert_eq!(events[1]["responseObject"]["data"], map["data"]);
    assert!(events[1]["responseObject"]["metadata"].get("managedFields").is_none());
    assert_eq!(events[3]["responseObject"]["items"][0]["data"], map["data"]);
}

#[tokio::test]
async fn what_a_webhook_patched_is_noted_where_bodies_are() {
    let hooks =
        WebhookServer::new(|_, asked| patch(asked, &json!([{"op": "add", "path": "/data/b", "value": "2"}]))).await;
    let configuration = json!({"metadata": {"name": "m"}, "webhooks": [{"name": "add.test.dev",
        "clientConfig": hooks.client("/add"), "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["*"], "resources": ["configmaps"]}]}]});
    let map = json!({"metadata": {"name": "m"}, "data": {"a": "1"}});
    let key = "patch.webhook.admission.k8s.io/round_0_index_0";
    for (level, noted) in [("Metadata", false), ("Request", true)] {
        let audited = Audited::new(policy(&format!("- level: {level}\n  omitStages: [RequestReceived]"))).await;
        let post = |path: &str, object: &Value| request(Method::POST, path, JSON, &object.to_string());
        let path = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
        send(audited.server.service(Some(admin())), post(path, &configuration)).await.ok();
        send(audited.server.service(Some(admin())), post("/api/v1/namespaces/default/configmaps", &map)).await.ok();
        let annotations = audited.events()[1]["annotations"].clone();
        let mutated = json!({"configuration": "m", "webhook": "add.test.dev", "mutated": true}).to_string();
        assert_eq!(annotations["mutation.webhook.admission.k8s.io/round_0_index_0"], mutated);
        let patched = json!({"configuration": "m", "webhook": "add.test.dev", "patchType": "JSONPatch",
            "patch": [{"op": "add", "path": "/data/b", "value": "2"}]});
        let wanted = if noted { patched.to_string().into() } else { Value::Null };
        assert_eq!(annotations[key], wanted, "{level}");
    }
}

#[tokio::test]
async fn refusals_say_who_and_why() {
    let audited = Audited::new(policy("- level: Metadata\n  omitStages: [RequestReceived]")).await;
    let bob = || audited.server.service(Some(User::new("bob", &["system:authenticated"])));
    assert_eq!(send(bob(), request(Method::GET, SECRETS, "", "")).await.failed().0, 403);
    let mut as_eve = request(Method::GET, SECRETS, "", "");
    as_eve.headers_mut().insert("impersonate-user", HeaderValue::from_static("eve"));
    assert_eq!(send(audited.server.service(Some(admin())), as_eve).await.failed().0, 403);
    let stranger = send(audited.server.service(None), request(Method::GET, SECRETS, "", "")).await;
    assert_eq!(stranger.headers["cache-control"], "no-cache, private");
    assert_eq!(stranger.failed().0, 401);
    send(audited.server.service(Some(admin())), request(Method::GET, &format!("{SECRETS}/none"), "", ""))
        .await
        .failed();
    let events = audited.events();
    assert_eq!(events[3]["responseStatus"]["message"], "secrets \"none\" not found");
    assert_eq!(events[0]["responseStatus"]["reason"], "Forbidden");
    assert_eq!(events[0]["annotations"]["authorization.k8s.io/decision"], "forbid");
    assert_eq!(
        (&events[1]["user"]["username"], &events[1]["impersonatedUser"]["username"]),
        (&json!("admin"), &json!("eve"))
    );
    assert_eq!((&events[2]["stage"], &events[2]["responseStatus"]["code"]), (&json!("ResponseStarted"), &json!(401)));
    assert_eq!(events[2]["user"], json!({}));
    assert_eq!(events.len(), 4);
}

#[tokio::test]
async fn a_watch_is_audited_at_its_beginning_and_at_its_end() {
    let audited = Audited::new(Policy::default()).await;
    let watch = request(Method::GET, &format!("{SECRETS}?watch=1"), "", "");
    let response = audited.server.service(Some(admin())).oneshot(watch).await.unwrap();
    let begun = audited.events();
    assert_eq!((&begun[0]["stage"], &begun[0]["verb"]), (&json!("ResponseStarted"), &json!("watch")));
    assert_eq!(begun.len(), 1);
    drop(response.into_body().into_data_stream());
    let ended = audited.events();
    assert_eq!((&ended[0]["stage"], &ended[0]["auditID"]), (&json!("ResponseComplete"), &begun[0]["auditID"]));
}

#[tokio::test]
async fn a_named_identity_is_kept_and_a_bad_timeout_refused() {
    let audited = Audited::new(Policy::default()).await;
    let mut named = request(Method::GET, "/api/v1/pods?timeout=5", "", "");
    named.headers_mut().insert("audit-id", HeaderValue::from_static("mine"));
    let answer = send(audited.server.service(Some(admin())), named).await;
    assert_eq!(answer.headers["audit-id"], "mine");
    let message = "invalid timeout specified in the request URL - time: missing unit in duration \"5\"";
    assert_eq!(answer.failed().2, message);
}
