//! One request with a key, step by step: for the layer, and for those whose requests are no tower services.

use std::sync::Arc;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response,
    header::{CONNECTION, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE},
    request::Parts,
};
use http_body::Body;
use tokio::time::timeout;

use super::{
    Duplicate, IdempotencyConfig,
    body::{self, Buffered, Read},
    fingerprint,
    key::Key,
    problem::Problem,
    record_id,
    store::{Answer, Begin, Lease, RecordId, Store},
};
use crate::{config::ConfigError, moment::now};

/// Says that an answer was given before.
pub const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// Headers of one connection, which mean nothing in another.
const HOP_BY_HOP: [HeaderName; 6] =
    [CONNECTION, HeaderName::from_static("keep-alive"), TE, TRAILER, TRANSFER_ENCODING, UPGRADE];

/// Does requests with the same key once. See the [module](super).
#[derive(Debug)]
pub struct Keeper<St> {
    shared: Arc<Shared<St>>,
}

#[derive(Debug)]
struct Shared<St> {
    config: IdempotencyConfig,
    store: St,
}

impl<St> Clone for Keeper<St> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

/// A request that was not done yet, or the answer to one that was.
#[derive(Debug)]
pub enum Begun<St: Store> {
    /// It is to be done; its body was read.
    Ours(Claim<St>, Bytes),
    /// It was done.
    Done(Response<Bytes>),
}

/// A request that is ours to do, and its record to fill; given up when that does not happen.
#[derive(Debug)]
pub struct Claim<St: Store> {
    keeper: Keeper<St>,
    id: RecordId,
    lease: Lease,
    kept: bool,
}

impl<St: Store> Drop for Claim<St> {
    fn drop(&mut self) {
        if !self.kept {
            self.keeper.shared.store.give_up(self.id, self.lease);
        }
    }
}

impl<St: Store> Keeper<St> {
    /// # Errors
    /// When a field is out of its range.
    pub fn new(config: IdempotencyConfig, store: St) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self { shared: Arc::new(Shared { config, store }) })
    }

    /// How keys are used.
    pub fn config(&self) -> &IdempotencyConfig {
        &self.shared.config
    }

    /// The key of a request; `None` when it is none of those that are done once.
    ///
    /// # Errors
    /// When the key cannot be read, or there must be one.
    pub fn key(&self, method: &Method, headers: &HeaderMap) -> Result<Option<Key>, Problem> {
        let config = self.config();
        if !config.methods.contains(method) {
            return Ok(None);
        }
        match Key::read(headers)? {
            None if config.required => Err(Problem::Missing),
            key => Ok(key),
        }
    }

    /// Reads a caller's request and claims it, or waits for the answer of who has.
    ///
    /// # Errors
    /// When the request is not to be done.
    pub async fn begin<B>(&self, key: &Key, caller: &[u8], parts: &Parts, body: B) -> Result<Begun<St>, Problem>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let config = self.config();
        let body = match body::read(body, config.request_bytes_max).await {
            Ok(Read::Whole(body)) => body,
            Ok(Read::TooLarge(_)) => return Err(Problem::TooLarge(config.request_bytes_max)),
            Err(_) => return Err(Problem::Request),
        };
        let id = record_id(host(parts), caller, key);
        match self.claim(id, fingerprint(parts, &body)).await? {
            Ok(lease) => Ok(Begun::Ours(Claim { keeper: self.clone(), id, lease, kept: false }, body)),
            Err(answer) => Ok(Begun::Done(replay(answer)?)),
        }
    }

    /// Claims a record, or waits for the answer of who has.
    async fn claim(&self, id: RecordId, fingerprint: super::Fingerprint) -> Result<Result<Lease, Answer>, Problem> {
        let Shared { config, store } = &*self.shared;
        let begin = async || store.begin(now(), id, fingerprint, config.lease).await.map_err(|_| Problem::Store);
        let decide = |begin: Begin| match begin {
            Begin::Claimed(lease) => Ok(Some(Ok(lease))),
            Begin::Done(answer) => Ok(Some(Err(answer))),
            Begin::Mismatch => Err(Problem::Mismatch),
            Begin::InProgress => Ok(None),
        };
        if let Some(claimed) = decide(begin().await?)? {
            return Ok(claimed);
        }
        let Duplicate::Wait(patience) = config.duplicate else { return Err(Problem::InProgress) };
        let wait = async {
            loop {
                store.changed(id).await;
                if let Some(claimed) = decide(begin().await?)? {
                    return Ok(claimed);
                }
            }
        };
        timeout(patience, wait).await.unwrap_or(Err(Problem::InProgress))
    }
}

impl<St: Store> Claim<St> {
    /// Gives it up: the request was not done.
    pub async fn release(mut self) {
        self.kept = true;
        self.keeper.shared.store.release(self.id, self.lease).await;
    }

    /// Takes the service's answer, keeps it if it is one of success, and gives it back.
    pub async fn finish<R>(mut self, response: Response<R>) -> Response<Buffered<R>>
    where
        R: Body<Data = Bytes> + Unpin,
    {
        let (parts, body) = response.into_parts();
        if !(parts.status.is_success() || parts.status.is_redirection()) {
            self.release().await;
            return Response::from_parts(parts, Buffered::unread(body));
        }
        let shared = Arc::clone(&self.keeper.shared);
        let (kept, body) = match body::read(body, shared.config.answer_bytes_max).await {
            Ok(Read::Whole(body)) => (Some(body.clone()), Buffered::whole(body)),
            Ok(Read::TooLarge(body)) => (None, body),
            Err(_) => {
                self.release().await;
                return Problem::Answer.response().map(Buffered::whole);
            }
        };
        let answer = Answer { status: parts.status, headers: end_to_end(&parts.headers), body: kept };
        // a store that fails now leaves the claim to run out: the client has its answer, and asks again only much later
        self.kept = true;
        let _ = shared.store.finish(now(), self.id, self.lease, answer, shared.config.keep).await;
        Response::from_parts(parts, body)
    }
}

fn replay(answer: Answer) -> Result<Response<Bytes>, Problem> {
    let Answer { status, headers, body: Some(body) } = answer else { return Err(Problem::NotKept) };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    Ok(response)
}

fn host(request: &Parts) -> &[u8] {
    match request.uri.authority() {
        Some(authority) => authority.as_str().as_bytes(),
        None => request.headers.get(HOST).map_or(b"", |host| host.as_bytes()),
    }
}

fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
    headers
}
