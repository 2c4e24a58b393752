//! Who may approve and sign certificate requests.

use serde_json::Value;

use super::{AdmissionError, AdmissionRequest, Operation};
use crate::{
    authorization::{Attributes, Authorizer, Decision},
    strategy::tree::{self, text_at},
};

/// Checks a write of a CertificateSigningRequest.
pub(crate) fn check(
    authorizer: &Authorizer,
    request: &AdmissionRequest<'_>,
    object: &Value,
) -> Result<(), AdmissionError> {
    if request.resource.group != "certificates.k8s.io" || request.resource.plural != "certificatesigningrequests" {
        return Ok(());
    }
    match (request.operation, request.subresource, request.old) {
        (Operation::Update, Some("approval"), Some(old)) => {
            let signer = text_at(old, &["spec", "signerName"]);
            if may(authorizer, request, "approve", signer) {
                return Ok(());
            }
            let why = format!("user not permitted to approve requests with signerName {signer:?}");
            Err(AdmissionError::forbidden(request, why))
        }
        (Operation::Update, Some("status"), Some(old)) => {
            let status = |object: &'_ Value, key: &str| tree::at(object, &["status", key]).cloned();
            let same = |key: &str| status(object, key) == status(old, key);
            let signer = text_at(old, &["spec", "signerName"]);
            if (same("certificate") && same("conditions")) || may(authorizer, request, "sign", signer) {
                return Ok(());
            }
            let why = format!("user not permitted to sign requests with signerName {signer:?}");
            Err(AdmissionError::forbidden(request, why))
        }
        _ => Ok(()),
    }
}

/// Whether the user has the verb on the signer, or on all signers of its domain.
fn may(authorizer: &Authorizer, request: &AdmissionRequest<'_>, verb: &str, signer: &str) -> bool {
    let domain = format!("{}/*", signer.split('/').next().unwrap_or_default());
    [signer, &domain].into_iter().any(|name| {
        let attributes = Attributes {
            user: request.user,
            verb,
            group: "certificates.k8s.io",
            resource: "signers",
            subresource: "",
            namespace: "",
            name,
            path: None,
        };
        authorizer.authorize(&attributes) == Decision::Allow
    })
}
