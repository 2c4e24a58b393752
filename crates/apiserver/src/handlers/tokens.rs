//! `serviceaccounts/token`: tokens bound to a service account, and to a pod, secret or node if asked.

use bytes::Bytes;
use http::{Response, StatusCode};
use identity::{BoundObject, Claims, KubernetesClaims};
use serde_json::Value;
use store::Snapshot;

use super::{admit::Admission, receive, write};
use crate::{
    body::Body,
    codec,
    dispatch::Call,
    meta, output,
    status::{ApiError, Cause},
};

/// Life of a token whose request names none.
const SECONDS_DEFAULT: i64 = 3600;
/// Shortest life that may be asked for, as upstream.
const SECONDS_MIN: i64 = 600;
/// Longest life that may be asked for, as upstream.
const SECONDS_MAX: i64 = 1 << 32;

/// Answers a POST of a TokenRequest.
pub(super) async fn create(call: &Call, body: &Bytes) -> Result<Response<Body>, ApiError> {
    let mut request = receive::decode(call, body)?.value;
    let options = write::options(call)?;
    let admission = Admission::create(call, &options);
    let snapshot = admission.mutate(Some(&mut request)).await?;
    admission.validate(&snapshot, Some(&request)).await?;
    let account = find(&snapshot, &call.served.collection, &call.path())
        .ok_or_else(|| ApiError::not_found(call.group_resource(), &call.name))?;
    let seconds = request["spec"]["expirationSeconds"].as_i64().unwrap_or(SECONDS_DEFAULT);
    if !(SECONDS_MIN..=SECONDS_MAX).contains(&seconds) {
        let bound = if seconds < SECONDS_MIN {
            "may not specify a duration less than 10 minutes"
        } else {
            "may not specify a duration larger than 2^32 seconds"
        };
        return Err(invalid("spec.expirationSeconds", format!("Invalid value: {seconds}: {bound}")));
    }
    let audiences: Vec<String> = request["spec"]["audiences"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let aud = if audiences.is_empty() { call.server.audiences.clone() } else { audiences };
    let now = call.now.as_second();
    let mut claims = Claims {
        exp: now + seconds,
        iat: now,
        nbf: now,
        iss: String::new(),
        jti: uuid::Uuid::new_v4().to_string(),
        sub: format!("system:serviceaccount:{}:{}", call.namespace, call.name),
        kubernetes: KubernetesClaims {
            namespace: call.namespace.clone(),
            serviceaccount: bound(&account),
            pod: None,
            node: None,
            secret: None,
        },
        aud,
    };
    bind(call, &snapshot, &request["spec"]["boundObjectRef"], &mut claims.kubernetes)?;
    request["kind"] = "TokenRequest".into();
    request["apiVersion"] = "authentication.k8s.io/v1".into();
    request["metadata"] = serde_json::json!({"name": call.name, "namespace": call.namespace,
        "creationTimestamp": meta::time(call.now)});
    request["spec"]["audiences"] = claims.aud.clone().into();
    request["spec"]["expirationSeconds"] = seconds.into();
    let expires = jiff::Timestamp::from_second(claims.exp).map_err(ApiError::internal)?;
    let token = call.server.authenticator.signer().sign(claims).map_err(ApiError::internal)?;
    request["status"] = serde_json::json!({"token": token, "expirationTimestamp": meta::time(expires)});
    Ok(output::value(&request, StatusCode::CREATED))
}

fn invalid(field: &str, message: String) -> ApiError {
    let cause = Cause { reason: "FieldValueInvalid".into(), message, field: field.into() };
    ApiError::invalid("authentication.k8s.io", "TokenRequest", "", vec![cause])
}

fn find(snapshot: &Snapshot, collection: &str, path: &str) -> Option<Value> {
    codec::stored(&snapshot.get(collection, path)?.bytes).ok()
}

fn bound(object: &Value) -> BoundObject {
    BoundObject { name: meta::name(object).to_owned(), uid: meta::uid(object).to_owned() }
}

/// Writes the object the token is to die with into the claims.
fn bind(call: &Call, snapshot: &Snapshot, reference: &Value, claims: &mut KubernetesClaims) -> Result<(), ApiError> {
    let Some(kind) = reference["kind"].as_str() else { return Ok(()) };
    let name = reference["name"].as_str().unwrap_or_default();
    let in_namespace = format!("{}/{name}", call.namespace);
    let (collection, path, resource) = match kind {
        "Pod" => ("core/pods", in_namespace.as_str(), "pods"),
        "Secret" => ("core/secrets", in_namespace.as_str(), "secrets"),
        "Node" => ("core/nodes", name, "nodes"),
        other => {
            return Err(ApiError::bad_request(format!(
                "cannot bind token for serviceaccount {:?} to {other}",
                call.name
            )));
        }
    };
    let missing = || ApiError::not_found(crate::status::GroupResource { group: "", resource }, name);
    let object = find(snapshot, collection, path).ok_or_else(missing)?;
    if let Some(uid) = reference["uid"].as_str().filter(|uid| !uid.is_empty() && *uid != meta::uid(&object)) {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record ({})",
            meta::uid(&object)
        );
        return Err(ApiError::conflict(call.group_resource(), name, why));
    }
    match kind {
        "Pod" => {
            let account = object["spec"]["serviceAccountName"].as_str().unwrap_or_default();
            if account != call.name {
                let why = format!(
                    "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                    call.name
                );
                return Err(ApiError::bad_request(why));
            }
            claims.pod = Some(bound(&object));
            if let Some(node) = object["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) {
                let known = find(snapshot, "core/nodes", node);
                let uid = known.map(|node| meta::uid(&node).to_owned()).unwrap_or_default();
                claims.node = Some(BoundObject { name: node.to_owned(), uid });
            }
        }
        "Secret" => claims.secret = Some(bound(&object)),
        _ => claims.node = Some(bound(&object)),
    }
    Ok(())
}
