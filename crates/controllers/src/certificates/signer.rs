//! Issues the certificates of approved requests to the built-in signers.

use identity::Usages;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::ResourceExt;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{
    APPROVED, DENIED, FAILED, certificate, change, for_each, has, parsed, requirements, usages, with_condition,
};
use crate::context::Context;

/// Life of a certificate that asks for none, and the longest there is: upstream's default.
const SECONDS_MAX: i64 = 365 * 24 * 3600;
/// Shortest life.
const SECONDS_MIN: i64 = 600;

/// What a request needs.
#[derive(Debug, PartialEq)]
enum Action {
    None,
    /// It can never be granted.
    Fail(String),
    Issue,
}

fn decide(request: &CertificateSigningRequest) -> Action {
    let open = certificate(request).is_none() && !has(request, DENIED) && !has(request, FAILED);
    if !open || !has(request, APPROVED) {
        return Action::None;
    }
    // what the API let in can be read; what cannot is left alone, as upstream does
    let Some(asked) = parsed(request) else { return Action::None };
    let usages = usages(request);
    match requirements::check(&request.spec.signer_name, &asked, &usages) {
        None => Action::None,
        Some(Err(why)) => Action::Fail(why),
        Some(Ok(())) => Action::Issue,
    }
}

fn seconds(request: &CertificateSigningRequest) -> i64 {
    request.spec.expiration_seconds.map_or(SECONDS_MAX, |seconds| i64::from(seconds).clamp(SECONDS_MIN, SECONDS_MAX))
}

pub(crate) async fn run(context: Context, stop: CancellationToken) {
    if context.config.keys.is_none() {
        return stop.cancelled().await;
    }
    for_each("csrsigning", context, stop, |context, request| async move {
        let failure = |why: &str| with_condition(&request, FAILED, "SignerValidationFailure", why);
        let status = match decide(&request) {
            Action::None => return Ok(None),
            Action::Fail(why) => failure(&why),
            Action::Issue => match issue(&context, &request) {
                Ok(status) => status,
                Err(error) => {
                    tracing::warn!(request = request.name_any(), error, "a certificate could not be issued");
                    return Ok(None);
                }
            },
        };
        change(&context, &request, "status", status).await?;
        Ok(None)
    })
    .await;
}

fn issue(context: &Context, request: &CertificateSigningRequest) -> Result<Value, String> {
    let keys = context.config.keys.as_ref().ok_or("there is no certificate authority")?;
    let asked = parsed(request).ok_or("the request cannot be read")?;
    let usages = Usages::named(usages(request)).map_err(|error| error.to_string())?;
    let issued = keys.authority.issue(&asked, &usages, seconds(request), Timestamp::now());
    let issued = issued.map_err(|error| error.to_string())?;
    Ok(json!({"certificate": ByteString(issued.into_bytes())}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(signer: &str, conditions: &[&str]) -> CertificateSigningRequest {
        let conditions: Vec<_> = conditions.iter().map(|kind| json!({"type": kind, "status": "True"})).collect();
        let mut request: CertificateSigningRequest = serde_json::from_value(json!({"metadata": {"name": "a"},
            "spec": {"request": "", "signerName": signer, "usages": ["digital signature", "client auth"]},
            "status": {"conditions": conditions}}))
        .unwrap();
        request.spec.request = ByteString(include_bytes!("requirements/node.csr").to_vec());
        request
    }

    #[test]
    fn only_approved_requests_to_built_in_signers_are_granted() {
        let kubelet = requirements::KUBE_API_SERVER_CLIENT_KUBELET;
        assert_eq!(decide(&request(kubelet, &[APPROVED])), Action::Issue);
        for (signer, conditions) in [
            (kubelet, &[][..]),
            (kubelet, &[APPROVED, DENIED]),
            (kubelet, &[APPROVED, FAILED]),
            ("example.com/own", &[APPROVED]),
        ] {
            assert_eq!(decide(&request(signer, conditions)), Action::None, "{signer} {conditions:?}");
        }
        let serving = decide(&request(requirements::KUBELET_SERVING, &[APPROVED]));
        assert_eq!(serving, Action::Fail("DNS or IP subjectAltName is required".into()));
        let mut issued = request(kubelet, &[APPROVED]);
        issued.status.as_mut().unwrap().certificate = Some(ByteString(b"x".to_vec()));
        assert_eq!(decide(&issued), Action::None);
    }

    #[test]
    fn a_life_is_what_was_asked_for_within_bounds() {
        let mut request = request(requirements::LEGACY_UNKNOWN, &[]);
        assert_eq!(seconds(&request), SECONDS_MAX);
        for (asked, granted) in [(1, SECONDS_MIN), (3600, 3600), (i32::MAX, SECONDS_MAX)] {
            request.spec.expiration_seconds = Some(asked);
            assert_eq!(seconds(&request), granted);
        }
    }
}
