//! Who may do what: roles, reviews, tokens, impersonation, anonymous probes; and that all of it survives a restart.

use apiserver::User;
use http::{HeaderValue, Method, header};
use serde_json::json;

use crate::fixture::{self, Fixture, request, send};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles";
const BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";

async fn grant(fixture: &Fixture) {
    let role = json!({"metadata": {"name": "r"}, "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"]}]});
    fixture.post(ROLES, &role).await.ok();
    let binding = json!({"metadata": {"name": "b"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "default"}, {"kind": "User", "name": "bob", "apiGroup": "rbac.authorization.k8s.io"}]});
    fixture.post(BINDINGS, &binding).await.ok();
}

#[tokio::test]
async fn a_grant_works_from_the_next_request_on_and_no_further_than_it_says() {
    let fixture = Fixture::new().await;
    let bob = || fixture.server.service(Some(User::new("bob", &["system:authenticated"])));
    let (code, reason, message) = send(bob(), request(Method::GET, MAPS, "", "")).await.failed();
    assert_eq!((code, reason.as_str()), (403, "Forbidden"));
    assert_eq!(
        message,
        "configmaps is forbidden: User \"bob\" cannot list resource \"configmaps\" in API group \"\" in the namespace \"default\""
    );
    grant(&fixture).await;
    send(bob(), request(Method::GET, MAPS, "", "")).await.ok();
    assert_eq!(send(bob(), request(Method::GET, "/api/v1/configmaps", "", "")).await.failed().0, 403);
    assert_eq!(send(bob(), request(Method::DELETE, &format!("{MAPS}/a"), "", "")).await.failed().0, 403);
    fixture.delete(&format!("{BINDINGS}/b")).await.ok();
    assert_eq!(send(bob(), request(Method::GET, MAPS, "", "")).await.failed().0, 403);
}

#[tokio::test]
async fn a_service_account_token_stands_for_its_account_while_that_lives() {
    let fixture = Fixture::new().await;
    grant(&fixture).await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let asked =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}});
    let answer = fixture.post(&format!("{accounts}/default/token"), &asked).await.ok();
    let token = answer["status"]["token"].as_str().unwrap().to_owned();
    let with_token = |path: &str| {
        let mut request = request(Method::GET, path, "", "");
        let value = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
        request.headers_mut().insert(header::AUTHORIZATION, value);
        send(fixture.server.service(None), request)
    };
    with_token(MAPS).await.ok();
    assert_eq!(with_token("/api/v1/nodes").await.failed().0, 403);
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let status = fixture.post("/apis/authentication.k8s.io/v1/tokenreviews", &review).await.ok()["status"].clone();
    assert_eq!(status["user"]["username"], "system:serviceaccount:default:default");
    fixture.delete(&format!("{accounts}/default")).await.ok();
    assert_eq!(with_token(MAPS).await.failed().0, 401);
    let short = json!({"spec": {"expirationSeconds": 5}});
    assert_eq!(fixture.post(&format!("{accounts}/none/token"), &short).await.failed().0, 404);
}

const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";

#[tokio::test]
async fn a_token_request_is_checked_and_bound_as_upstream_does() {
    let fixture = Fixture::new().await;
    let ask = async |body: serde_json::Value| fixture.post(&format!("{ACCOUNTS}/default/token"), &body).await;
    for (body, code, message) in [
        (
            json!({"spec": {"expirationSeconds": 5}}),
            422,
            "spec.expirationSeconds: Invalid value: 5: may not specify a duration less than 10 minutes",
        ),
        (
            json!({"metadata": {"name": "other"}}),
            422,
            "metadata.name: Invalid value: \"other\": must match the service account name if specified",
        ),
        (
            json!({"spec": {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "none"}}}),
            404,
            "pods \"none\" not found",
        ),
        (
            json!({"spec": {"boundObjectRef": {"apiVersion": "v1", "kind": "ConfigMap", "name": "x"}}}),
            400,
            "cannot bind token to object of type /v1, Kind=ConfigMap",
        ),
    ] {
        let (found, _, why) = ask(body).await.failed();
        assert_eq!(found, code, "{why}");
        assert!(why.contains(message), "{why}");
    }
    let pod =
        json!({"metadata": {"name": "p"}, "spec": {"nodeName": "gone", "containers": [{"name": "c", "image": "i"}]}});
    let pod = fixture.post("/api/v1/namespaces/default/pods", &pod).await.ok();
    let bound = |uid: &str| json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid});
    let other = ask(json!({"spec": {"boundObjectRef": bound("other")}})).await.failed();
    assert_eq!(other.0, 409);
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let answer = ask(json!({"spec": {"expirationSeconds": 3607, "boundObjectRef": bound(uid)}})).await.ok();
    let token = answer["status"]["token"].as_str().unwrap();
    let claims = base64::Engine::decode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, token.split('.').nth(1).unwrap());
    let claims: serde_json::Value = serde_json::from_slice(&claims.unwrap()).unwrap();
    let bound = &claims["kubernetes.io"];
    assert_eq!((&bound["pod"]["name"], &bound["node"]), (&json!("p"), &json!({"name": "gone"})));
    // the token of a pod's own volume warns long before it ends
    let issued = claims["iat"].as_i64().unwrap();
    assert_eq!((bound["warnafter"].as_i64(), claims["exp"].as_i64()), (Some(issued + 3607), Some(issued + 31_536_000)));
    let elsewhere = json!({"spec": {"audiences": ["vault"]}});
    let token = ask(elsewhere).await.ok()["status"]["token"].as_str().unwrap().to_owned();
    let review = |audiences: serde_json::Value| json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token, "audiences": audiences}});
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let here = fixture.post(reviews, &review(json!([]))).await.ok()["status"].clone();
    assert!(
        here["authenticated"].is_null()
            && here["error"].as_str().unwrap().contains("is invalid for the target audiences"),
        "{here}"
    );
    let there = fixture.post(reviews, &review(json!(["vault", "x"]))).await.ok()["status"].clone();
    assert_eq!((&there["authenticated"], &there["audiences"]), (&json!(true), &json!(["vault"])));
    let empty = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {}});
    assert_eq!(fixture.post(reviews, &empty).await.failed().0, 400);
}

#[tokio::test]
async fn the_issuer_describes_itself_to_service_accounts_only() {
    let fixture = Fixture::new().await;
    let account = || User::new("system:serviceaccount:default:default", &["system:serviceaccounts"]);
    for (path, kind) in
        [("/.well-known/openid-configuration", "application/json"), ("/openid/v1/jwks", "application/jwk-set+json")]
    {
        let answer = send(fixture.server.service(Some(account())), request(Method::GET, path, "", "")).await;
        assert_eq!(answer.headers[header::CONTENT_TYPE], kind);
        assert_eq!(answer.headers[header::CACHE_CONTROL], "public, max-age=3600");
        answer.ok();
        let bob = fixture.server.service(Some(User::new("bob", &["system:authenticated"])));
        assert_eq!(send(bob, request(Method::GET, path, "", "")).await.failed().0, 403, "{path}");
    }
}

#[tokio::test]
async fn a_bootstrap_token_stands_for_a_machine_that_joins() {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    let fixture = Fixture::new().await;
    let data = json!({"token-id": BASE64_STANDARD.encode("abcdef"), "token-secret": BASE64_STANDARD.encode("0123456789abcdef"),
        "usage-bootstrap-authentication": BASE64_STANDARD.encode("true")});
    let secret =
        json!({"metadata": {"name": "bootstrap-token-abcdef"}, "type": "bootstrap.kubernetes.io/token", "data": data});
    let ask = || {
        let who = r#"{"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}"#;
        let mut request =
            request(Method::POST, "/apis/authentication.k8s.io/v1/selfsubjectreviews", fixture::JSON, who);
        request.headers_mut().insert(header::AUTHORIZATION, HeaderValue::from_static("Bearer abcdef.0123456789abcdef"));
        send(fixture.server.service(None), request)
    };
    assert_eq!(ask().await.failed().0, 401);
    fixture.post("/api/v1/namespaces/kube-system/secrets", &secret).await.ok();
    let who = ask().await.ok()["status"]["userInfo"].clone();
    assert_eq!(
        (&who["username"], &who["groups"][0]),
        (&json!("system:bootstrap:abcdef"), &json!("system:bootstrappers"))
    );
}

#[tokio::test]
async fn strangers_may_probe_and_nothing_else() {
    let fixture = Fixture::new().await;
    let stranger = |path: &str| send(fixture.server.service(None), request(Method::GET, path, "", ""));
    for path in ["/livez", "/readyz", "/healthz", "/version", "/readyz?verbose"] {
        assert_eq!(stranger(path).await.status, 200, "{path}");
    }
    for path in ["/api", "/metrics", MAPS, "/openapi/v2", "/nothing"] {
        assert_eq!(stranger(path).await.failed().0, 401, "{path}");
    }
}

#[tokio::test]
async fn reviews_answer_for_oneself_and_for_others() {
    let fixture = Fixture::new().await;
    grant(&fixture).await;
    let attributes = json!({"namespace": "default", "verb": "list", "resource": "configmaps"});
    let review = |kind: &str, spec: serde_json::Value| json!({"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec});
    let root = "/apis/authorization.k8s.io/v1";
    let own = review("SelfSubjectAccessReview", json!({"resourceAttributes": attributes}));
    assert_eq!(fixture.post(&format!("{root}/selfsubjectaccessreviews"), &own).await.ok()["status"]["allowed"], true);
    for (user, allowed) in [("bob", true), ("eve", false)] {
        let other = review("SubjectAccessReview", json!({"user": user, "resourceAttributes": attributes}));
        let answer = fixture.post(&format!("{root}/subjectaccessreviews"), &other).await.ok();
        assert_eq!(answer["status"]["allowed"], allowed, "{user}");
    }
    let rules = review("SelfSubjectRulesReview", json!({"namespace": "default"}));
    let answer = fixture.post(&format!("{root}/selfsubjectrulesreviews"), &rules).await.ok();
    assert_eq!(answer["status"]["resourceRules"][0]["verbs"][0], "*");
    let who = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let answer = fixture.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &who).await.ok();
    assert_eq!(answer["status"]["userInfo"]["username"], "admin");
}

#[tokio::test]
async fn an_administrator_may_act_as_another() {
    let fixture = Fixture::new().await;
    grant(&fixture).await;
    let as_bob = |path: &str| {
        let mut request = request(Method::GET, path, "", "");
        request.headers_mut().insert("impersonate-user", HeaderValue::from_static("bob"));
        fixture.send(request)
    };
    as_bob(MAPS).await.ok();
    assert_eq!(as_bob("/api/v1/nodes").await.failed().0, 403);
}

#[tokio::test]
async fn discovery_openapi_and_metrics_describe_what_is_served() {
    let fixture = Fixture::new().await;
    let resources = fixture.get("/apis/apps/v1").await.ok();
    assert!(
        resources["resources"]
            .as_array()
            .unwrap()
            .iter()
            .any(|r| r["name"] == "deployments/scale" && r["group"] == "autoscaling")
    );
    let mut aggregated = request(Method::GET, "/apis", "", "");
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    aggregated.headers_mut().insert(header::ACCEPT, HeaderValue::from_static(accept));
    let aggregated = fixture.send(aggregated).await;
    assert!(aggregated.headers[header::CONTENT_TYPE].to_str().unwrap().contains("as=APIGroupDiscoveryList"));
    assert_eq!(aggregated.ok()["kind"], "APIGroupDiscoveryList");
    let index = fixture.get("/openapi/v3").await.ok();
    let address = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
    let document = fixture.get(address).await.ok();
    assert!(document["components"]["schemas"]["io.k8s.api.apps.v1.Deployment"].is_object());
    assert!(fixture.get("/openapi/v2").await.ok()["definitions"].is_object());
    let metrics = fixture.get("/metrics").await;
    assert!(metrics.body.as_str().unwrap().contains("apiserver_request_total"));
    assert_eq!(fixture.get("/api/v1/nothing").await.failed().0, 404);
    assert_eq!(fixture.get("/nothing").await.failed().0, 404);
}

#[tokio::test]
async fn what_the_server_keeps_in_memory_is_there_again_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    {
        let server = fixture::open(directory.path());
        server.bootstrap().await.unwrap();
        let admin = || server.service(Some(fixture::admin()));
        let role = json!({"metadata": {"name": "r"}, "rules": [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]}]});
        let root = "/apis/rbac.authorization.k8s.io/v1";
        send(admin(), request(Method::POST, &format!("{root}/clusterroles"), fixture::JSON, &role.to_string()))
            .await
            .ok();
        let binding = json!({"metadata": {"name": "b"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "r"},
            "subjects": [{"kind": "User", "name": "bob", "apiGroup": "rbac.authorization.k8s.io"}]});
        send(
            admin(),
            request(Method::POST, &format!("{root}/clusterrolebindings"), fixture::JSON, &binding.to_string()),
        )
        .await
        .ok();
    }
    let server = fixture::open(directory.path());
    server.bootstrap().await.unwrap();
    let bob = server.service(Some(User::new("bob", &["system:authenticated"])));
    send(bob, request(Method::GET, "/api/v1/nodes", "", "")).await.ok();
}

#[tokio::test]
async fn access_reviews_say_what_is_wrong_with_them_and_why_they_allow() {
    let fixture = Fixture::new().await;
    let root = "/apis/authorization.k8s.io/v1";
    let ask = |spec: serde_json::Value| {
        let fixture = &fixture;
        async move { fixture.post(&format!("{root}/subjectaccessreviews"), &json!({"spec": spec})).await }
    };
    let (code, _, message) = ask(json!({"user": "u"})).await.failed();
    assert_eq!(code, 422);
    assert!(
        message.ends_with("exactly one of nonResourceAttributes or resourceAttributes must be specified"),
        "{message}"
    );
    let get = json!({"verb": "get", "resource": "pods", "namespace": "default"});
    let (_, _, message) = ask(json!({"resourceAttributes": get})).await.failed();
    assert!(
        message.contains("spec.user: Invalid value: \"\": at least one of user or group must be specified"),
        "{message}"
    );
    let mut selected = get.clone();
    selected["fieldSelector"] = json!({});
    let (_, _, message) = ask(json!({"user": "u", "resourceAttributes": selected})).await.failed();
    assert!(message.contains("spec.resourceAttributes.fieldSelector.requirements: Required value"), "{message}");
    let node = |selector: serde_json::Value| {
        let list = json!({"verb": "list", "resource": "pods", "fieldSelector": selector});
        ask(json!({"user": "system:node:a", "groups": ["system:nodes"], "resourceAttributes": list}))
    };
    let own = json!({"requirements": [{"key": "spec.nodeName", "operator": "In", "values": ["a"]}]});
    assert_eq!(node(own).await.ok()["status"]["allowed"], true);
    let status = node(json!({"rawSelector": "spec.nodeName=b"})).await.ok()["status"].clone();
    assert_eq!(status["allowed"], false);
    assert_eq!(status["reason"], "can only list/watch pods with spec.nodeName field selector");
    let scheduler = json!({"user": "system:kube-scheduler", "resourceAttributes":
        {"verb": "create", "resource": "pods", "subresource": "binding"}});
    let reason = ask(scheduler).await.ok()["status"]["reason"].as_str().unwrap().to_owned();
    assert!(reason.starts_with("RBAC: allowed by ClusterRoleBinding \"system:kube-scheduler\""), "{reason}");
}
