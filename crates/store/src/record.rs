//! One log record: the transactions of one batch.

use std::sync::Arc;

use crate::{
    Key, Revision,
    frame::{Reader, put_blob, put_text},
};

const PUT: u8 = 1;
const DELETE: u8 = 2;

/// One logged change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change<'a> {
    pub(crate) key: Key,
    pub(crate) deleted: bool,
    /// As kept.
    pub(crate) bytes: &'a [u8],
}

/// Writes the transactions of one batch into a payload; revisions count up from the first.
pub(crate) struct Writer<'a> {
    buffer: &'a mut Vec<u8>,
    count_at: usize,
    count: u32,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(buffer: &'a mut Vec<u8>, first: Revision) -> Self {
        buffer.extend_from_slice(&first.0.to_le_bytes());
        let count_at = buffer.len();
        buffer.extend_from_slice(&[0; 4]);
        Writer { buffer, count_at, count: 0 }
    }

    /// Starts the next transaction, of `changes` changes.
    pub(crate) fn transaction(&mut self, changes: usize) {
        self.count += 1;
        self.buffer.extend_from_slice(&(changes as u32).to_le_bytes());
    }

    pub(crate) fn change(&mut self, key: &Key, deleted: bool, bytes: &[u8]) {
        self.buffer.push(if deleted { DELETE } else { PUT });
        put_text(self.buffer, &key.collection);
        put_text(self.buffer, &key.path);
        put_blob(self.buffer, bytes);
    }

    pub(crate) fn finish(self) {
        self.buffer[self.count_at..self.count_at + 4].copy_from_slice(&self.count.to_le_bytes());
    }
}

/// Decodes a payload into its first revision and its transactions; `None` when it is not well formed.
pub(crate) fn decode<'a>(payload: &'a [u8], names: &mut Names) -> Option<(Revision, Vec<Vec<Change<'a>>>)> {
    let mut reader = Reader(payload);
    let first = Revision(reader.u64()?);
    let count = reader.u32()?;
    let mut transactions = Vec::new();
    for _ in 0..count {
        let changes = reader.u32()?;
        let mut transaction = Vec::new();
        for _ in 0..changes {
            let deleted = match reader.u8()? {
                PUT => false,
                DELETE => true,
                _ => return None,
            };
            let collection = names.intern(reader.text()?);
            let path = Arc::from(reader.text()?);
            let bytes = reader.blob()?;
            transaction.push(Change { key: Key { collection, path }, deleted, bytes });
        }
        transactions.push(transaction);
    }
    reader.0.is_empty().then_some((first, transactions))
}

/// Collection names, each allocated once however many records carry it.
#[derive(Debug, Default)]
pub(crate) struct Names {
    known: std::collections::HashSet<Arc<str>>,
    joined: String,
}

impl Names {
    pub(crate) fn intern(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.known.get(name) {
            return Arc::clone(known);
        }
        let name: Arc<str> = name.into();
        self.known.insert(Arc::clone(&name));
        name
    }

    /// The name of a collection by its group and plural.
    pub(crate) fn join(&mut self, group: &str, plural: &str) -> Arc<str> {
        let mut joined = std::mem::take(&mut self.joined);
        joined.clear();
        joined.extend([group, "/", plural]);
        let name = self.intern(&joined);
        self.joined = joined;
        name
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn change() -> impl Strategy<Value = (Key, bool, Vec<u8>)> {
        ("[a-z]{1,8}/[a-z]{1,8}", "[a-z0-9/-]{0,20}", any::<bool>(), prop::collection::vec(any::<u8>(), 0..64))
            .prop_map(|(collection, path, deleted, bytes)| {
                (Key { collection: collection.into(), path: path.into() }, deleted, bytes)
            })
    }

    proptest! {
        #[test]
        fn decode_reverses_encode_and_rejects_every_truncation(
            transactions in prop::collection::vec(prop::collection::vec(change(), 0..4), 1..6)
        ) {
            let mut buffer = Vec::new();
            let mut writer = Writer::new(&mut buffer, Revision(42));
            for transaction in &transactions {
                writer.transaction(transaction.len());
                for (key, deleted, bytes) in transaction { writer.change(key, *deleted, bytes); }
            }
            writer.finish();
            let mut names = Names::default();
            let expected: Vec<Vec<Change<'_>>> = transactions
                .iter()
                .map(|t| t.iter().map(|(key, deleted, bytes)| Change { key: key.clone(), deleted: *deleted, bytes }).collect())
                .collect();
            prop_assert_eq!(decode(&buffer, &mut names), Some((Revision(42), expected)));
            for len in 0..buffer.len() {
                prop_assert_eq!(decode(&buffer[..len], &mut names), None);
            }
        }

        #[test]
        fn decode_of_arbitrary_bytes_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = decode(&bytes, &mut Names::default());
        }
    }
}
