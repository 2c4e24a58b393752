//! Keeps Secrets of type `kubernetes.io/service-account-token`: fills in the token, the cluster's roots and the namespace,
//! and removes those whose account is gone.

use std::sync::Arc;

use identity::TokenSigner;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::ResourceExt;
use kube::api::{DeleteParams, PostParams, Preconditions};
use reconcile::{Change, Index, Informer, Key, Queue, Selector, feed, run_controller};
use tokio_util::sync::CancellationToken;

use crate::context::{Context, ReconcileError, failed, gone_is_done, is_not_found, run_with_feeds, synced};

const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
const TOKEN: &str = "token";
const ROOTS: &str = "ca.crt";
const NAMESPACE: &str = "namespace";
/// Secrets are independent of each other; a handful hides the latency of writes.
const WORKERS: usize = 4;

/// What a Secret needs.
#[derive(Debug, PartialEq)]
enum Action {
    None,
    Delete,
    /// Written as it should be.
    Write(Box<Secret>),
}

/// What to do about `secret`, whose account is `account`.
fn decide(
    secret: &Secret,
    account: Option<&ServiceAccount>,
    roots: &str,
    token: impl FnOnce() -> Option<String>,
) -> Action {
    let uid = secret.annotations().get(ACCOUNT_UID).filter(|uid| !uid.is_empty());
    let account = account.filter(|account| uid.is_none_or(|uid| Some(uid) == account.metadata.uid.as_ref()));
    if secret.metadata.deletion_timestamp.is_some() {
        return Action::None;
    }
    let Some(account) = account else { return Action::Delete };
    let mut wanted = secret.clone();
    wanted.annotations_mut().insert(ACCOUNT_UID.into(), account.metadata.uid.clone().unwrap_or_default());
    let data = wanted.data.get_or_insert_default();
    data.insert(ROOTS.into(), ByteString(roots.into()));
    if data.get(NAMESPACE).is_none_or(|namespace| namespace.0.is_empty()) {
        data.insert(NAMESPACE.into(), ByteString(secret.namespace().unwrap_or_default().into()));
    }
    if data.get(TOKEN).is_none_or(|token| token.0.is_empty()) {
        let Some(token) = token() else { return Action::None };
        data.insert(TOKEN.into(), ByteString(token.into()));
    }
    if wanted == *secret { Action::None } else { Action::Write(Box::new(wanted)) }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Work {
    Secret(Key),
    /// An account may name Secrets that are gone.
    Account(Key),
}

#[derive(Clone)]
struct Controller {
    context: Context,
    signer: Arc<TokenSigner>,
    secrets: Informer<Secret>,
    accounts: Informer<ServiceAccount>,
}

pub(crate) async fn run(context: Context, stop: CancellationToken) {
    let Some(keys) = context.config.keys.clone() else { return stop.cancelled().await };
    let secrets = context.informers.of_selected::<Secret>(Selector::fields("type=kubernetes.io/service-account-token"));
    let accounts = context.informers.of::<ServiceAccount>();
    if !synced(&stop, async { secrets.synced().await && accounts.synced().await }).await {
        return;
    }
    let by_account =
        secrets.index("account", |secret| account_of(secret).map(|key| key.to_string()).into_iter().collect());
    let naming = accounts.index("secrets", named_secrets);
    let queue: Queue<Work> = Queue::new();
    let from_secrets = feed(&secrets, &queue, |change| match change {
        Change::Applied { new, .. } => Some(Work::Secret(Key::of(&**new))),
        Change::Deleted(last) => accounts_naming(&naming, last).into_iter().next(),
    });
    let more = queue.clone();
    let from_accounts = feed(&accounts, &queue, move |change| {
        let key = Key::of(&**change.object());
        for secret in by_account.get(&key.to_string()) {
            more.add(Work::Secret(Key::of(&*secret)));
        }
        None
    });
    let controller = Controller { context, signer: keys.tokens, secrets: secrets.clone(), accounts: accounts.clone() };
    let reconcile = |work: Work| {
        let controller = controller.clone();
        async move {
            match work {
                Work::Secret(key) => controller.keep(&key).await?,
                Work::Account(key) => controller.forget(&key).await?,
            }
            Ok::<_, ReconcileError>(None)
        }
    };
    let run = run_controller("token-secrets", queue.clone(), WORKERS, stop, reconcile);
    run_with_feeds(run, futures::future::join(from_secrets, from_accounts)).await;
}

/// The account a Secret belongs to.
fn account_of(secret: &Secret) -> Option<Key> {
    let name = secret.annotations().get(ACCOUNT_NAME).filter(|name| !name.is_empty())?;
    Some(Key::new(secret.namespace().unwrap_or_default(), name.clone()))
}

/// The Secrets an account names.
fn named_secrets(account: &ServiceAccount) -> Vec<String> {
    let namespace = account.namespace().unwrap_or_default();
    let names = account.secrets.iter().flatten().filter_map(|secret| secret.name.clone());
    names.map(|name| Key::new(namespace.clone(), name).to_string()).collect()
}

fn accounts_naming(naming: &Index<ServiceAccount>, secret: &Secret) -> Vec<Work> {
    naming.get(&Key::of(secret).to_string()).iter().map(|account| Work::Account(Key::of(&**account))).collect()
}

impl Controller {
    async fn keep(&self, key: &Key) -> Result<(), ReconcileError> {
        let Some(secret) = self.secrets.get(&key.namespace, &key.name) else { return Ok(()) };
        let Some(owner) = account_of(&secret) else { return Ok(()) };
        let sign = |account: &ServiceAccount| {
            let uid = account.metadata.uid.clone().unwrap_or_default();
            let signed = self.signer.sign_legacy(&key.namespace, &owner.name, &uid, &key.name);
            signed.inspect_err(|error| tracing::warn!(%key, %error, "a token could not be signed")).ok()
        };
        let roots = &self.context.config.ca_pem;
        let cached = self.accounts.get(&owner.namespace, &owner.name);
        let mut action = decide(&secret, cached.as_deref(), roots, || cached.as_deref().and_then(sign));
        if action == Action::Delete {
            // the cache may lag behind an account that was just made
            let live = self.context.api::<ServiceAccount>(&owner.namespace).get_opt(&owner.name).await;
            let live = live.map_err(failed("look up service account", &owner))?;
            action = decide(&secret, live.as_ref(), roots, || live.as_ref().and_then(sign));
        }
        let api = self.context.api::<Secret>(&key.namespace);
        match action {
            Action::None => Ok(()),
            Action::Delete => {
                let preconditions = Preconditions { uid: secret.uid(), resource_version: secret.resource_version() };
                let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
                gone_is_done(api.delete(&key.name, &params).await).map_err(failed("delete secret", key))
            }
            Action::Write(wanted) => match api.replace(&key.name, &PostParams::default(), &wanted).await {
                Err(error) if is_not_found(&error) => Ok(()),
                other => other.map(drop).map_err(failed("fill secret", key)),
            },
        }
    }

    /// Takes Secrets that are gone out of an account's list.
    async fn forget(&self, key: &Key) -> Result<(), ReconcileError> {
        let Some(account) = self.accounts.get(&key.namespace, &key.name) else { return Ok(()) };
        let mut kept = Vec::new();
        for reference in account.secrets.iter().flatten() {
            let name = reference.name.as_deref().unwrap_or_default();
            let found = self.context.api::<Secret>(&key.namespace).get_metadata_opt(name).await;
            if found.map_err(failed("look up secret", name))?.is_some() {
                kept.push(reference.clone());
            }
        }
        if account.secrets.as_ref() == Some(&kept) {
            return Ok(());
        }
        let mut changed = ServiceAccount::clone(&account);
        changed.secrets = Some(kept).filter(|kept| !kept.is_empty());
        let api = self.context.api::<ServiceAccount>(&key.namespace);
        gone_is_done(api.replace(&key.name, &PostParams::default(), &changed).await)
            .map_err(failed("update service account", key))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn secret(data: serde_json::Value) -> Secret {
        serde_json::from_value(json!({"metadata": {"name": "s", "namespace": "n", "annotations": {ACCOUNT_NAME: "a"}},
            "type": "kubernetes.io/service-account-token", "data": data}))
        .unwrap()
    }

    fn account(uid: &str) -> ServiceAccount {
        serde_json::from_value(json!({"metadata": {"name": "a", "namespace": "n", "uid": uid}})).unwrap()
    }

    #[test]
    fn a_secret_is_filled_once_and_follows_the_roots() {
        let token = || Some("t".to_owned());
        let Action::Write(filled) = decide(&secret(json!({})), Some(&account("u")), "roots", token) else {
            panic!("it is written")
        };
        let data = filled.data.clone().unwrap();
        assert_eq!((data[TOKEN].0.as_slice(), data[NAMESPACE].0.as_slice()), (&b"t"[..], &b"n"[..]));
        assert_eq!(filled.annotations()[ACCOUNT_UID], "u");
        assert_eq!(decide(&filled, Some(&account("u")), "roots", || panic!("it has a token")), Action::None);
        let Action::Write(renewed) = decide(&filled, Some(&account("u")), "other roots", token) else {
            panic!("it is written")
        };
        assert_eq!(renewed.data.unwrap()[ROOTS].0, b"other roots");
    }

    #[test]
    fn a_secret_goes_with_its_account_and_not_to_another_of_the_same_name() {
        let mut filled = secret(json!({"token": "dA=="}));
        assert_eq!(decide(&filled, None, "roots", || None), Action::Delete);
        filled.annotations_mut().insert(ACCOUNT_UID.into(), "u".into());
        assert_eq!(decide(&filled, Some(&account("other")), "roots", || None), Action::Delete);
    }
}
