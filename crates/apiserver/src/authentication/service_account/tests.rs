use identity::{KubernetesClaims, TokenSigner};
use serde_json::json;
use store::Store;

use super::*;
use crate::authentication::{Authenticator, Identified, RequestHeaderConfig};

struct World {
    store: Store,
    authenticator: Authenticator,
    _directory: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let signer = TokenSigner::load_or_create(&directory.path().join("sa.key"), "issuer").unwrap();
        let authenticator =
            Authenticator::new(Arc::new(signer), vec!["api".into()], None, RequestHeaderConfig::default());
        Self { store: crate::testing::store(directory.path()), authenticator, _directory: directory }
    }

    async fn put(&self, collection: &str, path: &str, object: Value) {
        crate::testing::put(&self.store, collection, path, &object).await;
    }

    fn ask(&self, token: &str, audience: &str, second: i64) -> Result<(Arc<User>, Vec<String>), String> {
        self.identify(token, audience, second).map(|found| (found.user, found.audiences))
    }

    fn identify(&self, token: &str, audience: &str, second: i64) -> Result<Identified, String> {
        let snapshot = self.store.snapshot();
        let answer = self.authenticator.token(token, &[audience.to_owned()], &snapshot, at(second));
        answer.map_err(|error| error.to_string())
    }

    fn refusal(&self, token: &str, second: i64) -> String {
        self.ask(token, "api", second).unwrap_err()
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn object(name: &str, uid: &str) -> Value {
    json!({"metadata": {"name": name, "uid": uid}})
}

fn claims(bind: impl FnOnce(&mut KubernetesClaims)) -> Claims {
    let mut kubernetes = KubernetesClaims {
        namespace: "default".into(),
        serviceaccount: BoundObject { name: "web".into(), uid: "u1".into() },
        ..KubernetesClaims::default()
    };
    bind(&mut kubernetes);
    let sub = "system:serviceaccount:default:web".into();
    Claims { aud: vec!["api".into()], exp: 200, iat: 0, iss: String::new(), jti: "j".into(), nbf: 0, sub, kubernetes }
}

#[tokio::test]
async fn a_token_is_good_while_its_account_lives_and_the_audience_fits() {
    let world = World::new();
    let token = world.authenticator.signer().sign(claims(|_| {})).unwrap();
    assert_eq!(world.refusal(&token, 100), r#"[invalid bearer token, serviceaccounts "web" not found]"#);
    world.put("core/serviceaccounts", "default/web", object("web", "u1")).await;
    let (user, audiences) = world.ask(&token, "api", 100).unwrap();
    assert_eq!(user.name, "system:serviceaccount:default:web");
    assert!(user.is_in("system:serviceaccounts:default"));
    assert_eq!(user.extra["authentication.kubernetes.io/credential-id"], ["JTI=j"]);
    assert_eq!(audiences, ["api"]);
    let other = world.ask(&token, "x", 100).unwrap_err();
    assert!(other.contains(r#"token audiences ["api"] is invalid for the target audiences ["x"]"#), "{other}");
    assert_eq!(world.refusal(&token, 300), "[invalid bearer token, service account token has expired]");
    world.put("core/serviceaccounts", "default/web", object("web", "u2")).await;
    assert!(world.refusal(&token, 100).contains("service account UID (u2) does not match claim (u1)"));
}

#[tokio::test]
async fn a_token_bound_to_a_pod_ends_with_it() {
    let world = World::new();
    world.put("core/serviceaccounts", "default/web", object("web", "u1")).await;
    let bound = |name: &str, uid: &str| Some(BoundObject { name: name.into(), uid: uid.into() });
    let token = claims(|kubernetes| {
        kubernetes.pod = bound("p", "u2");
        // the pod's node is remembered, but the token does not end with it
        kubernetes.node = bound("n", "u3");
    });
    let token = world.authenticator.signer().sign(token).unwrap();
    assert!(world.refusal(&token, 100).contains("service account token has been invalidated"));
    world.put("core/pods", "default/p", object("p", "u2")).await;
    let (user, _) = world.ask(&token, "api", 100).unwrap();
    assert_eq!(user.extra["authentication.kubernetes.io/pod-name"], ["p"]);
    assert_eq!(user.extra["authentication.kubernetes.io/node-uid"], ["u3"]);
    let mut deleted = object("p", "u2");
    deleted["metadata"]["deletionTimestamp"] = at(100).to_string().into();
    world.put("core/pods", "default/p", deleted).await;
    world.ask(&token, "api", 130).unwrap();
    assert!(world.refusal(&token, 161).contains("service account token has been invalidated"));
    world.put("core/pods", "default/p", object("p", "other")).await;
    assert!(world.refusal(&token, 100).contains("pod UID (other) does not match service account pod ref claim (u2)"));
    let token = claims(|kubernetes| kubernetes.node = bound("n", "u3"));
    let token = world.authenticator.signer().sign(token).unwrap();
    assert!(world.refusal(&token, 100).contains("service account token has been invalidated"));
    world.put("core/nodes", "n", object("n", "u3")).await;
    world.ask(&token, "api", 100).unwrap();
}

#[tokio::test]
async fn a_token_of_a_secret_is_good_while_the_secret_holds_it_and_marks_its_use() {
    let world = World::new();
    let token = world.authenticator.signer().sign_legacy("default", "web", "u1", "s").unwrap();
    world.put("core/serviceaccounts", "default/web", object("web", "u1")).await;
    assert!(world.refusal(&token, 100).contains("Token has been invalidated"));
    let mut secret = object("s", "u2");
    secret["data"] = json!({"token": "b3RoZXI="});
    world.put("core/secrets", "default/s", secret.clone()).await;
    assert!(world.refusal(&token, 100).contains("Token does not match server's copy"));
    secret["data"]["token"] = encoded(&token).into();
    world.put("core/secrets", "default/s", secret.clone()).await;
    let (user, _) = world.ask(&token, "api", 100).unwrap();
    assert!(user.extra.is_empty());
    assert_eq!(world.authenticator.last_used.take(), ["default/s"]);
    world.ask(&token, "api", 200).unwrap();
    assert!(world.authenticator.last_used.take().is_empty());
    secret["metadata"]["labels"] = json!({"kubernetes.io/legacy-token-last-used": "1970-01-02"});
    world.put("core/secrets", "default/s", secret.clone()).await;
    world.ask(&token, "api", 86_500).unwrap();
    assert!(world.authenticator.last_used.take().is_empty());
    world.ask(&token, "api", 2 * 86_400).unwrap();
    assert_eq!(world.authenticator.last_used.take(), ["default/s"]);
    secret["metadata"]["labels"] = json!({"kubernetes.io/legacy-token-invalid-since": "1970-01-02"});
    world.put("core/secrets", "default/s", secret).await;
    assert!(world.refusal(&token, 100).contains("has been marked invalid"));
}

#[tokio::test]
async fn what_is_no_token_of_ours_is_unknown() {
    let world = World::new();
    for token in ["", "x", "a.b.c", "abcdef.0123456789abcdef"] {
        assert_eq!(world.refusal(token, 100), "invalid bearer token", "{token}");
    }
}

#[tokio::test]
async fn the_audit_is_told_of_tokens_that_should_have_been_replaced() {
    let world = World::new();
    world.put("core/serviceaccounts", "default/web", object("web", "u1")).await;
    let token = world.authenticator.signer().sign(claims(|kubernetes| kubernetes.warnafter = Some(100))).unwrap();
    assert_eq!(world.identify(&token, "api", 100).unwrap().note, None);
    let subject = "system:serviceaccount:default:web";
    let stale = format!("subject: {subject}, seconds after warning threshold: 20");
    assert_eq!(world.identify(&token, "api", 120).unwrap().note, Some(("authentication.k8s.io/stale-token", stale)));
}
