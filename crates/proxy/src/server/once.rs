//! Requests with an idempotency key: done once, whatever becomes of who sent them.
//!
//! A client that gives up and sends its request again must not have it done twice, so the work goes on without the client,
//! for as long as the filter allows, and its answer is kept. Nor is such a request sent twice by the gateway itself where
//! that is safe only because of the key: the backend need not know what keys are for.

use http::{Request, StatusCode};
use resilience::idempotency::{Begun, Buffered, Problem};
use tokio::{sync::oneshot, time::timeout};

use super::{
    answer::{Answer, own},
    body::{RequestBody, ResponseBody},
    connection::Peer,
    exchange::Single,
    forward,
};
use crate::routing::{Forward, Guest, KeptForward, Once};

/// Does a request, or gives the answer of when it was done; with whether it is the gateway's own.
pub(crate) async fn serve(
    peer: &Peer,
    once: &Once,
    way: Forward<'_>,
    (request, guest): (Request<RequestBody>, Option<Guest>),
    authority: http::HeaderValue,
) -> (bool, Answer) {
    let key = match once.keeper.key(request.method(), request.headers()) {
        Ok(Some(key)) => key,
        Ok(None) => {
            let (_, own, answer) = forward::sent(peer, way, (request, guest), authority, false).await;
            return (own, answer);
        }
        Err(problem) => return (true, told(&problem)),
    };
    let (parts, body) = request.into_parts();
    let (claim, body) = match once.keeper.begin(&key, &once.caller(&parts.headers), &parts, body).await {
        Ok(Begun::Ours(claim, body)) => (claim, body),
        Ok(Begun::Done(answer)) => {
            return (false, answer.map(|body| ResponseBody::Own(Some(body).filter(|body| !body.is_empty()))));
        }
        Err(problem) => return (true, told(&problem)),
    };
    let mut request = Request::from_parts(parts, RequestBody::Whole(Some(body).filter(|body| !body.is_empty())));
    request.extensions_mut().insert(Single);
    let (kept, peer, limit) = (way.keep(), peer.clone(), once.keeper.config().lease);
    let (answered, answer) = oneshot::channel();
    let (tasks, kill) = (peer.shared.tasks.clone(), peer.shared.kill.clone());
    tasks.spawn(async move {
        let work = async {
            let Some(way) = kept.as_ref().and_then(KeptForward::forward) else {
                claim.release().await;
                return (true, own(StatusCode::INTERNAL_SERVER_ERROR, false));
            };
            let (_, own, answer) = forward::sent(&peer, way, (request, guest), authority, false).await;
            (own, claim.finish(answer).await.map(read))
        };
        // Dropped before its end it gives its claim up.
        let answer = tokio::select! {
            () = kill.cancelled() => return,
            answer = timeout(limit, work) => answer.unwrap_or_else(|_| (true, own(StatusCode::GATEWAY_TIMEOUT, false))),
        };
        // Nobody is there who waits for it; it is kept.
        let _ = answered.send(answer);
    });
    answer.await.unwrap_or_else(|_| (true, own(StatusCode::SERVICE_UNAVAILABLE, false)))
}

fn told(problem: &Problem) -> Answer {
    problem.response().map(|body| ResponseBody::Own(Some(body)))
}

/// A body of which the beginning, or all, was read.
fn read(body: Buffered<ResponseBody>) -> ResponseBody {
    match body.into_parts() {
        (None, Some(rest)) => rest,
        (Some(begun), Some(rest)) => ResponseBody::Begun(Some(begun), Box::new(rest)),
        (begun, None) => ResponseBody::Own(begun.filter(|begun| !begun.is_empty())),
    }
}
