//! Answers as bytes: what stores outside memory keep.
//!
//! A record is its id, its fingerprint, the end of its time, the status, the headers and the body, each of a fixed size or
//! with its length before it. Whatever else the bytes are, reading them ends in `None`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::store::{Answer, Fingerprint, RecordId};

/// Bytes before the answer.
pub(super) const HEAD_BYTES: usize = 32 + 32 + 8;

/// A kept answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) id: RecordId,
    pub(super) fingerprint: Fingerprint,
    /// When its time is over, by the clock on the wall: what outlives a process cannot go by another.
    pub(super) until: SystemTime,
    pub(super) answer: Answer,
}

impl Record {
    pub(super) fn encode(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.id.0);
        into.extend_from_slice(&self.fingerprint.0);
        let until = self.until.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        into.extend_from_slice(&u64::try_from(until).unwrap_or(u64::MAX).to_le_bytes());
        encode_answer(&self.answer, into);
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (id, fingerprint, until) = decode_head(bytes)?;
        Some(Record { id, fingerprint, until, answer: decode_answer(bytes.get(HEAD_BYTES..)?)? })
    }
}

/// Everything but the answer.
pub(super) fn decode_head(bytes: &[u8]) -> Option<(RecordId, Fingerprint, SystemTime)> {
    let mut rest = bytes;
    let id = RecordId(*take(&mut rest)?);
    let fingerprint = Fingerprint(*take(&mut rest)?);
    let until = UNIX_EPOCH.checked_add(Duration::from_millis(u64::from_le_bytes(*take(&mut rest)?)))?;
    Some((id, fingerprint, until))
}

/// Writes an answer.
pub(super) fn encode_answer(answer: &Answer, into: &mut Vec<u8>) {
    into.extend_from_slice(&answer.status.as_u16().to_le_bytes());
    into.push(u8::from(answer.body.is_some()));
    let headers = answer.headers.len() as u32;
    into.extend_from_slice(&headers.to_le_bytes());
    for (name, value) in &answer.headers {
        for text in [name.as_str().as_bytes(), value.as_bytes()] {
            into.extend_from_slice(&(text.len() as u32).to_le_bytes());
            into.extend_from_slice(text);
        }
    }
    into.extend_from_slice(answer.body.as_deref().unwrap_or_default());
}

/// Reads an answer; its body is what is left.
pub(super) fn decode_answer(bytes: &[u8]) -> Option<Answer> {
    let mut rest = bytes;
    let status = StatusCode::from_u16(u16::from_le_bytes(*take(&mut rest)?)).ok()?;
    let [has_body] = *take(&mut rest)?;
    let count = u32::from_le_bytes(*take(&mut rest)?);
    // Bounded by the bytes that are there: each header takes eight.
    let mut headers = HeaderMap::new();
    for _ in 0..count {
        let name = HeaderName::from_bytes(text(&mut rest)?).ok()?;
        let value = HeaderValue::from_bytes(text(&mut rest)?).ok()?;
        headers.try_append(name, value).ok()?;
    }
    let body = match (has_body, rest) {
        (0, []) => None,
        (1, body) => Some(Bytes::copy_from_slice(body)),
        _ => return None,
    };
    Some(Answer { status, headers, body })
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (taken, left) = rest.split_first_chunk()?;
    *rest = left;
    Some(taken)
}

fn text<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = u32::from_le_bytes(*take(rest)?) as usize;
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

/// Reads arbitrary bytes as a record, for fuzzing: what can be read is written as the same bytes.
#[doc(hidden)]
pub fn fuzz_record(bytes: &[u8]) {
    if let Some(record) = Record::decode(bytes) {
        let mut again = Vec::new();
        record.encode(&mut again);
        assert_eq!(Record::decode(&again), Some(record), "what is written is read as the same");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(status: u16, headers: Vec<(u8, Vec<u8>)>, body: Option<Vec<u8>>) -> Record {
        let pair = |(name, value): (u8, Vec<u8>)| {
            let value = HeaderValue::from_bytes(&value).unwrap_or(HeaderValue::from_static(""));
            (HeaderName::try_from(format!("x-{name}")).unwrap(), value)
        };
        let mut map = HeaderMap::new();
        for (name, value) in headers.into_iter().map(pair) {
            map.append(name, value);
        }
        let answer =
            Answer { status: StatusCode::from_u16(status).unwrap(), headers: map, body: body.map(Bytes::from) };
        let until = UNIX_EPOCH + Duration::from_millis(1_790_000_000_123);
        Record { id: RecordId([1; 32]), fingerprint: Fingerprint([2; 32]), until, answer }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            status in 100u16..1000,
            headers in prop::collection::vec((0u8..5, prop::collection::vec(0u8..128, 0..20)), 0..8),
            body in prop::option::of(prop::collection::vec(any::<u8>(), 0..100)),
            cut in 0usize..400,
        ) {
            let record = record(status, headers, body);
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            prop_assert_eq!(Record::decode(&bytes), Some(record.clone()));
            if cut < bytes.len() {
                // a body that is cut short is a shorter body; its length is the frame's matter
                prop_assert!(Record::decode(&bytes[..cut]).is_none_or(|cut| cut.answer.headers == record.answer.headers));
            }
        }

        #[test]
        fn no_bytes_are_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            fuzz_record(&bytes);
        }
    }
}
