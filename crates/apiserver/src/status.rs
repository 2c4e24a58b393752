//! The one error of the API: a failure that becomes a `metav1.Status` answer, with upstream's reasons, codes and texts.

use std::borrow::Cow;

use http::{Response, StatusCode, header};
use schema::FieldError;
use serde_json::{Value, json};
use strategy::field_error::FieldErrors;

use crate::{
    body::{self, Body},
    negotiation::Accepted,
    output,
};

/// Why a request failed, in the vocabulary of `metav1.Status`.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct ApiError {
    /// HTTP status code.
    pub(crate) code: u16,
    /// Machine readable reason, for example `NotFound`.
    pub(crate) reason: Cow<'static, str>,
    /// What the user reads.
    pub(crate) message: String,
    /// What object and which of its fields.
    pub(crate) details: Option<Box<Details>>,
}

/// The object a failure is about and its causes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Details {
    /// Name of the object.
    pub(crate) name: String,
    /// API group.
    pub(crate) group: String,
    /// Kind or resource, as upstream mixes them.
    pub(crate) kind: String,
    /// Identity of the object that was meant.
    pub(crate) uid: String,
    /// One entry a field.
    pub(crate) causes: Vec<Cause>,
    /// When a retry makes sense.
    pub(crate) retry_after_seconds: Option<u32>,
    /// With what an expired list may go on, at the price of consistency.
    pub(crate) continue_token: Option<String>,
    /// Whether the answer is the message alone, as of what refuses before anybody looks at the request.
    pub(crate) is_text: bool,
}

/// One cause of a failure.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Cause {
    /// Machine readable, for example `FieldValueRequired`.
    pub(crate) reason: String,
    /// What the user reads.
    pub(crate) message: String,
    /// Path of the field, empty when the cause is not about one.
    pub(crate) field: String,
}

/// The causes of a failure with reason `Invalid`.
pub(crate) fn causes_of(errors: &FieldErrors) -> Vec<Cause> {
    let cause = |error: &FieldError| Cause {
        reason: error.kind.reason().to_owned(),
        message: error.message(),
        field: error.path.clone(),
    };
    errors.0.iter().map(cause).collect()
}

/// What a failure names: the group and the plural resource, for example `apps` and `deployments`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GroupResource<'a> {
    /// API group, empty for core.
    pub(crate) group: &'a str,
    /// Plural.
    pub(crate) resource: &'a str,
}

impl std::fmt::Display for GroupResource<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.group.is_empty() { f.write_str(self.resource) } else { write!(f, "{}.{}", self.resource, self.group) }
    }
}

impl<'a> From<&'a kinds::Resource> for GroupResource<'a> {
    fn from(resource: &'a kinds::Resource) -> Self {
        Self { group: &resource.group, resource: &resource.plural }
    }
}

impl ApiError {
    /// A failure without details.
    pub(crate) fn new(code: u16, reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { code, reason: reason.into(), message: message.into(), details: None }
    }

    fn about(mut self, resource: GroupResource<'_>, name: &str) -> Self {
        self.details = Some(Box::new(Details {
            name: name.into(),
            group: resource.group.into(),
            kind: resource.resource.into(),
            ..Details::default()
        }));
        self
    }

    pub(crate) fn with_causes(mut self, causes: Vec<Cause>) -> Self {
        self.details.get_or_insert_default().causes = causes;
        self
    }

    /// Offers a token with which an expired list may go on.
    pub(crate) fn with_continue(mut self, token: String) -> Self {
        self.details.get_or_insert_default().continue_token = Some(token);
        self
    }

    /// 400: the request itself makes no sense.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 401: nobody vouches for the caller.
    pub(crate) fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 403 with upstream's wording: `pods "a" is forbidden: why`.
    pub(crate) fn forbidden(resource: GroupResource<'_>, name: &str, why: impl std::fmt::Display) -> Self {
        let message = match (resource.resource, name) {
            ("", "") => format!("forbidden: {why}"),
            (_, "") => format!("{resource} is forbidden: {why}"),
            _ => format!("{resource} \"{name}\" is forbidden: {why}"),
        };
        Self::new(403, "Forbidden", message).about(resource, name)
    }

    /// 404 for an object.
    pub(crate) fn not_found(resource: GroupResource<'_>, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{resource} \"{name}\" not found")).about(resource, name)
    }

    /// 404 for a path that names nothing served.
    pub(crate) fn no_such_resource() -> Self {
        let mut error = Self::new(404, "NotFound", "the server could not find the requested resource");
        error.details = Some(Box::default());
        error
    }

    /// 405: the resource is there, the verb is not.
    pub(crate) fn method_not_allowed(resource: GroupResource<'_>, verb: &str) -> Self {
        Self::new(405, "MethodNotAllowed", format!("{verb} is not supported on resources of kind \"{resource}\""))
            .about(resource, "")
    }

    /// 406: none of the media types the caller accepts is produced.
    pub(crate) fn not_acceptable(accepted: &str) -> Self {
        Self::new(406, "NotAcceptable", format!("only the following media types are accepted: {accepted}"))
    }

    /// 415: the body's media type is not understood.
    pub(crate) fn unsupported_media_type(accepted: &str) -> Self {
        let message =
            format!("the body of the request was in an unknown format - accepted media types include: {accepted}");
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// 409: the name is taken.
    pub(crate) fn already_exists(resource: GroupResource<'_>, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{resource} \"{name}\" already exists")).about(resource, name)
    }

    /// 409: somebody else was faster, or a precondition does not hold.
    pub(crate) fn conflict(resource: GroupResource<'_>, name: &str, why: impl std::fmt::Display) -> Self {
        let message = format!("Operation cannot be fulfilled on {resource} \"{name}\": {why}");
        Self::new(409, "Conflict", message).about(resource, name)
    }

    /// 409 for an outdated `resourceVersion`.
    pub(crate) fn modified(resource: GroupResource<'_>, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(resource, name, why)
    }

    /// 409 of server-side apply: somebody else owns the fields.
    pub(crate) fn apply_conflict(message: impl Into<String>, causes: Vec<Cause>) -> Self {
        Self::new(409, "Conflict", message).with_causes(causes)
    }

    /// 410: that revision is no longer kept.
    pub(crate) fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 413: the body is larger than the limit.
    pub(crate) fn too_large(limit: usize) -> Self {
        let message = format!("Request entity too large: limit is {limit}");
        Self::new(413, "RequestEntityTooLarge", message)
    }

    /// 422: the object breaks rules, one cause a field.
    pub(crate) fn invalid(group: &str, kind: &str, name: &str, causes: Vec<Cause>) -> Self {
        let texts: Vec<String> = causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
        let what = match texts.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        Self::new(422, "Invalid", format!("{qualified} \"{name}\" is invalid: {what}"))
            .about(GroupResource { group, resource: kind }, name)
            .with_causes(causes)
    }

    /// 429: come back later.
    pub(crate) fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        let mut error = Self::new(429, "TooManyRequests", message);
        error.details.get_or_insert_default().retry_after_seconds =
            (retry_after_seconds > 0).then_some(retry_after_seconds);
        error
    }

    /// 429 of a server that has too much to do to look at the request: told in plain text.
    pub(crate) fn overloaded(retry_after_seconds: u32) -> Self {
        let mut error = Self::too_many_requests("Too many requests, please try again later.", retry_after_seconds);
        error.details.get_or_insert_default().is_text = true;
        error
    }

    /// 500: the server's own fault.
    pub(crate) fn internal(error: impl std::fmt::Display) -> Self {
        let message = error.to_string();
        Self::new(500, "InternalError", format!("Internal error occurred: {message}"))
            .with_causes(vec![Cause { message, ..Cause::default() }])
    }

    /// 503: a part this request needs is not there yet.
    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    /// 504: the answer took too long.
    pub(crate) fn timeout(verb: &str) -> Self {
        let within = match verb {
            "create" | "update" | "patch" | "delete" | "deletecollection" => {
                "requested timeout - context deadline exceeded"
            }
            _ => "the allotted timeout",
        };
        Self::new(504, "Timeout", format!("Timeout: request did not complete within {within}"))
    }

    /// 504: the revision asked for lies in the future.
    pub(crate) fn too_large_resource_version(asked: u64, current: u64) -> Self {
        let message = format!("Too large resource version: {asked}, current: {current}");
        let mut error = Self::new(504, "Timeout", format!("Timeout: {message}")).with_causes(vec![Cause {
            reason: "ResourceVersionTooLarge".into(),
            message: "Too large resource version".into(),
            field: String::new(),
        }]);
        error.details.get_or_insert_default().retry_after_seconds = Some(1);
        error
    }

    /// The `metav1.Status` object.
    pub(crate) fn to_value(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        if self.reason.is_empty()
            && let Some(status) = status.as_object_mut()
        {
            status.remove("reason");
        }
        let Some(details) = &self.details else { return status };
        if let Some(token) = &details.continue_token {
            status["metadata"]["continue"] = token.as_str().into();
        }
        let value = details.to_value();
        if value.as_object().is_some_and(|value| !value.is_empty()) {
            status["details"] = value;
        }
        status
    }

    /// The HTTP answer in JSON.
    pub(crate) fn to_response(&self) -> Response<Body> {
        self.to_response_in(Accepted::PLAIN)
    }

    /// The body of the answer and its media type.
    fn told(&self, accepted: Accepted) -> (bytes::Bytes, header::HeaderValue) {
        if self.details.as_ref().is_some_and(|details| details.is_text) {
            let plain = header::HeaderValue::from_static("text/plain; charset=utf-8");
            return (format!("{}\n", self.message).into(), plain);
        }
        let status = self.to_value();
        let json = || (status.to_string().into(), header::HeaderValue::from_static("application/json"));
        output::in_encoding(accepted, &status).unwrap_or_else(|_| json())
    }

    /// The HTTP answer.
    pub(crate) fn to_response_in(&self, accepted: Accepted) -> Response<Body> {
        let (bytes, content_type) = self.told(accepted);
        let mut response = Response::new(body::full(bytes));
        *response.status_mut() = StatusCode::from_u16(self.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, content_type);
        if let Some(seconds) = self.details.as_ref().and_then(|details| details.retry_after_seconds) {
            headers.insert(header::RETRY_AFTER, header::HeaderValue::from(seconds));
        }
        response
    }
}

impl Details {
    fn to_value(&self) -> Value {
        let mut value = json!({});
        for (key, text) in [("name", &self.name), ("group", &self.group), ("kind", &self.kind), ("uid", &self.uid)] {
            if !text.is_empty() {
                value[key] = text.as_str().into();
            }
        }
        if !self.causes.is_empty() {
            value["causes"] = self.causes.iter().map(Cause::to_value).collect();
        }
        if let Some(seconds) = self.retry_after_seconds {
            value["retryAfterSeconds"] = seconds.into();
        }
        value
    }
}

impl Cause {
    fn to_value(&self) -> Value {
        let mut value = json!({});
        for (key, text) in [("reason", &self.reason), ("message", &self.message), ("field", &self.field)] {
            if !text.is_empty() {
                value[key] = text.as_str().into();
            }
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEPLOYMENTS: GroupResource<'_> = GroupResource { group: "apps", resource: "deployments" };

    #[test]
    fn messages_read_like_upstream() {
        assert_eq!(ApiError::not_found(DEPLOYMENTS, "web").message, "deployments.apps \"web\" not found");
        let causes = vec![
            Cause { reason: "FieldValueRequired".into(), message: "Required value".into(), field: "spec.a".into() },
            Cause { reason: "FieldValueInvalid".into(), message: "Invalid value: 1".into(), field: "spec.b".into() },
        ];
        let error = ApiError::invalid("apps", "Deployment", "web", causes);
        assert_eq!(
            error.message,
            "Deployment.apps \"web\" is invalid: [spec.a: Required value, spec.b: Invalid value: 1]"
        );
        assert_eq!(error.to_value()["details"]["causes"][1]["field"], "spec.b");
        assert_eq!(error.to_value()["code"], 422);
    }

    #[test]
    fn retry_after_becomes_a_header() {
        let response = ApiError::too_many_requests("later", 7).to_response();
        assert_eq!(response.headers()[header::RETRY_AFTER], "7");
        assert_eq!(response.status(), 429);
        let response = ApiError::overloaded(1).to_response();
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/plain; charset=utf-8");
    }
}
