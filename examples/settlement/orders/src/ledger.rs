//! The ledger, as its clients know it: each call has a deadline, is tried again as often as a budget allows, and is not
//! made at all while the ledger is down.
//!
//! Trying again is safe because the ledger settles an idempotency key once: where an answer was lost, the next try gets
//! the settlement that the first one made.

use std::{sync::Arc, time::Duration};

use axum::http::{
    HeaderValue, Method, Request, Response,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use bytes::Bytes;
use reqwest::{Client, Url};
use resilience::{
    ByStatus, Failure, Fault, Rejection,
    breaker::{BreakerConfig, BreakerLayer},
    deadline::{Deadline, DeadlineConfig, DeadlineLayer},
    retry::{Budget, BudgetConfig, HttpRules, IDEMPOTENCY_KEY, RetryConfig, RetryLayer},
};
use serde::Serialize;
use service::StartError;
use tower::{ServiceBuilder, ServiceExt as _, util::BoxCloneSyncService};

/// The ledger answers within a sync of its disk; far beyond that another try has better chances.
const TRY_TIMEOUT: Duration = Duration::from_secs(2);
/// For all tries of a call.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// A ledger that fails half of its calls is still worth asking; one that fails nearly all of them is not.
const FAILURES_OPEN: f64 = 0.9;
/// About as long as the ledger's successor takes to start.
const OPEN_FOR: Duration = Duration::from_secs(1);
const OPEN_FOR_MAX: Duration = Duration::from_secs(5);

/// What the ledger answers.
pub(crate) type Answer = Response<Bytes>;
/// Why it did not.
pub(crate) type CallError = Failure<TransportError>;

/// The way to the ledger failed.
#[derive(Debug)]
pub(crate) struct TransportError(reqwest::Error);

impl std::fmt::Display for TransportError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cannot talk to the ledger")
    }
}

impl std::error::Error for TransportError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

impl Fault for TransportError {
    fn rejection(&self) -> Option<Rejection> {
        None
    }

    fn unsent(&self) -> bool {
        self.0.is_connect()
    }
}

/// The ledger.
pub(crate) struct Ledger {
    url: Url,
    authorization: HeaderValue,
    client: BoxCloneSyncService<Request<Bytes>, Answer, CallError>,
}

impl Ledger {
    /// The ledger at a URL, which asks for a token.
    pub(crate) fn new(url: &str, token: String) -> Result<Self, StartError> {
        let url = Url::parse(url).map_err(|e| format!("LEDGER_URL={url:?}: {e}"))?;
        if url.cannot_be_a_base() {
            return Err(format!("LEDGER_URL={url}: has no path").into());
        }
        let mut authorization =
            HeaderValue::try_from(format!("Bearer {token}")).map_err(|e| format!("LEDGER_TOKEN: {e}"))?;
        authorization.set_sensitive(true);
        let http = Client::builder().no_proxy().build()?;
        let within =
            |timeout| DeadlineLayer::new(DeadlineConfig { timeout: Some(timeout), ..DeadlineConfig::default() });
        let budget = Arc::new(Budget::new(BudgetConfig::default())?);
        let breaker = BreakerConfig {
            failure_share: Some(FAILURES_OPEN),
            open_for: OPEN_FOR,
            open_for_max: OPEN_FOR_MAX,
            ..BreakerConfig::default()
        };
        let client = ServiceBuilder::new()
            .layer(within(CALL_TIMEOUT)?)
            .layer(RetryLayer::new(RetryConfig::default(), HttpRules::default(), budget)?)
            .layer(BreakerLayer::new(breaker, ByStatus)?)
            .layer(within(TRY_TIMEOUT)?)
            .map_err(Failure::Service)
            .service_fn(move |request| execute(http.clone(), request));
        Ok(Self { url, authorization, client: BoxCloneSyncService::new(client) })
    }

    /// Has the ledger settle something under a key.
    pub(crate) async fn settle(
        &self,
        key: &str,
        settlement: &impl Serialize,
        deadline: Option<Deadline>,
    ) -> Result<Answer, CallError> {
        let mut request = self.request(Method::POST, &["settlements"], deadline);
        // a structure of strings and numbers can be written
        *request.body_mut() = serde_json::to_vec(settlement).unwrap_or_default().into();
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // the ledger finds the key in the body; here it says that the request may be sent again
        if let Ok(key) = HeaderValue::from_bytes(key.as_bytes()) {
            request.headers_mut().insert(IDEMPOTENCY_KEY, key);
        }
        self.client.clone().oneshot(request).await
    }

    /// Asks the ledger something.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &[&str],
        deadline: Option<Deadline>,
    ) -> Result<Answer, CallError> {
        self.client.clone().oneshot(self.request(method, path, deadline)).await
    }

    fn request(&self, method: Method, path: &[&str], deadline: Option<Deadline>) -> Request<Bytes> {
        let mut url = self.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        let mut request = Request::new(Bytes::new());
        *request.method_mut() = method;
        // what a URL has written, a URI can read
        *request.uri_mut() = url.as_str().parse().unwrap_or_default();
        request.headers_mut().insert(AUTHORIZATION, self.authorization.clone());
        if let Some(deadline) = deadline {
            request.extensions_mut().insert(deadline);
        }
        request
    }
}

async fn execute(http: Client, request: Request<Bytes>) -> Result<Answer, TransportError> {
    let request = request.try_into().map_err(TransportError)?;
    let mut received = http.execute(request).await.map_err(TransportError)?;
    let mut answer = Response::new(Bytes::new());
    *answer.status_mut() = received.status();
    std::mem::swap(answer.headers_mut(), received.headers_mut());
    *answer.body_mut() = received.bytes().await.map_err(TransportError)?;
    Ok(answer)
}
