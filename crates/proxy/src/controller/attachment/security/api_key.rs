//! `apiKeyAuth`: keys that clients have, out of Secrets.

use std::{collections::HashSet, sync::Arc};

use http::HeaderValue;
use kinds::envoy_gateway::{ApiKeyAuth as Spec, KeySource};

use super::{From, header, invalid, known};
use crate::{
    controller::verdict::Fault,
    routing::{ApiKeyAuth, ApiKeys, KeyPlace},
};

pub(super) fn compile(from: &From<'_>, spec: &Spec) -> Result<ApiKeyAuth, Fault> {
    known("spec.apiKeyAuth.", &spec.unread)?;
    let (mut keys, mut clients) = (ApiKeys::default(), HashSet::new());
    for reference in &spec.credential_refs {
        let (key, secret) = from.secret(reference)?;
        for (client, value) in secret.data.iter().flatten() {
            if !clients.insert(client.clone()) {
                // The first Secret with a client counts.
                continue;
            }
            let name = HeaderValue::try_from(client);
            let name = name.map_err(|_| invalid(format!("secret {key}: {client:?} cannot be told in a header")))?;
            if !keys.insert(name, &value.0) {
                return Err(invalid("duplicated API key"));
            }
        }
    }
    let places: Vec<Vec<KeyPlace>> = spec.extract_from.iter().map(places).collect::<Result<_, _>>()?;
    let forward = spec.forward_client_id_header.as_deref();
    let forward = forward.map(|name| header("spec.apiKeyAuth.forwardClientIDHeader", name)).transpose()?;
    Ok(ApiKeyAuth {
        keys: Arc::new(keys),
        places: places.into_iter().flatten().collect(),
        forward,
        sanitize: spec.sanitize.unwrap_or(false),
    })
}

fn places(source: &KeySource) -> Result<Vec<KeyPlace>, Fault> {
    let kinds = [&source.headers, &source.params, &source.cookies];
    if kinds.iter().filter(|names| !names.is_empty()).count() > 1 {
        return Err(invalid("only one of headers, params or cookies must be specified"));
    }
    let headers = source.headers.iter();
    let headers = headers.map(|name| header("spec.apiKeyAuth.extractFrom", name).map(KeyPlace::Header));
    let parameters = source.params.iter().map(|name| Ok(KeyPlace::Parameter(name.as_str().into())));
    let cookies = source.cookies.iter().map(|name| Ok(KeyPlace::Cookie(name.as_str().into())));
    headers.chain(parameters).chain(cookies).collect()
}
