//! Asking somebody else: one request to a backend, and all of its answer in memory.

use std::{future::poll_fn, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, Version, response::Parts};
use hyper::body::Body as _;

use super::super::{
    Shared,
    body::{RequestBody, ResponseBody},
    exchange::{Answered, Exchange},
    upstream::Way,
};
use crate::routing::Backend;

/// An answer, read to its end.
pub(super) struct Said {
    pub(super) head: Parts,
    pub(super) body: Bytes,
    /// What came after the body.
    pub(super) trailers: HeaderMap,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Silence {
    #[error("it cannot be spoken to")]
    Broken,
    #[error("no endpoint answers")]
    Unanswered,
    #[error("it takes too long")]
    Late,
    #[error("its answer is longer than it may be")]
    TooLong,
    #[error("its answer broke off")]
    BrokenOff,
}

/// Sends a request whose target is a path and whose host is a header.
pub(super) async fn ask(
    shared: &Arc<Shared>,
    (backend, http2): (&Backend, bool),
    request: Request<Bytes>,
    (patience, bytes_max): (Duration, usize),
) -> Result<Said, Silence> {
    let way = Way::to(backend, http2, None);
    if way.is_broken() {
        return Err(Silence::Broken);
    }
    let mut request = request.map(|body| RequestBody::Whole(Some(body).filter(|body| !body.is_empty())));
    if way.http2 {
        let target = request.uri().path_and_query().cloned().ok_or(Silence::Broken)?;
        let uri = super::super::forward::absolute(request.headers_mut(), way.scheme(), target);
        *request.uri_mut() = uri.ok_or(Silence::Broken)?;
        *request.version_mut() = Version::HTTP_2;
    }
    let ended = request.body().ended();
    let (limit, connect, silence, plan) = (None, None, None, None);
    let exchange = Exchange { shared, backend, way, limit, connect, silence, fresh: false, plan, ended: ended.clone() };
    let asked = async {
        let Answered { response, line, .. } = exchange.run(request).await.map_err(|_| Silence::Unanswered)?;
        let (head, body) = response.into_parts();
        let body = ResponseBody::backend(body, line, shared.pool.clone(), ended, None, None).await;
        let (body, trailers) = read(body, bytes_max).await?;
        Ok(Said { head, body, trailers })
    };
    tokio::time::timeout(patience, asked).await.map_err(|_| Silence::Late)?
}

async fn read(mut body: ResponseBody, limit: usize) -> Result<(Bytes, HeaderMap), Silence> {
    let (mut whole, mut trailers) = (Vec::new(), HeaderMap::new());
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        match frame.map_err(|_| Silence::BrokenOff)?.into_data() {
            Ok(data) if whole.len() + data.len() > limit => return Err(Silence::TooLong),
            Ok(data) => whole.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
        }
    }
    Ok((whole.into(), trailers))
}
