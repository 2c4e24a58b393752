//! Keeps a `default` ServiceAccount in every namespace that is not being deleted.

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::ResourceExt;
use kube::api::PostParams;
use reconcile::{Change, Queue, Selector, feed, run_controller};
use tokio_util::sync::CancellationToken;

use crate::context::{
    Context, ReconcileError, failed, is_already_exists, is_namespace_terminating, is_not_found, run_with_feeds, synced,
};

const DEFAULT: &str = "default";
/// Creations are independent of each other; a handful hides their latency.
const WORKERS: usize = 4;

pub(crate) async fn run(context: Context, stop: CancellationToken) {
    let namespaces = context.informers.of::<Namespace>();
    let accounts = context.informers.of_selected::<ServiceAccount>(Selector::fields("metadata.name=default"));
    if !synced(&stop, async { namespaces.synced().await && accounts.synced().await }).await {
        return;
    }
    let queue: Queue<String> = Queue::new();
    let from_namespaces = feed(&namespaces, &queue, |change| match change {
        Change::Applied { new, .. } => Some(new.name_any()),
        Change::Deleted(_) => None,
    });
    let from_accounts = feed(&accounts, &queue, |change| match change {
        Change::Applied { .. } => None,
        Change::Deleted(last) => last.namespace(),
    });
    let reconcile = |name: String| {
        let (context, namespaces, accounts) = (context.clone(), namespaces.clone(), accounts.clone());
        async move {
            let wanted = namespaces.get("", &name).is_some_and(|ns| ns.metadata.deletion_timestamp.is_none());
            if !wanted || accounts.get(&name, DEFAULT).is_some() {
                return Ok::<_, ReconcileError>(None);
            }
            let account = ServiceAccount {
                metadata: kube::core::ObjectMeta { name: Some(DEFAULT.into()), ..Default::default() },
                ..ServiceAccount::default()
            };
            match context.api::<ServiceAccount>(&name).create(&PostParams::default(), &account).await {
                Err(e) if is_already_exists(&e) || is_not_found(&e) || is_namespace_terminating(&e) => Ok(None),
                Err(error) => Err(failed("create", format!("serviceaccount {name}/{DEFAULT}"))(error)),
                Ok(_) => Ok(None),
            }
        }
    };
    let run = run_controller("serviceaccount", queue.clone(), WORKERS, stop, reconcile);
    run_with_feeds(run, futures::future::join(from_namespaces, from_accounts)).await;
}
