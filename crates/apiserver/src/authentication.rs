//! Who makes a request: a client certificate, a service-account token, a fixed in-process user, or nobody.

use std::{collections::HashMap, sync::Arc};

use http::{HeaderMap, header};
use identity::{Claims, TokenSigner};
use jiff::Timestamp;
use parking_lot::RwLock;
use sha2::{Digest, Sha256};
use store::Snapshot;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{
    codec,
    user::{GROUP_AUTHENTICATED, User},
};

/// Tokens whose signature was found good, kept so that each costs one elliptic-curve operation only; when full, all are
/// forgotten. 1,024 tokens are more than the pods of one machine have.
const TOKENS_REMEMBERED_MAX: usize = 1024;

/// Checks credentials.
pub(crate) struct Authenticator {
    signer: Arc<TokenSigner>,
    verified: RwLock<HashMap<[u8; 32], Arc<Claims>>>,
}

/// A token was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RefusedToken {
    #[error(transparent)]
    Token(#[from] identity::TokenError),
    #[error("token has expired")]
    Expired,
    #[error("token audiences {found:?} do not include any of {wanted:?}")]
    Audience { found: Vec<String>, wanted: Vec<String> },
    #[error("{kind} {path} the token is bound to is gone")]
    Gone { kind: &'static str, path: String },
}

impl Authenticator {
    pub(crate) fn new(signer: Arc<TokenSigner>) -> Self {
        Self { signer, verified: RwLock::default() }
    }

    pub(crate) fn signer(&self) -> &TokenSigner {
        &self.signer
    }

    /// The user a bearer token stands for, when it is meant for one of `audiences` and all it is bound to still lives.
    pub(crate) fn token(
        &self,
        token: &str,
        audiences: &[String],
        snapshot: &Snapshot,
        now: Timestamp,
    ) -> Result<(User, Vec<String>), RefusedToken> {
        let claims = self.claims(token, now)?;
        let shared: Vec<String> = claims.aud.iter().filter(|own| audiences.contains(own)).cloned().collect();
        if shared.is_empty() {
            return Err(RefusedToken::Audience { found: claims.aud.clone(), wanted: audiences.to_vec() });
        }
        let bound = &claims.kubernetes;
        let in_namespace = |name: &str| format!("{}/{name}", bound.namespace);
        let account = &bound.serviceaccount;
        alive(snapshot, "core/serviceaccounts", in_namespace(&account.name), &account.uid)?;
        if let Some(pod) = &bound.pod {
            alive(snapshot, "core/pods", in_namespace(&pod.name), &pod.uid)?;
        }
        if let Some(secret) = &bound.secret {
            alive(snapshot, "core/secrets", in_namespace(&secret.name), &secret.uid)?;
        }
        Ok((service_account(&claims), shared))
    }

    fn claims(&self, token: &str, now: Timestamp) -> Result<Arc<Claims>, RefusedToken> {
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some(claims) = self.verified.read().get(&digest) {
            return if now.as_second() < claims.exp { Ok(claims.clone()) } else { Err(RefusedToken::Expired) };
        }
        let claims = Arc::new(self.signer.verify(token, now)?);
        let mut verified = self.verified.write();
        if verified.len() >= TOKENS_REMEMBERED_MAX {
            verified.clear();
        }
        verified.insert(digest, claims.clone());
        Ok(claims)
    }
}

fn alive(snapshot: &Snapshot, collection: &'static str, path: String, uid: &str) -> Result<(), RefusedToken> {
    let kind = collection.rsplit('/').next().unwrap_or(collection);
    let object = snapshot.get(collection, &path).and_then(|object| codec::stored(&object.bytes).ok());
    match object {
        Some(object) if object["metadata"]["uid"] == uid => Ok(()),
        _ => Err(RefusedToken::Gone { kind, path }),
    }
}

fn service_account(claims: &Claims) -> User {
    let namespace = &claims.kubernetes.namespace;
    let name = format!("system:serviceaccount:{namespace}:{}", claims.kubernetes.serviceaccount.name);
    let own_group = format!("system:serviceaccounts:{namespace}");
    let mut user = User::new(name, &["system:serviceaccounts", &own_group, GROUP_AUTHENTICATED]);
    user.uid.clone_from(&claims.kubernetes.serviceaccount.uid);
    let mut extra = |key: &str, value: String| {
        user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value]);
    };
    extra("credential-id", format!("JTI={}", claims.jti));
    if let Some(pod) = &claims.kubernetes.pod {
        extra("pod-name", pod.name.clone());
        extra("pod-uid", pod.uid.clone());
    }
    if let Some(node) = &claims.kubernetes.node {
        extra("node-name", node.name.clone());
        extra("node-uid", node.uid.clone());
    }
    user
}

/// The user a verified client certificate names: the common name is the user, the organisations are its groups.
pub(crate) fn certificate(der: &[u8]) -> Option<User> {
    let (_, parsed) = X509Certificate::from_der(der).ok()?;
    let name = parsed.subject().iter_common_name().next()?.as_str().ok()?.to_owned();
    if name.is_empty() {
        return None;
    }
    let mut user = User::new(name, &[]);
    user.groups.extend(parsed.subject().iter_organization().filter_map(|group| group.as_str().ok()).map(str::to_owned));
    user.groups.push(GROUP_AUTHENTICATED.to_owned());
    let digest = format!("X509SHA256={}", hex::encode(Sha256::digest(der)));
    user.extra.insert("authentication.kubernetes.io/credential-id".into(), vec![digest]);
    Some(user)
}

/// The bearer token of a request, also the one a WebSocket client hides in its list of protocols.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<String> {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    const PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
        return scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned());
    }
    let protocols = headers.get(header::SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?;
    let encoded = protocols.split(',').find_map(|protocol| protocol.trim().strip_prefix(PROTOCOL))?;
    String::from_utf8(URL_SAFE_NO_PAD.decode(encoded).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_certificate_names_user_and_groups() {
        let directory = tempfile::tempdir().unwrap();
        let authority = identity::Authority::load_or_create(directory.path(), Timestamp::now()).unwrap();
        let pair = authority.client("alice", Some("system:masters"), Timestamp::now()).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(pair.certificate_pem.as_bytes()).unwrap();
        let user = certificate(&pem.contents).unwrap();
        assert_eq!(user.name, "alice");
        assert_eq!(user.groups, ["system:masters", "system:authenticated"]);
        assert!(certificate(b"junk").is_none());
    }

    fn claims(exp: i64) -> Claims {
        let bound = |name: &str| identity::BoundObject { name: name.into(), uid: "u1".into() };
        Claims {
            aud: vec!["api".into()],
            exp,
            iat: 0,
            iss: String::new(),
            jti: "j".into(),
            nbf: 0,
            sub: "system:serviceaccount:default:web".into(),
            kubernetes: identity::KubernetesClaims {
                namespace: "default".into(),
                serviceaccount: bound("web"),
                pod: None,
                node: None,
                secret: None,
            },
        }
    }

    #[tokio::test]
    async fn a_token_is_good_while_its_account_lives_and_the_audience_fits() {
        let directory = tempfile::tempdir().unwrap();
        let signer = TokenSigner::load_or_create(&directory.path().join(Path::new("key")), "issuer").unwrap();
        let authenticator = Authenticator::new(Arc::new(signer));
        let store = crate::testing::store(directory.path());
        let now = Timestamp::from_second(100).unwrap();
        let token = authenticator.signer().sign(claims(200)).unwrap();
        let api = ["api".to_owned()];
        let gone = authenticator.token(&token, &api, &store.snapshot(), now).unwrap_err();
        assert!(matches!(gone, RefusedToken::Gone { .. }), "{gone}");
        let account = serde_json::json!({"metadata": {"name": "web", "uid": "u1"}});
        crate::testing::put(&store, "core/serviceaccounts", "default/web", &account).await;
        let (user, audiences) = authenticator.token(&token, &api, &store.snapshot(), now).unwrap();
        assert_eq!(user.name, "system:serviceaccount:default:web");
        assert!(user.is_in("system:serviceaccounts:default"));
        assert_eq!(audiences, api);
        let other = authenticator.token(&token, &["x".to_owned()], &store.snapshot(), now).unwrap_err();
        assert!(matches!(other, RefusedToken::Audience { .. }));
        let late = Timestamp::from_second(300).unwrap();
        let expired = authenticator.token(&token, &api, &store.snapshot(), late).unwrap_err();
        assert!(matches!(expired, RefusedToken::Expired));
    }
}
