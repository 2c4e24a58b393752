//! The schema of a definition's version: read from the stored definition, and compiled, when somebody asks for it.
//!
//! Most definitions of a cluster are installed and hardly ever used, and a schema as a tree or compiled is many times as
//! large as its text. What is kept for each is a reference to the bytes that the store holds anyway; a kind that is used
//! gets its schema at the first use, and keeps it as long as the schema stays what it is.

use std::{
    sync::{Arc, OnceLock},
    time::Instant,
};

use bytes::Bytes;
use schema::{
    Schema,
    expressions::{self, ValidationRules},
};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::{codec, metrics::EXPRESSIONS};

/// Where a schema stands, and what has been made of it.
#[derive(Clone)]
pub(crate) struct Document {
    /// The stored definition.
    definition: Bytes,
    /// Which of its versions this is about.
    index: usize,
    hash: [u8; 32],
    compiled: Arc<Compiled>,
}

#[derive(Default)]
struct Compiled {
    schema: OnceLock<Schema>,
    rules: OnceLock<Option<ValidationRules>>,
}

impl Document {
    /// The schema of the version at `index` of a stored definition, whose tree is `definition`.
    pub(super) fn new(stored: &Bytes, definition: &Value, index: usize) -> Self {
        let hash = Sha256::digest(schema_in(definition, index).to_string()).into();
        Self { definition: stored.clone(), index, hash, compiled: Arc::default() }
    }

    /// The `openAPIV3Schema` as it was given; null where there is none.
    pub(crate) fn read(&self) -> Value {
        let mut definition = codec::stored(&self.definition).unwrap_or_default();
        definition.pointer_mut(&pointer(self.index)).map(Value::take).unwrap_or_default()
    }

    /// Tells schemas apart.
    pub(crate) fn hash(&self) -> &[u8] {
        &self.hash
    }

    /// The schema, compiled.
    pub(crate) fn schema(&self) -> &Schema {
        self.compiled.schema.get_or_init(|| {
            let document = self.read();
            Schema::from_crd(document.is_object().then_some(&document)).unwrap_or_else(|error| {
                // validation keeps such a schema out of the store, so that only another program can have put it there
                tracing::warn!(%error, "a stored definition's schema does not compile: its objects are not checked");
                anything()
            })
        })
    }

    /// `x-kubernetes-validations`, if there are any.
    pub(crate) fn rules(&self) -> Option<&ValidationRules> {
        let compile = || {
            let document = self.read();
            let began = Instant::now();
            let rules = expressions::compile(&document);
            if rules.is_some() {
                EXPRESSIONS.compilation.took(began.elapsed());
            }
            rules
        };
        self.compiled.rules.get_or_init(compile).as_ref()
    }

    /// Takes over what was compiled from the same schema.
    pub(super) fn succeed(&mut self, before: &Self) {
        if self.hash == before.hash {
            self.compiled = before.compiled.clone();
        }
    }
}

/// The schema of objects of which nothing is known.
fn anything() -> Schema {
    Schema::from_crd(None).expect("invariant: the schema of everything is one")
}

fn pointer(index: usize) -> String {
    format!("/spec/versions/{index}/schema/openAPIV3Schema")
}

fn schema_in(definition: &Value, index: usize) -> &Value {
    definition.pointer(&pointer(index)).unwrap_or(&Value::Null)
}
