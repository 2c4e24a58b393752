//! Discovery: which groups, versions and resources there are, in the classic and the aggregated form; and the version.

use std::{borrow::Cow, sync::Arc};

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use identity::TokenSigner;
use kinds::Resource;
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{
    aggregation::{self, Remote},
    body::{self, Body},
    indented,
    negotiation::{self, Accepted, Encoding, Offer, Shape},
    output,
    resources::{Group, GroupVersion, Table},
    status::ApiError,
};

/// The Kubernetes version whose API is served.
const MINOR: &str = "36";
/// The oldest one whose clients and data are understood, as upstream's server of that version says.
const MINOR_COMPATIBLE: &str = "35";

/// What `/version` says, in upstream's order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    major: &'static str,
    minor: &'static str,
    emulation_major: &'static str,
    emulation_minor: &'static str,
    min_compatibility_major: &'static str,
    min_compatibility_minor: &'static str,
    git_version: String,
    git_commit: &'static str,
    git_tree_state: &'static str,
    build_date: &'static str,
    go_version: &'static str,
    compiler: &'static str,
    platform: String,
}

/// `/version`.
pub(crate) fn version() -> Response<Body> {
    let own = env!("CARGO_PKG_VERSION");
    let version = Version {
        major: "1",
        minor: MINOR,
        emulation_major: "1",
        emulation_minor: MINOR,
        min_compatibility_major: "1",
        min_compatibility_minor: MINOR_COMPATIBLE,
        git_version: format!("v1.{MINOR}.0+keelson-{own}"),
        git_commit: "",
        git_tree_state: "clean",
        build_date: "1970-01-01T00:00:00Z",
        go_version: "",
        compiler: "rustc",
        platform: format!("{}/{}", std::env::consts::OS, go_arch()),
    };
    indented::answer(output::value(&version, StatusCode::OK))
}

fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// A 200 with JSON.
pub(crate) fn json_response(value: &Value) -> Response<Body> {
    output::value(value, StatusCode::OK)
}

/// `/.well-known/openid-configuration`: how others verify this cluster's service-account tokens.
pub(crate) fn openid_configuration(signer: &TokenSigner) -> Response<Body> {
    let issuer = signer.issuer();
    let document = json!({
        "issuer": issuer, "jwks_uri": format!("{issuer}/openid/v1/jwks"),
        "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": signer.algorithms(),
    });
    published(&document, "application/json")
}

/// `/openid/v1/jwks`: the keys they verify them with.
pub(crate) fn key_set(signer: &TokenSigner) -> Response<Body> {
    published(&signer.jwks(), "application/jwk-set+json")
}

fn published(document: &Value, content_type: &'static str) -> Response<Body> {
    let mut response = json_response(document);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
    response
}

/// `/`: the paths there are.
pub(crate) fn paths(table: &Table) -> Response<Body> {
    let mut paths: Vec<String> =
        ["/.well-known/openid-configuration", "/api", "/api/v1", "/apis"].map(str::to_owned).to_vec();
    for group in table.groups.iter().filter(|group| !group.name.is_empty()) {
        paths.push(format!("/apis/{}", group.name));
        paths.extend(group.versions.iter().map(|version| format!("/apis/{}/{}", group.name, version.version)));
    }
    paths.extend(
        ["/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/openid/v1/jwks", "/readyz", "/version"]
            .map(str::to_owned),
    );
    indented::answer(json_response(&json!({"paths": paths})))
}

/// A document in the encoding that the client takes.
fn document(value: &Value, accepted: Accepted) -> Result<Response<Body>, ApiError> {
    let (bytes, content_type) = output::in_encoding(accepted, value)?;
    let mut response = Response::new(body::full(bytes));
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    Ok(response)
}

/// How a client takes a document that has no aggregated form.
fn classic(headers: &HeaderMap) -> Result<Accepted, ApiError> {
    const OFFER: Offer = Offer { tables: false, messages: true, stream: false };
    negotiation::accepted(headers, OFFER).map(|accepted| Accepted { shape: Shape::Object, ..accepted })
}

fn group_list(
    items: Vec<Value>,
    version: &str,
    accepted: Accepted,
    headers: &HeaderMap,
) -> Result<Response<Body>, ApiError> {
    let api_version = format!("apidiscovery.k8s.io/{version}");
    let list = json!({"kind": "APIGroupDiscoveryList", "apiVersion": api_version, "metadata": {}, "items": items});
    let (bytes, media_type) = output::in_encoding(accepted, &list)?;
    let tag = format!("\"{}\"", hex::encode_upper(Sha256::digest(&bytes)));
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|known| known == tag.as_str());
    let mut response = Response::new(if known { body::empty() } else { body::full(bytes) });
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    let media_type = media_type.to_str().unwrap_or_default();
    let content_type = format!("{media_type};g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
    if let Ok(value) = HeaderValue::from_str(&content_type) {
        response.headers_mut().insert(header::CONTENT_TYPE, value);
    }
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    Ok(response)
}

fn aggregated_group(group: &Group) -> Value {
    let versions: Vec<Value> = group
        .versions
        .iter()
        .map(|version| {
            let resources: Vec<Value> =
                version.resources.iter().map(|served| aggregated_resource(&served.resource)).collect();
            json!({"version": version.version, "resources": resources, "freshness": "Current"})
        })
        .collect();
    let metadata = if group.name.is_empty() { json!({}) } else { json!({"name": group.name}) };
    json!({"metadata": metadata, "versions": versions})
}

fn scope(resource: &Resource) -> &'static str {
    if resource.namespaced { "Namespaced" } else { "Cluster" }
}

fn aggregated_resource(resource: &Resource) -> Value {
    let kind = |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let mut value = json!({
        "resource": resource.plural, "responseKind": kind(&resource.group, &resource.version, &resource.kind),
        "scope": scope(resource), "singularResource": resource.singular, "verbs": resource.verbs,
    });
    if !resource.short_names.is_empty() {
        value["shortNames"] = resource.short_names.clone().into();
    }
    if !resource.categories.is_empty() {
        value["categories"] = resource.categories.clone().into();
    }
    if !resource.subresources.is_empty() {
        let subresource = |sub: &kinds::Subresource| {
            json!({"subresource": sub.name, "responseKind": kind(&sub.kind.group, &sub.kind.version, &sub.kind.kind),
                "verbs": sub.verbs})
        };
        value["subresources"] = resource.subresources.iter().map(subresource).collect();
    }
    value
}

/// `/api`.
pub(crate) fn core_versions(table: &Table, headers: &HeaderMap) -> Result<Response<Body>, ApiError> {
    let (version, accepted) = negotiation::discovery(headers)?;
    if let Some(version) = version {
        return group_list(table.group("").into_iter().map(aggregated_group).collect(), version, accepted, headers);
    }
    document(&json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}), accepted)
}

/// `/apis`.
pub(crate) fn groups(table: &Table, remotes: &[Arc<Remote>], headers: &HeaderMap) -> Result<Response<Body>, ApiError> {
    let is_custom =
        |group: &Group| group.versions.iter().flat_map(|version| &version.resources).all(|served| served.is_custom());
    let named = table.groups.iter().map(|group| &**group).filter(|group| !group.name.is_empty());
    let custom = named.clone().take_while(|group| !is_custom(group)).count();
    let (version, accepted) = negotiation::discovery(headers)?;
    if let Some(version) = version {
        let mut items = named.map(aggregated_group).collect();
        aggregation::aggregated(&mut items, custom, remotes);
        return group_list(items, version, accepted, headers);
    }
    let mut groups: Vec<Value> = named.map(classic_group).collect();
    aggregation::classic(&mut groups, custom, remotes);
    document(&json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}), accepted)
}

fn classic_group(group: &Group) -> Value {
    let entry = |version: &GroupVersion| json!({"groupVersion": format!("{}/{}", group.name, version.version), "version": version.version});
    let versions: Vec<Value> = group.versions.iter().map(entry).collect();
    json!({"name": group.name, "versions": versions, "preferredVersion": versions.first()})
}

/// `/apis/GROUP`.
pub(crate) fn group(
    table: &Table,
    remotes: &[Arc<Remote>],
    name: &str,
    headers: &HeaderMap,
) -> Result<Response<Body>, ApiError> {
    let mut known: Vec<Value> = table.group(name).map(classic_group).into_iter().collect();
    let remotes: Vec<Arc<Remote>> = remotes.iter().filter(|remote| remote.group == name).cloned().collect();
    aggregation::classic(&mut known, 0, &remotes);
    let mut group = known.pop().ok_or_else(ApiError::no_such_resource)?;
    group["kind"] = "APIGroup".into();
    group["apiVersion"] = "v1".into();
    document(&group, classic(headers)?)
}

/// An APIResourceList. Members stand in upstream's order: scripts look for pieces of the text.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResourceList<'a> {
    kind: &'static str,
    api_version: &'static str,
    group_version: String,
    resources: Vec<Listed<'a>>,
}

/// An APIResource.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed<'a> {
    name: Cow<'a, str>,
    singular_name: &'a str,
    namespaced: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    kind: &'a str,
    verbs: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    short_names: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    categories: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    storage_version_hash: Option<String>,
}

/// `/api/v1` and `/apis/GROUP/VERSION`.
pub(crate) fn resources(
    table: &Table,
    group: &str,
    version: &str,
    headers: &HeaderMap,
) -> Result<Response<Body>, ApiError> {
    let found = table.version(group, version).ok_or_else(ApiError::no_such_resource)?;
    let mut resources = Vec::new();
    for served in &found.resources {
        let resource = &served.resource;
        let is_listed = resource.verbs.iter().any(|verb| verb == "list");
        resources.push(Listed {
            name: Cow::Borrowed(&resource.plural),
            singular_name: &resource.singular,
            namespaced: resource.namespaced,
            group: None,
            version: None,
            kind: &resource.kind,
            verbs: &resource.verbs,
            short_names: &resource.short_names,
            categories: &resource.categories,
            storage_version_hash: is_listed.then(|| version_hash(&served.stored_api_version, &resource.kind)),
        });
        resources.extend(resource.subresources.iter().map(|sub| {
            let is_foreign = sub.kind.group != resource.group || sub.kind.version != resource.version;
            Listed {
                name: Cow::Owned(format!("{}/{}", resource.plural, sub.name)),
                singular_name: "",
                namespaced: resource.namespaced,
                group: is_foreign.then_some(sub.kind.group.as_str()),
                version: is_foreign.then_some(sub.kind.version.as_str()),
                kind: &sub.kind.kind,
                verbs: &sub.verbs,
                short_names: &[],
                categories: &[],
                storage_version_hash: None,
            }
        }));
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let list = ResourceList { kind: "APIResourceList", api_version: "v1", group_version, resources };
    let accepted = classic(headers)?;
    if accepted.encoding == Encoding::Json {
        return Ok(output::value(&list, StatusCode::OK));
    }
    document(&serde_json::to_value(&list).map_err(ApiError::internal)?, accepted)
}

/// Tells clients whether two versions share one storage.
fn version_hash(api_version: &str, kind: &str) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let digest = Sha256::digest(format!("{api_version}/{kind}"));
    STANDARD.encode(&digest[..8])
}
