//! Answers of the node's HTTP service.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};

use super::Body;

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

fn with(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Body> {
    let mut answer = Response::new(full(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

/// Plain text, ended by a line feed.
pub(crate) fn text(status: StatusCode, mut message: String) -> Response<Body> {
    message.push('\n');
    with(status, "text/plain; charset=utf-8", message.into())
}

/// A refusal as the API's clients read it: a `metav1.Status`.
pub(crate) fn failure(code: StatusCode, message: &str) -> Response<Body> {
    let reason = match code {
        StatusCode::BAD_REQUEST => "BadRequest",
        StatusCode::FORBIDDEN => "Forbidden",
        StatusCode::NOT_FOUND => "NotFound",
        _ => "InternalError",
    };
    let status = serde_json::json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code.as_u16(),
    });
    with(code, "application/json", status.to_string().into())
}

/// JSON.
pub(crate) fn json(value: &serde_json::Value) -> Response<Body> {
    with(StatusCode::OK, "application/json", value.to_string().into())
}

/// No content at all.
pub(crate) fn empty(status: StatusCode) -> Response<Body> {
    let mut answer = Response::new(full(Bytes::new()));
    *answer.status_mut() = status;
    answer
}
