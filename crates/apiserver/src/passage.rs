//! What surrounds every request, whoever answers it: its identity, its audit trail, the headers of every answer, and
//! what becomes of a panic.

use std::{
    any::Any,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::FutureExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use jiff::Timestamp;

use crate::{
    audit::{Auditor, Ended, Stage, Trail},
    body::{self, Body, BoxError},
    flow::{Admitted, FlowSchema},
    indented, negotiation,
    server::{ApiServer, Caller},
    status::ApiError,
};

/// The header a request and its answer carry their identity in.
const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");
/// What every answer says that does not say otherwise: nothing here may be kept by a cache.
const CACHE_CONTROL: HeaderValue = HeaderValue::from_static("no-cache, private");
/// What the client of a request that panicked is told, as upstream tells it.
const PANICKED: &str = "This request caused apiserver to panic. Look in the logs for details.";

/// How long a request is expected to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Span {
    /// It is answered and over.
    Short,
    /// Its answer goes on for as long as the client likes: a watch, a log, a session in a container.
    Long,
}

/// One request on its way through the server.
pub(crate) struct Passage {
    pub(crate) received: Timestamp,
    pub(crate) id: HeaderValue,
    pub(crate) trail: Trail,
    pub(crate) span: Span,
    /// Nobody vouches for the caller: the audit knows one stage of that only.
    pub(crate) stranger: bool,
    /// Why it failed, where the answer that says so is made already.
    pub(crate) error: Option<Box<ApiError>>,
    /// Which flow it is part of.
    pub(crate) flow: Option<Arc<FlowSchema>>,
    /// What the client takes, where that is more than plain JSON.
    accepts: Option<HeaderValue>,
    /// Its seat, when its answer goes on taking time after the handler is done.
    pub(crate) seat: Option<Admitted>,
}

impl Passage {
    fn new(headers: &HeaderMap) -> Self {
        Self {
            received: Timestamp::now(),
            id: headers.get(AUDIT_ID).cloned().unwrap_or_else(new_id),
            trail: Trail::default(),
            span: Span::Short,
            stranger: false,
            error: None,
            flow: None,
            accepts: headers.get(header::ACCEPT).filter(|accept| *accept != "application/json").cloned(),
            seat: None,
        }
    }

    /// The answer that tells of a failure.
    pub(crate) fn failure(&self, error: &ApiError) -> Response<Body> {
        error.to_response_in(negotiation::of_failure(self.accepts.as_ref()))
    }
}

fn new_id() -> HeaderValue {
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    uuid::Builder::from_random_bytes(rand::random()).as_uuid().hyphenated().encode_lower(&mut text);
    let mut id = HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static(""));
    // new with every answer: remembered by the compression of HTTP/2 it would only push out what does repeat
    id.set_sensitive(true);
    id
}

impl ApiServer {
    /// Answers one request.
    pub(crate) async fn handle(self: Arc<Self>, request: Request<Body>, caller: Caller) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let mut passage = Passage::new(&parts.headers);
        let is_indented = indented::is_wanted(&parts.uri, &parts.headers);
        let auditor = self.auditor.clone();
        let answered = AssertUnwindSafe(self.route(parts, body, caller, &mut passage)).catch_unwind().await;
        let (mut response, error, panicked) = match answered {
            Ok(Ok(response)) => (response, passage.error.take(), false),
            Ok(Err(error)) => (passage.failure(&error), Some(Box::new(error)), false),
            Err(panic) => {
                let (response, error) = panicked(&*panic);
                (response, Some(Box::new(error)), true)
            }
        };
        if let (Some(auditor), true) = (auditor, passage.trail.is_kept()) {
            let ended = Ended { code: response.status().as_u16(), error };
            response = if panicked {
                auditor.reached(&passage.trail, Stage::Panic, Some(ended)).await;
                response
            } else {
                audited(auditor, &passage, response, ended).await
            };
        }
        if is_indented && passage.span == Span::Short {
            response = indented::answer(response);
        }
        let headers = response.headers_mut();
        headers.insert(AUDIT_ID, passage.id);
        headers.entry(header::CACHE_CONTROL).or_insert(CACHE_CONTROL);
        if let Some(flow) = &passage.flow {
            flow.stamp(headers);
        }
        match passage.seat {
            Some(seat) => response.map(|inner| During { inner, _until: seat }.boxed_unsync()),
            None => response,
        }
    }
}

/// Has the end of a request written, or, of a long one, its beginning now and its end when its body is over.
async fn audited(
    auditor: Arc<Auditor>,
    passage: &Passage,
    mut response: Response<Body>,
    ended: Ended,
) -> Response<Body> {
    let trail = &passage.trail;
    if passage.stranger {
        auditor.reached(trail, Stage::ResponseStarted, Some(ended)).await;
        return response;
    }
    if passage.span == Span::Long {
        auditor.reached(trail, Stage::ResponseStarted, Some(ended.clone())).await;
        let ending = Ending { auditor, trail: trail.clone(), ended };
        return response.map(|inner| During { inner, _until: ending }.boxed_unsync());
    }
    if trail.takes_response() {
        let (parts, whole) = response.into_parts();
        let whole = match whole.collect().await {
            Ok(collected) => collected.to_bytes(),
            Err(error) => return ApiError::internal(error).to_response(),
        };
        trail.response(&whole);
        response = Response::from_parts(parts, body::full(whole));
    }
    auditor.reached(trail, Stage::ResponseComplete, Some(ended)).await;
    response
}

fn panicked(panic: &(dyn Any + Send)) -> (Response<Body>, ApiError) {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    tracing::error!(panic = text, "a request panicked");
    let mut response = Response::new(body::full(PANICKED));
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    (response, ApiError::new(500, "InternalError", format!("APIServer panic'd: {text}")))
}

/// A body and what lives as long as it does.
struct During<T> {
    inner: Body,
    _until: T,
}

/// Tells the audit that a long answer is over, whoever ends it.
struct Ending {
    auditor: Arc<Auditor>,
    trail: Trail,
    ended: Ended,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.auditor.reached_now(&self.trail, Stage::ResponseComplete, Some(self.ended.clone()));
    }
}

impl<T: Unpin> http_body::Body for During<T> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_keep_the_identity_they_bring() {
        let mut headers = HeaderMap::new();
        let made = Passage::new(&headers).id;
        assert_eq!(made.len(), 36);
        assert_ne!(made, Passage::new(&headers).id);
        headers.insert(AUDIT_ID, HeaderValue::from_static("mine"));
        assert_eq!(Passage::new(&headers).id, "mine");
    }

    #[test]
    fn a_panic_becomes_an_answer() {
        let (response, error) = panicked(&"oh");
        assert_eq!(response.status(), 500);
        assert_eq!(error.message, "APIServer panic'd: oh");
    }
}
