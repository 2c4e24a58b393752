//! Where answers by idempotency key are kept: on the disk of this gateway, or in a Redis that several share.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use resilience::{
    Moment,
    idempotency::{
        Answer, Begin, Dial, Fingerprint, Lease, LogConfig, LogError, LogStore, RecordId, RedisError, RedisStore,
        RedisUrl, Store, Stream,
    },
};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{net::TcpStream, sync::OnceCell, task::spawn_blocking, time::Instant};
use tokio_rustls::TlsConnector;
use tracing::warn;

use crate::routing::own_range;

/// Records on the disk, at most: each takes some hundred and fifty bytes of memory.
const RECORDS_MAX: usize = 200_000;

/// Bytes on the disk, at most.
const BYTES_MAX: usize = 1 << 30;

/// How long the disk is waited for while another process has it: the one that this one takes over from ends its requests
/// first.
const HANDOVER: Duration = Duration::from_secs(15);

/// How often it is looked whether the other process is gone.
const LOOK: Duration = Duration::from_millis(50);

/// Every place there is. One on the disk is opened when it is first asked for.
pub(crate) struct Stores {
    log: Arc<Log>,
    redis: Mutex<HashMap<RedisPlace, Weak<RedisStore>>>,
}

/// A log that is opened when it is first asked for.
pub(crate) struct Log {
    directory: PathBuf,
    opened: OnceCell<LogStore>,
}

/// A Redis and how it is reached; the same for everybody who says the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RedisPlace {
    pub(crate) host: String,
    pub(crate) port: u16,
    /// The address of a Service, where the host is one.
    pub(crate) address: Option<std::net::IpAddr>,
    pub(crate) database: u16,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) prefix: Option<String>,
    /// What its certificate is verified by, as `name resourceVersion`; none without TLS.
    pub(crate) roots: Option<String>,
}

/// One place.
#[derive(Clone)]
pub(crate) enum Answers {
    Log(Arc<Log>),
    Redis(Arc<RedisStore>),
}

/// Why answers cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AnswersError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Redis(#[from] RedisError),
}

impl Stores {
    /// Logs are kept below a directory.
    pub(crate) fn new(directory: PathBuf) -> Self {
        Stores { log: Arc::new(Log { directory, opened: OnceCell::new() }), redis: Mutex::default() }
    }

    pub(crate) fn embedded(&self) -> Answers {
        Answers::Log(Arc::clone(&self.log))
    }

    /// A Redis; with TLS by a configuration.
    pub(crate) fn redis(&self, place: RedisPlace, tls: Option<Arc<ClientConfig>>) -> Answers {
        let mut known = self.redis.lock();
        if let Some(store) = known.get(&place).and_then(Weak::upgrade) {
            return Answers::Redis(store);
        }
        known.retain(|_, store| store.strong_count() > 0);
        let url = RedisUrl {
            tls: tls.is_some(),
            host: place.host.clone(),
            port: place.port,
            user: place.user.clone(),
            password: place.password.clone(),
            database: place.database,
        };
        let store = Arc::new(RedisStore::new(&url, place.prefix.clone(), dial(&place, tls)));
        known.insert(place, Arc::downgrade(&store));
        Answers::Redis(store)
    }
}

/// How a Redis is reached. Whoever may write a filter must not reach what this machine keeps to itself.
fn dial(place: &RedisPlace, tls: Option<Arc<ClientConfig>>) -> Dial {
    let (host, port, address) = (place.host.clone(), place.port, place.address);
    Arc::new(move || {
        let (host, tls) = (host.clone(), tls.clone());
        Box::pin(async move {
            let found: Vec<SocketAddr> = match address {
                Some(address) => vec![(address, port).into()],
                None => tokio::net::lookup_host((&*host, port)).await?.collect(),
            };
            let outside = found.into_iter().find(|address| own_range(address.ip()).is_none());
            let outside =
                outside.ok_or_else(|| io::Error::other(format!("{host} has no address outside this machine")))?;
            let stream = TcpStream::connect(outside).await?;
            stream.set_nodelay(true)?;
            let Some(config) = tls else { return Ok(Box::new(stream) as Box<dyn Stream>) };
            let name = ServerName::try_from(host).map_err(io::Error::other)?;
            Ok(Box::new(TlsConnector::from(config).connect(name, stream).await?) as Box<dyn Stream>)
        })
    })
}

impl Log {
    async fn get(&self) -> Result<&LogStore, LogError> {
        let open = || async {
            let deadline = Instant::now() + HANDOVER;
            loop {
                let config =
                    LogConfig { directory: self.directory.clone(), records_max: RECORDS_MAX, bytes_max: BYTES_MAX };
                let disk = |source| LogError::Disk { path: self.directory.clone(), source };
                let opened = spawn_blocking(|| LogStore::open(config)).await;
                match opened.map_err(|error| disk(io::Error::other(error)))? {
                    Err(LogError::Locked(_)) if Instant::now() < deadline => tokio::time::sleep(LOOK).await,
                    opened => return opened.inspect_err(|error| warn!(%error, "idempotency keys cannot be looked up")),
                }
            }
        };
        self.opened.get_or_try_init(open).await
    }
}

impl Store for Answers {
    type Error = AnswersError;

    async fn begin(
        &self,
        now: Moment,
        id: RecordId,
        fingerprint: Fingerprint,
        lease: Duration,
    ) -> Result<Begin, AnswersError> {
        Ok(match self {
            Answers::Log(log) => log.get().await?.begin(now, id, fingerprint, lease).await?,
            Answers::Redis(redis) => redis.begin(now, id, fingerprint, lease).await?,
        })
    }

    async fn finish(
        &self,
        now: Moment,
        id: RecordId,
        lease: Lease,
        answer: Answer,
        keep: Duration,
    ) -> Result<(), AnswersError> {
        let kept = match self {
            Answers::Log(log) => {
                log.get().await?.finish(now, id, lease, answer, keep).await.map_err(AnswersError::from)
            }
            Answers::Redis(redis) => redis.finish(now, id, lease, answer, keep).await.map_err(AnswersError::from),
        };
        kept.inspect_err(|error| warn!(%error, "an answer is not kept as its idempotency key asks for"))
    }

    fn give_up(&self, id: RecordId, lease: Lease) {
        match self {
            // One who has a claim has opened it.
            Answers::Log(log) => log.opened.get().into_iter().for_each(|log| log.give_up(id, lease)),
            Answers::Redis(redis) => redis.give_up(id, lease),
        }
    }

    async fn release(&self, id: RecordId, lease: Lease) {
        match self {
            Answers::Log(_) => self.give_up(id, lease),
            Answers::Redis(redis) => redis.release(id, lease).await,
        }
    }

    async fn changed(&self, id: RecordId) {
        match self {
            Answers::Log(log) => {
                if let Some(log) = log.opened.get() {
                    log.changed(id).await;
                }
            }
            Answers::Redis(redis) => redis.changed(id).await,
        }
    }
}

impl std::fmt::Debug for Answers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Answers::Log(_) => "Log",
            Answers::Redis(_) => "Redis",
        })
    }
}
