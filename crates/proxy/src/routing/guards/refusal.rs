//! Why a request does not pass, as its client is told.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};

/// The answer to a request that does not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its status.
    pub status: StatusCode,
    /// Headers in place of those that any answer has.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// What it says; the words that stand for the status when absent.
    pub body: Option<Bytes>,
}

impl Refusal {
    /// An answer that says no more than its status.
    pub fn bare(status: StatusCode) -> Self {
        Refusal { status, headers: Vec::new(), body: None }
    }

    /// An answer that says why.
    pub fn new(status: StatusCode, body: &'static str) -> Self {
        Refusal { body: Some(Bytes::from_static(body.as_bytes())), ..Self::bare(status) }
    }

    /// The same with a header.
    #[must_use]
    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }
}
