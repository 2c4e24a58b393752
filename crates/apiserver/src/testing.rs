//! What the tests of several modules share: a store and a server in a directory of the test's own.

use std::{path::Path, sync::Arc};

use serde_json::Value;
use store::{Key, Mutation, Options, Precondition, Store, Write};

use crate::codec;

/// A store in a directory.
pub(crate) fn store(directory: &Path) -> Store {
    Store::open(directory.join("store"), Options::default()).unwrap()
}

/// Stores an object, whether or not it is there.
pub(crate) async fn put(store: &Store, collection: &str, path: &str, object: &Value) {
    let key = Key { collection: Arc::from(collection), path: Arc::from(path) };
    let live = store.snapshot().get(collection, path).map(|object| object.revision);
    let precondition = live.map_or(Precondition::Absent, Precondition::Revision);
    let write = Write { key, precondition, mutation: Mutation::Put(codec::encode(object)) };
    store.commit(vec![write]).await.unwrap();
}
