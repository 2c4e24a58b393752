//! What is said to requests that are not passed on (RFC 9457).

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use super::key::KeyError;

/// Why a request with a key, or without one, is refused.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The key cannot be read.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// There must be one.
    #[error("idempotency-key: must be there")]
    Missing,
    /// Somebody else does it.
    #[error("idempotency-key: a request with this key is being worked on")]
    InProgress,
    /// It was done, and nobody knows the answer any more.
    #[error("idempotency-key: the request with this key was done, and its answer too large to be kept")]
    NotKept,
    /// It is another request.
    #[error("idempotency-key: was used for another request")]
    Mismatch,
    /// It is too large to be compared.
    #[error("the body of a request with an idempotency key must have at most {0} bytes")]
    TooLarge(usize),
    /// It broke off.
    #[error("the body of the request could not be read")]
    Request,
    /// The answer broke off.
    #[error("the answer broke off; the request may be sent again with the same key")]
    Answer,
    /// Nobody knows whether it was done.
    #[error("idempotency keys cannot be looked up at the moment; the request was not done")]
    Store,
}

impl Problem {
    fn status(&self) -> StatusCode {
        match self {
            Self::Key(_) | Self::Missing | Self::Request => StatusCode::BAD_REQUEST,
            Self::InProgress | Self::NotKept => StatusCode::CONFLICT,
            Self::Mismatch => StatusCode::UNPROCESSABLE_ENTITY,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Answer => StatusCode::BAD_GATEWAY,
            Self::Store => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The answer that says so. Texts are ours and hold no quotes.
    pub fn response(&self) -> Response<Bytes> {
        let status = self.status();
        let title = status.canonical_reason().unwrap_or_default();
        let json = format!(r#"{{"title":"{title}","status":{},"detail":"{self}"}}"#, status.as_u16());
        let mut response = Response::new(Bytes::from(json));
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    }
}
