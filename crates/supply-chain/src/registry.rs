//! The embedded registry: the OCI distribution specification 1.1 over plain HTTP, its content in a folder.
//!
//! `route` reads paths, `handler` answers requests, `upload` keeps what is on its way in, `storage` is the folder, and
//! `collect` removes what nothing refers to.

mod collect;
mod error;
mod handler;
mod route;
mod storage;
mod upload;

use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use collect::Collected;
pub use error::StorageError;
use handler::Handler;
use storage::Storage;
use upload::Uploads;

/// An error of any kind.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// The body of an answer.
pub(crate) type Body = UnsyncBoxBody<Bytes, BoxError>;

/// Connections at once; more wait in the listener's queue. Clients use a handful each.
const CONNECTIONS_MAX: usize = 256;
/// How long a client may take to send its headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long requests in work may go on after the stop.
const DRAIN: Duration = Duration::from_secs(5);
/// How often garbage is collected.
const COLLECT_INTERVAL: Duration = Duration::from_secs(3600);
/// How old unreferenced content must be to be garbage: longer than any push takes.
const COLLECT_GRACE: Duration = Duration::from_secs(24 * 3600);
/// How long to wait after a failed accept (no descriptors left, most likely).
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// How a registry behaves.
#[derive(Debug, Clone, Copy)]
pub struct RegistryOptions {
    /// Manifests, tags and blobs may be deleted.
    pub allow_delete: bool,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self { allow_delete: true }
    }
}

/// The registry could not start.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The folder could not be opened.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The listener's address could not be read.
    #[error("cannot serve the registry")]
    Listener(#[source] io::Error),
}

/// A registry with its folder open; cheap to clone.
#[derive(Debug, Clone)]
pub struct Registry(Arc<Handler>);

impl Registry {
    /// Opens a registry's folder, creating it when it is not there.
    pub fn open(dir: &Path, options: RegistryOptions) -> Result<Self, StorageError> {
        let storage = Arc::new(Storage::open(dir)?);
        Ok(Self(Arc::new(Handler { storage, uploads: Uploads::default(), options })))
    }

    /// Answers one request.
    pub async fn handle<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: hyper::body::Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        self.0.handle(request).await
    }

    /// Removes content that nothing refers to and that is older than the grace period.
    pub async fn collect_garbage(&self, grace: Duration) -> Result<Collected, StorageError> {
        let storage = Arc::clone(&self.0.storage);
        match tokio::task::spawn_blocking(move || collect::collect(&storage, grace)).await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is shutting down; what was not collected is collected the next time.
                Err(_) => Ok(Collected::default()),
            },
        }
    }

    /// Serves on a listener and collects garbage from time to time, until stopped; requests in work are given a moment.
    pub async fn serve(&self, listener: TcpListener, stop: CancellationToken) -> Result<(), RegistryError> {
        let address = listener.local_addr().map_err(RegistryError::Listener)?;
        tracing::debug!(%address, "registry serves");
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        let graceful = GracefulShutdown::new();
        let mut collect = tokio::time::interval(COLLECT_INTERVAL);
        loop {
            let accept = async {
                let slot = Arc::clone(&slots).acquire_owned().await;
                (listener.accept().await, slot)
            };
            tokio::select! {
                () = stop.cancelled() => break,
                Some(_) = connections.join_next() => {}
                _ = collect.tick() => self.collect_and_report().await,
                (accepted, slot) = accept => match accepted {
                    Ok((stream, _)) => {
                        let registry = self.clone();
                        let service = service_fn(move |request: Request<Incoming>| {
                            let registry = registry.clone();
                            async move { Ok::<_, Infallible>(registry.handle(request).await) }
                        });
                        let connection = http1::Builder::new()
                            .timer(TokioTimer::new())
                            .header_read_timeout(HEADER_TIMEOUT)
                            .serve_connection(TokioIo::new(stream), service);
                        let connection = graceful.watch(connection);
                        connections.spawn(async move {
                            let _slot = slot;
                            if let Err(error) = connection.await {
                                tracing::debug!(error = &error as &dyn std::error::Error, "registry connection ended");
                            }
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "registry connection not accepted");
                        tokio::time::sleep(ACCEPT_RETRY).await;
                    }
                },
            }
        }
        drop(listener);
        // What is still in work after the drain is aborted with the set.
        let _ = tokio::time::timeout(DRAIN, graceful.shutdown()).await;
        Ok(())
    }

    async fn collect_and_report(&self) {
        match self.collect_garbage(COLLECT_GRACE).await {
            Ok(Collected { blobs: 0, .. }) => {}
            Ok(Collected { blobs, bytes }) => tracing::info!(blobs, bytes, "registry garbage collected"),
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "registry garbage not collected"),
        }
    }
}
