//! Bodies of answers, written in an object or kept in a ConfigMap.

use bytes::Bytes;
use kinds::envoy_gateway::CustomBody;
use reconcile::Key;

use super::{
    filters::unsupported,
    lookup::{Seen, is},
    verdict::Fault,
};

/// Where a ConfigMap has the body.
const BODY: &str = "response.body";

/// The body that an object of a namespace asks for.
pub(crate) fn custom(seen: &Seen<'_>, own: &str, from: &CustomBody) -> Result<Bytes, Fault> {
    if from.type_.as_deref().unwrap_or("Inline") == "Inline" {
        let inline = from.inline.clone().ok_or_else(|| unsupported("body.inline must be set for type Inline"))?;
        return Ok(inline.into());
    }
    let reference =
        from.value_ref.as_ref().ok_or_else(|| unsupported("body.valueRef must be set for type ValueRef"))?;
    if !is(Some(&reference.group), Some(&reference.kind), ("", "ConfigMap")) {
        return Err(unsupported("body.valueRef: only ConfigMap is supported for ValueRef"));
    }
    let key = Key::new(own, &reference.name);
    let map = seen.config_map(&key);
    let map = map.ok_or_else(|| unsupported(format!("can't find the referenced configmap {}", key.name)))?;
    let (texts, bytes) = (map.data.iter().flatten(), map.binary_data.iter().flatten());
    let entries = texts.map(|(name, text)| (name, text.as_bytes())).chain(bytes.map(|(name, bytes)| (name, &*bytes.0)));
    let entries: Vec<_> = entries.collect();
    let found = entries.iter().find(|(name, _)| *name == BODY).or(entries.first());
    let missing = || unsupported(format!("can't find the key {BODY} in the referenced configmap {}", key.name));
    found.map(|(_, body)| Bytes::copy_from_slice(body)).ok_or_else(missing)
}
