//! The messages of etcd's v3 API that the store exchanges: what is sent as functions that write them, what comes back as
//! types that read them. Numbers are those of etcd's `rpc.proto` and `kv.proto`.

use bytes::Bytes;

use super::wire::{Malformed, Writer, fields};

/// Method names.
pub(super) const RANGE: &str = "/etcdserverpb.KV/Range";
pub(super) const TXN: &str = "/etcdserverpb.KV/Txn";
pub(super) const COMPACT: &str = "/etcdserverpb.KV/Compact";
pub(super) const WATCH: &str = "/etcdserverpb.Watch/Watch";
pub(super) const STATUS: &str = "/etcdserverpb.Maintenance/Status";

/// Fields of a transaction's parts.
const COMPARE: u32 = 1;
const SUCCESS: u32 = 2;
const FAILURE: u32 = 3;
/// What a comparison looks at.
const TARGET_VERSION: u64 = 0;
const TARGET_CREATE: u64 = 1;
const TARGET_MOD: u64 = 2;

/// What is read.
#[derive(Clone, Debug, Default)]
pub(super) struct Range<'a> {
    pub(super) key: &'a [u8],
    /// Everything from `key` up to here; `None` reads one key.
    pub(super) end: Option<&'a [u8]>,
    /// How many at most; zero is without a limit.
    pub(super) limit: u64,
    /// At which revision; zero is now.
    pub(super) revision: u64,
    pub(super) keys_only: bool,
    pub(super) count_only: bool,
    /// Only keys last changed at or before this revision; zero is all.
    pub(super) max_mod_revision: u64,
}

impl Range<'_> {
    pub(super) fn write(&self, to: &mut Writer) {
        to.bytes(1, self.key);
        if let Some(end) = self.end {
            to.bytes(2, end);
        }
        for (field, value) in [(3, self.limit), (4, self.revision), (11, self.max_mod_revision)] {
            if value != 0 {
                to.number(field, value);
            }
        }
        to.flag(8, self.keys_only);
        to.flag(9, self.count_only);
    }
}

/// A transaction being put together.
#[derive(Debug, Default)]
pub(super) struct Txn(Writer);

impl Txn {
    fn compare(mut self, key: &[u8], target: u64, field: u32, value: u64) -> Self {
        self.0.message(COMPARE, |compare| {
            compare.number(2, target);
            compare.bytes(3, key);
            compare.number(field, value);
        });
        self
    }

    /// If the key's last change is this revision; zero is a key that is not there.
    pub(super) fn if_changed_at(self, key: &[u8], revision: u64) -> Self {
        self.compare(key, TARGET_MOD, 6, revision)
    }

    /// If the key is not there.
    pub(super) fn if_absent(self, key: &[u8]) -> Self {
        self.compare(key, TARGET_CREATE, 5, 0)
    }

    /// If the key was written this often since it was created.
    pub(super) fn if_version(self, key: &[u8], version: u64) -> Self {
        self.compare(key, TARGET_VERSION, 4, version)
    }

    /// Then write.
    pub(super) fn put(mut self, key: &[u8], value: &[u8]) -> Self {
        self.0.message(SUCCESS, |op| {
            op.message(2, |put| {
                put.bytes(1, key);
                put.bytes(2, value);
            });
        });
        self
    }

    /// Then delete.
    pub(super) fn delete(mut self, key: &[u8]) -> Self {
        self.0.message(SUCCESS, |op| op.message(3, |delete| delete.bytes(1, key)));
        self
    }

    /// Then delete everything from `key` up to `end`.
    pub(super) fn delete_range(mut self, key: &[u8], end: &[u8]) -> Self {
        self.0.message(SUCCESS, |op| {
            op.message(3, |delete| {
                delete.bytes(1, key);
                delete.bytes(2, end);
            });
        });
        self
    }

    /// Else read one key.
    pub(super) fn or_read(mut self, key: &[u8]) -> Self {
        self.0.message(FAILURE, |op| op.message(1, |range| Range { key, ..Range::default() }.write(range)));
        self
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0.0
    }
}

/// A compaction up to this revision.
pub(super) fn compaction(revision: u64) -> Vec<u8> {
    let mut to = Writer::default();
    to.number(1, revision);
    to.0
}

/// A watch of a range from a revision on.
pub(super) fn watch(key: &[u8], end: &[u8], start: u64) -> Vec<u8> {
    let mut to = Writer::default();
    to.message(1, |create| {
        create.bytes(1, key);
        create.bytes(2, end);
        create.number(3, start);
    });
    to.0
}

/// A key and its value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct KeyValue {
    pub(super) key: Bytes,
    pub(super) value: Bytes,
    pub(super) mod_revision: u64,
    pub(super) version: u64,
}

impl KeyValue {
    fn read(message: &Bytes, bytes: &[u8]) -> Result<Self, Malformed> {
        let mut kv = KeyValue::default();
        fields(bytes, |field, value| {
            match field {
                1 => kv.key = message.slice_ref(value.bytes()?),
                3 => kv.mod_revision = value.number()?,
                4 => kv.version = value.number()?,
                5 => kv.value = message.slice_ref(value.bytes()?),
                _ => {}
            }
            Ok(())
        })?;
        Ok(kv)
    }
}

fn header_revision(bytes: &[u8]) -> Result<u64, Malformed> {
    let mut revision = 0;
    fields(bytes, |field, value| {
        if field == 3 {
            revision = value.number()?;
        }
        Ok(())
    })?;
    Ok(revision)
}

/// What was read.
#[derive(Clone, Debug, Default)]
pub(super) struct RangeResponse {
    /// etcd's revision at the time of the answer.
    pub(super) revision: u64,
    pub(super) kvs: Vec<KeyValue>,
    pub(super) more: bool,
}

impl RangeResponse {
    pub(super) fn read(message: &Bytes) -> Result<Self, Malformed> {
        Self::read_in(message, message)
    }

    fn read_in(message: &Bytes, bytes: &[u8]) -> Result<Self, Malformed> {
        let mut response = RangeResponse::default();
        fields(bytes, |field, value| {
            match field {
                1 => response.revision = header_revision(value.bytes()?)?,
                2 => response.kvs.push(KeyValue::read(message, value.bytes()?)?),
                3 => response.more = value.number()? != 0,
                _ => {}
            }
            Ok(())
        })?;
        Ok(response)
    }
}

/// How a transaction went.
#[derive(Clone, Debug, Default)]
pub(super) struct TxnResponse {
    /// etcd's revision: of the transaction when it succeeded and wrote.
    pub(super) revision: u64,
    pub(super) succeeded: bool,
    /// What [`Txn::or_read`] read, in order.
    pub(super) read: Vec<Option<KeyValue>>,
}

impl TxnResponse {
    pub(super) fn read(message: &Bytes) -> Result<Self, Malformed> {
        let mut response = TxnResponse::default();
        fields(message, |field, value| {
            match field {
                1 => response.revision = header_revision(value.bytes()?)?,
                2 => response.succeeded = value.number()? != 0,
                3 => fields(value.bytes()?, |field, value| {
                    if field == 1 {
                        let range = RangeResponse::read_in(message, value.bytes()?)?;
                        response.read.push(range.kvs.into_iter().next());
                    }
                    Ok(())
                })?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(response)
    }
}

/// A change that a watch tells of.
#[derive(Clone, Debug, Default)]
pub(super) struct Change {
    pub(super) deleted: bool,
    pub(super) kv: KeyValue,
}

/// A message of a watch.
#[derive(Clone, Debug, Default)]
pub(super) struct WatchResponse {
    pub(super) created: bool,
    pub(super) canceled: bool,
    /// When the watch cannot begin where it should: the oldest revision it could begin from.
    pub(super) compact_revision: u64,
    pub(super) reason: String,
    pub(super) changes: Vec<Change>,
}

impl WatchResponse {
    pub(super) fn read(message: &Bytes) -> Result<Self, Malformed> {
        let mut response = WatchResponse::default();
        fields(message, |field, value| {
            match field {
                3 => response.created = value.number()? != 0,
                4 => response.canceled = value.number()? != 0,
                5 => response.compact_revision = value.number()?,
                6 => response.reason = String::from_utf8_lossy(value.bytes()?).into_owned(),
                11 => {
                    let mut change = Change::default();
                    fields(value.bytes()?, |field, value| {
                        match field {
                            1 => change.deleted = value.number()? != 0,
                            2 => change.kv = KeyValue::read(message, value.bytes()?)?,
                            _ => {}
                        }
                        Ok(())
                    })?;
                    response.changes.push(change);
                }
                _ => {}
            }
            Ok(())
        })?;
        Ok(response)
    }
}

/// Version of a server, from its status.
pub(super) fn server_version(message: &Bytes) -> Result<String, Malformed> {
    let mut version = String::new();
    fields(message, |field, value| {
        if field == 2 {
            version = String::from_utf8_lossy(value.bytes()?).into_owned();
        }
        Ok(())
    })?;
    Ok(version)
}
