//! The manifests of docs/gateway.md, as a reader applies them.

use serde_json::Value;
use system_tests::{Instance, Options, eventually, need_root};

const PAGE: &str = include_str!("../../docs/gateway.md");

/// The manifests of the page.
fn manifests() -> Vec<&'static str> {
    let blocks = PAGE.split("```yaml\n").skip(1);
    blocks.filter_map(|block| block.split_once("```")).flat_map(|(yaml, _)| yaml.split("---\n")).collect()
}

/// The value of a field at the beginning of a line, or of `name` in the line of `metadata`.
fn field<'a>(manifest: &'a str, before: &str) -> &'a str {
    let line = manifest.lines().find_map(|line| line.strip_prefix(before)).expect("a manifest has it");
    line.split([',', '}']).next().unwrap_or(line).trim()
}

/// All conditions of an object that say whether it is served, wherever they are.
fn verdicts(object: &Value) -> Vec<String> {
    let status = &object["status"];
    let lists = ["parents", "ancestors"].into_iter().filter_map(|name| status[name].as_array()).flatten();
    let conditions = lists.map(|one| &one["conditions"]).chain([&status["conditions"]]).filter_map(Value::as_array);
    let told = conditions.flatten().filter(|c| c["type"] == "Accepted" || c["type"] == "ResolvedRefs");
    told.map(|c| c["status"].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn every_manifest_is_taken_and_served() {
    if !need_root("every_manifest_is_taken_and_served") {
        return;
    }
    let instance = Instance::start(Options { node: true, ..Options::default() });
    let manifests = manifests();
    assert!(manifests.len() > 10, "the page has manifests");
    for manifest in &manifests {
        instance.apply(manifest);
    }
    for manifest in manifests {
        let (kind, name) = (field(manifest, "kind: "), field(manifest, "metadata: {name: "));
        // What is part of others says nothing of itself.
        if ["Service", "Secret", "HTTPRouteFilter", "IdempotencyFilter", "ApiVersionFilter"].contains(&kind) {
            continue;
        }
        let group = field(manifest, "apiVersion: ").split_once('/').map_or("", |(group, _)| group);
        let resource = format!("{kind}.{group}/{name}").to_lowercase();
        eventually(&format!("{resource} says that it is served"), || {
            let told = verdicts(&instance.get(&[&resource])?);
            (!told.is_empty() && told.iter().all(|status| status == "True")).then_some(())
        });
    }
}
