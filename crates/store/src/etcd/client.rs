//! Calls to whichever etcd server answers.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;
use rustls::ClientConfig;

use super::{
    Endpoint,
    connection::{CallError, Connection, Messages},
    messages::{self, Range, RangeResponse, Txn, TxnResponse},
    wire::Writer,
};

/// How long one call may take. etcd itself gives up after some seven seconds.
const CALL_TIMEOUT: Duration = Duration::from_secs(8);
/// After no server could be reached, calls fail at once for this long, instead of each trying all servers again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);

/// The servers, and the connection that is in use.
pub(super) struct Client {
    endpoints: Vec<Endpoint>,
    tls: Option<Arc<ClientConfig>>,
    current: Mutex<Option<Arc<Connection>>>,
    connecting: tokio::sync::Mutex<Attempts>,
}

#[derive(Default)]
struct Attempts {
    /// Which server is tried first.
    next: usize,
    failed: Option<(Instant, CallError)>,
}

impl Client {
    pub(super) fn new(endpoints: Vec<Endpoint>, tls: Option<Arc<ClientConfig>>) -> Self {
        Client { endpoints, tls, current: Mutex::new(None), connecting: tokio::sync::Mutex::default() }
    }

    /// The connection in use, or a new one.
    async fn connection(&self) -> Result<Arc<Connection>, CallError> {
        if let Some(current) = &*self.current.lock() {
            return Ok(Arc::clone(current));
        }
        let mut attempts = self.connecting.lock().await;
        if let Some(current) = &*self.current.lock() {
            return Ok(Arc::clone(current));
        }
        if let Some((when, error)) = &attempts.failed
            && when.elapsed() < RECONNECT_PAUSE
        {
            return Err(error.clone());
        }
        match self.open(&mut attempts.next).await {
            Ok(connection) => {
                let connection = Arc::new(connection);
                *self.current.lock() = Some(Arc::clone(&connection));
                attempts.failed = None;
                Ok(connection)
            }
            Err(error) => {
                attempts.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// Connects to the first server that accepts, beginning with `next`.
    async fn open(&self, next: &mut usize) -> Result<Connection, CallError> {
        let mut failure = CallError::Unsent("no endpoint".to_owned());
        for _ in 0..self.endpoints.len() {
            let endpoint = &self.endpoints[*next % self.endpoints.len()];
            match Connection::open(endpoint, self.tls.as_ref()).await {
                Ok(connection) => return Ok(connection),
                Err(error) => {
                    *next += 1;
                    failure = error;
                }
            }
        }
        Err(failure)
    }

    async fn call(&self, method: &str, message: &[u8]) -> Result<Bytes, CallError> {
        let connection = self.connection().await?;
        let answer = connection.call(method, message, CALL_TIMEOUT).await;
        if answer.as_ref().is_err_and(CallError::breaks_connection) {
            let mut current = self.current.lock();
            if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, &connection)) {
                *current = None;
            }
            drop(current);
            // the next connection goes to another server: this one may hang
            if let Ok(mut attempts) = self.connecting.try_lock() {
                attempts.next += 1;
            }
        }
        answer
    }

    /// Linearizable, unless it names a revision.
    pub(super) async fn range(&self, range: &Range<'_>) -> Result<RangeResponse, CallError> {
        let mut to = Writer::default();
        range.write(&mut to);
        Ok(RangeResponse::read(&self.call(messages::RANGE, &to.0).await?)?)
    }

    pub(super) async fn txn(&self, txn: &[u8]) -> Result<TxnResponse, CallError> {
        Ok(TxnResponse::read(&self.call(messages::TXN, txn).await?)?)
    }

    /// Writes one key.
    pub(super) async fn put(&self, key: &[u8], value: &[u8]) -> Result<u64, CallError> {
        Ok(self.txn(&Txn::default().put(key, value).into_bytes()).await?.revision)
    }

    pub(super) async fn compact(&self, revision: u64) -> Result<(), CallError> {
        self.call(messages::COMPACT, &messages::compaction(revision)).await.map(drop)
    }

    pub(super) async fn version(&self) -> Result<String, CallError> {
        Ok(messages::server_version(&self.call(messages::STATUS, &[]).await?)?)
    }

    /// Watches a range on a connection of its own, which no other call can hold up.
    pub(super) async fn watch(&self, key: &[u8], end: &[u8], start: u64) -> Result<Messages, CallError> {
        let mut first = self.connecting.lock().await.next;
        let connection = self.open(&mut first).await?;
        connection.stream(messages::WATCH, &messages::watch(key, end, start), CALL_TIMEOUT).await
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{endpoint}")?;
        }
        Ok(())
    }
}
