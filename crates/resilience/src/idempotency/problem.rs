//! What is said to requests that are not passed on (RFC 9457).

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use super::{body::Buffered, key::KeyError};

/// Why a request with a key, or without one, is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum Problem {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("idempotency-key: must be there")]
    Missing,
    #[error("idempotency-key: a request with this key is being worked on")]
    InProgress,
    #[error("idempotency-key: the request with this key was done, and its answer too large to be kept")]
    NotKept,
    #[error("idempotency-key: was used for another request")]
    Mismatch,
    #[error("the body of a request with an idempotency key must have at most {0} bytes")]
    TooLarge(usize),
    #[error("the body of the request could not be read")]
    Request,
    #[error("the answer broke off; the request may be sent again with the same key")]
    Answer,
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
    pub(super) fn response<B>(&self) -> Response<Buffered<B>> {
        let status = self.status();
        let title = status.canonical_reason().unwrap_or_default();
        let json = format!(r#"{{"title":"{title}","status":{},"detail":"{self}"}}"#, status.as_u16());
        let mut response = Response::new(Buffered::whole(Bytes::from(json)));
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    }
}
