//! What the three services share: settings from the environment, structured logs, health endpoints, and a drain that
//! loses no request.

use std::{
    env,
    fmt::Display,
    future::Future,
    io,
    net::SocketAddr,
    process::ExitCode,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Serialize;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

/// A service could not start or go on; the text is for its operator.
pub type StartError = Box<dyn std::error::Error + Send + Sync>;

/// Reads a setting from the environment.
///
/// # Errors
/// Names the variable and its value when it does not parse.
pub fn setting<T: FromStr>(name: &str, default: T) -> Result<T, StartError>
where
    T::Err: Display,
{
    match env::var(name) {
        Ok(text) => text.parse().map_err(|e| format!("{name}={text:?}: {e}").into()),
        Err(env::VarError::NotPresent) => Ok(default),
        Err(e) => Err(format!("{name}: {e}").into()),
    }
}

/// An error as clients see it: a status and `{"error": …}`.
pub struct Refusal(pub StatusCode, pub String);

#[derive(Serialize)]
struct RefusalBody {
    error: String,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(RefusalBody { error: self.1 })).into_response()
    }
}

/// The body of a service's `main`: runs it, logs a failure, and turns it into an exit code.
pub fn run<F>(name: &'static str, service: impl FnOnce() -> F) -> ExitCode
where
    F: Future<Output = Result<(), StartError>>,
{
    let filter = tracing_subscriber::EnvFilter::try_from_env("LOG_LEVEL").unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().json().flatten_event(true).with_env_filter(filter).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let outcome = runtime.map_err(StartError::from).and_then(|runtime| runtime.block_on(service()));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(service = name, error = %error, "failed");
            ExitCode::FAILURE
        }
    }
}

/// Serves the routes, `/livez` and `/readyz` on `LISTEN` until SIGTERM. Then `/readyz` answers 503 while requests are
/// still taken for `DRAIN_SECONDS`, so that whoever balances load learns of it first; then what is under way is
/// finished.
pub async fn serve(name: &'static str, routes: Router) -> Result<(), StartError> {
    let listen: SocketAddr = setting("LISTEN", SocketAddr::from(([0, 0, 0, 0], 8080)))?;
    let drain = Duration::from_secs(setting("DRAIN_SECONDS", 3)?);
    let draining = Arc::new(AtomicBool::new(false));
    let readiness = draining.clone();
    let ready = move || async move {
        let draining = readiness.load(Ordering::Relaxed);
        if draining { (StatusCode::SERVICE_UNAVAILABLE, "draining") } else { (StatusCode::OK, "ok") }
    };
    let routes = routes.route("/livez", get(|| async { "ok" })).route("/readyz", get(ready));
    let listener = TcpListener::bind(listen).await.map_err(|e| format!("listen on {listen}: {e}"))?;
    tracing::info!(service = name, %listen, "listening");
    axum::serve(listener, routes).with_graceful_shutdown(stop_signal(name, draining, drain)?).await?;
    tracing::info!(service = name, "stopped");
    Ok(())
}

fn stop_signal(
    name: &'static str,
    draining: Arc<AtomicBool>,
    drain: Duration,
) -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!(service = name, drain_seconds = drain.as_secs(), "draining");
        draining.store(true, Ordering::Relaxed);
        tokio::time::sleep(drain).await;
    })
}
