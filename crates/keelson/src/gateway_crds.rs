//! The CustomResourceDefinitions of the Gateway API that Keelson implements, installed at start.
//!
//! On other clusters they come with the Gateway API release; here they are part of the platform. They are packed by
//! `scripts/embed-crds`.

use std::io::Read;

use anyhow::Context;
use serde_json::Value;

const PATH: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const PACKED: &[u8] = include_bytes!("../data/gateway-api-crds.json.gz");

fn unpack() -> anyhow::Result<Vec<Value>> {
    let mut json = String::new();
    flate2::read::GzDecoder::new(PACKED).read_to_string(&mut json).context("unpack the Gateway API definitions")?;
    serde_json::from_str(&json).context("read the Gateway API definitions")
}

/// Creates the definitions that are missing. One that is there is left alone: the user may run another release.
pub(crate) async fn install(client: kube::Client) -> anyhow::Result<()> {
    for definition in unpack()? {
        let name = definition["metadata"]["name"].as_str().unwrap_or_default();
        let request = http::Request::post(PATH)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(serde_json::to_vec(&definition).context("encode a definition")?)
            .context("build a request")?;
        match client.request_text(request).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(kube::Error::Api(status)) => anyhow::bail!("install the definition {name}: {}", status.message),
            Err(error) => return Err(error).with_context(|| format!("install the definition {name}")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
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
            ]
        );
    }
}
