//! Idempotency keys: a request that comes twice is done once, and answered twice.
//!
//! A client puts a key of its choice on a request that changes something (`Idempotency-Key`,
//! draft-ietf-httpapi-idempotency-key-header), and the same key when it sends the request again because no answer came.
//! The first answer is kept and given again:
//!
//! | a request whose key … | gets |
//! | --- | --- |
//! | is new | what the service answers; a success is kept |
//! | was answered | that answer, with `idempotent-replayed: true` |
//! | is being worked on | the same answer as soon as it is there, or 409 |
//! | was used with another method, path or body | 422 |
//! | cannot be read, or is missing where it is required | 400 |
//! | has a body that is too large to be compared | 413 |
//! | cannot be looked up, because the store is full or away | 503 |
//!
//! Only what the service has acknowledged is kept: an answer of 2xx or 3xx whose body was there to its end, and it is
//! kept *before* the client gets it. An error, a 5xx, a body cut short or a client that went away frees the key, and the
//! next request with it is done again. A 4xx frees it as well: nothing was done, so the client may correct its mistake.
//!
//! Keys belong to callers: a [`Caller`] says who sends a request, so that nobody is given the answers of somebody else.
//!
//! **Contains:** the payment that is made twice because the answer to the first was lost.
//!
//! **Can cause:** refusals. Where a store is full or away, requests with keys are refused, for doing them anyway is what a
//! key forbids. Answers are kept in memory or wherever the [`Store`] has them, of a bounded size and number, for a
//! bounded time. And between the service's effect and its acknowledgement there is a gap that no proxy can close: when
//! the connection breaks there, the next request is done again. Only a service that looks at the key itself, to which it is
//! passed on, is safe then.
//!
//! Requests without a key pass through, and cost nothing.

use std::{borrow::Cow, time::Duration};

use http::{Method, header::AUTHORIZATION, request::Parts};
use sha2::{Digest as _, Sha256};

use crate::config::{ConfigError, check, check_duration};

mod body;
mod keeper;
mod key;
mod layer;
mod ledger;
mod log;
mod memory;
mod problem;
mod record;
mod redis;
mod store;

pub use body::Buffered;
pub use keeper::{Begun, Claim, Keeper, REPLAYED};
pub use key::{Key, KeyError};
pub use layer::{Idempotency, IdempotencyFuture, IdempotencyLayer};
pub use log::{LogConfig, LogError, LogStore};
pub use memory::{MemoryConfig, MemoryError, MemoryStore};
pub use problem::Problem;
#[doc(hidden)]
pub use record::fuzz_record;
#[doc(hidden)]
pub use redis::fuzz_replies;
pub use redis::{Dial, RedisError, RedisStore, RedisUrl, Stream, UrlError};
pub use store::{Answer, Begin, Fingerprint, Lease, RecordId, Store};

/// No answer is kept longer, and no request takes longer.
const DURATION_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Bodies that are kept in memory are no larger.
const BYTES_MAX: usize = 64 << 20;

/// What becomes of a request whose key is being worked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duplicate {
    /// It waits for the answer, for so long, and gets 409 then.
    Wait(Duration),
    /// It gets 409.
    Conflict,
}

/// How keys are used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyConfig {
    /// Requests of these methods may have a key; others pass through.
    pub methods: Vec<Method>,
    /// Whether they must have one.
    pub required: bool,
    /// What becomes of a request whose key is being worked on.
    pub duplicate: Duplicate,
    /// Bytes of a request's body, at most.
    pub request_bytes_max: usize,
    /// Bytes of an answer's body, at most. A larger one passes through, and its key answers 409 from then on: the request
    /// was done, and its answer is not there.
    pub answer_bytes_max: usize,
    /// How long an answer is kept. Clients must not send a request again later.
    pub keep: Duration,
    /// After this time nobody works on a request any more, whatever became of who did.
    pub lease: Duration,
}

impl Default for IdempotencyConfig {
    /// POST and PATCH; duplicates wait for ten seconds; a megabyte each way; a day; a minute for the work.
    fn default() -> Self {
        Self {
            methods: vec![Method::POST, Method::PATCH],
            required: false,
            duplicate: Duplicate::Wait(Duration::from_secs(10)),
            request_bytes_max: 1 << 20,
            answer_bytes_max: 1 << 20,
            keep: Duration::from_secs(24 * 60 * 60),
            lease: Duration::from_secs(60),
        }
    }
}

impl IdempotencyConfig {
    /// # Errors
    /// When a field is out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        check(!self.methods.is_empty(), "methods", "at least one", "none")?;
        if let Duplicate::Wait(time) = self.duplicate {
            check_duration("duplicate", time, DURATION_MAX)?;
        }
        let rule = format!("at most {BYTES_MAX}");
        check(self.request_bytes_max <= BYTES_MAX, "request_bytes_max", rule.clone(), self.request_bytes_max)?;
        check(self.answer_bytes_max <= BYTES_MAX, "answer_bytes_max", rule, self.answer_bytes_max)?;
        check_duration("keep", self.keep, DURATION_MAX)?;
        check_duration("lease", self.lease, DURATION_MAX)
    }
}

/// Says who sends a request; every closure over its head does.
pub trait Caller {
    /// Bytes that are the same for all requests of one caller, and for nobody else's.
    fn caller<'a>(&self, request: &'a Parts) -> Cow<'a, [u8]>;
}

impl<F> Caller for F
where
    F: Fn(&Parts) -> Vec<u8>,
{
    fn caller<'a>(&self, request: &'a Parts) -> Cow<'a, [u8]> {
        Cow::Owned(self(request))
    }
}

/// Callers by their `Authorization` header. A client that gets a new token is somebody else: where requests are
/// authenticated, tell callers by whom they were found to be.
#[derive(Clone, Copy, Debug, Default)]
pub struct ByAuthorization;

impl Caller for ByAuthorization {
    fn caller<'a>(&self, request: &'a Parts) -> Cow<'a, [u8]> {
        Cow::Borrowed(request.headers.get(AUTHORIZATION).map_or(b"", |value| value.as_bytes()))
    }
}

/// The record of a caller's key at a host.
fn record_id(host: &[u8], caller: &[u8], key: &Key) -> RecordId {
    RecordId(digest([host, caller, key.as_str().as_bytes()]))
}

/// What a request asks for.
fn fingerprint(parts: &Parts, body: &[u8]) -> Fingerprint {
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    Fingerprint(digest([parts.method.as_str().as_bytes(), target.as_bytes(), body]))
}

/// A digest of several texts, each with its length, so that no two lists of texts run together to the same.
fn digest<const N: usize>(texts: [&[u8]; N]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for text in texts {
        hasher.update((text.len() as u64).to_be_bytes());
        hasher.update(text);
    }
    hasher.finalize().into()
}

#[cfg(test)]
mod tests;
