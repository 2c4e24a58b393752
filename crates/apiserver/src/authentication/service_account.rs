//! Service-account tokens: whom they stand for, and whether what they are bound to still lives.
//!
//! A signature is checked once per token. What the token is bound to is looked up in the present state at every use; an
//! object is decoded again only when its revision has changed.

use std::{collections::HashMap, sync::Arc};

use identity::{BoundObject, Claims, LegacyClaims, Verified};
use jiff::{Timestamp, ToSpan};
use parking_lot::{Mutex, RwLock};
use serde_json::Value;
use sha2::{Digest, Sha256};
use store::{Object, Revision, Snapshot};
use strategy::{
    tree,
    user::{GROUP_AUTHENTICATED, User},
};

use super::{LastUsed, RefusedToken, last_used};
use crate::{codec, meta};

/// Tokens whose signature was found good, kept so that each costs one elliptic-curve operation only; when full, all are
/// forgotten. 1,024 tokens are more than the pods of one machine have.
const TOKENS_REMEMBERED_MAX: usize = 1024;
/// What is being deleted counts as gone after this time, as upstream allows for clocks that differ.
const DELETED_LEEWAY_MINUTES: i64 = 1;

/// The tokens that were seen lately.
#[derive(Default)]
pub(super) struct Accounts(RwLock<HashMap<[u8; 32], Arc<Remembered>>>);

impl Accounts {
    pub(super) fn remembered(&self, token: &str) -> Option<Arc<Remembered>> {
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        self.0.read().get(&digest).cloned()
    }

    pub(super) fn remember(&self, token: &str, verified: Verified) -> Arc<Remembered> {
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let known = Arc::new(Remembered::new(verified));
        let mut tokens = self.0.write();
        if tokens.len() >= TOKENS_REMEMBERED_MAX {
            tokens.clear();
        }
        tokens.insert(digest, known.clone());
        known
    }
}

/// A token whose signature is good.
pub(super) struct Remembered {
    verified: Verified,
    pub(super) user: Arc<User>,
    /// Revisions in which account and bound object were found alive.
    alive: Mutex<[Option<Revision>; 2]>,
    /// Day on which the label of a token's Secret was seen to be right.
    marked: Mutex<String>,
}

impl Remembered {
    fn new(verified: Verified) -> Self {
        let user = match &verified {
            Verified::Bound(claims) => bound_user(claims),
            Verified::Legacy(claims) => user(&claims.namespace, &claims.account, &claims.uid),
        };
        Self { verified, user: Arc::new(user), alive: Mutex::default(), marked: Mutex::default() }
    }

    /// Audiences of the token; `None` when it names none.
    pub(super) fn audiences(&self) -> Option<&[String]> {
        match &self.verified {
            Verified::Bound(claims) if !claims.aud.is_empty() => Some(&claims.aud),
            _ => None,
        }
    }

    /// What the audit is told: that a token is one that a Secret keeps, or should have been replaced.
    pub(super) fn note(&self, now: Timestamp) -> Option<(&'static str, String)> {
        match &self.verified {
            Verified::Legacy(claims) => Some(("authentication.k8s.io/legacy-token", claims.sub.clone())),
            Verified::Bound(claims) => {
                let late = now.as_second() - claims.kubernetes.warnafter.filter(|at| *at != 0)?;
                let text = || format!("subject: {}, seconds after warning threshold: {late}", claims.sub);
                (late > 0).then(|| ("authentication.k8s.io/stale-token", text()))
            }
        }
    }

    /// Whether the token's time is not over, and all it is bound to lives.
    pub(super) fn check(
        &self,
        token: &str,
        snapshot: &Snapshot,
        now: Timestamp,
        marks: &LastUsed,
    ) -> Result<(), RefusedToken> {
        let mut alive = *self.alive.lock();
        match &self.verified {
            Verified::Bound(claims) => check_bound(claims, snapshot, now, &mut alive)?,
            Verified::Legacy(claims) => self.check_legacy(claims, token, snapshot, now, marks, &mut alive)?,
        }
        *self.alive.lock() = alive;
        Ok(())
    }

    fn check_legacy(
        &self,
        claims: &LegacyClaims,
        token: &str,
        snapshot: &Snapshot,
        now: Timestamp,
        marks: &LastUsed,
        alive: &mut [Option<Revision>; 2],
    ) -> Result<(), RefusedToken> {
        let invalidated = || RefusedToken::Invalidated("Token has been invalidated".into());
        let path = format!("{}/{}", claims.namespace, claims.secret);
        let stored = snapshot.get("core/secrets", &path).ok_or_else(invalidated)?;
        let today = last_used::day(now);
        if alive[1] != Some(stored.revision) || *self.marked.lock() != today {
            let secret = decode(stored).ok_or_else(invalidated)?;
            if meta::is_terminating(&secret) {
                return Err(invalidated());
            }
            if tree::text_at(&secret, &["data", "token"]) != encoded(token) {
                return Err(RefusedToken::Invalidated("Token does not match server's copy".into()));
            }
            check_label(&secret, claims)?;
            if last_used::label(&secret) != today {
                marks.note(&path);
            }
            *self.marked.lock() = today;
            alive[1] = Some(stored.revision);
        }
        let path = format!("{}/{}", claims.namespace, claims.account);
        let Some(stored) = snapshot.get("core/serviceaccounts", &path) else {
            return Err(missing("serviceaccounts", &claims.account));
        };
        if alive[0] == Some(stored.revision) {
            return Ok(());
        }
        let account = decode(stored).ok_or_else(|| missing("serviceaccounts", &claims.account))?;
        if meta::is_terminating(&account) {
            return Err(RefusedToken::Invalidated(format!("ServiceAccount {path} has been deleted")));
        }
        if meta::uid(&account) != claims.uid {
            let why = format!("ServiceAccount UID ({}) does not match claim ({})", meta::uid(&account), claims.uid);
            return Err(RefusedToken::Invalidated(why));
        }
        alive[0] = Some(stored.revision);
        Ok(())
    }
}

fn encoded(token: &str) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.encode(token)
}

/// A Secret that was marked as unused for long must not be used before somebody says so.
fn check_label(secret: &Value, claims: &LegacyClaims) -> Result<(), RefusedToken> {
    const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
    if tree::text_at(secret, &["metadata", "labels", INVALID_SINCE]).is_empty() {
        return Ok(());
    }
    let LegacyClaims { namespace, secret, account, .. } = claims;
    Err(RefusedToken::Invalidated(format!(
        "the token in secret {namespace}/{secret} for service account {namespace}/{account} has been marked invalid. Use \
         tokens from the TokenRequest API or manually created secret-based tokens, or remove the '{INVALID_SINCE}' label \
         from the secret to temporarily allow use of this token"
    )))
}

fn check_bound(
    claims: &Claims,
    snapshot: &Snapshot,
    now: Timestamp,
    alive: &mut [Option<Revision>; 2],
) -> Result<(), RefusedToken> {
    if claims.has_expired(now) {
        return Err(identity::TokenError::Expired.into());
    }
    let bound = &claims.kubernetes;
    let account = &bound.serviceaccount;
    let path = format!("{}/{}", bound.namespace, account.name);
    let Some(stored) = snapshot.get("core/serviceaccounts", &path) else {
        return Err(missing("serviceaccounts", &account.name));
    };
    match lives(stored, &account.uid, now, &mut alive[0]) {
        Life::Lives => {}
        Life::Gone => return Err(RefusedToken::Invalidated(format!("service account {path} has been deleted"))),
        Life::Other(uid) => {
            let why = format!("service account UID ({uid}) does not match claim ({})", account.uid);
            return Err(RefusedToken::Invalidated(why));
        }
    }
    let in_namespace = |name: &str| format!("{}/{name}", bound.namespace);
    let (collection, path, object, kind) = match bound {
        identity::KubernetesClaims { secret: Some(secret), .. } => {
            ("core/secrets", in_namespace(&secret.name), secret, "secret")
        }
        identity::KubernetesClaims { pod: Some(pod), .. } => ("core/pods", in_namespace(&pod.name), pod, "pod"),
        identity::KubernetesClaims { node: Some(node), .. } => ("core/nodes", node.name.clone(), node, "node"),
        _ => return Ok(()),
    };
    check_object(snapshot.get(collection, &path), object, kind, now, &mut alive[1])
}

fn check_object(
    stored: Option<&Object>,
    object: &BoundObject,
    kind: &str,
    now: Timestamp,
    alive: &mut Option<Revision>,
) -> Result<(), RefusedToken> {
    let invalidated = || RefusedToken::Invalidated("service account token has been invalidated".into());
    match lives(stored.ok_or_else(invalidated)?, &object.uid, now, alive) {
        Life::Lives => Ok(()),
        Life::Gone => Err(invalidated()),
        Life::Other(uid) => Err(RefusedToken::Invalidated(format!(
            "{kind} UID ({uid}) does not match service account {kind} ref claim ({})",
            object.uid
        ))),
    }
}

enum Life {
    Lives,
    Gone,
    /// Another object of the same name lives.
    Other(String),
}

/// Whether `stored` is the object of `uid` and not deleted for a while; `seen` is the revision of which that is known.
fn lives(stored: &Object, uid: &str, now: Timestamp, seen: &mut Option<Revision>) -> Life {
    if *seen == Some(stored.revision) {
        return Life::Lives;
    }
    let Some(object) = decode(stored) else { return Life::Gone };
    if meta::uid(&object) != uid {
        return Life::Other(meta::uid(&object).to_owned());
    }
    let deleted = tree::text_at(&object, &["metadata", "deletionTimestamp"]);
    if deleted.is_empty() {
        *seen = Some(stored.revision);
        return Life::Lives;
    }
    let leeway = now.checked_sub(DELETED_LEEWAY_MINUTES.minutes()).unwrap_or(now);
    match deleted.parse::<Timestamp>() {
        Ok(deleted) if deleted >= leeway => Life::Lives,
        _ => Life::Gone,
    }
}

fn decode(stored: &Object) -> Option<Value> {
    codec::stored(&stored.bytes).ok()
}

fn missing(resource: &str, name: &str) -> RefusedToken {
    RefusedToken::Invalidated(format!("{resource} {name:?} not found"))
}

fn user(namespace: &str, name: &str, uid: &str) -> User {
    let own_group = format!("system:serviceaccounts:{namespace}");
    let groups = ["system:serviceaccounts", &own_group, GROUP_AUTHENTICATED];
    let mut user = User::new(format!("system:serviceaccount:{namespace}:{name}"), &groups);
    user.uid = uid.to_owned();
    user
}

fn bound_user(claims: &Claims) -> User {
    let bound = &claims.kubernetes;
    let mut user = user(&bound.namespace, &bound.serviceaccount.name, &bound.serviceaccount.uid);
    let mut extra = |key: &str, value: String| {
        if !value.is_empty() {
            user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value]);
        }
    };
    if !claims.jti.is_empty() {
        extra("credential-id", format!("JTI={}", claims.jti));
    }
    if let Some(pod) = &bound.pod {
        extra("pod-name", pod.name.clone());
        extra("pod-uid", pod.uid.clone());
    }
    if let Some(node) = &bound.node {
        extra("node-name", node.name.clone());
        extra("node-uid", node.uid.clone());
    }
    user
}

#[cfg(test)]
mod tests;
