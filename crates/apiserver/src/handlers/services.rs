//! Writing Services to a store that other servers write to as well: choosing addresses and ports is repeated until none of
//! them came between.

use std::{future::Future, sync::Arc};

use http::Response;
use serde_json::Value;

use super::{fresh, write::ATTEMPTS_MAX};
use crate::{body::Body, codec, dispatch::Call, server::SERVICES, status::ApiError};

/// Whether a request may hand out addresses or ports that another server could hand out too.
pub(super) fn concerns(call: &Call) -> bool {
    &*call.served.collection == SERVICES
        && call.server.store.is_shared()
        && matches!(call.verb, "create" | "update" | "patch")
}

/// Repeats `change` while other servers are faster.
pub(super) async fn take_turn<F, Fut>(call: &Arc<Call>, change: F) -> Result<Response<Body>, ApiError>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<Response<Body>, ApiError>>,
{
    let turn = call.server.allocation_turns.take().await;
    let mut doubted = false;
    for _ in 0..ATTEMPTS_MAX {
        if turn.is_outdated(&call.server.snapshot()) || doubted {
            reload(call);
        }
        match change().await {
            Err(_) if turn.was_raced() => fresh::latest(call).await?,
            // what is refused as taken may have been freed by another server's deletion
            Err(error) if matches!(error.code, 422 | 500) && !doubted => doubted = true,
            answer => return answer,
        }
    }
    Err(ApiError::conflict(call.group_resource(), &call.name, "other servers keep allocating; please try again"))
}

/// Makes the bitmaps anew from what is stored.
fn reload(call: &Call) {
    let snapshot = call.server.snapshot();
    let services: Vec<Value> =
        snapshot.range(SERVICES, "", None).filter_map(|(_, object)| codec::stored(&object.bytes).ok()).collect();
    call.server.services.reload(services.iter());
}
