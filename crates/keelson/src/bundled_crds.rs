//! The CustomResourceDefinitions that gateway and mesh implement, installed at start: the Gateway API's, Envoy Gateway's
//! kinds, those of Istio's that the mesh follows, and our own.
//!
//! On other clusters they come with those projects' releases; here they are part of the platform. They are packed by
//! `scripts/embed-crds`.

use std::io::Read;

use anyhow::Context;
use futures::future::try_join_all;
use serde_json::Value;

const PATH: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const PACKED: [&[u8]; 4] = [
    include_bytes!("../data/gateway-api-crds.json.gz"),
    include_bytes!("../data/envoy-gateway-crds.json.gz"),
    include_bytes!("../data/istio-crds.json.gz"),
    include_bytes!("../data/keelson-crds.json.gz"),
];

fn unpack() -> anyhow::Result<Vec<Value>> {
    let mut definitions = Vec::new();
    for packed in PACKED {
        let mut json = String::new();
        flate2::read::GzDecoder::new(packed).read_to_string(&mut json).context("unpack definitions")?;
        definitions.extend(serde_json::from_str::<Vec<Value>>(&json).context("read definitions")?);
    }
    Ok(definitions)
}

/// Creates the definitions that are missing, all at once: one wait for the disk serves them all. One that is there is
/// left alone: the user may run another release.
pub(crate) async fn install(client: kube::Client) -> anyhow::Result<()> {
    let definitions = unpack()?;
    try_join_all(definitions.iter().map(|definition| create(&client, definition))).await.map(drop)
}

async fn create(client: &kube::Client, definition: &Value) -> anyhow::Result<()> {
    let name = definition["metadata"]["name"].as_str().unwrap_or_default();
    let request = http::Request::post(PATH)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(serde_json::to_vec(definition).context("encode a definition")?)
        .context("build a request")?;
    match client.request_text(request).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(kube::Error::Api(status)) => anyhow::bail!("install the definition {name}: {}", status.message),
        Err(error) => Err(error).with_context(|| format!("install the definition {name}")),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn our_own_definitions_are_packed_as_they_are_written() {
        let written =
            serde_saphyr::from_multiple::<serde_json::Value>(include_str!("../data/keelson-crds.yaml")).unwrap();
        let packed = super::unpack().unwrap();
        let packed: Vec<_> = packed.iter().filter(|d| d["spec"]["group"] == "gateway.keelson.dev").collect();
        assert_eq!(
            packed,
            written.iter().collect::<Vec<_>>(),
            "scripts/embed-crds packs crates/keelson/data/keelson-crds.yaml"
        );
    }

    #[test]
    fn the_packed_definitions_are_the_ones_we_implement() {
        let definitions = super::unpack().unwrap();
        let names: Vec<_> = definitions.iter().map(|d| d["spec"]["names"]["plural"].as_str().unwrap()).collect();
        assert_eq!(
            names,
            [
                "backendtlspolicies",
                "gatewayclasses",
                "gateways",
                "grpcroutes",
                "httproutes",
                "listenersets",
                "referencegrants",
                "tcproutes",
                "tlsroutes",
                "udproutes",
                "backends",
                "backendtrafficpolicies",
                "clienttrafficpolicies",
                "httproutefilters",
                "securitypolicies",
                "destinationrules",
                "virtualservices",
                "authorizationpolicies",
                "peerauthentications",
                "requestauthentications",
                "idempotencyfilters",
                "apiversionfilters",
            ]
        );
    }
}
