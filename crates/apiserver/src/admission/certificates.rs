//! CertificateSigningRequests: only who may `approve` for a signer decides about its requests, only who may `sign` for it
//! issues, and nobody asks to become a member of `system:masters`.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use identity::CertificateRequest;
use serde_json::Value;
use strategy::{tree, user::GROUP_MASTERS};

use super::{AdmissionError, AdmissionRequest, Operation};
use crate::authorization::{Attributes, Authorizer, Decision};

const GROUP: &str = "certificates.k8s.io";
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

/// Checks a write of a request.
pub(crate) fn check(
    authorizer: &Authorizer,
    request: &AdmissionRequest<'_>,
    object: &Value,
) -> Result<(), AdmissionError> {
    if request.resource.group != GROUP || request.resource.plural != "certificatesigningrequests" {
        return Ok(());
    }
    match (request.operation, request.subresource, request.old) {
        (Operation::Create, None, _) => check_subject(request, object),
        // the old state says which signer it is about, whatever the new one says
        (Operation::Update, Some("approval"), Some(old)) => permitted(authorizer, request, old, "approve"),
        (Operation::Update, Some("status"), Some(old)) if !tree::same(object, old, "status") => {
            permitted(authorizer, request, old, "sign")
        }
        _ => Ok(()),
    }
}

fn check_subject(request: &AdmissionRequest<'_>, object: &Value) -> Result<(), AdmissionError> {
    if tree::text_at(object, &["spec", "signerName"]) != CLIENT_SIGNER {
        return Ok(());
    }
    let asked = STANDARD.decode(tree::text_at(object, &["spec", "request"])).unwrap_or_default();
    // what cannot be read is refused by validation
    let Ok(asked) = CertificateRequest::parse(&asked) else { return Ok(()) };
    if asked.organizations.iter().any(|group| group == GROUP_MASTERS) {
        let why = format!("use of {CLIENT_SIGNER} signer with {GROUP_MASTERS} group is not allowed");
        return Err(AdmissionError::forbidden(request, why));
    }
    Ok(())
}

fn permitted(
    authorizer: &Authorizer,
    request: &AdmissionRequest<'_>,
    object: &Value,
    verb: &str,
) -> Result<(), AdmissionError> {
    let signer = tree::text_at(object, &["spec", "signerName"]);
    let domain = format!("{}/*", signer.split('/').next().unwrap_or_default());
    let allowed = [signer, &domain].into_iter().any(|name| {
        let attributes = Attributes {
            user: request.user,
            verb,
            group: GROUP,
            resource: "signers",
            subresource: "",
            namespace: "",
            name,
            path: None,
        };
        authorizer.authorize(&attributes) == Decision::Allow
    });
    if allowed {
        return Ok(());
    }
    let why = format!("user not permitted to {verb} requests with signerName {signer:?}");
    Err(AdmissionError::forbidden(request, why))
}
