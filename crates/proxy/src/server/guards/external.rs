//! Asking a service whether a request passes.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use tracing::debug;

use super::{
    super::{Shared, body::RequestBody},
    asking::{self, Silence},
};
use crate::routing::{Entrant, External, Refusal, Said, Target, choose};

/// Bytes of an answer at most: what a client is told when it does not pass.
const ANSWER_BYTES: usize = 256 << 10;

/// Asks; says whether the rule is to be looked for again with what the service changed.
pub(super) async fn ask(
    shared: &Arc<Shared>,
    external: &External,
    entrant: &mut Entrant<'_>,
    body: &mut RequestBody,
) -> Result<bool, Refusal> {
    let told = match external.body_max {
        None => Bytes::new(),
        Some(limit) => held(body, limit).await?,
    };
    let said = match answer(shared, external, entrant, &told).await {
        Ok(said) => said,
        Err(silence) => {
            debug!(%silence, "a service that decides about requests cannot be asked");
            Said::Failed
        }
    };
    external.follow(said, entrant)
}

/// The body, which is kept.
async fn held(body: &mut RequestBody, limit: usize) -> Result<Bytes, Refusal> {
    let whole = std::mem::replace(body, RequestBody::Whole(None)).whole(limit).await;
    let whole = whole.map_err(|_| Refusal::bare(StatusCode::BAD_REQUEST))?;
    *body = whole.ok_or_else(|| Refusal::bare(StatusCode::PAYLOAD_TOO_LARGE))?;
    Ok(match body {
        RequestBody::Whole(Some(bytes)) => bytes.clone(),
        _ => Bytes::new(),
    })
}

async fn answer(
    shared: &Arc<Shared>,
    external: &External,
    entrant: &Entrant<'_>,
    body: &Bytes,
) -> Result<Said, Silence> {
    let target = choose(&external.shares, rand::random()).map(|share| &share.target);
    let Some(Target::Service { backend, http2 }) = target else { return Err(Silence::Broken) };
    let question = external.question(entrant, body).ok_or(Silence::Broken)?;
    let said = asking::ask(shared, (backend, *http2), question, (external.timeout, ANSWER_BYTES)).await?;
    Ok(external.read(entrant, (said.head.status, &said.head.headers, &said.trailers), said.body))
}
