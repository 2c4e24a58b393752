//! What the tests of several modules share: a store and a server in a directory of the test's own.

use std::{path::Path, sync::Arc};

use kinds::Resource;
use serde_json::Value;
use store::{Key, Mutation, Options, Precondition, Store, Write};

use crate::codec;

/// The row of a built-in kind.
pub(crate) fn resource(group: &str, plural: &str) -> Resource {
    let found = kinds::builtin().iter().find(|row| row.group == group && row.plural == plural);
    found.unwrap().as_ref().clone()
}

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
