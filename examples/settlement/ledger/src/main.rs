//! The system of record: an append-only file of settlements. A settlement that was answered with 201 is on the disk,
//! an idempotency key settles once, and a day is closed once.
//!
//! `ledger` serves, `ledger migrate` brings the file to the version that this ledger writes, and `ledger close-day` has
//! the running ledger close the day that is over.

mod closing;
mod format;
mod journal;

use std::{env, io, path::PathBuf, process::ExitCode, sync::Arc, thread, time::Duration};

use axum::{
    Json, Router,
    extract::{Path, Request, State},
    http::{StatusCode, header::AUTHORIZATION},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use jiff::{civil::Date, tz::TimeZone};
use serde_json::json;
use service::{Refusal, StartError};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

use crate::journal::{AppendError, CloseError, Journal, Settlement};

/// Longest idempotency key that is kept.
const KEY_BYTES_MAX: usize = 255;
/// How long a ledger waits for its predecessor to end, in seconds, when `PREDECESSOR_SECONDS` says nothing else; an orderly
/// one drains for some.
const PREDECESSOR_SECONDS: u64 = 20;
/// How long a migration waits for the old ledger to end before it leaves that to its next try.
const MIGRATION_PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    service::run("ledger", || async {
        let directory: PathBuf = service::setting("LEDGER_DIR", PathBuf::from("/data"))?;
        let zone: String = service::setting("TIME_ZONE", "UTC".to_owned())?;
        let zone = TimeZone::get(&zone).map_err(|e| format!("TIME_ZONE={zone:?}: {e}"))?;
        match env::args().nth(1).as_deref() {
            None => serve(directory, zone).await,
            Some("migrate") => migrate(directory, zone).await,
            Some("close-day") => closing::close_day(zone, &token()?).await,
            Some(other) => Err(format!("{other:?} is no command: migrate and close-day are").into()),
        }
    })
}

fn token() -> Result<String, StartError> {
    let token: String = service::setting("LEDGER_TOKEN", String::new())?;
    if token.is_empty() {
        return Err("LEDGER_TOKEN is not set: callers must prove who they are".into());
    }
    Ok(token)
}

async fn serve(directory: PathBuf, zone: TimeZone) -> Result<(), StartError> {
    let token = token()?;
    let place = directory.display().to_string();
    let patience = Duration::from_secs(service::setting("PREDECESSOR_SECONDS", PREDECESSOR_SECONDS)?);
    let open = move || Journal::open(&directory, patience, move || format::today(&zone));
    let Some(journal) = unless_terminated(open).await.map_err(|e| format!("ledger in {place}: {e}"))? else {
        return Ok(());
    };
    tracing::info!(settlements = journal.len(), "journal read");
    service::serve("ledger", routes(journal, token)).await
}

async fn migrate(directory: PathBuf, zone: TimeZone) -> Result<(), StartError> {
    let place = directory.display().to_string();
    let migrate = move || format::migrate(&directory, &zone, MIGRATION_PATIENCE);
    match unless_terminated(migrate).await.map_err(|e| format!("journal in {place}: {e}"))? {
        Some(Some(did)) => {
            tracing::info!(from = did.from, to = format::VERSION, settlements = did.settlements, "migrated");
        }
        Some(None) => tracing::info!(version = format::VERSION, "nothing to migrate"),
        None => return Err("was told to stop before it could migrate".into()),
    }
    Ok(())
}

/// Does work that may wait for another process; `None` when SIGTERM came first. The first process of a container ignores
/// signals that it does not handle.
async fn unless_terminated<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<Option<T>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let (done, outcome) = oneshot::channel();
    // Not one of the runtime's threads: it would be waited for at the end.
    thread::Builder::new().name("waiting".to_owned()).spawn(move || done.send(work()))?;
    tokio::select! {
        outcome = outcome => outcome.map_err(io::Error::other)?.map(Some),
        _ = terminate.recv() => Ok(None),
    }
}

fn routes(journal: Journal, token: String) -> Router {
    Router::new()
        .route("/settlements", get(list).post(settle))
        .route("/settlements/{key}", get(find))
        .route("/days", get(days))
        .route("/days/{day}/close", post(close))
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

async fn days(State(journal): State<Journal>) -> Response {
    Json(json!({"days": journal.days()})).into_response()
}

/// 201 with the days that this closed, or 200 where they were closed before.
async fn close(State(journal): State<Journal>, Path(day): Path<Date>) -> Result<Response, Refusal> {
    match journal.close(day).await {
        Ok(closed) if closed.is_empty() => Ok(Json(json!({"closed": closed})).into_response()),
        Ok(closed) => {
            tracing::info!(?closed, "days closed");
            Ok((StatusCode::CREATED, Json(json!({"closed": closed}))).into_response())
        }
        Err(CloseError::NotOver) => Err(Refusal(StatusCode::UNPROCESSABLE_ENTITY, format!("day: {day} is not over"))),
        Err(CloseError::Storage) => {
            Err(Refusal(StatusCode::SERVICE_UNAVAILABLE, "the ledger cannot write to its disk".to_owned()))
        }
    }
}
