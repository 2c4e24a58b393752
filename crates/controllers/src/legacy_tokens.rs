//! Removes the token Secrets that upstream once made for every account, when nobody has used them for a year: first they are
//! marked as invalid, so that who misses them can take the mark away, and a year later they are deleted.
//!
//! Only Secrets that their account names are meant: those that somebody made by hand are not named.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, Secret, ServiceAccount};
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use reconcile::{Informer, Key, Queue, Selector, feed, run_controller};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::context::{Context, ReconcileError, failed, gone_is_done, is_conflict, run_with_feeds, synced};

/// Since when the API server has noted the use of tokens.
const TRACKING: (&str, &str) = ("kube-system", "kube-apiserver-legacy-service-account-token-tracking");
const SINCE: &str = "since";
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
const DATE: &str = "%Y-%m-%d";
/// How long a token is unused before it is marked, and marked before it is deleted: upstream's default.
const UNUSED: SignedDuration = SignedDuration::from_hours(365 * 24);
/// How often a Secret is looked at, upstream's period: the labels count days.
const PERIOD: Duration = Duration::from_secs(24 * 3600);
/// Days are long; there is no hurry.
const WORKERS: usize = 1;

fn date(text: &str) -> Option<Date> {
    Date::strptime(DATE, text).ok()
}

fn day(time: Timestamp) -> Date {
    time.to_zoned(TimeZone::UTC).date()
}

/// What a Secret needs.
#[derive(Debug, PartialEq, Eq)]
enum Action {
    None,
    /// It is not accepted any more, from this day on.
    Mark(Date),
    Delete,
}

/// Decides on a token Secret. `tracked` is the day on which the use of tokens began to be noted, `mounted` says whether a
/// pod uses the Secret.
fn decide(
    secret: &Secret,
    account: Option<&ServiceAccount>,
    tracked: Option<Date>,
    mounted: impl FnOnce() -> bool,
    now: Timestamp,
) -> Action {
    let (Some(tracked), Ok(before)) = (tracked, now.checked_sub(UNUSED)) else { return Action::None };
    let last_day = day(before);
    // on the first day the use was perhaps not noted yet
    if tracked.tomorrow().is_ok_and(|first| first > last_day) {
        return Action::None;
    }
    let created = secret.metadata.creation_timestamp.as_ref().map(|time| time.0);
    if created.is_none_or(|created| created >= before) || secret.metadata.deletion_timestamp.is_some() {
        return Action::None;
    }
    match secret.labels().get(LAST_USED).map(|text| date(text)) {
        Some(None) => return Action::None,
        Some(Some(used)) if used >= last_day => return Action::None,
        Some(Some(_)) | None => {}
    }
    let names = |account: &&ServiceAccount| {
        let uid = secret.annotations().get(ACCOUNT_UID);
        let mut named = account.secrets.iter().flatten();
        uid == account.metadata.uid.as_ref() && named.any(|named| named.name == secret.metadata.name)
    };
    if account.filter(names).is_none() || mounted() {
        return Action::None;
    }
    match secret.labels().get(INVALID_SINCE).and_then(|text| date(text)) {
        None => Action::Mark(day(now)),
        Some(since) if since >= last_day => Action::None,
        Some(_) => Action::Delete,
    }
}

/// The Secrets a pod uses in any way.
fn secrets_of(pod: &Pod) -> BTreeSet<&str> {
    let Some(spec) = &pod.spec else { return BTreeSet::new() };
    let pulling = spec.image_pull_secrets.iter().flatten().map(|reference| Some(reference.name.as_str()));
    let volumes = spec.volumes.iter().flatten().flat_map(|volume| {
        let whole = volume.secret.as_ref().and_then(|source| source.secret_name.as_deref());
        let parts = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        parts.map(|part| part.secret.as_ref().map(|secret| secret.name.as_str())).chain([whole])
    });
    let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    pulling.chain(volumes).chain(all.flat_map(in_environment)).flatten().collect()
}

fn in_environment(container: &Container) -> impl Iterator<Item = Option<&str>> {
    let whole = container.env_from.iter().flatten();
    let whole = whole.map(|from| from.secret_ref.as_ref().map(|reference| reference.name.as_str()));
    let single = container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref());
    whole.chain(single.map(|from| from.secret_key_ref.as_ref().map(|reference| reference.name.as_str())))
}

#[derive(Clone)]
struct Cleaner {
    context: Context,
    secrets: Informer<Secret>,
    accounts: Informer<ServiceAccount>,
    pods: Informer<Pod>,
}

pub(crate) async fn run(context: Context, stop: CancellationToken) {
    let secrets = context.informers.of_selected::<Secret>(Selector::fields("type=kubernetes.io/service-account-token"));
    let accounts = context.informers.of::<ServiceAccount>();
    let pods = context.informers.of::<Pod>();
    if !synced(&stop, async { secrets.synced().await && accounts.synced().await && pods.synced().await }).await {
        return;
    }
    let queue: Queue<Key> = Queue::new();
    let feeds = feed(&secrets, &queue, |change| [Key::of(change.object().as_ref())]);
    let cleaner = Cleaner { context, secrets: secrets.clone(), accounts, pods };
    let reconcile = |key: Key| {
        let cleaner = cleaner.clone();
        async move { cleaner.clean(&key).await }
    };
    let run = run_controller("legacy-service-account-token-cleaner", queue.clone(), WORKERS, stop, reconcile);
    run_with_feeds(run, feeds).await;
}

impl Cleaner {
    async fn clean(&self, key: &Key) -> Result<Option<Duration>, ReconcileError> {
        let Some(secret) = self.secrets.get(&key.namespace, &key.name) else { return Ok(None) };
        let account = secret.annotations().get(ACCOUNT_NAME).and_then(|name| self.accounts.get(&key.namespace, name));
        let mounted = || {
            let pods = self.pods.namespace(&key.namespace);
            pods.iter().any(|pod| secrets_of(pod).contains(key.name.as_str()))
        };
        let now = self.context.config.clock.now();
        let old =
            secret.metadata.creation_timestamp.as_ref().is_some_and(|created| now.duration_since(created.0) > UNUSED);
        let tracked = if old { self.tracked_since().await? } else { None };
        let api = self.context.api::<Secret>(&key.namespace);
        let result = match decide(&secret, account.as_deref(), tracked, mounted, now) {
            Action::None => Ok(()),
            Action::Mark(day) => {
                let labels = json!({(INVALID_SINCE): day.strftime(DATE).to_string()});
                let meta = json!({"uid": secret.uid(), "resourceVersion": secret.resource_version(), "labels": labels});
                let patch = Patch::Merge(json!({"metadata": meta}));
                gone_is_done(api.patch(&key.name, &PatchParams::default(), &patch).await)
            }
            Action::Delete => {
                let preconditions = Preconditions { uid: secret.uid(), resource_version: secret.resource_version() };
                let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
                gone_is_done(api.delete(&key.name, &params).await)
            }
        };
        match result {
            // used or changed meanwhile, of which the cache will tell
            Err(error) if is_conflict(&error) => Ok(Some(PERIOD)),
            result => result.map(|()| Some(PERIOD)).map_err(failed("clean token secret", key)),
        }
    }

    async fn tracked_since(&self) -> Result<Option<Date>, ReconcileError> {
        let found = self.context.api::<ConfigMap>(TRACKING.0).get_opt(TRACKING.1).await;
        let found = found.map_err(failed("read config map", TRACKING.1))?;
        Ok(found.and_then(|map| date(map.data?.get(SINCE)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(created: &str, labels: serde_json::Value) -> Secret {
        serde_json::from_value(json!({"metadata": {"name": "web-token", "namespace": "n", "labels": labels,
            "creationTimestamp": created, "annotations": {(ACCOUNT_NAME): "web", (ACCOUNT_UID): "u"}}}))
        .unwrap()
    }

    #[test]
    fn tokens_nobody_uses_are_marked_and_then_deleted() {
        let now: Timestamp = "2026-06-15T12:00:00Z".parse().unwrap();
        let account: ServiceAccount = serde_json::from_value(
            json!({"metadata": {"name": "web", "uid": "u"}, "secrets": [{"name": "web-token"}]}),
        )
        .unwrap();
        let stranger: ServiceAccount = serde_json::from_value(json!({"metadata": {"uid": "u"}})).unwrap();
        let another: ServiceAccount =
            serde_json::from_value(json!({"metadata": {"uid": "v"}, "secrets": [{"name": "web-token"}]})).unwrap();
        let early = "2025-01-01T00:00:00Z";
        let unused = || secret(early, json!({}));
        let (some, tracked) = (Some(&account), date("2025-06-14"));
        let today = date("2026-06-15").unwrap();
        for (what, secret, account, tracked, mounted, expected) in [
            ("unused", unused(), some, tracked, false, Action::Mark(today)),
            ("young", secret("2025-07-01T00:00:00Z", json!({})), some, tracked, false, Action::None),
            ("not tracked", unused(), some, None, false, Action::None),
            ("not tracked for long", unused(), some, date("2025-06-15"), false, Action::None),
            ("without account", unused(), None, tracked, false, Action::None),
            ("made by hand", unused(), Some(&stranger), tracked, false, Action::None),
            ("of another account", unused(), Some(&another), tracked, false, Action::None),
            ("mounted", unused(), some, tracked, true, Action::None),
            ("used", secret(early, json!({(LAST_USED): "2025-06-15"})), some, tracked, false, Action::None),
            (
                "used before",
                secret(early, json!({(LAST_USED): "2025-06-14"})),
                some,
                tracked,
                false,
                Action::Mark(today),
            ),
            ("used who knows when", secret(early, json!({(LAST_USED): "lately"})), some, tracked, false, Action::None),
            ("marked", secret(early, json!({(INVALID_SINCE): "2025-06-15"})), some, tracked, false, Action::None),
            (
                "marked for long",
                secret(early, json!({(INVALID_SINCE): "2025-06-14"})),
                some,
                tracked,
                false,
                Action::Delete,
            ),
            (
                "marked who knows when",
                secret(early, json!({(INVALID_SINCE): "x"})),
                some,
                tracked,
                false,
                Action::Mark(today),
            ),
        ] {
            assert_eq!(decide(&secret, account, tracked, || mounted, now), expected, "{what}");
        }
    }

    #[test]
    fn a_pod_uses_secrets_in_many_ways() {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "imagePullSecrets": [{"name": "pull"}],
            "volumes": [{"name": "a", "secret": {"secretName": "whole"}}, {"name": "b", "emptyDir": {}},
                {"name": "c", "projected": {"sources": [{"secret": {"name": "part"}}, {"configMap": {"name": "no"}}]}}],
            "initContainers": [{"name": "i", "envFrom": [{"secretRef": {"name": "all"}}, {"configMapRef": {"name": "no"}}]}],
            "containers": [{"name": "c", "env": [{"name": "A", "value": "no"},
                {"name": "B", "valueFrom": {"secretKeyRef": {"name": "key", "key": "k"}}}]}]}}))
        .unwrap();
        assert_eq!(secrets_of(&pod).into_iter().collect::<Vec<_>>(), ["all", "key", "part", "pull", "whole"]);
        assert!(secrets_of(&Pod::default()).is_empty());
    }
}
