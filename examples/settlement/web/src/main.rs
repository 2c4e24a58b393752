//! The page of the platform, and the JSON API behind it.

use std::{process::ExitCode, time::Duration};

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{Html, IntoResponse, Response},
    routing::{get, post},
};
use reqwest::{Client, RequestBuilder};
use service::Refusal;

const PAGE: &str = include_str!("page.html");
/// Longer than `orders` waits for the ledger, so that its answer arrives.
const ORDERS_TIMEOUT: Duration = Duration::from_secs(8);

#[derive(Clone)]
struct Web {
    orders: Client,
    orders_url: String,
}

fn main() -> ExitCode {
    service::run("web", || async {
        let orders_url: String = service::setting("ORDERS_URL", "http://orders:8080".to_owned())?;
        let title: String = service::setting("TITLE", "Settlement".to_owned())?;
        let page = PAGE.replace("{{title}}", &title);
        let orders = Client::builder().timeout(ORDERS_TIMEOUT).no_proxy().build()?;
        let routes = Router::new()
            .route("/", get(|| async { Html(page) }))
            .route("/api/orders", post(place))
            .route("/api/orders/{id}", get(find))
            .route("/api/days", get(days))
            .with_state(Web { orders, orders_url });
        service::serve("web", routes).await
    })
}

async fn place(State(web): State<Web>, headers: HeaderMap, body: Bytes) -> Result<Response, Refusal> {
    let mut request = web.orders.post(format!("{}/orders", web.orders_url));
    for name in ["content-type", "idempotency-key"] {
        if let Some(value) = headers.get(name) {
            request = request.header(name, value);
        }
    }
    pass_on(request.body(body)).await
}

async fn find(State(web): State<Web>, Path(id): Path<String>) -> Result<Response, Refusal> {
    let mut url = reqwest::Url::parse(&web.orders_url).map_err(|_| unreachable_orders())?;
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(["orders", &id]);
    }
    pass_on(web.orders.get(url)).await
}

async fn days(State(web): State<Web>) -> Result<Response, Refusal> {
    pass_on(web.orders.get(format!("{}/days", web.orders_url))).await
}

async fn pass_on(request: RequestBuilder) -> Result<Response, Refusal> {
    let failed = |error: reqwest::Error| {
        tracing::warn!(%error, "orders does not answer");
        unreachable_orders()
    };
    let answer = request.send().await.map_err(failed)?;
    let status = answer.status();
    let content_type = answer.headers().get(header::CONTENT_TYPE).cloned();
    let body = answer.bytes().await.map_err(failed)?;
    let mut response = (status, body).into_response();
    if let Some(content_type) = content_type {
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    }
    Ok(response)
}

fn unreachable_orders() -> Refusal {
    Refusal(StatusCode::BAD_GATEWAY, "orders does not answer; the order may be sent again".to_owned())
}
