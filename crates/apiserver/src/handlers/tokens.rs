//! `serviceaccounts/token`: tokens bound to a service account, and to a pod, secret or node if asked.

use bytes::Bytes;
use http::{Response, StatusCode};
use identity::{BoundObject, Claims, KubernetesClaims};
use serde_json::Value;
use store::Snapshot;
use strategy::{
    field_error::{FieldErrors, Path},
    tree,
};

use super::{admit::Admission, receive, write};
use crate::{
    body::Body,
    codec,
    dispatch::Call,
    meta, output,
    status::{ApiError, GroupResource, causes_of},
};

/// Life of a token whose request names none.
const SECONDS_DEFAULT: i64 = 3600;
/// Shortest life that may be asked for, as upstream.
const SECONDS_MIN: i64 = 600;
/// Longest life that may be asked for, as upstream.
const SECONDS_MAX: i64 = 1 << 32;
/// The life that admission asks for in the volumes it adds to pods. Holders that never read such a token anew are
/// warned about from then on, and cut off much later.
const WARN_AFTER_SECONDS: i64 = 3607;
/// When they are cut off: a year, as upstream.
const EXTENDED_SECONDS: i64 = 365 * 24 * 3600;

/// Answers a POST of a TokenRequest.
pub(super) async fn create(call: &Call, body: &Bytes) -> Result<Response<Body>, ApiError> {
    let options = write::options(call)?;
    let mut request = receive::object(call, body, options.field_validation)?;
    receive::check_namespace(call, &mut request)?;
    let snapshot = call.server.snapshot();
    let account = find(&snapshot, &call.served.collection, &call.path())
        .ok_or_else(|| ApiError::not_found(call.group_resource(), &call.name))?;
    complete(call, &mut request)?;
    let admission = Admission::create(call, &options);
    admission.mutate(Some(&mut request)).await?;
    check(&request)?;
    admission.validate(&snapshot, Some(&request)).await?;
    let claims = claims(call, &snapshot, &account, &request)?;
    // who reads the audit finds the token again by its id, which it shows wherever it is used
    call.trail.annotate("authentication.kubernetes.io/issued-credential-id", format!("JTI={}", claims.jti));
    let expires = jiff::Timestamp::from_second(claims.iat + seconds(&request)).map_err(ApiError::internal)?;
    let token = call.server.authenticator.signer().sign(claims).map_err(ApiError::internal)?;
    request["status"] = serde_json::json!({"token": token, "expirationTimestamp": meta::time(expires)});
    output::encoded(call, &request, StatusCode::CREATED)
}

/// Fills in what the request leaves open, and refuses one that names another account than its address.
fn complete(call: &Call, request: &mut Value) -> Result<(), ApiError> {
    let named = meta::name(request);
    if !named.is_empty() && named != call.name {
        let mut errors = FieldErrors::default();
        let rule = "must match the service account name if specified";
        errors.invalid(&Path::new("metadata").child("name"), named, rule);
        return Err(invalid(&call.name, &errors));
    }
    meta::of(request).insert("name".into(), call.name.as_str().into());
    request["metadata"]["creationTimestamp"] = meta::time(call.now).into();
    if !request["spec"].is_object() {
        request["spec"] = serde_json::json!({});
    }
    if tree::list(&request["spec"], "audiences").is_empty() {
        request["spec"]["audiences"] = call.server.audiences.clone().into();
    }
    if request["spec"]["expirationSeconds"].is_null() {
        request["spec"]["expirationSeconds"] = SECONDS_DEFAULT.into();
    }
    if let Some(object) = request.as_object_mut() {
        object.remove("status");
    }
    Ok(())
}

fn seconds(request: &Value) -> i64 {
    request["spec"]["expirationSeconds"].as_i64().unwrap_or_default()
}

fn check(request: &Value) -> Result<(), ApiError> {
    let (seconds, spec, mut errors) = (seconds(request), Path::new("spec"), FieldErrors::default());
    if seconds < SECONDS_MIN {
        errors.invalid(&spec.child("expirationSeconds"), seconds, "may not specify a duration less than 10 minutes");
    }
    if seconds > SECONDS_MAX {
        let rule = "may not specify a duration larger than 2^32 seconds";
        errors.invalid(&spec.child("expirationSeconds"), seconds, rule);
    }
    if errors.is_empty() { Ok(()) } else { Err(invalid("", &errors)) }
}

fn invalid(name: &str, errors: &FieldErrors) -> ApiError {
    ApiError::invalid("authentication.k8s.io", "TokenRequest", name, causes_of(errors))
}

fn find(snapshot: &Snapshot, collection: &str, path: &str) -> Option<Value> {
    codec::stored(&snapshot.get(collection, path)?.bytes).ok()
}

fn bound(object: &Value) -> BoundObject {
    BoundObject { name: meta::name(object).to_owned(), uid: meta::uid(object).to_owned() }
}

fn claims(call: &Call, snapshot: &Snapshot, account: &Value, request: &Value) -> Result<Claims, ApiError> {
    let mut kubernetes = KubernetesClaims {
        namespace: call.namespace.clone(),
        serviceaccount: bound(account),
        ..KubernetesClaims::default()
    };
    bind(call, snapshot, &request["spec"]["boundObjectRef"], &mut kubernetes)?;
    let audiences = tree::list(&request["spec"], "audiences").iter();
    let aud: Vec<String> = audiences.filter_map(Value::as_str).map(str::to_owned).collect();
    let (now, mut life) = (call.now.as_second(), seconds(request));
    let for_this_api = aud.iter().all(|audience| call.server.audiences.contains(audience));
    if kubernetes.pod.is_some() && life == WARN_AFTER_SECONDS && for_this_api {
        kubernetes.warnafter = Some(now + life);
        life = EXTENDED_SECONDS;
    }
    Ok(Claims {
        aud,
        exp: now + life,
        iat: now,
        iss: String::new(),
        jti: uuid::Uuid::new_v4().to_string(),
        nbf: now,
        sub: format!("system:serviceaccount:{}:{}", call.namespace, call.name),
        kubernetes,
    })
}

/// Writes the object the token is to die with into the claims.
fn bind(call: &Call, snapshot: &Snapshot, reference: &Value, claims: &mut KubernetesClaims) -> Result<(), ApiError> {
    if reference.is_null() {
        return Ok(());
    }
    let (version, kind, name) =
        (tree::text(reference, "apiVersion"), tree::text(reference, "kind"), tree::text(reference, "name"));
    let in_namespace = format!("{}/{name}", call.namespace);
    // of the version only the group counts, which is empty here
    let (collection, path, resource) = match kind {
        "Pod" if !version.contains('/') => ("core/pods", in_namespace.as_str(), "pods"),
        "Secret" if !version.contains('/') => ("core/secrets", in_namespace.as_str(), "secrets"),
        "Node" if !version.contains('/') => ("core/nodes", name, "nodes"),
        _ => {
            let (group, version) = version.split_once('/').unwrap_or(("", version));
            let why = format!("cannot bind token to object of type {group}/{version}, Kind={kind}");
            return Err(ApiError::bad_request(why));
        }
    };
    let missing = || ApiError::not_found(GroupResource { group: "", resource }, name);
    let object = find(snapshot, collection, path).ok_or_else(missing)?;
    if kind == "Pod" && tree::text_at(&object, &["spec", "serviceAccountName"]) != call.name {
        return Err(ApiError::bad_request(format!(
            "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
            call.name
        )));
    }
    let uid = tree::text(reference, "uid");
    if !uid.is_empty() && uid != meta::uid(&object) {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been \
             deleted and then recreated"
        );
        return Err(ApiError::conflict(GroupResource { group: "", resource: kind }, name, why));
    }
    match kind {
        "Pod" => {
            claims.pod = Some(bound(&object));
            let node = tree::text_at(&object, &["spec", "nodeName"]);
            if !node.is_empty() {
                // a node that is not there is still named, so that the token says where its pod runs
                let uid = find(snapshot, "core/nodes", node).map(|node| meta::uid(&node).to_owned());
                claims.node = Some(BoundObject { name: node.to_owned(), uid: uid.unwrap_or_default() });
            }
        }
        "Secret" => claims.secret = Some(bound(&object)),
        _ => claims.node = Some(bound(&object)),
    }
    Ok(())
}
