//! Copies of requests to other backends: nobody waits for them, and nobody sees their answers.

use std::{future::poll_fn, pin::Pin, sync::Arc, time::Duration};

use http::Request;
use hyper::body::Body as _;
use tracing::debug;

use super::{
    Shared,
    body::{RequestBody, ResponseBody},
    exchange::{Answered, Exchange},
    upstream::Way,
};
use crate::routing::{Backend, Mirror};

/// Copies under way at once. A backend for copies that hangs must not cost the gateway its memory; what is more is not
/// copied.
pub(crate) const AT_ONCE: usize = 1024;

/// How long a copy may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Sends copies of a request that is about to be sent in the way `like` to those mirrors that take it.
pub(crate) fn start<'a>(
    shared: &Arc<Shared>,
    mirrors: impl Iterator<Item = &'a Mirror>,
    like: &Way,
    request: &mut Request<RequestBody>,
) {
    for mirror in mirrors.filter(|mirror| mirror.takes_next()) {
        let Ok(permit) = Arc::clone(&shared.mirrors).try_acquire_owned() else {
            debug!(backend = mirror.backend.name(), "a request is not copied: too many copies are under way");
            continue;
        };
        let mut copy = Request::new(request.body_mut().copy());
        *copy.method_mut() = request.method().clone();
        *copy.uri_mut() = request.uri().clone();
        *copy.version_mut() = request.version();
        *copy.headers_mut() = request.headers().clone();
        let backend = Arc::clone(&mirror.backend);
        let way = Way { dialer: like.dialer.clone(), ..Way::to(&backend, mirror.http2, like.identity.as_ref()) };
        let (tasks, shared) = (shared.tasks.clone(), Arc::clone(shared));
        tasks.spawn(async move {
            let kill = shared.kill.clone();
            tokio::select! {
                () = kill.cancelled() => {}
                sent = tokio::time::timeout(LIMIT, send(&shared, &backend, way, copy)) => if sent.is_err() {
                    debug!(backend = backend.name(), "the copy of a request took too long");
                }
            }
            drop(permit);
        });
    }
}

async fn send(shared: &Arc<Shared>, backend: &Backend, way: Way, request: Request<RequestBody>) {
    let ended = request.body().ended();
    let (limit, connect, silence, plan) = (None, None, None, None);
    let exchange = Exchange { shared, backend, way, limit, connect, silence, fresh: false, plan, ended: ended.clone() };
    let Ok(Answered { response, line, .. }) = exchange.run(request).await else { return };
    let body = ResponseBody::backend(response.into_body(), line, shared.pool.clone(), ended, None, None);
    let mut body = body.await;
    while let Some(Ok(_)) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {}
}
