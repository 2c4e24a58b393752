//! A plain HTTP client, and a load that counts what failed.

use std::{
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{runtime::Runtime, task::JoinSet};

/// Longest wait for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Failures whose text is kept.
const FAILURES_KEPT: usize = 5;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a runtime starts"));
static CLIENT: LazyLock<Client<HttpConnector, Full<Bytes>>> =
    LazyLock::new(|| Client::builder(TokioExecutor::new()).build_http());

/// Sends a request and returns status and body.
pub fn send(request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes)> {
    RUNTIME.block_on(exchange(request))
}

/// GET.
pub fn get(url: &str) -> Result<(StatusCode, Bytes)> {
    send(Request::get(url).body(Full::default())?)
}

/// POST of JSON under an idempotency key.
pub fn post(url: &str, key: &str, body: &serde_json::Value) -> Result<(StatusCode, Bytes)> {
    send(post_request(url, key, body)?)
}

fn post_request(url: &str, key: &str, body: &serde_json::Value) -> Result<Request<Full<Bytes>>> {
    let request = Request::post(url).header("content-type", "application/json").header("idempotency-key", key);
    Ok(request.body(Full::from(serde_json::to_vec(body)?))?)
}

async fn exchange(request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes)> {
    let asked = async {
        let response = CLIENT.request(request).await?;
        let status = response.status();
        anyhow::Ok((status, response.into_body().collect().await?.to_bytes()))
    };
    tokio::time::timeout(ANSWER_TIMEOUT, asked).await.context("no answer in time")?
}

/// A constant load in the background.
pub struct Load {
    stop: Arc<AtomicBool>,
    counts: Arc<Counts>,
    workers: JoinSet<()>,
}

#[derive(Default)]
struct Counts {
    sent: AtomicU64,
    answered: Mutex<Vec<String>>,
    failed: Mutex<Vec<String>>,
    failures: Mutex<Vec<String>>,
}

/// What became of a load.
#[derive(Debug)]
pub struct Outcome {
    /// Requests that were sent.
    pub sent: u64,
    /// Requests without a 2xx answer.
    pub failed: u64,
    /// Their keys.
    pub unanswered: Vec<String>,
    /// The first failures.
    pub failures: Vec<String>,
    /// Keys whose request was answered with 2xx.
    pub answered: Vec<String>,
}

impl Load {
    /// `workers` send orders with distinct keys to `url`, one after the other without a pause, until stopped.
    pub fn orders(url: &str, workers: usize, prefix: &str) -> Self {
        let (stop, counts) = (Arc::new(AtomicBool::new(false)), Arc::new(Counts::default()));
        let mut tasks = JoinSet::new();
        let _inside = RUNTIME.enter();
        for worker in 0..workers {
            let (stop, counts, url, prefix) = (stop.clone(), counts.clone(), url.to_owned(), prefix.to_owned());
            tasks.spawn(async move {
                let mut number = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    let key = format!("{prefix}-{worker}-{number}");
                    number += 1;
                    counts.sent.fetch_add(1, Ordering::Relaxed);
                    let outcome = match post_request(&url, &key, &crate::example::order(&key)) {
                        Ok(request) => exchange(request).await,
                        Err(error) => Err(error),
                    };
                    counts.record(key, outcome);
                    // A dead server refuses at once: do not turn that into a busy loop.
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            });
        }
        Self { stop, counts, workers: tasks }
    }

    /// How many requests were answered so far.
    pub fn answered(&self) -> usize {
        self.counts.answered.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Ends the load and counts.
    pub fn stop(mut self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        RUNTIME.block_on(async { while self.workers.join_next().await.is_some() {} });
        let kept = |list: &Mutex<Vec<String>>| list.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let unanswered = kept(&self.counts.failed);
        Outcome {
            sent: self.counts.sent.load(Ordering::Relaxed),
            failed: unanswered.len() as u64,
            unanswered,
            failures: kept(&self.counts.failures),
            answered: kept(&self.counts.answered),
        }
    }
}

impl Counts {
    fn record(&self, key: String, outcome: Result<(StatusCode, Bytes)>) {
        let failure = match outcome {
            Ok((status, _)) if status.is_success() => {
                self.answered.lock().unwrap_or_else(PoisonError::into_inner).push(key);
                return;
            }
            Ok((status, body)) => format!("{key}: {status}: {}", String::from_utf8_lossy(&body)),
            Err(error) => format!("{key}: {error:#}"),
        };
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).push(key);
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() < FAILURES_KEPT {
            failures.push(failure);
        }
    }
}
