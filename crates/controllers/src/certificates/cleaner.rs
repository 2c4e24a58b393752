//! Removes requests that nobody needs any more: answered ones after an hour, unanswered ones after a day, and those whose
//! certificate has ended.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::ResourceExt;
use kube::api::{DeleteParams, Preconditions};
use tokio_util::sync::CancellationToken;

use super::{APPROVED, DENIED, FAILED, certificate, conditions, for_each};
use crate::context::{Context, failed, gone_is_done};

/// How long an answered request stays, as upstream.
const ANSWERED: Duration = Duration::from_secs(3600);
/// How long a request waits for an answer, as upstream.
const PENDING: Duration = Duration::from_secs(24 * 3600);

/// When a request is to go.
fn ends(request: &CertificateSigningRequest) -> Option<Timestamp> {
    let answered = |kind: &str| {
        let condition = conditions(request).iter().find(|condition| condition.type_ == kind)?;
        condition.last_update_time.as_ref()?.0.checked_add(ANSWERED).ok()
    };
    let expires = || {
        let issued = str::from_utf8(certificate(request)?).ok()?;
        identity::validity(issued).map(|(_, not_after)| not_after)
    };
    let pending = || {
        let unanswered = certificate(request).is_none() && conditions(request).is_empty();
        let created = request.metadata.creation_timestamp.as_ref().filter(|_| unanswered)?;
        created.0.checked_add(PENDING).ok()
    };
    [answered(APPROVED), answered(DENIED), answered(FAILED), expires(), pending()].into_iter().flatten().min()
}

pub(crate) async fn run(context: Context, stop: CancellationToken) {
    for_each("csrcleaner", context, stop, |context, request| async move {
        let Some(at) = ends(&request) else { return Ok(None) };
        let left = Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or(Duration::ZERO);
        if !left.is_zero() {
            return Ok(Some(left));
        }
        let preconditions = Preconditions { uid: request.uid(), resource_version: request.resource_version() };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let name = request.name_any();
        let deleted = context.api_all::<CertificateSigningRequest>().delete(&name, &params).await;
        gone_is_done(deleted).map_err(failed("delete certificate signing request", name))?;
        Ok(None)
    })
    .await;
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn request(status: Value) -> CertificateSigningRequest {
        serde_json::from_value(json!({"metadata": {"name": "a", "creationTimestamp": "2026-11-22T12:00:00Z"},
            "spec": {"request": "", "signerName": "a/b"}, "status": status}))
        .unwrap()
    }

    #[test]
    fn answered_requests_stay_an_hour_and_others_a_day() {
        let condition = |kind: &str| {
            json!({"conditions": [
            {"type": kind, "status": "True", "lastUpdateTime": "2026-11-22T13:00:00Z"}]})
        };
        let at = |text: &str| Some(text.parse().unwrap());
        assert_eq!(ends(&request(json!({}))), at("2026-11-23T12:00:00Z"));
        for kind in [APPROVED, DENIED, FAILED] {
            assert_eq!(ends(&request(condition(kind))), at("2026-11-22T14:00:00Z"), "{kind}");
        }
        assert_eq!(ends(&request(condition("Other"))), None);
    }
}
