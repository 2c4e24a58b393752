//! A store in Redis: for several processes at once.
//!
//! A claim is a `SET NX` with the lease as its time: whoever's is set works, all others wait or are told. Keeping an answer
//! and giving a claim up compare what is there with the claim first, in a script, so that one who was too slow changes
//! nothing. How safe an answer is that was kept is Redis's matter: with `appendfsync always` it is on the disk, without it
//! the last second may be lost.
//!
//! Every command may be sent twice without harm: a claim is known by a random number, so that whoever finds his own has it.
//! So a connection that turns out to be closed costs nobody an answer.

use std::{fmt, future::Future, io, pin::Pin, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::Semaphore,
    time::timeout,
};

use super::{
    record::{decode_answer, encode_answer},
    store::{Answer, Begin, Fingerprint, Lease, RecordId, Store},
};
use crate::{moment::Moment, random::Random};

mod resp;
mod url;

use resp::Reply;
pub use resp::fuzz_replies;
pub use url::{RedisUrl, UrlError};

/// Connections at once. Each command takes some hundred microseconds.
const CONNECTIONS: usize = 32;

/// How long a command may take, with the connection it needs.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often a key that somebody works on is looked at: Redis tells nobody.
const POLL: Duration = Duration::from_millis(50);

/// How often a key that is gone when it is looked at is claimed anew.
const ATTEMPTS: usize = 3;

/// What keys begin with unless told otherwise.
const PREFIX: &str = "keelson:idempotency:";

/// Replaces the claim by the answer, which is about the same request.
const KEEP: &str = "local v=redis.call('GET',KEYS[1]) \
                    if v and string.sub(v,1,1)=='C' and string.sub(v,-8)==ARGV[1] then \
                    redis.call('SET',KEYS[1],'D'..string.sub(v,2,33)..ARGV[2],'PX',ARGV[3]) return 1 else return 0 end";

/// Removes the claim.
const GIVE_UP: &str = "local v=redis.call('GET',KEYS[1]) \
                       if v and string.sub(v,1,1)=='C' and string.sub(v,-8)==ARGV[1] then \
                       return redis.call('DEL',KEYS[1]) else return 0 end";

/// What values begin with.
const CLAIM: u8 = b'C';
const DONE: u8 = b'D';

/// A connection to a server.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Connects to a server.
pub type Dial = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = io::Result<Box<dyn Stream>>> + Send>> + Send + Sync>;

/// Why Redis could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum RedisError {
    /// It cannot be reached, or the connection broke.
    #[error("redis: {0}")]
    Connection(#[from] io::Error),
    /// It takes too long.
    #[error("redis: no answer within {PATIENCE:?}")]
    Timeout,
    /// It refuses.
    #[error("redis: {0}")]
    Refused(String),
    /// It says something else than it should.
    #[error("redis: an unexpected reply")]
    Unexpected,
}

/// Keeps answers in Redis. See the [module](self).
pub struct RedisStore {
    dial: Dial,
    user: Option<String>,
    password: Option<String>,
    database: u16,
    prefix: String,
    idle: Mutex<Vec<Connection>>,
    places: Semaphore,
    /// Claims that could not be given up at once, for whoever asks next. One too many runs out by itself.
    abandoned: Mutex<Vec<(RecordId, Lease)>>,
    random: Random,
}

/// Claims that wait to be given up, at most.
const ABANDONED_MAX: usize = 1024;

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore").field("database", &self.database).field("prefix", &self.prefix).finish()
    }
}

/// A connection, and what was read of it.
struct Connection {
    stream: Box<dyn Stream>,
    read: Vec<u8>,
}

impl Connection {
    async fn ask(&mut self, command: &[&[u8]]) -> Result<Reply, RedisError> {
        let mut bytes = Vec::new();
        resp::encode(command, &mut bytes);
        self.stream.write_all(&bytes).await?;
        self.stream.flush().await?;
        loop {
            if let Some((reply, length)) = resp::decode(&self.read).map_err(|_| RedisError::Unexpected)? {
                self.read.drain(..length);
                return Ok(reply);
            }
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    }

    async fn ok(&mut self, command: &[&[u8]]) -> Result<(), RedisError> {
        match self.ask(command).await? {
            Reply::Simple(_) => Ok(()),
            Reply::Error(error) => Err(RedisError::Refused(error)),
            Reply::Integer(_) | Reply::Bulk(_) => Err(RedisError::Unexpected),
        }
    }
}

impl RedisStore {
    /// A store at the server that `url` names and `dial` connects to; keys begin with `prefix`.
    pub fn new(url: &RedisUrl, prefix: Option<String>, dial: Dial) -> Self {
        RedisStore {
            dial,
            user: url.user.clone(),
            password: url.password.clone(),
            database: url.database,
            prefix: prefix.unwrap_or_else(|| PREFIX.to_owned()),
            idle: Mutex::default(),
            places: Semaphore::new(CONNECTIONS),
            abandoned: Mutex::default(),
            random: Random::new(),
        }
    }

    /// Sends a command, on another connection if the first turns out to be closed.
    async fn ask(&self, command: &[&[u8]]) -> Result<Reply, RedisError> {
        let asked = async {
            let _place = self.places.acquire().await.map_err(|_| RedisError::Unexpected)?;
            let idle = self.idle.lock().pop();
            if let Some(mut connection) = idle
                && let Ok(reply) = connection.ask(command).await
            {
                return Ok(self.put(connection, reply));
            }
            let mut connection = self.connect().await?;
            let reply = connection.ask(command).await?;
            Ok(self.put(connection, reply))
        };
        match timeout(PATIENCE, asked).await {
            Err(_) => Err(RedisError::Timeout),
            Ok(Ok(Reply::Error(error))) => Err(RedisError::Refused(error)),
            Ok(reply) => reply,
        }
    }

    fn put(&self, connection: Connection, reply: Reply) -> Reply {
        // What is left over would be taken for the next reply.
        if connection.read.is_empty() {
            self.idle.lock().push(connection);
        }
        reply
    }

    async fn connect(&self) -> Result<Connection, RedisError> {
        let mut connection = Connection { stream: (self.dial)().await?, read: Vec::new() };
        match (&self.user, &self.password) {
            (Some(user), Some(password)) => connection.ok(&[b"AUTH", user.as_bytes(), password.as_bytes()]).await?,
            (None, Some(password)) => connection.ok(&[b"AUTH", password.as_bytes()]).await?,
            (_, None) => {}
        }
        if self.database != 0 {
            connection.ok(&[b"SELECT", self.database.to_string().as_bytes()]).await?;
        }
        Ok(connection)
    }

    fn key(&self, id: RecordId) -> Vec<u8> {
        let mut key = self.prefix.clone().into_bytes();
        for byte in id.0 {
            key.extend_from_slice(format!("{byte:02x}").as_bytes());
        }
        key
    }

    async fn forsake(&self, id: RecordId, lease: Lease) -> Result<(), RedisError> {
        let key = self.key(id);
        self.ask(&[b"EVAL", GIVE_UP.as_bytes(), b"1", &key, &lease.0.to_be_bytes()]).await.map(drop)
    }

    /// Gives up what could not be given up before.
    async fn sweep(&self) {
        loop {
            let Some((id, lease)) = self.abandoned.lock().pop() else { return };
            if self.forsake(id, lease).await.is_err() {
                // It runs out by itself.
                return;
            }
        }
    }
}

/// What a value says, to one who has this claim.
fn known(value: &[u8], fingerprint: Fingerprint, lease: Lease) -> Option<Begin> {
    let (kind, rest) = value.split_first()?;
    let (about, rest) = rest.split_first_chunk::<32>()?;
    let same = *about == fingerprint.0;
    match *kind {
        CLAIM if rest == lease.0.to_be_bytes() => Some(Begin::Claimed(lease)),
        CLAIM | DONE if !same => Some(Begin::Mismatch),
        CLAIM => Some(Begin::InProgress),
        DONE => decode_answer(rest).map(Begin::Done),
        _ => None,
    }
}

impl Store for RedisStore {
    type Error = RedisError;

    async fn begin(
        &self,
        _now: Moment,
        id: RecordId,
        fingerprint: Fingerprint,
        lease: Duration,
    ) -> Result<Begin, RedisError> {
        self.sweep().await;
        let (key, claimed) = (self.key(id), Lease(self.random.draw()));
        let claim = [&[CLAIM][..], &fingerprint.0, &claimed.0.to_be_bytes()].concat();
        let time = lease.as_millis().max(1).to_string();
        for _ in 0..ATTEMPTS {
            let set = self.ask(&[b"SET", &key, &claim, b"NX", b"PX", time.as_bytes()]).await?;
            if matches!(set, Reply::Simple(_)) {
                return Ok(Begin::Claimed(claimed));
            }
            match self.ask(&[b"GET", &key]).await? {
                Reply::Bulk(Some(value)) => {
                    return known(&value, fingerprint, claimed).ok_or(RedisError::Unexpected);
                }
                // Its time was over just now.
                Reply::Bulk(None) => {}
                Reply::Simple(_) | Reply::Error(_) | Reply::Integer(_) => return Err(RedisError::Unexpected),
            }
        }
        Ok(Begin::InProgress)
    }

    async fn finish(
        &self,
        _now: Moment,
        id: RecordId,
        lease: Lease,
        answer: Answer,
        keep: Duration,
    ) -> Result<(), RedisError> {
        let (key, mut kept) = (self.key(id), Vec::new());
        encode_answer(&answer, &mut kept);
        let time = keep.as_millis().max(1).to_string();
        let lease = lease.0.to_be_bytes();
        self.ask(&[b"EVAL", KEEP.as_bytes(), b"1", &key, &lease, &kept, time.as_bytes()]).await.map(drop)
    }

    fn give_up(&self, id: RecordId, lease: Lease) {
        let mut abandoned = self.abandoned.lock();
        if abandoned.len() < ABANDONED_MAX {
            abandoned.push((id, lease));
        }
    }

    async fn release(&self, id: RecordId, lease: Lease) {
        if self.forsake(id, lease).await.is_err() {
            self.give_up(id, lease);
        }
    }

    async fn changed(&self, _id: RecordId) {
        tokio::time::sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests;
