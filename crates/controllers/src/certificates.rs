//! CertificateSigningRequests: approves what machines ask for by themselves, issues what was approved, and removes
//! requests that nobody needs any more.
//!
//! Each of the three is a controller of its own, as upstream; they share how a request is read.

use std::time::Duration;

use identity::CertificateRequest;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use reconcile::{Change, Informer, Queue, feed, run_controller};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::context::{Context, ReconcileError, failed, is_not_found, run_with_feeds, synced};

pub(crate) mod approver;
pub(crate) mod cleaner;
mod requirements;
pub(crate) mod signer;

const APPROVED: &str = "Approved";
const DENIED: &str = "Denied";
const FAILED: &str = "Failed";
/// Requests are independent of each other; a handful hides the latency of writes.
const WORKERS: usize = 4;

fn conditions(request: &CertificateSigningRequest) -> &[CertificateSigningRequestCondition] {
    request.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default()
}

fn has(request: &CertificateSigningRequest, kind: &str) -> bool {
    conditions(request).iter().any(|condition| condition.type_ == kind)
}

fn certificate(request: &CertificateSigningRequest) -> Option<&[u8]> {
    let issued = request.status.as_ref()?.certificate.as_ref()?;
    (!issued.0.is_empty()).then_some(&issued.0)
}

fn parsed(request: &CertificateSigningRequest) -> Option<CertificateRequest> {
    CertificateRequest::parse(&request.spec.request.0).ok()
}

fn usages(request: &CertificateSigningRequest) -> Vec<&str> {
    request.spec.usages.iter().flatten().map(String::as_str).collect()
}

/// The conditions of `request`, and one more.
fn with_condition(request: &CertificateSigningRequest, kind: &str, reason: &str, message: &str) -> Value {
    let now = Time(jiff::Timestamp::now());
    let mut all = conditions(request).to_vec();
    all.push(CertificateSigningRequestCondition {
        type_: kind.into(),
        status: "True".into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_update_time: Some(now),
        last_transition_time: None,
    });
    json!({"conditions": all})
}

/// Changes the status through a subresource, if nobody else changed the request meanwhile.
async fn change(
    context: &Context,
    request: &CertificateSigningRequest,
    subresource: &str,
    status: Value,
) -> Result<(), ReconcileError> {
    let name = request.name_any();
    let patch = json!({"metadata": {"resourceVersion": request.resource_version()}, "status": status});
    let api = context.api_all::<CertificateSigningRequest>();
    match api.patch_subresource(subresource, &name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Err(error) if is_not_found(&error) => Ok(()),
        other => other.map(drop).map_err(failed("update certificate signing request", name)),
    }
}

/// Runs `reconcile` for every request, and again at each of its changes.
async fn for_each<F, Fut>(name: &'static str, context: Context, stop: CancellationToken, reconcile: F)
where
    F: Fn(Context, CertificateSigningRequest) -> Fut,
    Fut: Future<Output = Result<Option<Duration>, ReconcileError>> + Send + 'static,
{
    let requests: Informer<CertificateSigningRequest> = context.informers.of();
    if !synced(&stop, requests.synced()).await {
        return;
    }
    let queue: Queue<String> = Queue::new();
    let feed = feed(&requests, &queue, |change| match change {
        Change::Applied { new, .. } => Some(new.name_any()),
        Change::Deleted(_) => None,
    });
    let run = run_controller(name, queue.clone(), WORKERS, stop, |name: String| {
        let request = requests.get("", &name).map(|request| reconcile(context.clone(), (*request).clone()));
        async move {
            match request {
                Some(work) => work.await,
                None => Ok(None),
            }
        }
    });
    run_with_feeds(run, feed).await;
}
