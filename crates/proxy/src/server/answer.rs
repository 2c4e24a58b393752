//! Answers in the gateway's own words.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

use super::body::ResponseBody;
use crate::routing::Refusal;

/// An answer on its way to a client.
pub(crate) type Answer = Response<ResponseBody>;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Codes of gRPC, as far as a gateway answers with them.
const DEADLINE_EXCEEDED: u16 = 4;
const PERMISSION_DENIED: u16 = 7;
const UNIMPLEMENTED: u16 = 12;
const INTERNAL: u16 = 13;
const UNAVAILABLE: u16 = 14;
const UNAUTHENTICATED: u16 = 16;

/// Whether a request is a gRPC call, whose client looks for the outcome in other headers.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    kind.and_then(|kind| kind.strip_prefix(b"application/grpc"))
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// The code of gRPC in the head of an answer.
pub(crate) fn call_code(headers: &HeaderMap) -> Option<u16> {
    headers.get(GRPC_STATUS)?.to_str().ok()?.parse().ok()
}

/// An answer of the gateway's own to a request, or to a gRPC call.
pub(crate) fn own(status: StatusCode, grpc: bool) -> Answer {
    if grpc {
        return call(status);
    }
    let text = match status.canonical_reason() {
        Some(reason) if status.is_client_error() || status.is_server_error() => {
            Some(Bytes::from_static(reason.as_bytes()))
        }
        _ => None,
    };
    let mut answer = Response::new(ResponseBody::Own(text));
    *answer.status_mut() = status;
    answer
}

/// The answer to a request, or to a gRPC call, that does not pass.
pub(crate) fn refused(refusal: Refusal, grpc: bool) -> Answer {
    let Refusal { status, headers, body } = refusal;
    let mut answer = own(status, grpc);
    match body {
        Some(body) if grpc => {
            if let Ok(message) = HeaderValue::try_from(percent_encoded(&body)) {
                answer.headers_mut().insert(GRPC_MESSAGE, message);
            }
        }
        Some(body) => {
            answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
            *answer.body_mut() = ResponseBody::Own(Some(body).filter(|body| !body.is_empty()));
        }
        None => {}
    }
    for (name, _) in &headers {
        answer.headers_mut().remove(name);
    }
    for (name, value) in headers {
        answer.headers_mut().append(name, value);
    }
    answer
}

/// A message of gRPC as a header takes it.
fn percent_encoded(message: &[u8]) -> String {
    let mut text = String::with_capacity(message.len());
    for byte in message {
        match byte {
            b' '..=b'~' if *byte != b'%' => text.push(char::from(*byte)),
            byte => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

/// The answer to a call by its code of gRPC.
pub(crate) fn called(code: u16) -> Answer {
    let mut answer = call(StatusCode::OK);
    answer.headers_mut().insert(GRPC_STATUS, HeaderValue::from(code));
    answer.headers_mut().remove(GRPC_MESSAGE);
    answer
}

/// The answer to a call: all of it in the head, with the code that stands for the status.
fn call(status: StatusCode) -> Answer {
    let code = match status {
        StatusCode::NOT_FOUND => UNIMPLEMENTED,
        StatusCode::BAD_REQUEST => INTERNAL,
        StatusCode::UNAUTHORIZED => UNAUTHENTICATED,
        StatusCode::FORBIDDEN => PERMISSION_DENIED,
        StatusCode::GATEWAY_TIMEOUT => DEADLINE_EXCEEDED,
        _ => UNAVAILABLE,
    };
    let mut answer = Response::new(ResponseBody::Own(None));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(GRPC_STATUS, HeaderValue::from(code));
    headers.insert(GRPC_MESSAGE, HeaderValue::from_static(status.canonical_reason().unwrap_or("")));
    answer
}
