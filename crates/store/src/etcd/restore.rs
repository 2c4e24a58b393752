//! Filling an etcd from a backup, and making a backup of an etcd that no server follows.
//!
//! A restore takes many transactions. A mark that the first one sets and the last one removes keeps servers from starting
//! on what was restored by half.

use std::io;

use super::{
    Client, EtcdConfig,
    connection::CallError,
    keys,
    messages::{Range, Txn},
    mirror::{LoadError, Reader},
};
use crate::{Key, OpenError, Options, Snapshot, at_rest::Sealing, record::Names};

/// Keys looked at together for an object among them.
const PAGE: u64 = 1000;
/// Objects written together: etcd refuses more than 128 operations unless told otherwise.
const OBJECTS_AT_ONCE: usize = 100;
/// Bytes written together; etcd refuses 1.5 MiB. A larger object goes alone, as it did when it was first written.
const BYTES_AT_ONCE: usize = 512 << 10;

/// The key that is there while a restore goes on.
fn mark() -> Vec<u8> {
    format!("{}restoring", keys::OWN).into_bytes()
}

/// An etcd could not be filled.
#[derive(Debug)]
pub(crate) enum Refused {
    /// It holds objects.
    NotEmpty,
    /// A call failed, for this reason; objects written before.
    Call(String, usize),
}

/// Refuses an etcd whose restore was broken off.
pub(super) async fn check_whole(client: &Client) -> Result<(), CallError> {
    let mark = mark();
    let marked = client.range(&Range { key: &mark, limit: 1, ..Range::default() }).await?;
    if marked.kvs.is_empty() {
        return Ok(());
    }
    let reason = "a restore into it was broken off: repeat it with --force".to_owned();
    Err(CallError::Unsent(reason))
}

/// Puts the objects of a backup, in the form in which they are kept, into an etcd. What lies there goes, which `force`
/// must allow.
pub(crate) async fn fill(config: EtcdConfig, content: &Snapshot, force: bool) -> Result<(), Refused> {
    let client = Client::new(config.endpoints, config.tls);
    let failed = |written| move |error: CallError| Refused::Call(error.to_string(), written);
    if !force && holds_objects(&client).await.map_err(failed(0))? {
        return Err(Refused::NotEmpty);
    }
    // A put and the deletion of the range it lies in cannot be one transaction.
    let all = Txn::default().delete_range(keys::PREFIX.as_bytes(), keys::END.as_bytes());
    client.txn(&all.into_bytes()).await.map_err(failed(0))?;
    client.put(&mark(), b"").await.map_err(failed(0))?;
    let (mut txn, mut objects, mut bytes, mut written) = (Txn::default(), 0, 0, 0);
    for collection in content.collections() {
        for (path, object) in content.range(collection, "", None) {
            if objects == OBJECTS_AT_ONCE || (objects > 0 && bytes + object.bytes.len() > BYTES_AT_ONCE) {
                client.txn(&std::mem::take(&mut txn).into_bytes()).await.map_err(failed(written))?;
                written += objects;
                (objects, bytes) = (0, 0);
            }
            let key = keys::of(&Key { collection: collection.clone(), path: path.clone() });
            txn = txn.put(&key, &object.bytes);
            objects += 1;
            bytes += object.bytes.len();
        }
    }
    client.txn(&txn.delete(&mark()).into_bytes()).await.map_err(failed(written))?;
    Ok(())
}

/// Whether something lies there that a server would serve, or that a restore left.
async fn holds_objects(client: &Client) -> Result<bool, CallError> {
    let (mut names, mark) = (Names::default(), mark());
    let mut from = keys::PREFIX.as_bytes().to_vec();
    loop {
        let end = Some(keys::END.as_bytes());
        let page = client.range(&Range { key: &from, end, limit: PAGE, keys_only: true, ..Range::default() }).await?;
        if page.kvs.iter().any(|kv| kv.key == mark || keys::parse(&kv.key, &mut names).is_some()) {
            return Ok(true);
        }
        match page.kvs.last() {
            Some(last) if page.more => from = [&last.key, &b"\0"[..]].concat(),
            _ => return Ok(false),
        }
    }
}

/// Everything that lies in an etcd, at one revision.
pub(crate) async fn read(config: EtcdConfig, options: &Options) -> Result<Snapshot, OpenError> {
    let client = Client::new(config.endpoints, config.tls);
    let unreachable = |error: CallError| OpenError::Etcd { endpoints: client.to_string(), reason: error.to_string() };
    check_whole(&client).await.map_err(unreachable)?;
    let mut reader = Reader::new(Sealing(options.at_rest.clone()), options.foreign.clone());
    let loaded = reader.load(&client, (keys::PREFIX.as_bytes(), keys::END.as_bytes()), 0).await;
    loaded.map(|loaded| loaded.snapshot).map_err(|error| match error {
        LoadError::Call(error) => unreachable(error),
        LoadError::Sealed(key, source) => OpenError::Sealed { path: "etcd".into(), key, source },
    })
}

impl Refused {
    /// The error as users read it.
    pub(crate) fn told(self, endpoints: &str) -> crate::RestoreError {
        match self {
            Refused::NotEmpty => crate::RestoreError::EtcdNotEmpty { endpoints: endpoints.to_owned() },
            Refused::Call(reason, written) => {
                crate::RestoreError::Etcd { endpoints: endpoints.to_owned(), written, source: io::Error::other(reason) }
            }
        }
    }
}
