//! Users of an identity provider: the provider is a server of the test.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock},
};

use apiserver::{ApiServer, ApiServerConfig, OidcConfig};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use http::{HeaderValue, Method, header};
use identity::{TokenSigner, jwt::Algorithm};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use serde_json::{Value, json};

use crate::{
    fixture::{JSON, request, send},
    webhook_server::{Reply, WebhookServer},
};

/// A key of the provider.
struct Key {
    id: &'static str,
    pair: EcdsaKeyPair,
}

impl Key {
    fn new(id: &'static str) -> Self {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).unwrap();
        Self { id, pair }
    }

    fn jwk(&self) -> Value {
        let (x, y) = self.pair.public_key().as_ref()[1..].split_at(32);
        json!({"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.id,
            "x": BASE64.encode(x), "y": BASE64.encode(y)})
    }

    fn sign(&self, claims: &Value) -> String {
        let header = json!({"alg": "ES256", "kid": self.id});
        let signed = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()));
        let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", BASE64.encode(signature.as_ref()))
    }
}

#[tokio::test]
async fn users_of_the_provider_are_known_by_their_tokens() {
    let published = Arc::new(Mutex::new(json!({"keys": []})));
    let issuer: Arc<OnceLock<String>> = Arc::default();
    let (keys, named) = (published.clone(), issuer.clone());
    let provider = WebhookServer::new(move |path, _| match path {
        "/.well-known/openid-configuration" => {
            let issuer = named.get().unwrap();
            Reply::Json(json!({"issuer": issuer, "jwks_uri": format!("{issuer}/keys")}))
        }
        "/keys" => Reply::Json(keys.lock().unwrap().clone()),
        _ => Reply::Status(404, "no"),
    })
    .await;
    let url = issuer.get_or_init(|| format!("https://127.0.0.1:{}", provider.port)).clone();
    let oidc = OidcConfig {
        issuer_url: url.clone(),
        client_id: "kubernetes".into(),
        username_claim: "email".into(),
        username_prefix: String::new(),
        groups_claim: "groups".into(),
        groups_prefix: "oidc:".into(),
        required_claims: BTreeMap::new(),
        signing_algorithms: vec![Algorithm::Es256],
        ca_pem: Some(base64::prelude::BASE64_STANDARD.decode(&provider.bundle).unwrap()),
    };
    let directory = tempfile::tempdir().unwrap();
    let signer =
        TokenSigner::load_or_create(&directory.path().join("sa.key"), "https://kubernetes.default.svc").unwrap();
    let store = store::Store::open(directory.path().join("store"), store::Options::default()).unwrap();
    let config = ApiServerConfig { oidc: Some(oidc), ..ApiServerConfig::default() };
    let server = ApiServer::new(store, config, Arc::new(signer));
    server.bootstrap().await.unwrap();
    let first = Key::new("one");
    *published.lock().unwrap() = json!({"keys": [first.jwk()]});
    let claims = |minutes: i64| {
        let exp = jiff::Timestamp::now().as_second() + minutes * 60;
        json!({"iss": url, "aud": "kubernetes", "exp": exp, "email": "jane@x.io", "groups": ["dev"]})
    };
    let ask = |token: String| {
        let who = r#"{"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}"#;
        let mut request = request(Method::POST, "/apis/authentication.k8s.io/v1/selfsubjectreviews", JSON, who);
        let value = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
        request.headers_mut().insert(header::AUTHORIZATION, value);
        send(server.service(None), request)
    };
    let who = ask(first.sign(&claims(5))).await.ok()["status"]["userInfo"].clone();
    assert_eq!(who, json!({"username": "jane@x.io", "groups": ["oidc:dev", "system:authenticated"]}));
    assert_eq!(ask(first.sign(&claims(-5))).await.failed().0, 401);
    let other_key_of_the_same_name = Key::new("one");
    assert_eq!(ask(other_key_of_the_same_name.sign(&claims(5))).await.failed().0, 401);
    // a key that is not known makes us look, but only once in a while
    let second = Key::new("two");
    assert_eq!(ask(second.sign(&claims(5))).await.failed().0, 401);
    assert_eq!(provider.seen("/keys").len(), 1);
}
