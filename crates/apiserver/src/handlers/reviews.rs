//! Reviews: questions about access and identity, answered at once and never stored.

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::{admit::Admission, receive, write};
use crate::{
    authorization::{Attributes, Decision},
    body::Body,
    dispatch::Call,
    meta,
    output::{self, Payload},
    status::ApiError,
    strategy::tree,
    user::User,
};

/// Answers a POST of a review.
pub(super) async fn create(call: &Call, body: &Bytes) -> Result<Response<Body>, ApiError> {
    let mut review = receive::decode(call, body)?.value;
    receive::check_kind(&call.served, &mut review)?;
    receive::prune(&call.served, &mut review, Vec::new(), crate::options::FieldValidation::Ignore, &mut Vec::new())?;
    let options = write::options(call)?;
    let admission = Admission::create(call, &options);
    let snapshot = admission.mutate(Some(&mut review)).await?;
    admission.validate(&snapshot, Some(&review)).await?;
    if call.served.resource.plural == "localsubjectaccessreviews" {
        let asked = &mut review["spec"]["resourceAttributes"];
        if asked.is_object() && asked["namespace"].as_str().unwrap_or_default() != call.namespace {
            return Err(ApiError::bad_request(format!(
                "spec.resourceAttributes.namespace must match the namespace {:?}",
                call.namespace
            )));
        }
    }
    let status = match call.served.resource.plural.as_str() {
        "selfsubjectaccessreviews" => access(call, &review, &call.user),
        "subjectaccessreviews" | "localsubjectaccessreviews" => access(call, &review, &subject(&review["spec"])),
        "selfsubjectrulesreviews" => rules(call, &review),
        "selfsubjectreviews" => json!({"userInfo": user_info(&call.user)}),
        "tokenreviews" => token(call, &review).await?,
        _ => return Err(ApiError::no_such_resource()),
    };
    review["status"] = status;
    if !review["metadata"].is_object() {
        review["metadata"] = json!({});
    }
    review["metadata"]["creationTimestamp"] = meta::time(call.now).into();
    output::object(call, Payload::Served(review), StatusCode::CREATED, &[])
}

fn subject(spec: &Value) -> User {
    let mut user = User::new(spec["user"].as_str().unwrap_or_default(), &[]);
    user.uid = spec["uid"].as_str().unwrap_or_default().to_owned();
    user.groups =
        spec["groups"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    for (key, values) in tree::map(spec, "extra") {
        let values = values.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
        user.extra.insert(key.to_lowercase(), values);
    }
    user
}

fn access(call: &Call, review: &Value, user: &User) -> Value {
    let asked = &review["spec"]["resourceAttributes"];
    let path = review["spec"]["nonResourceAttributes"]["path"].as_str();
    let verb = if path.is_some() { &review["spec"]["nonResourceAttributes"]["verb"] } else { &asked["verb"] };
    let text = |field: &str| asked[field].as_str().unwrap_or_default();
    let attributes = Attributes {
        user,
        verb: verb.as_str().unwrap_or_default(),
        group: text("group"),
        resource: text("resource"),
        subresource: text("subresource"),
        namespace: text("namespace"),
        name: text("name"),
        path,
    };
    match call.server.authorizer.authorize(&attributes) {
        Decision::Allow => json!({"allowed": true}),
        Decision::NoOpinion { reason } if reason.is_empty() => json!({"allowed": false}),
        Decision::NoOpinion { reason } => json!({"allowed": false, "reason": reason}),
    }
}

fn rules(call: &Call, review: &Value) -> Value {
    let namespace = review["spec"]["namespace"].as_str().unwrap_or_default();
    let (rules, missing) = call.server.authorizer.rules_for(&call.user, namespace);
    let (paths, resources): (Vec<_>, Vec<_>) = rules.into_iter().partition(|rule| !rule.non_resource_urls.is_empty());
    let resource = |rule: crate::authorization::Rule| {
        let mut value = json!({"verbs": rule.verbs, "apiGroups": rule.api_groups, "resources": rule.resources});
        if !rule.resource_names.is_empty() {
            value["resourceNames"] = rule.resource_names.into();
        }
        value
    };
    let path =
        |rule: crate::authorization::Rule| json!({"verbs": rule.verbs, "nonResourceURLs": rule.non_resource_urls});
    let mut status = json!({
        "resourceRules": resources.into_iter().map(resource).collect::<Vec<_>>(),
        "nonResourceRules": paths.into_iter().map(path).collect::<Vec<_>>(),
        "incomplete": !missing.is_empty(),
    });
    if !missing.is_empty() {
        status["evaluationError"] = missing.join(", ").into();
    }
    status
}

fn user_info(user: &User) -> Value {
    let mut info = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        info["uid"] = user.uid.as_str().into();
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

async fn token(call: &Call, review: &Value) -> Result<Value, ApiError> {
    let token = tree::text_at(review, &["spec", "token"]);
    if token.is_empty() {
        return Err(ApiError::bad_request("token is required for TokenReview in authentication"));
    }
    let asked: Vec<String> =
        tree::list(&review["spec"], "audiences").iter().filter_map(Value::as_str).map(str::to_owned).collect();
    let audiences = if asked.is_empty() { &call.server.audiences } else { &asked };
    if let Some(oidc) = &call.server.authenticator.oidc {
        oidc.prepare(token, &call.server.outbound).await;
    }
    let answer = call.server.authenticator.token(token, audiences, &call.server.snapshot(), call.now);
    Ok(match answer {
        Ok(found) => json!({"authenticated": true, "user": user_info(&found.user), "audiences": found.audiences}),
        // no more than upstream says: whether the token is good, and why not
        Err(error) => json!({"user": {}, "error": error.to_string()}),
    })
}
