//! What upstream's conformance suite asks of the API machinery, step by step, for the tests that need no node.

mod access;
mod apply;
mod chunking;
mod discovery;
mod documents;
mod events;
mod field_validation;
mod lifecycles;
mod managers;
mod namespaces;
mod ownership;
mod policies;
mod ratcheting;
mod reset_fields;
mod selectable_fields;
mod shapes;
mod validation_rules;
mod watches;

use http::{Method, header};
use serde_json::{Value, json};

use crate::fixture::{Answer, Fixture, request};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// Asks for a path in a media type.
async fn get_as(fixture: &Fixture, path: &str, accept: &str) -> Answer {
    let mut request = request(Method::GET, path, "", "");
    request.headers_mut().insert(header::ACCEPT, accept.parse().unwrap());
    fixture.send(request).await
}

/// Defines `widgets.example.com` with one version of this schema; gives the path of its objects.
pub(crate) async fn define(fixture: &Fixture, version: Value) -> &'static str {
    let mut v1 = json!({"name": "v1", "served": true, "storage": true});
    for (key, value) in version.as_object().unwrap() {
        v1[key] = value.clone();
    }
    let definition = json!({"metadata": {"name": "widgets.example.com"}, "spec": {"group": "example.com",
        "scope": "Cluster", "names": {"plural": "widgets", "kind": "Widget"}, "versions": [v1]}});
    fixture.post(DEFINITIONS, &definition).await.ok();
    "/apis/example.com/v1/widgets"
}
