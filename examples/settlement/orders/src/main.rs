//! Takes orders: checks them, converts the amount, and has the ledger settle them. Stateless: the ledger's answer is
//! the order's state.

mod ledger;
mod rates;
#[cfg(test)]
mod tests;

use std::{convert::Infallible, process::ExitCode, sync::Arc, time::Duration};

use axum::{
    Extension, Json, Router,
    extract::{Path, State},
    http::{HeaderMap, Method, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use resilience::{
    Failure,
    answer::AnswerLayer,
    deadline::{Deadline, DeadlineConfig, DeadlineLayer},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use service::{Refusal, StartError};
use tower::ServiceBuilder;

use crate::{
    ledger::{CallError, Ledger},
    rates::Rates,
};

/// The longest that a request takes; callers may ask for less. Long enough for the ledger's successor to start.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// What a client asks for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    id: String,
    debtor: String,
    creditor: String,
    amount_minor: i64,
    currency: String,
    /// Currency the creditor is paid in.
    pay_in: String,
}

/// What the ledger is asked for, and what it answers.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Settlement {
    idempotency_key: String,
    order_id: String,
    debtor: String,
    creditor: String,
    amount_minor: i64,
    currency: String,
}

#[derive(Clone)]
struct Orders {
    ledger: Arc<Ledger>,
    rates: Rates,
}

type KnownDeadline = Option<Extension<Deadline>>;

fn main() -> ExitCode {
    service::run("orders", || async {
        let ledger_url: String = service::setting("LEDGER_URL", "http://ledger:8080".to_owned())?;
        let ledger_token: String = service::setting("LEDGER_TOKEN", String::new())?;
        let rates: Rates = service::setting("RATES", Rates::default())?;
        let ledger = Arc::new(Ledger::new(&ledger_url, ledger_token)?);
        service::serve("orders", routes(Orders { ledger, rates })?).await
    })
}

fn routes(orders: Orders) -> Result<Router, StartError> {
    let deadline = DeadlineConfig { timeout: Some(REQUEST_TIMEOUT), tell: false, ..DeadlineConfig::default() };
    let defence = ServiceBuilder::new()
        .layer(AnswerLayer)
        .layer(DeadlineLayer::new(deadline)?)
        .map_err(Failure::<Infallible>::Service);
    let routes = Router::new()
        .route("/orders", post(place))
        .route("/orders/{id}", get(find))
        .route("/days", get(days))
        .with_state(orders);
    Ok(routes.layer(defence))
}

/// 201 for a new order, 200 where the same order was settled before, 409 where its key settled another one.
async fn place(
    State(orders): State<Orders>,
    deadline: KnownDeadline,
    headers: HeaderMap,
    Json(order): Json<Order>,
) -> Result<Response, Refusal> {
    let key = match headers.get("idempotency-key") {
        Some(key) => key.to_str().map_err(|_| invalid("Idempotency-Key: must be visible ASCII"))?.to_owned(),
        None => order.id.clone(),
    };
    let amount_minor =
        orders.rates.convert(order.amount_minor, &order.currency, &order.pay_in).map_err(|e| invalid(&e))?;
    let Order { id, debtor, creditor, pay_in, .. } = order;
    let wanted = Settlement { idempotency_key: key, order_id: id, debtor, creditor, amount_minor, currency: pay_in };
    let answer = orders.ledger.settle(&wanted.idempotency_key, &wanted, known(deadline)).await.map_err(unreached)?;
    match answer.status() {
        StatusCode::CREATED => Ok((StatusCode::CREATED, Json(wanted)).into_response()),
        StatusCode::CONFLICT => {
            let settled: Settlement = read(answer.body())?;
            if settled == wanted {
                return Ok((StatusCode::OK, Json(settled)).into_response());
            }
            let taken = format!("the idempotency key {:?} has settled another order", wanted.idempotency_key);
            Err(Refusal(StatusCode::CONFLICT, taken))
        }
        _ => pass_on(&answer),
    }
}

async fn find(
    State(orders): State<Orders>,
    deadline: KnownDeadline,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    ask(&orders, &["settlements", &id], deadline).await
}

async fn days(State(orders): State<Orders>, deadline: KnownDeadline) -> Result<Response, Refusal> {
    ask(&orders, &["days"], deadline).await
}

async fn ask(orders: &Orders, path: &[&str], deadline: KnownDeadline) -> Result<Response, Refusal> {
    pass_on(&orders.ledger.call(Method::GET, path, known(deadline)).await.map_err(unreached)?)
}

fn known(deadline: KnownDeadline) -> Option<Deadline> {
    deadline.map(|Extension(deadline)| deadline)
}

fn pass_on(answer: &ledger::Answer) -> Result<Response, Refusal> {
    let body: Value = read(answer.body())?;
    Ok((answer.status(), Json(body)).into_response())
}

fn read<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| {
        tracing::warn!(%error, "the ledger's answer cannot be read");
        Refusal(StatusCode::BAD_GATEWAY, "the ledger's answer cannot be read".to_owned())
    })
}

fn invalid(rule: &str) -> Refusal {
    Refusal(StatusCode::UNPROCESSABLE_ENTITY, rule.to_owned())
}

/// What a client is told when the ledger was not reached, or not asked.
fn unreached(error: CallError) -> Refusal {
    tracing::warn!(error = &error as &dyn std::error::Error, "the ledger does not answer");
    let status = match error {
        Failure::Rejected(rejection) => rejection.status(),
        Failure::Service(_) => StatusCode::BAD_GATEWAY,
    };
    Refusal(status, "the ledger does not answer; the order may be sent again".to_owned())
}
