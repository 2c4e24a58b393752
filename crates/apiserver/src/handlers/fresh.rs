//! What reading from memory needs when other servers write to the same store: where the API promises the newest state, the
//! memory must first hold what they acknowledged. With a store of our own none of this costs anything.

use crate::{
    dispatch::Call,
    options::{ListOptions, Query},
    status::ApiError,
};

/// Waits where a read must see everything that was acknowledged before it: one that names no revision, or a later one than
/// we know.
pub(super) async fn for_read(call: &Call) -> Result<(), ApiError> {
    if !call.server.store.is_shared() {
        return Ok(());
    }
    let options = match call.parts.uri.query() {
        Some(query) => ListOptions::parse(&Query::parse(Some(query)))?,
        None => ListOptions::default(),
    };
    let known = call.server.store.revision().0;
    let newest = options.continue_token.is_none() && options.resource_version.is_none_or(|asked| asked > known);
    if newest { latest(call).await } else { Ok(()) }
}

/// Waits until everything that any server acknowledged is visible here.
pub(super) async fn latest(call: &Call) -> Result<(), ApiError> {
    call.server.store.latest().await.map_err(|error| ApiError::unavailable(error.to_string()))
}

/// Whether a refused write was judged by an outdated state and may go otherwise now. A write that succeeds needs no such
/// look: its transaction is judged by the store.
pub(super) async fn is_outdated(call: &Call, judged_at: store::Revision, error: &ApiError) -> Result<bool, ApiError> {
    if !call.server.store.is_shared() || !(400..500).contains(&error.code) {
        return Ok(false);
    }
    latest(call).await?;
    Ok(call.server.store.revision() > judged_at)
}
