//! Asking somebody else: one request to a backend, and all of its answer in memory.

use std::{future::poll_fn, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Version, response::Parts};
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
        let body = read(body, bytes_max).await?;
        Ok(Said { head, body })
    };
    tokio::time::timeout(patience, asked).await.map_err(|_| Silence::Late)?
}

async fn read(mut body: ResponseBody, limit: usize) -> Result<Bytes, Silence> {
    let mut whole = Vec::new();
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        if let Ok(data) = frame.map_err(|_| Silence::BrokenOff)?.into_data() {
            if whole.len() + data.len() > limit {
                return Err(Silence::TooLong);
            }
            whole.extend_from_slice(&data);
        }
    }
    Ok(whole.into())
}
