//! The system of record: an append-only file of settlements. A settlement that was answered with 201 is on the disk,
//! and an idempotency key settles once.

mod journal;

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use axum::{
    Json, Router,
    extract::{Path, Request, State},
    http::{StatusCode, header::AUTHORIZATION},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;
use service::{Refusal, StartError};

use crate::journal::{AppendError, Journal, Settlement};

/// Longest idempotency key that is kept.
const KEY_BYTES_MAX: usize = 255;

fn main() -> ExitCode {
    service::run("ledger", || async {
        let directory: PathBuf = service::setting("LEDGER_DIR", PathBuf::from("/data"))?;
        let journal = Journal::open(&directory.join("settlements.jsonl"))
            .map_err(|e| StartError::from(format!("ledger in {}: {e}", directory.display())))?;
        tracing::info!(settlements = journal.len(), "journal read");
        let token: String = service::setting("LEDGER_TOKEN", String::new())?;
        if token.is_empty() {
            return Err("LEDGER_TOKEN is not set: callers must prove who they are".into());
        }
        service::serve("ledger", routes(journal, token)).await
    })
}

fn routes(journal: Journal, token: String) -> Router {
    Router::new()
        .route("/settlements", get(list).post(settle))
        .route("/settlements/{key}", get(find))
        .route_layer(middleware::from_fn_with_state(Arc::<str>::from(token), authorise))
        .with_state(journal)
}

/// Lets a request pass that carries the token.
async fn authorise(State(token): State<Arc<str>>, request: Request, next: Next) -> Response {
    let given =
        request.headers().get(AUTHORIZATION).and_then(|v| v.to_str().ok()).and_then(|v| v.strip_prefix("Bearer "));
    match given {
        Some(given) if given == &*token => next.run(request).await,
        _ => Refusal(StatusCode::UNAUTHORIZED, "a bearer token is needed".to_owned()).into_response(),
    }
}

async fn list(State(journal): State<Journal>) -> Response {
    let settlements = journal.all();
    Json(json!({"count": settlements.len(), "settlements": settlements})).into_response()
}

async fn find(State(journal): State<Journal>, Path(key): Path<String>) -> Result<Json<Settlement>, Refusal> {
    let missing = || Refusal(StatusCode::NOT_FOUND, format!("no settlement has the idempotency key {key:?}"));
    journal.get(&key).map(Json).ok_or_else(missing)
}

/// 201 with the settlement, or 409 with the one that already has the key.
async fn settle(State(journal): State<Journal>, Json(settlement): Json<Settlement>) -> Result<Response, Refusal> {
    let key_length = settlement.idempotency_key.len();
    if key_length == 0 || key_length > KEY_BYTES_MAX {
        let rule = format!("idempotency_key: must have 1 to {KEY_BYTES_MAX} bytes, not {key_length}");
        return Err(Refusal(StatusCode::UNPROCESSABLE_ENTITY, rule));
    }
    if settlement.amount_minor <= 0 {
        let rule = format!("amount_minor: must be positive, not {}", settlement.amount_minor);
        return Err(Refusal(StatusCode::UNPROCESSABLE_ENTITY, rule));
    }
    match journal.append(settlement).await {
        Ok(settled) => {
            tracing::info!(key = settled.idempotency_key, order = settled.order_id, "settled");
            Ok((StatusCode::CREATED, Json(settled)).into_response())
        }
        Err(AppendError::Duplicate(existing)) => Ok((StatusCode::CONFLICT, Json(*existing)).into_response()),
        Err(AppendError::Storage) => {
            Err(Refusal(StatusCode::SERVICE_UNAVAILABLE, "the ledger cannot write to its disk".to_owned()))
        }
    }
}
