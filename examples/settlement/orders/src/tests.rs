use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Instant,
};

use axum::{body::Body, http::Request};
use serde_json::json;
use tokio::{net::TcpListener, task::JoinHandle};
use tower::ServiceExt as _;

use super::*;

/// A ledger that is not well: what it settled, how often, and how many calls it had.
#[derive(Default)]
struct Sick {
    settled: Mutex<BTreeMap<String, (Settlement, u32)>>,
    calls: AtomicU32,
    told_ms: Mutex<Vec<u64>>,
}

/// Settles, and fails half of its calls: every fourth before it has settled, and every fourth after.
async fn settle(State(ledger): State<Arc<Sick>>, Json(settlement): Json<Settlement>) -> Response {
    let call = ledger.calls.fetch_add(1, Ordering::Relaxed) % 4;
    if call == 0 {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let mut settled = ledger.settled.lock().unwrap();
    if let Some((existing, _)) = settled.get(&settlement.idempotency_key) {
        return (StatusCode::CONFLICT, Json(existing)).into_response();
    }
    let answer = (StatusCode::CREATED, Json(&settlement)).into_response();
    settled.entry(settlement.idempotency_key.clone()).or_insert((settlement, 0)).1 += 1;
    if call == 2 { StatusCode::BAD_GATEWAY.into_response() } else { answer }
}

/// Never answers, but notes how long it is given.
async fn hang(State(ledger): State<Arc<Sick>>, headers: HeaderMap) -> Response {
    ledger.calls.fetch_add(1, Ordering::Relaxed);
    let told: Option<u64> =
        headers.get(resilience::deadline::EXPECTED_TIMEOUT_MS).and_then(|value| value.to_str().ok()?.parse().ok());
    ledger.told_ms.lock().unwrap().extend(told);
    std::future::pending().await
}

async fn serve(routes: Router) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (address, tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() }))
}

fn orders(address: SocketAddr) -> Router {
    let ledger = Arc::new(Ledger::new(&format!("http://{address}"), "token".to_owned()).unwrap());
    routes(Orders { ledger, rates: Rates::default() }).unwrap()
}

fn order(n: u32) -> Request<Body> {
    let order = json!({
        "id": format!("o-{n}"), "debtor": "A", "creditor": "B", "amount_minor": n + 1, "currency": "EUR", "pay_in": "EUR",
    });
    Request::post("/orders").header("content-type", "application/json").body(Body::from(order.to_string())).unwrap()
}

async fn place_order(orders: &Router, n: u32) -> StatusCode {
    orders.clone().oneshot(order(n)).await.unwrap().status()
}

#[tokio::test]
async fn no_settlement_is_lost_or_doubled_while_half_of_the_calls_fail() {
    let sick = Arc::new(Sick::default());
    let (address, ledger) = serve(Router::new().route("/settlements", post(settle)).with_state(sick.clone())).await;
    let orders = orders(address);
    let mut refused = 0;
    for n in 0..60 {
        // as a client does that was told that it may send the order again
        while !place_order(&orders, n).await.is_success() {
            refused += 1;
        }
    }
    assert!(refused <= 12, "{refused} refusals were seen, of 60 orders and as many failed calls");
    let settled = sick.settled.lock().unwrap();
    assert_eq!(settled.len(), 60);
    for n in 0..60 {
        let (settlement, times) = &settled[&format!("o-{n}")];
        assert_eq!((settlement.amount_minor, *times), (i64::from(n) + 1, 1));
    }
    ledger.abort();
}

#[tokio::test]
async fn a_ledger_that_is_down_is_left_alone_after_a_while() {
    // a port that nobody listens at
    let (address, ledger) = serve(Router::new()).await;
    ledger.abort();
    let _ = ledger.await;
    let orders = orders(address);
    let mut statuses = Vec::new();
    for n in 0..60 {
        statuses.push(place_order(&orders, n).await);
        if statuses.last() != Some(&StatusCode::BAD_GATEWAY) {
            break;
        }
    }
    assert_eq!(statuses.first(), Some(&StatusCode::BAD_GATEWAY));
    assert_eq!(statuses.last(), Some(&StatusCode::SERVICE_UNAVAILABLE), "not asked any more");
}

#[tokio::test]
async fn nobody_waits_longer_than_the_client_does() {
    let sick = Arc::new(Sick::default());
    let (address, ledger) = serve(Router::new().route("/settlements", post(hang)).with_state(sick.clone())).await;
    let mut hasty = order(1);
    hasty.headers_mut().insert(resilience::deadline::EXPECTED_TIMEOUT_MS, 400.into());
    let began = Instant::now();
    let answer = orders(address).oneshot(hasty).await.unwrap();
    assert_eq!(answer.status(), StatusCode::GATEWAY_TIMEOUT);
    assert!(began.elapsed() < CLIENT_AND_SOME, "{:?}", began.elapsed());
    let told = sick.told_ms.lock().unwrap();
    assert!(!told.is_empty() && told.iter().all(|ms| *ms < 400), "{told:?}");
    ledger.abort();
}

/// The 400 ms of the client, and time for a machine that is busy; far less than the two seconds of a try.
const CLIENT_AND_SOME: Duration = Duration::from_millis(1500);
