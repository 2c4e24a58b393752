//! Approves the client certificates that machines ask for, when whoever asks may have them without anybody looking:
//! permission to create `certificatesigningrequests/nodeclient`, or `selfnodeclient` for one's own name.

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::ResourceExt;
use kube::api::PostParams;
use tokio_util::sync::CancellationToken;

use super::{APPROVED, DENIED, certificate, change, for_each, has, parsed, requirements, usages, with_condition};
use crate::context::{Context, ReconcileError, failed};

/// A kind of request that may be approved without anybody looking.
#[derive(Debug, PartialEq)]
struct Recognised {
    subresource: &'static str,
    message: &'static str,
}

const SELF_NODE_CLIENT: Recognised = Recognised {
    subresource: "selfnodeclient",
    message: "Auto approving self kubelet client certificate after SubjectAccessReview.",
};
const NODE_CLIENT: Recognised = Recognised {
    subresource: "nodeclient",
    message: "Auto approving kubelet client certificate after SubjectAccessReview.",
};

/// What a request is recognised as, in the order in which it is tried.
fn recognise(request: &CertificateSigningRequest) -> Vec<Recognised> {
    let decided = certificate(request).is_some() || has(request, APPROVED) || has(request, DENIED);
    if decided || request.spec.signer_name != requirements::KUBE_API_SERVER_CLIENT_KUBELET {
        return Vec::new();
    }
    let Some(asked) = parsed(request) else { return Vec::new() };
    if requirements::kubelet_client(&asked, &usages(request)).is_err() {
        return Vec::new();
    }
    if request.spec.username.as_deref() == Some(&asked.common_name) {
        vec![SELF_NODE_CLIENT, NODE_CLIENT]
    } else {
        vec![NODE_CLIENT]
    }
}

pub(crate) async fn run(context: Context, stop: CancellationToken) {
    for_each("csrapproving", context, stop, |context, request| async move {
        for recognised in recognise(&request) {
            if may(&context, &request, recognised.subresource).await? {
                let status = with_condition(&request, APPROVED, "AutoApproved", recognised.message);
                change(&context, &request, "approval", status).await?;
                break;
            }
        }
        Ok(None)
    })
    .await;
}

/// Whether who asks may have such a certificate.
async fn may(
    context: &Context,
    request: &CertificateSigningRequest,
    subresource: &str,
) -> Result<bool, ReconcileError> {
    let spec = &request.spec;
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: spec.username.clone(),
            uid: spec.uid.clone(),
            groups: spec.groups.clone(),
            extra: spec.extra.clone(),
            resource_attributes: Some(ResourceAttributes {
                group: Some("certificates.k8s.io".into()),
                resource: Some("certificatesigningrequests".into()),
                verb: Some("create".into()),
                subresource: Some(subresource.into()),
                version: Some("*".into()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let answer = context.api_all::<SubjectAccessReview>().create(&PostParams::default(), &review).await;
    let answer = answer.map_err(failed("review the access of", request.name_any()))?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use serde_json::json;

    use super::*;

    fn request(user: &str, signer: &str) -> CertificateSigningRequest {
        let mut request: CertificateSigningRequest =
            serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": {
            "request": "", "signerName": signer, "username": user, "usages": ["digital signature", "client auth"]}}))
            .unwrap();
        request.spec.request = ByteString(include_bytes!("requirements/node.csr").to_vec());
        request
    }

    #[test]
    fn only_undecided_requests_of_machines_are_recognised() {
        let kubelet = requirements::KUBE_API_SERVER_CLIENT_KUBELET;
        assert_eq!(recognise(&request("system:bootstrap:abcdef", kubelet)), [NODE_CLIENT]);
        assert_eq!(recognise(&request("system:node:a", kubelet)), [SELF_NODE_CLIENT, NODE_CLIENT]);
        assert_eq!(recognise(&request("system:node:a", requirements::KUBE_API_SERVER_CLIENT)), []);
        let mut denied = request("system:node:a", kubelet);
        denied.status = serde_json::from_value(json!({"conditions": [{"type": "Denied", "status": "True"}]})).unwrap();
        assert_eq!(recognise(&denied), []);
        let mut junk = request("system:node:a", kubelet);
        junk.spec.request = ByteString(b"junk".to_vec());
        assert_eq!(recognise(&junk), []);
    }
}
