//! Two documents, split at a zero byte, as object and patch: every patch format and the tracking of fields.
#![no_main]

use libfuzzer_sys::fuzz_target;
use schema::apply::{Manager, Operation, apply, track_update};
use schema::{builtin, json, patch, prune};

fuzz_target!(|bytes: &[u8]| {
    let at = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let (first, second) = bytes.split_at(at);
    let (Ok((object, _)), Ok((change, _))) = (json::parse(first), json::parse(second.get(1..).unwrap_or_default()))
    else {
        return;
    };
    let Some(schema) = builtin().get("io.k8s.api.core.v1.Pod") else { return };
    let manager = |operation| Manager {
        name: "fuzz".to_owned(),
        operation,
        api_version: "v1".to_owned(),
        subresource: String::new(),
        time: "2026-01-01T00:00:00Z".to_owned(),
        reset: &["status"],
        only: &[],
    };
    let _ = patch::json(&mut object.clone(), &change);
    patch::merge(&mut object.clone(), &change);
    let mut patched = object.clone();
    if patch::strategic(&schema, &mut patched, &change).is_ok() {
        let _ = track_update(&schema, Some(&object), &mut patched, &manager(Operation::Update));
    }
    let mut config = change;
    let _ = prune(&schema, &mut config);
    let _ = apply(&schema, Some(&object), &config, &manager(Operation::Apply), true);
});
