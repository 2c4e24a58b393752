//! Bootstrap tokens: removes those whose time is over, and signs the ConfigMap `cluster-info` with each of the others, so
//! that a machine that knows the token recognises the cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::ResourceExt;
use kube::api::{DeleteParams, PostParams, Preconditions};
use reconcile::{Informer, Key, Queue, Selector, feed, run_controller};
use tokio_util::sync::CancellationToken;

use crate::context::{Context, ReconcileError, failed, gone_is_done, run_with_feeds, synced};

/// Where the Secrets are.
const SECRETS_NAMESPACE: &str = "kube-system";
const SECRET_PREFIX: &str = "bootstrap-token-";
/// Where the signed ConfigMap is.
const INFO_NAMESPACE: &str = "kube-public";
const INFO: &str = "cluster-info";
const SIGNED: &str = "kubeconfig";
const SIGNATURE_PREFIX: &str = "jws-kubeconfig-";
/// There are a few such tokens at most.
const WORKERS: usize = 1;

fn secrets(context: &Context) -> Informer<Secret> {
    context.informers.of_selected::<Secret>(Selector::fields("type=bootstrap.kubernetes.io/token"))
}

fn text<'a>(secret: &'a Secret, key: &str) -> &'a str {
    let bytes = secret.data.as_ref().and_then(|data| data.get(key));
    bytes.and_then(|bytes| str::from_utf8(&bytes.0).ok()).unwrap_or_default()
}

/// How long a token is still good; `None` for ever. What cannot be read counts as over.
fn remaining(secret: &Secret, now: Timestamp) -> Option<Duration> {
    let expiration = text(secret, "expiration");
    if expiration.is_empty() {
        return None;
    }
    let Ok(at) = expiration.parse::<Timestamp>() else { return Some(Duration::ZERO) };
    Some(Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO))
}

/// Removes tokens whose time is over.
pub(crate) async fn clean(context: Context, stop: CancellationToken) {
    let secrets = secrets(&context);
    if !synced(&stop, secrets.synced()).await {
        return;
    }
    let queue: Queue<Key> = Queue::new();
    let feed = feed(&secrets, &queue, |change| {
        let key = Key::of(&**change.object());
        (key.namespace == SECRETS_NAMESPACE).then_some(key)
    });
    let reconcile = |key: Key| {
        let (context, secrets) = (context.clone(), secrets.clone());
        async move {
            let Some(secret) = secrets.get(&key.namespace, &key.name) else { return Ok(None) };
            match remaining(&secret, Timestamp::now()) {
                None => return Ok(None),
                Some(left) if !left.is_zero() => return Ok(Some(left)),
                Some(_) => {}
            }
            let preconditions = Preconditions { uid: secret.uid(), resource_version: secret.resource_version() };
            let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
            let deleted = context.api::<Secret>(&key.namespace).delete(&key.name, &params).await;
            gone_is_done(deleted).map_err(failed("delete expired token", &key))?;
            Ok::<_, ReconcileError>(None)
        }
    };
    let run = run_controller("token-cleaner", queue.clone(), WORKERS, stop, reconcile);
    run_with_feeds(run, feed).await;
}

/// The data that `info` should have, when it is not what it has.
fn signed<'a>(
    info: &ConfigMap,
    tokens: impl Iterator<Item = &'a Secret>,
    now: Timestamp,
) -> Option<BTreeMap<String, String>> {
    let data = info.data.as_ref()?;
    let content = data.get(SIGNED)?;
    let mut wanted = data.clone();
    wanted.retain(|key, _| !key.starts_with(SIGNATURE_PREFIX));
    for secret in tokens {
        let (id, key) = (text(secret, "token-id"), text(secret, "token-secret"));
        let named = secret.metadata.name.as_deref().and_then(|name| name.strip_prefix(SECRET_PREFIX)) == Some(id);
        let good = remaining(secret, now).is_none_or(|left| !left.is_zero());
        if named && good && !id.is_empty() && !key.is_empty() && text(secret, "usage-bootstrap-signing") == "true" {
            wanted.insert(format!("{SIGNATURE_PREFIX}{id}"), identity::detached_signature(content, id, key));
        }
    }
    (wanted != *data).then_some(wanted)
}

/// Keeps the signatures of the ConfigMap.
pub(crate) async fn sign(context: Context, stop: CancellationToken) {
    let secrets = secrets(&context);
    let selector = Selector::fields(format!("metadata.namespace={INFO_NAMESPACE},metadata.name={INFO}"));
    let infos = context.informers.of_selected::<ConfigMap>(selector);
    if !synced(&stop, async { secrets.synced().await && infos.synced().await }).await {
        return;
    }
    let queue: Queue<()> = Queue::new();
    let from_secrets = feed(&secrets, &queue, |_| Some(()));
    let from_infos = feed(&infos, &queue, |_| Some(()));
    let reconcile = |()| {
        let (context, secrets, infos) = (context.clone(), secrets.clone(), infos.clone());
        async move {
            let Some(info) = infos.get(INFO_NAMESPACE, INFO) else { return Ok(None) };
            let (tokens, now) = (secrets.list(), Timestamp::now());
            let ours = || tokens.iter().filter(|secret| secret.namespace().as_deref() == Some(SECRETS_NAMESPACE));
            if let Some(data) = signed(&info, ours().map(|secret| &**secret), now) {
                let changed = ConfigMap { data: Some(data), ..ConfigMap::clone(&info) };
                let api = context.api::<ConfigMap>(INFO_NAMESPACE);
                let written = api.replace(INFO, &PostParams::default(), &changed).await;
                gone_is_done(written).map_err(failed("sign config map", INFO))?;
            }
            // a signature goes when its token's time is over, even before the token does
            Ok::<_, ReconcileError>(
                ours().filter_map(|secret| remaining(secret, now)).filter(|left| !left.is_zero()).min(),
            )
        }
    };
    let run = run_controller("bootstrap-signer", queue.clone(), WORKERS, stop, reconcile);
    run_with_feeds(run, futures::future::join(from_secrets, from_infos)).await;
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use serde_json::json;

    use super::*;

    fn now() -> Timestamp {
        "2026-11-22T12:00:00Z".parse().unwrap()
    }

    fn token(entries: &[(&str, &str)]) -> Secret {
        let mut secret: Secret =
            serde_json::from_value(json!({"metadata": {"name": "bootstrap-token-abcdef", "namespace": "kube-system"}}))
                .unwrap();
        let usual = [("token-id", "abcdef"), ("token-secret", "x"), ("usage-bootstrap-signing", "true")];
        let all = usual.iter().chain(entries);
        secret.data = Some(all.map(|(key, value)| ((*key).to_owned(), ByteString((*value).into()))).collect());
        secret
    }

    #[test]
    fn time_that_is_over_or_unreadable_is_none() {
        assert_eq!(remaining(&token(&[]), now()), None);
        for (at, left) in [("2026-11-22T12:00:05Z", 5), ("2026-11-22T11:00:00Z", 0), ("soon", 0)] {
            assert_eq!(remaining(&token(&[("expiration", at)]), now()), Some(Duration::from_secs(left)), "{at}");
        }
    }

    #[test]
    fn the_information_carries_a_signature_per_good_token_and_no_other() {
        let info: ConfigMap =
            serde_json::from_value(json!({"data": {"kubeconfig": "k", "jws-kubeconfig-old": "x"}})).unwrap();
        let data = signed(&info, [token(&[])].iter(), now()).unwrap();
        assert_eq!(data.keys().collect::<Vec<_>>(), ["jws-kubeconfig-abcdef", "kubeconfig"]);
        let done = ConfigMap { data: Some(data), ..info.clone() };
        assert_eq!(signed(&done, [token(&[])].iter(), now()), None);
        for change in [("usage-bootstrap-signing", ""), ("expiration", "2026-01-01T00:00:00Z"), ("token-id", "fedcba")]
        {
            let data = signed(&done, [token(&[change])].iter(), now()).unwrap();
            assert_eq!(data.len(), 1, "{change:?}");
        }
    }
}
