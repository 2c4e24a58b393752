//! Takes orders: checks them, converts the amount, and has the ledger settle them. Stateless: the ledger's answer is
//! the order's state.

mod rates;

use std::{process::ExitCode, time::Duration};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use reqwest::{Client, Response as Answer};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use service::Refusal;

use crate::rates::Rates;

/// The ledger answers within a sync of its disk; far beyond that it is gone.
const LEDGER_TIMEOUT: Duration = Duration::from_secs(5);

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
    ledger: Client,
    ledger_url: String,
    ledger_token: String,
    rates: Rates,
}

fn main() -> ExitCode {
    service::run("orders", || async {
        let ledger_url: String = service::setting("LEDGER_URL", "http://ledger:8080".to_owned())?;
        let ledger_token: String = service::setting("LEDGER_TOKEN", String::new())?;
        let rates: Rates = service::setting("RATES", Rates::default())?;
        let ledger = Client::builder().timeout(LEDGER_TIMEOUT).no_proxy().build()?;
        let routes = Router::new()
            .route("/orders", post(place))
            .route("/orders/{id}", get(find))
            .route("/days", get(days))
            .with_state(Orders { ledger, ledger_url, ledger_token, rates });
        service::serve("orders", routes).await
    })
}

/// 201 for a new order, 200 where the same order was settled before, 409 where its key settled another one.
async fn place(
    State(orders): State<Orders>,
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
    let url = format!("{}/settlements", orders.ledger_url);
    let answer = orders
        .ledger
        .post(url)
        .bearer_auth(&orders.ledger_token)
        .json(&wanted)
        .send()
        .await
        .map_err(|e| unreachable_ledger(&e))?;
    match answer.status() {
        StatusCode::CREATED => Ok((StatusCode::CREATED, Json(wanted)).into_response()),
        StatusCode::CONFLICT => {
            let settled: Settlement = answer.json().await.map_err(|e| unreachable_ledger(&e))?;
            if settled == wanted {
                return Ok((StatusCode::OK, Json(settled)).into_response());
            }
            let taken = format!("the idempotency key {:?} has settled another order", wanted.idempotency_key);
            Err(Refusal(StatusCode::CONFLICT, taken))
        }
        _ => pass_on(answer).await,
    }
}

async fn find(State(orders): State<Orders>, Path(id): Path<String>) -> Result<Response, Refusal> {
    ask(&orders, &["settlements", &id]).await
}

async fn days(State(orders): State<Orders>) -> Result<Response, Refusal> {
    ask(&orders, &["days"]).await
}

async fn ask(orders: &Orders, path: &[&str]) -> Result<Response, Refusal> {
    let mut url = reqwest::Url::parse(&orders.ledger_url).map_err(|e| unreachable_ledger(&e))?;
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(path);
    }
    pass_on(orders.ledger.get(url).bearer_auth(&orders.ledger_token).send().await.map_err(|e| unreachable_ledger(&e))?)
        .await
}

async fn pass_on(answer: Answer) -> Result<Response, Refusal> {
    let status = answer.status();
    let body: Value = answer.json().await.map_err(|e| unreachable_ledger(&e))?;
    Ok((status, Json(body)).into_response())
}

fn invalid(rule: &str) -> Refusal {
    Refusal(StatusCode::UNPROCESSABLE_ENTITY, rule.to_owned())
}

fn unreachable_ledger(error: &dyn std::error::Error) -> Refusal {
    tracing::warn!(%error, "the ledger does not answer");
    Refusal(StatusCode::BAD_GATEWAY, "the ledger does not answer; the order may be sent again".to_owned())
}
