//! What every store outside memory must do.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header::LOCATION};

use super::{Answer, Begin, Fingerprint, Lease, RecordId, Store};
use crate::moment::now;

pub(in crate::idempotency) const LEASE: Duration = Duration::from_secs(60);
pub(in crate::idempotency) const KEEP: Duration = Duration::from_secs(3600);

pub(in crate::idempotency) fn id(number: u8) -> RecordId {
    RecordId([number; 32])
}

pub(in crate::idempotency) fn print(number: u8) -> Fingerprint {
    Fingerprint([number; 32])
}

pub(in crate::idempotency) fn answer(body: &str) -> Answer {
    let headers = HeaderMap::from_iter([(LOCATION, HeaderValue::from_static("/orders/7"))]);
    Answer { status: StatusCode::CREATED, headers, body: Some(Bytes::from(body.to_owned())) }
}

pub(in crate::idempotency) async fn begin<S: Store>(store: &S, number: u8) -> Begin {
    store.begin(now(), id(number), print(number), LEASE).await.unwrap()
}

pub(in crate::idempotency) async fn claim<S: Store>(store: &S, number: u8) -> Lease {
    match begin(store, number).await {
        Begin::Claimed(lease) => lease,
        other => panic!("not claimed: {other:?}"),
    }
}

pub(in crate::idempotency) async fn keep<S: Store>(store: &S, number: u8, answer: Answer) {
    let lease = claim(store, number).await;
    store.finish(now(), id(number), lease, answer, KEEP).await.unwrap();
}

/// Two handles of one store, or one twice.
pub(in crate::idempotency) async fn holds<S: Store>(one: &S, other: &S) {
    let lease = claim(one, 1).await;
    assert_eq!(begin(other, 1).await, Begin::InProgress);
    assert_eq!(other.begin(now(), id(1), print(9), LEASE).await.unwrap(), Begin::Mismatch);
    one.finish(now(), id(1), lease, answer("paid"), KEEP).await.unwrap();
    for store in [one, other] {
        assert_eq!(begin(store, 1).await, Begin::Done(answer("paid")));
        assert_eq!(store.begin(now(), id(1), print(9), LEASE).await.unwrap(), Begin::Mismatch);
    }
    // what is given up is anybody's
    let first = claim(one, 2).await;
    one.release(id(2), first).await;
    let second = claim(other, 2).await;
    // and who gave it up, or was too slow, changes nothing
    one.release(id(2), first).await;
    one.finish(now(), id(2), first, answer("late"), KEEP).await.unwrap();
    assert_eq!(begin(one, 2).await, Begin::InProgress);
    other.finish(now(), id(2), second, Answer { body: None, ..answer("") }, KEEP).await.unwrap();
    assert_eq!(begin(one, 2).await, Begin::Done(Answer { body: None, ..answer("") }));
}
