//! Where answers are kept.

use std::{error::Error, future::Future, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use crate::moment::Moment;

/// The name of a record: a digest of host, caller and key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId(pub [u8; 32]);

/// What a request asks for: a digest of its method, path and body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

/// Who works on a request. A later claim of the same record has another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease(pub u64);

/// An answer that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers, but for those of one connection.
    pub headers: HeaderMap,
    /// Its body; `None` when it was too large to be kept.
    pub body: Option<Bytes>,
}

/// What a store knows of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begin {
    /// Nothing: the request is to be done, by whoever has the lease.
    Claimed(Lease),
    /// Somebody works on it.
    InProgress,
    /// It was done.
    Done(Answer),
    /// It was used for something else.
    Mismatch,
}

impl Answer {
    /// Bytes that it takes in memory.
    pub(super) fn size(&self) -> usize {
        let headers = self.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum::<usize>();
        headers + self.body.as_ref().map_or(0, Bytes::len)
    }
}

/// Keeps answers. One that several processes share must decide [`begin`](Self::begin) for all of them at once.
pub trait Store: Send + Sync + 'static {
    /// Why it could not.
    type Error: Error + Send + Sync + 'static;

    /// Looks a record up, or claims it for `lease`, in one step. A claim that is older than that, or was given up, is as
    /// good as none.
    fn begin(
        &self,
        now: Moment,
        id: RecordId,
        fingerprint: Fingerprint,
        lease: Duration,
    ) -> impl Future<Output = Result<Begin, Self::Error>> + Send;

    /// Keeps the answer for a time, unless somebody else has claimed the record meanwhile. When this returns the answer is as safe as
    /// the store makes it.
    fn finish(
        &self,
        now: Moment,
        id: RecordId,
        lease: Lease,
        answer: Answer,
        keep: Duration,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Gives a claim up. A store that cannot do so at once lets it run out.
    fn give_up(&self, id: RecordId, lease: Lease);

    /// Gives a claim up, and waits until it is.
    fn release(&self, id: RecordId, lease: Lease) -> impl Future<Output = ()> + Send {
        self.give_up(id, lease);
        std::future::ready(())
    }

    /// Waits until a record that is being worked on may have changed.
    fn changed(&self, id: RecordId) -> impl Future<Output = ()> + Send;
}

impl<S: Store> Store for std::sync::Arc<S> {
    type Error = S::Error;

    async fn begin(
        &self,
        now: Moment,
        id: RecordId,
        fingerprint: Fingerprint,
        lease: Duration,
    ) -> Result<Begin, S::Error> {
        (**self).begin(now, id, fingerprint, lease).await
    }

    async fn finish(
        &self,
        now: Moment,
        id: RecordId,
        lease: Lease,
        answer: Answer,
        keep: Duration,
    ) -> Result<(), S::Error> {
        (**self).finish(now, id, lease, answer, keep).await
    }

    fn give_up(&self, id: RecordId, lease: Lease) {
        (**self).give_up(id, lease);
    }

    async fn release(&self, id: RecordId, lease: Lease) {
        (**self).release(id, lease).await;
    }

    async fn changed(&self, id: RecordId) {
        (**self).changed(id).await;
    }
}

#[cfg(test)]
pub(super) mod contract;
