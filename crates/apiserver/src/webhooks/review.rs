//! AdmissionReview: what a webhook is sent, and what its answer says. Pure.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kinds::GroupVersionKind;
use serde::Serialize;
use serde_json::Value;
use strategy::User;

use crate::{
    admission::AdmissionRequest,
    outbound::ReviewVersion,
    resources::Served,
    status::{ApiError, Cause},
};

/// The version of a review with its group.
fn group_version(version: ReviewVersion) -> &'static str {
    match version {
        ReviewVersion::V1 => "admission.k8s.io/v1",
        ReviewVersion::V1Beta1 => "admission.k8s.io/v1beta1",
    }
}

/// A request in the version a webhook wants to see it in.
#[derive(Clone, Copy)]
pub(crate) struct Sent<'a> {
    pub(crate) request: &'a AdmissionRequest<'a>,
    /// The resource in that version.
    pub(crate) served: &'a Served,
    pub(crate) object: Option<&'a Value>,
    pub(crate) old: Option<&'a Value>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Review<'a> {
    kind: &'static str,
    api_version: &'static str,
    request: Request<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    uid: &'a str,
    kind: GroupVersionKind,
    resource: GroupVersionResource<'a>,
    #[serde(skip_serializing_if = "str::is_empty")]
    sub_resource: &'a str,
    request_kind: GroupVersionKind,
    request_resource: GroupVersionResource<'a>,
    #[serde(skip_serializing_if = "str::is_empty")]
    request_sub_resource: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    namespace: &'a str,
    operation: &'static str,
    user_info: UserInfo<'a>,
    object: Option<&'a Value>,
    old_object: Option<&'a Value>,
    dry_run: bool,
    options: Value,
}

#[derive(Serialize)]
struct GroupVersionResource<'a> {
    group: &'a str,
    version: &'a str,
    resource: &'a str,
}

#[derive(Serialize)]
struct UserInfo<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    username: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    uid: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    groups: &'a [String],
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    extra: &'a std::collections::BTreeMap<String, Vec<String>>,
}

impl<'a> UserInfo<'a> {
    fn of(user: &'a User) -> Self {
        Self { username: &user.name, uid: &user.uid, groups: &user.groups, extra: &user.extra }
    }
}

fn resource_of(resource: &kinds::Resource) -> GroupVersionResource<'_> {
    GroupVersionResource { group: &resource.group, version: &resource.version, resource: &resource.plural }
}

/// The bytes of a review.
pub(super) fn encode(version: ReviewVersion, uid: &str, sent: &Sent<'_>) -> Result<Vec<u8>, serde_json::Error> {
    let request = Request { uid, object: sent.object, old_object: sent.old, ..describe(sent) };
    serde_json::to_vec(&Review { kind: "AdmissionReview", api_version: group_version(version), request })
}

/// The request as expressions see it: without the objects, which are variables of their own.
pub(crate) fn request_object(sent: &Sent<'_>) -> Value {
    let mut request = serde_json::to_value(describe(sent)).unwrap_or_default();
    if let Some(request) = request.as_object_mut() {
        for field in ["uid", "object", "oldObject"] {
            request.remove(field);
        }
    }
    request
}

fn describe<'a>(sent: &Sent<'a>) -> Request<'a> {
    let request = sent.request;
    let subresource = request.subresource.unwrap_or_default();
    let in_version = AdmissionRequest { resource: &sent.served.resource, ..*request };
    Request {
        uid: "",
        kind: in_version.kind(),
        resource: resource_of(&sent.served.resource),
        sub_resource: subresource,
        request_kind: request.kind(),
        request_resource: resource_of(request.resource),
        request_sub_resource: subresource,
        name: request.name,
        namespace: request.review_namespace(),
        operation: request.operation.name(),
        user_info: UserInfo::of(request.user),
        object: None,
        old_object: None,
        dry_run: request.dry_run,
        options: request.options(),
    }
}

/// What a webhook decided.
#[derive(Debug, Default)]
pub(super) struct Decision {
    pub(super) allowed: bool,
    /// A JSON patch.
    pub(super) patch: Option<Vec<u8>>,
    /// A `metav1.Status`, or null.
    pub(super) status: Value,
    pub(super) warnings: Vec<String>,
    pub(super) annotations: Vec<(String, String)>,
}

/// Reads an answer and checks what it has to say about itself.
pub(super) fn decode(version: ReviewVersion, uid: &str, mutating: bool, review: &Value) -> Result<Decision, String> {
    let response = &review["response"];
    if !response.is_object() {
        return Err("webhook response was absent".into());
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (api_version, kind) = (text(&review["apiVersion"]), text(&review["kind"]));
    let expected = (group_version(version), "AdmissionReview");
    let unnamed = version == ReviewVersion::V1Beta1 && api_version.is_empty() && kind.is_empty();
    if version == ReviewVersion::V1 && response["uid"] != uid {
        return Err(format!("expected response.uid={uid:?}, got {:?}", text(&response["uid"])));
    }
    if (api_version.as_str(), kind.as_str()) != expected && !unnamed {
        let (group, given) = api_version.split_once('/').unwrap_or(("", &api_version));
        let wanted = format!("admission.k8s.io/{}, Kind=AdmissionReview", version.name());
        return Err(format!("expected webhook response of {wanted}, got {group}/{given}, Kind={kind}"));
    }
    let patch = patch(version, mutating, response)?;
    let pairs = response["auditAnnotations"].as_object().into_iter().flatten();
    let warnings = response["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str);
    Ok(Decision {
        allowed: response["allowed"] == true,
        patch,
        status: response["status"].clone(),
        warnings: warnings.map(str::to_owned).collect(),
        annotations: pairs.map(|(key, value)| (key.clone(), text(value))).collect(),
    })
}

fn patch(version: ReviewVersion, mutating: bool, response: &Value) -> Result<Option<Vec<u8>>, String> {
    let encoded = response["patch"].as_str().filter(|patch| !patch.is_empty());
    let kind = response["patchType"].as_str();
    if version == ReviewVersion::V1 {
        match (mutating, encoded, kind) {
            (true, Some(_), None) => return Err("webhook returned response.patch but not response.patchType".into()),
            (true, None, Some(_)) => return Err("webhook returned response.patchType but not response.patch".into()),
            (true, Some(_), Some("")) => return Err("webhook returned invalid response.patchType of \"\"".into()),
            (true, Some(_), Some(kind)) if kind != "JSONPatch" => {
                return Err(format!("unsupported patch type {kind:?}"));
            }
            (false, Some(_), _) => return Err("validating webhook may not return response.patch".into()),
            (false, _, Some(_)) => return Err("validating webhook may not return response.patchType".into()),
            (true, ..) | (false, None, None) => {}
        }
    }
    let Some(encoded) = encoded.filter(|_| mutating) else { return Ok(None) };
    STANDARD.decode(encoded).map(Some).map_err(|error| format!("response.patch is not base64: {error}"))
}

/// The answer to a request that the webhook `name` refused with `status`.
pub(super) fn refusal(name: &str, status: &Value) -> ApiError {
    let denied = format!("admission webhook {name:?} denied the request");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (message, reason) = (text(&status["message"]), text(&status["reason"]));
    let message = match (message.as_str(), reason.as_str()) {
        ("", "") => format!("{denied} without explanation"),
        ("", why) | (why, _) => format!("{denied}: {why}"),
    };
    let code = status["code"].as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or(0);
    let mut error = ApiError::new(code.clamp(400, 599), reason, message);
    if let Some(given) = status["details"].as_object() {
        let details = error.details.get_or_insert_default();
        let of = |field: &str| given.get(field).map(text).unwrap_or_default();
        (details.name, details.group, details.kind, details.uid) = (of("name"), of("group"), of("kind"), of("uid"));
        let causes = status["details"]["causes"].as_array().into_iter().flatten();
        details.causes = causes
            .map(|cause| Cause {
                reason: text(&cause["reason"]),
                message: text(&cause["message"]),
                field: text(&cause["field"]),
            })
            .collect();
        let seconds = given.get("retryAfterSeconds").and_then(Value::as_u64);
        details.retry_after_seconds = seconds.and_then(|seconds| u32::try_from(seconds).ok());
    }
    error
}
