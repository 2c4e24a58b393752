//! Tokens and certificates that controllers make.

use k8s_openapi::ByteString;
use k8s_openapi::api::authentication::v1::TokenReview;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, ServiceAccount};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::cluster::{Cluster, object};

#[tokio::test]
async fn a_secret_gets_a_token_that_works_until_its_account_goes() {
    let cluster = Cluster::start(0).await;
    cluster.create::<ServiceAccount>(json!({"metadata": {"name": "robot"}})).await;
    let secret = json!({"metadata": {"name": "robot-token", "annotations": {"kubernetes.io/service-account.name": "robot"}},
        "type": "kubernetes.io/service-account-token"});
    cluster.create::<Secret>(secret).await;
    let has_token = |secret: &Secret| secret.data.as_ref().is_some_and(|data| data.contains_key("token"));
    let filled = cluster.until_one::<Secret>("robot-token", "it is filled", has_token).await;
    let data = filled.data.clone().unwrap();
    assert_eq!((&data["ca.crt"].0[..], &data["namespace"].0[..]), (&b"the ca"[..], &b"default"[..]));
    let token = String::from_utf8(data["token"].0.clone()).unwrap();
    let review: TokenReview = object(json!({"spec": {"token": token}}));
    let reviews: Api<TokenReview> = Api::all(cluster.client.clone());
    let status = reviews.create(&PostParams::default(), &review).await.unwrap().status.unwrap();
    assert_eq!(status.user.unwrap().username.unwrap(), "system:serviceaccount:default:robot");
    // the use is written down
    let marked = |secret: &Secret| {
        secret.metadata.labels.iter().flatten().any(|(key, _)| key == "kubernetes.io/legacy-token-last-used")
    };
    cluster.until_one::<Secret>("robot-token", "its use is marked", marked).await;
    cluster.api::<ServiceAccount>().delete("robot", &DeleteParams::default()).await.unwrap();
    cluster
        .until::<Secret>("the secret goes", |secrets| {
            !secrets.iter().any(|secret| secret.metadata.name.as_deref() == Some("robot-token"))
        })
        .await;
    cluster.stop().await;
}

fn request(name: &str, signer: &str, usages: &[&str]) -> CertificateSigningRequest {
    let mut request: CertificateSigningRequest = object(json!({"metadata": {"name": name},
        "spec": {"request": "", "signerName": signer, "usages": usages, "expirationSeconds": 3600}}));
    let text = include_bytes!("../../src/certificates/requirements/node.csr");
    request.spec.request = ByteString(text.to_vec());
    request
}

#[tokio::test]
async fn requests_are_approved_issued_and_failed_as_their_signer_demands() {
    let cluster = Cluster::start(0).await;
    let requests: Api<CertificateSigningRequest> = Api::all(cluster.client.clone());
    let client = ["digital signature", "client auth"];
    // who asks is a cluster administrator, who may have a machine's certificate without anybody looking
    let machine = request("machine", "kubernetes.io/kube-apiserver-client-kubelet", &client);
    requests.create(&PostParams::default(), &machine).await.unwrap();
    let issued = |request: &CertificateSigningRequest| request.status.as_ref().is_some_and(|s| s.certificate.is_some());
    let done = cluster.until_one("machine", "it is issued", issued).await;
    let status = done.status.clone().unwrap();
    assert_eq!(status.conditions.unwrap()[0].reason.as_deref(), Some("AutoApproved"));
    let certificate = String::from_utf8(status.certificate.unwrap().0).unwrap();
    let (from, until) = identity::validity(&certificate).unwrap();
    assert!((3590..=3910).contains(&until.duration_since(from).as_secs()), "{from} {until}");
    let serving = request("serving", "kubernetes.io/kubelet-serving", &["digital signature", "server auth"]);
    requests.create(&PostParams::default(), &serving).await.unwrap();
    let approval = json!({"status": {"conditions": [{"type": "Approved", "status": "True", "reason": "x"}]}});
    requests.patch_subresource("approval", "serving", &PatchParams::default(), &Patch::Merge(approval)).await.unwrap();
    let failed = |request: &CertificateSigningRequest| {
        let conditions = request.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.into_iter().any(|condition| condition.type_ == "Failed")
    };
    let failed = cluster.until_one("serving", "it fails", failed).await;
    let conditions = failed.status.clone().unwrap().conditions.unwrap();
    let why = conditions.iter().find(|condition| condition.type_ == "Failed").unwrap().message.as_deref();
    assert_eq!(why, Some("DNS or IP subjectAltName is required"));
    cluster.stop().await;
}

#[tokio::test]
async fn cluster_info_is_signed_while_a_token_lives() {
    let cluster = Cluster::start(0).await;
    let info: ConfigMap = object(json!({"metadata": {"name": "cluster-info"}, "data": {"kubeconfig": "k"}}));
    let infos: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "kube-public");
    infos.create(&PostParams::default(), &info).await.unwrap();
    let mut token: Secret =
        object(json!({"metadata": {"name": "bootstrap-token-abcdef"}, "type": "bootstrap.kubernetes.io/token"}));
    let expiration = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(3);
    let entries = [("token-id", "abcdef"), ("token-secret", "0123456789abcdef"), ("usage-bootstrap-signing", "true")];
    let entries = entries.into_iter().map(|(key, value)| (key, value.to_owned()));
    let data = entries.chain([("expiration", expiration.to_string())]);
    token.data = Some(data.map(|(key, value)| (key.to_owned(), ByteString(value.into_bytes()))).collect());
    let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), "kube-system");
    secrets.create(&PostParams::default(), &token).await.unwrap();
    let signed = |info: &ConfigMap| info.data.as_ref().is_some_and(|data| data.contains_key("jws-kubeconfig-abcdef"));
    cluster.until_one::<ConfigMap>("cluster-info", "it is signed", signed).await;
    cluster.until_one::<ConfigMap>("cluster-info", "the signature goes", |info| !signed(info)).await;
    cluster.until::<Secret>("the token goes", |secrets| secrets.is_empty()).await;
    cluster.stop().await;
}
