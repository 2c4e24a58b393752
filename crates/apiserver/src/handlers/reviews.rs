//! Reviews: questions about access and identity, answered at once and never stored.

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use strategy::{
    User,
    field_error::{FieldErrors, Path},
    tree,
};

use super::{admit::Admission, receive, write};
use crate::{
    authorization::{Attributes, Decision},
    body::Body,
    dispatch::Call,
    meta,
    output::{self, Payload},
    status::{ApiError, causes_of},
};

/// Answers a POST of a review.
pub(super) async fn create(call: &Call, body: &Bytes) -> Result<Response<Body>, ApiError> {
    let options = write::options(call)?;
    let mut review = receive::object(call, body, options.field_validation)?;
    let admission = Admission::create(call, &options);
    let snapshot = admission.mutate(Some(&mut review)).await?;
    admission.validate(&snapshot, Some(&review)).await?;
    check(call, &review)?;
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
    // a review is no object that began at some time, but for the one upstream says it of
    if call.served.resource.plural == "selfsubjectreviews" {
        review["metadata"]["creationTimestamp"] = meta::time(call.now).into();
    }
    output::object(call, Payload::Served(review), StatusCode::CREATED)
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

/// What every access review must say, and what the ones about others must.
fn check(call: &Call, review: &Value) -> Result<(), ApiError> {
    let (plural, spec) = (call.served.resource.plural.as_str(), &review["spec"]);
    let mut errors = FieldErrors::default();
    let path = Path::new("spec");
    let text = |field: &str| spec[field].as_str().unwrap_or_default();
    match plural {
        "selfsubjectrulesreviews" if text("namespace").is_empty() => {
            return Err(ApiError::bad_request("no namespace on request"));
        }
        "selfsubjectaccessreviews" | "subjectaccessreviews" | "localsubjectaccessreviews" => {}
        _ => return Ok(()),
    }
    let (resource, other) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    match (resource.is_object(), other.is_object()) {
        (true, true) => {
            let why = "cannot be specified in combination with resourceAttributes";
            errors.invalid(&path.child("nonResourceAttributes"), other.clone(), why);
        }
        (false, false) => {
            let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            errors.invalid(&path.child("resourceAttributes"), Value::Null, why);
        }
        (true, false) => check_selectors(resource, &path.child("resourceAttributes"), &mut errors),
        (false, true) => {}
    }
    let nobody = text("user").is_empty() && spec["groups"].as_array().is_none_or(Vec::is_empty);
    if plural != "selfsubjectaccessreviews" && nobody {
        errors.invalid(&path.child("user"), "", "at least one of user or group must be specified");
    }
    if plural == "localsubjectaccessreviews" {
        if resource.is_object() && resource["namespace"].as_str().unwrap_or_default() != call.namespace {
            return Err(ApiError::bad_request(format!(
                "spec.resourceAttributes.namespace must match namespace: {}",
                call.namespace
            )));
        }
        if other.is_object() {
            let why = "disallowed on this kind of request";
            errors.invalid(&path.child("nonResourceAttributes"), other.clone(), why);
        }
    }
    if errors.is_empty() {
        return Ok(());
    }
    let resource = &call.served.resource;
    Err(ApiError::invalid(&resource.group, &resource.kind, "", causes_of(&errors)))
}

/// A selector is given as text or as requirements.
fn check_selectors(attributes: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for field in ["fieldSelector", "labelSelector"] {
        let selector = &attributes[field];
        if !selector.is_object() {
            continue;
        }
        let path = path.child(field);
        let raw = selector["rawSelector"].as_str().unwrap_or_default();
        let requirements = selector["requirements"].as_array().map(Vec::as_slice).unwrap_or_default();
        if !raw.is_empty() && !requirements.is_empty() {
            let why = "may not specified at the same time as requirements";
            errors.invalid(&path.child("rawSelector"), raw, why);
        }
        if raw.is_empty() && requirements.is_empty() {
            let why = format!("when {path} is specified, requirements or rawSelector is required");
            errors.required(&path.child("requirements"), why);
        }
        for (index, requirement) in requirements.iter().enumerate() {
            let (list, has_values) =
                (path.child("requirements"), requirement["values"].as_array().is_some_and(|v| !v.is_empty()));
            let path = list.index(index);
            if requirement["key"].as_str().unwrap_or_default().is_empty() {
                errors.required(&path.child("key"), "must be specified");
            }
            match requirement["operator"].as_str().unwrap_or_default() {
                "In" | "NotIn" if !has_values => {
                    errors.required(&path.child("values"), "must be specified when `operator` is 'In' or 'NotIn'");
                }
                "Exists" | "DoesNotExist" if has_values => {
                    errors.forbidden(
                        &path.child("values"),
                        "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                    );
                }
                "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
                other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
            }
        }
    }
}

/// The field selector of a review, as a list would have it.
fn asked_fields(attributes: &Value) -> String {
    let selector = &attributes["fieldSelector"];
    if let Some(raw) = selector["rawSelector"].as_str().filter(|raw| !raw.is_empty()) {
        return raw.to_owned();
    }
    let requirements = selector["requirements"].as_array().into_iter().flatten();
    let equal = requirements.filter_map(|requirement| {
        match (requirement["operator"].as_str(), requirement["values"].as_array()) {
            (Some("In"), Some(values)) if values.len() == 1 => {
                Some(format!("{}={}", requirement["key"].as_str()?, values[0].as_str()?))
            }
            // what is not an equality narrows no access rule
            _ => None,
        }
    });
    equal.collect::<Vec<_>>().join(",")
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
    let authorizer = &call.server.authorizer;
    let mut why = Some(String::new());
    let (allowed, reason) = match authorizer.decide(&attributes, &asked_fields(asked), &mut why) {
        Decision::Allow => (true, why.unwrap_or_default()),
        Decision::NoOpinion { reason } => (false, reason),
    };
    let mut status = json!({"allowed": allowed});
    if !reason.is_empty() {
        status["reason"] = reason.into();
    }
    status
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
    if call.user.node_name().is_some() {
        // what a node may read follows from its pods
        status["incomplete"] = true.into();
        status["evaluationError"] = "node authorizer does not support user rule resolution".into();
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
